#!/bin/sh
# First program of a User-Mode Linux kernel, started by kernel.rs: runs one scenario of scenarios.sh as a child and
# writes what it said to $work/log. Words of the kernel's command line: scenario, work (a folder of the host), bin (the
# folder of our programs).
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
# The root is the host's: what a node writes belongs in here.
for folder in /run /mnt /var/tmp; do
	mount -t tmpfs tmpfs "$folder"
done
word() {
	sed -n "s/.* $1=\([^ ]*\).*/\1/p" /proc/cmdline
}
export work="$(word work)" scenario="$(word scenario)" here="$(dirname "$0")"
export PATH="$(word bin):$PATH"
echo "kernel: started"
ip link set lo up
dmesg --clear
cd /run
sh -eu "$here/scenarios.sh" >"$work/log" 2>&1
code=$?
dmesg >"$work/dmesg"
echo "$code" >"$work/code"
echo "kernel: finished"
halt -f -p
