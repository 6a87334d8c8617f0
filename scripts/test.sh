#!/usr/bin/env bash
# Everything that `make test` does: peers, formatting, lints, programs, tests, and the list of what was skipped.
#
#   scripts/test.sh [words for the test runner, e.g. a part of a test's name]
#
# All steps run even when one fails, so that one run tells everything; the exit status is 0 only if all were good.
# With NETRAID_REQUIRE_PEERS=1 a test whose peer program is missing fails; it is set here when the peers could be
# installed, so that only a machine that may not install them skips, and says so.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PATH=$PATH:/usr/sbin:/sbin

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target" || exit 1
NETRAID_SKIPPED=$(realpath "$target")/skipped-tests.txt
export NETRAID_SKIPPED
: >"$NETRAID_SKIPPED"

failed=()
step() {
    local name=$1
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

echo '== peers'
scripts/setup.sh test || { echo 'make test: the set-up failed, no test was run' >&2; exit 1; }
if command -v apt-get >/dev/null 2>&1 && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    export NETRAID_REQUIRE_PEERS=${NETRAID_REQUIRE_PEERS:-1}
fi

step formatting cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --locked -- -D warnings
step programs cargo build --workspace --bins --locked
if cargo nextest --version >/dev/null 2>&1; then
    # Tests in labs count once, all others twice (tests/nextest.toml).
    threads=$((2 * $(nproc)))
    step tests cargo nextest run --workspace --locked --no-fail-fast --test-threads "$threads" --config-file tests/nextest.toml "$@"
else
    step tests cargo test --workspace --locked --no-fail-fast --lib --bins --tests "$@"
fi
step 'tests in the documentation' cargo test --workspace --locked --doc -q

echo
if [ -s "$NETRAID_SKIPPED" ]; then
    echo "Skipped tests ($(wc -l <"$NETRAID_SKIPPED")):"
    sort "$NETRAID_SKIPPED" | sed 's/^/  /'
else
    echo 'No test was skipped.'
fi
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED:'
    printf ' %s;' "${failed[@]}"
    echo
    exit 1
fi
echo 'All good.'
