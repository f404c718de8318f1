#!/usr/bin/env bash
# Measures what grows, each on a fresh release server of its own, and prints a table: the memory of waiting executions and a
# restart with them, the cost of a step after many finished executions, one large DAG, many kinds of agent.
# With the argument `cluster`, on fresh clusters of processes; what is restarted with there is a takeover.
# docs/benchmarks.md says what each line means.
#
# WAITING (100000), FINISHED (200000), RUNS (60000, of each measured chain3 and kinds: fewer take so short that throughput says little), DAGS (5), AGENTS (1000): how much of each.
# PARTS (waiting finished dag kinds): which. TROUPE_BIN: the program (target/release/troupe). HTTP: the address of the first
# gateway of a cluster (127.0.0.1:18080).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${TROUPE_BIN:-$PWD/target/release/troupe}
waiting=${WAITING:-100000}
finished=${FINISHED:-200000}
runs=${RUNS:-60000}
dags=${DAGS:-5}
agents=${AGENTS:-1000}
case ${1:-server} in
    server | cluster) kind=${1:-server} ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
chmod 755 "$folder"
cluster=$folder/cluster
server=
export TROUPE_BIN=$bin TROUPE_ORCHESTRATOR__MAX_EXECUTIONS=$((waiting + 10000))

stop() {
    deploy/native/cluster.sh down "$cluster" >/dev/null
    [ -n "$server" ] || return 0
    kill "-$1" "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop KILL || true; rm -rf "$folder"' EXIT

# start DATA HTTP GRPC: a server, which may not be ready yet.
start() {
    "$bin" dev --data-dir "$folder/$1" --http "$2" --grpc "$3" >"$folder/ready" 2>"$folder/log" &
    server=$!
}

# fresh DATA REPLICAS: one on empty data and free ports, that is ready; or a cluster with so many of each service. Sets http, and
# how it is reached: reach.
fresh() {
    stop TERM
    : >"$folder/ready"
    "fresh_$kind" "$@"
}

fresh_server() {
    start "$1" 127.0.0.1:0 127.0.0.1:0
    for _ in $(seq 300); do
        grep -q '^ready ' "$folder/ready" && break
        kill -0 "$server" || { cat "$folder/log" >&2; exit 1; }
        sleep 0.1
    done
    grpc=$(sed -n 's/.* grpc=\([^ ]*\).*/\1/p' "$folder/ready")
    http=$(sed -n 's/.* http=\([^ ]*\).*/\1/p' "$folder/ready")
    reach=(--grpc "http://$grpc")
    orchestrators=$http
}

fresh_cluster() {
    http=${HTTP:-127.0.0.1:18080}
    REPLICAS=$2 HTTP=$http deploy/native/cluster.sh up "$cluster" >/dev/null
    orchestrators=$(pages "$cluster"/ports.http-orchestrator-*)
    reach=(--config "$cluster/troupe.toml" --metrics "$http,$(pages "$cluster"/ports.http-*)")
}

# Where processes with these ports show their metrics.
pages() {
    local file list=
    for file in "$@"; do list+="127.0.0.1:$(cat "$file"),"; done
    echo "${list%,}"
}

# bench NAME ARGUMENTS...: its reports are then in the file of that name.
bench() {
    local name=$1
    shift
    echo "troupe bench $*" >&2
    "$bin" --json --url "http://$http" bench "${reach[@]}" "$@" >"$folder/$name.json" ||
        { cat "$folder/$name.json" >&2; exit 1; }
}

# with NAME EXPRESSION: a text made of the reports, `r`; `cost(report, item)` is that per step, `n` a number for people.
with() {
    python3 - "$folder/$1.json" "$2" <<'PYTHON'
import json, sys

def cost(report, item, per="per_step"):
    found = [line[per] for line in report["cost"]["items"] if line["item"] == item]
    return found[0] if found else float("nan")

def n(number, digits=0):
    return f"{number:,.{digits}f}"

with open(sys.argv[1]) as file:
    r = json.load(file)
print(eval(sys.argv[2]))
PYTHON
}

row() { printf '| %s | %s |\n' "$1" "$2" >>"$folder/table"; }

# figure WHAT NAME EXPRESSION: a row of `with`. In an assignment of its own, so that a fault in it ends the script.
figure() {
    local value
    value=$(with "$2" "$3")
    row "$1" "$value"
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

measure_waiting() {
    fresh waiting 2
    # Memory is that of the orchestrators alone where they are processes of their own.
    local reach=("${reach[@]}")
    [ "$kind" = server ] || reach=(--config "$cluster/troupe.toml" --metrics "$orchestrators")
    bench waiting waiting --runs "$waiting" --warmup 100 --keep
    figure "$waiting waiting executions: started" waiting 'n(r[0]["throughput"]) + "/s"'
    figure "memory with them" waiting 'n(r[0]["memory"]["after_bytes"] / 2**20) + " MiB"'
    figure "memory per waiting execution" waiting 'n(r[0]["memory"]["bytes_per_execution"]) + " bytes"'
    "lose_$kind"
}

# The newest executions.
newest() { "$bin" --json --url "http://$http" -n bench ps --limit "$1" | grep -o '"exe_[0-9a-z]*"' | tr -d '"' | sort -u; }

lose_server() {
    local execution begun
    execution=$(newest 1)
    stop KILL
    begun=$(now_ms)
    start waiting "$http" "$grpc"
    until_ok "$bin" --url "http://$http" healthcheck
    row "restart with them after kill -9: ready" "$(($(now_ms) - begun)) ms"
    complete "$execution"
    row "restart with them: a signal has completed one" "$(($(now_ms) - begun)) ms"
}

# Of twenty at least one was of the orchestrator that is lost.
lose_cluster() {
    local executions execution begun
    executions=$(newest 20)
    begun=$(now_ms)
    kill -KILL "$(cat "$cluster/orchestrator-1.pid")"
    for execution in $executions; do complete "$execution"; done
    row "one of two orchestrators lost with kill -9: signals have completed 20" "$(($(now_ms) - begun)) ms"
}

# Gives an execution its signal, and waits until it has completed.
complete() {
    until_ok "$bin" --url "http://$http" -n bench signal "$1" go --payload 1
    until_ok is_completed "$1"
}

# Again until it succeeds, two minutes at most.
until_ok() {
    local end=$(($(now_ms) + 120000))
    until "$@" >"$folder/said" 2>&1; do
        if { [ -n "$server" ] && ! kill -0 "$server" 2>/dev/null; } || [ "$(now_ms)" -gt "$end" ]; then
            cat "$folder/said" "$folder"/log "$cluster"/orchestrator-*.log 2>/dev/null | tail -20 >&2
            exit 1
        fi
        sleep 0.02
    done
}

is_completed() { "$bin" --json --url "http://$http" -n bench show "$1" | grep -q '"status": *"completed"'; }

measure_finished() {
    fresh finished 1
    bench empty chain3 --runs "$runs" --cost
    bench filling chain3 --runs "$finished" --warmup 0
    bench full chain3 --runs "$runs" --cost
    python3 -c 'import json, sys; json.dump([json.load(open(path))[0] for path in sys.argv[1:]], sys.stdout)' \
        "$folder/empty.json" "$folder/full.json" >"$folder/both.json"
    figure "chain3 on an empty database" both 'n(r[0]["throughput"]) + "/s"'
    figure "chain3 after $finished finished executions" both 'n(r[1]["throughput"]) + "/s"'
    figure "ratio" both 'n(r[1]["throughput"] / r[0]["throughput"], 3)'
    compare "CPU of the server per step" server_cpu_us µs
    # In a cluster PostgreSQL writes.
    [ "$kind" = cluster ] || compare "bytes to disk per step" written_bytes bytes
}

# compare WHAT ITEM UNIT: what it costs on an empty database and after many, and the ratio.
compare() {
    figure "$1, empty" both "n(cost(r[0], '$2')) + ' $3'"
    figure "$1, then" both "n(cost(r[1], '$2')) + ' $3'"
    figure "ratio" both "n(cost(r[1], '$2') / cost(r[0], '$2'), 3)"
}

measure_dag() {
    fresh dag 1
    bench dag dag10k --runs "$dags"
    figure "a DAG of 10,000 steps, from start to output" dag 'n(r[0]["p50_ms"]) + " ms (p50 of " + str(r[0]["runs"]) + ")"'
    figure "time per step" dag 'n(r[0]["p50_ms"] * 1000 / r[0]["steps"], 1) + " µs"'
    figure "time of the engine in all" dag 'n(cost(r[0], "engine_us", "per_run") / 1000) + " ms"'
    figure "time of the engine per step" dag 'n(cost(r[0], "engine_us"), 1) + " µs"'
}

measure_kinds() {
    fresh kinds 1
    bench kinds kinds20 --runs "$runs" --agents "$agents" --cost
    figure "chain3 over $agents agents of one kind" kinds 'n(r[0]["throughput"]) + "/s"'
    figure "chain3 over $agents agents of 20 kinds" kinds 'n(r[1]["throughput"]) + "/s"'
    figure "ratio" kinds 'n(r[1]["against_one_kind"], 3)'
    figure "CPU of the server per step, one kind" kinds 'n(cost(r[0], "server_cpu_us")) + " µs"'
    figure "CPU of the server per step, 20 kinds" kinds 'n(cost(r[1], "server_cpu_us")) + " µs"'
}

for part in ${PARTS:-waiting finished dag kinds}; do "measure_$part"; done
printf '| what | figure |\n| --- | ---: |\n'
cat "$folder/table"
