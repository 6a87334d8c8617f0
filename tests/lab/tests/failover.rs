//! The source dies: a target takes over with every write that was acknowledged, and the old source comes back to it.

use anyhow::{Result, ensure};
use netraid_lab::acknowledged::{Writer, check};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Cache, Lab, scenario};

/// A load beside the application's own: large writes that nobody makes durable.
const BULK: &str =
    "while :; do dd if=/dev/urandom of=/mnt/bulk bs=64k count=96 conv=notrunc status=none; done";

#[test]
fn after_a_power_loss_of_the_source_every_acknowledged_write_is_there() {
    scenario(Lab::builder().nodes(2), there_and_back);
}

#[test]
fn every_acknowledged_write_is_there_though_dying_disks_lose_what_was_not_flushed() {
    scenario(Lab::builder().nodes(2), |lab| {
        lab.node(1).set_cache(Cache::Volatile)?;
        lab.node(2).set_cache(Cache::Volatile)?;
        there_and_back(lab)
    });
}

#[test]
fn every_acknowledged_write_is_there_though_dying_disks_keep_some_sectors_and_lose_others() {
    scenario(Lab::builder().nodes(2), |lab| {
        lab.node(1).set_cache(Cache::Torn(1))?;
        lab.node(2).set_cache(Cache::Torn(2))?;
        there_and_back(lab)
    });
}

/// The first node dies under load, the second takes over; the first comes back, is resynced in part, and takes over
/// again when the second dies.
fn there_and_back(lab: &Lab) -> Result<()> {
    let mut mirror = Mirror::of(lab);
    mirror.make()?;
    mirror
        .source_node()
        .must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
    mirror.wait_clean()?;
    let mut told = work_until_power_fails(&mirror, 0)?;
    for (dead, alive) in [(1, 2), (2, 1)] {
        mirror.move_to(alive, &[dead])?;
        let node = mirror.source_node();
        // Mounting replays the journal; after that nothing is left to repair.
        node.must(&format!("mount {DEVICE} /mnt"))?;
        check(node, "/mnt/told", told)?;
        node.must(&format!(
            "umount /mnt && e2fsck -fn {DEVICE} && mount {DEVICE} /mnt"
        ))?;

        lab.node(dead).start()?;
        mirror.export(dead)?;
        mirror.attach(dead)?;
        let size = mirror.status()?["size"].as_u64().unwrap_or(0);
        let written = mirror.written_to(dead, || {
            let added = mirror.add(dead)?;
            ensure!(added["full"] == false, "resynced in full: {added}");
            mirror.wait_whole()
        })?;
        ensure!(
            written < size / 2,
            "{written} of {size} bytes were written to the old source"
        );
        if alive == 2 {
            told = work_until_power_fails(&mirror, told)?;
        }
    }
    let node = mirror.source_node();
    check(node, "/mnt/told", told)?;
    node.must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
    mirror.stop_and_compare()?;
    // What is called clean needs no power to stay so.
    lab.crash_all(&[lab.node(1), lab.node(2)])?;
    mirror.check_equal()
}

/// The application writes on the source until the power fails there. The last number that it told.
fn work_until_power_fails(mirror: &Mirror, before: u64) -> Result<u64> {
    let node = mirror.source_node();
    let _bulk = node.spawn(BULK)?;
    let writer = Writer::start(node, "/mnt/told", before)?;
    writer.wait_more(150, SOON)?;
    node.crash()?;
    let told = writer.told()?;
    mirror.lab.note(&format!("number {told} was told last"));
    Ok(told)
}
