//! Cables that are cut under load: for a second, for longer than the mirror waits, and what is copied afterwards.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Job, Lab, Load, scenario};
use std::time::Duration;

#[test]
fn a_cable_pulled_for_a_second_under_load_costs_a_pause_and_no_leg() {
    scenario(Lab::builder().nodes(2), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 20".to_owned();
        let watcher = make_watched(&mirror)?;
        let load = Load::start(lab.node(1), DEVICE, "")?;

        // Shorter than the timeout: TCP sends again what was lost, or the link is replaced.
        lab.cut(1, 2)?;
        load.stands_still(Duration::from_secs(1))?;
        lab.join(1, 2)?;
        load.go_on(100)?;
        ensure!(mirror.leg(2)? == "Target", "the leg was lost");

        // Longer: the kernel gives the link up, and the watch puts a new one in its place.
        let before = count(&watcher, "\"reconnected\"");
        lab.cut(1, 2)?;
        watcher.wait_for("\"link_dead\"", SOON)?;
        load.stands_still(Duration::from_secs(1))?;
        lab.join(1, 2)?;
        load.go_on(100)?;
        ensure!(mirror.leg(2)? == "Target", "the leg was lost");
        ensure!(
            count(&watcher, "\"reconnected\"") > before,
            "no new link: {}",
            watcher.output().stdout
        );
        let told = load.finish()?;
        println!("{told:?}");
        ensure!(told.longest_ms < 15_000, "it stood still: {told:?}");
        mirror.stop_and_compare()
    });
}

/// [`Mirror::make`] with one target and a watch over its device.
fn make_watched(mirror: &Mirror) -> Result<Job> {
    mirror.create()?;
    mirror.start()?;
    mirror.export(2)?;
    let watcher = mirror.attach_watched(2)?;
    mirror.add(2)?;
    mirror.wait_whole()?;
    Ok(watcher)
}

fn count(job: &Job, text: &str) -> usize {
    job.output().stdout.matches(text).count()
}
