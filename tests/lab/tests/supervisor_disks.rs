//! netraidd over the kernel's RAID1 when a disk fails, on either side: the application goes on, the status says why, and
//! what was missed is copied when the disk works again.

use anyhow::{Context, Result, ensure};
use netraid_lab::acknowledged::{Writer, check};
use netraid_lab::mirror::{DEVICE, SOON};
use netraid_lab::{Cluster, Failing, Lab, scenario, wait_until};
use serde_json::Value;

/// All of a disk but the metadata in front.
const DATA: std::ops::Range<u64> = 1 << 20..u64::MAX;

#[test]
fn a_source_whose_disk_fails_goes_on_through_its_target_which_takes_over_and_brings_it_back() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        let writer = make_and_write(&cluster)?;
        let source = lab.node(1);
        source.must("dd if=/dev/urandom of=/mnt/large bs=1M count=8 conv=fsync status=none")?;
        let sum = source.must("sha256sum /mnt/large")?;

        // Reads fail first: a target serves them.
        source.disk(1).fail(DATA, Failing::Reads)?;
        source.must("echo 3 >/proc/sys/vm/drop_caches")?;
        ensure!(source.must("sha256sum /mnt/large")? == sum, "read wrongly");
        writer.wait_more(20, SOON)?;
        // Then everything does.
        source.disk(1).fail(0..u64::MAX, Failing::Both)?;
        source.must("echo 3 >/proc/sys/vm/drop_caches")?;
        ensure!(source.must("sha256sum /mnt/large")? == sum, "read wrongly");
        writer.wait_more(20, SOON)?;
        wait_until(SOON, "the status says that the own disk failed", || {
            let own = node_of(&cluster.status(1)?, 1)?;
            Ok((own["disk"] != "UpToDate").then_some(()))
        })
        .with_context(|| cluster.status(1).unwrap_or_default().to_string())?;
        ensure!(node_of(&cluster.status(1)?, 2)?["status"] == "Target");
        let told = writer.stop()?;
        source.must("umount /mnt")?;
        // Its own leg could not be told.
        let stopped = source.run("netraid stop data")?;
        ensure!(
            stopped.status == 1 && stopped.stderr.contains("not cleanly"),
            "{}: {}",
            stopped.status,
            stopped.stderr
        );
        ensure!(cluster.status(1)?["service"] == "out");

        cluster.order(2, "start data")?;
        let target = lab.node(2);
        target.must(&format!("mount {DEVICE} /mnt"))?;
        check(target, "/mnt", told)?;
        ensure!(target.must("sha256sum /mnt/large")? == sum, "read wrongly");
        source.disk(1).heal()?;
        cluster.wait_words(2, &["Target", "Source"])?;
        let resync = cluster.last_resync(2, 1)?;
        ensure!(resync["full"] == false, "resynced in full: {resync}");
        target.must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
        cluster.order(2, "stop data")?;
        cluster.check_equal(&[2, 1])
    });
}

#[test]
fn a_target_whose_disk_fails_writes_is_left_out_with_the_reason_and_gets_what_it_missed() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        let writer = make_and_write(&cluster)?;
        lab.node(2).disk(1).fail(DATA, Failing::Writes)?;
        wait_until(SOON, "node2 is left out", || {
            Ok((cluster.words(1)?[1] != "Target").then_some(()))
        })?;
        writer.wait_more(40, SOON)?;
        let failed = node_of(&cluster.status(1)?, 2)?;
        ensure!(!failed["failure"].is_null(), "no reason is told: {failed}");
        ensure!(failed["command"] == "mirror_action data resume node1 node2");
        lab.node(2).disk(1).heal()?;
        lab.node(1).must("mirror_action data resume node1 node2")?;
        cluster.wait_words(1, &["Source", "Target"])?;
        let resync = cluster.last_resync(1, 2)?;
        ensure!(resync["full"] == false, "resynced in full: {resync}");
        let told = writer.stop()?;
        check(lab.node(1), "/mnt", told)?;
        lab.node(1)
            .must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn a_source_whose_disk_hangs_is_seen_and_the_target_takes_over_when_it_is_switched_off() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        let writer = make_and_write(&cluster)?;
        writer.wait_more(20, SOON)?;
        lab.node(1).disk(1).stall()?;
        // The mirror's own thread may hang with its disk; netraidd tells all the same.
        wait_until(SOON, "node1 says that its disk hangs", || {
            let problems = cluster.status(1)?["problems"].to_string();
            Ok(problems.contains("has not ended any request").then_some(()))
        })
        .with_context(|| cluster.status(1).unwrap_or_default().to_string())?;
        let told = writer.told()?;
        lab.node(1).crash()?;
        cluster.order(2, "start data")?;
        lab.node(2).must(&format!("mount {DEVICE} /mnt"))?;
        check(lab.node(2), "/mnt", told)?;
        lab.node(1).disk(1).resume()?;
        lab.node(1).start()?;
        cluster.start_daemon(1)?;
        cluster.wait_words(2, &["Target", "Source"])?;
        lab.node(2)
            .must(&format!("umount /mnt && e2fsck -fn {DEVICE}"))?;
        cluster.order(2, "stop data")?;
        cluster.check_equal(&[2, 1])
    });
}

/// A mirror in sync with a file system, on which an application writes.
fn make_and_write(cluster: &Cluster<'_>) -> Result<Writer> {
    cluster.make()?;
    let source = cluster.lab.node(1);
    source.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
    let writer = Writer::start(source, "/mnt", 0)?;
    writer.wait_more(20, SOON)?;
    Ok(writer)
}

fn node_of(status: &Value, node: usize) -> Result<Value> {
    let nodes = status["nodes"].as_array().context("no nodes")?;
    Ok(nodes.get(node - 1).context("no such node")?.clone())
}
