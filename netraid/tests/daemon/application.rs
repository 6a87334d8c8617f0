//! An application: it writes blocks through the source's socket, flushes, and remembers what it was promised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_client::{Connection, Target};
use nbd_protocol::command::Command;
use netraid::raid1::link::Link;

use crate::node::{LOOK, PATIENCE};

pub const BLOCK: usize = 4096;

/// What may be in a block: what was last flushed, or anything that was sent since.
#[derive(Clone, Debug, Default)]
struct Promise {
    flushed: u64,
    /// The last that was acknowledged; the next flush makes it a promise.
    answered: u64,
    since: Vec<u64>,
}

#[derive(Default)]
struct Record {
    blocks: BTreeMap<u64, Promise>,
    /// Connections that broke.
    broken: Vec<String>,
    /// The longest time from one answer to the next.
    pause: Duration,
    last: Option<Instant>,
}

pub struct Application {
    socket: PathBuf,
    record: Arc<Mutex<Record>>,
    sequence: Arc<AtomicU64>,
    flushes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Application {
    pub fn new(socket: PathBuf) -> Application {
        Application {
            socket,
            record: Arc::default(),
            sequence: Arc::default(),
            flushes: Arc::default(),
            stop: Arc::default(),
            thread: None,
        }
    }

    /// Goes on with another source; what was promised stays promised.
    pub fn moves_to(&mut self, socket: PathBuf) {
        self.stop();
        self.socket = socket;
    }

    /// A connection to what is in service there.
    pub fn open(socket: &Path) -> Result<Link, String> {
        // The export has the name of the mirror, and so has the socket.
        let tag = socket.file_stem().unwrap().to_str().unwrap();
        let target = Target::unix(socket, tag);
        let connection = Connection::open(&target, nbd_client::Options::default());
        connection
            .map(|connection| Link::Remote(Arc::new(connection)))
            .map_err(|error| error.to_string())
    }

    /// Writes these blocks and flushes.
    pub fn write(&self, blocks: std::ops::Range<u64>) {
        let link = Self::open(&self.socket).unwrap();
        for block in blocks {
            self.write_one(&link, block).unwrap();
        }
        self.flush(&link).unwrap();
        link.close();
    }

    fn write_one(&self, link: &Link, block: u64) -> Result<(), String> {
        let value = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut record = self.record.lock().unwrap();
            record.blocks.entry(block).or_default().since.push(value);
        }
        let command = Command::Write {
            offset: block * BLOCK as u64,
            data: Bytes::from(stamp(block, value)),
            fua: false,
        };
        link.run(command, PATIENCE)
            .map_err(|error| format!("{error:?}"))?;
        self.answered();
        let mut record = self.record.lock().unwrap();
        record.blocks.entry(block).or_default().answered = value;
        Ok(())
    }

    fn flush(&self, link: &Link) -> Result<(), String> {
        link.run(Command::Flush, PATIENCE)
            .map_err(|error| format!("{error:?}"))?;
        self.answered();
        let mut record = self.record.lock().unwrap();
        for promise in record.blocks.values_mut() {
            promise.flushed = promise.answered;
            // One without an answer may be there or not, unless a newer one was acknowledged.
            promise.since.retain(|value| *value > promise.answered);
        }
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn answered(&self) {
        let mut record = self.record.lock().unwrap();
        let now = Instant::now();
        if let Some(last) = record.last.replace(now) {
            record.pause = record.pause.max(now - last);
        }
    }

    /// Begins to write all over the first `blocks`, until [`Application::stop`]. A connection that breaks is made anew.
    pub fn begin(&mut self, blocks: u64) {
        self.stop.store(false, Ordering::Relaxed);
        self.record.lock().unwrap().last = None;
        let worker = Application {
            socket: self.socket.clone(),
            record: Arc::clone(&self.record),
            sequence: Arc::clone(&self.sequence),
            flushes: Arc::clone(&self.flushes),
            stop: Arc::clone(&self.stop),
            thread: None,
        };
        self.thread = Some(thread::spawn(move || worker.work(blocks)));
    }

    fn work(&self, blocks: u64) {
        let mut link = None;
        let mut turn = 0u64;
        while !self.stop.load(Ordering::Relaxed) {
            let open = match &link {
                Some(open) => open,
                None => match Self::open(&self.socket) {
                    Ok(open) => link.insert(open),
                    Err(_) => {
                        thread::sleep(LOOK);
                        continue;
                    }
                },
            };
            turn += 1;
            // All blocks in an order that jumps about.
            let done = match turn % 8 {
                0 => self.flush(open),
                _ => self.write_one(open, turn.wrapping_mul(7919) % blocks),
            };
            if let Err(error) = done {
                self.record.lock().unwrap().broken.push(error);
                link = None;
            }
        }
        if let Some(link) = link {
            link.close();
        }
    }

    /// Waits until so many more flushes were answered.
    pub fn goes_on(&self, flushes: u64) {
        let wanted = self.flushes.load(Ordering::Relaxed) + flushes;
        crate::node::wait("the application does not get on", || {
            self.flushes.load(Ordering::Relaxed) >= wanted
        });
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }

    /// Why connections broke.
    pub fn broken(&self) -> Vec<String> {
        self.record.lock().unwrap().broken.clone()
    }

    /// The longest time without an answer.
    pub fn pause(&self) -> Duration {
        self.record.lock().unwrap().pause
    }

    /// P1: every block has what was promised.
    pub fn check(&self, data: &[u8]) {
        let record = self.record.lock().unwrap();
        assert!(
            record.blocks.values().any(|promise| promise.flushed > 0),
            "nothing was flushed"
        );
        for (block, promise) in &record.blocks {
            let from = *block as usize * BLOCK;
            let found = &data[from..from + BLOCK];
            let is = |value: &u64| found == stamp(*block, *value);
            let kept = is(&promise.flushed) || promise.since.iter().any(is);
            let has = u64::from_le_bytes(found[..8].try_into().unwrap());
            assert!(
                kept,
                "block {block} has write {has}, promised was {promise:?}"
            );
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stamp(block: u64, value: u64) -> Vec<u8> {
    match value {
        0 => vec![0; BLOCK],
        _ => [value, block]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .cycle()
            .take(BLOCK)
            .collect(),
    }
}
