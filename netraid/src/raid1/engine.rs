//! The mirror's decisions: events in, effects out, nothing performed here.
//!
//! What holds at every moment, whatever order effects complete in:
//! - a data write is sent to a leg only after the bits of its chunks are durable on every attached leg, and after a
//!   superblock that says "active" is, under the generation that was current when the write's turn came;
//! - overlapping writes (the resync's own included) are never under way at once, so every leg sees one order;
//! - a write or a flush is answered only when every leg in sync has it, or the leg's expulsion and the new generation
//!   are durable;
//! - a bit is dropped only by the cleaning cycle: no leg is absent, none still misses the chunk, and every leg was
//!   flushed after the last write to the chunk ended.

mod ahead;
mod attach;
mod clean;
mod commit;
mod compare;
mod copy;
mod grow;
mod hold;
mod interface;
mod io_errors;
mod lacks;
mod membership;
mod pace;
mod read;
mod resync;
mod stream;
mod verify;
mod write;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Errno, Extent, Failure, Outcome};
use nbd_server::range_lock::{RangeLock, Ticket};

use crate::mirror::generation::Generations;
use crate::raid1::intent::Intent;
use crate::raid1::leg::{LegImage, LegRecord, LegState, Slot, SlotSet, SuperState};

pub use attach::{Refusal, permitted};
pub use compare::DIGESTS;
pub(crate) use compare::differences;
pub use interface::{
    Effect, Event, Hold, IO_ERROR_LIMIT, IdSource, Joined, OnCongestion, OperationId, RequestId,
    Settings, Shape, Terms, Update,
};
pub use io_errors::IoErrors;
pub use pace::Control;
pub use resync::{Limit, Progress, Totals};
pub use stream::Order;
pub(crate) use verify::unequal;
pub use verify::{Difference, MOST_DIFFERENCES, Verify, VerifyOrder};

#[derive(Debug)]
struct Leg {
    state: LegState,
    /// For a leg that is not in sync: its own record, which it keeps until it is.
    record: LegRecord,
    /// Chunks still to be copied to it.
    missing: crate::raid1::chunks::ChunkSet,
    /// Chunks that would have to be copied to it if it came back now with what it has, or had when it went.
    lacks: crate::raid1::chunks::ChunkSet,
    /// How it went, if it was in sync then.
    departure: Option<lacks::Departure>,
    /// While it is in sync: whether the marks that it needed before are gone.
    settled: lacks::Settled,
    /// Its bitmap must be written whole with the next commit.
    needs_whole_bitmap: bool,
    /// The flush after which it is in sync, if nothing comes in between.
    last_flush: Option<OperationId>,
    /// The metadata version that says that it is in sync, once it is.
    in_sync_from: u64,
    /// Why it was expelled or refused last, or why it needed a full resync.
    reason: Option<String>,
    /// How it was taken last; `None` if it was refused.
    joined: Option<Joined>,
    /// Chunks that its resync has to copy, those that are copied already included.
    to_copy: u64,
    /// How often it was expelled.
    expelled: u64,
    /// Why it can't be compared by digests, once it was found not to be.
    no_digests: Option<String>,
    /// What is on its way to it, if it gets everything in order.
    stream: stream::Stream,
    /// Chunks that a verify found to differ, until it is resynced: their bits stay.
    suspect: crate::raid1::chunks::ChunkSet,
    /// What it has failed.
    failures: io_errors::Failures,
    /// It is away, but what was on its way when it went still reaches it.
    behind: Option<ahead::Behind>,
    /// How long it was left behind.
    patience: ahead::Patience,
}

type JobId = u64;

#[derive(Debug)]
enum Job {
    Write(write::WriteJob),
    Read(read::ReadJob),
    Flush(clean::FlushJob),
    Copy(copy::CopyJob),
    Check(verify::CheckJob),
    Repair(io_errors::RepairJob),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Job(JobId),
    Commit,
    /// Metadata of a leg that the commit does not wait for.
    Trailing,
    CleanFlush,
    FinishFlush,
}

#[derive(Debug)]
struct Operation {
    slot: Slot,
    purpose: Purpose,
    deadline: u64,
    /// The deadline was put off because this process, not the leg, stood still.
    put_off: bool,
    /// What it weighs in the leg's stream.
    weight: Option<stream::Weight>,
}

/// One mirror on the node that is its source.
#[derive(Debug)]
pub struct Engine {
    shape: Shape,
    settings: Settings,
    local: Slot,
    legs: Vec<Leg>,
    now: u64,
    last_tick: u64,
    ids: IdSource,
    generations: Generations,
    /// The metadata version that has the current generation, if it was minted here.
    minted: u64,
    /// The metadata version that has the current size, if it grew here.
    resized: u64,
    /// The size that it is about to have.
    growing: Option<u64>,
    /// The slots whose legs were written under the current generation.
    members: SlotSet,
    events: u64,
    events_cleared: u64,
    clean: bool,
    intent: Intent,
    commit: commit::CommitState,
    cleaning: clean::Cleaning,
    resync: resync::Resync,
    verify: Option<verify::Verify>,
    /// Why the last order to verify was not taken.
    verify_refused: Option<String>,
    ranges: RangeLock<(), JobId>,
    jobs: HashMap<JobId, Job>,
    runnable: VecDeque<JobId>,
    next_job: JobId,
    operations: BTreeMap<OperationId, Operation>,
    next_operation: u64,
    /// Writes that wait for metadata before they may be launched.
    unlaunched: VecDeque<JobId>,
    /// Writes that are over but may not be answered before an expulsion is durable.
    unanswered: Vec<(RequestId, u64)>,
    /// What is held back, and why.
    held: hold::Held,
    /// Jobs that only legs which need not be waited for miss, but that wait for room in a send buffer or for a commit.
    crowded: Vec<JobId>,
    /// A flush failed on the last leg in sync, and no flush of the application has been answered with it yet.
    untold: Option<Failure>,
    /// Why no write can be taken any more.
    halted: Option<String>,
    stopping: bool,
    stopped: bool,
}

impl Engine {
    /// Takes one event at time `now` (milliseconds, never going back) and adds what has to be done to `effects`.
    pub fn handle(&mut self, event: Event, now: u64, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        if self.stopped {
            return refuse(event, effects);
        }
        match event {
            Event::Submit { request, command } => self.submit(request, command, effects),
            Event::Done { operation, outcome } => self.operation_done(operation, outcome, effects),
            Event::Attach { slot, image } => {
                self.attach(slot, image, Terms::default(), effects);
            }
            Event::Join { slot, image, terms } => self.attach(slot, image, terms, effects),
            Event::Remove { slot, reason } => self.leg_failed(slot, reason, effects),
            Event::Part { slot, reason } => self.part(slot, reason, effects),
            Event::Speed {
                most,
                least,
                control,
            } => self.set_speed(most, least, control),
            Event::Grow { size } => self.growing = Some(size),
            Event::Lost { slot, reason } => self.lost(slot, reason, effects),
            Event::Guard { members, only } => self.guard(members, only),
            Event::Hold(hold) => self.held.hold = hold,
            Event::Tick => self.tick(effects),
            Event::PauseResync(paused) => self.resync.paused = paused,
            Event::Verify(order) => self.begin_verify(order),
            Event::StopVerify(why) => self.interrupt_verify(why),
            Event::Stop => self.stopping = true,
        }
        self.settle(effects);
    }

    fn submit(&mut self, request: RequestId, command: Command, effects: &mut Vec<Effect>) {
        if self.holds_back() {
            return self.held.put(request, command);
        }
        if let Err(failure) = self.check(&command) {
            effects.push(Effect::Answer {
                request,
                outcome: Err(failure),
            });
            return;
        }
        match command {
            Command::BlockStatus {
                offset,
                length,
                one,
                context: 1,
            } => {
                let extents = self.dirty_extents(offset, length, one);
                effects.push(Effect::Answer {
                    request,
                    outcome: Ok(Answer::Extents(extents)),
                });
            }
            Command::Flush => self.start_flush(request, effects),
            Command::Read { .. } | Command::BlockStatus { .. } | Command::Cache { .. } => {
                self.start_read(request, command, effects);
            }
            // A hint whose outcome differs between legs would make them differ: trimming is zeroing here.
            Command::Trim {
                offset,
                length,
                fua,
            } => {
                let command = Command::WriteZeroes {
                    offset,
                    length,
                    fua,
                    no_hole: false,
                    fast: false,
                };
                self.queue_write(request, command);
            }
            Command::Write { .. } | Command::WriteZeroes { .. } => {
                self.queue_write(request, command)
            }
        }
    }

    fn check(&self, command: &Command) -> Result<(), Failure> {
        if self.stopping {
            return Err(Failure::new(
                Errno::ESHUTDOWN,
                "the mirror is being stopped",
            ));
        }
        if let Some((offset, length)) = command.range() {
            let inside = offset
                .checked_add(length)
                .is_some_and(|end| end <= self.shape.size);
            if !inside || length == 0 {
                let errno = if command.changes_data() && !inside {
                    Errno::ENOSPC
                } else {
                    Errno::EINVAL
                };
                return Err(Failure::new(
                    errno,
                    "the range does not lie within the mirror",
                ));
            }
        }
        if matches!(command, Command::WriteZeroes { fast: true, .. }) {
            return Err(Failure::new(
                Errno::ENOTSUP,
                "a mirror can't promise fast zeroes on every leg",
            ));
        }
        if command.changes_data()
            && let Some(why) = &self.halted
        {
            return Err(Failure::new(
                Errno::EIO,
                format!("the mirror takes no writes: {why}"),
            ));
        }
        Ok(())
    }

    fn operation_done(&mut self, id: OperationId, outcome: Outcome, effects: &mut Vec<Effect>) {
        // Operations of an expelled leg were taken out with it; what they report later changes nothing.
        let Some(operation) = self.operations.remove(&id) else {
            return self.behind_got(id, &outcome, effects);
        };
        let slot = operation.slot;
        let moved = self.leave_stream(slot, operation.weight);
        match operation.purpose {
            Purpose::Job(job) => self.job_operation_done(job, slot, outcome, effects),
            Purpose::Commit => self.commit_operation_done(slot, outcome, effects),
            Purpose::Trailing => self.trailing_metadata_done(slot, outcome, effects),
            Purpose::CleanFlush => self.clean_flush_done(id, slot, outcome, effects),
            Purpose::FinishFlush => self.finish_flush_done(id, slot, outcome, effects),
        }
        if moved {
            self.answer_crowded(effects);
        }
    }

    /// An operation is over: its leg's stream has gone on, if it is part of one.
    fn leave_stream(&mut self, slot: Slot, weight: Option<stream::Weight>) -> bool {
        let now = self.now;
        match (weight, self.leg_mut(slot)) {
            (Some(weight), Some(leg)) => leg.stream.done(weight, now),
            _ => return false,
        }
        true
    }

    fn job_operation_done(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        match self.jobs.get(&job) {
            Some(Job::Write(_)) => self.write_operation_done(job, slot, outcome, effects),
            Some(Job::Read(_)) => self.read_operation_done(job, slot, outcome, effects),
            Some(Job::Flush(_)) => self.flush_operation_done(job, slot, outcome, effects),
            Some(Job::Copy(_)) => self.copy_operation_done(job, slot, outcome, effects),
            Some(Job::Check(_)) => self.check_operation_done(job, slot, outcome, effects),
            Some(Job::Repair(_)) => self.repair_operation_done(job, slot, outcome, effects),
            None => {}
        }
    }

    /// Starts everything that the last event made possible.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        if self.halted.is_some() {
            self.fail_unlaunched(effects);
        }
        self.proceed_growth();
        self.proceed_hold(effects);
        self.start_runnable(effects);
        self.pump_resync(effects);
        self.pump_verify(effects);
        self.proceed_stop(effects);
        self.start_commit(effects);
    }

    /// Starts the jobs whose turn among overlapping ones has come.
    fn start_runnable(&mut self, effects: &mut Vec<Effect>) {
        while let Some(job) = self.runnable.pop_front() {
            match self.jobs.get(&job) {
                Some(Job::Write(_)) => self.prepare_write(job, effects),
                Some(Job::Copy(_)) => self.start_copy(job, effects),
                Some(Job::Check(_)) => self.start_check(job, effects),
                Some(Job::Repair(_)) => self.prepare_repair(job, effects),
                _ => {}
            }
        }
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        // Stopped or starved for a while, this process finds replies waiting for it: that is no leg's fault. Only once
        // for each operation, so that a slow clock can't keep a dead leg for ever.
        let since = self.now.saturating_sub(self.last_tick);
        self.last_tick = self.now;
        if since > STOOD_STILL {
            for operation in self.operations.values_mut() {
                if !std::mem::replace(&mut operation.put_off, true) {
                    operation.deadline = operation.deadline.saturating_add(since);
                }
            }
            for leg in &mut self.legs {
                leg.stream.stood_still(since);
            }
        }
        let patience = self.settings.leg_timeout;
        let streams = self
            .slots()
            .filter(|slot| self.legs[slot.number()].stream.is_late(self.now, patience));
        let late: Vec<Slot> = self
            .operations
            .values()
            .filter(|operation| operation.deadline <= self.now)
            .map(|operation| operation.slot)
            .chain(streams)
            .collect();
        for slot in late {
            if self.state(slot) != LegState::Absent || self.is_behind(slot) {
                self.leg_failed(slot, "did not answer in time".into(), effects);
            }
        }
        self.tick_behind(effects);
        self.retry_repairs();
        self.tick_cleaning(effects);
    }

    fn send(
        &mut self,
        slot: Slot,
        purpose: Purpose,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> OperationId {
        let (operation, order) = self.operation(slot, purpose, stream::Weight::of(&command));
        effects.push(Effect::Leg {
            operation,
            slot,
            command,
            order,
        });
        operation
    }

    fn operation(
        &mut self,
        slot: Slot,
        purpose: Purpose,
        weight: stream::Weight,
    ) -> (OperationId, Option<Order>) {
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        let ordered = self.is_ordered(slot);
        let order = ordered.then(|| self.legs[slot.number()].stream.put(weight, self.now));
        // What waits behind others is late when the stream stands still.
        let patience = match ordered {
            true => u64::MAX,
            false if slot == self.local => self.settings.local_timeout,
            false => self.settings.leg_timeout,
        };
        self.operations.insert(
            id,
            Operation {
                slot,
                purpose,
                deadline: self.now.saturating_add(patience),
                put_off: false,
                weight: ordered.then_some(weight),
            },
        );
        (id, order)
    }

    fn new_job(&mut self, job: Job) -> JobId {
        let id = self.next_job;
        self.next_job += 1;
        self.jobs.insert(id, job);
        id
    }

    fn release_range(&mut self, ticket: Option<Ticket>) {
        let Some(ticket) = ticket else { return };
        for (ticket, job) in self.ranges.release(ticket) {
            match self.jobs.get_mut(&job) {
                Some(Job::Write(write)) => write.ticket = Some(ticket),
                Some(Job::Copy(copy)) => copy.ticket = Some(ticket),
                Some(Job::Check(check)) => check.ticket = Some(ticket),
                Some(Job::Repair(repair)) => repair.ticket = Some(ticket),
                _ => continue,
            }
            self.runnable.push_back(job);
        }
    }

    fn dirty_extents(&self, offset: u64, length: u64, one: bool) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let end = offset + length;
        let mut at = offset;
        while at < end && extents.len() < MAX_DIRTY_EXTENTS {
            let chunk = at / self.shape.chunk;
            let next = ((chunk + 1) * self.shape.chunk).min(end);
            let status = u64::from(self.intent.dirty().contains(chunk));
            match extents.last_mut() {
                Some(last) if last.status == status => last.length += next - at,
                Some(_) if one => break,
                _ => extents.push(Extent {
                    length: next - at,
                    status,
                }),
            }
            at = next;
        }
        extents
    }
}

/// A tick that comes so many milliseconds after the last one shows that this process stood still.
const STOOD_STILL: u64 = 2_000;

/// The mirror is stopped: its legs may belong to another node by now, so nothing may be sent to them any more.
fn refuse(event: Event, effects: &mut Vec<Effect>) {
    let why = "the mirror is stopped";
    match event {
        Event::Submit { request, .. } => effects.push(Effect::Answer {
            request,
            outcome: Err(Failure::new(Errno::ESHUTDOWN, why)),
        }),
        Event::Attach { slot, .. } | Event::Join { slot, .. } => effects.push(Effect::Expel {
            slot,
            reason: why.into(),
        }),
        Event::Done { .. }
        | Event::Lost { .. }
        | Event::Remove { .. }
        | Event::Part { .. }
        | Event::Speed { .. }
        | Event::Grow { .. }
        | Event::Tick
        | Event::Guard { .. }
        | Event::Hold(_)
        | Event::PauseResync(_)
        | Event::Verify(_)
        | Event::StopVerify(_)
        | Event::Stop => {}
    }
}

/// Bound of one `x-netraid:dirty` answer; the client asks on from where it ends.
const MAX_DIRTY_EXTENTS: usize = 4096;

#[cfg(test)]
mod tests;
