#!/bin/sh
# Makes the secrets of `docker compose up` at its first run: random, one volume for each reader, and none of them anywhere else.
# A run that was cut off is completed by the next; what is there stays, since databases were made with it.
#
#   secrets.sh DIR      DIR has a folder for each reader: troupe, postgres, rabbitmq, redis, prometheus
set -eu

dir=$1
# The user of the image of Troupe.
reader=10001
umask 022

random() { od -An -N 24 -t x1 /dev/urandom | tr -d ' \n'; }

# put FILE MODE: standard input, whole or not at all; what is there stays.
put() {
    if [ -s "$dir/$1" ]; then
        cat >/dev/null
        return
    fi
    cat >"$dir/$1.new"
    chmod "$2" "$dir/$1.new"
    mv "$dir/$1.new" "$dir/$1"
}

# The passwords first: what follows is made of them.
random | put postgres/password 0400
random | put rabbitmq/password 0400
random | put redis/password 0400
random | put troupe/token 0440
random | put troupe/metrics-token 0440
random | put troupe/api-key 0440
postgres=$(cat "$dir/postgres/password")
rabbitmq=$(cat "$dir/rabbitmq/password")
redis=$(cat "$dir/redis/password")

# Read by servers that have given up being root by then; nobody else has their volumes.
# What is taken is acknowledged when it is over, which may take days: a year, in milliseconds.
printf 'default_user = troupe\ndefault_pass = %s\nconsumer_timeout = 31622400000\n' "$rabbitmq" | put rabbitmq/rabbitmq.conf 0444
# What Redis holds may be lost, and must not fill the machine.
printf 'requirepass %s\nsave ""\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy allkeys-lru\n' "$redis" |
    put redis/redis.conf 0444
# Metrics are all that it opens, of every process; an earlier release gave it the key of everything.
rm -f "$dir/prometheus/api-key"
put prometheus/metrics-token 0444 <"$dir/troupe/metrics-token"

printf 'postgres://troupe:%s@postgres:5432/troupe' "$postgres" | put troupe/database-url 0440
printf 'amqp://troupe:%s@rabbitmq:5672/%%2f' "$rabbitmq" | put troupe/amqp-url 0440
printf 'redis://:%s@redis:6379' "$redis" | put troupe/redis-url 0440
chgrp "$reader" "$dir"/troupe/*
