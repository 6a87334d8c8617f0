//! Runs schedules by their seeds on all processors, and says how to replay the one that failed. Both simulations use it.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number that a variable of the environment holds.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}"))
    })
}

/// Runs the schedules of the seeds from `first` to `end`, and adds up what they tell; panics with the one that failed.
/// `replay` is asked on its thread for the words that run it again, behind those that name its seed.
pub fn run_all<T: Default + Send>(
    (first, end): (u64, u64),
    run: fn(u64) -> T,
    add: fn(&mut T, &T),
    replay: fn() -> String,
) -> T {
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get() as u64);
    let (next, total) = (AtomicU64::new(first), Mutex::new(T::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = T::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        add(&mut total.lock().unwrap(), &mine);
                        return;
                    }
                    let Ok(tally) = catch_unwind(|| run(seed)) else {
                        next.store(end, Ordering::Relaxed);
                        panic!(
                            "schedule {seed} failed after {} schedules; replay it with: NETRAID_SEED={seed}{}",
                            seed - first,
                            replay()
                        );
                    };
                    add(&mut mine, &tally);
                }
            });
        }
    });
    total.into_inner().unwrap()
}
