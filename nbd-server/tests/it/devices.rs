//! Devices that do what a test tells them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Completion, Extent, Outcome};
use nbd_server::device::{BlockDevice, Geometry};

/// A disk in memory that can hold commands back until it is told to do them, in whichever order.
pub struct GateDevice {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    data: Vec<u8>,
    holding: fn(&Command) -> bool,
    held: Vec<(Command, Completion)>,
    /// Every command that was handed over, in order.
    seen: Vec<String>,
}

impl GateDevice {
    pub fn new(size: usize) -> Arc<GateDevice> {
        let state = State {
            data: vec![0; size],
            holding: |_| false,
            held: Vec::new(),
            seen: Vec::new(),
        };
        Arc::new(GateDevice {
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// From now on commands for which `which` is true are held.
    pub fn hold(&self, which: fn(&Command) -> bool) {
        self.lock().holding = which;
    }

    /// Waits until `count` commands are held.
    pub fn wait_for_held(&self, count: usize) {
        let state = self.lock();
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.held.len() < count)
            .unwrap();
        assert!(
            !waited.timed_out(),
            "{} are held of {} seen",
            state.held.len(),
            state.seen.len()
        );
    }

    /// Gives the server some time to hand over more than `count` commands, which it must not.
    pub fn assert_no_more_than(&self, count: usize) {
        let state = self.lock();
        let moment = Duration::from_millis(300);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, moment, |state| state.held.len() <= count)
            .unwrap();
        assert!(state.held.len() <= count, "{} are held", state.held.len());
    }

    /// Does what is held, oldest first, and holds nothing any more.
    pub fn open(&self) {
        let held = {
            let mut state = self.lock();
            state.holding = |_| false;
            std::mem::take(&mut state.held)
        };
        for (command, completion) in held {
            let outcome = self.lock().perform(command);
            completion.complete(outcome);
        }
    }

    /// Does one of the held commands.
    pub fn release(&self, index: usize) {
        let (command, completion) = self.lock().held.remove(index);
        let outcome = self.lock().perform(command);
        completion.complete(outcome);
    }

    /// Forgets the held commands without an answer.
    pub fn forget_held(&self) {
        let held = std::mem::take(&mut self.lock().held);
        drop(held);
    }

    pub fn byte(&self, offset: usize) -> u8 {
        self.lock().data[offset]
    }

    /// What was handed over so far.
    pub fn seen(&self) -> Vec<String> {
        self.lock().seen.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn perform(&mut self, command: Command) -> Outcome {
        let range = command
            .range()
            .map(|(offset, length)| offset as usize..(offset + length) as usize);
        match (command, range) {
            (Command::Read { .. }, Some(range)) => {
                Ok(Answer::Data(Bytes::copy_from_slice(&self.data[range])))
            }
            (Command::Write { data, .. }, Some(range)) => {
                self.data[range].copy_from_slice(&data);
                Ok(Answer::Done)
            }
            (Command::Trim { .. } | Command::WriteZeroes { .. }, Some(range)) => {
                self.data[range].fill(0);
                Ok(Answer::Done)
            }
            (
                Command::BlockStatus {
                    length, context, ..
                },
                _,
            ) => Ok(Answer::Extents(vec![Extent {
                length,
                status: context as u64,
            }])),
            _ => Ok(Answer::Done),
        }
    }
}

impl BlockDevice for GateDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.lock().data.len() as u64,
            minimum_block: 1,
            preferred_block: 4096,
            read_only: false,
            rotational: false,
            fast_zero: true,
            multi_connection: true,
            contexts: vec!["base:allocation".into(), "x-netraid:test".into()],
        }
    }

    fn submit(&self, command: Command, completion: Completion) {
        let mut state = self.lock();
        state.seen.push(format!("{command:?}"));
        if (state.holding)(&command) {
            state.held.push((command, completion));
            self.changed.notify_all();
            return;
        }
        let outcome = state.perform(command);
        drop(state);
        completion.complete(outcome);
    }
}

pub fn is_write(command: &Command) -> bool {
    matches!(command, Command::Write { .. })
}

pub fn is_read(command: &Command) -> bool {
    matches!(command, Command::Read { .. })
}

/// After this a test has failed; on a quiet machine nothing takes a hundredth of it.
pub const PATIENCE: Duration = Duration::from_secs(20);
