say "the same with mdadm alone: the legs differ, and the kernel calls them in sync"
mirror /dev/ubdb
write 1 30
settle
array remove --tag data --node server2
write 5 4
array stop --tag data
mdadm --assemble --run --config=none /dev/md/data /dev/ubdb
write 15 4
mdadm --manage /dev/md/data --re-add /dev/ubda
mdadm --wait /dev/md/data || true
cat /proc/mdstat
grep -q '\[2/2\] \[UU\]' /proc/mdstat || fail "plain mdadm did not take the leg back"
array stop --tag data
legs_differ /dev/ubda /dev/ubdb
