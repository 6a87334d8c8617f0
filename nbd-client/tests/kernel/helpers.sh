# Words that the scenarios (scenarios.sh) are told in.

serve() { # SIZE [ARGUMENT...]: our server, its export "disk" being the file disk.img
	size=$1
	shift
	[ -e disk.img ] || truncate -s "$size" disk.img
	: >server.out
	nbd-server -e disk=disk.img -l 127.0.0.1:10809 --print-ready "$@" >server.out 2>>server.log &
	server=$!
	wait_for "the server listens" grep -q listening server.out
}

uri=nbd://127.0.0.1/disk

attach() { # [ARGUMENT...]: our export as /dev/nbd0
	nbd-client attach "$@" "$uri" /dev/nbd0
}

watch() { # [ARGUMENT...]: the same, with a watcher that writes what happens to $work/events
	: >"$work/events"
	nbd-client attach --watch --json "$@" "$uri" /dev/nbd0 >"$work/events" &
	watcher=$!
	wait_for "the device is attached" happened attached
}

happened() { # EVENT
	grep -q "\"event\":\"$1\"" "$work/events"
}

wait_for() { # WHAT COMMAND...: looks until the command succeeds, at most 40 s
	what=$1
	shift
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 2000 ] || fail "waited in vain: $what"
		sleep 0.02
	done
}

fail() {
	echo "FAILED: $*"
	exit 1
}

refused() { # CODE WORDS COMMAND...: the command ends with this code and says these words
	expected=$1 words=$2
	shift 2
	code=0
	"$@" >refusal 2>&1 || code=$?
	cat refusal
	[ $code = "$expected" ] || fail "code $code instead of $expected: $*"
	grep -q -- "$words" refusal || fail "it does not say \"$words\": $*"
}

equal() { # WHAT FOUND EXPECTED
	[ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""
}

requests_in_flight() {
	[ "$(awk '{ print $9 }' /sys/block/nbd0/stat)" != 0 ]
}

sleep_on_it() { # a process that has the device open
	sleep 1000 </dev/nbd0 &
	sleeper=$!
	wait_for "it is open" eval '[ "$(readlink /proc/$sleeper/fd/0)" = /dev/nbd0 ]'
}

queue() { # NAME: a file of the device's queue
	cat "/sys/block/nbd0/queue/$1"
}

connections() { # how many connections to the server there are, seen from its side
	ss -Htn state established sport = 10809 | wc -l
}

now() { # milliseconds
	echo $(($(date +%s%N) / 1000000))
}

noise() { # MIB: a file "noise"
	dd if=/dev/urandom of=noise bs=1M count="$1" 2>/dev/null
}

write_noise() { # to the device, past the cache, all of it on the server's disk in the end
	dd if=noise of=/dev/nbd0 bs=64k oflag=direct conv=fsync,notrunc 2>/dev/null
}

same_noise() { # on the server's disk
	cmp -n "$(stat -c %s noise)" noise disk.img
}
