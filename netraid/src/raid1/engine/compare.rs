//! Comparing legs by digests: what two of them have differently, as far as their digests tell.
//!
//! A leg is asked for digests as block status of the context [`DIGESTS`]; whoever asks holds the range meanwhile, so that
//! all answers are about the same moment. How long the blocks are is up to the legs. What is not told to be equal counts
//! as different: an answer that ends early, blocks that do not match, a leg that has no digests.

use std::collections::BTreeMap;

use super::*;

/// The block-status context in which legs are asked for digests. The way to a leg finds its name there.
pub const DIGESTS: usize = 2;

/// The digests of one range on several legs, as they come in.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    source: Option<Slot>,
    waiting: SlotSet,
    told: BTreeMap<Slot, Vec<Extent>>,
}

impl Comparison {
    /// `source` and `targets` are being asked.
    pub(super) fn begin(&mut self, source: Slot, targets: SlotSet) {
        self.source = Some(source);
        self.waiting = targets;
        self.waiting.insert(source);
    }

    /// A leg has answered, or failed to; whether it was the last one.
    pub(super) fn answered(&mut self, slot: Slot, outcome: &Outcome) -> bool {
        if let Ok(Answer::Extents(extents)) = outcome {
            self.told.insert(slot, extents.clone());
        }
        self.waiting.remove(slot) && self.waiting.is_empty()
    }

    /// Whether the source and all of `targets` have told something.
    pub(super) fn is_complete(&self, targets: SlotSet) -> bool {
        let told = |slot: Slot| self.told.contains_key(&slot);
        self.source.is_some_and(told) && targets.iter().all(told)
    }

    /// What one of `targets` may have differently from the source, as (offset, length) in order.
    pub(super) fn differing(&self, piece: (u64, u64), targets: SlotSet) -> Vec<(u64, u64)> {
        let ours = self.source.and_then(|source| self.told.get(&source));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for target in targets.iter() {
            match (ours, self.told.get(&target)) {
                (Some(ours), Some(theirs)) => runs.extend(differences(piece, ours, theirs)),
                _ => return vec![piece],
            }
        }
        runs.sort_unstable();
        united(runs)
    }
}

/// The parts of `piece`, as (offset, length), that two answers do not say to be equal. A block counts as equal if both
/// have one that begins and ends there, of the same digest.
pub(crate) fn differences(
    (offset, length): (u64, u64),
    ours: &[Extent],
    theirs: &[Extent],
) -> Vec<(u64, u64)> {
    let end = offset.saturating_add(length);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut at = offset;
    for (one, other) in ours.iter().zip(theirs) {
        let next = at.saturating_add(one.length);
        if one.length != other.length || one.length == 0 || next > end {
            break;
        }
        if one.status != other.status {
            runs.push((at, one.length));
        }
        at = next;
    }
    if at < end {
        runs.push((at, end - at));
    }
    united(runs)
}

/// The same bytes in as few runs as possible; `runs` are in order of their beginnings.
fn united(runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (offset, length) in runs {
        match all.last_mut() {
            Some((begin, long)) if *begin + *long >= offset => {
                *long = (*long).max(offset + length - *begin);
            }
            _ => all.push((offset, length)),
        }
    }
    all
}

impl Engine {
    /// Whether a piece for `targets` is to be compared before it is copied.
    pub(super) fn compares(&mut self, targets: SlotSet) -> bool {
        let lacks = |slot: Slot| self.legs[slot.number()].no_digests.is_some();
        if !self.settings.compare || lacks(self.local) || targets.iter().any(lacks) {
            return false;
        }
        self.resync.worth_comparing()
    }

    /// Why the leg in `slot` can't be compared by digests; `None` if it can, or if that was not tried yet.
    pub fn no_digests(&self, slot: Slot) -> Option<&str> {
        let leg = self.legs.get(slot.number())?;
        leg.no_digests.as_deref()
    }

    pub(super) fn ask_for_digests(
        &mut self,
        job: JobId,
        (offset, length): (u64, u64),
        source: Slot,
        targets: SlotSet,
        effects: &mut Vec<Effect>,
    ) {
        let command = Command::BlockStatus {
            offset,
            length,
            one: false,
            context: DIGESTS,
        };
        for slot in targets.iter().chain([source]) {
            self.send(slot, Purpose::Job(job), command.clone(), effects);
        }
    }

    /// A leg whose server does not offer digests is not asked again until it is attached anew.
    pub(super) fn note_digest_failure(&mut self, slot: Slot, failure: &Failure) {
        let lacks = matches!(failure.errno, Errno::ENOTSUP | Errno::EINVAL);
        if lacks && let Some(leg) = self.leg_mut(slot) {
            leg.no_digests = Some(failure.why.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(list: &[(u64, u64)]) -> Vec<Extent> {
        let extent = |(length, status): &(u64, u64)| Extent {
            length: *length,
            status: *status,
        };
        list.iter().map(extent).collect()
    }

    fn runs(piece: (u64, u64), ours: &[(u64, u64)], theirs: &[(u64, u64)]) -> Vec<(u64, u64)> {
        differences(piece, &extents(ours), &extents(theirs))
    }

    #[test]
    fn only_blocks_of_the_same_digest_are_equal() {
        let ours = [(4, 1), (4, 2), (4, 3), (2, 4)];
        assert_eq!(runs((100, 14), &ours, &ours), []);
        let other = [(4, 1), (4, 9), (4, 8), (2, 4)];
        assert_eq!(runs((100, 14), &ours, &other), [(104, 8)]);
        assert_eq!(runs((0, 8), &[(4, 0), (4, 0)], &[(4, 0), (4, 1)]), [(4, 4)]);
    }

    #[test]
    fn what_was_not_told_counts_as_different() {
        let ours = [(4, 1), (4, 2)];
        assert_eq!(runs((0, 8), &ours, &[(4, 1)]), [(4, 4)]);
        assert_eq!(runs((0, 8), &ours, &[]), [(0, 8)]);
        assert_eq!(runs((0, 8), &[(4, 1)], &[(4, 1)]), [(4, 4)]);
        assert_eq!(
            runs((0, 8), &ours, &[(8, 1)]),
            [(0, 8)],
            "blocks of another length"
        );
        assert_eq!(runs((0, 6), &ours, &ours), [(4, 2)], "beyond the end");
        assert_eq!(runs((0, 4), &[(0, 1); 3], &[(0, 1); 3]), [(0, 4)]);
        assert_eq!(runs((8, 8), &[(u64::MAX, 1)], &[(u64::MAX, 1)]), [(8, 8)]);
    }

    #[test]
    fn runs_of_several_legs_are_united() {
        assert_eq!(
            united(vec![(0, 4), (0, 8), (4, 4), (12, 4), (14, 8)]),
            [(0, 8), (12, 10)]
        );
    }
}
