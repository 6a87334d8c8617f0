//! A device in memory that holds a write up.

use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Completion};
use nbd_server::device::{BlockDevice, Geometry};

/// Memory whose first write is held until it is released.
#[derive(Default)]
pub(crate) struct Holding {
    pub(crate) data: Mutex<Vec<u8>>,
    pub(crate) held: Mutex<Option<(Command, Completion)>>,
    pub(crate) writes: Mutex<usize>,
    pub(crate) changed: Condvar,
    /// What names it, if it outlives the server.
    pub(crate) memory: Option<&'static str>,
}

impl Holding {
    pub(crate) fn carry_out(&self, command: Command, completion: Completion) {
        let mut data = self.data.lock().unwrap();
        let answer = match command {
            Command::Read { offset, length } => {
                let offset = offset as usize;
                Answer::Data(Bytes::copy_from_slice(
                    &data[offset..offset + length as usize],
                ))
            }
            Command::Write {
                offset, data: new, ..
            } => {
                data[offset as usize..offset as usize + new.len()].copy_from_slice(&new);
                Answer::Done
            }
            _ => Answer::Done,
        };
        drop(data);
        completion.complete(Ok(answer));
    }

    pub(crate) fn release(&self) {
        let held = self.held.lock().unwrap().take();
        let (command, completion) = held.expect("a write is held");
        self.carry_out(command, completion);
    }
}

impl BlockDevice for Holding {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: 1 << 20,
            minimum_block: 1,
            preferred_block: 4096,
            read_only: false,
            rotational: false,
            fast_zero: false,
            multi_connection: true,
            contexts: vec!["base:allocation".to_owned()],
        }
    }

    fn memory(&self) -> Option<String> {
        self.memory.map(str::to_owned)
    }

    fn submit(&self, command: Command, completion: Completion) {
        if let Command::Write { .. } = command {
            let mut writes = self.writes.lock().unwrap();
            *writes += 1;
            self.changed.notify_all();
            if *writes == 1 {
                *self.held.lock().unwrap() = Some((command, completion));
                return;
            }
        }
        self.carry_out(command, completion);
    }
}
