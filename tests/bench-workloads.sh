# shellcheck shell=bash
# What `make bench` and `make bench-cluster` measure, one command per line; sourced by both.
# shellcheck disable=SC2034 # it is used where it is sourced
workloads=(
    "chain3 --runs 1000 --concurrency 1"
    "chain3 --runs 20000 --concurrency 64"
    "chain3 --runs 20000 --concurrency 256"
    "fan100 --runs 200 --concurrency 1"
    "fan100 --runs 400 --concurrency 8"
    "fan100 --runs 1000 --concurrency 64"
    "fan100 --runs 1000 --concurrency 256"
    "message --runs 3000 --concurrency 1"
    "message --runs 40000 --concurrency 64"
    "message --runs 40000 --concurrency 256"
)
