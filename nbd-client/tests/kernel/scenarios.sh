# What the kernel does with our devices: one function a scenario, $scenario says which. Called by init.sh with sh -eu;
# any command that fails fails the scenario. Names of functions are those of the tests in ../kernel.rs.

. "$here/helpers.sh"

# Scenarios. What a scenario measures it prints.

attach_makes_a_disk_of_the_servers_size_and_abilities() {
	serve 64M
	equal output "$(attach)" /dev/nbd0
	equal size "$(blockdev --getsize64 /dev/nbd0)" 67108864
	equal read-only "$(blockdev --getro /dev/nbd0)" 0
	equal blocks "$(blockdev --getss /dev/nbd0) $(blockdev --getpbsz /dev/nbd0)" "512 512"
	equal cache "$(queue write_cache) $(queue fua)" "write back 1"
	equal backend "$(cat /sys/block/nbd0/backend)" "$uri"
	[ "$(queue discard_max_bytes)" -gt 0 ] || fail "no discard"
	noise 8
	write_noise
	same_noise
	echo 3 >/proc/sys/vm/drop_caches
	cmp -n 8388608 noise /dev/nbd0
	mkfs.ext4 -q -b 4096 /dev/nbd0
	mount /dev/nbd0 /mnt
	cp noise /mnt/file
	umount /mnt
	nbd-client detach /dev/nbd0
	e2fsck -fn disk.img
	refused 3 "is not attached" nbd-client detach /dev/nbd0
	attach --read-only --block-size 4096 --identifier "a name"
	equal read-only "$(blockdev --getro /dev/nbd0)" 1
	equal blocks "$(blockdev --getss /dev/nbd0)" 4096
	equal backend "$(cat /sys/block/nbd0/backend)" "a name"
	refused 1 "" dd if=noise of=/dev/nbd0 bs=4k count=1 oflag=direct
	mount -o ro,noload /dev/nbd0 /mnt
	cmp noise /mnt/file
	umount /mnt
	nbd-client detach /dev/nbd0
}

flush_and_fua_reach_the_server() {
	nbdkit -U nbdkit.sock -P nbdkit.pid --filter=log memory 16M logfile=requests
	nbd-client attach 'nbd+unix:///?socket=nbdkit.sock' /dev/nbd0
	noise 1
	dd if=noise of=/dev/nbd0 bs=4k count=3 seek=8 oflag=direct,dsync
	grep -c "Write id=.* fua=1" requests
	dd if=noise of=/dev/nbd0 bs=4k count=3 oflag=direct
	[ "$(grep -c "Flush" requests)" = 0 ] || cat requests
	sync /dev/nbd0
	[ "$(grep -c "Flush" requests)" -gt 0 ] || fail "no flush"
	equal "FUA writes" "$(grep -c "Write id=.* fua=1" requests)" 3
	nbd-client detach /dev/nbd0
}

a_servers_limit_on_requests_is_kept() {
	nbdkit -U nbdkit.sock -P nbdkit.pid --filter=blocksize-policy memory 16M blocksize-minimum=4096 \
		blocksize-preferred=65536 blocksize-maximum=65536 blocksize-error-policy=error
	refused 3 "takes no blocks smaller than 4096 bytes" \
		nbd-client attach --block-size 512 'nbd+unix:///?socket=nbdkit.sock' /dev/nbd0
	nbd-client attach 'nbd+unix:///?socket=nbdkit.sock' /dev/nbd0
	equal blocks "$(blockdev --getss /dev/nbd0)" 4096
	equal "longest request" "$(queue max_sectors_kb)" 64
	noise 4
	dd if=noise of=/dev/nbd0 bs=1M oflag=direct
	cmp -n 4194304 noise /dev/nbd0
	nbd-client detach /dev/nbd0
}

next_takes_free_devices_and_a_busy_one_is_refused() {
	serve 16M
	equal first "$(nbd-client attach --next "$uri")" /dev/nbd0
	equal second "$(nbd-client attach --next "$uri")" /dev/nbd1
	refused 3 "/dev/nbd1 is already attached to $uri, by process [0-9]*, which has ended" \
		nbd-client attach "$uri" /dev/nbd1
	# A device beyond those that the module made.
	nbd-client attach "$uri" /dev/nbd40
	nbd-client list-devices
	equal devices "$(nbd-client list-devices | cut -d' ' -f1 | xargs)" "DEVICE /dev/nbd0 /dev/nbd1 /dev/nbd40"
	nbd-client list-devices --json >"$work/list"
	for device in 0 1 40; do nbd-client detach /dev/nbd$device; done
	equal devices "$(nbd-client list-devices 2>/dev/null)" ""
	equal devices "$(nbd-client list-devices --all | wc -l)" 18
}

what_can_not_be_attached_is_refused_with_a_reason() {
	serve 1000000
	refused 3 "1000000 bytes, is not a multiple of the block size, 512 bytes" attach
	kill $server
	wait $server || :
	truncate -s 1024512 disk.img
	serve 1024512
	refused 3 "choose a smaller --block-size" attach --block-size 4096
	wait_for "the connections end" eval '[ "$(connections)" = 0 ]'
	refused 2 "takes block sizes of" attach --block-size 8192
	refused 2 "" attach --block-size 1000
	refused 2 "control characters" attach --identifier "$(printf 'a\nb')"
	refused 2 "no export is named" nbd-client attach nbd://127.0.0.1/other /dev/nbd0
	refused 1 "can't connect" nbd-client attach nbd://127.0.0.1:1/disk /dev/nbd0
	refused 1 "CAP_SYS_ADMIN" setpriv --bounding-set -all --inh-caps -all -- \
		"$(command -v nbd-client)" attach "$uri" /dev/nbd0
	equal devices "$(nbd-client list-devices 2>/dev/null)" ""
	wait_for "the connections end" eval '[ "$(connections)" = 0 ]'
	rmmod nbd
	refused 1 "modprobe nbd" attach
	refused 1 "modprobe nbd" nbd-client detach /dev/nbd0
	refused 1 "modprobe nbd" nbd-client list-devices
}

several_connections_need_the_servers_promise() {
	nbdkit -U nbdkit.sock -P nbdkit.pid --filter=multi-conn memory 16M multi-conn-mode=disable
	refused 3 "NBD_FLAG_CAN_MULTI_CONN" \
		nbd-client attach --connections 2 'nbd+unix:///?socket=nbdkit.sock' /dev/nbd0
	serve 64M
	attach --connections 4
	equal connections "$(connections)" 4
	noise 16
	dd if=noise of=/dev/nbd0 bs=1M
	sync /dev/nbd0
	same_noise
	nbd-client detach /dev/nbd0
	wait_for "the connections end" eval '[ "$(connections)" = 0 ]'
}

a_restarted_server_costs_a_pause() {
	serve 64M
	noise 32
	watch --timeout 3 --dead-timeout 30
	(for round in 1 2 3 4 5 6; do write_noise || exit 1; done) &
	writer=$!
	wait_for "the writer writes" eval '[ "$(stat -c %b disk.img)" -gt 0 ]'
	kill -9 $server
	begun=$(now)
	wait_for "the watcher notices" happened link_dead
	sleep 1 # The time that a server takes to start again: requests pile up meanwhile.
	serve 64M
	wait_for "the watcher reconnects" happened reconnected
	echo "reconnected after $(($(now) - begun)) ms"
	wait $writer
	echo "written after $(($(now) - begun)) ms"
	same_noise
	equal connections "$(connections)" 1
	nbd-client detach /dev/nbd0
	wait $watcher
	happened detached
}

a_request_in_flight_goes_on_after_its_timeout() {
	# The kernel sends what was in flight on a dead socket again only when its timeout has passed.
	serve 64M
	noise 1
	watch --timeout 4 --dead-timeout 30
	kill -STOP $server
	write_noise &
	writer=$!
	wait_for "a write is in flight" requests_in_flight
	begun=$(now)
	kill -9 $server
	serve 64M
	wait_for "the watcher reconnects" happened reconnected
	echo "reconnected after $(($(now) - begun)) ms"
	wait $writer
	took=$(($(now) - begun))
	echo "written after $took ms"
	[ $took -lt 10000 ] || fail "too late"
	same_noise
	nbd-client detach /dev/nbd0
}

a_server_that_hung_is_used_again_when_it_wakes_up() {
	serve 64M
	noise 4
	watch --timeout 2 --dead-timeout 30
	kill -STOP $server
	begun=$(now)
	write_noise &
	writer=$!
	wait_for "the kernel gives the link up" happened link_dead
	echo "given up after $(($(now) - begun)) ms"
	wait_for "the watcher tries in vain" happened unreachable
	kill -CONT $server
	wait $writer
	echo "written after $(($(now) - begun)) ms"
	same_noise
	grep -q '"announced":true' "$work/events"
	wait_for "old connections are gone" eval '[ "$(connections)" = 1 ]'
	nbd-client detach /dev/nbd0
}

with_one_connection_of_four_lost_all_are_replaced() {
	serve 64M
	socat TCP-LISTEN:10810,fork,reuseaddr,nodelay TCP:127.0.0.1:10809,nodelay &
	relay=$!
	wait_for "the relay listens" eval '[ -n "$(ss -Htnl sport = 10810)" ]'
	uri=nbd://127.0.0.1:10810/disk
	watch --connections 4 --timeout 2 --dead-timeout 20
	noise 16
	(for round in 1 2 3; do write_noise || exit 1; done) &
	writer=$!
	wait_for "the writer writes" eval '[ "$(stat -c %b disk.img)" -gt 0 ]'
	set -- $(pgrep -P $relay)
	equal relays $# 4
	kill -9 "$2"
	begun=$(now)
	wait_for "the watcher reconnects" happened reconnected
	wait $writer
	echo "written after $(($(now) - begun)) ms"
	same_noise
	wait_for "old connections are gone" eval '[ "$(connections)" = 4 ]'
	echo "old connections gone after $(($(now) - begun)) ms"
	grep -q '"event":"reconnected","replaced":4' "$work/events"
	nbd-client detach /dev/nbd0
	wait $watcher
	kill $relay
}

a_server_without_sessions_gets_only_dead_connections_replaced() {
	nbdkit -p 10809 -P nbdkit.pid memory 64M
	socat TCP-LISTEN:10810,fork,reuseaddr,nodelay TCP:127.0.0.1:10809,nodelay &
	relay=$!
	wait_for "the relay listens" eval '[ -n "$(ss -Htnl sport = 10810)" ]'
	uri=nbd://127.0.0.1:10810/
	watch --connections 3 --timeout 2 --dead-timeout 20 --risk-lost-writes
	grep -q '"session":null' "$work/events"
	noise 4
	set -- $(pgrep -P $relay)
	kill -9 "$1"
	wait_for "the watcher reconnects" happened reconnected
	write_noise
	cmp -n 4194304 noise /dev/nbd0
	grep -q '"event":"reconnected","replaced":1' "$work/events"
	equal connections "$(connections)" 3
	nbd-client detach /dev/nbd0
	kill $relay
}

a_server_that_can_not_prove_to_have_all_writes_is_not_gone_on_with() {
	nbdkit -p 10809 -P nbdkit.pid memory 64M
	uri=nbd://127.0.0.1/
	watch --timeout 2 --dead-timeout 30
	noise 4
	# Answered, and never flushed.
	dd if=noise of=/dev/nbd0 bs=64k oflag=direct status=none
	# Somebody keeps it open, as an array does.
	exec 3</dev/nbd0
	old=$(cat nbdkit.pid)
	kill -9 "$old"
	wait_for "the server is gone" eval '! kill -0 "$old" 2>/dev/null'
	begun=$(now)
	nbdkit -p 10809 -P nbdkit.pid memory 64M 3<&-
	refused 1 "Input/output error" dd if=/dev/nbd0 of=/dev/null bs=4k count=1 iflag=direct
	code=0
	wait $watcher || code=$?
	took=$(($(now) - begun))
	echo "given up after $took ms"
	equal "the watcher's exit code" $code 3
	happened given_up
	grep -q "can't prove" "$work/events"
	[ $took -lt 10000 ] || fail "requests waited for the dead timeout"
	exec 3<&-
	wait_for "the device is free" eval '[ ! -e /sys/block/nbd0/pid ]'
	# While a link lives, nothing is lost.
	socat TCP-LISTEN:10810,fork,reuseaddr,nodelay TCP:127.0.0.1:10809,nodelay &
	relay=$!
	wait_for "the relay listens" eval '[ -n "$(ss -Htnl sport = 10810)" ]'
	uri=nbd://127.0.0.1:10810/
	watch --connections 2 --timeout 2 --dead-timeout 30
	set -- $(pgrep -P $relay)
	kill -9 "$1"
	wait_for "the watcher does not reconnect" happened refused
	write_noise
	cmp -n 4194304 noise /dev/nbd0
	kill -9 "$2"
	code=0
	wait $watcher || code=$?
	equal "the watcher's exit code" $code 3
	# A device that nobody can write to has nothing to lose.
	watch --read-only --timeout 2 --dead-timeout 30
	kill -9 $(pgrep -P $relay)
	wait_for "the watcher reconnects" happened reconnected
	nbd-client detach /dev/nbd0
	kill $relay
}

another_disk_of_the_same_size_is_not_gone_on_with() {
	serve 16M
	watch --timeout 2 --dead-timeout 30
	kill -9 $server
	wait $server || :
	cp disk.img copy.img
	mv copy.img disk.img
	serve 16M
	code=0
	wait $watcher || code=$?
	equal "the watcher's exit code" $code 3
	grep -q "it is another disk" "$work/events"
	equal "the device's size" "$(cat /sys/block/nbd0/size)" 0
}

a_unix_socket_is_reconnected_too() {
	truncate -s 16M disk.img
	serve 16M -u server.sock
	uri='nbd+unix:///disk?socket=/run/server.sock'
	noise 4
	watch --timeout 2 --dead-timeout 20
	for round in 1 2 3; do
		kill -9 $server
		wait $server || :
		serve 16M -u server.sock
		write_noise
		same_noise
		equal reconnections "$(grep -c '"event":"reconnected"' "$work/events")" $round
	done
	nbd-client detach /dev/nbd0
}

a_server_with_another_size_is_not_used() {
	serve 64M
	watch --timeout 2 --dead-timeout 30
	kill -9 $server
	wait $server || :
	truncate -s 32M disk.img
	serve 32M
	wait_for "the watcher refuses" happened refused
	grep "size was 67108864 bytes and is 33554432" "$work/events"
	noise 1
	write_noise &
	writer=$!
	# A request that has no socket to go to is not yet counted as in flight.
	wait_for "a write waits" eval 'grep -q "^State:.*D" /proc/$(pgrep -x dd)/status'
	equal data "$(stat -c %b disk.img)" 0
	kill -9 $server
	wait $server || :
	truncate -s 64M disk.img
	serve 64M
	wait_for "the watcher reconnects" happened reconnected
	wait $writer
	same_noise
	nbd-client detach /dev/nbd0
}

requests_fail_when_the_dead_timeout_has_passed_and_the_device_comes_back_later() {
	serve 16M
	watch --timeout 1 --dead-timeout 2
	kill -9 $server
	wait $server || :
	noise 1
	begun=$(now)
	refused 1 "Input/output error" dd if=noise of=/dev/nbd0 bs=64k oflag=direct
	echo "failed after $(($(now) - begun)) ms"
	wait_for "the watcher says so" happened gave_up_waiting
	serve 16M
	wait_for "the watcher reconnects" happened reconnected
	write_noise
	same_noise
	nbd-client detach /dev/nbd0
}

a_server_whose_disk_hangs_is_waited_for_only_so_long() {
	insmod "$drivers/block/brd.ko" rd_nr=1 rd_size=16384
	insmod "$drivers/md/dm-mod.ko"
	export DM_DISABLE_UDEV=1
	dmsetup create slow --table "0 32768 linear /dev/ram0 0"
	ln -s /dev/mapper/slow disk.img
	serve 16M
	watch --timeout 1 --dead-timeout 5
	head -c 4096 /dev/zero | tr '\0' a >old
	head -c 4096 /dev/zero | tr '\0' b >new
	# Looks for partitions, which a later open needs not do again.
	dd if=/dev/nbd0 of=/dev/null bs=4k count=1
	dmsetup suspend --noflush --nolockfs slow
	begun=$(now)
	refused 1 "Input/output error" dd if=old of=/dev/nbd0 bs=4k count=1 oflag=direct,dsync
	took=$(($(now) - begun))
	echo "failed after $took ms"
	[ $took -ge 5000 ] && [ $took -lt 15000 ] || fail "not about 8 s"
	wait_for "the watcher says so" happened gave_up_waiting
	wait_for "there is a link again" eval 'tail -n1 "$work/events" | grep -q reconnected'
	dd if=new of=/dev/nbd0 bs=4k count=1 oflag=direct,dsync &
	writer=$!
	dmsetup resume slow
	wait $writer
	# The old write has reached the server several times, but none is done after the new one.
	cmp -n 4096 new /dev/mapper/slow
	nbd-client detach /dev/nbd0
	wait_for "the connections end" eval '[ "$(connections)" = 0 ]'
	cmp -n 4096 new /dev/mapper/slow
	cmp -n 4096 new /dev/ram0
}

without_a_watcher_a_hanging_server_costs_the_timeout() {
	serve 16M
	attach --timeout 3
	kill -STOP $server
	noise 1
	begun=$(now)
	refused 1 "Input/output error" dd if=noise of=/dev/nbd0 bs=64k oflag=direct
	took=$(($(now) - begun))
	echo "failed after $took ms"
	[ $took -ge 2500 ] && [ $took -lt 9000 ] || fail "not about 3 s"
	equal devices "$(nbd-client list-devices | wc -l)" 2
	nbd-client detach /dev/nbd0
	kill -CONT $server
}

detach_does_not_wait_for_a_hanging_server() {
	serve 16M
	attach --timeout 20
	kill -STOP $server
	begun=$(now)
	nbd-client detach /dev/nbd0
	idle=$(($(now) - begun))
	kill -CONT $server
	attach --timeout 20
	kill -STOP $server
	noise 1
	(! dd if=noise of=/dev/nbd0 bs=64k oflag=direct 2>dd.log) &
	writer=$!
	wait_for "a write is in flight" requests_in_flight
	begun=$(now)
	nbd-client detach --force /dev/nbd0
	wait $writer
	busy=$(($(now) - begun))
	kill -CONT $server
	echo "detached after $idle ms; with a request in flight after $busy ms"
	grep "Input/output error" dd.log
	[ $idle -lt 3000 ] && [ $busy -lt 6000 ] || fail "too late"
	equal devices "$(nbd-client list-devices 2>/dev/null)" ""
}

detach_spares_a_device_in_use_unless_forced() {
	serve 64M
	attach
	mkfs.ext4 -q /dev/nbd0
	mount /dev/nbd0 /mnt
	refused 3 "/dev/nbd0 is in use by /mnt" nbd-client detach /dev/nbd0
	nbd-client list-devices | grep "/mnt$"
	umount /mnt
	sleep_on_it
	refused 3 "is in use by .*($sleeper)" nbd-client detach /dev/nbd0
	refused 0 "stays until it is closed by .*($sleeper)" nbd-client detach --force /dev/nbd0
	refused 3 "already attached" attach
	kill $sleeper
	wait_for "the device is free" eval '[ ! -e /sys/block/nbd0/pid ]'
	attach
	insmod "$drivers/md/md-mod.ko"
	insmod "$drivers/md/raid1.ko"
	mdadm --create --run /dev/md0 --level=1 --raid-devices=2 --metadata=1.2 /dev/nbd0 missing
	refused 3 "is in use by md0" nbd-client detach /dev/nbd0
	mdadm --stop /dev/md0
	nbd-client detach /dev/nbd0
}

twenty_cycles_leave_nothing_behind() {
	serve 16M
	noise 1
	processes=$(ls -d /proc/[0-9]* | wc -l)
	open=$(ls /proc/$server/fd | wc -l)
	for cycle in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		attach --connections 2
		write_noise
		nbd-client detach /dev/nbd0
	done
	equal devices "$(nbd-client list-devices 2>/dev/null)" ""
	nothing_is_left() {
		[ "$(connections)" = 0 ] && [ "$(ls /proc/$server/fd | wc -l)" = "$open" ] &&
			# Workers of the kernel come and go.
			[ "$(ls -d /proc/[0-9]*/exe | xargs -n1 readlink | grep -c nbd)" = 1 ]
	}
	wait_for "nothing is left" nothing_is_left
	echo "processes: $processes before, $(ls -d /proc/[0-9]* | wc -l) after"
}

a_watcher_leaves_the_device_unless_told_otherwise() {
	serve 16M
	watch
	grep VmLck "/proc/$watcher/status"
	[ "$(awk '/VmLck/ { print $2 }' "/proc/$watcher/status")" -gt 1000 ] || fail "memory is not locked"
	equal "OOM score" "$(cat "/proc/$watcher/oom_score_adj")" -1000
	# PF_MEMALLOC_NOIO (linux/sched.h) is what an I/O flusher has.
	flags=$(awk '{ print $9 }' "/proc/$watcher/stat")
	[ $((flags & 0x80000)) != 0 ] || fail "no I/O flusher: $flags"
	kill $watcher
	wait $watcher
	happened left
	noise 1
	write_noise
	nbd-client detach /dev/nbd0
	watch --detach-on-exit
	sleep_on_it
	kill $watcher
	code=0
	wait $watcher || code=$?
	equal "exit code" $code 3
	happened in_use
	kill $sleeper
	wait $sleeper || :
	nbd-client detach /dev/nbd0
	watch --detach-on-exit
	kill $watcher
	wait $watcher
	equal devices "$(nbd-client list-devices 2>/dev/null)" ""
}

disconnect_on_close_ends_with_the_last_user() {
	serve 16M
	attach --disconnect-on-close
	dd if=/dev/nbd0 of=/dev/null bs=4k count=1
	wait_for "the device is gone" eval '[ ! -e /sys/block/nbd0/pid ]'
	wait_for "the connection is gone" eval '[ "$(connections)" = 0 ]'
}

a_newer_session_of_the_same_client_ends_an_older_one() {
	serve 16M
	client=00112233-4455-6677-8899-aabbccddeeff
	# Generations far apart, so that the watcher's reconnections do not reach the next one.
	watch --session $client:4294967296
	refused 3 "fenced by the newer generation" \
		nbd-client attach --session $client:4294967295 "$uri" /dev/nbd1
	nbd-client attach --session $client:8589934592 "$uri" /dev/nbd1
	wait_for "the watcher is refused" happened refused
	grep "session generation 4294967297 is fenced by the newer generation 8589934592" "$work/events"
	grep "fenced by a newer session" server.log
	dd if=/dev/nbd1 of=/dev/null bs=4k count=1 iflag=direct
	nbd-client detach /dev/nbd1
	nbd-client detach /dev/nbd0
	wait $watcher
	happened detached
	refused 2 "expected a lower-case UUID" attach --session 1
}

drivers="/usr/lib/uml/modules/$(uname -r)/kernel/drivers"
insmod "$drivers/block/nbd.ko"
$scenario
