//! Which of the machine's processors a node runs on.
//!
//! A kernel that runs as a process has one processor of its own, and a process of its own for what runs in it: the two
//! wake each other at every system call of the guest. Let loose, they are spread over idle processors, and a system call
//! takes three to five times as long as on one.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The processor for a node: the nodes of a lab take turns, and labs that run at the same time begin with different ones.
///
/// # Errors
/// The system does not say which processors this process may use.
pub(crate) fn of_node(number: usize) -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("the processors of this process")?;
    let allowed: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect();
    // Of the test runner: different for tests that run at the same time.
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok();
    let lab = slot.and_then(|slot| slot.parse().ok());
    let lab = lab.unwrap_or(std::process::id() as usize);
    let turn = (lab + number) % allowed.len().max(1);
    allowed.get(turn).copied().context("no processor")
}
