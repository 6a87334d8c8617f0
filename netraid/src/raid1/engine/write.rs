//! The path of a write: wait for older overlapping ones, make its bits durable, send it to every leg, answer.

use super::*;

/// One write, or zeroing, of the application.
#[derive(Debug)]
pub(super) struct WriteJob {
    request: RequestId,
    command: Command,
    offset: u64,
    length: u64,
    /// Its place among overlapping writes; set once its turn has come.
    pub(super) ticket: Option<Ticket>,
    /// The metadata version that must be durable before it is sent.
    required: u64,
    waiting: SlotSet,
    done: SlotSet,
    /// Whether it holds its chunks' bits.
    holding: bool,
    failure: Option<Failure>,
    /// The last leg in sync failed it.
    refused: bool,
    /// Answered already; only legs that need not be waited for are still to have it.
    answered: bool,
    places: stream::Places,
}

impl WriteJob {
    /// The last leg in sync may have lost it again.
    pub(super) fn doubt(&mut self, failure: &Failure) {
        if !self.waiting.is_empty() && !self.answered {
            self.refused = true;
            self.failure.get_or_insert_with(|| failure.clone());
        }
    }
}

impl Engine {
    pub(super) fn queue_write(&mut self, request: RequestId, command: Command) {
        let Some((offset, length)) = command.range() else {
            return;
        };
        let job = self.new_job(Job::Write(WriteJob {
            request,
            command,
            offset,
            length,
            ticket: None,
            required: 0,
            waiting: SlotSet::EMPTY,
            done: SlotSet::EMPTY,
            holding: false,
            failure: None,
            refused: false,
            answered: false,
            places: Vec::new(),
        }));
        self.admit(job, offset, length);
    }

    pub(super) fn admit(&mut self, job: JobId, offset: u64, length: u64) {
        if let nbd_server::range_lock::Admission::Start(ticket, job) =
            self.ranges.admit((), offset, length, job)
        {
            match self.jobs.get_mut(&job) {
                Some(Job::Write(write)) => write.ticket = Some(ticket),
                Some(Job::Copy(copy)) => copy.ticket = Some(ticket),
                Some(Job::Check(check)) => check.ticket = Some(ticket),
                Some(Job::Repair(repair)) => repair.ticket = Some(ticket),
                _ => {}
            }
            self.runnable.push_back(job);
        }
    }

    /// Its turn among overlapping writes has come: see to its metadata, then send it.
    pub(super) fn prepare_write(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let Some(Job::Write(write)) = self.jobs.get_mut(&job) else {
            return;
        };
        if self.halted.is_some() {
            self.finish_write(job, effects);
            return;
        }
        write.holding = true;
        let chunks = self.shape.chunks_of(write.offset, write.length);
        let durable = self.hold_bits(chunks.clone());
        if !durable && self.in_sync().count() == self.legs.len() {
            // Not while a leg is away: after a restart of this process every bit is copied to it.
            let group = self.commit.pace.group(self.now);
            self.intent.set_around(chunks, group);
        }
        if self.clean {
            self.clean = false;
            self.clean_changed();
        }
        self.mint_if_needed();
        let required = self.commit.version;
        if durable && self.commit.durable >= required {
            self.launch_write(job, effects);
        } else if let Some(Job::Write(write)) = self.jobs.get_mut(&job) {
            write.required = required;
            self.unlaunched.push_back(job);
        }
    }

    pub(super) fn launch_ready_writes(&mut self, effects: &mut Vec<Effect>) {
        for job in std::mem::take(&mut self.unlaunched) {
            let Some(Job::Write(write)) = self.jobs.get(&job) else {
                if !self.launch_repair(job, effects) {
                    self.unlaunched.push_back(job);
                }
                continue;
            };
            let chunks = self.shape.chunks_of(write.offset, write.length);
            if self.commit.durable >= write.required && self.intent.is_durable(chunks) {
                self.launch_write(job, effects);
            } else {
                self.unlaunched.push_back(job);
            }
        }
    }

    fn launch_write(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let targets = self.receiving();
        let Some(Job::Write(write)) = self.jobs.get_mut(&job) else {
            return;
        };
        let command = write.command.clone();
        write.waiting = targets;
        // Remote legs first: the shell performs effects in order, and a local write may keep it for a while.
        let local = self.local;
        let mut kept = None;
        for slot in targets.iter().filter(|slot| *slot != local) {
            if !self.is_ordered(slot) {
                self.send(slot, Purpose::Job(job), command.clone(), effects);
                continue;
            }
            let copy = kept.get_or_insert_with(|| stream::detached(&command));
            self.send(slot, Purpose::Job(job), copy.clone(), effects);
            if let Some(Job::Write(write)) = self.jobs.get_mut(&job) {
                write
                    .places
                    .push((slot, self.legs[slot.number()].stream.end()));
            }
        }
        if targets.contains(local) {
            self.send(local, Purpose::Job(job), command, effects);
        }
        if targets.is_empty() {
            self.finish_write(job, effects);
        }
        self.relieve_congested(targets, effects);
    }

    pub(super) fn write_operation_done(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Job::Write(write)) = self.jobs.get_mut(&job) else {
            return;
        };
        match outcome {
            Ok(_) => {
                write.done.insert(slot);
                let (offset, length) = (write.offset, write.length);
                self.wrote(slot, offset, length);
            }
            Err(failure) => {
                let reason = format!("failed a write at {}: {}", write.offset, failure.why);
                let (offset, length) = (write.offset, write.length);
                let chunks = self.shape.chunks_of(write.offset, write.length);
                write.failure = Some(failure);
                if self.passes_through(slot, offset, length) {
                    if let Some(Job::Write(write)) = self.jobs.get_mut(&job) {
                        write.refused = true;
                    }
                } else if self.state(slot) != LegState::Absent {
                    self.leg_failed(slot, reason, effects);
                }
                if self.is_last_in_sync(slot) {
                    // The last leg in sync failed it and is kept: it failed, whatever other legs made of it.
                    let mut again = crate::raid1::chunks::ChunkSet::empty(self.shape.chunks());
                    for chunk in chunks {
                        again.insert(chunk);
                    }
                    self.copy_again(&again);
                    if let Some(Job::Write(write)) = self.jobs.get_mut(&job) {
                        write.refused = true;
                        if write.answered {
                            // Nobody can be told any more.
                            let why =
                                format!("leg {slot}, the last in sync, failed what was answered");
                            self.halt(why);
                        }
                    }
                }
            }
        }
        let Some(Job::Write(write)) = self.jobs.get_mut(&job) else {
            return;
        };
        if !write.waiting.remove(slot) {
            return;
        }
        if write.waiting.is_empty() {
            self.finish_write(job, effects);
        } else {
            self.answer_write_early(job, effects);
        }
    }

    /// Answers a write that only legs which need not be waited for still miss. What overlaps it may follow: those legs
    /// keep order.
    pub(super) fn answer_write_early(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let trailing = self.trailing();
        let reached = self.in_sync().without(trailing);
        let Some(Job::Write(write)) = self.jobs.get(&job) else {
            return;
        };
        if write.answered
            || write.refused
            || !write.waiting.without(trailing).is_empty()
            || write.done.and(reached).is_empty()
        {
            return;
        }
        if !self.is_buffered(&write.places, write.waiting) || self.must_hold_answers() {
            self.crowded.push(job);
            return;
        }
        let Some(Job::Write(write)) = self.jobs.get_mut(&job) else {
            return;
        };
        write.answered = true;
        let (request, ticket) = (write.request, write.ticket.take());
        self.release_range(ticket);
        self.answer_when_durable(request, effects);
    }

    /// The write is over on every leg that it was sent to (perhaps none).
    pub(super) fn finish_write(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let Some(Job::Write(write)) = self.jobs.remove(&job) else {
            return;
        };
        if write.holding {
            self.intent
                .release(self.shape.chunks_of(write.offset, write.length));
        }
        self.release_range(write.ticket);
        if write.answered {
            return;
        }
        if write.refused || write.done.and(self.in_sync()).is_empty() {
            let failure = write.failure.unwrap_or_else(|| {
                let why = self
                    .halted
                    .clone()
                    .unwrap_or_else(|| "no leg is in sync".into());
                Failure::new(Errno::EIO, why)
            });
            effects.push(Effect::Answer {
                request: write.request,
                outcome: Err(failure),
            });
        } else {
            self.answer_when_durable(write.request, effects);
        }
    }

    /// Answers with success, but not before the last expulsion is durable.
    pub(super) fn answer_when_durable(&mut self, request: RequestId, effects: &mut Vec<Effect>) {
        let outcome = match &self.halted {
            _ if self.commit.durable >= self.commit.answer_from && !self.holds_back() => {
                Ok(Answer::Done)
            }
            Some(why) => Err(Failure::new(Errno::EIO, why.clone())),
            None => {
                self.unanswered.push((request, self.commit.answer_from));
                return;
            }
        };
        effects.push(Effect::Answer { request, outcome });
    }

    /// Answers the writes that waited only for an expulsion to be durable.
    pub(super) fn answer_held_writes(&mut self, effects: &mut Vec<Effect>) {
        if self.holds_back() {
            return;
        }
        let durable = self.commit.durable;
        self.unanswered.retain(|(request, version)| {
            if durable < *version {
                return true;
            }
            effects.push(Effect::Answer {
                request: *request,
                outcome: Ok(Answer::Done),
            });
            false
        });
    }
}
