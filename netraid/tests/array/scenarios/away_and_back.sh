say "a leg that was away is resynced in part, and not taken for a split brain"
mirror /dev/ubdb
write 1 40
settle
array remove --tag data --node server2
write 3 2
before=$(written ubdb)
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60 | tee /run/added
grep -q "in part: 2 MiB" /run/added || fail "not the 2 MiB that were written"
after=$(written ubdb)
echo "sectors written to the second leg: $((after - before))"
[ $((after - before)) -lt 5000 ] || fail "more was copied than was written"
settle
say "server1 loses power in the middle of writing; its disk is copied as it is at that moment"
write 10 3
dd if=/dev/ubda of=/dev/ubdc bs=1M iflag=direct oflag=direct status=none
array stop --tag data
say "server2 takes over and writes alone; server1 comes back with its old disk"
array start --tag data --disk /dev/ubdb
grep -q '(W)' /proc/mdstat && fail "a leg that became the source is write-mostly"
write 30 2
array add --tag data --node server1 --leg /dev/ubdc --wait --timeout 60 | tee /run/added
grep -q "in part: .* (left earlier)\|in part: .* (was away)" /run/added || fail "not the rule that was expected"
array stop --tag data
legs_equal /dev/ubdb /dev/ubdc
say "and back again: server1 takes over from the copy, nothing is left to copy"
array start --tag data --disk /dev/ubdc
grep -q '(W)' /proc/mdstat && fail "a leg that became the source is write-mostly"
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60 | tee /run/added
grep -q "in part: 0 bytes" /run/added || fail "something was copied"
array stop --tag data
