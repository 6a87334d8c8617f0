//! A disk of a node: an image in the lab's memory that can fail, hang, be slow, and lose what was not flushed.

use crate::control::{Failing, Page, Word};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const SECTOR: u64 = 512;

/// What a power loss does to writes that no flush has followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Every write that was answered is on the disk (no write cache, or one with a battery).
    #[default]
    Safe,
    /// All writes since the last flush are lost.
    Volatile,
    /// Of the sectors written since the last flush each one is lost or kept, as the seed decides.
    Torn(u64),
}

/// What a disk has done since the node was made, failed requests not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Read requests.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that failed because the lab said so.
    pub failed: u64,
}

/// A disk. In the node it is [`Disk::device`], on the host [`Disk::image`].
#[derive(Debug)]
pub struct Disk {
    /// Of the kernel's disks: 0 is the system disk.
    pub(crate) index: usize,
    /// As the kernel names it.
    pub(crate) inside: String,
    /// As the test names it.
    image: PathBuf,
    size: u64,
    cache: Mutex<Cache>,
    page: Arc<Page>,
}

impl Disk {
    pub(crate) fn new(
        index: usize,
        inside: String,
        image: PathBuf,
        size: u64,
        page: &Arc<Page>,
    ) -> Result<Disk> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&image);
        let file = file.with_context(|| format!("{}", image.display()))?;
        file.set_len(size)
            .with_context(|| format!("{}", image.display()))?;
        Ok(Disk {
            index,
            inside,
            image,
            size,
            cache: Mutex::default(),
            page: Arc::clone(page),
        })
    }

    /// The device in the node, e.g. `/dev/ubdb`.
    pub fn device(&self) -> String {
        // At most 8 disks.
        format!("/dev/ubd{}", char::from(b'a' + self.index as u8))
    }

    /// The image's path for the test (not for nodes). Read it only while the node is off or has flushed.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Says what the next power loss does to writes that were not flushed. Counts for writes from now on.
    ///
    /// # Errors
    /// The control page cannot be written.
    pub fn set_cache(&self, cache: Cache) -> Result<()> {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = cache;
        self.page
            .set(self.index, Word::KeepsUndo, u64::from(cache != Cache::Safe))
    }

    /// From now on requests that touch the range (bytes; `0..u64::MAX` for all) end with EIO.
    ///
    /// # Errors
    /// More than 16 failing ranges, or the control page cannot be written.
    pub fn fail(&self, range: Range<u64>, what: Failing) -> Result<()> {
        self.page.fail(self.index, range, what)
    }

    /// From now on flushes end with EIO.
    ///
    /// # Errors
    /// The control page cannot be written.
    pub fn fail_flushes(&self) -> Result<()> {
        self.page.set(self.index, Word::FailFlushes, 1)
    }

    /// No request fails any more.
    ///
    /// # Errors
    /// The control page cannot be written.
    pub fn heal(&self) -> Result<()> {
        self.page.heal(self.index)
    }

    /// Each request takes at least this much longer. A kernel here serves its disks one request at a time, so this
    /// slows all disks of the node.
    ///
    /// # Errors
    /// The control page cannot be written.
    pub fn delay(&self, reads: Duration, writes: Duration) -> Result<()> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.page.set(self.index, Word::ReadDelay, micros(reads))?;
        self.page.set(self.index, Word::WriteDelay, micros(writes))
    }

    /// Requests wait from now on until [`Disk::resume`] (and with them all disks of the node, see [`Disk::delay`]).
    ///
    /// # Errors
    /// The control page cannot be written.
    pub fn stall(&self) -> Result<()> {
        self.page.set(self.index, Word::Stalled, 1)
    }

    /// Ends [`Disk::stall`]: what waited is carried out.
    ///
    /// # Errors
    /// The control page cannot be written.
    pub fn resume(&self) -> Result<()> {
        self.page.set(self.index, Word::Stalled, 0)
    }

    /// What the disk has done.
    ///
    /// # Errors
    /// The control page cannot be read.
    pub fn counts(&self) -> Result<Counts> {
        let get = |word| self.page.get(self.index, word);
        Ok(Counts {
            reads: get(Word::Reads)?,
            read_bytes: get(Word::ReadBytes)?,
            writes: get(Word::Writes)?,
            written_bytes: get(Word::WrittenBytes)?,
            flushes: get(Word::Flushes)?,
            failed: get(Word::Failed)?,
        })
    }

    /// Bytes of the image.
    ///
    /// # Errors
    /// Reading fails, or the range is beyond the disk's end.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let file = File::open(&self.image).context("a disk's image")?;
        file.read_exact_at(&mut bytes, offset)
            .context("a disk's image")?;
        Ok(bytes)
    }

    /// Changes bytes of the image, while the node is off.
    ///
    /// # Errors
    /// Writing fails, or the range is beyond the disk's end.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > self.size)
        {
            bail!("beyond the disk's end");
        }
        let file = File::options()
            .write(true)
            .open(&self.image)
            .context("a disk's image")?;
        file.write_all_at(bytes, offset).context("a disk's image")
    }

    /// The power is gone: takes unflushed writes back as the cache demands. The kernel must have ended.
    ///
    /// Returns how many sectors were put back.
    pub(crate) fn lose_power(&self) -> Result<usize> {
        let cache = *self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let path = undo_path(&self.image);
        let keeps: Box<dyn Fn(u64) -> bool> = match cache {
            Cache::Safe => return Ok(0),
            Cache::Volatile => Box::new(|_| false),
            Cache::Torn(seed) => Box::new(move |sector| {
                let mut hasher = DefaultHasher::new();
                (seed, sector).hash(&mut hasher);
                hasher.finish() & 1 == 1
            }),
        };
        let undo = match fs::read(&path) {
            Ok(undo) => undo,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error).context("a disk's undo file"),
        };
        let old = first_versions(&undo);
        let file = File::options()
            .write(true)
            .open(&self.image)
            .context("a disk's image")?;
        let mut lost = 0;
        for (sector, bytes) in old {
            if !keeps(sector) {
                file.write_all_at(bytes, sector * SECTOR)
                    .context("a disk's image")?;
                lost += 1;
            }
        }
        fs::write(&path, []).context("a disk's undo file")?;
        Ok(lost)
    }

    /// The node was shut down in order: its disk has written what it held.
    pub(crate) fn settle(&self) -> Result<()> {
        match fs::write(undo_path(&self.image), []) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("a disk's undo file")
            }
            _ => Ok(()),
        }
    }
}

fn undo_path(image: &Path) -> PathBuf {
    let mut path = image.as_os_str().to_owned();
    path.push(".undo");
    path.into()
}

/// What each sector held at the last flush, from the shim's records: offset, length, old bytes. The oldest counts.
fn first_versions(mut undo: &[u8]) -> BTreeMap<u64, &[u8]> {
    let mut sectors = BTreeMap::new();
    while let Some((head, rest)) = undo.split_at_checked(16) {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or_default();
        let (offset, length) = (number(&head[..8]), number(&head[8..]));
        // Cut short by the power loss: the write had not begun.
        let Some((old, next)) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_checked(length))
        else {
            break;
        };
        for (n, bytes) in old.chunks(SECTOR as usize).enumerate() {
            sectors.entry(offset / SECTOR + n as u64).or_insert(bytes);
        }
        undo = next;
    }
    sectors
}

/// Where two pieces of disks differ first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Bytes from the start of the compared piece.
    pub offset: u64,
    /// How many bytes differ in all.
    pub bytes: u64,
    /// What the first piece holds from there, at most 16 bytes.
    pub left: Vec<u8>,
    /// What the second piece holds from there, at most 16 bytes.
    pub right: Vec<u8>,
}

/// Compares `length` bytes of two disks, each from its own offset; `None` if they are equal.
///
/// # Errors
/// Reading fails, or a piece is beyond a disk's end.
pub fn first_difference(
    left: (&Disk, u64),
    right: (&Disk, u64),
    length: u64,
) -> Result<Option<Difference>> {
    const STEP: u64 = 1 << 20;
    let mut found: Option<Difference> = None;
    let mut at = 0;
    while at < length {
        let step = STEP.min(length - at) as usize;
        let (a, b) = (
            left.0.read(left.1 + at, step)?,
            right.0.read(right.1 + at, step)?,
        );
        if a != b {
            for (n, _) in a.iter().zip(&b).enumerate().filter(|(_, (a, b))| a != b) {
                let difference = found.get_or_insert_with(|| Difference {
                    offset: at + n as u64,
                    bytes: 0,
                    left: a[n..].iter().take(16).copied().collect(),
                    right: b[n..].iter().take(16).copied().collect(),
                });
                difference.bytes += 1;
            }
        }
        at += step as u64;
    }
    Ok(found)
}
