//! Mirrors with two, three and seven targets, of which one is slow, one flaps and one is lost.

use anyhow::{Result, ensure};
use netraid_lab::mirror::{DEVICE, Mirror, SOON};
use netraid_lab::{Lab, Load, scenario};
use std::time::Duration;

#[test]
fn two_targets_of_which_one_is_slow_and_the_other_is_lost_and_returns() {
    scenario(Lab::builder().nodes(3), |lab| {
        let mirror = Mirror::of(lab);
        mirror.make()?;
        mirror.wait_clean()?;
        lab.delay(1, 3, 20)?;
        let load = Load::start(lab.node(1), DEVICE, "8 4")?;
        load.go_on(100)?;
        lab.node(2).crash()?;
        mirror.wait_lost(2, SOON)?;
        load.go_on(200)?;
        ensure!(mirror.leg(3)? == "Target", "the slow leg was lost");
        lab.node(2).start()?;
        mirror.export(2)?;
        let added = mirror.take_back(2)?;
        ensure!(added["full"] == false, "all is copied: {added}");
        mirror.wait_whole()?;
        load.go_on(100)?;
        println!("{:?}", load.finish()?);
        mirror.stop_and_compare()
    });
}

#[test]
fn three_targets_of_which_one_is_slow_and_one_flaps_every_two_seconds_for_a_minute() {
    scenario(Lab::builder().nodes(4), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 20".to_owned();
        mirror.make_watched()?;
        lab.delay(1, 2, 20)?;
        let load = Load::start(lab.node(1), DEVICE, "8 4")?;
        // A minute of it: the application has waited for twenty seconds in all by then, and the leg is given up.
        flap(lab, &load, 4, 15)?;
        mirror.wait_lost(4, SOON)?;
        for target in 2..=3 {
            let word = mirror.leg(target)?;
            ensure!(word == "Target", "the leg of node{target} is {word}");
        }
        let added = mirror.take_back(4)?;
        ensure!(added["full"] == false, "all is copied: {added}");
        mirror.wait_whole()?;
        load.go_on(200)?;
        println!("{:?}", load.finish()?);
        mirror.stop_and_compare()
    });
}

#[test]
fn a_target_that_flaps_and_is_not_waited_for_is_lost_and_taken_back_each_time() {
    scenario(Lab::builder().nodes(3), |lab| {
        let mut mirror = Mirror::of(lab);
        mirror.attach_words = "--timeout 1 --dead-timeout 0".to_owned();
        mirror.make()?;
        mirror.wait_clean()?;
        let load = Load::start(lab.node(1), DEVICE, "4")?;
        for _ in 0..5 {
            lab.cut(1, 3)?;
            mirror.wait_lost(3, SOON)?;
            load.go_on(100)?;
            lab.join(1, 3)?;
            let added = mirror.take_back(3)?;
            ensure!(added["full"] == false, "all is copied: {added}");
            mirror.wait_whole()?;
        }
        println!("{:?}", load.finish()?);
        mirror.stop_and_compare()
    });
}

#[test]
fn seven_targets_of_which_one_is_slow_one_flaps_and_one_is_lost_and_returns() {
    let small = Lab::builder().nodes(8).disks(&[32]).memory(160);
    scenario(small, |lab| {
        let mut mirror = Mirror::of(lab);
        // Eight kernels on two processors: they answer late without any fault.
        mirror.attach_words = "--timeout 3 --dead-timeout 15".to_owned();
        mirror.make_watched()?;
        mirror.wait_clean()?;
        lab.delay(1, 2, 20)?;
        let load = Load::start(lab.node(1), DEVICE, "4")?;
        lab.node(4).must("pkill -KILL -x nbd-server")?;
        flap(lab, &load, 3, 2)?;
        mirror.wait_lost(4, SOON)?;
        load.go_on(100)?;
        mirror.export(4)?;
        let added = mirror.take_back(4)?;
        ensure!(added["full"] == false, "all is copied: {added}");
        mirror.wait_whole()?;
        load.go_on(100)?;
        println!("{:?}", load.finish()?);
        mirror.stop_and_compare()
    });
}

/// Pulls and plugs a target's cable, each for two seconds of the application's time, so many times.
fn flap(lab: &Lab, load: &Load, target: usize, times: u64) -> Result<()> {
    for _ in 0..times {
        lab.cut(1, target)?;
        load.pass(Duration::from_secs(2))?;
        lab.join(1, target)?;
        load.pass(Duration::from_secs(2))?;
    }
    Ok(())
}
