//! Flushing, dropping bits that no longer matter, marking the array clean, and stopping.

use super::*;

use std::collections::BTreeSet;

use crate::raid1::chunks::ChunkSet;

/// One flush of the application.
#[derive(Debug)]
pub(super) struct FlushJob {
    request: RequestId,
    waiting: SlotSet,
    done: SlotSet,
    failure: Option<Failure>,
    /// A flush failed on the leg that has to have everything: what was written before is in doubt.
    doomed: bool,
    /// Answered already; only legs that need not be waited for are still to flush.
    pub(super) answered: bool,
    places: stream::Places,
}

/// The cleaning cycle.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    pub(super) next: u64,
    under_way: Option<Cycle>,
}

#[derive(Debug)]
struct Cycle {
    quiet: ChunkSet,
    /// The legs that it flushes.
    legs: SlotSet,
    /// The flushes that are not over.
    waiting: BTreeSet<OperationId>,
}

impl Engine {
    /// A flush reaches every leg that is in sync, or will be once its own last flush is over.
    pub(super) fn start_flush(&mut self, request: RequestId, effects: &mut Vec<Effect>) {
        if let Some(failure) = self.untold.take() {
            effects.push(Effect::Answer {
                request,
                outcome: Err(failure),
            });
            return;
        }
        let waiting = self.slots_in(&[LegState::InSync, LegState::Finishing]);
        let job = FlushJob {
            request,
            waiting,
            done: SlotSet::EMPTY,
            failure: None,
            doomed: false,
            answered: false,
            places: Vec::new(),
        };
        let job = self.new_job(Job::Flush(job));
        for slot in waiting.iter() {
            self.send(slot, Purpose::Job(job), Command::Flush, effects);
            if self.is_ordered(slot)
                && let Some(Job::Flush(flush)) = self.jobs.get_mut(&job)
            {
                flush
                    .places
                    .push((slot, self.legs[slot.number()].stream.end()));
            }
        }
        self.finish_flush(job, effects);
    }

    pub(super) fn flush_operation_done(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Job::Flush(flush)) = self.jobs.get_mut(&job) else {
            return;
        };
        flush.waiting.remove(slot);
        match outcome {
            Ok(_) => flush.done.insert(slot),
            Err(failure) => {
                flush.failure = Some(failure.clone());
                self.flush_failed(slot, failure, effects);
            }
        }
        self.finish_flush(job, effects);
    }

    fn finish_flush(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let Some(Job::Flush(flush)) = self.jobs.get(&job) else {
            return;
        };
        if !flush.waiting.is_empty() {
            self.answer_flush_early(job, effects);
            return;
        }
        let reached = !flush.doomed && !flush.done.and(self.in_sync()).is_empty();
        let Some(Job::Flush(flush)) = self.jobs.remove(&job) else {
            return;
        };
        if flush.doomed {
            self.untold = None;
        }
        if flush.answered {
            return;
        }
        if !reached {
            let failure = flush
                .failure
                .unwrap_or_else(|| Failure::new(Errno::EIO, "no leg is in sync"));
            effects.push(Effect::Answer {
                request: flush.request,
                outcome: Err(failure),
            });
        } else {
            // What was flushed may be gone from a leg that has left since it was written, but that leg's metadata looks
            // as new as ours: from the answer on a generation of their own must tell the legs that were flushed. With no
            // bit set nothing was written since all of them were flushed last: a stop alone makes nobody newer.
            if !self.dirty().is_empty() {
                self.mint_if_needed();
            }
            self.answer_when_durable(flush.request, effects);
        }
    }

    /// Answers a flush that only legs which need not be waited for still miss.
    pub(super) fn answer_flush_early(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let trailing = self.trailing();
        let reached = self.in_sync().without(trailing);
        let Some(Job::Flush(flush)) = self.jobs.get(&job) else {
            return;
        };
        if flush.answered
            || flush.doomed
            || !flush.waiting.without(trailing).is_empty()
            || flush.done.and(reached).is_empty()
        {
            return;
        }
        let buffered = self.is_buffered(&flush.places, flush.waiting);
        if !self.dirty().is_empty() {
            self.mint_if_needed();
        }
        if !buffered || self.must_hold_answers() {
            self.crowded.push(job);
            return;
        }
        let Some(Job::Flush(flush)) = self.jobs.get_mut(&job) else {
            return;
        };
        flush.answered = true;
        let request = flush.request;
        self.answer_when_durable(request, effects);
    }

    /// A leg that fails a flush is expelled. The last leg in sync is kept, but it may have dropped what it could not
    /// write (Linux does with its page cache), and it does not say which blocks: every chunk that may have been
    /// written since its bit was set is suspect. Whoever waits for an answer is told at once, and if no flush does, the
    /// next one is.
    fn flush_failed(&mut self, slot: Slot, failure: Failure, effects: &mut Vec<Effect>) {
        if self.state(slot) == LegState::Absent {
            return;
        }
        if !self.is_last_in_sync(slot) {
            self.leg_failed(slot, format!("failed a flush: {}", failure.why), effects);
            return;
        }
        self.abandon_cleaning();
        let suspects = self.intent.durable().clone();
        self.copy_again(&suspects);
        for job in self.jobs.values_mut() {
            match job {
                Job::Flush(flush) => {
                    flush.doomed = true;
                    flush.failure.get_or_insert_with(|| failure.clone());
                }
                Job::Write(write) => write.doubt(&failure),
                Job::Read(_) | Job::Copy(_) | Job::Check(_) | Job::Repair(_) => {}
            }
        }
        for (request, _) in std::mem::take(&mut self.unanswered) {
            effects.push(Effect::Answer {
                request,
                outcome: Err(failure.clone()),
            });
        }
        self.untold = Some(failure);
    }

    pub(super) fn tick_cleaning(&mut self, effects: &mut Vec<Effect>) {
        // Not while a cycle is under way: what was written since that one began must stay known.
        if self.now >= self.cleaning.next && !self.stopping && self.cleaning.under_way.is_none() {
            self.cleaning.next = self.now.saturating_add(self.settings.clean_interval);
            let quiet = self.intent.begin_cleaning();
            self.start_cleaning(quiet, effects);
        }
    }

    /// Flushes every leg, so that the bits of `quiet` may be dropped and the array may be called clean.
    fn start_cleaning(&mut self, mut quiet: ChunkSet, effects: &mut Vec<Effect>) {
        if self.halted.is_some() {
            return;
        }
        for leg in &self.legs {
            quiet.subtract(&leg.missing);
            quiet.subtract(&leg.suspect);
        }
        for chunk in self.unknown_chunks().into_iter().flatten() {
            quiet.remove(chunk);
        }
        let quiet = self.worth_cleaning(quiet);
        let cleaner = !self.clean && self.intent.untouched() && !self.keeps_bits();
        if quiet.is_empty() && !cleaner {
            return;
        }
        let legs = self.receiving();
        let waiting = legs
            .iter()
            .map(|slot| self.send(slot, Purpose::CleanFlush, Command::Flush, effects))
            .collect();
        self.cleaning.under_way = Some(Cycle {
            quiet,
            legs,
            waiting,
        });
    }

    pub(super) fn clean_flush_done(
        &mut self,
        flush: OperationId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(failure) = outcome {
            self.abandon_cleaning();
            if self.stopping && self.jobs.is_empty() && self.is_last_in_sync(slot) {
                // Trying again and again would keep it from ever being stopped. It is left as it is, not clean.
                let why = &failure.why;
                self.halt(format!(
                    "leg {slot} failed a flush while being stopped: {why}"
                ));
            }
            self.flush_failed(slot, failure, effects);
            return;
        }
        let Some(cycle) = &mut self.cleaning.under_way else {
            return;
        };
        // One of a cycle that was given up is not waited for.
        if !cycle.waiting.remove(&flush) || !cycle.waiting.is_empty() {
            return;
        }
        let Some(cycle) = self.cleaning.under_way.take() else {
            return;
        };
        let needless = self.flushed(cycle.legs, cycle.quiet);
        if self.intent.drop_bits(&needless) > 0 && self.in_sync().count() == self.legs.len() {
            self.events_cleared = self.events;
        }
        for slot in cycle.legs.and(self.in_sync()).iter() {
            let leg = &mut self.legs[slot.number()];
            if leg.settled == lacks::Settled::No {
                leg.settled = lacks::Settled::Here;
            }
        }
        let resyncing = !self
            .slots_in(&[LegState::Attaching, LegState::Resync, LegState::Finishing])
            .is_empty();
        if !self.clean && !resyncing && self.intent.untouched() && !self.keeps_bits() {
            self.clean = true;
            self.clean_changed();
        }
    }

    /// A leg failed or joined: what the flushes promised no longer covers every leg. Those under way are not forgotten:
    /// should one fail, what it could not write may be gone.
    pub(super) fn abandon_cleaning(&mut self) {
        self.cleaning.under_way = None;
    }

    /// While stopping: once nothing is under way, clean up and say so.
    pub(super) fn proceed_stop(&mut self, effects: &mut Vec<Effect>) {
        let flushing = |operation: &Operation| {
            matches!(
                operation.purpose,
                Purpose::CleanFlush | Purpose::FinishFlush | Purpose::Trailing
            )
        };
        let busy = !self.jobs.is_empty()
            || !self.unanswered.is_empty()
            || !self.held.is_empty()
            || self.operations.values().any(flushing);
        if !self.stopping || self.stopped || busy {
            return;
        }
        let resyncing = !self
            .slots_in(&[LegState::Attaching, LegState::Resync, LegState::Finishing])
            .is_empty();
        let kept = self.keeps_bits();
        let droppable = {
            let mut dirty = self.intent.dirty().clone();
            self.legs
                .iter()
                .for_each(|leg| dirty.subtract(&leg.suspect));
            for chunk in self.unknown_chunks().into_iter().flatten() {
                dirty.remove(chunk);
            }
            !self.worth_cleaning(dirty).is_empty()
        };
        // With bits that stay it does not become clean.
        let dirty = !self.clean && !kept || droppable;
        if self.halted.is_none() && !resyncing && dirty {
            self.intent.begin_cleaning();
            let quiet = self.intent.begin_cleaning();
            self.start_cleaning(quiet, effects);
            return;
        }
        if self.halted.is_none() && !self.everything_is_durable() {
            return;
        }
        self.stopped = true;
        effects.push(Effect::Stopped);
    }

    /// Whether bits have to stay although nothing is written: legs in sync may differ in their chunks.
    fn keeps_bits(&self) -> bool {
        self.has_suspects() || self.has_unknown()
    }

    /// Whether every attached leg's metadata says what is so now.
    pub fn everything_is_durable(&self) -> bool {
        self.commit.durable == self.commit.version
            && !self.intent.has_changes()
            && !self
                .operations
                .values()
                .any(|operation| matches!(operation.purpose, Purpose::Commit | Purpose::Trailing))
    }
}
