//! The page through which the lab tells a running kernel's disks to fail, to be slow or to hang, and reads their counts.
//!
//! The shim in the kernel (shim/shim.c, `struct control`) maps the same file. It outlives the kernel, so a disk that is
//! broken stays broken over a power loss.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Disks a kernel can have.
pub(crate) const DISKS: usize = 8;
const RANGES: usize = 16;
/// Bytes of a disk's part: 16 numbers, and three for each range.
const PART: u64 = (16 + 3 * RANGES as u64) * 8;

/// A number in a disk's part of the page.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    Stalled = 0,
    ReadDelay = 1,
    WriteDelay = 2,
    KeepsUndo = 3,
    Reads = 4,
    ReadBytes = 5,
    Writes = 6,
    WrittenBytes = 7,
    Flushes = 8,
    Failed = 9,
    FailFlushes = 10,
}

/// What fails in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Reads end with EIO, writes work (and do not heal the range).
    Reads,
    /// Writes and discards end with EIO, reads work.
    Writes,
    /// Both end with EIO.
    Both,
}

#[derive(Debug)]
pub(crate) struct Page(File);

impl Page {
    pub(crate) fn create(path: &Path) -> Result<Page> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("{}", path.display()))?;
        file.set_len(PART * DISKS as u64)?;
        Ok(Page(file))
    }

    pub(crate) fn get(&self, disk: usize, word: Word) -> Result<u64> {
        self.read(disk as u64 * PART + word as u64 * 8)
    }

    pub(crate) fn set(&self, disk: usize, word: Word, value: u64) -> Result<()> {
        self.write(disk as u64 * PART + word as u64 * 8, value)
    }

    /// Adds a range of bytes that fails.
    pub(crate) fn fail(
        &self,
        disk: usize,
        range: std::ops::Range<u64>,
        what: Failing,
    ) -> Result<()> {
        for n in 0..RANGES as u64 {
            let at = disk as u64 * PART + 128 + n * 24;
            if self.read(at + 16)? == 0 {
                self.write(at, range.start)?;
                self.write(at + 8, range.end)?;
                // Last: the range counts from here on.
                return self.write(
                    at + 16,
                    match what {
                        Failing::Reads => 1,
                        Failing::Writes => 2,
                        Failing::Both => 3,
                    },
                );
            }
        }
        bail!("a disk has at most {RANGES} failing ranges");
    }

    /// Removes all failing ranges.
    pub(crate) fn heal(&self, disk: usize) -> Result<()> {
        self.set(disk, Word::FailFlushes, 0)?;
        for n in 0..RANGES as u64 {
            self.write(disk as u64 * PART + 128 + n * 24 + 16, 0)?;
        }
        Ok(())
    }

    fn read(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.0
            .read_exact_at(&mut bytes, at)
            .context("the control page")?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn write(&self, at: u64, value: u64) -> Result<()> {
        self.0
            .write_all_at(&value.to_ne_bytes(), at)
            .context("the control page")
    }
}
