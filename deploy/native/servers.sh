#!/usr/bin/env bash
# PostgreSQL, RabbitMQ and Redis of one's own, without containers: in one folder, on their own ports, loopback only. For tests
# and for `make cluster`; nothing of it touches servers that run already. Missing programs are installed from Debian's packages.
#
#   servers.sh up DIR [postgres] [rabbitmq] [redis]
#                           start what does not run (all, or those that are named), and write DIR/env with the addresses
#   servers.sh down DIR     stop everything and remove DIR
#   servers.sh stop|kill|start DIR postgres|rabbitmq|redis     one server, its data kept; kill is immediate
#   servers.sh vhost DIR NAME     make a virtual host in RabbitMQ
#   servers.sh rabbitmqctl DIR ARGUMENTS...     RabbitMQ's own tool
set -euo pipefail

usage() { sed -n '5,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
verb=$1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=folder.sh
. "$here/folder.sh"
# shellcheck source-path=SCRIPTDIR source=port.sh
. "$here/port.sh"
# The list of ports marks the folder as ours, besides.
if [ "$verb" = up ]; then
    claim "$2" ports
elif ! owned "$2" ports; then
    [ "$verb" != down ] || exit 0
    echo "there is no $2" >&2
    exit 1
fi
dir=$(cd "$2" && pwd)
ports="$dir/ports"

# A port stays the same over restarts: clients reconnect to it.
port() {
    local found
    found=$(sed -n "s/^$1=//p" "$ports" 2>/dev/null || true)
    if [ -z "$found" ]; then
        found=$(free_port)
        echo "$1=$found" >>"$ports"
    fi
    echo "$found"
}

postgres_bin() {
    local bin
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
    if [ -n "$bin" ]; then echo "$bin"; else dirname "$(command -v initdb)"; fi
}

# PostgreSQL refuses to run as root.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

postgres() {
    local bin data="$dir/postgres"
    bin=$(postgres_bin)
    case $1 in
        start)
            as_postgres "$bin/pg_ctl" -D "$data" status >/dev/null 2>&1 && return
            if [ ! -f "$data/PG_VERSION" ]; then
                mkdir -p "$data"
                [ "$(id -u)" -eq 0 ] && chown postgres "$data"
                as_postgres "$bin/initdb" -D "$data" -U troupe -A trust --no-sync -E UTF8 --locale=C >"$dir/initdb.log"
                cat >>"$data/postgresql.conf" <<EOF
listen_addresses = '127.0.0.1'
port = $(port postgres)
unix_socket_directories = ''
max_connections = 300
shared_buffers = 256MB
max_wal_size = 2GB
EOF
            fi
            rm -f "$data/postmaster.pid"
            as_postgres "$bin/pg_ctl" -D "$data" -l "$data/log" -w -t 60 start >/dev/null
            ;;
        stop) as_postgres "$bin/pg_ctl" -D "$data" -m fast -w stop >/dev/null 2>&1 || true ;;
        kill) as_postgres "$bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null 2>&1 || true ;;
    esac
}

rabbitmq_env() {
    local home="$dir/rabbitmq"
    mkdir -p "$home"
    [ -f "$home/plugins" ] || echo '[].' >"$home/plugins"
    cat >"$home/rabbitmq.conf" <<EOF
listeners.tcp.1 = 127.0.0.1:$(port rabbitmq)
loopback_users.guest = true
log.console = false
disk_free_limit.absolute = 50MB
consumer_timeout = 31622400000
EOF
    export HOME="$home" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT RABBITMQ_NODENAME RABBITMQ_DIST_PORT
    ERL_EPMD_PORT=$(port epmd)
    RABBITMQ_DIST_PORT=$(port rabbitmq_dist)
    RABBITMQ_NODENAME="troupe$(port rabbitmq)@localhost"
    export RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$home/plugins"
    export RABBITMQ_MNESIA_BASE="$home/data" RABBITMQ_LOG_BASE="$home/log" RABBITMQ_PID_FILE="$home/pid"
    export RABBITMQ_CONF_ENV_FILE=/dev/null
    # Erlang's own protocol, by which nodes and tools do everything with each other, listens everywhere unless it is told.
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
    export RABBITMQ_CTL_ERL_ARGS=$RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS
    rabbitmq_lib=$(ls -d /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin 2>/dev/null | tail -1 || true)
    # Debian's wrapper in /usr/sbin insists on the user `rabbitmq`.
    [ -n "$rabbitmq_lib" ] || rabbitmq_lib=$(dirname "$(command -v rabbitmq-server)")
}

rabbitmq() {
    (
        rabbitmq_env
        pid=$(cat "$RABBITMQ_PID_FILE" 2>/dev/null || true)
        case $1 in
            start)
                [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && return
                rm -f "$RABBITMQ_PID_FILE"
                setsid nohup "$rabbitmq_lib/rabbitmq-server" >"$dir/rabbitmq/out" 2>&1 </dev/null &
                # The tool fails where it finds the file, and nothing in it yet.
                for _ in $(seq 900); do [ -s "$RABBITMQ_PID_FILE" ] && break; sleep 0.1; done
                "$rabbitmq_lib/rabbitmqctl" wait --timeout 90 "$RABBITMQ_PID_FILE" >/dev/null
                # A client that asks a quorum queue before it has elected can leave it without a leader for good in Debian's
                # version (rabbitmq/rabbitmq-server#10070).
                "$rabbitmq_lib/rabbitmqctl" eval \
                    '[ra:trigger_election(amqqueue:get_pid(Q)) || Q <- rabbit_amqqueue:list_by_type(rabbit_quorum_queue)], ok.' >/dev/null
                ;;
            stop)
                [ -n "$pid" ] || return 0
                kill "$pid" 2>/dev/null || true
                for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
                rm -f "$RABBITMQ_PID_FILE"
                ;;
            kill)
                [ -n "$pid" ] || return 0
                kill -9 "$pid" 2>/dev/null || true
                for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
                rm -f "$RABBITMQ_PID_FILE"
                ;;
        esac
    )
}

redis() {
    local pid
    pid=$(cat "$dir/redis/pid" 2>/dev/null || true)
    case $1 in
        start)
            [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && return
            mkdir -p "$dir/redis"
            redis-server --bind 127.0.0.1 --port "$(port redis)" --dir "$dir/redis" --save '' --appendonly no \
                --daemonize yes --pidfile "$dir/redis/pid" --logfile "$dir/redis/log" >/dev/null
            for _ in $(seq 100); do redis-cli -p "$(port redis)" ping >/dev/null 2>&1 && break; sleep 0.05; done
            ;;
        stop | kill)
            [ -n "$pid" ] || return 0
            if [ "$1" = kill ]; then kill -9 "$pid" 2>/dev/null || true; else kill "$pid" 2>/dev/null || true; fi
            for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
            rm -f "$dir/redis/pid"
            ;;
    esac
}

case $verb in
    up)
        # Test processes ask at the same time: the first starts, the others wait.
        exec 9>"$dir/lock"
        flock 9
        "$here/install.sh" python3 postgresql rabbitmq-server redis-server
        # The servers must not hold the lock when this script has ended.
        wanted=("${@:3}")
        [ ${#wanted[@]} -gt 0 ] || wanted=(postgres rabbitmq redis)
        for server in "${wanted[@]}"; do
            case $server in
                postgres | rabbitmq | redis) "$server" start 9>&- ;;
                *) usage ;;
            esac
        done
        cat >"$dir/env" <<EOF
TROUPE_TEST_POSTGRES=postgres://troupe@127.0.0.1:$(port postgres)/postgres
TROUPE_TEST_AMQP=amqp://guest:guest@127.0.0.1:$(port rabbitmq)/%2f
TROUPE_TEST_REDIS=redis://127.0.0.1:$(port redis)
EOF
        ;;
    down)
        redis stop
        rabbitmq stop
        postgres stop
        epmd=$(sed -n 's/^epmd=//p' "$ports" 2>/dev/null || true)
        [ -z "$epmd" ] || ERL_EPMD_PORT=$epmd epmd -kill >/dev/null 2>&1 || true
        rm -rf "$dir"
        ;;
    start | stop | kill)
        case ${3:-} in
            postgres | rabbitmq | redis) "$3" "$verb" ;;
            *) usage ;;
        esac
        ;;
    vhost)
        [ $# -eq 3 ] || usage
        rabbitmq_env
        "$rabbitmq_lib/rabbitmqctl" -q add_vhost "$3"
        "$rabbitmq_lib/rabbitmqctl" -q set_permissions -p "$3" guest '.*' '.*' '.*'
        ;;
    rabbitmqctl)
        rabbitmq_env
        "$rabbitmq_lib/rabbitmqctl" -q "${@:3}"
        ;;
    *) usage ;;
esac
