//! The lab's end of a node's serial line: starts commands in the node, and gathers what they write and how they end.

use crate::wire::{Report, Request, from_hex, to_hex};
use anyhow::{Context, Result, bail};
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A command's output beyond this is dropped (with a word about it at its end).
const MOST_OUTPUT: usize = 16 << 20;

/// What a command wrote and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Exit status; 128 plus the number of the signal that ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit status is 0.
    pub fn ok(&self) -> bool {
        self.status == 0
    }
}

/// One boot's serial line.
#[derive(Debug)]
pub(crate) struct Channel {
    state: Mutex<State>,
    changed: Condvar,
    to_node: Mutex<ChildStdin>,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    closed: bool,
    last_id: u64,
    commands: HashMap<u64, Gathered>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) ended: Option<i32>,
}

impl Gathered {
    pub(crate) fn output(&self) -> Output {
        Output {
            status: self.ended.unwrap_or(-1),
            stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
        }
    }
}

impl Channel {
    pub(crate) fn new(to_node: ChildStdin, from_node: ChildStdout) -> Arc<Channel> {
        let channel = Arc::new(Channel {
            state: Mutex::default(),
            changed: Condvar::new(),
            to_node: Mutex::new(to_node),
        });
        let listener = Arc::clone(&channel);
        thread::spawn(move || listener.listen(from_node));
        channel
    }

    /// Waits for the agent's first word.
    pub(crate) fn wait_ready(&self, deadline: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            if state.ready {
                return Ok(());
            }
            if state.closed {
                bail!("its kernel ended before it took commands");
            }
            let Some(left) = deadline.checked_sub(begun.elapsed()) else {
                bail!("it took no commands within {deadline:?}");
            };
            state = self.wait(state, left);
        }
    }

    /// Whether the kernel at the other end still runs.
    pub(crate) fn is_open(&self) -> bool {
        !self.lock().closed
    }

    pub(crate) fn start(&self, command: &str) -> Result<u64> {
        let id = {
            let mut state = self.lock();
            if state.closed {
                bail!("the node is off");
            }
            state.last_id += 1;
            let id = state.last_id;
            state.commands.insert(id, Gathered::default());
            id
        };
        let command = command.to_owned();
        self.send(&Request::Run { id, command })?;
        Ok(id)
    }

    pub(crate) fn feed(&self, id: u64, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(4096) {
            let hex = to_hex(chunk);
            self.send(&Request::Input { id, hex })?;
        }
        Ok(())
    }

    pub(crate) fn close_input(&self, id: u64) -> Result<()> {
        let hex = String::new();
        self.send(&Request::Input { id, hex })
    }

    pub(crate) fn signal(&self, id: u64, number: i32) -> Result<()> {
        self.send(&Request::Signal { id, number })
    }

    /// What a command has written until now, and whether it has ended.
    pub(crate) fn look(&self, id: u64) -> Gathered {
        self.lock().commands.get(&id).cloned().unwrap_or_default()
    }

    pub(crate) fn take_output(&self, id: u64) -> Vec<u8> {
        let mut state = self.lock();
        let Some(gathered) = state.commands.get_mut(&id) else {
            return Vec::new();
        };
        let mut taken = std::mem::take(&mut gathered.stdout);
        taken.append(&mut gathered.stderr);
        taken
    }

    pub(crate) fn forget(&self, id: u64) {
        self.lock().commands.remove(&id);
    }

    /// Waits until `done` says so of the command's output, the command ends, or the node goes off (an error).
    ///
    /// `Ok(None)`: the deadline passed.
    pub(crate) fn wait_command(
        &self,
        id: u64,
        deadline: Duration,
        done: impl Fn(&Gathered) -> bool,
    ) -> Result<Option<Gathered>> {
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            let gathered = state.commands.get(&id).cloned().unwrap_or_default();
            if done(&gathered) || gathered.ended.is_some() {
                return Ok(Some(gathered));
            }
            if state.closed {
                bail!("the node went off under the command");
            }
            let Some(left) = deadline.checked_sub(begun.elapsed()) else {
                return Ok(None);
            };
            state = self.wait(state, left);
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut to_node = self.to_node.lock().unwrap_or_else(PoisonError::into_inner);
        to_node.write_all(&line).context("the node is off")
    }

    fn listen(&self, from_node: ChildStdout) {
        let mut lines = BufReader::new(from_node);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            // Before the agent makes the line raw, the kernel may say something there.
            if let Ok(report) = serde_json::from_slice(&line) {
                self.take(report);
            }
            line.clear();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn take(&self, report: Report) {
        let mut state = self.lock();
        match report {
            Report::Ready => state.ready = true,
            Report::Output { id, error, hex } => {
                if let Some(gathered) = state.commands.get_mut(&id) {
                    let to = if error {
                        &mut gathered.stderr
                    } else {
                        &mut gathered.stdout
                    };
                    if to.len() < MOST_OUTPUT {
                        to.extend(from_hex(&hex).unwrap_or_default());
                    } else if to.len() == MOST_OUTPUT || !to.ends_with(b"[more was dropped]\n") {
                        to.extend(b"\n[more was dropped]\n");
                    }
                }
            }
            Report::Ended { id, status } => {
                if let Some(gathered) = state.commands.get_mut(&id) {
                    gathered.ended = Some(status);
                }
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Keeps the end of what a kernel says on its console.
#[derive(Debug, Default)]
pub(crate) struct Console(Mutex<VecDeque<u8>>);

impl Console {
    const KEPT: usize = 256 << 10;

    pub(crate) fn follow(self: &Arc<Self>, mut from: impl Read + Send + 'static) {
        let console = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                console.add(&buffer[..length]);
            }
        });
    }

    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(Self::KEPT);
        kept.drain(..excess);
    }

    pub(crate) fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }
}
