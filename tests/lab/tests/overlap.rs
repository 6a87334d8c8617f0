//! Applications that write to one place several times at once, without waiting. What stays is undefined, but it should
//! be the same on all legs; where the kernel's md does not see to that, it is shown here.

use anyhow::{Result, bail, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Job, Lab, Node, scenario, wait_until};

#[test]
fn a_link_replaced_under_overlapping_writes_may_leave_legs_that_differ_until_a_full_resync() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 20".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        let (source, target) = (lab.node(1), lab.node(2));
        // nbd sends again what was in flight, one request after the other as their timeouts end, in any order.
        let rounds = 20;
        for round in 1.. {
            let writers = write_while_nobody_answers(&mirror)?;
            watch_wait(&watch, "\"link_dead\"", round)?;
            target.must("pkill -CONT -x nbd-server")?;
            ensure!(writers.wait(SOON)?.ok(), "a write failed");
            watch_wait(&watch, "\"reconnected\"", round)?;
            ensure!(mirror.leg(2)? == "Target", "the leg was lost");
            target.must("sync /dev/ubdb")?;
            if let Err(difference) = mirror.check_equal() {
                let difference = format!("{difference:#}");
                lab.note(&difference);
                ensure!(difference.contains("first at byte"), "{difference}");
                println!("after {round} rounds: {difference}");
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
        mirror.attach_words = "--timeout 1 --dead-timeout 0".to_owned();
        mirror.make()?;
        for _ in 0..6 {
            let writers = write_while_nobody_answers(&mirror)?;
            mirror.wait_lost(2, SOON)?;
            ensure!(writers.wait(SOON)?.ok(), "a write failed");
            lab.node(2).must("pkill -CONT -x nbd-server")?;
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

/// Stops the target's server and begins eight writes to each of four blocks at once.
fn write_while_nobody_answers(mirror: &Mirror) -> Result<Job> {
    let source = mirror.source_node();
    // The array is active and the bits are set, and both stay so: the writes below wait for no metadata.
    source.must(&format!(
        "cd {} && echo 10 >bitmap/time_base && echo 60 >safe_mode_delay && \
         dd if=/dev/urandom of={DEVICE} bs=64k count=1 oflag=direct status=none",
        md()
    ))?;
    mirror.lab.node(2).must("pkill -STOP -x nbd-server")?;
    let writers = source.spawn(&format!(
        "for n in $(seq 32); do yes $n | head -c 4096 | dd of={DEVICE} bs=4k seek=$((n % 4)) count=1 iflag=fullblock \
         oflag=direct conv=notrunc status=none & done; wait"
    ))?;
    Ok(writers)
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

fn watch_wait(watch: &Job, event: &str, times: usize) -> Result<()> {
    wait_until(SOON, event, || {
        Ok((watch.output().stdout.matches(event).count() >= times).then_some(()))
    })
}
