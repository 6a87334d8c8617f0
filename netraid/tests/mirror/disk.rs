//! A disk that does as the test says: works, fails reads, fails writes, keeps writes to itself, or is no more.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use nbd_protocol::command::{Command, Completion, Errno, Failure};
use nbd_server::device::{BlockDevice, Geometry, SharedDevice};

const WORKS: u8 = 0;
const FAILS_READS: u8 = 1;
const FAILS_WRITES: u8 = 2;
const HOLDS_WRITES: u8 = 3;
const FAILS_DATA: u8 = 4;

/// A disk with a switch.
pub struct Switched {
    /// `None` once its node has died.
    disk: Mutex<Option<SharedDevice>>,
    geometry: Geometry,
    mode: AtomicU8,
    held: Mutex<Vec<(Command, Completion)>>,
    /// Metadata lies in front of this; faults of data alone spare it.
    data: u64,
}

impl Switched {
    pub fn new(disk: SharedDevice, data: u64) -> Arc<Switched> {
        Arc::new(Switched {
            geometry: disk.geometry(),
            disk: Mutex::new(Some(disk)),
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

    /// Writes of data, not those of metadata.
    pub fn fail_data_writes(&self) {
        self.mode.store(FAILS_DATA, Ordering::SeqCst);
    }

    pub fn hold_writes(&self) {
        self.mode.store(HOLDS_WRITES, Ordering::SeqCst);
    }

    /// Lets go of the disk, and answers nothing any more.
    pub fn die(&self) {
        *self.disk.lock().unwrap() = None;
    }

    fn give(&self, command: Command, completion: Completion) {
        let disk = self.disk.lock().unwrap().clone();
        match disk {
            Some(disk) => disk.submit(command, completion),
            None => std::mem::forget(completion),
        }
    }

    /// Works again, and does what it held back, late.
    pub fn work(&self) {
        self.mode.store(WORKS, Ordering::SeqCst);
        for (command, completion) in std::mem::take(&mut *self.held.lock().unwrap()) {
            self.give(command, completion);
        }
    }
}

impl BlockDevice for Switched {
    fn geometry(&self) -> Geometry {
        self.geometry.clone()
    }

    fn submit(&self, command: Command, completion: Completion) {
        let data = command
            .range()
            .is_some_and(|(offset, _)| offset >= self.data);
        let fails = match self.mode.load(Ordering::SeqCst) {
            FAILS_READS => matches!(command, Command::Read { .. }) && data,
            FAILS_WRITES => command.changes_data(),
            FAILS_DATA => command.changes_data() && data,
            HOLDS_WRITES if command.changes_data() && data => {
                self.held.lock().unwrap().push((command, completion));
                return;
            }
            _ => false,
        };
        if fails {
            completion.complete(Err(Failure::new(Errno::EIO, "the disk fails as told")));
        } else {
            self.give(command, completion);
        }
    }
}
