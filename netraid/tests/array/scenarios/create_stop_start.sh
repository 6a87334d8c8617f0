say "a fresh mirror is filled, stopped and started again without a resync"
mirror /dev/ubdb
mdadm --detail /dev/md/data
mdadm --examine /dev/ubda /dev/ubdb
write 5 3
expect "['backend']" md
expect "['legs'][0]['status']" Source
expect "['legs'][1]['status']" Target
grep -q 'ubdb\[1\](W)' /proc/mdstat || fail "the other leg is not write-mostly"
! grep -q 'ubda\[0\](W)' /proc/mdstat || fail "this node's leg is write-mostly"
mdadm --examine /dev/ubda /dev/ubdb | grep -q 'Bad Block Log' && fail "there is a bad-block log"
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
array start --tag data --disk /dev/ubda
before=$(written ubdb)
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60
after=$(written ubdb)
echo "sectors written to the second leg when it came back: $((after - before))"
[ $((after - before)) -lt 512 ] || fail "it was resynced"
expect "['dirty_chunks']" 0
array stop --tag data
