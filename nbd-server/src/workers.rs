//! Threads for what has to wait for a disk: started on demand, bounded in number, gone when idle.
//!
//! Each device has its own, so that a disk that hangs takes no threads from another one.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// The threads of one device.
#[derive(Clone)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    most: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Bounded by what the connections may have in flight.
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Workers {
    /// At most `most` threads called `name` (the kernel shows 15 bytes of it).
    pub(crate) fn new(name: &str, most: usize) -> Workers {
        let shared = Shared {
            name: name.to_owned(),
            most,
            state: Mutex::default(),
            wake: Condvar::new(),
        };
        Workers {
            shared: Arc::new(shared),
        }
    }

    /// Runs `job` on one of the threads; on this one if the system gives none.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            drop(state);
            self.shared.wake.notify_one();
            return;
        }
        if state.threads >= self.shared.most {
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(self.shared.name.clone())
            .stack_size(STACK);
        if let Err(error) = thread.spawn(move || shared.work()) {
            tracing::warn!(%error, "no thread for disk access, going on without");
            let mut state = self.shared.lock();
            state.threads -= 1;
            if state.threads == 0 {
                let jobs = std::mem::take(&mut state.jobs);
                drop(state);
                jobs.into_iter().for_each(run);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                run(job);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (back, waited) = self
                .wake
                .wait_timeout(state, IDLE)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            state = back;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// A job that panics answers its request through the completion's own guard; the thread goes on.
fn run(job: Job) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        tracing::error!("a disk access panicked");
    }
}

const STACK: usize = 256 << 10;
const IDLE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_side_by_side_up_to_the_bound() {
        let workers = Workers::new("test", 2);
        let (report, reports) = mpsc::channel();
        let gates: Vec<mpsc::Sender<()>> = (0..3)
            .map(|number| {
                let (open, gate) = mpsc::channel();
                let report = report.clone();
                workers.run(move || {
                    report.send(number).unwrap();
                    gate.recv().unwrap();
                });
                open
            })
            .collect();
        let mut started = vec![reports.recv().unwrap(), reports.recv().unwrap()];
        started.sort();
        assert_eq!(started, [0, 1]);
        assert!(reports.try_recv().is_err(), "the third waits for a thread");
        gates[0].send(()).unwrap();
        assert_eq!(reports.recv().unwrap(), 2);
        gates[1].send(()).unwrap();
        gates[2].send(()).unwrap();
    }

    #[test]
    fn a_job_that_panics_takes_no_thread_away() {
        let workers = Workers::new("test", 1);
        let (report, reports) = mpsc::channel();
        workers.run(|| panic!("on purpose"));
        workers.run(move || report.send(()).unwrap());
        reports.recv().unwrap();
    }
}
