//! A dense set of chunk numbers: one bit a chunk, in the bit order of md's write-intent bitmap.

/// A set of chunk numbers below a fixed count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSet {
    words: Vec<u64>,
    chunks: u64,
    /// Number of bits set: asked for after every event, and a large mirror has millions of chunks.
    count: u64,
}

impl ChunkSet {
    /// The empty set of chunks `0..chunks`.
    pub fn empty(chunks: u64) -> ChunkSet {
        let words = usize::try_from(chunks.div_ceil(64)).unwrap_or(usize::MAX);
        ChunkSet {
            words: vec![0; words],
            chunks,
            count: 0,
        }
    }

    /// The set of all chunks `0..chunks`.
    pub fn full(chunks: u64) -> ChunkSet {
        let mut set = ChunkSet::empty(chunks);
        set.words.fill(u64::MAX);
        set.bulk_changed();
        set
    }

    /// Reads the on-disk form: one bit a chunk, least significant bit first; missing bytes read as 0, surplus bits are
    /// ignored.
    pub fn from_bytes(chunks: u64, bytes: &[u8]) -> ChunkSet {
        let mut set = ChunkSet::empty(chunks);
        for (word, eight) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..eight.len()].copy_from_slice(eight);
            *word = u64::from_le_bytes(padded);
        }
        set.bulk_changed();
        set
    }

    /// The on-disk form of the bytes `first..first + length` of the bit array; bytes behind the last chunk are 0.
    pub fn bytes(&self, first: usize, length: usize) -> Vec<u8> {
        (first..first + length)
            .map(|index| {
                self.words
                    .get(index / 8)
                    .map_or(0, |word| word.to_le_bytes()[index % 8])
            })
            .collect()
    }

    /// Number of chunks that the set ranges over.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Number of chunks in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the set has no chunk.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `chunk` is in the set.
    pub fn contains(&self, chunk: u64) -> bool {
        chunk < self.chunks && self.words[word_of(chunk)] & bit_of(chunk) != 0
    }

    /// Adds `chunk`; says whether it was new. Chunks out of range are not added.
    pub fn insert(&mut self, chunk: u64) -> bool {
        if chunk >= self.chunks || self.contains(chunk) {
            return false;
        }
        self.words[word_of(chunk)] |= bit_of(chunk);
        self.count += 1;
        true
    }

    /// Removes `chunk`; says whether it was there.
    pub fn remove(&mut self, chunk: u64) -> bool {
        if !self.contains(chunk) {
            return false;
        }
        self.words[word_of(chunk)] &= !bit_of(chunk);
        self.count -= 1;
        true
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// Ranges over `0..chunks` from now on, if those are more than before.
    pub fn grow(&mut self, chunks: u64) {
        if chunks > self.chunks {
            let words = usize::try_from(chunks.div_ceil(64)).unwrap_or(usize::MAX);
            self.words.resize(words, 0);
            self.chunks = chunks;
        }
    }

    /// Adds every chunk of `other`.
    pub fn unite(&mut self, other: &ChunkSet) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
        self.bulk_changed();
    }

    /// Removes every chunk of `other`.
    pub fn subtract(&mut self, other: &ChunkSet) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= !theirs;
        }
        self.bulk_changed();
    }

    /// Removes every chunk that is not in `other`.
    pub fn intersect(&mut self, other: &ChunkSet) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= theirs;
        }
        self.bulk_changed();
    }

    /// The first chunk of the set that is `from` or more.
    pub fn next_from(&self, from: u64) -> Option<u64> {
        if from >= self.chunks {
            return None;
        }
        let first = word_of(from);
        let masked = self.words[first] & (u64::MAX << (from % 64));
        let (index, word) = std::iter::once((first, masked))
            .chain((first + 1..self.words.len()).map(|index| (index, self.words[index])))
            .find(|(_, word)| *word != 0)?;
        Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
    }

    /// All chunks of the set in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        std::iter::successors(self.next_from(0), |chunk| self.next_from(chunk + 1))
    }

    fn bulk_changed(&mut self) {
        let used = self.chunks % 64;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
        self.count = self
            .words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
    }
}

fn word_of(chunk: u64) -> usize {
    (chunk / 64) as usize
}

fn bit_of(chunk: u64) -> u64 {
    1 << (chunk % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_behaves_like_an_ordered_set(
            chunks in 1u64..300,
            steps in proptest::collection::vec((any::<bool>(), 0u64..320), 0..200),
        ) {
            let (mut set, mut model) = (ChunkSet::empty(chunks), BTreeSet::new());
            for (add, chunk) in steps {
                if add {
                    prop_assert_eq!(set.insert(chunk), chunk < chunks && model.insert(chunk));
                } else {
                    prop_assert_eq!(set.remove(chunk), model.remove(&chunk));
                }
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count(), model.len() as u64);
            let bytes = set.bytes(0, chunks.div_ceil(8) as usize);
            prop_assert_eq!(ChunkSet::from_bytes(chunks, &bytes), set);
        }
    }

    #[test]
    fn a_set_that_grows_keeps_its_chunks_and_has_no_new_ones() {
        let mut set = ChunkSet::full(70);
        set.grow(200);
        assert_eq!((set.chunks(), set.count()), (200, 70));
        assert!(set.insert(199) && !set.contains(70));
        set.grow(10);
        assert_eq!((set.chunks(), set.count()), (200, 71));
    }

    #[test]
    fn the_full_set_has_no_bit_behind_the_last_chunk() {
        assert_eq!(ChunkSet::full(70).count(), 70);
        assert_eq!(
            ChunkSet::full(70).bytes(0, 10),
            [255, 255, 255, 255, 255, 255, 255, 255, 0x3f, 0]
        );
        assert_eq!(ChunkSet::from_bytes(3, &[255]).count(), 3);
    }
}
