say "a mirror of the embedded engine is run by the kernel, and the other way round, with nothing to resync"
[ -x "$nbd_server" ] || { echo "nbd-server is not built"; exit 0; }
embedded() {
	"$netraid" run --tag data --disk "$1" --node "$2" --target "$3=nbd+unix:///data?socket=/run/target" \
		--unix /run/mirror --run-dir /run/netraid >/run/running &
	engine=$!
	while [ ! -s /run/running ]; do sleep 0.05; done
}
serve() {
	rm -f /run/ready
	"$nbd_server" --unix /run/target --export "data=$1" --print-ready >/run/ready &
	server=$!
	while [ ! -s /run/ready ]; do sleep 0.05; done
}
end() {
	kill $engine
	wait $engine || fail "the engine did not stop cleanly"
	kill $server
	wait $server || true
	rm -f /run/running
}
in_sync() {
	tries=300
	while :; do
		"$netraid" embedded status data --run-dir /run/netraid --json >/run/status
		python3 -c "import json; d=json.load(open('/run/status')); raise SystemExit(d['legs'][$1]['status'] != 'Target')" && break
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { cat /run/status; fail "not in sync"; }
		sleep 0.1
	done
}
"$netraid" embedded create --tag data --disk /dev/ubda --nodes server1,server2 --node server1 --chunk 64KiB
serve /dev/ubdb
embedded /dev/ubda server1 server2
"$netraid" embedded extend --tag data --node server2 --uri "nbd+unix:///data?socket=/run/target" --run-dir /run/netraid --wait
dd if=/dev/urandom of=/run/noise bs=1M count=20 status=none
nbdcopy /run/noise "nbd+unix:///data?socket=/run/mirror" || fail "nbdcopy"
end
legs_equal /dev/ubda /dev/ubdb
say "the kernel's turn: nothing to resync"
array start --tag data --disk /dev/ubda
cmp -n $((20 << 20)) /run/noise /dev/md/data
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60 | tee /run/added
grep -q "in part: 0 bytes" /run/added || fail "something was resynced"
say "the kernel writes alone; the engine resyncs that and nothing else"
settle
array remove --tag data --node server2
write 30 2
array stop --tag data
serve /dev/ubdb
embedded /dev/ubda server1 server2
in_sync 1
cat /run/status
python3 -c "import json; d=json.load(open('/run/status')); raise SystemExit(not 0 < d['last_resync']['copied'] <= 3 << 20)" || fail "not in part"
end
legs_equal /dev/ubda /dev/ubdb
say "server2 takes over with the kernel, writes alone, and the engine of server2 brings server1 back"
array start --tag data --disk /dev/ubdb
write 40 1
array stop --tag data
serve /dev/ubda
embedded /dev/ubdb server2 server1
in_sync 0
end
legs_equal /dev/ubda /dev/ubdb
