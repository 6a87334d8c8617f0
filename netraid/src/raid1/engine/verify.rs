//! Online verify: walking over the mirror and comparing the legs in sync, while the application goes on.
//!
//! Each piece holds its range like a write does, so no write is under way to it while digests are told and while what
//! they call different is read and compared byte by byte. Only what the bytes show is a difference: digests alone never
//! accuse a leg, nor can a write in between.
//!
//! A chunk with a difference is marked in the write-intent bitmap, durably on all legs, and stays marked until the leg is
//! resynced; it counts as found only then. The legs' parts do not change by that, unless the order says to repair: then a
//! leg that differs is expelled at the end, and what is marked is copied to it when it comes back.

use std::collections::{BTreeSet, VecDeque};

use super::compare::Comparison;
use super::resync::Allowance;
use super::*;
use crate::raid1::chunks::ChunkSet;

/// What to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyOrder {
    /// The legs to compare with the source's; those that are not in sync are left out. None named: all.
    pub targets: SlotSet,
    /// First byte.
    pub start: u64,
    /// Behind the last byte; what is beyond the mirror's end does not count.
    pub stop: u64,
    /// Most bytes a second; 0 means no bound.
    pub rate: u64,
    /// Have differences copied from the source in the end.
    pub repair: bool,
}

/// Bytes that a leg has differently from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Whose.
    pub slot: Slot,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A verify that is under way, or the last one.
#[derive(Clone, Debug)]
pub struct Verify {
    /// As it was ordered, but with the legs that take part and within the mirror.
    pub order: VerifyOrder,
    /// Everything before this byte was compared.
    pub position: u64,
    /// Bytes compared.
    pub checked: u64,
    /// Bytes that differ, each counted once a leg.
    pub differing: u64,
    /// Where, as far as that is kept: [`MOST_DIFFERENCES`] runs. Each may be longer than what differs by up to a page.
    pub differences: Vec<Difference>,
    /// There are more than are kept.
    pub more: bool,
    /// Milliseconds since it began, until it ended.
    pub elapsed: u64,
    /// How it ended; `Err` says why it did not get to its end. `None` while it is under way.
    pub ended: Option<Result<(), String>>,
    began: u64,
    /// Where the next piece begins.
    next: u64,
    under_way: BTreeSet<u64>,
    allowance: Allowance,
    /// The metadata version with all marks.
    required: u64,
    /// Why it is to end before it has come to its end.
    interrupted: Option<String>,
}

const FAILED_WRITES: &str = "this node's own leg has failed writes that could not be repeated yet";

/// Runs of differences that are kept of one verify.
pub const MOST_DIFFERENCES: usize = 256;

/// Pieces under way while the application is quiet, and while it is not.
const WINDOW: usize = 2;
const BUSY_WINDOW: usize = 1;

/// What differs is told in units of so many bytes, counted from the mirror's beginning.
const UNIT: u64 = 4096;

/// One piece under way.
#[derive(Debug)]
pub(super) struct CheckJob {
    piece: (u64, u64),
    source: Slot,
    targets: SlotSet,
    /// Its place among overlapping writes; set once its turn has come.
    pub(super) ticket: Option<Ticket>,
    comparison: Option<Comparison>,
    /// What is to be read and compared byte by byte, of which legs.
    suspects: VecDeque<Difference>,
    reading: Option<Reading>,
    found: Vec<Difference>,
}

/// The same bytes of two legs, as they come in.
#[derive(Debug)]
struct Reading {
    of: Difference,
    ours: Option<Bytes>,
    theirs: Option<Bytes>,
}

impl Engine {
    /// The verify under way, or the last one since the mirror was started.
    pub fn verify(&self) -> Option<&Verify> {
        self.verify.as_ref()
    }

    /// Bytes under chunks of the leg in `slot` that a verify found to differ and that were not copied since.
    pub fn suspect(&self, slot: Slot) -> u64 {
        let leg = self.legs.get(slot.number());
        leg.map_or(0, |leg| self.shape.bytes_under(&leg.suspect))
    }

    /// Why a verify can't begin now.
    fn refusal(&self, order: &VerifyOrder, targets: SlotSet) -> Option<String> {
        let running = |verify: &Verify| verify.ended.is_none();
        match () {
            () if self.verify.as_ref().is_some_and(running) => {
                Some("a verify is under way already".into())
            }
            () if self.halted.is_some() || self.stopping => {
                Some("the mirror takes no writes".into())
            }
            () if self.state(self.local) != LegState::InSync => {
                Some("this node's own leg has failed".into())
            }
            () if self.has_unknown() => Some(FAILED_WRITES.into()),
            () if targets.is_empty() => Some("no such leg is in sync".into()),
            () if order.start >= order.stop.min(self.shape.size) => Some(format!(
                "there is nothing from byte {} on up to byte {}",
                order.start,
                order.stop.min(self.shape.size)
            )),
            () => None,
        }
    }

    pub(super) fn begin_verify(&mut self, mut order: VerifyOrder) {
        let mut targets = self.in_sync();
        targets.remove(self.local);
        if !order.targets.is_empty() {
            targets = targets.and(order.targets);
        }
        if let Some(why) = self.refusal(&order, targets) {
            self.verify_refused = Some(why);
            return;
        }
        self.verify_refused = None;
        order.targets = targets;
        order.stop = order.stop.min(self.shape.size);
        self.verify = Some(Verify {
            order,
            position: order.start,
            checked: 0,
            differing: 0,
            differences: Vec::new(),
            more: false,
            elapsed: 0,
            ended: None,
            began: self.now,
            next: order.start,
            under_way: BTreeSet::new(),
            allowance: Allowance::empty(self.now),
            required: 0,
            interrupted: None,
        });
    }

    /// Why the last order to verify was not taken.
    pub fn verify_refused(&self) -> Option<&str> {
        self.verify_refused.as_deref()
    }

    /// No more pieces are begun.
    pub(super) fn interrupt_verify(&mut self, why: String) {
        if let Some(verify) = &mut self.verify {
            verify.interrupted.get_or_insert(why);
        }
    }

    /// Pieces of a verify that are under way.
    pub(super) fn verifying(&self) -> usize {
        self.verify
            .as_ref()
            .map_or(0, |verify| verify.under_way.len())
    }

    /// Starts as many pieces as the window and the rate allow, and ends a verify that has come to its end.
    pub(super) fn pump_verify(&mut self, effects: &mut Vec<Effect>) {
        let Some(verify) = self.verify.as_ref().filter(|verify| verify.ended.is_none()) else {
            return;
        };
        let in_sync = self.in_sync();
        let lost = verify.order.targets.without(in_sync);
        if self.stopping || self.halted.is_some() {
            self.interrupt_verify("the mirror is being stopped".into());
        } else if let Some(slot) = lost.iter().next() {
            let why = self.reason(slot).unwrap_or("it failed").to_owned();
            self.interrupt_verify(format!("leg {slot} is not in sync any more: {why}"));
        } else if !in_sync.contains(self.local) {
            self.interrupt_verify("this node's own leg has failed".into());
        } else if self.has_unknown() {
            self.interrupt_verify(FAILED_WRITES.into());
        }
        let window = if self.is_quiet() { WINDOW } else { BUSY_WINDOW };
        let most = self.settings.resync_piece.max(1);
        let (local, now) = (self.local, self.now);
        while let Some(verify) = &mut self.verify {
            let VerifyOrder {
                targets,
                stop,
                rate,
                ..
            } = verify.order;
            let full = verify.under_way.len() >= window;
            let slow = rate > 0 && verify.allowance.at(now, rate) <= 0;
            if verify.interrupted.is_some() || verify.next >= stop || full || slow {
                break;
            }
            // Up to a multiple of a piece, so that digests are of the same blocks wherever it began.
            let offset = verify.next;
            let end = ((offset / most + 1) * most).min(stop);
            verify.next = end;
            verify.under_way.insert(offset);
            verify.allowance.spend(end - offset);
            let piece = (offset, end - offset);
            let job = self.new_job(Job::Check(CheckJob {
                piece,
                source: local,
                targets,
                ticket: None,
                comparison: None,
                suspects: VecDeque::new(),
                reading: None,
                found: Vec::new(),
            }));
            self.admit(job, piece.0, piece.1);
            self.start_runnable(effects);
        }
        self.end_verify(effects);
    }

    /// The piece has its range: ask for digests, or read all of it where there are none.
    pub(super) fn start_check(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let in_sync = self.in_sync();
        let Some(Job::Check(check)) = self.jobs.get_mut(&job) else {
            return;
        };
        let (piece, source, targets) = (check.piece, check.source, check.targets);
        let lost = !targets.without(in_sync).is_empty() || !in_sync.contains(source);
        // What it has there would accuse the targets.
        if lost || self.is_unknown(source, piece.0, piece.1) {
            return self.end_check(job, false);
        }
        let mut all = targets;
        all.insert(source);
        if all.iter().any(|slot| self.no_digests(slot).is_some()) {
            self.suspect_runs(job, |_| vec![piece], effects);
            return;
        }
        let mut comparison = Comparison::default();
        comparison.begin(source, targets);
        if let Some(Job::Check(check)) = self.jobs.get_mut(&job) {
            check.comparison = Some(comparison);
        }
        self.ask_for_digests(job, piece, source, targets, effects);
    }

    pub(super) fn check_operation_done(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Job::Check(check)) = self.jobs.get_mut(&job) else {
            return;
        };
        let piece = check.piece;
        if let Some(comparison) = &mut check.comparison {
            let told = comparison.answered(slot, &outcome);
            if let Err(failure) = &outcome {
                self.note_digest_failure(slot, failure);
            }
            if told
                && let Some(Job::Check(check)) = self.jobs.get_mut(&job)
                && let Some(comparison) = check.comparison.take()
            {
                let of = |slot: Slot| comparison.differing(piece, [slot].into_iter().collect());
                self.suspect_runs(job, of, effects);
            }
            return;
        }
        let Some(reading) = &mut check.reading else {
            return;
        };
        let data = match outcome {
            Ok(Answer::Data(data)) if data.len() as u64 == reading.of.length => data,
            Ok(_) => {
                let failure = Failure::new(Errno::EIO, "its answer has the wrong length");
                return self.check_failed(job, slot, &failure, effects);
            }
            Err(failure) => return self.check_failed(job, slot, &failure, effects),
        };
        if slot == check.source {
            reading.ours = Some(data);
        } else {
            reading.theirs = Some(data);
        }
        if let (Some(ours), Some(theirs)) = (&reading.ours, &reading.theirs) {
            let of = reading.of;
            for (offset, length) in unequal(of.offset, ours, theirs) {
                check.found.push(Difference {
                    offset,
                    length,
                    ..of
                });
            }
            check.reading = None;
            self.read_next_suspect(job, effects);
        }
    }

    /// What may differ on each target is known.
    fn suspect_runs(
        &mut self,
        job: JobId,
        of: impl Fn(Slot) -> Vec<(u64, u64)>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Job::Check(check)) = self.jobs.get_mut(&job) else {
            return;
        };
        for slot in check.targets.iter() {
            let runs = of(slot).into_iter();
            let suspects = runs.map(|(offset, length)| Difference {
                slot,
                offset,
                length,
            });
            check.suspects.extend(suspects);
        }
        self.read_next_suspect(job, effects);
    }

    fn read_next_suspect(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let in_sync = self.in_sync();
        let Some(Job::Check(check)) = self.jobs.get_mut(&job) else {
            return;
        };
        let source = check.source;
        let Some(of) = check.suspects.pop_front() else {
            return self.end_check(job, true);
        };
        if !in_sync.contains(of.slot) || !in_sync.contains(source) {
            return self.end_check(job, false);
        }
        check.reading = Some(Reading {
            of,
            ours: None,
            theirs: None,
        });
        let command = Command::Read {
            offset: of.offset,
            length: u32::try_from(of.length).unwrap_or(u32::MAX),
        };
        for slot in [of.slot, source] {
            self.send(slot, Purpose::Job(job), command.clone(), effects);
        }
    }

    /// What could not be read is written to the leg again; whoever goes on with the verify compares it then.
    fn check_failed(
        &mut self,
        job: JobId,
        slot: Slot,
        failure: &Failure,
        effects: &mut Vec<Effect>,
    ) {
        self.interrupt_verify(format!("leg {slot} can't be read: {}", failure.why));
        let of = match self.jobs.get(&job) {
            Some(Job::Check(check)) => check.reading.as_ref().map(|reading| reading.of),
            _ => None,
        };
        self.end_check(job, false);
        if let Some(of) = of {
            let what = ("a read of the verify", failure);
            self.read_failed(slot, (of.offset, of.length), what, effects);
        }
    }

    fn end_check(&mut self, job: JobId, compared: bool) {
        let Some(Job::Check(check)) = self.jobs.remove(&job) else {
            return;
        };
        self.release_range(check.ticket);
        let Some(verify) = &mut self.verify else {
            return;
        };
        verify.under_way.remove(&check.piece.0);
        if compared {
            verify.checked += check.piece.1;
        } else {
            // A leg has failed, which ends it. Whoever goes on compares this piece again.
            verify.next = verify.next.min(check.piece.0);
        }
        let oldest = verify.under_way.first().copied().unwrap_or(u64::MAX);
        verify.position = oldest.min(verify.next);
        for found in &check.found {
            verify.differing += found.length;
            match verify.differences.len() < MOST_DIFFERENCES {
                true => verify.differences.push(*found),
                false => verify.more = true,
            }
        }
        if !check.found.is_empty() {
            self.mark(&check.found);
        }
    }

    /// Durably from the next commit on, and until the leg is resynced.
    fn mark(&mut self, found: &[Difference]) {
        let mut chunks = ChunkSet::empty(self.shape.chunks());
        for of in found {
            for chunk in self.shape.chunks_of(of.offset, of.length) {
                chunks.insert(chunk);
                if let Some(leg) = self.leg_mut(of.slot) {
                    leg.suspect.insert(chunk);
                    leg.lacks.insert(chunk);
                }
            }
        }
        // A cycle that is under way would drop the bits, and a kernel ignores those of an array that says "clean".
        self.abandon_cleaning();
        self.intent.merge(&chunks);
        self.clean = false;
        self.superblock_changed();
        let version = self.commit.version;
        if let Some(verify) = &mut self.verify {
            verify.required = version;
        }
    }

    /// Whether a chunk is marked because a leg in sync has something else in it.
    pub(super) fn has_suspects(&self) -> bool {
        self.legs.iter().any(|leg| !leg.suspect.is_empty())
    }

    fn end_verify(&mut self, effects: &mut Vec<Effect>) {
        let (now, durable) = (self.now, self.commit.durable);
        let halted = self.halted.is_some();
        let Some(verify) = self.verify.as_mut().filter(|verify| verify.ended.is_none()) else {
            return;
        };
        verify.elapsed = now.saturating_sub(verify.began);
        let over = verify.next >= verify.order.stop || verify.interrupted.is_some();
        let marked = durable >= verify.required || halted;
        if !over || !verify.under_way.is_empty() || !marked {
            return;
        }
        verify.ended = Some(match verify.interrupted.clone() {
            Some(why) => Err(why),
            None => Ok(()),
        });
        if !verify.order.repair {
            return;
        }
        for slot in verify.order.targets.iter() {
            let bytes = self.suspect(slot);
            if bytes > 0 {
                let why = format!("differed from the source: {bytes} bytes are copied again");
                self.leg_failed(slot, why, effects);
            }
        }
    }
}

/// Where two legs' bytes from `offset` on differ: runs of whole units, cut off at the ends of the range.
pub(crate) fn unequal(offset: u64, ours: &[u8], theirs: &[u8]) -> Vec<(u64, u64)> {
    let end = offset + ours.len() as u64;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut at = offset;
    while at < end {
        let next = ((at / UNIT + 1) * UNIT).min(end);
        let range = (at - offset) as usize..(next - offset) as usize;
        if ours.get(range.clone()) != theirs.get(range) {
            match runs.last_mut() {
                Some((begin, length)) if *begin + *length == at => *length += next - at,
                _ => runs.push((at, next - at)),
            }
        }
        at = next;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_in_whole_units_from_the_mirrors_beginning() {
        let ours = vec![0; 20_000];
        let mut theirs = ours.clone();
        assert_eq!(unequal(1000, &ours, &theirs), []);
        theirs[0] = 1;
        theirs[4096] = 1;
        theirs[19_999] = 1;
        assert_eq!(
            unequal(1000, &ours, &theirs),
            [(1000, 8192 - 1000), (20_480, 21_000 - 20_480)]
        );
    }
}
