//! A command that runs in a node: what it writes, how it ends, and how it is told to.

use crate::channel::{Channel, Gathered, Output};
use crate::journal::Journal;
use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::Duration;

/// A killed command's end: its node may be busy.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// A command that runs in a node. Dropped, it goes on running.
#[derive(Debug)]
pub struct Job {
    pub(crate) id: u64,
    pub(crate) channel: Arc<Channel>,
    pub(crate) node: String,
    pub(crate) command: String,
    pub(crate) journal: Arc<Journal>,
}

impl Job {
    /// Waits for the command's end; past the deadline it is killed, and that is an error with what it wrote.
    ///
    /// # Errors
    /// The deadline passed, or the node went off.
    pub fn wait(&self, deadline: Duration) -> Result<Output> {
        match self.channel.wait_command(self.id, deadline, |_| false) {
            Ok(Some(gathered)) => {
                let output = gathered.output();
                self.journal.ended(&self.node, &self.command, &output);
                Ok(output)
            }
            Ok(None) => {
                // The error says more than a kill that fails.
                let _ = self.channel.signal(self.id, Signal::SIGKILL as i32);
                let so_far = self.channel.look(self.id).output();
                bail!(
                    "{}: `{}` did not end within {deadline:?}\n{}{}",
                    self.node,
                    self.command,
                    so_far.stdout,
                    so_far.stderr
                );
            }
            Err(error) => Err(error.context(format!("{}: `{}`", self.node, self.command))),
        }
    }

    /// Waits until the command has written `text` on its standard output or standard error.
    ///
    /// # Errors
    /// The command ended without it, the deadline passed, or the node went off.
    pub fn wait_for(&self, text: &str, deadline: Duration) -> Result<()> {
        let has = |gathered: &Gathered| {
            let output = gathered.output();
            output.stdout.contains(text) || output.stderr.contains(text)
        };
        let gathered = self.channel.wait_command(self.id, deadline, has)?;
        if gathered.as_ref().is_some_and(has) {
            return Ok(());
        }
        let output = self.output();
        bail!(
            "{}: `{}` did not say {text:?} {}\n{}{}",
            self.node,
            self.command,
            if gathered.is_some() {
                "before its end".to_owned()
            } else {
                format!("within {deadline:?}")
            },
            output.stdout,
            output.stderr
        );
    }

    /// What the command has written until now; the status is -1 while it runs.
    pub fn output(&self) -> Output {
        self.channel.look(self.id).output()
    }

    /// Takes what the command has written since the last call (what is taken is no more in [`Job::output`]); waits for
    /// something at most this long. `None`: the command has ended or its node is off, and all was taken.
    pub fn take(&self, deadline: Duration) -> Option<Vec<u8>> {
        let some = |gathered: &Gathered| !gathered.stdout.is_empty() || !gathered.stderr.is_empty();
        // Whether it went off meanwhile shows below.
        let _ = self.channel.wait_command(self.id, deadline, some);
        let taken = self.channel.take_output(self.id);
        if taken.is_empty() && !self.is_running() {
            return None;
        }
        Some(taken)
    }

    /// Whether the command runs, as far as the node has told.
    pub fn is_running(&self) -> bool {
        self.channel.is_open() && self.channel.look(self.id).ended.is_none()
    }

    /// Sends a signal to the command and its children (`nix::sys::signal::Signal` as a number, e.g. 15).
    ///
    /// # Errors
    /// The node is off.
    pub fn signal(&self, number: i32) -> Result<()> {
        self.channel.signal(self.id, number)
    }

    /// Kills the command and its children, and waits for the end.
    ///
    /// # Errors
    /// The node is off, or the command does not end.
    pub fn kill(&self) -> Result<Output> {
        self.signal(Signal::SIGKILL as i32)?;
        self.wait(END_DEADLINE)
    }

    /// Writes to the command's standard input.
    ///
    /// # Errors
    /// The node is off.
    pub fn feed(&self, bytes: &[u8]) -> Result<()> {
        self.channel.feed(self.id, bytes)
    }

    /// Closes the command's standard input.
    ///
    /// # Errors
    /// The node is off.
    pub fn close_input(&self) -> Result<()> {
        self.channel.close_input(self.id)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.channel.forget(self.id);
    }
}
