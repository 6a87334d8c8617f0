say "this node's own leg fails: the mirror goes on from a target, and says so"
mirror /dev/ubdb
write 1 10
dd if=/dev/md/data bs=1M count=20 iflag=direct status=none | sha256sum >/run/before
mdadm --manage /dev/md/data --fail /dev/ubda
array status --tag data
expect "['legs'][0]['status']" "Out of Sync"
expect "['legs'][1]['status']" Target
dd if=/dev/md/data bs=1M count=20 iflag=direct status=none | sha256sum | cmp - /run/before
write 12 1
array status --tag data | grep -q "own leg has failed" || fail "the status does not say so"
array stop --tag data
say "server2 has the good data, server1 is the one to be resynced"
array start --tag data --disk /dev/ubda
refused 3 "newer data" add --tag data --node server2 --leg /dev/ubdb
array stop --tag data
array start --tag data --disk /dev/ubdb
array add --tag data --node server1 --leg /dev/ubda --wait --timeout 60 | tee /run/added
grep -q "in part" /run/added || fail "not in part"
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
