# Two commands do their own set-up on a Debian machine with a Rust toolchain: make run, make test.

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Words handed on to the program behind a target, e.g. make run ARGS="--once --json".
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test bench bench-daemon build docs lab lab-clusters lab-shell bench-lab

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: ## two nodes and a mirror on this machine, through a failure and a failover (ARGS="--once", "--help", ...)
	@scripts/setup.sh run
	@cargo build --release --locked --workspace --bins
	@exec $(TARGET)/release/netraid quickstart $(ARGS)

test: ## formatting, lints, and every test there is; shows what was skipped and why
	@scripts/test.sh $(ARGS)

bench: ## our servers and mirror beside others on this machine (ARGS="--quick", "--only PATTERN", "--help", ...)
	@scripts/setup.sh test
	@cargo build --release --locked --workspace --bins
	@exec $(TARGET)/release/bench $(ARGS)

bench-daemon: ## two netraidd with 100 mirrors: answers, memory, a cut; the LifeKeeper scripts (ARGS="--help", ...)
	@scripts/setup.sh build
	@cargo build --release --locked --workspace --bins
	@exec $(TARGET)/release/bench-daemon $(ARGS)

lab: ## the mirror of the kernel on real kernels, run as processes (ARGS="part of a name"); fails where they can't run
	@scripts/setup.sh lab
	@scripts/lab-run.sh arrays $(ARGS)

lab-clusters: ## netraidd on such kernels: every scenario by LifeKeeper's scripts and by commands (ARGS="part of a name")
	@scripts/setup.sh lab
	@scripts/lab-run.sh clusters $(ARGS)

bench-lab: ## NetRAID beside DRBD on two nodes of a lab (ARGS="protocols", "resync --rounds 1", "--help", ...)
	@scripts/setup.sh lab
	@cargo build --release --locked --workspace --bins
	@exec $(TARGET)/release/bench-lab $(ARGS)

lab-shell: ## two nodes with real kernels and a prompt on each, to look around (ARGS="--nodes 3", "--help", ...)
	@scripts/setup.sh lab
	@cargo build --locked --workspace --bins
	@exec $(TARGET)/debug/lab-shell $(ARGS)

build: ## optimised programs in $(TARGET)/release
	@scripts/setup.sh build
	@cargo build --release --locked --workspace --bins

docs: ## manual pages, completions and JSON schemas in $(TARGET)/docs, made from the programs' own definitions
	@scripts/setup.sh build
	@cargo build --release --locked --workspace --bins
	@$(TARGET)/release/netraid generate $(TARGET)/docs
