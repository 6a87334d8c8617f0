//! A file or a block device as a [`BlockDevice`]: the page cache at once, the disk on other threads.
//!
//! What the page cache holds is read and written on the thread that asks, because handing it to another thread costs
//! more than doing it. What has to wait for the disk goes to worker threads, unless the asking thread has nothing else
//! to do (see [`may_wait`](crate::batch::may_wait)).

mod access;
pub mod digest;
pub mod dirty;
mod open;
mod status;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use linux_sys::buffer::Buffer;
use nbd_protocol::command::{Answer, Command, Completion, Errno, Failure, Outcome};

use crate::batch::may_wait;
use crate::device::{BlockDevice, Geometry};
use crate::workers::Workers;

pub use open::OpenError;

/// An open file or block device.
pub struct FileDevice {
    inner: Arc<Inner>,
    workers: Workers,
    /// Whoever wants digests of a whole disk takes no threads from those who read and write.
    digesters: Workers,
}

struct Inner {
    file: File,
    /// A block device again, for long writes past the page cache.
    direct: Option<File>,
    /// As it was when it was opened; the size is in `size`.
    geometry: Geometry,
    /// Bytes, as they were when somebody asked last: files and disks grow.
    size: AtomicU64,
    /// What names the file on this machine, also when it is opened again.
    memory: Option<String>,
    /// Opened: until when (in microseconds since then) writes are expected to wait for the disk.
    opened: Instant,
    slow_until: AtomicU64,
    /// Counts what was done on threads that others need.
    watched: AtomicU64,
    /// A flush has failed. The kernel reports lost writes once and then forgets them; we do not.
    lost_writes: AtomicBool,
    /// The file by which others learn of that.
    lost_writes_note: OnceLock<PathBuf>,
    /// Held exclusively by a flush and shared by durable writes, so that none of them can miss a loss of which another
    /// one is just being told.
    syncing: RwLock<()>,
    /// A worker does a long write that could have been done by the thread that asked.
    helping: AtomicBool,
    /// The file system can't say what is in the page cache.
    cache_unknown: AtomicBool,
}

impl FileDevice {
    fn new(
        file: File,
        direct: Option<File>,
        geometry: Geometry,
        memory: Option<String>,
    ) -> FileDevice {
        let inner = Inner {
            file,
            direct,
            size: AtomicU64::new(geometry.size),
            geometry,
            memory,
            opened: Instant::now(),
            slow_until: AtomicU64::new(0),
            watched: AtomicU64::new(0),
            lost_writes: AtomicBool::new(false),
            lost_writes_note: OnceLock::new(),
            syncing: RwLock::new(()),
            helping: AtomicBool::new(false),
            cache_unknown: AtomicBool::new(false),
        };
        FileDevice {
            inner: Arc::new(inner),
            workers: Workers::new("nbd-disk", MOST_WORKERS),
            digesters: Workers::new("nbd-digest", MOST_DIGESTERS),
        }
    }

    /// Has a file made when a flush has failed, before the failure is answered. The first call counts.
    pub fn note_lost_writes(&self, path: PathBuf) {
        let _ = self.inner.lost_writes_note.set(path);
    }

    fn read(&self, offset: u64, length: u32, completion: Completion) {
        let mut buffer = Buffer::take(length as usize);
        let inline =
            may_wait() || self.inner.cache_unknown.load(Ordering::Relaxed) && !self.inner.is_slow();
        let done = match self.inner.read_cached(&mut buffer, offset) {
            Ok(done) if done == buffer.len() => {
                return completion.complete(Ok(Answer::Data(buffer.freeze())));
            }
            Ok(done) => done,
            Err(failure) => return completion.complete(Err(failure)),
        };
        let inner = Arc::clone(&self.inner);
        let rest = move || {
            let outcome = inner.read_rest(&mut buffer, done, offset);
            // Whoever hears of the end may open the file for itself.
            drop(inner);
            completion.complete(outcome.map(|()| Answer::Data(buffer.freeze())));
        };
        if inline {
            rest()
        } else {
            self.workers.run(rest)
        }
    }

    /// Runs a command that changes data or reaches the disk, here or on a worker.
    fn run(
        &self,
        inline: bool,
        completion: Completion,
        work: impl FnOnce(&Inner) -> Outcome + Send + 'static,
    ) {
        if inline {
            completion.complete(self.inner.watch(|| work(&self.inner)));
        } else {
            let inner = Arc::clone(&self.inner);
            self.workers.run(move || {
                let outcome = work(&inner);
                drop(inner);
                completion.complete(outcome);
            });
        }
    }
}

impl BlockDevice for FileDevice {
    /// The size is asked anew each time. One that can't be told is the one that was told last.
    fn geometry(&self) -> Geometry {
        if let Ok(size) = open::size(&self.inner.file) {
            self.inner.size.store(size, Ordering::Relaxed);
        }
        Geometry {
            size: self.inner.size(),
            ..self.inner.geometry.clone()
        }
    }

    /// The page cache of the file: it is the same after a restart of the server.
    fn memory(&self) -> Option<String> {
        self.inner.memory.clone()
    }

    fn submit(&self, command: Command, completion: Completion) {
        let quick = may_wait() || !self.inner.is_slow();
        match command {
            Command::Read { offset, length } => self.read(offset, length, completion),
            Command::Write {
                offset,
                data,
                fua: false,
            } => {
                if !may_wait() && data.len() >= LONG && self.inner.start_helping() {
                    // The asking thread has more to do: it receives the next one meanwhile. One helper is enough,
                    // because file systems write to one file one after the other.
                    self.run(false, completion, move |inner| {
                        let outcome = inner.write(offset, &data);
                        inner.helping.store(false, Ordering::Release);
                        outcome
                    });
                } else if quick {
                    self.run(true, completion, move |inner| inner.write(offset, &data));
                } else {
                    let data = detach(data);
                    self.run(false, completion, move |inner| inner.write(offset, &data));
                }
            }
            Command::Write {
                offset,
                data,
                fua: true,
            } => {
                self.run(may_wait(), completion, move |inner| {
                    inner.write_durable(offset, &data)
                });
            }
            Command::Flush => self.run(may_wait(), completion, Inner::flush),
            Command::Trim {
                offset,
                length,
                fua,
            } => {
                self.run(quick && !fua && length <= SMALL, completion, move |inner| {
                    inner.trim(offset, length, fua)
                });
            }
            Command::WriteZeroes {
                offset,
                length,
                fua,
                no_hole,
                fast,
            } => {
                self.run(quick && !fua && length <= SMALL, completion, move |inner| {
                    inner.write_zeroes(offset, length, fua, no_hole, fast)
                });
            }
            Command::BlockStatus {
                offset,
                length,
                one,
                context: 0,
            } => {
                completion.complete(status::extents(
                    &self.inner.file,
                    self.inner.size(),
                    offset,
                    length,
                    one,
                ));
            }
            Command::BlockStatus {
                offset,
                length,
                one,
                context: 1,
            } => {
                self.run(false, completion, move |inner| {
                    dirty::extents(&inner.file, inner.size(), offset, length, one)
                });
            }
            Command::BlockStatus {
                offset,
                length,
                one,
                context: 2,
            } => {
                let inner = Arc::clone(&self.inner);
                self.digesters.run(move || {
                    let size = inner.size();
                    let outcome = digest::extents(&inner.file, size, offset, length, one);
                    drop(inner);
                    completion.complete(outcome);
                });
            }
            Command::BlockStatus { .. } => {
                completion.complete(Err(Failure::new(
                    Errno::EINVAL,
                    "a file has no such block-status context",
                )));
            }
            Command::Cache { offset, length } => {
                self.run(length <= SMALL, completion, move |inner| {
                    inner.prefetch(offset, length)
                });
            }
        }
    }
}

impl Inner {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn is_slow(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        let slow = micros(self.opened.elapsed()) < until;
        if !slow {
            // The clock is not asked any more; whoever was told at this moment that it is slow says so again.
            self.slow_until.store(0, Ordering::Relaxed);
        }
        slow
    }

    /// Runs what may wait for the disk on a thread that others need. If it did, the next ones are not run so. Only one
    /// in [`WATCH`] is timed, because asking for the time is a system call on machines whose clock the kernel keeps to
    /// itself.
    fn watch<T>(&self, work: impl FnOnce() -> T) -> T {
        if may_wait()
            || !self
                .watched
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(WATCH)
        {
            return work();
        }
        let begun = Instant::now();
        let done = work();
        if begun.elapsed() > SLOW {
            let until = micros(self.opened.elapsed() + WARY);
            self.slow_until.store(until, Ordering::Relaxed);
        }
        done
    }

    /// Whether the caller may be the one that hands a long write to a worker.
    fn start_helping(&self) -> bool {
        !self.helping.swap(true, Ordering::AcqRel)
    }
}

/// A small payload that has to wait is copied: it may be a slice of a much larger receive buffer.
fn detach(data: Bytes) -> Bytes {
    if data.len() <= DETACH {
        Bytes::copy_from_slice(&data)
    } else {
        data
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Threads for one device. A disk with a deep queue gains little beyond; each costs about 20 KiB while it works.
const MOST_WORKERS: usize = 16;
/// Threads that read for digests of one device: enough for what a 25 Gbit/s link is spared.
const MOST_DIGESTERS: usize = 2;
/// What an access of the page cache never takes on a machine that is not overloaded.
const SLOW: Duration = Duration::from_millis(1);
/// One in so many accesses is timed.
const WATCH: u64 = 4;
/// How long writes are handed over after one was slow.
const WARY: Duration = Duration::from_millis(100);
/// Trims, zeroes and prefetches up to this many bytes are done at once.
const SMALL: u64 = 1 << 20;
/// Writes from this many bytes on take longer than it takes to wake a worker; those to a block device go past the page
/// cache, which would have to write them anyway and hold nothing that is read again soon.
const LONG: usize = 128 << 10;
const DETACH: usize = 64 << 10;

#[cfg(test)]
mod tests;
