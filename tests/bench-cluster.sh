#!/usr/bin/env bash
# Starts a fresh cluster of release processes, measures the three workloads at several concurrencies, and stops it: first with
# one process of each service, then with two. docs/benchmarks.md quotes what it prints.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/bench-workloads.sh
folder=$(mktemp -d)
chmod 755 "$folder"
trap 'deploy/native/cluster.sh down "$folder/cluster" >/dev/null 2>&1; rm -rf "$folder"' EXIT
for replicas in ${REPLICAS:-1 2}; do
    REPLICAS=$replicas HTTP=${HTTP:-127.0.0.1:18080} deploy/native/cluster.sh up "$folder/cluster" >/dev/null
    echo "== $replicas of each service"
    for arguments in "${workloads[@]}"; do
        # shellcheck disable=SC2086 # the words are arguments
        ./target/release/troupe bench --config "$folder/cluster/troupe.toml" $arguments "$@"
    done
    deploy/native/cluster.sh down "$folder/cluster" >/dev/null
done
