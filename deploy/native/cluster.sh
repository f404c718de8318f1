#!/usr/bin/env bash
# A cluster on this machine, without containers: a PostgreSQL of its own (see servers.sh), and the five
# services as processes, each as often as REPLICAS says. Everything is in one folder and listens on loopback.
#
#   cluster.sh up DIR        start what does not run; prints where the gateway answers
#   cluster.sh down DIR      stop everything and remove DIR
#
# TROUPE_BIN: the program (target/release/troupe). REPLICAS: of orchestrator and
# agent-runner (1); the others are one each. HTTP: the gateway's address
# (127.0.0.1:8080).
set -euo pipefail

[ $# -eq 2 ] || { sed -n '5,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${TROUPE_BIN:-$root/target/release/troupe}
replicas=${REPLICAS:-1}
mkdir -p "$2"
dir=$(cd "$2" && pwd)

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# A service keeps its port over restarts: the others have it in their lists.
port() {
    local file="$dir/ports.$1"
    [ -f "$file" ] || free_port >"$file"
    cat "$file"
}

# How many there are of a service.
count() { case $1 in orchestrator | agent-runner) echo "$replicas" ;; *) echo 1 ;; esac }

addresses() {
    local list=
    for number in $(seq "$(count "$1")"); do list+="127.0.0.1:$(port "$1-$number"),"; done
    echo "${list%,}"
}

is_alive() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }

# start NAME SERVICE [VARIABLE=VALUE…]
start() {
    local name=$1 service=$2
    shift 2
    is_alive "$name" && return
    : >"$dir/$name.ready"
    env TROUPE_CONFIG="$dir/troupe.toml" "$@" setsid nohup "$bin" serve "$service" \
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

up() {
    "$here/servers.sh" up "$dir/servers" postgres
    # shellcheck disable=SC1091 # written by servers.sh
    . "$dir/servers/env"
    [ -f "$dir/token" ] || (umask 077; head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$dir/token")
    local place="{ url = \"$TROUPE_TEST_POSTGRES\" }"
    cat >"$dir/troupe.toml" <<TOML
[serve]
registry = "$(addresses registry)"
communication = "$(addresses communication)"
orchestrator = "$(addresses orchestrator)"
token_file = "$dir/token"

[registry]
database = $place

[communication]
database = $place

[orchestrator]
database = $place

[gateway]
database = $place
listen = "${HTTP:-127.0.0.1:8080}"
TOML
    "$bin" migrate --config "$dir/troupe.toml" >/dev/null
    local service number
    for service in registry communication orchestrator agent-runner; do
        for number in $(seq "$(count "$service")"); do
            start "$service-$number" "$service" TROUPE_SERVE__LISTEN="127.0.0.1:$(port "$service-$number")"
        done
        for number in $(seq "$(count "$service")"); do wait_ready "$service-$number"; done
    done
    start gateway-1 gateway
    wait_ready gateway-1
    echo "the cluster answers at http://${HTTP:-127.0.0.1:8080}; logs and settings are in $dir"
}

down() {
    local file name
    for file in "$dir"/*.pid; do
        [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
    done
    for file in "$dir"/*.pid; do
        [ -f "$file" ] || continue
        name=$(basename "$file" .pid)
        for _ in $(seq 300); do is_alive "$name" || break; sleep 0.1; done
    done
    "$here/servers.sh" down "$dir/servers"
    rm -rf "$dir"
}

case $1 in
    up) up ;;
    down) down ;;
    *) exit 2 ;;
esac
