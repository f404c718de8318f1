#!/usr/bin/env bash
# A cluster on this machine, without containers: a PostgreSQL, a RabbitMQ and a Redis of its own (see servers.sh), and the five
# services as processes, each as often as REPLICAS says. Everything is in one folder and listens on loopback.
#
#   cluster.sh up DIR        start what does not run; prints what runs where
#   cluster.sh down DIR      stop everything and remove DIR
#
# TROUPE_BIN: the program (target/release/troupe). REPLICAS: of each service (1). HTTP: the address of the first gateway
# (127.0.0.1:8080); the others have the ports after it.
set -euo pipefail

[ $# -eq 2 ] || { sed -n '5,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${TROUPE_BIN:-$root/target/release/troupe}
replicas=${REPLICAS:-1}
http=${HTTP:-127.0.0.1:8080}
# shellcheck source-path=SCRIPTDIR source=folder.sh
. "$here/folder.sh"
# shellcheck source-path=SCRIPTDIR source=port.sh
. "$here/port.sh"
marker=.troupe-cluster
case $1 in
    up) claim "$2" "$marker" ;;
    down) owned "$2" "$marker" || exit 0 ;;
    *) exit 2 ;;
esac
dir=$(cd "$2" && pwd)

# In the order of their start: each calls those before it.
services=(registry communication orchestrator agent-runner gateway)
# Those with a database, and those with a section `redis`.
with_database=" registry communication orchestrator gateway "
with_redis=" communication orchestrator gateway "

# A process keeps its ports over restarts: the others have it in their lists.
port() {
    local file="$dir/ports.$1"
    [ -f "$file" ] || free_port >"$file"
    cat "$file"
}

gateway_address() { echo "${http%:*}:$((${http##*:} + $1 - 1))"; }

addresses() {
    local list=
    for number in $(seq "$replicas"); do list+="127.0.0.1:$(port "$1-$number"),"; done
    echo "${list%,}"
}

is_alive() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }

# start SERVICE NUMBER
start() {
    local service=$1 name="$1-$2" listen
    is_alive "$name" && return
    : >"$dir/$name.ready"
    if [ "$service" = gateway ]; then
        listen=(TROUPE_GATEWAY__LISTEN="$(gateway_address "$2")")
    else
        listen=(TROUPE_SERVE__LISTEN="127.0.0.1:$(port "$name")" TROUPE_SERVE__HTTP="127.0.0.1:$(port "http-$name")")
    fi
    env TROUPE_CONFIG="$dir/troupe.toml" "${listen[@]}" setsid nohup "$bin" serve "$service" \
        >"$dir/$name.ready" 2>>"$dir/$name.log" </dev/null &
    echo $! >"$dir/$name.pid"
}

wait_ready() {
    for _ in $(seq 300); do
        grep -q '^ready ' "$dir/$1.ready" && return
        is_alive "$1" || { tail -5 "$dir/$1.log" >&2; exit 1; }
        sleep 0.1
    done
    echo "$1 does not answer; see $dir/$1.log" >&2
    exit 1
}

# The table of a service: where its data and its servers are.
section() {
    echo "[$1]"
    if [[ $with_database == *" $1 "* ]]; then echo "database = { url = \"$TROUPE_TEST_POSTGRES\" }"; fi
    if [[ $with_redis == *" $1 "* ]]; then echo "redis = { url = \"$TROUPE_TEST_REDIS\" }"; fi
    if [ "$1" = communication ]; then
        echo 'transport = "rabbitmq"'
        echo "rabbitmq = { url = \"$TROUPE_TEST_AMQP\" }"
    fi
    # Benchmarks run against it, and nobody else reaches loopback.
    if [ "$1" = gateway ]; then echo 'rate_limit = { per_minute = 0 }'; fi
}

write_settings() {
    [ -f "$dir/token" ] || (umask 077; head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$dir/token")
    {
        echo "[serve]"
        for service in registry communication orchestrator; do echo "$service = \"$(addresses "$service")\""; done
        echo "agent_runner = \"$(addresses agent-runner)\""
        echo "token_file = \"$dir/token\""
        for service in "${services[@]}"; do section "$service"; done
    } >"$dir/troupe.toml"
}

tell() {
    local service number name
    for service in "${services[@]}"; do
        for number in $(seq "$replicas"); do
            name="$service-$number"
            if [ "$service" = gateway ]; then
                printf '%-16s http://%s\n' "$name" "$(gateway_address "$number")"
            else
                printf '%-16s gRPC 127.0.0.1:%-6s http://127.0.0.1:%s/metrics\n' \
                    "$name" "$(port "$name")" "$(port "http-$name")"
            fi
        done
    done
    printf '%-16s %s\n' PostgreSQL "$TROUPE_TEST_POSTGRES" RabbitMQ "$TROUPE_TEST_AMQP" Redis "$TROUPE_TEST_REDIS"
    echo "logs and settings: $dir"
}

up() {
    local service number
    "$here/servers.sh" up "$dir/servers"
    # shellcheck disable=SC1091 # written by servers.sh
    . "$dir/servers/env"
    write_settings
    "$bin" migrate --config "$dir/troupe.toml" >/dev/null
    for service in "${services[@]}"; do
        for number in $(seq "$replicas"); do start "$service" "$number"; done
        for number in $(seq "$replicas"); do wait_ready "$service-$number"; done
    done
    tell
}

down() {
    local file name
    for file in "$dir"/*.pid; do
        if [ -f "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
    done
    for file in "$dir"/*.pid; do
        [ -f "$file" ] || continue
        name=$(basename "$file" .pid)
        for _ in $(seq 300); do is_alive "$name" || break; sleep 0.1; done
    done
    "$here/servers.sh" down "$dir/servers"
    rm -rf "$dir"
}

"$1"
