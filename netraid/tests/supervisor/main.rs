//! The supervisor's state machines, alone and as clusters over simulated disks, links and power.
//!
//! - `scenario`: the text files in `scenarios/`, which say step by step what people see.
//! - `matrix`: every state and every event, pinned in `matrix.txt`.
//! - `schedule`: random schedules, each from a seed that reproduces it. To run more, or to replay one:
//!
//! ```text
//! NETRAID_SCHEDULES=1000000 cargo test --release -p netraid --test supervisor -- --nocapture every_schedule
//! NETRAID_SEED=1234 cargo test --release -p netraid --test supervisor -- --nocapture every_schedule
//! ```
//!
//! `NETRAID_FIRST` is the seed to begin with.
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

mod array;
mod cluster;
mod disk;
mod handler;
mod live;
mod matrix;
mod oracle;
mod perform;
#[path = "../simulation/random.rs"]
mod random;
#[path = "../simulation/runner.rs"]
mod runner;
mod scenario;
mod schedule;
mod show;
mod states;

use std::time::Instant;

use runner::{number, run_all};
use schedule::Tally;

#[test]
fn every_schedule_keeps_the_promises() {
    if let Some(seed) = number("NETRAID_SEED") {
        println!("schedule {seed} held: {:?}", schedule::run(seed, true));
        return;
    }
    let first = number("NETRAID_FIRST").unwrap_or(0);
    let schedules = number("NETRAID_SCHEDULES").unwrap_or(20_000);
    let began = Instant::now();
    let run = |seed| schedule::run(seed, false);
    let total = run_all((first, first + schedules), run, Tally::add, replay);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{schedules} schedules in {seconds:.1} s ({:.0} a minute): {total:?}",
        schedules as f64 / seconds * 60.0
    );
    // A simulation in which nothing happens proves nothing.
    for (what, count) in [
        ("answered writes", total.answers),
        ("starts", total.starts),
        ("crashes", total.crashes),
        ("resyncs", total.resyncs),
        ("refusals", total.refusals),
        ("nodes marked as outdated", total.outdates * 20),
        ("nodes that were fenced", total.fenced * 20),
        ("starts with fencing", total.fencing),
        ("starts with a quorum", total.voted * 2),
        ("writes that were held back", total.held * 20),
        ("split brains that a policy ended", total.judged * 50),
    ] {
        assert!(count * 2 > schedules, "too few {what}: {count}");
    }
}

/// The words that run a schedule again.
fn replay() -> String {
    " cargo test --release -p netraid --test supervisor -- --nocapture every_schedule".to_owned()
}
