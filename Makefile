# `make help` lists the targets; CI runs `.ci/run`, which calls nothing that is not here.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

DATA_DIR ?= .troupe
# Where `make cluster` keeps everything; PostgreSQL runs as its own user, so not below a private home.
CLUSTER ?= /tmp/troupe-cluster
VENV := target/venv
SCHEMATHESIS := $(VENV)/bin/schemathesis
# Pinned, so that a lint says the same everywhere.
BUF := npx --yes @bufbuild/buf@1.75.0
SCHEMATHESIS_VERSION := 4.32.5

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: run
run: ## Build and start Troupe on this machine (HTTP 127.0.0.1:8080, gRPC 127.0.0.1:50051)
	cargo build --release --bin troupe
	./target/release/troupe dev --data-dir $(DATA_DIR)

.PHONY: build
build: ## Build everything that the tests need, once
	cargo build --workspace --all-targets

.PHONY: test-tools
test-tools: # First, so that what cannot be installed is known before the long build.
	deploy/native/install.sh build-essential python3 python3-venv postgresql rabbitmq-server redis-server
	cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

.PHONY: test
test: test-tools build $(SCHEMATHESIS) ## Run every test; does its own set-up
	@# Servers of its own.
	set -e; servers=$$(mktemp -d); trap "deploy/native/servers.sh down $$servers" EXIT; \
	deploy/native/servers.sh up $$servers; \
	TROUPE_TEST_SERVERS=$$servers SCHEMATHESIS=$(abspath $(SCHEMATHESIS)) cargo nextest run --workspace
	cargo test --workspace --doc --quiet

.PHONY: deny
deny: ## Check the licences and the sources of all that is built in, and, where they can be fetched, the advisories (RustSec)
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny check bans licenses sources
	@if timeout 20 git ls-remote --exit-code https://github.com/RustSec/advisory-db main >/dev/null 2>&1; then cargo deny check advisories; \
	else echo "the advisories cannot be fetched from here: not checked"; fi

.PHONY: sbom
sbom: ## List all that is built in (CycloneDX), as target/troupe.cdx.json
	cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked cargo-cyclonedx
	cargo cyclonedx --manifest-path crates/troupe/Cargo.toml --format json --spec-version 1.5 --describe binaries --no-build-deps --quiet
	rm -f examples/*/*.cdx.json
	mv crates/troupe/troupe_bin.cdx.json target/troupe.cdx.json

.PHONY: cluster
cluster: ## Start PostgreSQL, RabbitMQ, Redis (installed where missing) and REPLICAS (default 1) of each service, as processes
	cargo build --release --bin troupe
	deploy/native/cluster.sh up $(CLUSTER)

.PHONY: cluster-down
cluster-down: ## Stop what `make cluster` started, and remove its data
	deploy/native/cluster.sh down $(CLUSTER)

.PHONY: test-kill
test-kill: test-tools build ## Kill -9 the process TROUPE_KILLS times (default 500) under load, and check that nothing was lost
	TROUPE_KILLS=$${TROUPE_KILLS:-500} cargo nextest run --profile whole --workspace -E 'test(kill::)' --no-capture

.PHONY: test-faults
test-faults: test-tools build ## Kill, stop and roll the processes of a cluster TROUPE_FAULTS times (default 170, ten of each), and write docs/reliability.md
	TROUPE_FAULTS=$${TROUPE_FAULTS:-170} TROUPE_FAULTS_REPORT=$(CURDIR)/docs/reliability.md \
	cargo nextest run --profile whole --workspace -E 'test(faults::)' --no-capture

.PHONY: test-crash-points
test-crash-points: test-tools build ## Let a process die at every crash point, on SQLite and on PostgreSQL, and write docs/reliability.md
	TROUPE_CRASH_POINTS=all TROUPE_CRASH_POINTS_REPORT=$(CURDIR)/docs/reliability.md \
	cargo nextest run --profile whole --workspace -E 'test(crash_points::)' --no-capture

.PHONY: test-simulator
test-simulator: test-tools ## Run TROUPE_SIM_RUNS (default 200,000) random histories of the engine, TROUPE_SIM_SEEDS (default 100,000) of orchestrators
	TROUPE_SIM_RUNS=$${TROUPE_SIM_RUNS:-200000} cargo nextest run --release -p workflow -E 'binary(simulator)' --no-capture
	TROUPE_SIM_SEEDS=$${TROUPE_SIM_SEEDS:-100000} cargo nextest run --release -p orchestrator --lib -E 'test(simulator::)' --success-output final

.PHONY: fuzz
fuzz: test-tools build ## Try every parser that faces the outside TROUPE_FUZZ (default 100) times as often as `make test` does
	set -e; servers=$$(mktemp -d); trap "deploy/native/servers.sh down $$servers" EXIT; \
	deploy/native/servers.sh up $$servers; \
	TROUPE_FUZZ=$${TROUPE_FUZZ:-100} TROUPE_TEST_SERVERS=$$servers \
	cargo nextest run --profile whole --workspace -E 'binary(fuzz) or test(fuzz::) or test(attack::wire::)' --no-capture

.PHONY: record-histories
record-histories: test-tools build ## Keep histories and data of the present format, once, for later ones to replay and go on with
	TROUPE_RECORD_HISTORIES=1 cargo nextest run --workspace \
	  -E 'package(workflow) and (binary(patterns) or binary(simulator)) or test(histories::)'
	@# Everything in one file of each database, and nothing that is not used.
	for file in tests/histories/*/data/*.db; do python3 -c "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
	  db.execute('PRAGMA wal_checkpoint(TRUNCATE)'); db.execute('VACUUM'); db.close()" $$file; done
	rm -f tests/histories/*/data/*-wal tests/histories/*/data/*-shm

.PHONY: bench
bench: ## Start a fresh Troupe, measure the three workloads, and stop it
	cargo build --release --bin troupe
	./tests/bench.sh

.PHONY: bench-cost
bench-cost: ## The same with what each run costs, counted by a build that counts allocations too
	cargo build --release --bin troupe --features count-allocations
	./tests/bench.sh --cost

.PHONY: bench-cluster
bench-cluster: ## The same of a fresh cluster, with one process of each service and then with two
	cargo build --release --bin troupe
	./tests/bench-cluster.sh

.PHONY: bench-scale
bench-scale: ## Measure what grows: 100,000 waiting executions, a restart with them, many finished ones, a large DAG, many kinds of agent
	cargo build --release --bin troupe
	./tests/bench-scale.sh

.PHONY: bench-scale-cluster
bench-scale-cluster: ## The same of fresh clusters
	cargo build --release --bin troupe
	./tests/bench-scale.sh cluster

.PHONY: bench-peers
bench-peers: ## Measure Restate's server (from npm) and Troupe in turn on this machine, ROUNDS (default 2) times, and print the ratio
	cargo build --release --bin troupe
	./tests/bench-peers.sh

.PHONY: bench-engine
bench-engine: ## Measure the pure engine: transitions and replay
	cargo bench --package workflow --bench engine

.PHONY: lint
lint: fmt-check clippy proto-lint ## Every lint

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: clippy
clippy:
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: proto-lint
proto-lint: ## Lint the contracts
	$(BUF) lint proto

$(SCHEMATHESIS): | test-tools
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check schemathesis==$(SCHEMATHESIS_VERSION)
