//! A simulated leg: a few blocks, a bitmap with a bit for each, and the record that says whose data it is.

use netraid::mirror::generation::Generations;

/// Blocks of a leg; each has a bit of its own.
pub const BLOCKS: usize = 8;
/// Every bit.
pub const ALL_BITS: u8 = u8::MAX;

/// Numbers of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(Vec<u64>);

impl Writes {
    pub fn contains(&self, number: u32) -> bool {
        let word = self.0.get(number as usize / 64).copied().unwrap_or(0);
        word & 1 << (number % 64) != 0
    }

    pub fn insert(&mut self, number: u32) {
        let (word, bit) = (number as usize / 64, number % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }

    pub fn add(&mut self, other: &Writes) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    pub fn remove(&mut self, other: &Writes) {
        for (word, gone) in self.0.iter_mut().zip(&other.0) {
            *word &= !gone;
        }
    }

    /// Those that are not in `other`.
    pub fn minus(&self, other: &Writes) -> Vec<u32> {
        let mut found = Vec::new();
        for (index, word) in self.0.iter().enumerate() {
            let mut rest = word & !other.0.get(index).copied().unwrap_or(0);
            while rest != 0 {
                found.push(index as u32 * 64 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
        found
    }
}

/// One leg as it is on stable storage.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The number of the write that each block holds.
    pub blocks: [u32; BLOCKS],
    pub bits: u8,
    pub generations: Generations,
    pub consistent: bool,
    /// What only the tests know: every write that this data is made of.
    pub holds: Writes,
    /// What only the tests know: blocks are of different times.
    pub mixed: bool,
}
