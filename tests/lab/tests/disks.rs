//! Disks that fail, on either side; and a node that keeps the legs of three others.

use anyhow::{Result, ensure};
use netraid_lab::acknowledged::{Writer, check};
use netraid_lab::mirror::{DEVICE, Mirror, RESYNC, SOON};
use netraid_lab::{Disk, Failing, Lab, scenario, wait_until};
use serde_json::Value;

/// All of a disk but the metadata in front.
const DATA: std::ops::Range<u64> = 1 << 20..u64::MAX;

#[test]
fn reads_that_fail_on_the_sources_disk_are_served_by_a_target_and_the_application_goes_on() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        let writer = make_and_write(&mirror)?;
        let source = lab.node(1);
        source.must("dd if=/dev/urandom of=/mnt/large bs=1M count=16 conv=fsync status=none")?;
        let sum = source.must("sha256sum /mnt/large")?;

        source.disk(1).fail(DATA, Failing::Reads)?;
        source.must("echo 3 >/proc/sys/vm/drop_caches")?;
        ensure!(
            source.must("sha256sum /mnt/large")? == sum,
            "other data were read"
        );
        writer.wait_more(20, SOON)?;

        // Then the disk is lost altogether, with all that it says.
        source.disk(1).fail(0..u64::MAX, Failing::Both)?;
        source.must("echo 3 >/proc/sys/vm/drop_caches")?;
        ensure!(
            source.must("sha256sum /mnt/large")? == sum,
            "other data were read"
        );
        writer.wait_more(20, SOON)?;
        let own = leg_of(&mirror.status()?, 1)?;
        ensure!(
            own["status"] != "Source" && own["reason"].to_string().contains("failed"),
            "the status hides that the disk has failed: {own}"
        );
        ensure!(
            mirror.leg(2)? == "Target",
            "the target is lost: {}",
            mirror.status()?
        );
        let told = writer.stop()?;
        source.must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
        mirror.stop()?;

        // The target has it all, and the healed disk is resynced from there, in part.
        mirror.move_to(2, &[1])?;
        source.disk(1).heal()?;
        take_over(&mirror, told, &sum)?;
        mirror.export(1)?;
        mirror.attach(1)?;
        let added = mirror.add(1)?;
        ensure!(added["full"] == false, "resynced in full: {added}");
        mirror.wait_whole()?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_source_whose_disk_takes_no_writes_goes_on_with_its_target_alone() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        let writer = make_and_write(&mirror)?;
        let source = lab.node(1);
        source.must("dd if=/dev/urandom of=/mnt/large bs=1M count=16 conv=fsync status=none")?;
        let sum = source.must("sha256sum /mnt/large")?;
        source.disk(1).fail(0..u64::MAX, Failing::Writes)?;
        wait_until(SOON, "the source's own leg is given up", || {
            Ok((mirror.leg(1)? != "Source").then_some(()))
        })?;
        writer.wait_more(40, SOON)?;
        // Nobody can be added to what has lost its memory; but nothing else is lost either.
        let refused = source.run("netraid array add --tag data --node node2 --leg /dev/nbd2")?;
        ensure!(
            refused.status == 3,
            "adding to a mirror whose own leg failed: {refused:?}"
        );
        // Power is lost in this state: only the target has what was acknowledged.
        source.crash()?;
        let told = writer.told()?;
        mirror.move_to(2, &[1])?;
        take_over(&mirror, told, &sum)?;

        source.disk(1).heal()?;
        source.start()?;
        mirror.export(1)?;
        mirror.attach(1)?;
        let added = mirror.add(1)?;
        ensure!(added["full"] == false, "resynced in full: {added}");
        mirror.wait_whole()?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_target_whose_disk_fails_writes_is_expelled_and_the_status_says_why() {
    scenario(Lab::builder().nodes(2), |lab| {
        expelled(lab, |disk| disk.fail(DATA, Failing::Writes))
    });
}

#[test]
fn a_target_whose_disk_fails_flushes_is_expelled_and_the_status_says_why() {
    scenario(Lab::builder().nodes(2), |lab| {
        expelled(lab, Disk::fail_flushes)
    });
}

#[test]
fn one_node_keeps_the_legs_of_three_sources_and_takes_over_from_one_of_them() {
    let builder = Lab::builder().nodes(3).disks(&[32]).node(&[32, 32, 32]);
    scenario(builder, |lab| {
        let mut mirrors: Vec<Mirror> = (1..=3).map(|source| of_source(lab, source)).collect();
        let mut writers = Vec::new();
        let mut servers = Vec::new();
        for mirror in &mirrors {
            mirror.create()?;
            mirror.start()?;
            servers.push(mirror.export(4)?);
            mirror.attach(4)?;
            mirror.add(4)?;
        }
        for mirror in &mirrors {
            mirror.wait_whole()?;
            let source = mirror.source_node();
            source.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
            writers.push(Writer::start(source, "/mnt/told", 0)?);
        }
        for writer in &writers {
            writer.wait_more(60, SOON)?;
        }

        // The second source dies. Its mirror moves to the node that keeps the others' legs, and they notice nothing.
        lab.node(2).crash()?;
        let told = writers[1].told()?;
        servers[1].signal(15)?;
        servers[1].wait(SOON)?;
        let moved = &mut mirrors[1];
        (moved.source, moved.targets) = (4, vec![2]);
        moved.start()?;
        moved.source_node().must(&format!("mount {DEVICE} /mnt"))?;
        check(moved.source_node(), "/mnt/told", told)?;
        let goes_on = Writer::start(moved.source_node(), "/mnt/told", told)?;
        lab.node(2).start()?;
        moved.export(2)?;
        moved.attach(2)?;
        let added = moved.add(2)?;
        ensure!(added["full"] == false, "resynced in full: {added}");
        moved.wait_whole()?;
        goes_on.wait_more(20, SOON)?;
        writers[1] = goes_on;

        for (mirror, writer) in mirrors.iter().zip(writers) {
            writer.wait_more(5, SOON)?;
            let told = writer.stop()?;
            check(mirror.source_node(), "/mnt/told", told)?;
            let target = mirror.targets[0];
            ensure!(
                mirror.leg(target)? == "Target",
                "a leg was lost: {}",
                mirror.status()?
            );
            mirror
                .source_node()
                .must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
            mirror.stop_and_compare()?;
        }
        Ok(())
    });
}

/// The target's disk fails under load, and is taken back when it works again.
fn expelled(lab: &Lab, fail: impl FnOnce(&Disk) -> Result<()>) -> Result<()> {
    let mirror = Mirror::of(lab);
    let writer = make_and_write(&mirror)?;
    let disk = lab.node(2).disk(1);
    fail(disk)?;
    mirror.wait_lost(2, SOON)?;
    let leg = leg_of(&mirror.status()?, 2)?;
    ensure!(
        leg["status"] == "Unknown" && leg["reason"].to_string().contains("a write to it failed"),
        "no reason is shown: {leg}"
    );
    let shown = lab.node(1).must("netraid array status --tag data")?;
    ensure!(
        shown.contains("a write to it failed"),
        "people are not told why:\n{shown}"
    );
    writer.wait_more(40, SOON)?;
    disk.heal()?;
    // A server that has lost writes owns up to it until it opens the disk anew.
    lab.node(2)
        .must("pkill -x nbd-server && while pgrep -x nbd-server; do sleep 0.05; done")?;
    mirror.export(2)?;
    let added = mirror.take_back(2)?;
    ensure!(added["full"] == false, "resynced in full: {added}");
    mirror.wait_whole()?;
    let told = writer.stop()?;
    check(lab.node(1), "/mnt/told", told)?;
    lab.node(1)
        .must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
    mirror.stop_and_compare()
}

/// A mirror of one of the first three nodes, with its leg on the disk of the fourth that has the same number.
fn of_source(lab: &Lab, source: usize) -> Mirror<'_> {
    let mut mirror = Mirror::of(lab);
    (mirror.source, mirror.targets) = (source, vec![4]);
    mirror.disks.insert(4, source);
    mirror
}

/// A mirror with an ext4, and an application that writes there.
fn make_and_write(mirror: &Mirror) -> Result<Writer> {
    mirror.make()?;
    let source = mirror.source_node();
    source.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
    mirror.wait_clean()?;
    let writer = Writer::start(source, "/mnt/told", 0)?;
    writer.wait_more(20, RESYNC)?;
    Ok(writer)
}

/// The file system is sound on the new source, and has all that was told.
fn take_over(mirror: &Mirror, told: u64, sum: &str) -> Result<()> {
    let node = mirror.source_node();
    node.must(&format!("mount {DEVICE} /mnt"))?;
    check(node, "/mnt/told", told)?;
    ensure!(
        node.must("sha256sum /mnt/large")? == sum,
        "other data are here"
    );
    node.must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
    Ok(())
}

fn leg_of(status: &Value, node: usize) -> Result<Value> {
    let leg = status["legs"].get(node - 1);
    leg.cloned()
        .ok_or_else(|| anyhow::anyhow!("no such leg: {status}"))
}
