#!/bin/sh
# First program of a User-Mode Linux kernel: lets md run the mirrors whose legs are the disks, two a mirror, and writes
# what it did to $work/NAME. Called by kernel.rs, which makes the disks and names the mirrors in $mirrors.
#
# "both" mirrors are assembled from their two legs; for "alone" the second leg is added back to the first.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
echo "assemble: started"

word() {
	sed -n "s/.* $1=\([^ ]*\).*/\1/p" /proc/cmdline
}
work=$(word work)
for module in md-mod raid1; do
	insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/md/$module.ko"
done

run() {
	case $2 in
	both) mdadm --assemble --run /dev/md0 "/dev/ubd$3" "/dev/ubd$4" || return ;;
	alone)
		mdadm --assemble --run /dev/md0 "/dev/ubd$3" || return
		mdadm /dev/md0 --re-add "/dev/ubd$4" || return
		;;
	esac
	mdadm --wait /dev/md0
	echo "degraded $(cat /sys/block/md0/md/degraded)"
	mdadm --stop /dev/md0
	echo "stopped"
}

# NAME:KIND:DISK:DISK,...
for mirror in $(word mirrors | tr ',' ' '); do
	IFS=: read -r name kind first second <<-END
		$mirror
	END
	dmesg --clear
	run "$name" "$kind" "$first" "$second" >"$work/$name" 2>&1
	dmesg >>"$work/$name"
done
echo "assemble: finished"
halt -f -p
