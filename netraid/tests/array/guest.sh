#!/bin/sh
# First program of a User-Mode Linux kernel: runs one scenario with md and nbd of that kernel, and halts.
#
# $work/log gets all that is said; its last line is "passed" if every command of the scenario did what it had to.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
mount -t tmpfs mnt /mnt
echo "guest: started"

word() {
	sed -n "s/.* $1=\([^ ]*\).*/\1/p" /proc/cmdline
}
work=$(word work)
export netraid="$(word netraid)" nbd_server="$(word nbd_server)" work
modules=/usr/lib/uml/modules/$(uname -r)/kernel/drivers
for module in md/md-mod md/raid1 block/nbd; do
	insmod "$modules/$module.ko"
done
ip link set lo up 2>/dev/null || ifconfig lo up

here=$(dirname "$0")
export packaging="$here/../../../packaging"
cat "$here/words.sh" "$here/scenarios/$(word scenario).sh" >/run/scenario.sh
if sh -eu /run/scenario.sh >"$work/log" 2>&1; then
	echo passed >>"$work/log"
else
	echo "failed: $?" >>"$work/log"
	cat /proc/mdstat >>"$work/log"
	dmesg | tail -50 >>"$work/log"
fi
sync
echo "guest: finished"
halt -f -p
