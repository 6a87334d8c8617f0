//! The ordinary life of a mirror: made, used, stopped, started.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, Mirror};
use netraid_lab::{Lab, scenario};

#[test]
fn a_mirror_is_made_filled_stopped_and_started_with_nothing_to_resync() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.make()?;
        let source = lab.node(1);
        source.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        source.must("cp -r /usr/share/zoneinfo/Europe /usr/share/zoneinfo/America /mnt")?;
        let sums = "cd /mnt && find . -type f | sort | xargs sha256sum | sha256sum";
        let before = source.must(sums)?;
        source.must("umount /mnt")?;
        mirror.stop_and_compare()?;

        // Started where it was: nothing is copied.
        let written = mirror.written_to(2, || start_again(&mirror))?;
        ensure!(
            written < 1 << 20,
            "{written} bytes were written to the target"
        );
        mirror.stop_and_compare()?;

        // Started on the other node, which has all the files.
        lab.node(2).must("pkill -x nbd-server")?;
        mirror.move_to(2, &[1])?;
        mirror.export(1)?;
        mirror.attach(1)?;
        let written = mirror.written_to(1, || {
            mirror.add(1)?;
            mirror.wait_whole()
        })?;
        ensure!(
            written < 1 << 20,
            "{written} bytes were written to the new target"
        );
        let target = lab.node(2);
        target.must(&format!("e2fsck -fn {DEVICE} && mount {DEVICE} /mnt"))?;
        ensure!(target.must(sums)? == before, "files differ");
        target.must("umount /mnt")?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_mirror_that_a_killed_mdadm_left_frozen_is_resynced_when_a_leg_is_added() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mirror = Mirror::of(lab);
        mirror.create()?;
        mirror.start()?;
        mirror.export(2)?;
        mirror.attach(2)?;
        lab.node(1).must(&format!(
            "echo frozen >/sys/block/$(basename $(readlink -f {DEVICE}))/md/sync_action"
        ))?;
        mirror.add(2)?;
        mirror.wait_whole()?;
        mirror.stop_and_compare()
    });
}

fn start_again(mirror: &Mirror) -> Result<()> {
    mirror.start()?;
    mirror.attach(2)?;
    mirror.add(2)?;
    mirror.wait_whole()
}
