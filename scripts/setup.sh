#!/usr/bin/env bash
# Makes this machine ready for one of the make targets: finds what is missing, installs it where that is allowed
# (root, or sudo without a password, on a machine with apt-get), and says what to install where it is not.
#
#   scripts/setup.sh build|run|test|lab
#
# Exit status: 0 everything needed is there (or only what the target can do without is missing), 1 something that is
# needed is missing or an installation failed.
set -euo pipefail

purpose=${1:-}

# "program:package" lines: the program that must be found, and the Debian package that brings it.
build_needs='cc:gcc'
run_needs='mkfs.ext4:e2fsprogs e2fsck:e2fsprogs mdadm:mdadm nbdinfo:libnbd-bin'
test_needs="$run_needs nbdcopy:libnbd-bin python3:python3 nbdkit:nbdkit nbd-server:nbd-server fio:fio \
qemu-img:qemu-utils qemu-io:qemu-utils qemu-nbd:qemu-utils qemu-storage-daemon:qemu-system-common zzuf:zzuf \
socat:socat dmsetup:dmsetup ss:iproute2"

lab_needs="mkfs.ext4:e2fsprogs ip:iproute2 ethtool:ethtool modprobe:kmod mdadm:mdadm nbdinfo:libnbd-bin \
nbd-client:nbd-client nbd-server:nbd-server fio:fio"
test_needs="$test_needs $lab_needs"

# Packages for tests that not every machine can run (a kernel as a program); not every architecture has them either.
wanted=
case $purpose in
    test) wanted='linux.uml:user-mode-linux' ;;
    # DRBD's tools are for the benchmark beside it.
    lab) wanted='linux.uml:user-mode-linux drbdadm:drbd-utils' ;;
esac

case $purpose in
    build) needs=$build_needs ;;
    run) needs="$build_needs $run_needs" ;;
    test) needs="$build_needs $test_needs" ;;
    lab) needs="$build_needs $lab_needs" ;;
    *)
        echo 'usage: scripts/setup.sh build|run|test|lab' >&2
        exit 2
        ;;
esac

# Administrators' programs are not on everybody's path.
export PATH=$PATH:/usr/sbin:/sbin

missing_packages() {
    local need
    for need in $needs; do
        command -v "${need%%:*}" >/dev/null 2>&1 || echo "${need##*:}"
    done
    # A linker without the C library's start files is no use.
    if command -v cc >/dev/null 2>&1 && [ ! -e "$(cc -print-file-name=crt1.o)" ]; then
        echo libc6-dev
    fi
    # Debian's own interpreter has libnbd's bindings, whichever python3 comes first on the path.
    if [ "$purpose" = test ] && ! /usr/bin/python3 -c 'import nbd' 2>/dev/null; then
        echo python3-libnbd
    fi
}

need_rust() {
    if ! command -v cargo >/dev/null 2>&1; then
        cat >&2 <<'MSG'
There is no Rust toolchain here (no cargo on the path).
Install one, version 1.95 or newer, then run this command again; rustup (Debian package "rustup") is the usual way:
    rustup default stable
MSG
        exit 1
    fi
    local version oldest
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
    version=$(cargo --version | cut -d ' ' -f 2)
    if [ "$(printf '%s\n%s\n' "$oldest" "$version" | sort -V | head -n 1)" != "$oldest" ]; then
        echo "The Rust toolchain here is $version; version $oldest or newer is needed (rustup update stable)." >&2
        exit 1
    fi
    if [ "$purpose" = test ]; then
        local part
        for part in fmt clippy; do
            if ! cargo "$part" --version >/dev/null 2>&1; then
                echo "cargo $part is missing (rustup component add rustfmt clippy)." >&2
                exit 1
            fi
        done
    fi
}

# How to become root: nothing, sudo, or "no".
as_root() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo no
    elif [ "$(id -u)" = 0 ]; then
        echo
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        echo 'sudo -n'
    else
        echo no
    fi
}

# Installs packages and starts none of the services that they bring (Debian's nbd-server and mdadm would).
install() {
    local root=$1 policy=/usr/sbin/policy-rc.d made_policy=
    shift
    echo "Installing Debian packages: $*" >&2
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\n# start no service while packages are installed (scripts/setup.sh of netraid)\nexit 101\n' |
            $root tee $policy >/dev/null
        $root chmod 755 $policy
        made_policy=yes
    fi
    local status=0
    {
        $root apt-get -q -y -o DPkg::Lock::Timeout=300 update &&
            $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
                install --no-install-recommends "$@"
    } >&2 </dev/null || status=$?
    [ -z "$made_policy" ] || $root rm -f $policy
    return $status
}

# Nothing that is asked for fails for want of these here; the tests say that they were skipped, or why they fail.
install_wanted() {
    local need
    for need in $wanted; do
        if ! command -v "${need%%:*}" >/dev/null 2>&1 && apt-cache show "${need##*:}" >/dev/null 2>&1; then
            install "$1" "${need##*:}" || echo "${need##*:} could not be installed; its tests are skipped" >&2
        fi
    done
}

need_rust
root=$(as_root)

mapfile -t packages < <(missing_packages | sort -u)
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$root" = no ]; then
        echo "Missing here, and there is no right to install it: ${packages[*]}" >&2
        echo "On Debian: apt-get install --no-install-recommends ${packages[*]}" >&2
    elif ! install "$root" "${packages[@]}"; then
        echo "Installing ${packages[*]} failed; the output above says why" >&2
    fi
    mapfile -t packages < <(missing_packages | sort -u)
fi
[ "$root" = no ] || install_wanted "$root"
[ ${#packages[@]} -gt 0 ] || exit 0

[ "$root" = no ] || echo "Still missing after the installation: ${packages[*]}" >&2
# Without a linker nothing can be built, and a quickstart needs an ext4. Tests do without where nothing may be installed.
for package in "${packages[@]}"; do
    case $purpose:$package in
        *:gcc | *:libc6-dev | run:e2fsprogs) exit 1 ;;
        test:* | lab:*) [ "$root" = no ] || exit 1 ;;
    esac
done
exit 0
