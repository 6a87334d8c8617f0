say "an ext4 stays where it is: refused where there is no room, mirrored where there is"
mkfs.ext4 -q -F /dev/ubda
tune2fs -l /dev/ubda | grep UUID >/run/before
refused 3 "shrink it by at least" create --tag data --disk /dev/ubda --nodes server1,server2 --node server1 --keep
over=$(sed -n 's/.*shrink it by at least \([0-9]*\) bytes.*/\1/p' /run/refused)
refused 3 "holds an ext2" create --tag data --disk /dev/ubda --nodes server1,server2 --node server1
mkdir -p /mnt/data
mount /dev/ubda /mnt/data
dd if=/dev/urandom of=/mnt/data/file bs=1M count=20 status=none
sha256sum /mnt/data/file >/run/sum
umount /mnt/data
e2fsck -fp /dev/ubda
resize2fs /dev/ubda $(((64 * 1024 * 1024 - over) / 1024))K
blockdev --flushbufs /dev/ubda
array create --tag data --disk /dev/ubda --nodes server1,server2 --node server1 --keep --chunk 64
mdadm --examine /dev/ubda
mdadm --examine /dev/ubda | grep -q "Version : 1.0" || fail "not version 1.0"
array start --tag data --disk /dev/ubda
mount /dev/md/data /mnt/data
sha256sum -c /run/sum
array add --tag data --node server2 --leg /dev/ubdb --wait --timeout 60
dd if=/dev/urandom of=/mnt/data/more bs=1M count=5 status=none
sha256sum /mnt/data/more >>/run/sum
umount /mnt/data
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
say "the other leg takes over with the same file system, and this one is added to it"
array start --tag data --disk /dev/ubdb
tune2fs -l /dev/md/data | grep UUID | cmp - /run/before
e2fsck -fn /dev/md/data
mount /dev/md/data /mnt/data
sha256sum -c /run/sum
rm /mnt/data/file
umount /mnt/data
array add --tag data --node server1 --leg /dev/ubda --wait --timeout 60
array stop --tag data
legs_equal /dev/ubda /dev/ubdb
