#!/bin/sh
# Makes the golden images of this folder: metadata of md mirrors written by a real kernel and a real mdadm.
#
#   ./make.sh            writes NAME-a.od, NAME-a.examine, NAME-a.bitmap (and -b) for every scenario below
#   ./make.sh clean      only the named scenarios
#
# Needs no root and no loop devices: the kernel is User-Mode Linux (Debian: user-mode-linux, mdadm). Each scenario boots
# it once with two blank disks; the functions named scenario_* run in there. Identities and times differ from run to run;
# the tests compare each image with what mdadm said of it, so a fresh set is as good as this one.
#
# NAME-a.od is `od -A x -t x1 -w32` of the metadata of disk a: a line is an offset and 32 bytes, `*` stands for repeats
# of the line before it. Its first line is "# device BYTES" with the size of the disk.
set -eu

# What happens inside of the kernel. $1 and $2 are the disks; `keep` writes down how they look at that moment.

create() {
	mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --homehost=server1 --name=data --bitmap=internal "$@" \
		>/dev/null 2>&1 || fail "mdadm --create $*"
}

scenario_clean() {
	create --metadata=1.2 "$1" "$2"
	mdadm --wait /dev/md0 || true
	mdadm --stop /dev/md0
	keep clean
}

# The same in the two other places that a superblock can have, without and with a write-mostly leg.
scenario_v10() {
	create --metadata=1.0 --bitmap-chunk=128K --assume-clean "$1" --write-mostly "$2"
	mdadm --stop /dev/md0
	keep v10
}

scenario_v11() {
	create --metadata=1.1 --bitmap-chunk=1M --assume-clean "$1" --write-mostly "$2"
	mdadm --stop /dev/md0
	keep v11
}

# Bits set while both legs are there: the array is "active".
scenario_active() {
	create --metadata=1.2 --bitmap-chunk=64K --assume-clean "$1" "$2"
	settle
	echo 3600 >/sys/block/md0/md/safe_mode_delay # else it is marked clean again 0.2 s after the last write
	write_at 1 20 62
	keep active
}

# One leg has left; bits are set on the other and stay. The one that left is as it was.
scenario_degraded() {
	create --metadata=1.2 --bitmap-chunk=64K --assume-clean "$1" "$2"
	settle
	mdadm /dev/md0 --fail "$2" --remove "$2"
	write_at 0 31 32 50
	mdadm --stop /dev/md0
	keep degraded
}

# A blank disk takes the place of a leg; the array is stopped in the middle of its recovery.
scenario_recovering() {
	create --metadata=1.2 --bitmap-chunk=256K --assume-clean "$1" missing
	slow 8000
	mdadm /dev/md0 --add "$2"
	sleep 3
	mdadm --stop /dev/md0
	keep recovering
}

# A leg comes back and is recovered by the bitmap; stopped in the middle.
scenario_readded() {
	create --metadata=1.2 --bitmap-chunk=256K --assume-clean "$1" "$2"
	settle
	mdadm /dev/md0 --fail "$2" --remove "$2"
	dd if=/dev/urandom of=/dev/md0 bs=1M count=40 seek=10 oflag=direct
	slow 5000
	mdadm /dev/md0 --re-add "$2"
	sleep 3
	mdadm --stop /dev/md0
	keep readded
}

# A bitmap of several pages, for which mdadm makes room only on disks of more than 8 GiB.
scenario_pages() {
	create --metadata=1.2 --bitmap-chunk=32K --assume-clean "$1" "$2"
	settle
	mdadm /dev/md0 --fail "$2" --remove "$2"
	write_at 0 600 1199 1200 7000 9000
	dd if=/dev/urandom of=/dev/md0 bs=1M count=20 seek=950 oflag=direct
	keep pages
}

scenarios="clean v10 v11 active degraded recovering readded pages"

size_of() {
	case $1 in pages) echo 9663676416 ;; *) echo 67108864 ;; esac
}

fail() {
	echo "golden: FAILED: $*"
	halt -f -p
}

# A fresh bitmap is all ones, even of a mirror that is assumed to be clean: they are cleared after two sweeps.
settle() {
	while ! mdadm --examine-bitmap /dev/ubda | grep -q ' 0 dirty'; do
		sleep 1
	done
}

slow() {
	echo "$1" >/sys/block/md0/md/sync_speed_max
	echo "$1" >/sys/block/md0/md/sync_speed_min
}

# One block at each of these MiB.
write_at() {
	for mib; do
		dd if=/dev/urandom of=/dev/md0 bs=4k count=1 seek=$((mib * 256)) oflag=direct || true
	done
}

keep() {
	for leg in a b; do
		mdadm --examine /dev/ubd$leg | sed "s,^/dev/.*,$1-$leg:," >"$work/$1-$leg.examine"
		mdadm --examine-bitmap /dev/ubd$leg | sed "s,/dev/.*,$1-$leg," >"$work/$1-$leg.bitmap" || true
		cp --sparse=always "$work/disk-$leg" "$work/$1-$leg.img"
	done
}

if [ $$ = 1 ]; then
	export PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC LC_ALL=C
	mount -t proc proc /proc
	mount -t sysfs sys /sys
	mount -t devtmpfs dev /dev 2>/dev/null || true # the kernel has usually done it
	mount -t tmpfs run /run
	name=$(sed 's/.*scenario=\([a-z0-9]*\).*/\1/' /proc/cmdline)
	work=$(sed 's/.*work=\([^ ]*\).*/\1/' /proc/cmdline)
	modules=/usr/lib/uml/modules/$(uname -r)/kernel/drivers/md
	for module in md-mod raid1; do
		insmod "$modules/$module.ko" || fail "insmod $module"
	done
	scenario_"$name" /dev/ubda /dev/ubdb >"$work/log" 2>&1 || fail "$name: $(tail -3 "$work/log")"
	echo "golden: done $name"
	mdadm --stop --scan 2>/dev/null || true
	halt -f -p
fi

here=$(cd "$(dirname "$0")" && pwd)
[ $# = 0 ] || scenarios=$*
work=$(mktemp -d "${TMPDIR:-/tmp}/golden.XXXXXX")
trap 'rm -rf "$work"' EXIT
for name in $scenarios; do
	size=$(size_of "$name")
	rm -f "$work"/disk-?
	truncate -s "$size" "$work/disk-a" "$work/disk-b"
	timeout 120 linux.uml mem=256M root=/dev/root rootfstype=hostfs rootflags=/ rw init="$here/make.sh" \
		ubd0="$work/disk-a" ubd1="$work/disk-b" con=null con0=null,fd:1 ssl=null quiet \
		scenario="$name" work="$work" </dev/null >"$work/console" 2>&1 || true
	grep -q "golden: done $name" "$work/console" || {
		cat "$work/console" "$work/log" >&2
		exit 1
	}
	for leg in a b; do
		# 128 KiB hold the superblock and the bitmap at either end of the disk; the data in between is not kept.
		{
			echo "# device $size"
			case $name in
			v10) od -A x -t x1 -w32 -j $((size - 131072)) "$work/$name-$leg.img" ;;
			*) od -A x -t x1 -w32 -N 131072 "$work/$name-$leg.img" ;;
			esac
		} >"$here/$name-$leg.od"
		cp "$work/$name-$leg.examine" "$work/$name-$leg.bitmap" "$here"
	done
	echo "$name"
done
