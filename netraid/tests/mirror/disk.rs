//! A disk that does as the test says: works, fails reads, fails writes, or keeps writes to itself.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use nbd_protocol::command::{Command, Completion, Errno, Failure};
use nbd_server::device::{BlockDevice, Geometry, SharedDevice};

const WORKS: u8 = 0;
const FAILS_READS: u8 = 1;
const FAILS_WRITES: u8 = 2;
const HOLDS_WRITES: u8 = 3;

/// A disk with a switch.
pub struct Switched {
    disk: SharedDevice,
    mode: AtomicU8,
    held: Mutex<Vec<(Command, Completion)>>,
    /// Metadata lies in front of this; faults of data alone spare it.
    data: u64,
}

impl Switched {
    pub fn new(disk: SharedDevice, data: u64) -> Arc<Switched> {
        Arc::new(Switched {
            disk,
            mode: AtomicU8::new(WORKS),
            held: Mutex::default(),
            data,
        })
    }

    pub fn fail_reads(&self) {
        self.mode.store(FAILS_READS, Ordering::SeqCst);
    }

    pub fn fail_writes(&self) {
        self.mode.store(FAILS_WRITES, Ordering::SeqCst);
    }

    pub fn hold_writes(&self) {
        self.mode.store(HOLDS_WRITES, Ordering::SeqCst);
    }

    /// Works again, and does what it held back, late.
    pub fn work(&self) {
        self.mode.store(WORKS, Ordering::SeqCst);
        for (command, completion) in std::mem::take(&mut *self.held.lock().unwrap()) {
            self.disk.submit(command, completion);
        }
    }
}

impl BlockDevice for Switched {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, command: Command, completion: Completion) {
        let data = command
            .range()
            .is_some_and(|(offset, _)| offset >= self.data);
        let fails = match self.mode.load(Ordering::SeqCst) {
            FAILS_READS => matches!(command, Command::Read { .. }) && data,
            FAILS_WRITES => command.changes_data(),
            HOLDS_WRITES if command.changes_data() && data => {
                self.held.lock().unwrap().push((command, completion));
                return;
            }
            _ => false,
        };
        if fails {
            completion.complete(Err(Failure::new(Errno::EIO, "the disk fails as told")));
        } else {
            self.disk.submit(command, completion);
        }
    }
}
