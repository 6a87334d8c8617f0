//! An application that writes all the time (`bin/lab-load.rs`), and what it says: how much, and how long it had to wait.

use crate::job::Job;
use crate::node::Node;
use crate::wait::wait_until;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the load says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Writes that were answered.
    pub writes: u64,
    /// Its age in milliseconds, by the node's clock.
    pub ms: u64,
    /// How long a write has been waiting for its answer.
    pub waiting_ms: u64,
    /// The longest that a write has taken until now.
    pub longest_ms: u64,
    /// It has stopped, and read back all that it had written.
    pub ended: bool,
}

/// The load, under way.
#[derive(Debug)]
pub struct Load {
    job: Job,
}

impl Load {
    /// Starts writing to a device; the words are those of `lab-load`.
    ///
    /// # Errors
    /// It does not write.
    pub fn start(node: &Node, device: &str, words: &str) -> Result<Load> {
        let job = node.spawn(&format!("exec lab-load {device} {words}"))?;
        let load = Load { job };
        load.go_on(20)?;
        Ok(load)
    }

    /// What it said last.
    ///
    /// # Errors
    /// It failed.
    pub fn told(&self) -> Result<Told> {
        let running = self.job.is_running();
        let output = self.job.output();
        ensure!(running || output.ok(), "the load failed: {}", output.stderr);
        let whole = output
            .stdout
            .rsplit_once('\n')
            .map_or("", |(whole, _)| whole);
        match whole.lines().last() {
            None => Ok(Told::default()),
            Some(line) => serde_json::from_str(line).context("what the load says"),
        }
    }

    /// Waits until it has done so many more writes.
    ///
    /// # Errors
    /// It has not within a minute, or failed.
    pub fn go_on(&self, writes: u64) -> Result<()> {
        let goal = self.told()?.writes + writes;
        self.wait_for(&format!("{writes} more writes"), |told| told.writes >= goal)
    }

    /// Lets so much of the application's time pass.
    ///
    /// # Errors
    /// It failed, or all of it takes longer than a minute.
    pub fn pass(&self, time: Duration) -> Result<()> {
        let end = u128::from(self.told()?.ms) + time.as_millis();
        self.wait_for(&format!("{time:?}"), |told| u128::from(told.ms) >= end)
    }

    /// Waits until a write has been waiting for its answer for so long.
    ///
    /// # Errors
    /// It goes on without, or failed.
    pub fn stands_still(&self, time: Duration) -> Result<()> {
        self.wait_for(&format!("a write that takes {time:?}"), |told| {
            u128::from(told.waiting_ms) >= time.as_millis()
        })
    }

    /// Waits until it says what is asked for.
    ///
    /// # Errors
    /// It does not within a minute, or failed.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Told) -> bool) -> Result<()> {
        wait_until(DEADLINE, what, || Ok(fits(&self.told()?).then_some(())))
    }

    /// Stops it. All that it had written was read back.
    ///
    /// # Errors
    /// A write failed, or a block does not hold what was written to it last.
    pub fn finish(self) -> Result<Told> {
        self.job.close_input()?;
        let output = self.job.wait(DEADLINE)?;
        ensure!(output.ok(), "the load failed: {}", output.stderr);
        let told = self.told()?;
        ensure!(told.ended, "the load ended without its last word");
        Ok(told)
    }
}

const DEADLINE: Duration = Duration::from_secs(60);
