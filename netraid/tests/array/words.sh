# What the scenarios are written in. The disks /dev/ubda, /dev/ubdb, /dev/ubdc belong to server1, server2, server3; each
# takes its turn as the disk of "this node".

say() {
	echo "--- $*"
}

fail() {
	echo "FAILED: $*"
	exit 1
}

# netraid array, loudly.
array() {
	echo "+ netraid array $*"
	"$netraid" array "$@"
}

# The same, and it has to end with exit code $1 and words that match $2.
refused() {
	code=$1 words=$2
	shift 2
	echo "+ netraid array $* (to be refused)"
	status=0
	"$netraid" array "$@" >/run/refused 2>&1 || status=$?
	cat /run/refused
	[ "$status" = "$code" ] || fail "exit code $status instead of $code"
	grep -q "$words" /run/refused || fail "no '$words' in what it said"
}

# A mirror on server1 with every leg given in sync.
mirror() {
	nodes=server1
	[ $# -lt 1 ] || nodes=$nodes,server2
	[ $# -lt 2 ] || nodes=$nodes,server3
	array create --tag data --disk /dev/ubda --nodes "$nodes" --node server1 --chunk 64
	array start --tag data --disk /dev/ubda
	number=2
	for disk; do
		array add --tag data --node "server$number" --leg "$disk" --wait --timeout 60
		number=$((number + 1))
	done
}

# Writes $2 MiB that nobody wrote before at $1 MiB of the mirror.
write() {
	dd if=/dev/urandom of=/dev/md/data bs=1M seek="$1" count="$2" oflag=direct conv=fsync status=none
}

# A number of the status.
status() {
	"$netraid" array status --tag data --json | python3 -c "import json,sys; d=json.load(sys.stdin); print(d$1)"
}

expect() {
	found=$(status "$1")
	[ "$found" = "$2" ] || fail "$1 is $found, not $2"
}

# Waits until the kernel has dropped the bits of writes that are done everywhere: its sweeps are made frequent.
settle() {
	md=$(basename "$(readlink -f /dev/md/data)")
	echo 1 >"/sys/block/$md/md/bitmap/time_base"
	tries=100
	while [ "$(status "['dirty_chunks']")" != 0 ]; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || fail "bits are not dropped"
		sleep 0.2
	done
}

# Bytes of a leg's data, read from the disk.
leg_data() {
	offset=$(mdadm --examine "$1" | sed -n 's/ *Data Offset : \([0-9]*\) sectors/\1/p')
	size=$(mdadm --examine "$1" | sed -n 's/ *Array Size : \([0-9]*\) KiB.*/\1/p')
	blockdev --flushbufs "$1"
	dd if="$1" bs=4096 skip=$((${offset:-0} / 8)) count=$((size / 4)) iflag=direct status=none
}

sum() {
	leg_data "$1" | sha256sum
}

legs_equal() {
	one=$(sum "$1") two=$(sum "$2")
	[ "$one" = "$two" ] || fail "$1 and $2 differ"
}

legs_differ() {
	one=$(sum "$1") two=$(sum "$2")
	[ "$one" != "$two" ] || fail "$1 and $2 do not differ"
}

# What the kernel said that it did since the last call.
kernel_said() {
	dmesg --clear 2>/dev/null || true
}

# Sectors written to a disk since the kernel started.
written() {
	awk -v disk="$1" '$3 == disk { print $10 }' /proc/diskstats
}
