//! Power losses in the middle of a resync, on either side and on both, and writes that die unflushed with their node.

use anyhow::{Result, ensure};
use netraid_lab::acknowledged::{Writer, check};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Cache, Lab, Node, scenario, wait_until};

#[test]
fn a_source_that_dies_in_the_middle_of_a_resync_finishes_it_later() {
    two_nodes(Cache::Volatile, |lab, mirror| {
        let writer = resync_half(mirror)?;
        lab.node(1).crash()?;
        let told = writer.told()?;
        refuse_to_start_a_half_filled_leg(lab.node(2))?;
        lab.node(1).start()?;
        finish(mirror, told)
    });
}

#[test]
fn a_target_that_dies_in_the_middle_of_a_resync_is_resynced_later() {
    two_nodes(Cache::Volatile, |lab, mirror| {
        let writer = resync_half(mirror)?;
        lab.node(2).crash()?;
        mirror.wait_lost(2, SOON)?;
        writer.wait_more(20, SOON)?;
        lab.node(2).start()?;
        mirror.drop_leg(2)?;
        full_speed(mirror)?;
        mirror.export(2)?;
        bring_back(mirror, 2)?;
        let told = writer.stop()?;
        verify(mirror, told)
    });
}

#[test]
fn both_nodes_die_in_the_middle_of_a_resync_and_it_is_finished_later() {
    two_nodes(Cache::Torn(7), |lab, mirror| {
        let writer = resync_half(mirror)?;
        lab.crash_all(&[lab.node(1), lab.node(2)])?;
        let told = writer.told()?;
        lab.start_all(&[lab.node(1), lab.node(2)])?;
        refuse_to_start_a_half_filled_leg(lab.node(2))?;
        finish(mirror, told)
    });
}

#[test]
fn a_leg_that_the_dying_source_had_half_filled_is_filled_by_the_target_that_takes_over() {
    scenario(Lab::builder().nodes(3), |lab| {
        for node in lab.nodes() {
            node.set_cache(Cache::Volatile)?;
        }
        let mut mirror = Mirror::of(lab);
        let writer = resync_half(&mirror)?;
        lab.node(1).crash()?;
        let told = writer.told()?;
        refuse_to_start_a_half_filled_leg(lab.node(2))?;
        mirror.move_to(3, &[1, 2])?;
        mirror.export(2)?;
        bring_back(&mirror, 2)?;
        lab.node(1).start()?;
        mirror.export(1)?;
        bring_back(&mirror, 1)?;
        mirror.source_node().must(&format!("mount {DEVICE} /mnt"))?;
        verify(&mirror, told)
    });
}

#[test]
fn what_a_dying_target_had_not_flushed_is_copied_to_it_again() {
    two_nodes(Cache::Volatile, |lab, mirror| {
        mirror.make()?;
        for (round, wait_for_no_bits) in [(0, false), (1, true), (2, false), (3, true)] {
            mirror.wait_clean()?;
            // Nothing here is ever flushed by the application.
            mirror.source_node().must(&format!(
                "dd if=/dev/urandom of={DEVICE} bs=256k seek={} count=20 oflag=direct status=none",
                8 + round * 40
            ))?;
            if wait_for_no_bits {
                mirror.wait_clean()?;
            }
            lab.node(2).crash()?;
            lab.node(2).start()?;
            // Whatever the kernel noticed meanwhile, the leg is given up and taken back.
            mirror.export(2)?;
            let added = mirror.take_back(2)?;
            ensure!(added["full"] == false, "resynced in full: {added}");
            mirror.wait_whole()?;
            mirror.wait_clean()?;
            mirror.check_equal()?;
        }
        mirror.stop_and_compare()
    });
}

#[test]
fn both_nodes_die_under_load_and_whichever_starts_first_has_legs_made_equal() {
    two_nodes(Cache::Torn(3), |lab, mirror| {
        mirror.make()?;
        mirror
            .source_node()
            .must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let mut told = 0;
        for (first, second) in [(2, 1), (2, 1), (1, 2)] {
            let writer = Writer::start(mirror.source_node(), "/mnt/told", told)?;
            let _bulk = mirror.source_node().spawn(BULK)?;
            writer.wait_more(60, SOON)?;
            lab.crash_all(&[lab.node(1), lab.node(2)])?;
            told = writer.told()?;
            lab.start_all(&[lab.node(1), lab.node(2)])?;
            mirror.move_to(first, &[second])?;
            mirror.export(second)?;
            bring_back(mirror, second)?;
            mirror.source_node().must(&format!("mount {DEVICE} /mnt"))?;
            check(mirror.source_node(), "/mnt/told", told)?;
        }
        verify(mirror, told)
    });
}

/// A load beside the application's own: large writes that nobody makes durable.
const BULK: &str =
    "while :; do dd if=/dev/urandom of=/mnt/bulk bs=64k count=96 conv=notrunc status=none; done";

fn two_nodes(cache: Cache, test: impl FnOnce(&Lab, &mut Mirror<'_>) -> Result<()>) {
    scenario(Lab::builder().nodes(2), |lab| {
        for node in lab.nodes() {
            node.set_cache(cache)?;
        }
        test(lab, &mut Mirror::of(lab))
    });
}

/// Node 2 has missed 20 MiB, and some of them have been copied; the application goes on to write.
fn resync_half(mirror: &Mirror) -> Result<Writer> {
    mirror.make()?;
    let source = mirror.source_node();
    source.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
    mirror.wait_clean()?;
    mirror.drop_leg(2)?;
    source.must(
        "dd if=/dev/urandom of=/mnt/missed bs=1M count=20 conv=fsync status=none && \
         sha256sum /mnt/missed >/mnt/sum && sync",
    )?;
    // So slow that the middle is met.
    source.must("netraid array speed --tag data --max 4000 --min 1000")?;
    let writer = Writer::start(source, "/mnt/told", 0)?;
    writer.wait_more(20, SOON)?;
    mirror.attach(2)?;
    let before = mirror.lab.node(2).disk(1).counts()?.written_bytes;
    let added = mirror.add(2)?;
    ensure!(added["full"] == false, "resynced in full: {added}");
    wait_until(SOON, "some of it is copied", || {
        let now = mirror.lab.node(2).disk(1).counts()?.written_bytes;
        Ok((now - before > 6 << 20).then_some(()))
    })?;
    writer.wait_more(10, SOON)?;
    let status = mirror.status()?;
    ensure!(
        status["legs"][1]["status"] == "Resyncing",
        "the middle is over: {status}"
    );
    Ok(writer)
}

fn refuse_to_start_a_half_filled_leg(node: &Node) -> Result<()> {
    let refused = node.run(
        "pkill -x nbd-server; while pgrep -x nbd-server; do sleep 0.05; done; \
         netraid array start --tag data --disk /dev/ubdb",
    )?;
    ensure!(
        refused.status == 3 && refused.stderr.contains("was being resynced"),
        "starting a half-filled leg: {refused:?}"
    );
    Ok(())
}

/// Starts the mirror on the old source again, and resyncs the other leg.
fn finish(mirror: &Mirror, told: u64) -> Result<()> {
    mirror.start()?;
    mirror.source_node().must(&format!("mount {DEVICE} /mnt"))?;
    mirror.export(2)?;
    bring_back(mirror, 2)?;
    verify(mirror, told)
}

/// Attaches a node's disk and resyncs it, never in full.
fn bring_back(mirror: &Mirror, node: usize) -> Result<()> {
    mirror.attach(node)?;
    let added = mirror.add(node)?;
    ensure!(added["full"] == false, "resynced in full: {added}");
    wait_until(netraid_lab::mirror::RESYNC, "the leg is in sync", || {
        Ok((mirror.leg(node)? == "Target").then_some(()))
    })
}

fn full_speed(mirror: &Mirror) -> Result<()> {
    mirror
        .source_node()
        .must("netraid array speed --tag data --max 1000000")
        .map(drop)
}

/// What the application wrote is there, the file system is clean, and the legs are equal, even after a power loss.
fn verify(mirror: &Mirror, told: u64) -> Result<()> {
    let source = mirror.source_node();
    check(source, "/mnt/told", told)?;
    source.must("[ ! -e /mnt/sum ] || sha256sum -c /mnt/sum")?;
    source.must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
    mirror.stop_and_compare()?;
    let nodes: Vec<&Node> = mirror.lab.nodes().iter().collect();
    mirror.lab.crash_all(&nodes)?;
    mirror.check_equal()
}
