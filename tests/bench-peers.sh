#!/usr/bin/env bash
# Measures Restate's server and Troupe on this machine, one after the other and in turn, and prints a table with the ratio.
# docs/benchmarks.md says what each line means.
#
# ROUNDS (2): how often in turn. CONCURRENCIES (1 64 256), FANS (8 64): calls out at once of chain3 and of fan100.
# RUNS (6000), RUNS_ALONE (600), RUNS_FAN (200): how many of chain3, of chain3 with one at once, of fan100.
# TROUPE_BIN: the program (target/release/troupe). PEER_BIN: service and load for Restate (built where it is not said).
# RESTATE_BIN: Restate's server (from npm where it is not said). RESTATE_CONFIG: its settings. RAW: a folder that keeps all reports.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.7.12
bin=${TROUPE_BIN:-$PWD/target/release/troupe}
peer=${PEER_BIN:-$PWD/target/peers/release/peer-restate}
restate=${RESTATE_BIN:-}
config=${RESTATE_CONFIG:-$PWD/tests/peers/restate/restate.toml}
rounds=${ROUNDS:-2}
read -ra concurrencies <<<"${CONCURRENCIES:-1 64 256}"
read -ra fans <<<"${FANS:-8 64}"
runs=${RUNS:-6000}
runs_alone=${RUNS_ALONE:-600}
runs_fan=${RUNS_FAN:-200}
folder=$(mktemp -d)
raw=${RAW:-$folder/raw}
mkdir -p "$raw"
processes=()

stop() {
    local process
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    for process in "${processes[@]}"; do wait "$process" 2>/dev/null || true; done
    processes=()
}
trap 'stop; rm -rf "$folder"' EXIT

# What is not there yet.
get() {
    [ -n "${PEER_BIN:-}" ] ||
        cargo build --release --locked --manifest-path tests/peers/restate/Cargo.toml --target-dir target/peers
    [ -z "$restate" ] || return 0
    npm install --silent --no-save --ignore-scripts --prefix target/peers "@restatedev/restate-server@$version"
    # The program itself: what npm links is a script around it, which would outlive a signal.
    restate=$(echo "$PWD"/target/peers/node_modules/@restatedev/restate-server-*/bin/restate-server)
}

# until_true WHAT COMMAND...: half a minute at most, and only while all that was started lives.
until_true() {
    local what=$1 process
    shift
    for _ in $(seq 300); do
        "$@" >"$folder/said" 2>&1 && return 0
        for process in "${processes[@]}"; do kill -0 "$process" 2>/dev/null || break 2; done
        sleep 0.1
    done
    echo "$what is not there" >&2
    tail -n 20 "$folder"/said "$folder"/*.log >&2
    exit 1
}

# Ports that are free, for a server that does not say which it has taken.
free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(open_socket.getsockname()[1] for open_socket in sockets))
PYTHON
}

# The server on empty data, and the service, registered. Sets ingress.
start_restate() {
    local data=$folder/restate-$1 node admin service
    read -r node admin ingress <<<"$(free_ports 3)"
    RESTATE_ADMIN__BIND_PORT=$admin RESTATE_INGRESS__BIND_PORT=$ingress \
        "$restate" --config-file "$config" --base-dir "$data" --node-name peer --no-logo \
        --listen-mode tcp --bind-ip 127.0.0.1 --bind-port "$node" >"$folder/restate.log" 2>&1 &
    processes+=($!)
    "$peer" serve >"$folder/service" 2>"$folder/service.log" &
    processes+=($!)
    until_true "the service" grep -q '^ready ' "$folder/service"
    until_true "Restate's admin API" curl -sf "http://127.0.0.1:$admin/health"
    until_true "Restate's ingress" curl -sf "http://127.0.0.1:$ingress/restate/health"
    service=$(sed -n 's/^ready //p' "$folder/service")
    until_true "a deployment" curl -sf "http://127.0.0.1:$admin/deployments" \
        -H 'content-type: application/json' -d "{\"uri\": \"http://$service/\"}"
}

# A fresh server. Sets http and grpc.
start_troupe() {
    local ready=$folder/ready
    "$bin" dev --data-dir "$folder/troupe-$1" --http 127.0.0.1:0 --grpc 127.0.0.1:0 >"$ready" 2>"$folder/troupe.log" &
    processes+=($!)
    until_true "Troupe" grep -q '^ready ' "$ready"
    grpc=$(sed -n 's/.* grpc=\([^ ]*\).*/\1/p' "$ready")
    http=$(sed -n 's/.* http=\([^ ]*\).*/\1/p' "$ready")
}

# runs_of CONCURRENCY: of chain3.
runs_of() { [ "$1" -eq 1 ] && echo "$runs_alone" || echo "$runs"; }

# report ROUND COMMAND...: adds what it measures to the raw reports.
report() {
    local round=$1
    shift
    echo "$round: $(basename "$1") ${*:2}" >&2
    "$@" >"$folder/report" || { cat "$folder/report" >&2; exit 1; }
    python3 -c 'import json, sys; [print(json.dumps({"round": int(sys.argv[1]), **report})) for report in json.load(sys.stdin)]' \
        "$round" <"$folder/report" | tee -a "$raw/reports.jsonl" >&2
}

measure_restate() {
    local concurrency
    start_restate "$1"
    for concurrency in "${concurrencies[@]}"; do
        for workload in chain3-run chain3-call; do
            report "$1" "$peer" load $workload --ingress "http://127.0.0.1:$ingress" --json \
                --runs "$(runs_of "$concurrency")" --concurrency "$concurrency"
        done
    done
    for concurrency in "${fans[@]}"; do
        report "$1" "$peer" load fan100-call --ingress "http://127.0.0.1:$ingress" --json \
            --runs "$runs_fan" --concurrency "$concurrency"
    done
    stop
}

measure_troupe() {
    local concurrency
    start_troupe "$1"
    local bench=("$bin" --json --url "http://$http" bench --grpc "http://$grpc")
    for concurrency in "${concurrencies[@]}"; do
        report "$1" "${bench[@]}" chain3 --runs "$(runs_of "$concurrency")" --concurrency "$concurrency"
        report "$1" "${bench[@]}" kinds20 --runs "$(runs_of "$concurrency")" --concurrency "$concurrency" --agents "$concurrency"
    done
    for concurrency in "${fans[@]}"; do
        report "$1" "${bench[@]}" fan100 --runs "$runs_fan" --concurrency "$concurrency"
    done
    stop
}

# A line of each workload and system, with the figures of every round; the ratio is Troupe's throughput divided by that of the
# line, of the same round.
table() {
    python3 - "$raw/reports.jsonl" <<'PYTHON'
import collections, json, sys

SYSTEMS = {
    "chain3-run": ("chain3", "Restate, `run`", "chain3"),
    "chain3-call": ("chain3", "Restate, `call`", "chain3"),
    "chain3": ("chain3", "Troupe", None),
    "kinds1": ("chain3", "Troupe, agents of the client", None),
    "fan100-call": ("fan100", "Restate, `call`", "fan100"),
    "fan100": ("fan100", "Troupe", None),
}
found = collections.defaultdict(dict)
with open(sys.argv[1]) as lines:
    for report in map(json.loads, lines):
        found[report["workload"], report["concurrency"]][report["round"]] = report

def several(numbers, digits):
    return " and ".join(f"{number:,.{digits}f}" for number in numbers)

print("| workload, concurrency | | throughput, per second | p50, ms | p95, ms | p99, ms | Troupe's throughput / this | errors |")
print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
concurrencies = sorted({concurrency for _, concurrency in found})
for workload in ("chain3", "fan100"):
    for concurrency in concurrencies:
        for name, (of, system, against) in SYSTEMS.items():
            rounds = found.get((name, concurrency))
            if of != workload or not rounds:
                continue
            figures = [several((report[key] for report in rounds.values()), digits)
                       for key, digits in (("throughput", 0), ("p50_ms", 1), ("p95_ms", 1), ("p99_ms", 1))]
            ours = found.get((against, concurrency), {})
            ratio = several((ours[r]["throughput"] / report["throughput"] for r, report in rounds.items() if r in ours), 1)
            errors = sum(report["errors"] for report in rounds.values())
            print(f"| `{workload}`, {concurrency} | {system} | {' | '.join(figures)} | {ratio} | {errors} |")
PYTHON
}

get
: >"$raw/reports.jsonl"
"$restate" --version
"$bin" --version
for round in $(seq "$rounds"); do
    measure_restate "$round"
    measure_troupe "$round"
done
table
