say "a resync that is interrupted leaves a leg that nobody starts, and goes on where it was"
mirror /dev/ubdb
write 1 60
settle
array remove --tag data --node server2
write 5 40
array speed --tag data --max 4000 --min 100
array add --tag data --node server2 --leg /dev/ubdb
expect "['legs'][1]['status']" Resyncing
tries=100
while [ "$(status "['resync'] and 1 or 0")" != 1 ]; do
	tries=$((tries - 1))
	[ $tries -gt 0 ] || fail "no resync is shown"
	sleep 0.1
done
array status --tag data
array watch --tag data --until degraded --timeout 5
array stop --tag data
refused 3 "was being resynced" start --tag data --disk /dev/ubdb
array start --tag data --disk /dev/ubda
refused 3 "runs already" start --tag data --disk /dev/ubdb
array start --tag data --disk /dev/ubda
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
say "forced, an interrupted leg starts, and is like nobody else's"
array start --tag data --disk /dev/ubda
array remove --tag data --node server2 2>/dev/null || true
write 5 40
array speed --tag data --max 4000 --min 100
array add --tag data --node server2 --leg /dev/ubdb
array stop --tag data
array start --tag data --disk /dev/ubdb --force
refused 3 "other data than this mirror" add --tag data --node server1 --leg /dev/ubda
array add --tag data --node server1 --leg /dev/ubda --discard --wait --timeout 60
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
