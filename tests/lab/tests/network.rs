//! Cables that are cut under load: for a second, for longer than the mirror waits, and what is copied afterwards.

use anyhow::ensure;
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Job, Lab, Load, scenario, wait_until};
use std::time::Duration;

const MIB: u64 = 1 << 20;

#[test]
fn a_cable_pulled_for_a_second_under_load_costs_a_pause_and_no_leg() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 20 --connections 2".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        let load = Load::start(lab.node(1), DEVICE, "")?;

        // Perhaps shorter than the timeout: then TCP sends again what was lost.
        lab.cut(1, 2)?;
        load.stands_still(Duration::from_secs(1))?;
        lab.join(1, 2)?;
        load.go_on(100)?;
        ensure!(mirror.leg(2)? == "Target", "the leg was lost");
        wait_until(SOON, "what died is replaced", || {
            let (dead, replaced) = ("\"link_dead\"", "\"reconnected\"");
            Ok((count(&watch, dead) == count(&watch, replaced)).then_some(()))
        })?;

        // Longer: the kernel gives links up, and the watch puts new ones in their place.
        let before = count(&watch, "\"link_dead\"");
        lab.cut(1, 2)?;
        wait_until(SOON, "a link dies", || {
            Ok((count(&watch, "\"link_dead\"") > before).then_some(()))
        })?;
        lab.join(1, 2)?;
        load.go_on(100)?;
        ensure!(mirror.leg(2)? == "Target", "the leg was lost");
        let said = watch.output().stdout;
        ensure!(said.contains("\"reconnected\""), "no new link: {said}");
        let told = load.finish()?;
        println!("{told:?}");
        // Less than the 20 s after which the leg would have been given up.
        ensure!(told.longest_ms < 15_000, "it stood still: {told:?}");
        mirror.stop_and_compare()
    });
}

#[test]
fn a_cut_of_thirty_seconds_costs_the_leg_and_only_what_changed_is_copied() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 2 --dead-timeout 4".to_owned();
        let watch = mirror.make_watched()?.remove(0);
        mirror.wait_clean()?;
        // Two MiB, over and over.
        let load = Load::start(lab.node(1), DEVICE, "2")?;
        lab.cut(1, 2)?;
        load.pass(Duration::from_secs(30))?;
        mirror.wait_lost(2, SOON)?;
        let told = load.finish()?;
        println!("{told:?}");
        // The dead timeout, and a few timeouts.
        ensure!(told.longest_ms < 14_000, "it stood still: {told:?}");
        let write = "dd if=/dev/urandom bs=1M count=8 seek=32 oflag=direct conv=notrunc";
        lab.node(1)
            .must(&format!("{write} of={DEVICE} status=none"))?;

        lab.join(1, 2)?;
        watch.wait_for("\"reconnected\"", SOON)?;
        let mut added = serde_json::Value::Null;
        let written = mirror.written_to(2, || {
            added = mirror.add(2)?;
            mirror.wait_whole()
        })?;
        println!("{added} {written}");
        ensure!(added["full"] == false, "all is copied: {added}");
        ensure!(
            (8 * MIB..=11 * MIB).contains(&written),
            "{written} bytes were written to the target: {added}"
        );
        mirror.stop_and_compare()
    });
}

fn count(job: &Job, text: &str) -> usize {
    job.output().stdout.matches(text).count()
}
