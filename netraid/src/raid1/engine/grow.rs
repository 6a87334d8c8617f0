//! A mirror that becomes larger while it is in service.
//!
//! It grows with its own leg alone; whoever is taken back afterwards is brought to the same size then. So one superblock
//! decides which size the mirror has, and a crash leaves the old one or the new one.
//!
//! One commit carries all of it to the own leg: the bits of the new chunks, then the superblock with the new size, each
//! durable before the next. A write to a new chunk waits for its bit as every write does, so nothing is written there before
//! the size is durable.

use super::*;

use crate::raid1::chunks::ChunkSet;

impl Engine {
    /// Grows as soon as no piece of a resync is under way: what it copies was measured by the old size.
    pub(super) fn proceed_growth(&mut self) {
        let Some(size) = self.growing else { return };
        let alone = self.attached().iter().all(|slot| slot == self.local);
        let possible = alone
            && self.state(self.local) == LegState::InSync
            && self.halted.is_none()
            && !self.stopping;
        if !possible || size <= self.shape.size {
            self.growing = None;
        } else if self.resync.under_way == 0 {
            self.growing = None;
            // Begun for legs that are gone.
            self.resync.chunks.clear();
            self.grow(size);
        }
    }

    /// Whether it is about to grow.
    pub fn is_growing(&self) -> bool {
        self.growing.is_some()
    }

    fn grow(&mut self, size: u64) {
        // The last chunk may have ended before its bytes did.
        let first = self.shape.size / self.shape.chunk;
        self.shape.size = size;
        let chunks = self.shape.chunks();
        self.abandon_cleaning();
        self.intent.grow(chunks);
        self.intent.set_around(first..chunks, 1);
        for leg in &mut self.legs {
            leg.lacks.grow(chunks);
            leg.missing = ChunkSet::empty(chunks);
            leg.suspect = ChunkSet::empty(chunks);
        }
        self.all_may_lack(first..chunks);
        // Legs that come back find bits: the superblock must not say that there are none.
        self.clean = false;
        self.superblock_changed();
        self.resized = self.commit.version;
    }

    /// Whether the size is on the disk of the own leg.
    pub fn size_is_durable(&self) -> bool {
        self.resized <= self.commit.durable
    }
}
