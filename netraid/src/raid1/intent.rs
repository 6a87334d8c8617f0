//! The write-intent bitmap in memory: which bits must be set, which are durable, which may be dropped.
//!
//! A bit is set before the first write to its chunk and is dropped only by the cleaning cycle of the engine. `durable`
//! is always a subset of what every attached leg's disk holds: a bit leaves it before the page without the bit is sent.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use crate::raid1::chunks::ChunkSet;

/// Bytes of one page of the bitmap area on disk.
pub const PAGE: u64 = 4096;

/// Bytes of the bitmap's own header, at the beginning of page 0 (linux/drivers/md/md-bitmap.h, `bitmap_super_s`).
pub const HEADER: u64 = 256;

/// The page of the bitmap area that holds the bit of `chunk`.
pub fn page_of(chunk: u64) -> u32 {
    u32::try_from((HEADER + chunk / 8) / PAGE).unwrap_or(u32::MAX)
}

/// The bytes of the bit array (not of the area) that page `page` holds: first byte and number of bytes.
pub fn page_bytes(page: u32) -> (usize, usize) {
    let first = (u64::from(page) * PAGE).saturating_sub(HEADER);
    let length = if page == 0 { PAGE - HEADER } else { PAGE };
    (first as usize, length as usize)
}

/// Bookkeeping of the bitmap.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The image that the disks should have.
    wanted: ChunkSet,
    /// Bits that every attached leg holds durably.
    durable: ChunkSet,
    /// Bits set since the last commit began.
    unwritten: Vec<u64>,
    /// Bits of the commit under way.
    writing: Vec<u64>,
    /// Pages that differ from what was last sent.
    changed_pages: BTreeSet<u32>,
    /// Writes under way, by chunk.
    held: HashMap<u64, u32>,
    /// Chunks written since the last cleaning cycle began.
    recent: ChunkSet,
}

impl Intent {
    /// Starts from the bits found on disk; none of them counts as durable on all legs before the first commit.
    pub fn new(found: ChunkSet) -> Intent {
        let mut intent = Intent {
            durable: ChunkSet::empty(found.chunks()),
            unwritten: Vec::new(),
            writing: Vec::new(),
            changed_pages: BTreeSet::new(),
            held: HashMap::new(),
            recent: ChunkSet::empty(found.chunks()),
            wanted: ChunkSet::empty(found.chunks()),
        };
        intent.merge(&found);
        intent
    }

    /// Sets every bit of `dirty`.
    pub fn merge(&mut self, dirty: &ChunkSet) {
        for chunk in dirty.iter() {
            self.set(chunk);
        }
    }

    fn set(&mut self, chunk: u64) {
        if self.wanted.insert(chunk) {
            self.unwritten.push(chunk);
            self.changed_pages.insert(page_of(chunk));
        }
    }

    /// There are more chunks from now on; none of the new ones is dirty yet.
    pub fn grow(&mut self, chunks: u64) {
        for set in [&mut self.wanted, &mut self.durable, &mut self.recent] {
            set.grow(chunks);
        }
    }

    /// A write to `chunks` is about to be launched; says whether all their bits are durable already.
    pub fn hold(&mut self, chunks: Range<u64>) -> bool {
        let mut durable = true;
        for chunk in chunks {
            *self.held.entry(chunk).or_default() += 1;
            self.recent.insert(chunk);
            self.set(chunk);
            durable &= self.durable.contains(chunk);
        }
        durable
    }

    /// Sets the bits of all chunks of the aligned groups of `group` chunks in which `chunks` lie, beforehand.
    ///
    /// A bit too many is always safe; it costs copying after a crash, until the cleaning cycle drops it.
    pub fn set_around(&mut self, chunks: Range<u64>, group: u64) {
        let start = chunks.start / group * group;
        for chunk in start..chunks.end.next_multiple_of(group).min(self.wanted.chunks()) {
            self.set(chunk);
        }
    }

    /// A write to `chunks` has ended on every leg that it went to.
    pub fn release(&mut self, chunks: Range<u64>) {
        for chunk in chunks {
            self.recent.insert(chunk);
            if let Some(count) = self.held.get_mut(&chunk) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(&chunk);
                }
            }
        }
    }

    /// Whether the bits of all `chunks` are durable.
    pub fn is_durable(&self, mut chunks: Range<u64>) -> bool {
        chunks.all(|chunk| self.durable.contains(chunk))
    }

    /// The bits that are set.
    pub fn dirty(&self) -> &ChunkSet {
        &self.wanted
    }

    /// The bits that every attached leg holds durably.
    pub fn durable(&self) -> &ChunkSet {
        &self.durable
    }

    /// Whether a page must be written.
    pub fn has_changes(&self) -> bool {
        !self.changed_pages.is_empty()
    }

    /// Begins a commit: takes the pages that changed. Their content is that of [`Intent::dirty`] now.
    pub fn begin_commit(&mut self) -> BTreeSet<u32> {
        debug_assert!(self.writing.is_empty(), "one commit at a time");
        self.writing = std::mem::take(&mut self.unwritten);
        std::mem::take(&mut self.changed_pages)
    }

    /// The commit is durable on every attached leg.
    pub fn end_commit(&mut self) {
        for chunk in std::mem::take(&mut self.writing) {
            if self.wanted.contains(chunk) {
                self.durable.insert(chunk);
            }
        }
    }

    /// Begins a cleaning cycle: the bits of chunks not written since the last one began, and not being written.
    pub fn begin_cleaning(&mut self) -> ChunkSet {
        let mut quiet = self.durable.clone();
        quiet.subtract(&self.recent);
        for chunk in self.held.keys() {
            quiet.remove(*chunk);
        }
        self.recent.clear();
        quiet
    }

    /// Removes the chunks that have been written since the cycle began, or are being written, or whose bits are not durable.
    pub fn subtract_touched(&self, chunks: &mut ChunkSet) {
        chunks.subtract(&self.recent);
        chunks.intersect(&self.durable);
        for chunk in self.held.keys() {
            chunks.remove(*chunk);
        }
    }

    /// Drops the bits of `quiet` whose chunks have not been written since the cycle began; returns how many.
    ///
    /// They leave `durable` at once: a write that comes before the page is on disk must set its bit anew.
    pub fn drop_bits(&mut self, quiet: &ChunkSet) -> u64 {
        let mut dropped = 0;
        for chunk in quiet.iter() {
            if self.recent.contains(chunk)
                || self.held.contains_key(&chunk)
                || !self.durable.contains(chunk)
            {
                continue;
            }
            self.wanted.remove(chunk);
            self.durable.remove(chunk);
            self.changed_pages.insert(page_of(chunk));
            dropped += 1;
        }
        dropped
    }

    /// Whether no chunk has been written since the cleaning cycle began.
    pub fn untouched(&self) -> bool {
        self.recent.is_empty() && self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(chunks: u64, held: Range<u64>) -> Intent {
        let mut intent = Intent::new(ChunkSet::empty(chunks));
        intent.hold(held);
        intent.begin_commit();
        intent.end_commit();
        intent
    }

    #[test]
    fn a_bit_is_durable_only_after_the_commit_that_began_behind_it() {
        let mut intent = Intent::new(ChunkSet::empty(100));
        assert!(!intent.hold(3..5));
        assert_eq!(intent.begin_commit(), BTreeSet::from([0]));
        assert!(!intent.hold(9..10), "set while the commit was under way");
        intent.end_commit();
        assert!(intent.is_durable(3..5));
        assert!(!intent.is_durable(9..10));
    }

    #[test]
    fn a_chunk_being_written_keeps_its_bit() {
        let mut intent = committed(100, 3..5);
        intent.begin_cleaning();
        let quiet = intent.begin_cleaning();
        assert_eq!(intent.drop_bits(&quiet), 0);
        intent.release(3..5);
        intent.begin_cleaning();
        let quiet = intent.begin_cleaning();
        assert_eq!(quiet.count(), 2);
        assert!(intent.hold(4..5));
        assert_eq!(
            intent.drop_bits(&quiet),
            1,
            "chunk 4 was written after the cycle began"
        );
        assert!(!intent.is_durable(3..4));
        assert!(intent.is_durable(4..5));
    }

    #[test]
    fn bits_set_beforehand_are_dropped_unless_they_were_needed() {
        let mut intent = Intent::new(ChunkSet::empty(30));
        intent.hold(9..10);
        intent.set_around(9..10, 8);
        assert_eq!(
            intent.dirty().iter().collect::<Vec<_>>(),
            (8..16).collect::<Vec<_>>()
        );
        intent.set_around(29..30, 8);
        assert_eq!(
            intent.dirty().count(),
            14,
            "the last group is cut off at the end"
        );
        intent.begin_commit();
        intent.end_commit();
        assert!(
            intent.hold(12..13),
            "a neighbour needs no commit of its own"
        );
        intent.begin_cleaning();
        intent.release(9..10);
        intent.release(12..13);
        intent.begin_cleaning();
        let quiet = intent.begin_cleaning();
        assert_eq!(intent.drop_bits(&quiet), 14);
    }

    #[test]
    fn pages_follow_the_256_byte_header() {
        assert_eq!(page_of((4096 - 256) * 8 - 1), 0);
        assert_eq!(page_of((4096 - 256) * 8), 1);
        assert_eq!(page_bytes(0), (0, 3840));
        assert_eq!(page_bytes(1), (3840, 4096));
    }
}
