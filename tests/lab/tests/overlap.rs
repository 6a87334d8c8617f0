//! Applications that write to one place several times at once, without waiting. What stays is undefined, but it should
//! be the same on all legs; where the kernel's md does not see to that, it is shown here.

use anyhow::{Result, bail, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Cluster, Job, Lab, Node, scenario, wait_until};

#[test]
fn a_link_replaced_under_overlapping_writes_may_leave_legs_that_differ_until_a_full_resync() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 5 --dead-timeout 60".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        let (source, target) = (lab.node(1), lab.node(2));
        let rounds = 3;
        for round in 1.. {
            let old = write_to_a_server_that_dies(&mirror)?;
            mirror.export(2)?;
            wait_until(SOON, "a new link", || {
                let said = watch.output().stdout;
                Ok((said.matches("\"reconnected\"").count() >= round).then_some(()))
            })?;
            // nbd sends them at once, and what was in flight on the dead link only when its own timeout has passed.
            write_new(source)?;
            ensure!(old.wait(SOON)?.ok(), "a write failed");
            ensure!(mirror.leg(2)? == "Target", "the leg was lost");
            target.must("sync /dev/ubdb")?;
            if let Err(difference) = mirror.check_equal() {
                let difference = format!("{difference:#}");
                lab.note(&difference);
                ensure!(difference.contains("first at byte"), "{difference}");
                break;
            }
            if round == rounds {
                bail!(
                    "no difference in {rounds} rounds: the warning in the README may have become needless"
                );
            }
        }
        ensure!(mismatches(source)? > 0, "a check finds nothing");
        source.must("netraid array fullresync --tag data --node node2")?;
        mirror.wait_whole()?;
        ensure!(mismatches(source)? == 0, "a check finds something");
        mirror.stop_and_compare()
    });
}

#[test]
fn a_leg_that_is_given_up_with_its_link_is_the_same_after_overlapping_writes() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 5 --dead-timeout 0".to_owned();
        mirror.make()?;
        for _ in 0..3 {
            let old = write_to_a_server_that_dies(&mirror)?;
            mirror.export(2)?;
            write_new(lab.node(1))?;
            ensure!(old.wait(SOON)?.ok(), "a write failed");
            mirror.wait_lost(2, SOON)?;
            let added = mirror.take_back(2)?;
            ensure!(added["full"] == false, "all is copied: {added}");
            mirror.wait_whole()?;
            lab.node(2).must("sync /dev/ubdb")?;
            mirror.check_equal()?;
        }
        mirror.stop_and_compare()
    });
}

#[test]
fn netraidd_takes_a_leg_back_whose_link_died_under_overlapping_writes_and_it_is_the_same() {
    scenario(Lab::builder().nodes(2), |lab| {
        let cluster = Cluster::start(lab, "md")?;
        cluster.make()?;
        let back = || -> Result<usize> {
            let events = cluster.order(1, "events data --json")?;
            Ok(events.matches("\"in-sync\"").count())
        };
        for round in 2..5 {
            let old = write_to_one_that_dies(lab.node(1), lab.node(2), "nbd0")?;
            // Its netraidd starts the server again.
            write_new(lab.node(1))?;
            ensure!(old.wait(SOON)?.ok(), "a write failed");
            wait_until(SOON, "the leg is taken back", || {
                Ok((back()? >= round).then_some(()))
            })?;
            let resync = cluster.last_resync(1, 2)?;
            ensure!(resync["full"] == false, "all is copied: {resync}");
            lab.node(2).must("sync /dev/ubdb")?;
            cluster.check_equal(&[1, 2])?;
        }
        cluster.order(1, "stop data")?;
        cluster.check_equal(&[1, 2])
    });
}

#[test]
fn a_leg_is_added_to_an_array_that_serialises_overlapping_writes() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mirror = Mirror::of(lab);
        mirror.create()?;
        mirror.start()?;
        let source = lab.node(1);
        let policy = format!("{}/serialize_policy", md());
        // Linux 6.1 has no memory for a leg that comes later, and dies of it at the next write.
        source.must(&format!("echo 1 >{policy}"))?;
        mirror.export(2)?;
        mirror.attach(2)?;
        mirror.add(2)?;
        source.must(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=64k count=32 oflag=direct status=none"
        ))?;
        mirror.wait_whole()?;
        let now = source.must(&format!("cat {policy}"))?;
        ensure!(now.trim() == "1", "it is {now}");
        mirror.stop_and_compare()
    });
}

/// Begins several writes to each of four blocks, and kills the server before it has answered them.
fn write_to_a_server_that_dies(mirror: &Mirror) -> Result<Job> {
    write_to_one_that_dies(mirror.source_node(), mirror.lab.node(2), "nbd2")
}

/// The same, where the target's leg is another device.
fn write_to_one_that_dies(source: &Node, target: &Node, device: &str) -> Result<Job> {
    // The array is active and the bits are set, and both stay so: the writes below wait for no metadata.
    source.must(&format!(
        "cd {} && echo 10 >bitmap/time_base && echo 60 >safe_mode_delay && \
         dd if=/dev/urandom of={DEVICE} bs=64k count=1 oflag=direct status=none",
        md()
    ))?;
    target.must("pkill -STOP -x nbd-server")?;
    let writers = source.spawn(&write("old", 8))?;
    wait_until(SOON, "each block is being written", || {
        let inflight = source.must(&format!("cat /sys/block/{device}/inflight"))?;
        let writes = inflight.split_whitespace().nth(1).unwrap_or("0");
        Ok((writes.parse::<u32>()? >= 4).then_some(()))
    })?;
    // Another one may be started at once.
    target.must("old=$(pgrep -x nbd-server) && kill -KILL $old && while [ -e /proc/$old ]; do sleep 0.05; done")?;
    Ok(writers)
}

/// Writes each of the four blocks again, and waits for that.
fn write_new(source: &Node) -> Result<()> {
    let writers = source.spawn(&write("new", 4))?;
    ensure!(writers.wait(SOON)?.ok(), "a write failed");
    Ok(())
}

/// A command that writes so many times at once, block after block, and round again; no two blocks make one request.
fn write(word: &str, times: u32) -> String {
    format!(
        "yes {word} | head -c 4096 >/run/{word}; for n in $(seq {times}); do dd if=/run/{word} of={DEVICE} bs=4k \
         seek=$((n % 4 * 2)) count=1 oflag=direct conv=notrunc status=none & done; wait"
    )
}

/// How many sectors of the legs differ, by the kernel's count.
fn mismatches(source: &Node) -> Result<u64> {
    source.must(&format!("echo check >{}/sync_action", md()))?;
    wait_until(SOON, "the check is done", || {
        let action = source.must(&format!("cat {}/sync_action", md()))?;
        Ok((action.trim() == "idle").then_some(()))
    })?;
    let count = source.must(&format!("cat {}/mismatch_cnt", md()))?;
    Ok(count.trim().parse()?)
}

fn md() -> String {
    format!("/sys/block/$(basename $(readlink -f {DEVICE}))/md")
}
