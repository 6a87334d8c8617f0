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
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
say "it stays a mirror without one"
array start --tag data --disk /dev/ubda
expect "['bitmap']" False
array stop --tag data
