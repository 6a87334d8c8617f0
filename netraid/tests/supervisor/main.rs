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
mod matrix;
mod oracle;
mod perform;
mod random;
mod scenario;
mod schedule;
mod show;
mod states;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use schedule::Tally;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}"))
    })
}

#[test]
fn every_schedule_keeps_the_promises() {
    if let Some(seed) = number("NETRAID_SEED") {
        println!("schedule {seed} held: {:?}", schedule::run(seed, true));
        return;
    }
    let first = number("NETRAID_FIRST").unwrap_or(0);
    let schedules = number("NETRAID_SCHEDULES").unwrap_or(20_000);
    let began = Instant::now();
    let total = run_all(first, first + schedules);
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
    ] {
        assert!(count * 2 > schedules, "too few {what}: {count}");
    }
}

/// Runs the schedules of the seeds from `first` to `end` on all processors; panics with the one that failed.
fn run_all(first: u64, end: u64) -> Tally {
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get() as u64);
    let (next, total) = (AtomicU64::new(first), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Tally::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        total.lock().unwrap().add(&mine);
                        return;
                    }
                    let Ok(tally) = catch_unwind(|| schedule::run(seed, false)) else {
                        next.store(end, Ordering::Relaxed);
                        panic!(
                            "schedule {seed} failed after {} schedules; replay it with: NETRAID_SEED={seed} \
                             cargo test --release -p netraid --test supervisor -- --nocapture every_schedule",
                            seed - first
                        );
                    };
                    mine.add(&tally);
                }
            });
        }
    });
    total.into_inner().unwrap()
}
