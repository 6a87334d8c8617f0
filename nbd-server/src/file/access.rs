//! The accesses themselves: each loops until it is complete or has failed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use linux_sys::buffer::ALIGNMENT;
use linux_sys::file::{read_cached, write_durable};
use nbd_protocol::command::{Answer, Errno, Failure, Outcome};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::libc;

use crate::file::{Inner, LONG};

impl Inner {
    /// Reads what the page cache has; returns how many bytes from the front that is.
    pub(super) fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Failure> {
        if self.cache_unknown.load(Ordering::Relaxed) {
            return Ok(0);
        }
        loop {
            match read_cached(self.file.as_fd(), buffer, offset) {
                Ok(count) => return Ok(count),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(0),
                    io::ErrorKind::Unsupported => {
                        self.cache_unknown.store(true, Ordering::Relaxed);
                        return Ok(0);
                    }
                    _ => return Err(failure("reading", offset, &error)),
                },
            }
        }
    }

    /// Reads all of `buffer` but the first `done` bytes, waiting for the disk.
    pub(super) fn read_rest(
        &self,
        buffer: &mut [u8],
        done: usize,
        offset: u64,
    ) -> Result<(), Failure> {
        let offset = offset + done as u64;
        self.file
            .read_exact_at(&mut buffer[done..], offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Failure::new(Errno::EIO, "the file has become shorter than its export")
                }
                _ => failure("reading", offset, &error),
            })
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        let written = match &self.direct {
            Some(direct) if is_for_direct(offset, data) => {
                self.write_past_cache(direct, offset, data)
            }
            Some(_) => self.file.write_all_at(data, offset),
            None => self.write_in_pieces(offset, data),
        };
        written.map_err(|error| failure("writing", offset, &error))?;
        Ok(Answer::Done)
    }

    /// Long writes to a disk: no copy, and no memory of the machine for what its owner has cached already.
    fn write_past_cache(&self, direct: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        match direct.write_all_at(data, offset) {
            // A disk that wants more than pages: the page cache can.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.file.write_all_at(data, offset)
            }
            written => written,
        }
    }

    /// Writes into the page cache, in pieces that leave it quick to write to.
    ///
    /// One long write makes Linux keep what it wrote in one large folio, and a file system with buffer heads (ext4)
    /// walks all blocks of a folio at each later write to any of them: a 4 KiB write costs ten times as much then. Pieces
    /// cost little, because the copying outweighs the calls.
    fn write_in_pieces(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let to_boundary = PIECE - offset % PIECE;
            let length = data.len().min(to_boundary as usize);
            let (piece, rest) = data.split_at(length);
            self.file.write_all_at(piece, offset)?;
            (data, offset) = (rest, offset + length as u64);
        }
        Ok(())
    }

    pub(super) fn write_durable(&self, offset: u64, data: &[u8]) -> Outcome {
        let shared = self
            .syncing
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        self.check_nothing_lost()?;
        let mut done = 0;
        while done < data.len() {
            match write_durable(self.file.as_fd(), &data[done..], offset + done as u64) {
                Ok(0) => return Err(Failure::new(Errno::EIO, "the device takes no more bytes")),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    drop(shared);
                    self.write(offset, data)?;
                    return self.flush();
                }
                Err(error) => {
                    // It may have been an older write that could not be stored.
                    if error.raw_os_error() == Some(libc::EIO) {
                        self.lose_writes();
                    }
                    return Err(failure("writing durably", offset, &error));
                }
            }
        }
        Ok(Answer::Done)
    }

    pub(super) fn flush(&self) -> Outcome {
        let _alone = self
            .syncing
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        self.check_nothing_lost()?;
        self.file.sync_data().map_err(|error| {
            self.lose_writes();
            tracing::error!(%error, "flushing failed: every later flush of this device fails too");
            failure("flushing", 0, &error)
        })?;
        Ok(Answer::Done)
    }

    /// From now on no flush succeeds; whoever wanted to know is told before the failure is answered.
    pub(super) fn lose_writes(&self) {
        self.lost_writes.store(true, Ordering::Release);
        if let Some(note) = self.lost_writes_note.get()
            && let Err(error) = File::create(note)
        {
            tracing::error!(%error, "{} can't be made", note.display());
        }
    }

    /// The kernel reports writes that it could not store to one caller of fsync(2) and then calls the pages clean. An
    /// answer to any flush after that would be a lie, so all of them fail until the device is opened anew.
    fn check_nothing_lost(&self) -> Result<(), Failure> {
        if self.lost_writes.load(Ordering::Acquire) {
            return Err(Failure::new(
                Errno::EIO,
                "an earlier flush failed, so acknowledged writes may be lost",
            ));
        }
        Ok(())
    }

    /// Makes the range read as zeroes and gives its space back where that is possible.
    pub(super) fn trim(&self, offset: u64, length: u64, fua: bool) -> Outcome {
        self.zero(offset, length, Zero::Punch)?;
        if fua { self.flush() } else { Ok(Answer::Done) }
    }

    pub(super) fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        fua: bool,
        no_hole: bool,
        fast: bool,
    ) -> Outcome {
        let how = if no_hole { Zero::Keep } else { Zero::Punch };
        if fast {
            self.zero_fast(offset, length, how)?;
        } else {
            self.zero(offset, length, how)?;
        }
        if fua { self.flush() } else { Ok(Answer::Done) }
    }

    pub(super) fn prefetch(&self, offset: u64, length: u64) -> Outcome {
        // A hint: what can't be prefetched is not an error.
        if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
            let _ = posix_fadvise(
                self.file.as_fd(),
                offset,
                length,
                PosixFadviseAdvice::POSIX_FADV_WILLNEED,
            );
        }
        Ok(Answer::Done)
    }

    fn zero(&self, offset: u64, length: u64, how: Zero) -> Result<(), Failure> {
        if self.allocate(offset, length, how)? {
            return Ok(());
        }
        // A block device zeroes whole blocks only.
        let end = offset + length;
        let middle = offset.next_multiple_of(UNIT).min(end);
        let middle_end = (end - end % UNIT).max(middle);
        self.write_plain_zeroes(offset, middle - offset)?;
        if middle_end > middle && !self.allocate(middle, middle_end - middle, how)? {
            self.write_plain_zeroes(middle, middle_end - middle)?;
        }
        self.write_plain_zeroes(middle_end, end - middle_end)
    }

    fn zero_fast(&self, offset: u64, length: u64, how: Zero) -> Result<(), Failure> {
        if self.allocate(offset, length, how)? {
            return Ok(());
        }
        Err(Failure::new(
            Errno::ENOTSUP,
            "the device can't zero this range faster than by writing",
        ))
    }

    /// Lets the file system or device zero the range; false when it can't (nothing is changed then).
    fn allocate(&self, offset: u64, length: u64, how: Zero) -> Result<bool, Failure> {
        let (Ok(start), Ok(count)) = (i64::try_from(offset), i64::try_from(length)) else {
            return Ok(false);
        };
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let ways: &[FallocateFlags] = match how {
            Zero::Punch => &[
                FallocateFlags::FALLOC_FL_PUNCH_HOLE,
                FallocateFlags::FALLOC_FL_ZERO_RANGE,
            ],
            Zero::Keep => &[FallocateFlags::FALLOC_FL_ZERO_RANGE],
        };
        for way in ways {
            loop {
                match fallocate(self.file.as_fd(), *way | keep, start, count) {
                    Ok(()) => return Ok(true),
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(
                        nix::errno::Errno::EOPNOTSUPP
                        | nix::errno::Errno::ENOSYS
                        | nix::errno::Errno::EINVAL
                        | nix::errno::Errno::ENODEV,
                    ) => break,
                    Err(error) => return Err(failure("zeroing", offset, &error.into())),
                }
            }
        }
        Ok(false)
    }

    fn write_plain_zeroes(&self, mut offset: u64, mut length: u64) -> Result<(), Failure> {
        while length > 0 {
            let piece = length.min(ZEROES.len() as u64);
            self.write(offset, &ZEROES[..piece as usize])?;
            offset += piece;
            length -= piece;
        }
        Ok(())
    }
}

/// Whether direct I/O takes a write and gains by it: long, and whole pages on both sides.
fn is_for_direct(offset: u64, data: &[u8]) -> bool {
    let whole = |number: usize| number.is_multiple_of(ALIGNMENT);
    data.len() >= LONG
        && whole(data.len())
        && whole(data.as_ptr().addr())
        && offset.is_multiple_of(ALIGNMENT as u64)
}

/// What becomes of the space of a zeroed range.
#[derive(Clone, Copy, Debug)]
enum Zero {
    /// It is given back.
    Punch,
    /// It stays allocated.
    Keep,
}

/// The number that the protocol allows for an error of the system, and a sentence.
fn failure(doing: &str, offset: u64, error: &io::Error) -> Failure {
    let errno = match error.raw_os_error() {
        Some(libc::EPERM | libc::EROFS) => Errno::EPERM,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Errno::ENOSPC,
        Some(libc::EINVAL) => Errno::EINVAL,
        _ => Errno::EIO,
    };
    tracing::warn!(%error, offset, "{doing} failed");
    Failure::new(errno, format!("{doing} at {offset} failed: {error}"))
}

/// Bytes that are written with one call, ending at a multiple of them: the size of the folios that it leaves.
const PIECE: u64 = 32 << 10;
/// The largest logical block of today's disks.
const UNIT: u64 = 4096;
/// In read-only memory of the program, shared by all.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
