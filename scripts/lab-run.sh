#!/usr/bin/env bash
# Everything that `make lab` and `make lab-clusters` do after the set-up: the programs, and the tests of tests/lab, four
# labs at a time.
#
#   scripts/lab-run.sh arrays|clusters [words for the test runner, e.g. a part of a test's name]
#
# `arrays` are the scenarios of the kernel's nbd and RAID1 with our programs, `clusters` those of netraidd above them.
# Where kernels cannot run as processes the tests fail here with the reason; `make test` skips them and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
export NETRAID_REQUIRE_LAB=1

part=${1:-}
case $part in
    arrays | clusters) shift ;;
    *)
        echo 'lab-run.sh: arrays or clusters?' >&2
        exit 2
        ;;
esac

cargo build --workspace --bins --locked
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run -p netraid-lab --profile "lab-$part" --locked --no-fail-fast --test-threads 4 \
        --config-file tests/nextest.toml "$@"
else
    binaries=()
    for file in tests/lab/tests/*.rs; do
        name=$(basename "$file" .rs)
        case $part:$name in
            arrays:supervisor*) ;;
            arrays:* | clusters:supervisor*) binaries+=(--test "$name") ;;
        esac
    done
    exec cargo test -p netraid-lab "${binaries[@]}" --locked --no-fail-fast -- --test-threads 4 "$@"
fi
