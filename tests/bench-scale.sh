#!/usr/bin/env bash
# Measures what grows, each on a fresh release server of its own, and prints a table: the memory of waiting executions and a
# restart with them, the cost of a step after many finished executions, one large DAG, many kinds of agent.
# docs/benchmarks.md says what each line means.
#
# WAITING (100000), FINISHED (200000), RUNS (10000, of each measured chain3 and kinds), DAGS (5), AGENTS (1000): how much of each.
# PARTS (waiting finished dag kinds): which. TROUPE_BIN: the program (target/release/troupe).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${TROUPE_BIN:-./target/release/troupe}
waiting=${WAITING:-100000}
finished=${FINISHED:-200000}
runs=${RUNS:-10000}
dags=${DAGS:-5}
agents=${AGENTS:-1000}
folder=$(mktemp -d)
server=

stop() {
    [ -n "$server" ] || return 0
    kill "-$1" "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop KILL; rm -rf "$folder"' EXIT

# start DATA HTTP GRPC: a server, which may not be ready yet.
start() {
    TROUPE_ORCHESTRATOR__MAX_EXECUTIONS=$((waiting + 10000)) \
        "$bin" dev --data-dir "$folder/$1" --http "$2" --grpc "$3" >"$folder/ready" 2>"$folder/log" &
    server=$!
}

# fresh DATA: one on empty data and free ports, that is ready. Sets http and grpc.
fresh() {
    stop TERM
    : >"$folder/ready"
    start "$1" 127.0.0.1:0 127.0.0.1:0
    for _ in $(seq 300); do
        grep -q '^ready ' "$folder/ready" && break
        kill -0 "$server" || { cat "$folder/log" >&2; exit 1; }
        sleep 0.1
    done
    grpc=$(sed -n 's/.* grpc=\([^ ]*\).*/\1/p' "$folder/ready")
    http=$(sed -n 's/.* http=\([^ ]*\).*/\1/p' "$folder/ready")
}

# bench NAME ARGUMENTS...: its reports are then in the file of that name.
bench() {
    local name=$1
    shift
    echo "troupe bench $*" >&2
    "$bin" --json --url "http://$http" bench --grpc "http://$grpc" "$@" >"$folder/$name.json" ||
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

now_ms() { echo $(($(date +%s%N) / 1000000)); }

measure_waiting() {
    fresh waiting
    bench waiting waiting --runs "$waiting" --warmup 100 --keep
    row "$waiting waiting executions: started" "$(with waiting 'n(r[0]["throughput"]) + "/s"')"
    row "memory of the server with them" "$(with waiting 'n(r[0]["memory"]["after_bytes"] / 2**20) + " MiB"')"
    row "memory per waiting execution" "$(with waiting 'n(r[0]["memory"]["bytes_per_execution"]) + " bytes"')"
    local execution begun ready completed
    execution=$("$bin" --json --url "http://$http" -n bench ps --limit 1 | grep -o 'exe_[0-9a-z]*' | head -1)
    stop KILL
    begun=$(now_ms)
    start waiting "$http" "$grpc"
    until_ok "$bin" --url "http://$http" healthcheck
    ready=$(($(now_ms) - begun))
    until_ok "$bin" --url "http://$http" -n bench signal "$execution" go --payload 1
    until_ok is_completed "$execution"
    completed=$(($(now_ms) - begun))
    row "restart with them after kill -9: ready" "$ready ms"
    row "a signal has completed one of them" "$completed ms"
    row "memory of the server then" "$(resident)"
}

# Again until it succeeds, two minutes at most.
until_ok() {
    local end=$(($(now_ms) + 120000))
    until "$@" >"$folder/said" 2>&1; do
        if ! kill -0 "$server" 2>/dev/null || [ "$(now_ms)" -gt "$end" ]; then
            cat "$folder/said" "$folder/log" >&2
            exit 1
        fi
        sleep 0.02
    done
}

is_completed() { "$bin" --json --url "http://$http" -n bench show "$1" | grep -q '"status": *"completed"'; }

resident() {
    python3 - "http://$http/metrics" <<'PYTHON'
import sys, urllib.request

for line in urllib.request.urlopen(sys.argv[1]).read().decode().splitlines():
    if line.startswith("process_resident_memory_bytes "):
        print(f"{float(line.split()[1]) / 2**20:,.0f} MiB")
PYTHON
}

measure_finished() {
    fresh finished
    bench empty chain3 --runs "$runs" --cost
    bench filling chain3 --runs "$finished" --warmup 0
    bench full chain3 --runs "$runs" --cost
    python3 -c 'import json, sys; json.dump([json.load(open(path))[0] for path in sys.argv[1:]], sys.stdout)' \
        "$folder/empty.json" "$folder/full.json" >"$folder/both.json"
    local item
    row "chain3 on an empty database" "$(with both 'n(r[0]["throughput"]) + "/s"')"
    row "chain3 after $finished finished executions" "$(with both 'n(r[1]["throughput"]) + "/s"')"
    row "ratio" "$(with both 'n(r[1]["throughput"] / r[0]["throughput"], 3)')"
    for item in "server_cpu_us:CPU of the server per step:µs" "written_bytes:bytes to disk per step:bytes"; do
        IFS=: read -r key words unit <<<"$item"
        row "$words, empty" "$(with both "n(cost(r[0], '$key')) + ' $unit'")"
        row "$words, then" "$(with both "n(cost(r[1], '$key')) + ' $unit'")"
        row "ratio" "$(with both "n(cost(r[1], '$key') / cost(r[0], '$key'), 3)")"
    done
}

measure_dag() {
    fresh dag
    bench dag dag10k --runs "$dags"
    row "a DAG of 10,000 steps, from start to output" "$(with dag 'n(r[0]["p50_ms"]) + " ms (p50 of " + str(r[0]["runs"]) + ")"')"
    row "time per step" "$(with dag 'n(r[0]["p50_ms"] * 1000 / r[0]["steps"], 1) + " µs"')"
    row "time of the engine in all" "$(with dag 'n(cost(r[0], "engine_us", "per_run") / 1000) + " ms"')"
    row "time of the engine per step" "$(with dag 'n(cost(r[0], "engine_us"), 1) + " µs"')"
}

measure_kinds() {
    fresh kinds
    bench kinds kinds20 --runs "$runs" --agents "$agents"
    row "chain3 over $agents agents of one kind" "$(with kinds 'n(r[0]["throughput"]) + "/s"')"
    row "chain3 over $agents agents of 20 kinds" "$(with kinds 'n(r[1]["throughput"]) + "/s"')"
    row "ratio" "$(with kinds 'n(r[1]["against_one_kind"], 3)')"
}

for part in ${PARTS:-waiting finished dag kinds}; do "measure_$part"; done
printf '| what | figure |\n| --- | ---: |\n'
cat "$folder/table"
