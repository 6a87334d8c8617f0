say "both sides write while they are apart: the loser's writes are gone, and the legs are equal"
mirror /dev/ubdb
write 1 30
settle
array remove --tag data --node server2
write 5 4
array stop --tag data
say "server2 takes over"
array start --tag data --disk /dev/ubdb
grep -q 'ubdb\[1\](W)' /proc/mdstat && fail "a leg that became the source is write-mostly"
write 15 4
kept=$(sum /dev/ubdb)
say "server1 comes back"
refused 3 "split brain with server1" add --tag data --node server1 --leg /dev/ubda
array add --tag data --node server1 --leg /dev/ubda --discard --wait --timeout 60
array status --tag data
grep -q 'ubda\[0\](W)' /proc/mdstat || fail "a former source is not write-mostly"
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
[ "$(sum /dev/ubda)" = "$kept" ] || fail "the winner's data is not what it was"
