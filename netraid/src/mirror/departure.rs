//! What a leg knows of departures that its record does not name yet: the kernel's md leaves them in its superblock.
//!
//! The kernel knows nothing of generations. But before it answers the first write that a leg missed, it makes durable,
//! on every leg that is left, a superblock whose role table no longer has that leg; and before it writes a chunk, the
//! chunk's bit. So the kernel's superblock *is* a new generation, durable early enough; only its name is missing. Here it
//! gets one: computed from the recorded generation and from who is left, so that every leg that was left computes the
//! same, as often as it is asked, until somebody writes it into the records.
//!
//! Within one recorded generation, legs only leave: whoever adds a leg writes the records of all legs first. So of two
//! legs with the same recorded generation the one that was left with fewer is the newer, and if neither's companions are
//! all among the other's, both were written without the other.

use super::generation::{Decision, Extent, Generation, Generations, SLOTS, Verdict, decide};

/// A set of slots, one bit each.
pub type SlotMask = u8;

/// What one leg's metadata says, as the kernel or the embedded engine left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The leg's own slot.
    pub slot: usize,
    /// Identity of the array, for names that no other array has.
    pub array: [u8; 16],
    /// Generations of its record.
    pub recorded: Generations,
    /// Slots of the mirror.
    pub slots: usize,
    /// Slots that have a role in its superblock.
    pub active: SlotMask,
    /// Who wrote the superblock last was not the embedded engine, which names each departure itself.
    pub kernel: bool,
    /// Its bitmap has bits, or can't be believed: something may have been written since all legs were there. A bit
    /// never vanishes while a leg is away.
    pub dirty: bool,
}

impl Witness {
    /// The leg's generations, with the departures that only the superblock knows of.
    pub fn generations(&self) -> Generations {
        let mut named = self.recorded.clone();
        let departed = self.departed();
        if departed != 0 {
            let new = name(&self.array, self.recorded.current, self.active);
            named.mint(new, slots_of(departed));
        }
        named
    }

    /// Slots that left unnamed, and without which something may have been written.
    pub fn departed(&self) -> SlotMask {
        if !self.kernel || !self.dirty {
            return 0;
        }
        let known = slots_of(u8::MAX).filter(|&slot| slot < self.slots && slot != self.slot);
        known
            .filter(|&slot| self.recorded.away[slot] == Generation::NONE)
            .filter(|&slot| self.active & (1 << slot) == 0)
            .fold(0, |set, slot| set | 1 << slot)
    }

    /// What another leg is to this one.
    pub fn decide(&self, peer: &Witness) -> Decision {
        let recorded = self.recorded.current;
        if recorded == peer.recorded.current && recorded != Generation::NONE {
            let (left, left_there) = (self.left(), peer.left());
            let both = left & left_there;
            return match () {
                () if left == left_there => decision("same generation", Verdict::Same),
                () if both == left => decision("left earlier", Verdict::ToPeer(Extent::Partial)),
                () if both == left_there => {
                    decision("left earlier", Verdict::FromPeer(Extent::Partial))
                }
                () => decision("both written alone", Verdict::SplitBrain),
            };
        }
        let (own, theirs) = (self.generations(), peer.generations());
        match (self.is_elder(&own, peer), peer.is_elder(&theirs, self)) {
            (true, false) => decision("was away", Verdict::ToPeer(Extent::Partial)),
            (false, true) => decision("was away", Verdict::FromPeer(Extent::Partial)),
            _ => decide(&own, self.slot, &theirs, peer.slot),
        }
    }

    /// Whether `peer` is what this leg, with its `named` generations, calls away: of the generation since which it is,
    /// and not written without this leg, whoever else had left it by then.
    fn is_elder(&self, named: &Generations, peer: &Witness) -> bool {
        let since = named.away[peer.slot];
        since != Generation::NONE
            && since == peer.recorded.current
            && peer.departed() & (1 << self.slot) == 0
    }

    /// Who was left when this leg was last written, as far as the recorded generation is concerned.
    fn left(&self) -> SlotMask {
        !self.departed()
    }
}

/// The name of the generation that began when, of the legs of generation `base`, only `left` were left.
fn name(array: &[u8; 16], base: Generation, left: SlotMask) -> Generation {
    let mut seed = base.0 ^ (u64::from(left) << 56 | u64::from(left));
    for half in array.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(half);
        seed = scatter(seed ^ u64::from_le_bytes(word));
    }
    // 0 is no generation.
    Generation(scatter(seed).max(1))
}

/// SplitMix64's finalizer: a permutation in which each bit depends on all.
fn scatter(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn slots_of(mask: SlotMask) -> impl Iterator<Item = usize> {
    (0..SLOTS).filter(move |slot| mask & (1 << slot) != 0)
}

fn decision(rule: &'static str, verdict: Verdict) -> Decision {
    Decision { rule, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(slot: usize, base: u64, active: SlotMask) -> Witness {
        Witness {
            slot,
            array: [7; 16],
            recorded: Generations {
                current: Generation(base),
                ..Generations::default()
            },
            slots: 3,
            active,
            kernel: true,
            dirty: true,
        }
    }

    #[test]
    fn a_leg_that_is_left_behind_is_older_and_resynced_in_part() {
        let (source, target) = (leg(0, 5, 0b001), leg(1, 5, 0b111));
        let decided = source.decide(&target);
        assert_eq!(decided.verdict, Verdict::ToPeer(Extent::Partial));
        let decided = target.decide(&source);
        assert_eq!(decided.verdict, Verdict::FromPeer(Extent::Partial));
    }

    #[test]
    fn legs_that_were_both_written_alone_are_a_split_brain_with_and_without_names() {
        let (mut one, mut two) = (leg(0, 5, 0b001), leg(1, 5, 0b010));
        assert_eq!(one.decide(&two).verdict, Verdict::SplitBrain);
        one.recorded = one.generations();
        assert_eq!(one.decide(&two).verdict, Verdict::SplitBrain);
        assert_eq!(two.decide(&one).verdict, Verdict::SplitBrain);
        two.recorded = two.generations();
        assert_eq!(one.decide(&two).verdict, Verdict::SplitBrain);
    }

    #[test]
    fn a_leg_alone_with_no_bit_was_not_written() {
        let mut one = leg(0, 5, 0b001);
        one.dirty = false;
        assert_eq!(one.decide(&leg(1, 5, 0b111)).verdict, Verdict::Same);
    }

    #[test]
    fn all_who_are_left_find_the_same_name_and_keep_it_when_it_is_written_down() {
        let (mut one, two) = (leg(0, 5, 0b011), leg(1, 5, 0b011));
        assert_eq!(one.generations().current, two.generations().current);
        assert_ne!(one.generations().current, Generation(5));
        let named = one.generations();
        assert_eq!(named.away[2], Generation(5));
        one.recorded = named.clone();
        assert_eq!(one.generations(), named);
        assert_eq!(one.decide(&two).verdict, Verdict::Same);
        assert_eq!(
            one.decide(&leg(2, 5, 0b111)).verdict,
            Verdict::ToPeer(Extent::Partial)
        );
    }

    #[test]
    fn a_leg_that_was_left_by_a_third_before_it_left_itself_is_older() {
        // 1 left, then 2, then 1 was taken back.
        let mut source = leg(0, 5, 0b001);
        source.recorded = source.generations();
        source.recorded.returned(1);
        source.active = 0b011;
        let third = leg(2, 5, 0b101);
        let decided = source.decide(&third);
        assert_eq!(decided.verdict, Verdict::ToPeer(Extent::Partial));
        let decided = third.decide(&source);
        assert_eq!(decided.verdict, Verdict::FromPeer(Extent::Partial));
        // Had it been written without the source, it would not be.
        let alone = leg(2, 5, 0b100);
        assert_eq!(source.decide(&alone).verdict, Verdict::SplitBrain);
    }

    #[test]
    fn a_leg_that_returned_and_left_again_is_noticed() {
        // It was away since generation 4, and was brought to 5 before it left again.
        let mut source = leg(0, 5, 0b101);
        source.recorded.history = vec![Generation(4)];
        assert_eq!(source.generations().away[1], Generation(5));
        assert_eq!(
            source.decide(&leg(1, 5, 0b111)).verdict,
            Verdict::ToPeer(Extent::Partial)
        );
        // Meanwhile it started alone.
        let taken_over = leg(1, 5, 0b010);
        assert_eq!(source.decide(&taken_over).verdict, Verdict::SplitBrain);
    }

    #[test]
    fn the_embedded_engine_names_its_departures_itself() {
        let mut one = leg(0, 5, 0b001);
        one.kernel = false;
        assert_eq!(one.generations(), one.recorded);
    }
}
