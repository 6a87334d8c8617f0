#!/usr/bin/env bash
# Everything that `make lab` does after the set-up: the programs, and the tests of tests/lab, four labs at a time.
#
#   scripts/lab-run.sh [words for the test runner, e.g. a part of a test's name]
#
# Where kernels cannot run as processes the tests fail here with the reason; `make test` skips them and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
export NETRAID_REQUIRE_LAB=1

cargo build --workspace --bins --locked
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run -p netraid-lab --locked --no-fail-fast --test-threads 4 --config-file tests/nextest.toml "$@"
else
    exec cargo test -p netraid-lab --locked --no-fail-fast -- --test-threads 4 "$@"
fi
