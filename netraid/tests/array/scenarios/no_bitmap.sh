say "without a bitmap every interruption ends in a full resync, and the status says so"
array create --tag data --disk /dev/ubda --nodes server1,server2 --node server1 --chunk none
array start --tag data --disk /dev/ubda
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60 | tee /run/added
grep -q "in full" /run/added || fail "not in full"
array status --tag data | tee /run/status
grep -q "every interruption ends in a full resync" /run/status || fail "the status does not say so"
expect "['bitmap']" False
write 1 4
array remove --tag data --node server2
write 9 1
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60 | tee /run/added
grep -q "in full" /run/added || fail "not in full"
say "also if the array's count of events goes on while a leg is added"
echo 0.005 >"/sys/block/$(basename "$(readlink -f /dev/md/data)")/md/safe_mode_delay"
(while [ ! -e /run/enough ]; do
	write 20 1
	sleep 0.02
done) &
writer=$!
for round in 1 2 3; do
	array remove --tag data --node server2
	array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60
done
touch /run/enough
wait $writer
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
say "it stays a mirror without one"
array start --tag data --disk /dev/ubda
expect "['bitmap']" False
array stop --tag data
