say "mdadm does not assemble a leg by itself with the configuration that is shipped, and would without it"
hostname server1
mirror /dev/ubdb
array stop --tag data
for disk in /dev/ubda /dev/ubdb; do
	mdadm --incremental --config="$packaging/mdadm.conf.d/netraid.conf" "$disk" || true
done
mdadm --assemble --scan --config="$packaging/mdadm.conf.d/netraid.conf" || true
cat /proc/mdstat
grep -q '^md' /proc/mdstat && fail "it was assembled"
# What the rules for udev go by.
blkid -p -o udev /dev/ubda | tee /run/blkid
grep -qx 'ID_FS_TYPE=linux_raid_member' /run/blkid || fail "not what the rule expects"
grep -q '^ID_FS_LABEL=netraid:data' /run/blkid || fail "not what the rule expects"
grep -q 'ENV{ID_FS_LABEL}=="netraid:\*"' "$packaging/udev/62-netraid.rules" || fail "no such rule"
printf 'HOMEHOST <ignore>\n' >/run/open.conf
mdadm --incremental --config=/run/open.conf /dev/ubda || true
mdadm --incremental --config=/run/open.conf /dev/ubdb || true
cat /proc/mdstat
grep -q '^md' /proc/mdstat || fail "nothing is assembled without it either, so this shows nothing"
