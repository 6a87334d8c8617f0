//! The engine under simulated disks, links and power failures: random schedules, each from a seed that reproduces it.
//!
//! A schedule drives the real engine with legs whose caches are volatile, whose writes fail, tear, hang or land late,
//! and crashes it; promises P1 to P4 are checked after every step. To run more, or to replay one:
//!
//! ```text
//! NETRAID_SCHEDULES=200000 cargo test --release -p netraid --test simulation
//! NETRAID_SEED=1234 cargo test --release -p netraid --test simulation -- --nocapture
//! ```
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
mod disk;
mod random;
mod schedule;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}"))
    })
}

#[test]
fn every_schedule_keeps_the_promises() {
    if let Some(seed) = number("NETRAID_SEED") {
        let outcome = schedule::run(seed, true);
        println!("schedule {seed} held: {outcome:?}");
        return;
    }
    let schedules = number("NETRAID_SCHEDULES").unwrap_or(20_000);
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get() as u64);
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let totals = [const { AtomicU64::new(0) }; 7];
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= schedules {
                        return;
                    }
                    let Ok(outcome) = catch_unwind(|| schedule::run(seed, false)) else {
                        next.store(schedules, Ordering::Relaxed);
                        panic!("schedule {seed} failed; replay it with: NETRAID_SEED={seed} cargo test --release -p netraid --test simulation -- --nocapture");
                    };
                    for (total, count) in totals.iter().zip(outcome.counts()) {
                        total.fetch_add(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let [
        steps,
        acknowledged,
        crashes,
        failovers,
        resyncs,
        refusals,
        unresolved,
    ] = totals.map(AtomicU64::into_inner);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{schedules} schedules in {seconds:.1} s ({:.0} a minute): {steps} steps, {acknowledged} writes acknowledged, \
         {crashes} crashes, {failovers} failovers, {resyncs} resyncs finished, {refusals} legs refused, {unresolved} left to an administrator",
        schedules as f64 / seconds * 60.0
    );
    assert!(
        unresolved * 1000 <= schedules,
        "too many legs were refused for good: {unresolved}"
    );
    // A simulation in which nothing happens proves nothing.
    for (what, count) in [
        ("acknowledged writes", acknowledged),
        ("crashes", crashes),
        ("failovers", failovers),
        ("finished resyncs", resyncs),
        ("refusals", refusals),
    ] {
        assert!(count * 20 > schedules, "too few {what}: {count}");
    }
}
