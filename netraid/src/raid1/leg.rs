//! The legs of a mirror: their slots, their states, and what the metadata on each of them says.

use std::fmt;

use crate::md::resize::reshaped_ranges;
use crate::mirror::generation::{Generations, SLOTS};
use crate::raid1::chunks::ChunkSet;
use crate::raid1::engine::Shape;

/// Number of a leg in its mirror, below [`SLOTS`]; also its md raid-disk number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// Slot `number`, or `None` when a mirror can't have that many legs.
    pub fn new(number: usize) -> Option<Slot> {
        u8::try_from(number)
            .ok()
            .filter(|number| usize::from(*number) < SLOTS)
            .map(Slot)
    }

    /// The slot's number.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// The first `count` slots.
    pub fn first(count: usize) -> impl Iterator<Item = Slot> {
        (0..count).filter_map(Slot::new)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leg {}", self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotSet(u8);

impl SlotSet {
    /// No slot.
    pub const EMPTY: SlotSet = SlotSet(0);

    /// Adds `slot`.
    pub fn insert(&mut self, slot: Slot) {
        self.0 |= 1 << slot.0;
    }

    /// Removes `slot`; says whether it was there.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let had = self.contains(slot);
        self.0 &= !(1 << slot.0);
        had
    }

    /// Whether `slot` is in the set.
    pub fn contains(self, slot: Slot) -> bool {
        self.0 & (1 << slot.0) != 0
    }

    /// Whether the set has no slot.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of slots in the set.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Slots in both sets.
    pub fn and(self, other: SlotSet) -> SlotSet {
        SlotSet(self.0 & other.0)
    }

    /// Slots in either set.
    pub fn or(self, other: SlotSet) -> SlotSet {
        SlotSet(self.0 | other.0)
    }

    /// Slots of this set that are not in `other`.
    pub fn without(self, other: SlotSet) -> SlotSet {
        SlotSet(self.0 & !other.0)
    }

    /// The slots, lowest first.
    pub fn iter(self) -> impl Iterator<Item = Slot> {
        Slot::first(SLOTS).filter(move |slot| self.contains(*slot))
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> SlotSet {
        let mut set = SlotSet::EMPTY;
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(Slot::number))
            .finish()
    }
}

/// How a leg takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegState {
    /// Not connected, expelled, or never there. What it misses stays dirty.
    Absent,
    /// Connected; its metadata is being brought up to date. It receives no data yet.
    Attaching,
    /// It receives every write while the chunks that it misses are copied to it.
    Resync,
    /// Nothing is left to copy; its cache is being flushed before it counts as in sync.
    Finishing,
    /// It has every block that was acknowledged.
    InSync,
}

/// What a leg's superblock says about the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperState {
    /// Counts the changes of the superblock; the same on all legs that took part in the last one.
    pub events: u64,
    /// No write was under way and every leg's cache was flushed.
    pub clean: bool,
    /// Slots with a working leg, in sync or being resynced.
    pub active: SlotSet,
    /// This leg itself is not in sync (md: `recovery_offset`).
    pub recovering: bool,
}

/// What a leg's NetRAID record says about its own data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegRecord {
    /// Generations of its data.
    pub generations: Generations,
    /// Its data is one state that the mirror once had; false while it is being resynced.
    pub consistent: bool,
}

/// Everything that a leg's metadata says, as read when the leg is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegImage {
    /// Its superblock.
    pub superblock: SuperState,
    /// Its record.
    pub record: LegRecord,
    /// Its write-intent bitmap.
    pub dirty: ChunkSet,
}

impl LegImage {
    /// Whether the leg's data is one state that the mirror once had, so that it may be put into service.
    pub fn is_consistent(&self) -> bool {
        self.record.consistent && !self.superblock.recovering
    }

    /// What the leg of a mirror of shape `before` has to say in one of shape `after`: what its own bitmap does not speak for
    /// is dirty.
    pub fn reshape(&mut self, before: Shape, after: Shape) {
        let mut dirty = ChunkSet::empty(after.chunks());
        let runs = self.dirty.iter().map(|chunk| chunk..chunk + 1);
        let runs = reshaped_ranges(runs, before.chunk, before.size, after.chunk, after.size);
        runs.flatten().for_each(|chunk| {
            dirty.insert(chunk);
        });
        self.dirty = dirty;
    }
}
