//! The mirror's decisions: events in, effects out, nothing performed here.
//!
//! What holds at every moment, whatever order effects complete in:
//! - a data write is sent to a leg only after the bits of its chunks are durable on every attached leg, and after a
//!   superblock that says "active" under the current generation is;
//! - overlapping writes (the resync's own included) are never under way at once, so every leg sees one order;
//! - a write is answered only when every leg in sync has it, or the leg's expulsion and the new generation are durable;
//! - a bit is dropped only by the cleaning cycle: no leg is absent, none still misses the chunk, and every leg was
//!   flushed after the last write to the chunk ended.

mod attach;
mod clean;
mod commit;
mod membership;
mod read;
mod resync;
mod write;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Errno, Extent, Failure, Outcome};
use nbd_server::range_lock::{RangeLock, Ticket};

use crate::mirror::generation::Generations;
use crate::raid1::intent::Intent;
use crate::raid1::leg::{LegImage, LegRecord, LegState, Slot, SlotSet, SuperState};

pub use attach::Refusal;
pub use resync::Progress;

/// Size and division of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes that the application sees.
    pub size: u64,
    /// Bytes under one bit of the write-intent bitmap; a power of two.
    pub chunk: u64,
    /// Number of slots (md: raid disks), 1 to 8.
    pub slots: usize,
}

impl Shape {
    /// Number of chunks; the last may be shorter.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk)
    }

    fn chunks_of(&self, offset: u64, length: u64) -> std::ops::Range<u64> {
        offset / self.chunk..(offset + length).div_ceil(self.chunk)
    }
}

/// Times and bounds. All times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A remote leg that has not answered for this long is expelled.
    pub leg_timeout: u64,
    /// The same for the local leg.
    pub local_timeout: u64,
    /// How often bits are considered for dropping; a bit stays one to two of these after the last write.
    pub clean_interval: u64,
    /// Most bytes copied in one piece of a resync.
    pub resync_piece: u64,
    /// Most pieces under way while the application is quiet.
    pub resync_window: usize,
    /// Most bytes a second that a resync reads; 0 means no bound.
    pub resync_rate: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            leg_timeout: 10_000,
            local_timeout: 60_000,
            clean_interval: 5_000,
            resync_piece: 1 << 20,
            resync_window: 8,
            resync_rate: 0,
        }
    }
}

/// Names an application's request; chosen by the caller, unique among those not yet answered.
pub type RequestId = u64;

/// Names one effect that will be reported as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What happens to a mirror.
#[derive(Debug)]
pub enum Event {
    /// The application asks for something.
    Submit {
        /// Name for the answer.
        request: RequestId,
        /// What it asks; its range lies within the mirror.
        command: Command,
    },
    /// An [`Effect::Leg`] or [`Effect::Metadata`] is over.
    Done {
        /// Which.
        operation: OperationId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A leg was connected and its metadata read.
    Attach {
        /// Where it belongs.
        slot: Slot,
        /// What its metadata says; `None` for a blank leg that is to be filled (an extension).
        image: Option<LegImage>,
    },
    /// A leg's connection is gone.
    Lost {
        /// Which leg.
        slot: Slot,
        /// Why, in words.
        reason: String,
    },
    /// Time has passed; expected a few times a second.
    Tick,
    /// Stop or continue copying.
    PauseResync(bool),
    /// Finish what was accepted, make every leg clean, then [`Effect::Stopped`].
    Stop,
}

/// What is written to one leg's metadata, in this order and each durable before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Event counter for the bitmap's own header.
    pub events: u64,
    /// The event counter when bits were last dropped with no leg absent (md: `events_cleared`).
    pub events_cleared: u64,
    /// Pages of the bitmap area: number and the bytes of the bit array that it holds.
    pub pages: Vec<(u32, Bytes)>,
    /// The leg's NetRAID record and superblock, if they change.
    pub superblock: Option<(LegRecord, SuperState)>,
}

/// What has to be done now.
#[derive(Debug)]
pub enum Effect {
    /// Give `command` to a leg (offsets are those of the mirror) and report [`Event::Done`].
    Leg {
        /// Name for the report.
        operation: OperationId,
        /// Which leg.
        slot: Slot,
        /// What to do.
        command: Command,
    },
    /// Write a leg's metadata durably and report [`Event::Done`].
    Metadata {
        /// Name for the report.
        operation: OperationId,
        /// Which leg.
        slot: Slot,
        /// What to write.
        update: Update,
    },
    /// Answer the application.
    Answer {
        /// Which request.
        request: RequestId,
        /// The answer.
        outcome: Outcome,
    },
    /// Cut a leg off: nothing more may reach it, and nothing under way may land on it after it is attached again.
    Expel {
        /// Which leg.
        slot: Slot,
        /// Why, in words.
        reason: String,
    },
    /// The mirror is stopped and clean.
    Stopped,
}

#[derive(Debug)]
struct Leg {
    state: LegState,
    /// For a leg that is not in sync: its own record, which it keeps until it is.
    record: LegRecord,
    /// Chunks still to be copied to it.
    missing: crate::raid1::chunks::ChunkSet,
    /// Its bitmap must be written whole with the next commit.
    needs_whole_bitmap: bool,
    /// The flush after which it is in sync, if nothing comes in between.
    last_flush: Option<OperationId>,
    /// The metadata version that says that it is in sync, once it is.
    in_sync_from: u64,
    /// Why it was expelled or refused last, or why it needed a full resync.
    reason: Option<String>,
}

type JobId = u64;

#[derive(Debug)]
enum Job {
    Write(write::WriteJob),
    Read(read::ReadJob),
    Flush(clean::FlushJob),
    Copy(resync::CopyJob),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Job(JobId),
    Commit,
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
    /// The slots whose legs were written under the current generation.
    members: SlotSet,
    events: u64,
    events_cleared: u64,
    clean: bool,
    intent: Intent,
    commit: commit::CommitState,
    cleaning: clean::Cleaning,
    resync: resync::Resync,
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
    /// A flush failed on the last leg in sync, and no flush of the application has been answered with it yet.
    untold: Option<Failure>,
    /// Why no write can be taken any more.
    halted: Option<String>,
    stopping: bool,
    stopped: bool,
}

/// A source of generation ids: a fixed sequence for a seed, so that the engine itself has no randomness.
#[derive(Clone, Debug)]
pub struct IdSource(u64);

impl IdSource {
    /// The sequence of `seed`; the caller draws it from the system's randomness.
    pub fn new(seed: u64) -> IdSource {
        IdSource(seed)
    }

    /// The next id, never 0 (SplitMix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
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
            Event::Attach { slot, image } => self.attach(slot, image, effects),
            Event::Lost { slot, reason } => self.lost(slot, reason, effects),
            Event::Tick => self.tick(effects),
            Event::PauseResync(paused) => self.resync.paused = paused,
            Event::Stop => self.stopping = true,
        }
        self.settle(effects);
    }

    fn submit(&mut self, request: RequestId, command: Command, effects: &mut Vec<Effect>) {
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
            return;
        };
        let slot = operation.slot;
        match operation.purpose {
            Purpose::Job(job) => self.job_operation_done(job, slot, outcome, effects),
            Purpose::Commit => self.commit_operation_done(slot, outcome, effects),
            Purpose::CleanFlush => self.clean_flush_done(id, slot, outcome, effects),
            Purpose::FinishFlush => self.finish_flush_done(id, slot, outcome, effects),
        }
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
            None => {}
        }
    }

    /// Starts everything that the last event made possible.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        if self.halted.is_some() {
            self.fail_unlaunched(effects);
        }
        self.start_runnable(effects);
        self.pump_resync(effects);
        self.proceed_stop(effects);
        self.start_commit(effects);
    }

    /// Starts the jobs whose turn among overlapping ones has come.
    fn start_runnable(&mut self, effects: &mut Vec<Effect>) {
        while let Some(job) = self.runnable.pop_front() {
            match self.jobs.get(&job) {
                Some(Job::Write(_)) => self.prepare_write(job, effects),
                Some(Job::Copy(_)) => self.start_copy_read(job, effects),
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
        }
        let late: Vec<Slot> = self
            .operations
            .values()
            .filter(|operation| operation.deadline <= self.now)
            .map(|operation| operation.slot)
            .collect();
        for slot in late {
            if self.state(slot) != LegState::Absent {
                self.leg_failed(slot, "did not answer in time".into(), effects);
            }
        }
        self.tick_cleaning(effects);
    }

    fn send(
        &mut self,
        slot: Slot,
        purpose: Purpose,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> OperationId {
        let operation = self.operation(slot, purpose);
        effects.push(Effect::Leg {
            operation,
            slot,
            command,
        });
        operation
    }

    fn operation(&mut self, slot: Slot, purpose: Purpose) -> OperationId {
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        let patience = if slot == self.local {
            self.settings.local_timeout
        } else {
            self.settings.leg_timeout
        };
        self.operations.insert(
            id,
            Operation {
                slot,
                purpose,
                deadline: self.now.saturating_add(patience),
                put_off: false,
            },
        );
        id
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
        Event::Attach { slot, .. } => effects.push(Effect::Expel {
            slot,
            reason: why.into(),
        }),
        Event::Done { .. }
        | Event::Lost { .. }
        | Event::Tick
        | Event::PauseResync(_)
        | Event::Stop => {}
    }
}

/// Bound of one `x-netraid:dirty` answer; the client asks on from where it ends.
const MAX_DIRTY_EXTENTS: usize = 4096;
