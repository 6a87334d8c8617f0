//! A leg's disk for reading and writing its metadata, also while the kernel's md uses it.
//!
//! md writes its metadata past the page cache, so it is read and written past it here too: a cached page could be older
//! than what md wrote, or hide what we wrote.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use linux_sys::file::block_device_size;
use nbd_protocol::command::{Answer, Command, Completion, Errno as NbdErrno, Failure};
use nbd_server::device::{BlockDevice, Geometry};
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Whence, lseek};

/// An open disk, partition or file.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
    size: u64,
}

/// Why a disk can't be accessed.
#[derive(Debug, thiserror::Error)]
#[error("{} can't be {what}: {error}", path.display())]
pub struct DiskError {
    /// Which.
    pub path: PathBuf,
    /// Opened, read or written.
    pub what: &'static str,
    /// The system's reason.
    pub error: io::Error,
}

/// How a disk is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing, also while md or another program uses it.
    Write,
    /// For reading and writing, and refused while the disk is mounted, exported, or part of an array.
    Exclusive,
}

impl Disk {
    /// Opens a disk.
    ///
    /// # Errors
    /// If it does not exist, may not be opened, is no disk, or is in use although it must not be.
    pub fn open(path: &Path, access: Access) -> Result<Disk, DiskError> {
        let failed = |error| DiskError {
            path: path.to_owned(),
            what: "opened",
            error,
        };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let error = io::Error::other("it is neither a block device nor a file");
            return Err(failed(error));
        }
        let exclusive = access == Access::Exclusive;
        let open = |direct| {
            let mut flags = libc::O_DSYNC | direct;
            if exclusive && kind.is_block_device() {
                flags |= libc::O_EXCL;
            }
            OpenOptions::new()
                .read(true)
                .write(access != Access::Read)
                .custom_flags(flags)
                .open(path)
        };
        // Some file systems of test files have no direct access; block devices all have it.
        let file = match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
            other => other,
        };
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => failed(io::Error::other(
                "it is in use: mounted, exported, or part of an array",
            )),
            _ => failed(error),
        })?;
        if exclusive {
            // nbd-server locks what it exports in this way.
            file.try_lock().map_err(|error| match error {
                std::fs::TryLockError::WouldBlock => failed(io::Error::other(
                    "another program holds its lock (flock): is it exported?",
                )),
                std::fs::TryLockError::Error(error) => failed(error),
            })?;
            // Whoever had it before may have left writes in the page cache, and they stay there while anybody has the disk
            // open: md would neither see them nor keep them from overwriting its own later.
            file.sync_all().map_err(failed)?;
        }
        let size = match kind.is_block_device() {
            true => block_device_size(file.as_fd()).map_err(failed)?,
            false => file.metadata().map_err(failed)?.len(),
        };
        Ok(Disk {
            file,
            path: path.to_owned(),
            size,
        })
    }

    /// Its path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads `length` bytes at `offset`; offset and length need not be whole blocks.
    ///
    /// # Errors
    /// If they lie beyond the end, or the disk fails.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let failed = |error| self.failed("read", error);
        let end = offset.checked_add(length as u64);
        let Some(end) = end.filter(|&end| end <= self.size) else {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        };
        let from = offset - offset % BLOCK;
        let to = end
            .next_multiple_of(BLOCK)
            .min(self.size.next_multiple_of(512));
        let mut buffer = Aligned::new((to - from) as usize);
        let bytes = buffer.bytes();
        let mut done = 0;
        while done < (end - from) as usize {
            match self.file.read_at(&mut bytes[done..], from + done as u64) {
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let skip = (offset - from) as usize;
        Ok(bytes[skip..skip + length].to_vec())
    }

    /// Writes `data` at `offset`, durably. What else is in its blocks of 4 KiB is read and written back: a disk may take
    /// nothing smaller. Nothing of md's that changes while an array runs is in one of these with something of ours.
    ///
    /// # Errors
    /// If it lies beyond the end, or the disk fails.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let failed = |error| self.failed("written", error);
        let end = offset.checked_add(data.len() as u64);
        let Some(end) = end.filter(|&end| end <= self.size) else {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        };
        let from = offset - offset % BLOCK;
        let to = end.next_multiple_of(BLOCK).min(self.size);
        let mut buffer = Aligned::new((to - from) as usize);
        let bytes = buffer.bytes();
        if (from, to) != (offset, end) {
            bytes.copy_from_slice(&self.read(from, (to - from) as usize)?);
        }
        bytes[(offset - from) as usize..][..data.len()].copy_from_slice(data);
        self.file
            .write_all_at(bytes, from)
            // O_DSYNC covers the write; this covers a disk that has a cache of its own and no FUA.
            .and_then(|()| self.file.sync_data())
            .map_err(failed)
    }

    /// The first byte from `at` on that is not in a hole; the end if there is none. A disk that can't tell has no holes.
    pub fn next_data(&self, at: u64) -> u64 {
        let from = i64::try_from(at).unwrap_or(i64::MAX);
        match lseek(&self.file, from, Whence::SeekData) {
            Ok(found) => u64::try_from(found).unwrap_or(at).max(at),
            Err(Errno::ENXIO) => self.size,
            Err(_) => at,
        }
    }

    fn failed(&self, what: &'static str, error: io::Error) -> DiskError {
        DiskError {
            path: self.path.clone(),
            what,
            error,
        }
    }
}

/// Reading only, for those who look at what a disk holds.
impl BlockDevice for Disk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.size,
            minimum_block: 1,
            preferred_block: BLOCK as u32,
            read_only: true,
            rotational: false,
            fast_zero: false,
            multi_connection: false,
            contexts: Vec::new(),
        }
    }

    fn submit(&self, command: Command, completion: Completion) {
        completion.complete(match command {
            Command::Read { offset, length } => self
                .read(offset, length as usize)
                .map(|data| Answer::Data(data.into()))
                .map_err(|error| Failure::new(NbdErrno::EIO, error.to_string())),
            _ => Err(Failure::new(NbdErrno::EPERM, "only reads are taken here")),
        });
    }
}

/// Memory that direct access takes.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let memory = vec![0; length + BLOCK as usize];
        let start = memory.as_ptr().align_offset(BLOCK as usize);
        Aligned {
            memory,
            start,
            length,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Alignment that every disk takes.
const BLOCK: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_is_read_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 * 4096 + 512).unwrap();
        let disk = Disk::open(file.path(), Access::Exclusive).unwrap();
        let data: Vec<u8> = (0..4096_u32).map(|n| (n % 251) as u8).collect();
        disk.write(4096, &data).unwrap();
        assert_eq!(disk.read(4096, 4096).unwrap(), data);
        assert_eq!(disk.read(4100, 7).unwrap(), data[4..11]);
        assert_eq!(disk.read(3 * 4096, 512).unwrap(), [0; 512]);
        assert!(disk.read(3 * 4096 + 500, 13).is_err());
        disk.write(4096 + 512, &[7; 512]).unwrap();
        assert_eq!(disk.read(4096 + 511, 2).unwrap(), [data[511], 7]);
        assert_eq!(disk.read(4096 + 1023, 2).unwrap(), [7, data[1024]]);
        assert!(disk.write(3 * 4096, &[0; 1024]).is_err());
        let second = Disk::open(file.path(), Access::Exclusive).unwrap_err();
        assert!(second.to_string().contains("exported"), "{second}");
    }
}
