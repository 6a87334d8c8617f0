//! The bits of a write-intent bitmap: which chunks of the array may differ between its legs.

use super::{BitmapError, BitmapSuperblock, HEADER, MAX_CHUNKS, bitmap_bytes};
use crate::PAGE;
use std::ops::Range;

/// One bit a chunk, set: the legs may differ there.
///
/// On the disk the bits follow the header at once, eight a byte, the least significant first, up to the end of the
/// bitmap's last page. Bits beyond the last chunk mean nothing; they are kept as found, and are ones in a fresh bitmap
/// as `mdadm` makes it, so that an array grown later starts with its new chunks dirty.
#[derive(Clone, PartialEq, Eq)]
pub struct DirtyBits {
    /// The bits as on the disk, those beyond the last chunk included: word `w` is at byte `HEADER + 8 * w`.
    words: Vec<u64>,
    chunks: u64,
    /// Set bits below `chunks`.
    dirty: u64,
}

impl DirtyBits {
    /// No chunk dirty. `chunks` is cut to [`MAX_CHUNKS`].
    pub fn all_clean(chunks: u64) -> DirtyBits {
        let mut bits = DirtyBits::all_dirty(chunks);
        bits.clear_range(0..bits.chunks);
        bits
    }

    /// Every chunk dirty. `chunks` is cut to [`MAX_CHUNKS`].
    pub fn all_dirty(chunks: u64) -> DirtyBits {
        let chunks = chunks.min(MAX_CHUNKS);
        DirtyBits {
            words: vec![u64::MAX; word_count(chunks)],
            chunks,
            dirty: chunks,
        }
    }

    /// Reads the bits from a whole bitmap, header included. Missing bytes of the last page are taken for ones if no
    /// chunk has its bit there; otherwise the bitmap is cut short.
    pub fn decode(chunks: u64, bitmap: &[u8]) -> Result<DirtyBits, BitmapError> {
        let mut bits = DirtyBits::all_dirty(chunks);
        let need = HEADER + bits.chunks.div_ceil(8) as usize;
        let Some(found) = bitmap.get(HEADER..).filter(|_| bitmap.len() >= need) else {
            return Err(BitmapError::Short {
                have: bitmap.len(),
                need,
            });
        };
        for (word, raw) in bits.words.iter_mut().zip(found.chunks(8)) {
            let mut bytes = word.to_le_bytes();
            bytes[..raw.len()].copy_from_slice(raw);
            *word = u64::from_le_bytes(bytes);
        }
        bits.dirty = bits.recount();
        Ok(bits)
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Number of dirty chunks. Costs nothing: it is kept.
    pub fn count(&self) -> u64 {
        self.dirty
    }

    /// Whether no chunk is dirty.
    pub fn is_clean(&self) -> bool {
        self.dirty == 0
    }

    /// Whether a chunk is dirty. A chunk that does not exist is: who asks for it has lost count, and must not skip it.
    pub fn test(&self, chunk: u64) -> bool {
        chunk >= self.chunks || self.words[word_of(chunk)] & bit_of(chunk) != 0
    }

    /// Sets the bit of a chunk; true if it was not set. Chunks beyond the last are ignored.
    pub fn set(&mut self, chunk: u64) -> bool {
        let changed = !self.test(chunk);
        if changed {
            self.words[word_of(chunk)] |= bit_of(chunk);
            self.dirty += 1;
        }
        changed
    }

    /// Clears the bit of a chunk; true if it was set. Chunks beyond the last are ignored.
    pub fn clear(&mut self, chunk: u64) -> bool {
        let changed = chunk < self.chunks && self.test(chunk);
        if changed {
            self.words[word_of(chunk)] &= !bit_of(chunk);
            self.dirty -= 1;
        }
        changed
    }

    /// Sets the bits of a range of chunks, cut to those that exist; returns how many were not set.
    pub fn set_range(&mut self, chunks: Range<u64>) -> u64 {
        let mut changed = 0;
        self.each_word(chunks, |word, mask| {
            changed += u64::from((mask & !*word).count_ones());
            *word |= mask;
        });
        self.dirty += changed;
        changed
    }

    /// Clears the bits of a range of chunks, cut to those that exist; returns how many were set.
    pub fn clear_range(&mut self, chunks: Range<u64>) -> u64 {
        let mut changed = 0;
        self.each_word(chunks, |word, mask| {
            changed += u64::from((mask & *word).count_ones());
            *word &= !mask;
        });
        self.dirty -= changed;
        changed
    }

    /// Sets every bit that is set in `other`, as far as it exists here; returns how many were not set.
    ///
    /// This is the merge of two legs' bitmaps. Both must have chunks of the same size.
    pub fn union_with(&mut self, other: &DirtyBits) -> u64 {
        other.ranges().map(|range| self.set_range(range)).sum()
    }

    /// The first dirty chunk at or after `from`.
    pub fn next_dirty(&self, from: u64) -> Option<u64> {
        self.next(from, 0)
    }

    /// The first clean chunk at or after `from`.
    pub fn next_clean(&self, from: u64) -> Option<u64> {
        self.next(from, u64::MAX)
    }

    /// The runs of dirty chunks in order, each as long as possible.
    pub fn ranges(&self) -> Ranges<'_> {
        Ranges {
            bits: self,
            from: 0,
        }
    }

    /// Number of pages of the bitmap, header included.
    pub fn pages(&self) -> usize {
        (HEADER + self.words.len() * 8) / PAGE
    }

    /// The page that holds the bit of a chunk.
    pub fn page_of(&self, chunk: u64) -> usize {
        ((HEADER as u64 + chunk / 8) / PAGE as u64) as usize
    }

    /// The chunks whose bits are in a page.
    pub fn chunks_of_page(&self, page: usize) -> Range<u64> {
        let first = |page: usize| (page * PAGE).saturating_sub(HEADER) as u64 * 8;
        first(page).min(self.chunks)..first(page + 1).min(self.chunks)
    }

    /// Writes one page of the bitmap as it is on the disk; page 0 starts with the header. A page beyond the last is left
    /// as it is.
    pub fn encode_page(&self, page: usize, header: &BitmapSuperblock, out: &mut [u8; PAGE]) {
        let mut rest = &mut out[..];
        let first_word = match page {
            0 => {
                rest[..HEADER].copy_from_slice(&header.encode());
                rest = &mut rest[HEADER..];
                0
            }
            _ => (page * PAGE - HEADER) / 8,
        };
        let words = self.words.get(first_word..).unwrap_or(&[]);
        for (raw, word) in rest.chunks_exact_mut(8).zip(words) {
            raw.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The whole bitmap as it is on the disk, header included, in whole pages.
    pub fn encode(&self, header: &BitmapSuperblock) -> Vec<u8> {
        let mut out = vec![0; self.pages() * PAGE];
        for (page, raw) in out.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            self.encode_page(page, header, raw);
        }
        out
    }

    /// The first chunk at or after `from` whose bit differs from `unwanted` (0 or all ones).
    fn next(&self, from: u64, unwanted: u64) -> Option<u64> {
        if from >= self.chunks {
            return None;
        }
        let start = word_of(from);
        let mut mask = u64::MAX << (from % 64);
        for (i, word) in self.words[start..].iter().enumerate() {
            let wanted = (word ^ unwanted) & mask;
            if wanted != 0 {
                let chunk = (start + i) as u64 * 64 + u64::from(wanted.trailing_zeros());
                // Bits beyond the last chunk are in the words, too.
                return (chunk < self.chunks).then_some(chunk);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Calls `change` for each word that has bits of the range, with a mask of these bits.
    fn each_word(&mut self, chunks: Range<u64>, mut change: impl FnMut(&mut u64, u64)) {
        let (start, end) = (chunks.start, chunks.end.min(self.chunks));
        if start >= end {
            return;
        }
        let (first, last) = (word_of(start), word_of(end - 1));
        for (i, word) in self.words[first..=last].iter_mut().enumerate() {
            let mut mask = u64::MAX;
            if i == 0 {
                mask &= u64::MAX << (start % 64);
            }
            if first + i == last {
                mask &= u64::MAX >> (63 - (end - 1) % 64);
            }
            change(word, mask);
        }
    }

    fn recount(&self) -> u64 {
        let whole = (self.chunks / 64) as usize;
        let rest = self.chunks % 64;
        let full: u64 = self.words[..whole]
            .iter()
            .map(|w| u64::from(w.count_ones()))
            .sum();
        match rest {
            0 => full,
            _ => full + u64::from((self.words[whole] & (u64::MAX >> (64 - rest))).count_ones()),
        }
    }
}

impl std::fmt::Debug for DirtyBits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirtyBits({} of {} chunks: ", self.dirty, self.chunks)?;
        f.debug_list().entries(self.ranges().take(16)).finish()?;
        f.write_str(")")
    }
}

/// The runs of dirty chunks; see [`DirtyBits::ranges`].
#[derive(Debug, Clone)]
pub struct Ranges<'a> {
    bits: &'a DirtyBits,
    from: u64,
}

impl Iterator for Ranges<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let start = self.bits.next_dirty(self.from)?;
        let end = self.bits.next_clean(start).unwrap_or(self.bits.chunks);
        self.from = end;
        Some(start..end)
    }
}

/// Words up to the end of the bitmap's last page. Never more than [`MAX_CHUNKS`] need, so it fits a `usize`.
fn word_count(chunks: u64) -> usize {
    (bitmap_bytes(chunks) as usize - HEADER) / 8
}

fn word_of(chunk: u64) -> usize {
    (chunk / 64) as usize
}

fn bit_of(chunk: u64) -> u64 {
    1 << (chunk % 64)
}
