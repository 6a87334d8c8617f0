//! netraidd over the kernel's RAID1: who may go into service, and what comes back how, with real kernels and power losses.

use anyhow::{Result, ensure};
use netraid_lab::acknowledged::{Writer, check};
use netraid_lab::mirror::{DEVICE, SOON};
use netraid_lab::{Cluster, Lab, Load, scenario, wait_until};

#[test]
fn the_target_takes_over_after_a_power_loss_and_the_old_source_comes_back_by_itself() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        cluster.wait_words(2, &["Source", "Target"])?;
        let first = lab.node(1);
        first.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let told = work(first, 0)?;
        first.crash()?;

        cluster.order(2, "start data")?;
        ensure!(cluster.words(2)? == ["Unknown", "Source"]);
        let second = lab.node(2);
        second.must(&format!("mount {DEVICE} /mnt"))?;
        check(second, "/mnt/told", told)?;
        let told = work(second, told)?;

        first.start()?;
        cluster.start_daemon(1)?;
        cluster.wait_words(2, &["Target", "Source"])?;
        cluster.wait_words(1, &["Target", "Source"])?;
        let resync = cluster.last_resync(2, 1)?;
        ensure!(resync["full"] == false, "resynced in full: {resync}");

        second.must("umount /mnt")?;
        cluster.order(2, "stop data")?;
        cluster.check_equal(&[2, 1])?;
        cluster.order(1, "start data")?;
        first.must(&format!("mount {DEVICE} /mnt"))?;
        check(first, "/mnt/told", told)?;
        first.must("umount /mnt")?;
        cluster.wait_words(1, &["Source", "Target"])?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn a_cable_that_is_pulled_costs_the_leg_and_its_return_what_it_missed() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        let source = lab.node(1);
        source.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let writer = Writer::start(source, "/mnt/told", 0)?;
        writer.wait_more(20, SOON)?;
        lab.cut(1, 2)?;
        cluster.wait_words(1, &["Source", "Unknown"])?;
        writer.wait_more(50, SOON)?;
        lab.join(1, 2)?;
        cluster.wait_words(1, &["Source", "Target"])?;
        let told = writer.stop()?;
        source.must("umount /mnt")?;
        let resync = cluster.last_resync(1, 2)?;
        ensure!(resync["full"] == false, "resynced in full: {resync}");
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])?;
        cluster.order(2, "start data")?;
        lab.node(2).must(&format!("mount {DEVICE} /mnt"))?;
        check(lab.node(2), "/mnt/told", told)?;
        lab.node(2).must("umount /mnt")?;
        cluster.order(2, "stop data")?;
        Ok(())
    });
}

#[test]
fn killed_daemons_are_not_missed_by_the_application_and_take_up_what_they_left() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        let source = lab.node(1);
        source.must(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let before = cluster.last_resync(1, 2)?;
        let writer = Writer::start(source, "/mnt/told", 0)?;
        for killed in [&[1][..], &[2], &[1, 2]] {
            for node in killed {
                cluster.kill_daemon(*node)?;
            }
            writer.wait_more(20, SOON)?;
            for node in killed {
                cluster.start_daemon(*node)?;
            }
            cluster.wait_words(1, &["Source", "Target"])?;
            cluster.wait_words(2, &["Source", "Target"])?;
            writer.wait_more(20, SOON)?;
        }
        let told = writer.stop()?;
        // The daemon that took the mirror up has seen no resync; the leg was never out.
        let status = cluster.status(1)?;
        let after = &status["nodes"][1]["last_resync"];
        ensure!(after.is_null() || *after == before, "{status}");
        source.must("umount /mnt")?;
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])?;
        cluster.order(2, "start data")?;
        lab.node(2).must(&format!("mount {DEVICE} /mnt"))?;
        check(lab.node(2), "/mnt/told", told)?;
        lab.node(2).must("umount /mnt")?;
        cluster.order(2, "stop data")?;
        Ok(())
    });
}

#[test]
fn killed_daemons_and_exports_cost_the_application_a_short_pause_and_nothing_that_was_written() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        cluster.wait_words(2, &["Source", "Target"])?;
        let load = Load::start(lab.node(1), DEVICE, "8 4")?;
        for killed in ["source's netraidd", "target's netraidd", "target's export"] {
            match killed {
                "target's export" => {
                    lab.node(2).must("pkill -9 -x nbd-server")?;
                    // The daemon of the source was begun anew, and has seen none before.
                    let resync = wait_until(SOON, "the leg is taken back", || {
                        let resync = cluster.status(1)?["nodes"][1]["last_resync"].clone();
                        Ok(resync.is_object().then_some(resync))
                    })?;
                    ensure!(resync["full"] == false, "resynced in full: {resync}");
                }
                daemon => {
                    let node = if daemon.starts_with("source") { 1 } else { 2 };
                    cluster.kill_daemon(node)?;
                    load.go_on(200)?;
                    cluster.start_daemon(node)?;
                }
            }
            cluster.wait_words(1, &["Source", "Target"])?;
            cluster.wait_words(2, &["Source", "Target"])?;
            load.go_on(200)?;
            let told = load.told()?;
            lab.note(&format!(
                "{killed} killed: no write took longer than {} ms",
                told.longest_ms
            ));
        }
        let told = load.finish()?;
        println!("no write took longer than {} ms", told.longest_ms);
        // A link that nobody gives up costs ten seconds, the timeout of its requests.
        ensure!(told.longest_ms < 8000, "{told:?}");
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

/// Works for a moment; the number up to which everything is durable.
fn work(node: &netraid_lab::Node, before: u64) -> Result<u64> {
    let writer = Writer::start(node, "/mnt/told", before)?;
    writer.wait_more(50, SOON)?;
    writer.stop()
}
