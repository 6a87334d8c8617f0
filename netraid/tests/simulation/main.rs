//! The engine under simulated disks, links and power failures: random schedules, each from a seed that reproduces it.
//!
//! A schedule drives the real engine with legs whose caches are volatile, whose writes fail, tear, hang or land late,
//! and crashes it; promises P1 to P4 and P6 are checked after every step. Some schedules are repeated with the source
//! dying at every moment in turn. To run more, or to replay one:
//!
//! ```text
//! NETRAID_SCHEDULES=200000 cargo test --release -p netraid --test simulation -- --nocapture
//! NETRAID_SEED=1234 cargo test --release -p netraid --test simulation -- --nocapture
//! NETRAID_SEED=1024 NETRAID_MOMENT=77 cargo test --release -p netraid --test simulation -- --nocapture
//! ```
//!
//! `NETRAID_FIRST` is the seed to begin with. `scripts/break-engine.sh` shows that it notices mistakes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "nothing here is used from outside"
)]

mod application;
mod checks;
mod disk;
mod endings;
mod faults;
mod flights;
mod holds;
mod pace;
mod random;
mod runner;
mod schedule;
mod tally;
mod verify;
mod world;

use std::time::Instant;

use runner::{number, run_all};
use tally::Tally;

#[test]
fn every_schedule_keeps_the_promises() {
    if let Some(seed) = number("NETRAID_SEED") {
        let tally = match number("NETRAID_MOMENT") {
            Some(moment) => schedule::run_until_moment(seed, moment, true),
            None => schedule::run(seed, true),
        };
        println!("schedule {seed} held: {tally:?}");
        return;
    }
    let first = number("NETRAID_FIRST").unwrap_or(0);
    let schedules = number("NETRAID_SCHEDULES").unwrap_or(20_000);
    let began = Instant::now();
    let run = |seed| schedule::run(seed, false);
    let total = run_all((first, first + schedules), run, Tally::add, replay);
    let seconds = began.elapsed().as_secs_f64();
    let counts: Vec<String> = total
        .counts()
        .iter()
        .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
        .collect();
    println!(
        "{schedules} schedules in {seconds:.1} s ({:.0} a minute): {}",
        schedules as f64 / seconds * 60.0,
        counts.join(", ")
    );
    expect_enough(schedules, &total);
}

/// The words that run the schedule of this thread again.
fn replay() -> String {
    let moment =
        schedule::moment().map_or(String::new(), |moment| format!(" NETRAID_MOMENT={moment}"));
    format!("{moment} cargo test --release -p netraid --test simulation -- --nocapture")
}

/// A simulation in which nothing happens proves nothing; one in which the mirror often ends with an administrator
/// having to choose proves that the engine is too timid.
fn expect_enough(schedules: u64, total: &Tally) {
    for (what, count) in [
        ("acknowledged writes", total.acknowledged),
        ("crashes", total.crashes),
        ("failovers", total.failovers),
        ("finished resyncs", total.resyncs),
        ("stops", total.stops),
        ("refusals", total.refusals),
        ("legs left behind", total.behind),
        ("growths", total.growths),
        ("resyncs by other nodes", total.foreign_resyncs),
        ("writes and flushes answered under a guard", total.guarded),
        ("events while requests are held back", total.held),
        ("digests", total.digests),
        ("verifies", total.verifies),
        ("rotten blocks", total.rot),
        (
            "errors of disks that are kept",
            total.repaired + total.passed_through,
        ),
    ] {
        assert!(count * 20 > schedules, "too few {what}: {count}");
    }
    let ends = schedules + total.crash_points;
    assert!(
        total.unresolved * 1000 <= ends,
        "too many legs were refused for good: {}",
        total.unresolved
    );
    assert!(
        total.full_resyncs * 100 <= total.resyncs,
        "too many full resyncs of legs with data: {}",
        total.full_resyncs
    );
}
