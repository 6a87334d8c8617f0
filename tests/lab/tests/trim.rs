//! What an application discards.

use anyhow::ensure;
use netraid_lab::mirror::{DEVICE, Mirror};
use netraid_lab::{Lab, scenario};

#[test]
fn legs_stay_equal_when_only_some_disks_can_discard_what_is_trimmed() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mirror = Mirror::of(lab);
        let source = lab.node(1);
        mirror.make()?;
        mirror.wait_clean()?;
        mirror.drop_leg(2)?;
        // The source's disk can't discard, the target's can. (The lab's disks forget this when they are opened anew.)
        source.must("echo 0 >/sys/block/ubdb/queue/discard_max_bytes")?;
        mirror.attach(2)?;
        mirror.add(2)?;
        mirror.wait_whole()?;
        source.must(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=1M count=60 oflag=direct conv=fsync status=none"
        ))?;
        let trimmed = source.run(&format!("blkdiscard -o 8388608 -l 8388608 {DEVICE}"))?;
        lab.note(&format!("{trimmed:?}"));
        // With a file system: it lives with a device that refuses.
        source.must(&format!(
            "mkfs.ext4 -q {DEVICE} && mount -o discard {DEVICE} /mnt && \
             dd if=/dev/urandom of=/mnt/file bs=1M count=20 conv=fsync status=none && rm /mnt/file && sync"
        ))?;
        source.run("fstrim /mnt")?;
        source.must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
        let limit = source.must(&format!(
            "cat /sys/block/$(basename $(readlink -f {DEVICE}))/queue/discard_max_bytes"
        ))?;
        ensure!(limit == "0", "the mirror discards up to {limit} bytes");
        mirror.stop_and_compare()
    });
}
