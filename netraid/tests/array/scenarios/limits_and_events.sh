say "speed, asynchronous limit and events"
array create --tag data --disk /dev/ubda --nodes server1,server2 --node server1 --chunk 64
LKDR_SPEED_LIMIT=2000 LKDR_SPEED_LIMIT_MIN=200 array start --tag data --disk /dev/ubda --async-limit 300
expect "['speed_limit']" 2000
expect "['speed_limit_min']" 200
array watch --tag data --until in-sync --timeout 60 >/run/events &
watcher=$!
tries=200
while ! grep -q '"watching"' /run/events; do
	tries=$((tries - 1))
	[ $tries -gt 0 ] || { cat /run/events; fail "the watcher does not begin"; }
	sleep 0.05
done
array add --tag data --node server2 --leg /dev/ubdb
grep -q "^300" /sys/block/md*/md/bitmap/backlog || fail "the limit of asynchronous writes is not the kernel's"
expect "['async_limit']" 300
array status --tag data | grep -q "asynchronous: up to 300 writes" || fail "the status does not say so"
# What passes too quickly is not told: the resync is slow until it was.
tries=100
while ! grep -q '"action":"recover"' /run/events; do
	tries=$((tries - 1))
	[ $tries -gt 0 ] || { cat /run/events; fail "no event of the resync"; }
	sleep 0.05
done
expect "['legs'][1]['status']" Resyncing
array speed --tag data --max 900000 --min 1000
wait $watcher
cat /run/events
grep -q '"event":"leg","device":"ubdb"' /run/events || fail "no event of the leg"
grep -q '"event":"degraded","legs":0' /run/events || fail "no event of the mirror that is whole"
write 1 20
array fullresync --tag data --node server2 --wait --timeout 60 | tee /run/added
grep -q "in full" /run/added || fail "not in full"
say "what a dry run shows is not done"
array remove --tag data --node server2 --dry-run | tee /run/dry
grep -q "mdadm --manage /dev/md[0-9]* --fail /dev/ubdb" /run/dry || fail "no command line"
expect "['legs'][1]['status']" Target
refused 2 "not one of the mirror" add --tag data --node server9 --leg /dev/ubdc
refused 3 "has a leg in mirror data already" add --tag data --node server2 --leg /dev/ubdc
array remove --tag data --node server2
mkfs.ext4 -q -F /dev/ubdc
refused 3 "holds an ext2" add --tag data --node server2 --leg /dev/ubdc
refused 1 "in use" add --tag data --node server2 --leg /dev/ubda
refused 2 "LKDR_CHUNK_SIZE=100" create --tag x --disk /dev/ubdc --nodes a,b --node a --chunk 100
array add --tag data --node server2 --leg /dev/ubdc --force --wait --timeout 60
array stop --tag data
legs_equal /dev/ubda /dev/ubdc
refused 1 "does not run" stop --tag data
