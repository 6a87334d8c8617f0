#!/bin/sh
# First program of a node. Unknown words of the kernel's command line (LAB_...) arrive as environment variables.
#
# The host's files are the root, read-only. What a node writes goes to its system disk (/etc, /var: survive a power
# loss as far as they were flushed) or to memory (/run, /tmp, /mnt). Ends as the agent, which runs the lab's commands.
#
# Starting a program takes 20 to 40 ms in here, so there are few.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
here=$LAB_CHECKOUT/tests/lab/guest
must() {
	"$@" || {
		echo "lab: this node is not fit for a test, for want of: $*" >/dev/console
		halt -f -f -p
	}
}

# In a user namespace the host's root is nobody, and programs that run as their owner, like mount, would run as nobody.
if [ ! -O /bin/mount ]; then
	cp /bin/mount /dev/mount
	/dev/mount -t proc proc /proc
	/dev/mount -o remount,nosuid /
fi
must mount -a -T "$here/fstab"
echo "$LAB_NAME" >/proc/sys/kernel/hostname
read -r version </proc/sys/kernel/osrelease
modules=/run/lab/modules/lib/modules
must mkdir -p /run/lock $modules /run/lab/system /run/lab/host/checkout /run/lab/host/target
must ln -s "/usr/lib/uml/modules/$version" $modules/

# Both modprobe in a command and modprobe called by the kernel find the modules of this kernel.
export MODPROBE_OPTIONS="-d /run/lab/modules"
echo "$here/modprobe.sh" >/proc/sys/kernel/modprobe
must modprobe -a overlay nbd md-mod raid1 dm-mod dm-flakey dm-delay dm-dust dm-log-writes sch_netem

# A checkout or a target folder below a folder that is about to be hidden stays where it is.
must mount --bind "$LAB_CHECKOUT" /run/lab/host/checkout
must mount --bind "$LAB_TARGET" /run/lab/host/target
must mount -t ext4 /dev/ubda /run/lab/system
[ -d /run/lab/system/etc ] || (cd /run/lab/system && must mkdir etc etc.work var var.work)
must mount -a -T /run/lab/host/checkout/tests/lab/guest/fstab.own
for kept in checkout:"$LAB_CHECKOUT" target:"$LAB_TARGET"; do
	place=${kept#*:}
	if [ ! -d "$place" ]; then
		mkdir -p "$place"
		must mount --bind "/run/lab/host/${kept%%:*}" "$place"
	fi
done

# Large frames both ways, else TCP crawls. Before the card is up: its buffers get their size then.
must ethtool -K vec0 gro on tso off gso off >/dev/null
# Every other node is a neighbour at the address of the lab's router: no ARP, so nothing to forget after a cut.
{
	echo "link set lo up"
	echo "link set vec0 up"
	echo "addr add $LAB_IP/24 dev vec0"
	IFS=,
	for ip in $LAB_IPS; do
		[ "$ip" = "$LAB_IP" ] || echo "neigh replace $ip lladdr $LAB_ROUTER dev vec0 nud permanent"
	done
} | must ip -batch -
{
	echo "127.0.0.1 localhost"
	n=0
	IFS=,
	for ip in $LAB_IPS; do
		n=$((n + 1))
		echo "$ip node$n"
	done
} >/etc/hosts
unset IFS

export PATH="$LAB_PROGRAMS:$PATH" HOME=/tmp TMPDIR=/tmp
cd /tmp || exit
stty -F /dev/ttyS0 raw -echo
exec "$LAB_AGENT" </dev/ttyS0 >/dev/ttyS0 2>/dev/console
