//! Who may write to a target: the source that attached it last, and nobody from before.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Lab, scenario};

#[test]
fn a_source_that_was_superseded_loses_the_targets_that_it_still_reaches() {
    scenario(Lab::builder().nodes(3), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.make()?;
        lab.node(1).must(&format!("mkfs.ext4 -q {DEVICE}"))?;
        mirror.wait_clean()?;

        // node1 is cut off from node2, which takes over; node3 is reached by both.
        lab.cut(1, 2)?;
        write(lab, 1, 8)?;
        mirror.wait_lost(2, SOON)?;
        ensure!(mirror.leg(3)? == "Target");
        let old = Mirror::of(lab);
        mirror.move_to(2, &[3])?;
        mirror.attach(3)?;
        // node3 is in sync with node1, which wrote without node2: it is not overwritten unless somebody says so.
        let refused = mirror.add(3).unwrap_err();
        ensure!(format!("{refused:#}").contains("status 3"), "{refused:#}");
        // The old source has lost it all the same, and goes on alone.
        write(lab, 1, 12)?;
        old.wait_lost(3, SOON)?;
        ensure!(old.leg(3)? != "Target");
        mirror.add_with(3, "--discard")?;
        mirror.wait_whole()?;
        let before = lab.node(3).disk(1).read(0, 4 << 20)?;
        write(lab, 1, 16)?;
        ensure!(
            lab.node(3).disk(1).read(1 << 20, 3 << 20)? == before[1 << 20..],
            "the old source still writes to node3"
        );
        mirror.stop_and_compare()
    });
}

fn write(lab: &Lab, node: usize, at: u32) -> Result<()> {
    lab.node(node).must(&format!(
        "dd if=/dev/urandom of={DEVICE} bs=64k seek={at} count=8 oflag=direct conv=fsync status=none"
    ))?;
    Ok(())
}
