//! Legs that are written asynchronously (protocol A): a write is answered when the legs that are waited for have it and
//! it is in the send buffer of the others.
//!
//! Everything that goes to such a leg, its metadata included, carries its place in one stream, which the leg performs
//! strictly in order and ends at the first failure. So at every moment the leg is a state that the source once had, and
//! a flush of the application, which is part of the stream, keeps that true for what a power failure leaves. And what
//! the leg is told need not be waited for: the bit of a chunk gets there before the chunk's data, and the flush before a
//! bit is dropped gets there behind the data. The bits on the legs that are waited for cover what is still on its way.
//!
//! A job stays until the stream's legs have it too. So its chunks' bits stay, a stop waits for it, and a leg that fails
//! with something in its buffer is left behind with a new generation.

use super::*;

/// The place of an operation among those of a leg: performed strictly in order of `number`, which counts from 0 in
/// each session; what belongs to an earlier session is not performed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Counts the times that the leg was attached.
    pub session: u64,
    /// Counts the operations of the session.
    pub number: u64,
}

/// What is on its way to a leg.
#[derive(Debug, Default)]
pub(super) struct Stream {
    session: u64,
    next: u64,
    /// Bytes of memory put in since the session began.
    put: u64,
    /// Those of them that have left it.
    gone: u64,
    /// Bytes of the mirror that operations under way change.
    behind: u64,
    under_way: u64,
    /// When it last went on, in milliseconds.
    moved: u64,
    /// Standing still was this process's own, once since it last went on.
    put_off: bool,
}

/// What an operation of a stream weighs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weight {
    memory: u64,
    changes: u64,
}

impl Weight {
    pub(super) fn of(command: &Command) -> Weight {
        let payload = match command {
            Command::Write { data, .. } => data.len() as u64,
            _ => 0,
        };
        let changes = match command.range() {
            Some((_, length)) if command.changes_data() => length,
            _ => 0,
        };
        Weight {
            memory: payload + OVERHEAD,
            changes,
        }
    }

    /// Of metadata; pages are what is large of it.
    pub(super) fn of_update(update: &Update) -> Weight {
        let pages: usize = update.pages.iter().map(|(_, bytes)| bytes.len()).sum();
        Weight {
            memory: pages as u64 + OVERHEAD,
            changes: 0,
        }
    }
}

impl Stream {
    /// A new session begins: whatever was on its way is gone.
    pub(super) fn begin(&mut self) {
        *self = Stream {
            session: self.session + 1,
            ..Stream::default()
        };
    }

    pub(super) fn put(&mut self, weight: Weight, now: u64) -> Order {
        if self.under_way == 0 {
            self.moved = now;
        }
        let order = Order {
            session: self.session,
            number: self.next,
        };
        self.next += 1;
        self.under_way += 1;
        self.put += weight.memory;
        self.behind += weight.changes;
        order
    }

    pub(super) fn done(&mut self, weight: Weight, now: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        self.gone += weight.memory;
        self.behind = self.behind.saturating_sub(weight.changes);
        self.moved = now;
        self.put_off = false;
    }

    /// The end of what has been put in, as a position.
    pub(super) fn end(&self) -> u64 {
        self.put
    }

    pub(super) fn stood_still(&mut self, since: u64) {
        if !std::mem::replace(&mut self.put_off, true) {
            self.moved = self.moved.saturating_add(since);
        }
    }

    pub(super) fn is_late(&self, now: u64, patience: u64) -> bool {
        self.under_way > 0 && self.moved.saturating_add(patience) <= now
    }
}

/// Where a job's operations lie in the streams of legs that need not be waited for.
pub(super) type Places = Vec<(Slot, u64)>;

impl Engine {
    /// Whether the leg in `slot` gets everything in order, over a session that performs it so.
    pub fn is_ordered(&self, slot: Slot) -> bool {
        slot != self.local && self.settings.asynchronous.contains(slot)
    }

    /// Bytes of writes that an asynchronous leg does not have yet; `None` for one that is waited for.
    pub fn behind(&self, slot: Slot) -> Option<u64> {
        let leg = self.legs.get(slot.number())?;
        self.is_ordered(slot).then_some(leg.stream.behind)
    }

    /// Whether the leg in `slot` gets writes that were answered before it has them.
    pub fn trails(&self, slot: Slot) -> bool {
        self.trailing().contains(slot)
    }

    /// The legs that receive writes and need not be waited for: as long as another one in sync has everything.
    pub(super) fn trailing(&self) -> SlotSet {
        let mut ordered = self.settings.asynchronous;
        ordered.remove(self.local);
        if ordered.is_empty() || self.in_sync().without(ordered).is_empty() {
            return SlotSet::EMPTY;
        }
        ordered.and(self.receiving())
    }

    /// The leg to read from, among `candidates`: those that need not be asked over a stream first.
    pub(super) fn best_to_read(&self, candidates: SlotSet) -> Option<Slot> {
        if candidates.contains(self.local) {
            return Some(self.local);
        }
        let direct = candidates.without(self.settings.asynchronous);
        direct.iter().next().or_else(|| candidates.iter().next())
    }

    /// Whether what lies at `places` is in the send buffers of all legs that it still waits for.
    pub(super) fn is_buffered(&self, places: &Places, waiting: SlotSet) -> bool {
        places
            .iter()
            .filter(|(slot, _)| waiting.contains(*slot))
            .all(|(slot, place)| {
                let gone = self.legs[slot.number()].stream.gone;
                place.saturating_sub(gone) <= self.settings.send_buffer
            })
    }

    /// Answers have to wait for an expulsion to be durable. Whoever has not everything yet may then be all that is left, so
    /// a job that is not over on all legs is looked at again.
    pub(super) fn must_hold_answers(&self) -> bool {
        self.commit.durable < self.commit.answer_from
    }

    /// A stream went on, or a commit is durable: jobs that waited for that may be answered.
    pub(super) fn answer_crowded(&mut self, effects: &mut Vec<Effect>) {
        for job in std::mem::take(&mut self.crowded) {
            match self.jobs.get(&job) {
                Some(Job::Write(_)) => self.answer_write_early(job, effects),
                Some(Job::Flush(_)) => self.answer_flush_early(job, effects),
                _ => {}
            }
        }
    }

    /// Goes on without the legs in sync among `slots` whose streams are congested, if that is what becomes of such legs. (One
    /// that is being resynced would only begin again.)
    pub(super) fn relieve_congested(&mut self, slots: SlotSet, effects: &mut Vec<Effect>) {
        let (most, policy) = match self.settings.on_congestion {
            OnCongestion::Block => return,
            OnCongestion::Disconnect(most) => (most, "disconnect"),
            OnCongestion::PullAhead(most) => (most, "pull-ahead"),
        };
        for slot in slots.and(self.trailing()).and(self.in_sync()).iter() {
            let stream = &self.legs[slot.number()].stream;
            let under_way = stream.put - stream.gone;
            if under_way <= most || self.is_last_in_sync(slot) {
                continue;
            }
            let reason = format!(
                "congested: {under_way} bytes were on the way to it, and on-congestion is {policy}"
            );
            match self.settings.on_congestion {
                OnCongestion::PullAhead(_) => self.pull_ahead(slot, reason, effects),
                _ => self.leg_failed(slot, reason, effects),
            }
        }
    }

    /// Whether some job was answered, or waits for its answer, that a leg which is expelled now may not have.
    pub(super) fn owes_a_generation(&self) -> bool {
        let owed = |job: &Job| match job {
            Job::Write(_) => true,
            Job::Flush(flush) => flush.answered,
            Job::Read(_) | Job::Copy(_) | Job::Check(_) | Job::Repair(_) => false,
        };
        !self.unanswered.is_empty() || self.jobs.values().any(owed)
    }
}

/// A copy of its own: the slice that came from the application keeps a whole receive buffer alive.
pub(super) fn detached(command: &Command) -> Command {
    match command {
        Command::Write { offset, data, fua } => Command::Write {
            offset: *offset,
            data: Bytes::copy_from_slice(data),
            fua: *fua,
        },
        other => other.clone(),
    }
}

/// What an operation costs beyond its payload, in bytes.
const OVERHEAD: u64 = 512;
