//! Targets that die, hang and come back under load: how long the application stands still, and what is copied.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Job, Lab, Load, Node, scenario};
use std::time::Duration;

const MIB: u64 = 1 << 20;

#[test]
fn a_target_that_loses_power_under_load_costs_a_short_pause_and_returns_with_what_it_missed() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 2 --dead-timeout 0".to_owned();
        mirror.make()?;
        mirror.wait_clean()?;
        let load = Load::start(lab.node(1), DEVICE, "2")?;
        lab.node(2).crash()?;
        mirror.wait_lost(2, SOON)?;
        load.go_on(500)?;
        // The kernel looks at its requests once a timeout, so the last one may have taken almost two.
        stood_still_at_most(load, Duration::from_secs(6))?;

        lab.node(2).start()?;
        mirror.export(2)?;
        returns_with_what_it_missed(&mirror, 2 * MIB, || mirror.take_back(2))?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_target_returns_while_the_application_writes_to_the_whole_mirror() {
    scenario(Lab::builder().node(&[32]).node(&[32]), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 2 --dead-timeout 0".to_owned();
        // The application would have all of the disks for itself.
        mirror.start_words = "--speed-limit-min 100000".to_owned();
        mirror.make()?;
        let load = Load::start(lab.node(1), DEVICE, "30 4")?;
        for _ in 0..2 {
            lab.node(2).crash()?;
            mirror.wait_lost(2, SOON)?;
            load.go_on(500)?;
            lab.node(2).start()?;
            mirror.export(2)?;
            mirror.take_back(2)?;
            mirror.wait_whole()?;
            load.go_on(500)?;
        }
        stood_still_at_most(load, Duration::from_secs(6))?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_killed_server_that_is_back_in_time_costs_no_leg_and_one_that_stays_away_costs_what_it_missed()
{
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 2 --dead-timeout 6".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        mirror.wait_clean()?;
        let load = Load::start(lab.node(1), DEVICE, "2")?;
        lab.node(2).must("pkill -KILL -x nbd-server")?;
        watch.wait_for("\"link_dead\"", SOON)?;
        let server = mirror.export(2)?;
        watch.wait_for("\"reconnected\"", SOON)?;
        load.go_on(200)?;
        ensure!(mirror.leg(2)? == "Target", "the leg was lost");
        ensure!(load.told()?.longest_ms < 6_000, "{:?}", load.told()?);

        server.kill()?;
        mirror.wait_lost(2, SOON)?;
        load.go_on(500)?;
        stood_still_at_most(load, Duration::from_secs(14))?;
        let reconnected = count(&watch, "\"reconnected\"");
        mirror.export(2)?;
        netraid_lab::wait_until(SOON, "a new link", || {
            Ok((count(&watch, "\"reconnected\"") > reconnected).then_some(()))
        })?;
        returns_with_what_it_missed(&mirror, 2 * MIB, || mirror.add(2))?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_frozen_target_stalls_the_application_no_longer_than_the_timeouts_say() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 2 --dead-timeout 3".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        mirror.wait_clean()?;
        let load = Load::start(lab.node(1), DEVICE, "2")?;
        lab.node(2).freeze()?;
        mirror.wait_lost(2, SOON)?;
        load.go_on(500)?;
        stood_still_at_most(load, Duration::from_secs(12))?;
        lab.node(2).thaw()?;
        watch.wait_for("\"reconnected\"", SOON)?;
        returns_with_what_it_missed(&mirror, 2 * MIB, || mirror.add(2))?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_stopped_server_whose_node_still_takes_packets_stalls_the_application_no_longer() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 2 --dead-timeout 3".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        mirror.wait_clean()?;
        let load = Load::start(lab.node(1), DEVICE, "2")?;
        lab.node(2).must("pkill -STOP -x nbd-server")?;
        mirror.wait_lost(2, SOON)?;
        load.go_on(500)?;
        stood_still_at_most(load, Duration::from_secs(12))?;
        lab.node(2).must("pkill -CONT -x nbd-server")?;
        watch.wait_for("\"reconnected\"", SOON)?;
        returns_with_what_it_missed(&mirror, 2 * MIB, || mirror.add(2))?;
        mirror.stop_and_compare()
    });
}

#[test]
fn a_target_that_restarts_in_time_has_forgotten_what_was_not_flushed_and_is_resynced() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 10".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        mirror.wait_clean()?;
        // Answered, and in the memory of the target's kernel.
        write_unflushed(lab.node(1), 10)?;
        lab.node(2).crash()?;
        lab.node(2).start()?;
        mirror.export(2)?;
        watch.wait_for("\"given_up\"", SOON)?;
        let said = watch.output().stdout;
        ensure!(said.contains("restarted"), "no reason: {said}");
        lab.node(1).must(&format!("timeout 40 sync {DEVICE}"))?;
        mirror.wait_lost(2, SOON)?;
        mirror.take_back(2)?;
        mirror.wait_whole()?;
        mirror.stop_and_compare()
    });
}

#[test]
fn what_a_target_had_not_flushed_is_copied_also_if_its_loss_is_noticed_late() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        // Longer than bits stay set: 2 s here, 5 to 10 s by default. So the source's are gone before it notices, but not
        // the leg's own: it drops them when it has flushed what they stand for.
        mirror.attach_words = "--timeout 10 --dead-timeout 0".to_owned();
        mirror.make()?;
        mirror.wait_clean()?;
        write_unflushed(lab.node(1), 10)?;
        lab.cut(1, 2)?;
        mirror.wait_clean()?;
        lab.node(2).crash()?;
        lab.node(2).start()?;
        lab.join(1, 2)?;
        mirror.export(2)?;
        write_unflushed(lab.node(1), 20)?;
        mirror.wait_lost(2, SOON)?;
        mirror.take_back(2)?;
        mirror.wait_whole()?;
        mirror.stop_and_compare()
    });
}

/// 4 MiB from `mib` on, answered by all legs that are there, and flushed by none.
fn write_unflushed(node: &Node, mib: u64) -> Result<()> {
    let write = "dd if=/dev/urandom bs=64k count=64 oflag=direct conv=notrunc status=none";
    node.must(&format!("{write} of={DEVICE} seek={}", mib * 16))?;
    Ok(())
}

/// Ends the load; nothing that it wrote is missing, and no write took longer.
fn stood_still_at_most(load: Load, most: Duration) -> Result<()> {
    let told = load.finish()?;
    println!("{told:?}");
    ensure!(
        u128::from(told.longest_ms) <= most.as_millis(),
        "it stood still for longer than {most:?}: {told:?}"
    );
    Ok(())
}

/// Adds the target's leg with `add`: what is written to it is `missed` bytes or little more.
fn returns_with_what_it_missed(
    mirror: &Mirror,
    missed: u64,
    add: impl FnOnce() -> Result<serde_json::Value>,
) -> Result<()> {
    let mut added = serde_json::Value::Null;
    let written = mirror.written_to(2, || {
        added = add()?;
        mirror.wait_whole()
    })?;
    println!("{written} bytes written, {added}");
    ensure!(added["full"] == false, "all is copied: {added}");
    let most = missed + MIB;
    ensure!(
        written <= most,
        "{written} bytes were written to the target, not {most} at most: {added}"
    );
    Ok(())
}

fn count(job: &Job, text: &str) -> usize {
    job.output().stdout.matches(text).count()
}
