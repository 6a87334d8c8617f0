//! One piece of a resync: compared by digests where that helps, read from a leg in sync, written to the legs that miss it.

use super::compare::Comparison;
use super::*;

/// One piece under way.
#[derive(Debug)]
pub(super) struct CopyJob {
    offset: u64,
    length: u64,
    targets: SlotSet,
    /// Its place among overlapping writes; set once its turn has come.
    pub(super) ticket: Option<Ticket>,
    tried: SlotSet,
    source: Option<Slot>,
    waiting: SlotSet,
    /// While its digests are being asked for.
    pub(super) comparison: Option<Comparison>,
    /// The part of it that is being copied, and those that follow: all of it unless digests told.
    run: (u64, u64),
    runs: Vec<(u64, u64)>,
    /// When it had its range.
    began: u64,
}

impl CopyJob {
    pub(super) fn new(
        (offset, length): (u64, u64),
        targets: SlotSet,
        compare: bool,
        now: u64,
    ) -> CopyJob {
        CopyJob {
            offset,
            length,
            targets,
            ticket: None,
            tried: SlotSet::EMPTY,
            source: None,
            waiting: SlotSet::EMPTY,
            comparison: compare.then(Comparison::default),
            run: (offset, length),
            runs: Vec::new(),
            began: now,
        }
    }
}

impl Engine {
    /// The piece has its range.
    pub(super) fn start_copy(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let resyncing = self.slots_in(&[LegState::Resync]);
        let Some(Job::Copy(copy)) = self.jobs.get(&job) else {
            return;
        };
        let sources = self.sources(SlotSet::EMPTY, (copy.offset, copy.length));
        let source = self.best_to_read(sources);
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        copy.began = self.now;
        copy.targets = copy.targets.and(resyncing);
        let (piece, targets) = ((copy.offset, copy.length), copy.targets);
        match (&mut copy.comparison, source) {
            (Some(comparison), Some(source)) if !targets.is_empty() => {
                comparison.begin(source, targets);
                self.ask_for_digests(job, piece, source, targets, effects);
            }
            _ => {
                copy.comparison = None;
                self.start_copy_read(job, effects);
            }
        }
    }

    /// Digests told what is to be copied of the piece; nothing if they are equal.
    pub(super) fn copy_compared(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let resyncing = self.slots_in(&[LegState::Resync]);
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        let Some(comparison) = copy.comparison.take() else {
            return;
        };
        copy.targets = copy.targets.and(resyncing);
        let (piece, targets) = ((copy.offset, copy.length), copy.targets);
        let mut runs = comparison.differing(piece, targets);
        if targets.is_empty() {
            self.end_copy(job, false);
            return;
        }
        let differing: u64 = runs.iter().map(|(_, length)| length).sum();
        let equal = piece.1.saturating_sub(differing);
        runs.reverse();
        let first = runs.pop();
        if let Some(run) = first {
            (copy.run, copy.runs) = (run, runs);
        }
        if comparison.is_complete(targets) {
            self.resync.compared(piece.1, equal);
        }
        match first {
            Some(_) => self.start_copy_read(job, effects),
            None => self.end_copy(job, true),
        }
    }

    /// Read what is to be copied from a leg in sync.
    pub(super) fn start_copy_read(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let resyncing = self.slots_in(&[LegState::Resync]);
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        copy.targets = copy.targets.and(resyncing);
        let ((offset, length), targets) = (copy.run, copy.targets);
        let tried = copy.tried;
        let candidates = self.sources(tried, (offset, length));
        let source = self.best_to_read(candidates);
        let (Some(source), Some(Job::Copy(copy))) = (
            source.filter(|_| !targets.is_empty()),
            self.jobs.get_mut(&job),
        ) else {
            self.end_copy(job, false);
            return;
        };
        copy.tried.insert(source);
        copy.source = Some(source);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.send(
            source,
            Purpose::Job(job),
            Command::Read { offset, length },
            effects,
        );
    }

    pub(super) fn copy_operation_done(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        if let Some(comparison) = &mut copy.comparison {
            let told = comparison.answered(slot, &outcome);
            if let Err(failure) = outcome {
                self.note_digest_failure(slot, &failure);
            }
            if told {
                self.copy_compared(job, effects);
            }
            return;
        }
        if copy.source == Some(slot) {
            copy.source = None;
            match outcome {
                Ok(Answer::Data(data)) if data.len() as u64 == copy.run.1 => {
                    self.write_copy(job, data, effects)
                }
                other => self.copy_read_failed(job, slot, other, effects),
            }
            return;
        }
        copy.waiting.remove(slot);
        if let Err(failure) = outcome {
            copy.targets.remove(slot);
            if self.state(slot) != LegState::Absent {
                self.leg_failed(
                    slot,
                    format!("failed a write of the resync: {}", failure.why),
                    effects,
                );
            }
        }
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        if !copy.waiting.is_empty() {
            return;
        }
        match copy.runs.pop() {
            Some(run) => {
                copy.run = run;
                copy.tried = SlotSet::EMPTY;
                self.start_copy_read(job, effects);
            }
            None => self.end_copy(job, true),
        }
    }

    fn write_copy(&mut self, job: JobId, data: Bytes, effects: &mut Vec<Effect>) {
        let resyncing = self.slots_in(&[LegState::Resync]);
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        let (offset, length) = copy.run;
        copy.targets = copy.targets.and(resyncing);
        copy.waiting = copy.targets;
        let targets = copy.targets;
        let command = if is_zero(&data) {
            Command::WriteZeroes {
                offset,
                length,
                fua: false,
                no_hole: false,
                fast: false,
            }
        } else {
            self.resync.sent += length;
            Command::Write {
                offset,
                data,
                fua: false,
            }
        };
        self.resync.copied += length;
        for slot in targets.iter() {
            self.send(slot, Purpose::Job(job), command.clone(), effects);
        }
        if targets.is_empty() {
            self.end_copy(job, false);
        }
    }

    /// The legs in sync to copy from. What nobody knows is read only where nobody knows better: then the targets become
    /// equal to it.
    fn sources(&self, tried: SlotSet, (offset, length): (u64, u64)) -> SlotSet {
        let left = self.in_sync().without(tried);
        let known = self.readable(left, offset, length);
        match self.knowing(self.in_sync(), offset, length).is_empty() {
            true => left,
            false => known,
        }
    }

    /// Another leg in sync may have the piece; if none has, its targets can't be made equal.
    fn copy_read_failed(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let failure = match outcome {
            Err(failure) => failure,
            Ok(_) => Failure::new(Errno::EIO, "its answer has the wrong length"),
        };
        let why = &failure.why;
        if let Some(Job::Copy(copy)) = self.jobs.get(&job) {
            let run = copy.run;
            self.read_failed(slot, run, ("a read of the resync", &failure), effects);
        }
        let Some(Job::Copy(copy)) = self.jobs.get(&job) else {
            return;
        };
        let targets = copy.targets;
        if !self.sources(copy.tried, copy.run).is_empty() {
            self.start_copy_read(job, effects);
            return;
        }
        self.end_copy(job, false);
        for target in targets
            .iter()
            .filter(|target| self.state(*target) == LegState::Resync)
            .collect::<Vec<_>>()
        {
            self.leg_failed(
                target,
                format!("leg {slot} can't be read for the resync: {why}"),
                effects,
            );
        }
    }

    fn end_copy(&mut self, job: JobId, written: bool) {
        let Some(Job::Copy(copy)) = self.jobs.remove(&job) else {
            return;
        };
        let (length, began) = (copy.length, copy.began);
        self.resync.piece_over(length, began, self.now, written);
        self.release_range(copy.ticket);
        let resyncing = self.slots_in(&[LegState::Resync]);
        for chunk in self.shape.chunks_of(copy.offset, copy.length) {
            let start = copy.offset.max(chunk * self.shape.chunk);
            let end = (copy.offset + copy.length).min((chunk + 1) * self.shape.chunk);
            let Some(partial) = self.resync.chunks.get_mut(&chunk) else {
                continue;
            };
            partial.left = partial.left.saturating_sub(end - start);
            partial.targets = if written {
                partial.targets.and(copy.targets).and(resyncing)
            } else {
                SlotSet::EMPTY
            };
            if partial.left > 0 {
                continue;
            }
            if let Some(partial) = self.resync.chunks.remove(&chunk) {
                for slot in partial.targets.iter() {
                    self.legs[slot.number()].missing.remove(chunk);
                }
            }
        }
    }

    /// The leg in `slot` is away: what is being copied to it does not count, even if it comes back meanwhile.
    pub(super) fn forget_copies_to(&mut self, slot: Slot) {
        for partial in self.resync.chunks.values_mut() {
            partial.targets.remove(slot);
        }
        for job in self.jobs.values_mut() {
            if let Job::Copy(copy) = job {
                copy.targets.remove(slot);
            }
        }
    }

    /// The leg that resyncs read from may have something else in these chunks than what it was sent, and the legs being
    /// resynced were sent the same.
    ///
    /// A leg that had missed nothing so far says on its disk that it is consistent. It must not any more when the first
    /// piece reaches it, or a crash in between would leave it of two times and startable: it gets new metadata first.
    pub(super) fn copy_again(&mut self, chunks: &crate::raid1::chunks::ChunkSet) {
        // Those that are away may miss what is there now, too, if a flush that succeeded earlier did not tell the truth either.
        for leg in &mut self.legs {
            leg.lacks.unite(chunks);
        }
        let mut unmarked = false;
        for slot in self
            .slots_in(&[LegState::Resync, LegState::Finishing])
            .iter()
        {
            let leg = &mut self.legs[slot.number()];
            // A last flush that is under way came too early.
            leg.last_flush = None;
            leg.missing.unite(chunks);
            leg.to_copy = leg.to_copy.max(leg.missing.count());
            if leg.record.consistent && !leg.missing.is_empty() {
                leg.record.consistent = false;
                leg.needs_whole_bitmap = true;
                leg.state = LegState::Attaching;
                unmarked = true;
            } else {
                leg.state = LegState::Resync;
            }
        }
        if unmarked {
            // Writes do not reach it meanwhile: the bits that are set have to stay.
            self.clean = false;
            self.abandon_cleaning();
            self.superblock_changed();
        }
        for (chunk, partial) in &mut self.resync.chunks {
            if chunks.contains(*chunk) {
                partial.targets = SlotSet::EMPTY;
            }
        }
    }
}

/// Whether all of `data` is zero. Whole pages at a time, so that the compiler can use wide registers.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096)
        .all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}
