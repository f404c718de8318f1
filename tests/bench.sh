#!/usr/bin/env bash
# Starts a fresh release server on free ports, measures the three workloads, and stops it: what docs/benchmarks.md quotes.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/bench-workloads.sh
data=$(mktemp -d)
ready="$data/ready"
./target/release/troupe dev --data-dir "$data/data" --http 127.0.0.1:0 --grpc 127.0.0.1:0 >"$ready" 2>"$data/log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$data"' EXIT
for _ in $(seq 300); do
    grep -q '^ready ' "$ready" && break
    kill -0 $server || { cat "$data/log" >&2; exit 1; }
    sleep 0.1
done
grpc=$(sed -n 's/.* grpc=\([^ ]*\).*/\1/p' "$ready")
http=$(sed -n 's/.* http=\([^ ]*\).*/\1/p' "$ready")
for arguments in "${workloads[@]}"; do
    # shellcheck disable=SC2086 # the words are arguments
    ./target/release/troupe --url "http://$http" bench --grpc "http://$grpc" $arguments "$@"
done
