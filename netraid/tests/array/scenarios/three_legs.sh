say "two targets leave one after the other, and both come back in part"
mirror /dev/ubdb /dev/ubdc
write 1 50
settle
array remove --tag data --node server2
write 3 2
array remove --tag data --node server3
write 9 2
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60 | tee /run/added
grep -q "in part" /run/added || fail "server2 was filled"
write 12 1
array add --tag data --node server3 --leg /dev/ubdc --wait --timeout 60 | tee /run/added
grep -q "in part" /run/added || fail "server3 was filled"
array status --tag data
settle
say "a target that stayed takes over, and the one that left before comes back to it"
array remove --tag data --node server3
write 20 2
array stop --tag data
array start --tag data --disk /dev/ubdb
array add --tag data --node server3 --leg /dev/ubdc --wait --timeout 60 | tee /run/added
grep -q "in part" /run/added || fail "server3 was filled"
write 30 1
array add --tag data --node server1 --leg /dev/ubda --wait --timeout 60 | tee /run/added
grep -q "in part" /run/added || fail "server1 was filled"
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
legs_equal /dev/ubda /dev/ubdc
