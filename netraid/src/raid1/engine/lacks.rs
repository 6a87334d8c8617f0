//! A bitmap per leg: what would have to be copied to each if it came back now.
//!
//! The write-intent bitmap on the disks is the union of these (and of bits that are set beforehand), so it is good for
//! any leg and any reader, a kernel too. These know more, as long as this engine lives: what one leg misses does not have
//! to be copied to another one that was away at another time, and a bit that a leg in sync does not need any more is kept
//! only if one that is away does.
//!
//! A chunk is in a leg's set from before the first write to it until that leg has been flushed afterwards without another
//! write to it, and not while the leg is away. An engine that has just been assembled knows what was dirty, not for whom:
//! all legs begin with that.

use super::*;

use crate::raid1::chunks::ChunkSet;

/// How a leg went that was in sync: what a leg must say that comes back with the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Departure {
    generation: crate::mirror::generation::Generation,
}

/// Whether the marks that a leg needed before it was in sync are gone, from its own disk too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Settled {
    /// No: all legs have to be flushed once.
    #[default]
    No,
    /// They are dropped, and no disk says so yet.
    Here,
    /// A commit is under way that says so.
    Committing,
    /// They are gone.
    Yes,
}

impl Engine {
    /// Whether a leg in sync that goes now lacks, by all that is said on any disk, only what is written from about now on.
    pub fn is_settled(&self, slot: Slot) -> bool {
        let leg = self.legs.get(slot.number());
        leg.is_some_and(|leg| leg.settled == Settled::Yes)
    }

    /// What is marked goes to the disks, or is there.
    pub(super) fn settle_legs(&mut self, from: Settled, to: Settled) {
        for leg in &mut self.legs {
            if leg.settled == from {
                leg.settled = to;
            }
        }
    }

    /// A write to these chunks is about to be sent to some legs, or to none; says whether all their bits are durable already.
    pub(super) fn hold_bits(&mut self, chunks: std::ops::Range<u64>) -> bool {
        self.all_may_lack(chunks.clone());
        self.intent.hold(chunks)
    }

    /// What legs have in these chunks may differ from now on.
    pub(super) fn all_may_lack(&mut self, chunks: std::ops::Range<u64>) {
        for leg in &mut self.legs {
            for chunk in chunks.clone() {
                leg.lacks.insert(chunk);
            }
        }
    }

    /// Bytes that would have to be copied to the leg in `slot`, in sync or not, if it came back now with what it had;
    /// what was written last counts, too, although it may have it. Rounded up to whole chunks.
    pub fn lacks(&self, slot: Slot) -> u64 {
        let leg = self.legs.get(slot.number());
        leg.map_or(0, |leg| self.shape.bytes_under(&leg.lacks))
    }

    /// Of these chunks those whose bits a flush of all legs that receive writes would make needless, for one leg at least.
    ///
    /// None if a leg has gone that shares the generation of those that stay: it may have lost what was not flushed, and
    /// say so with a bit, in service elsewhere bring that over a leg of here, and nothing would show that this one is not
    /// as it went ([`Engine::is_as_it_went`]). With the next write, or flush, the generation is another one.
    pub(super) fn worth_cleaning(&self, mut chunks: ChunkSet) -> ChunkSet {
        let receiving = self.receiving();
        if !self.members.without(receiving).is_empty() {
            chunks.clear();
        }
        let mut kept = ChunkSet::empty(self.shape.chunks());
        for slot in self.slots().filter(|slot| !receiving.contains(*slot)) {
            kept.unite(&self.legs[slot.number()].lacks);
        }
        for slot in receiving.iter() {
            kept.subtract(&self.legs[slot.number()].lacks);
        }
        chunks.subtract(&kept);
        chunks
    }

    /// These legs have been flushed since these chunks were written last, and miss none of them. Returns those whose bits
    /// nobody needs any more.
    pub(super) fn flushed(&mut self, legs: SlotSet, mut chunks: ChunkSet) -> ChunkSet {
        self.intent.subtract_touched(&mut chunks);
        for slot in legs.iter() {
            self.legs[slot.number()].lacks.subtract(&chunks);
        }
        for leg in &self.legs {
            chunks.subtract(&leg.lacks);
        }
        chunks
    }

    /// The leg in `slot` goes: how, if what it has is known.
    pub(super) fn departure_of(&self, slot: Slot) -> Option<Departure> {
        // Until its disk says that it is in sync, it says something that other nodes may read differently.
        self.can_take_over(slot).then_some(Departure {
            generation: self.generations.current,
        })
    }

    /// Whether a leg that comes back has just what it had when it went.
    ///
    /// Another node that wrote to it has either given it a generation of its own, or marked it as being resynced first.
    pub(super) fn is_as_it_went(&self, slot: Slot, image: &LegImage) -> bool {
        let departure = self.legs.get(slot.number()).and_then(|leg| leg.departure);
        departure.is_some_and(|departure| {
            image.is_consistent() && image.record.generations.current == departure.generation
        })
    }
}
