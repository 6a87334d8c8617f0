//! A leg that answers, but with errors: what is tried before it is given up.
//!
//! Bytes that a leg in sync can't read are read from another and written to it again. A local leg that fails a write may
//! be kept (`on-io-error = "pass-through"`): the application is told, and until the bytes could be written again, by it or
//! by the repair, nobody reads them from that leg, and their bits stay set. Every error counts: above
//! [`Settings::io_error_limit`] the leg is given up, whatever it does.

use super::*;

/// Byte ranges, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes in all of them.
    fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// The first one that begins at `least` or behind it.
    fn from(&self, least: u64) -> Option<(u64, u64)> {
        let next = self.0.range(least..).next();
        next.map(|(start, end)| (*start, *end))
    }

    pub(super) fn overlaps(&self, start: u64, end: u64) -> bool {
        self.0
            .range(..end)
            .next_back()
            .is_some_and(|it| *it.1 > start)
    }

    fn covers(&self, start: u64, end: u64) -> bool {
        let last = self.0.range(..=start).next_back();
        last.is_some_and(|(_, stop)| *stop >= end)
    }

    fn add(&mut self, mut start: u64, mut end: u64) {
        while let Some((from, to)) = self.0.range(..=end).next_back().map(|(a, b)| (*a, *b))
            && to >= start
        {
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
    }

    fn remove(&mut self, start: u64, end: u64) {
        while let Some((from, to)) = self.0.range(..end).next_back().map(|(a, b)| (*a, *b))
            && to > start
        {
            self.0.remove(&from);
            if to > end {
                self.0.insert(end, to);
            }
            if from < start {
                self.0.insert(from, start);
            }
        }
    }
}

/// What a leg has failed since it was taken.
#[derive(Debug, Default)]
pub(super) struct Failures {
    errors: u64,
    passed: u64,
    repaired: u64,
    /// What a write that failed has left there nobody knows; the application was told.
    unknown: Ranges,
    /// What could not be read; it is what it should be, or can't be read.
    unreadable: Ranges,
    /// When to try again, and behind which byte.
    retry_at: u64,
    cursor: u64,
}

impl Failures {
    /// The leg is out: what it misses is marked.
    pub(super) fn forget_ranges(&mut self) {
        self.unknown = Ranges::default();
        self.unreadable = Ranges::default();
    }

    /// What to try to write again next.
    fn next(&self) -> Option<(u64, u64)> {
        let (unknown, unreadable) = (&self.unknown, &self.unreadable);
        let behind = unknown.from(self.cursor).or(unreadable.from(self.cursor));
        behind.or(unknown.from(0)).or(unreadable.from(0))
    }
}

/// What a leg has failed since it was taken, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoErrors {
    /// Reads that failed, and writes that failed without it having been given up at once.
    pub errors: u64,
    /// Of them, writes that the application was told of (`on-io-error = "pass-through"`).
    pub passed: u64,
    /// Bytes that were written to it again from another leg.
    pub repaired: u64,
    /// Bytes that are not read from it before they could be written again.
    pub failed: u64,
}

/// Most ranges kept of one leg; one that fails more is given up.
const MOST_RANGES: usize = 256;

/// Milliseconds between two attempts to write what failed.
const RETRY: u64 = 5_000;

/// Bytes of a leg in sync that are read from another and written to it again, their range held as a write holds it.
#[derive(Debug)]
pub(super) struct RepairJob {
    slot: Slot,
    offset: u64,
    length: u64,
    /// Its place among overlapping writes; set once its turn has come.
    pub(super) ticket: Option<Ticket>,
    required: u64,
    holding: bool,
    tried: SlotSet,
    source: Option<Slot>,
}

impl Engine {
    /// What the leg in `slot` has failed since it was taken.
    pub fn io_errors(&self, slot: Slot) -> IoErrors {
        let Some(leg) = self.legs.get(slot.number()) else {
            return IoErrors::default();
        };
        IoErrors {
            errors: leg.failures.errors,
            passed: leg.failures.passed,
            repaired: leg.failures.repaired,
            failed: leg.failures.unknown.bytes() + leg.failures.unreadable.bytes(),
        }
    }

    /// Whether nobody knows what this leg has somewhere in the range, since a write failed there.
    pub fn is_unknown(&self, slot: Slot, offset: u64, length: u64) -> bool {
        let leg = self.legs.get(slot.number());
        leg.is_some_and(|leg| leg.failures.unknown.overlaps(offset, offset + length))
    }

    /// Those of `slots` that are known to have all of the range.
    pub(super) fn knowing(&self, slots: SlotSet, offset: u64, length: u64) -> SlotSet {
        let known = |slot: &Slot| !self.is_unknown(*slot, offset, length);
        slots.iter().filter(known).collect()
    }

    /// Those of `slots` that are known to have all of the range, and not known to fail to read it, if there are any.
    pub(super) fn readable(&self, slots: SlotSet, offset: u64, length: u64) -> SlotSet {
        let knowing = self.knowing(slots, offset, length);
        let fine = |slot: &Slot| {
            let unreadable = &self.legs[slot.number()].failures.unreadable;
            !unreadable.overlaps(offset, offset + length)
        };
        let fine: SlotSet = knowing.iter().filter(fine).collect();
        if fine.is_empty() { knowing } else { fine }
    }

    /// Whether a leg has bytes that nobody knows.
    pub(super) fn has_unknown(&self) -> bool {
        self.legs.iter().any(|leg| !leg.failures.unknown.is_empty())
    }

    /// The chunks whose bits stay because nobody knows what a leg has there.
    pub(super) fn unknown_chunks(&self) -> Vec<std::ops::Range<u64>> {
        let ranges = self.legs.iter().flat_map(|leg| &leg.failures.unknown.0);
        ranges
            .map(|(start, end)| self.shape.chunks_of(*start, end - start))
            .collect()
    }

    /// Counts one more error of a leg; false if that is more than one may have.
    fn count_error(&mut self, slot: Slot) -> bool {
        let limit = self.settings.io_error_limit;
        let Some(leg) = self.leg_mut(slot) else {
            return false;
        };
        leg.failures.errors += 1;
        let ranges = leg.failures.unknown.0.len() + leg.failures.unreadable.0.len();
        (limit == 0 || leg.failures.errors <= limit) && ranges < MOST_RANGES
    }

    /// A write ended well on a leg: what it has there is known again.
    pub(super) fn wrote(&mut self, slot: Slot, offset: u64, length: u64) {
        if let Some(leg) = self.leg_mut(slot)
            && !(leg.failures.unknown.is_empty() && leg.failures.unreadable.is_empty())
        {
            leg.failures.unknown.remove(offset, offset + length);
            leg.failures.unreadable.remove(offset, offset + length);
        }
    }

    /// Whether a leg that failed a write is kept all the same, and the application told.
    pub(super) fn passes_through(&mut self, slot: Slot, offset: u64, length: u64) -> bool {
        if self.state(slot) != LegState::InSync || !self.count_error(slot) {
            return false;
        }
        if !self.settings.pass_through || slot != self.local {
            return false;
        }
        let (others, now) = (!self.is_last_in_sync(slot), self.now);
        if others && let Some(leg) = self.leg_mut(slot) {
            if leg.failures.unknown.is_empty() {
                leg.failures.retry_at = now;
            }
            leg.failures.passed += 1;
            leg.failures.unknown.add(offset, offset + length);
        }
        true
    }

    /// A leg failed `what`, a read, and others are asked. What it failed is written to it again, unless it fails too much,
    /// or it is not its disk that failed.
    pub(super) fn read_failed(
        &mut self,
        slot: Slot,
        (offset, length): (u64, u64),
        (what, failure): (&str, &Failure),
        effects: &mut Vec<Effect>,
    ) {
        let why = &failure.why;
        if failure.errno != Errno::EIO {
            if self.state(slot) != LegState::Absent {
                self.leg_failed(slot, format!("failed {what}: {why}"), effects);
            }
            return;
        }
        if self.state(slot) != LegState::InSync || self.is_last_in_sync(slot) || self.stopping {
            return;
        }
        let failures = &self.legs[slot.number()].failures;
        if failures.unreadable.covers(offset, offset + length) {
            return;
        }
        if !self.count_error(slot) {
            self.leg_failed(
                slot,
                format!("failed too often, at last {what}: {why}"),
                effects,
            );
            return;
        }
        if let Some(leg) = self.leg_mut(slot) {
            leg.failures.unreadable.add(offset, offset + length);
        }
        self.repair(slot, offset, length);
    }

    fn repair(&mut self, slot: Slot, offset: u64, length: u64) {
        let job = self.new_job(Job::Repair(RepairJob {
            slot,
            offset,
            length,
            ticket: None,
            required: 0,
            holding: false,
            tried: [slot].into_iter().collect(),
            source: None,
        }));
        self.admit(job, offset, length);
    }

    /// Tries again what could not be written, one range a leg at a time.
    pub(super) fn retry_repairs(&mut self) {
        if self.halted.is_some() || self.stopping {
            return;
        }
        for slot in self.in_sync().iter() {
            let repairing = |job: &Job| matches!(job, Job::Repair(repair) if repair.slot == slot);
            let failures = &self.legs[slot.number()].failures;
            let Some((start, end)) = failures.next().filter(|_| self.now >= failures.retry_at)
            else {
                continue;
            };
            if self.is_last_in_sync(slot) || self.jobs.values().any(repairing) {
                continue;
            }
            let most = self.settings.resync_piece.max(1);
            self.repair(slot, start, (end - start).min(most));
        }
    }

    /// It has its range: see to its bits.
    pub(super) fn prepare_repair(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let Some(Job::Repair(repair)) = self.jobs.get_mut(&job) else {
            return;
        };
        if self.halted.is_some() {
            return self.end_repair(job);
        }
        repair.holding = true;
        let chunks = self.shape.chunks_of(repair.offset, repair.length);
        let durable = self.hold_bits(chunks);
        if self.clean {
            self.clean = false;
            self.clean_changed();
        }
        let required = self.commit.version;
        if durable && self.commit.durable >= required {
            self.read_for_repair(job, effects);
        } else if let Some(Job::Repair(repair)) = self.jobs.get_mut(&job) {
            repair.required = required;
            self.unlaunched.push_back(job);
        }
    }

    /// Begins if its metadata is durable; says whether it waits no longer.
    pub(super) fn launch_repair(&mut self, job: JobId, effects: &mut Vec<Effect>) -> bool {
        let Some(Job::Repair(repair)) = self.jobs.get(&job) else {
            return true;
        };
        let chunks = self.shape.chunks_of(repair.offset, repair.length);
        let ready = self.commit.durable >= repair.required && self.intent.is_durable(chunks);
        if ready {
            self.read_for_repair(job, effects);
        }
        ready
    }

    fn read_for_repair(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let Some(Job::Repair(repair)) = self.jobs.get(&job) else {
            return;
        };
        let (slot, offset, length) = (repair.slot, repair.offset, repair.length);
        let others = self.in_sync().without(repair.tried);
        let chunks = self.shape.chunks_of(offset, length);
        let trusted = |slot: &Slot| {
            let suspect = &self.legs[slot.number()].suspect;
            !chunks.clone().any(|chunk| suspect.contains(chunk))
        };
        let sources: SlotSet = self
            .knowing(others, offset, length)
            .iter()
            .filter(trusted)
            .collect();
        let source = self.best_to_read(sources);
        // What has been written meanwhile needs no repair any more.
        let failures = &self.legs[slot.number()].failures;
        let needed = [&failures.unknown, &failures.unreadable]
            .into_iter()
            .any(|ranges| ranges.overlaps(offset, offset + length));
        let source = source.filter(|_| needed);
        let (Some(source), LegState::InSync) = (source, self.state(slot)) else {
            return self.end_repair(job);
        };
        if let Some(Job::Repair(repair)) = self.jobs.get_mut(&job) {
            repair.source = Some(source);
            repair.tried.insert(source);
        }
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let read = Command::Read { offset, length };
        self.send(source, Purpose::Job(job), read, effects);
    }

    pub(super) fn repair_operation_done(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Job::Repair(repair)) = self.jobs.get_mut(&job) else {
            return;
        };
        let (broken, offset, length) = (repair.slot, repair.offset, repair.length);
        if repair.source.take() == Some(slot) {
            match outcome {
                Ok(Answer::Data(data)) if data.len() as u64 == length => {
                    if self.state(broken) != LegState::InSync || self.halted.is_some() {
                        return self.end_repair(job);
                    }
                    let fua = false;
                    let write = Command::Write { offset, data, fua };
                    self.send(broken, Purpose::Job(job), write, effects);
                }
                _ => self.read_for_repair(job, effects),
            }
            return;
        }
        let now = self.now;
        let Err(failure) = outcome else {
            self.wrote(broken, offset, length);
            self.end_repair(job);
            if let Some(leg) = self.leg_mut(broken) {
                leg.failures.repaired += length;
                leg.failures.retry_at = now;
            }
            return;
        };
        // First: what follows may take the leg out.
        self.end_repair(job);
        if self.state(broken) != LegState::InSync {
            return;
        }
        let within = self.count_error(broken);
        let kept = self.settings.pass_through && broken == self.local && within;
        if !kept {
            let why = &failure.why;
            let reason = format!("can't be repaired at {offset}: {why}");
            self.leg_failed(broken, reason, effects);
        }
    }

    pub(super) fn end_repair(&mut self, job: JobId) {
        let Some(Job::Repair(repair)) = self.jobs.remove(&job) else {
            return;
        };
        if repair.holding {
            self.intent
                .release(self.shape.chunks_of(repair.offset, repair.length));
        }
        self.release_range(repair.ticket);
        let retry_at = self.now.saturating_add(RETRY);
        if let Some(leg) = self.leg_mut(repair.slot) {
            leg.failures.retry_at = retry_at;
            leg.failures.cursor = repair.offset.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ranges;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_behave_like_a_set_of_bytes(
            steps in proptest::collection::vec((any::<bool>(), 0u64..40, 1u64..12), 0..60),
        ) {
            let (mut ranges, mut model) = (Ranges::default(), std::collections::BTreeSet::new());
            for (add, start, length) in steps {
                let bytes = start..start + length;
                prop_assert_eq!(
                    ranges.overlaps(start, start + length),
                    bytes.clone().any(|byte| model.contains(&byte))
                );
                prop_assert_eq!(
                    ranges.covers(start, start + length),
                    bytes.clone().all(|byte| model.contains(&byte))
                );
                if add {
                    ranges.add(start, start + length);
                    model.extend(bytes);
                } else {
                    ranges.remove(start, start + length);
                    model.retain(|byte| !bytes.contains(byte));
                }
                prop_assert_eq!(ranges.bytes(), model.len() as u64);
                prop_assert_eq!(ranges.is_empty(), model.is_empty());
            }
        }
    }
}
