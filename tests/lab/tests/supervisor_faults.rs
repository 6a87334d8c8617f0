//! netraidd over the kernel's RAID1, when more than one thing goes wrong: whose data counts, and who is told what.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, SOON};
use netraid_lab::{Cluster, Lab, Node, scenario, wait_until};

#[test]
fn split_brain_is_told_to_both_and_nobodys_data_is_touched_until_somebody_decides() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        put(lab.node(1), 0, "both have this")?;
        lab.cut(1, 2)?;
        put(lab.node(1), 1, "written on node1")?;
        cluster.wait_words(1, &["Source", "Unknown"])?;
        cluster.wait_words(2, &["Unknown", "Target"])?;
        // It has all that it was told of, and nobody tells it that the other one lives.
        cluster.order(2, "start data")?;
        put(lab.node(2), 2, "written on node2")?;
        lab.join(1, 2)?;
        cluster.wait_words(1, &["Source", "Split Brain"])?;
        cluster.wait_words(2, &["Split Brain", "Source"])?;
        ensure!(get(lab.node(1), 1)? == "written on node1");
        ensure!(get(lab.node(1), 2)?.is_empty());
        ensure!(get(lab.node(2), 2)? == "written on node2");
        ensure!(get(lab.node(2), 1)?.is_empty());

        let why = cluster.refused(1, "resolve data --discard node2")?;
        ensure!(why.contains("in service on node2"), "{why}");
        cluster.order(2, "stop data")?;
        let why = cluster.refused(2, "start data")?;
        ensure!(why.contains("in service on node1"), "{why}");
        cluster.wait_words(1, &["Source", "Split Brain"])?;
        cluster.order(1, "resolve data --discard node2")?;
        cluster.wait_words(1, &["Source", "Target"])?;
        let resync = cluster.last_resync(1, 2)?;
        ensure!(resync["full"] == false, "resynced in full: {resync}");
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])?;
        cluster.order(2, "start data")?;
        ensure!(get(lab.node(2), 0)? == "both have this");
        ensure!(get(lab.node(2), 1)? == "written on node1");
        ensure!(get(lab.node(2), 2)?.is_empty());
        Ok(())
    });
}

#[test]
fn a_target_whose_source_died_in_the_middle_of_its_resync_does_not_take_over() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        resync_slowly(lab, &cluster)?;
        lab.node(1).crash()?;
        cluster.wait_words(2, &["Unknown", "Out of Sync"])?;
        let why = cluster.refused(2, "start data")?;
        ensure!(why.contains("being resynced"), "{why}");

        lab.node(1).start()?;
        cluster.start_daemon(1)?;
        cluster.order(1, "start data")?;
        cluster.wait_words(1, &["Source", "Target"])?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn a_target_that_dies_in_the_middle_of_its_resync_gets_the_rest_when_it_returns() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        resync_slowly(lab, &cluster)?;
        lab.node(2).crash()?;
        cluster.wait_words(1, &["Source", "Unknown"])?;
        lab.node(1).must(&format!(
            "echo 100000 >/sys/block/$(basename $(readlink -f {DEVICE}))/md/sync_speed_max"
        ))?;
        lab.node(2).start()?;
        cluster.start_daemon(2)?;
        cluster.wait_words(1, &["Source", "Target"])?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn after_both_lost_power_the_target_waits_for_the_source_which_goes_on() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        put(lab.node(1), 3, "before the dark")?;
        lab.crash_all(&[lab.node(1), lab.node(2)])?;

        lab.node(2).start()?;
        cluster.start_daemon(2)?;
        let why = cluster.refused(2, "start data")?;
        ensure!(why.contains("node1 can't be reached"), "{why}");
        lab.node(1).start()?;
        cluster.start_daemon(1)?;
        cluster.order(1, "start data")?;
        cluster.wait_words(1, &["Source", "Target"])?;
        let resync = cluster.last_resync(1, 2)?;
        ensure!(resync["full"] == false, "resynced in full: {resync}");
        ensure!(get(lab.node(1), 3)? == "before the dark");
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn a_short_cut_while_nobody_writes_costs_neither_leg_nor_generation() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        let before = cluster.status(1)?;
        lab.cut(1, 2)?;
        let lost = || {
            let status = cluster.status(1)?;
            Ok((status["nodes"][1]["reachable"] == false).then_some(()))
        };
        wait_until(SOON, "the daemons miss each other", lost)?;
        lab.join(1, 2)?;
        let met = || {
            let status = cluster.status(1)?;
            Ok((status["nodes"][1]["reachable"] == true).then_some(()))
        };
        wait_until(SOON, "they meet again", met)?;
        let after = cluster.status(1)?;
        ensure!(cluster.words(1)? == ["Source", "Target"], "{after}");
        ensure!(after["generation"] == before["generation"]);
        ensure!(after["nodes"][1]["last_resync"] == before["nodes"][1]["last_resync"]);
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn a_target_whose_disk_was_replaced_by_a_blank_one_gets_everything() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        put(lab.node(1), 4, "on the old disk")?;
        lab.node(2).crash()?;
        cluster.wait_words(1, &["Source", "Unknown"])?;
        let disk = lab.node(2).disk(1);
        let zeroes = vec![0; 1 << 20];
        for at in (0..disk.size()).step_by(zeroes.len()) {
            disk.write(at, &zeroes)?;
        }
        lab.node(2).start()?;
        cluster.start_daemon(2)?;
        cluster.wait_words(1, &["Source", "Target"])?;
        let resync = cluster.last_resync(1, 2)?;
        ensure!(
            resync["full"] == true,
            "not everything was copied: {resync}"
        );
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

/// Has the target resynced in part, so slowly that something can happen meanwhile.
fn resync_slowly(lab: &Lab, cluster: &Cluster<'_>) -> Result<()> {
    cluster.order(1, "pause data")?;
    cluster.wait_words(1, &["Source", "Paused"])?;
    lab.node(1).must(&format!(
        "dd if=/dev/urandom of={DEVICE} bs=1M count=24 oflag=direct status=none"
    ))?;
    lab.node(1).must(&format!(
        "cd /sys/block/$(basename $(readlink -f {DEVICE}))/md && echo 500 >sync_speed_min && echo 500 >sync_speed_max"
    ))?;
    cluster.order(1, "resume data")?;
    cluster.wait_words(1, &["Source", "Resyncing"])?;
    let begun = || Ok((cluster.status(1)?["nodes"][1]["percent"].as_u64() > Some(0)).then_some(()));
    wait_until(SOON, "something was copied", begun)?;
    // Neither end is near.
    ensure!(cluster.words(1)? == ["Source", "Resyncing"]);
    Ok(())
}

/// Writes a text to its own place, durably.
fn put(node: &Node, place: u64, text: &str) -> Result<()> {
    node.must(&format!(
        "printf '%-4096s' '{text}' | dd of={DEVICE} bs=4096 seek={} oflag=direct conv=fsync status=none",
        place * 256
    ))?;
    Ok(())
}

/// What is in a place.
fn get(node: &Node, place: u64) -> Result<String> {
    let text = node.must(&format!(
        "dd if={DEVICE} bs=4096 skip={} count=1 iflag=direct status=none | tr -d '\\0'",
        place * 256
    ))?;
    Ok(text.trim().to_owned())
}
