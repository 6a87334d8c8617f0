//! Copying what legs miss, piece by piece, while writes go on.
//!
//! A piece holds its range like a write does: a write that overlaps waits for it, so an older block never lands on a
//! newer one. Zeroes are not sent.

use super::*;

use std::collections::BTreeMap;

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
}

/// How far a resync is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read from the source since the resync began.
    pub copied: u64,
    /// Of them, bytes that were not zero and crossed to the targets.
    pub sent: u64,
    /// Bytes still to be copied.
    pub left: u64,
    /// Milliseconds since it began.
    pub elapsed: u64,
    /// Somebody stopped it for now.
    pub paused: bool,
}

/// State of the copying.
#[derive(Debug, Default)]
pub(super) struct Resync {
    pub(super) paused: bool,
    under_way: usize,
    /// Chunks being copied: bytes of each that are still to come, and the legs that get them.
    chunks: BTreeMap<u64, Partial>,
    /// Where the next piece is looked for.
    cursor: u64,
    began: u64,
    copied: u64,
    sent: u64,
    /// Bytes that the rate allows now, and when that was worked out.
    allowance: u64,
    allowance_at: u64,
    application_seen: u64,
}

#[derive(Debug)]
struct Partial {
    left: u64,
    /// First byte that no piece has taken yet.
    next: u64,
    targets: SlotSet,
}

impl Resync {
    pub(super) fn restart(&mut self, now: u64) {
        self.cursor = 0;
        if self.under_way == 0 {
            self.began = now;
            self.copied = 0;
            self.sent = 0;
        }
    }
}

/// Pieces under way while the application is busy: enough to go on, too few to be in its way.
const BUSY_WINDOW: usize = 2;

/// How long after its last request the application counts as busy, in milliseconds.
const BUSY_FOR: u64 = 100;

impl Engine {
    /// How far the resync is; `None` when no leg is being resynced.
    pub fn progress(&self) -> Option<Progress> {
        let resyncing =
            self.slots_in(&[LegState::Attaching, LegState::Resync, LegState::Finishing]);
        if resyncing.is_empty() {
            return None;
        }
        let left = self
            .legs
            .iter()
            .map(|leg| leg.missing.count())
            .max()
            .unwrap_or(0)
            * self.shape.chunk;
        Some(Progress {
            copied: self.resync.copied,
            sent: self.resync.sent,
            left: left.min(self.shape.size),
            elapsed: self.now.saturating_sub(self.resync.began),
            paused: self.resync.paused,
        })
    }

    /// Bytes copied and bytes sent by the current or the last resync.
    pub fn resync_totals(&self) -> (u64, u64) {
        (self.resync.copied, self.resync.sent)
    }

    /// Starts as many pieces as the window and the rate allow, and finishes legs that miss nothing.
    pub(super) fn pump_resync(&mut self, effects: &mut Vec<Effect>) {
        // Nothing can be written down any more: a leg that became equal now could not say so on its disk.
        if self.halted.is_some() {
            return;
        }
        self.finish_complete_legs(effects);
        if self.resync.paused || self.stopping {
            return;
        }
        let busy = self.jobs.len() > self.resync.under_way;
        if busy {
            self.resync.application_seen = self.now;
        }
        let quiet = !busy && self.now.saturating_sub(self.resync.application_seen) >= BUSY_FOR;
        let window = if quiet {
            self.settings.resync_window
        } else {
            self.settings.resync_window.min(BUSY_WINDOW)
        };
        while self.resync.under_way < window && self.rate_allows() {
            let Some((offset, length, targets)) = self.next_piece() else {
                break;
            };
            self.resync.under_way += 1;
            self.resync.allowance = self.resync.allowance.saturating_sub(length);
            let copy = CopyJob {
                offset,
                length,
                targets,
                ticket: None,
                tried: SlotSet::EMPTY,
                source: None,
                waiting: SlotSet::EMPTY,
            };
            let job = self.new_job(Job::Copy(copy));
            self.admit(job, offset, length);
            self.start_runnable(effects);
        }
    }

    fn rate_allows(&mut self) -> bool {
        let rate = self.settings.resync_rate;
        if rate == 0 {
            return true;
        }
        let elapsed = self.now.saturating_sub(self.resync.allowance_at);
        let gained = rate.saturating_mul(elapsed) / 1000;
        if gained > 0 {
            self.resync.allowance_at = self.now;
        }
        // At most a second's worth is saved up, and at least one piece can be.
        let most = rate.max(self.settings.resync_piece);
        self.resync.allowance = self.resync.allowance.saturating_add(gained).min(most);
        self.resync.allowance >= self.settings.resync_piece.min(rate)
    }

    /// The next range to copy: within one chunk if chunks are large, else a run of neighbouring chunks.
    fn next_piece(&mut self) -> Option<(u64, u64, SlotSet)> {
        let (chunk_size, piece) = (self.shape.chunk, self.settings.resync_piece.max(1));
        if let Some((chunk, partial)) =
            self.resync.chunks.iter_mut().find(|(chunk, partial)| {
                partial.next < self.shape.size.min((**chunk + 1) * chunk_size)
            })
        {
            let end = self.shape.size.min((chunk + 1) * chunk_size);
            let offset = partial.next;
            let length = piece.min(end - offset);
            partial.next = offset + length;
            return Some((offset, length, partial.targets));
        }
        let resyncing = self.slots_in(&[LegState::Resync]);
        let chunk = self.next_missing(resyncing)?;
        let targets = self.missing_at(chunk, resyncing);
        let first = chunk * chunk_size;
        if chunk_size > piece {
            let end = self.shape.size.min(first + chunk_size);
            self.resync.chunks.insert(
                chunk,
                Partial {
                    left: end - first,
                    next: first + piece.min(end - first),
                    targets,
                },
            );
            self.resync.cursor = chunk + 1;
            return Some((first, piece.min(end - first), targets));
        }
        let mut run = 0;
        while (run + 1) * chunk_size <= piece
            && chunk + run < self.shape.chunks()
            && self.missing_at(chunk + run, resyncing) == targets
        {
            let start = (chunk + run) * chunk_size;
            let end = self.shape.size.min(start + chunk_size);
            self.resync.chunks.insert(
                chunk + run,
                Partial {
                    left: end - start,
                    next: end,
                    targets,
                },
            );
            run += 1;
        }
        self.resync.cursor = chunk + run;
        Some((
            first,
            self.shape.size.min(first + run * chunk_size) - first,
            targets,
        ))
    }

    /// The next chunk from the cursor on, then from the beginning, that a leg misses and nobody is copying.
    fn next_missing(&self, resyncing: SlotSet) -> Option<u64> {
        let from = |start: u64| {
            resyncing
                .iter()
                .filter_map(|slot| {
                    let missing = &self.legs[slot.number()].missing;
                    let mut at = missing.next_from(start)?;
                    while self.resync.chunks.contains_key(&at) {
                        at = missing.next_from(at + 1)?;
                    }
                    Some(at)
                })
                .min()
        };
        from(self.resync.cursor).or_else(|| from(0))
    }

    fn missing_at(&self, chunk: u64, resyncing: SlotSet) -> SlotSet {
        if self.resync.chunks.contains_key(&chunk) {
            return SlotSet::EMPTY;
        }
        resyncing
            .iter()
            .filter(|slot| self.legs[slot.number()].missing.contains(chunk))
            .collect()
    }

    /// The piece has its range: read it from a leg in sync.
    pub(super) fn start_copy_read(&mut self, job: JobId, effects: &mut Vec<Effect>) {
        let in_sync = self.in_sync();
        let resyncing = self.slots_in(&[LegState::Resync]);
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        copy.targets = copy.targets.and(resyncing);
        let candidates = in_sync.without(copy.tried);
        let source = if candidates.contains(self.local) {
            Some(self.local)
        } else {
            candidates.iter().next()
        };
        let (offset, length) = (copy.offset, copy.length);
        let Some(source) = source.filter(|_| !copy.targets.is_empty()) else {
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
        if copy.source == Some(slot) {
            copy.source = None;
            match outcome {
                Ok(Answer::Data(data)) if data.len() as u64 == copy.length => {
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
        if matches!(self.jobs.get(&job), Some(Job::Copy(copy)) if copy.waiting.is_empty()) {
            self.end_copy(job, true);
        }
    }

    fn write_copy(&mut self, job: JobId, data: Bytes, effects: &mut Vec<Effect>) {
        let resyncing = self.slots_in(&[LegState::Resync]);
        let Some(Job::Copy(copy)) = self.jobs.get_mut(&job) else {
            return;
        };
        let (offset, length) = (copy.offset, copy.length);
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

    /// Another leg in sync may have the piece; if none has, its targets can't be made equal.
    fn copy_read_failed(
        &mut self,
        job: JobId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let why = match outcome {
            Err(failure) => failure.why.into_owned(),
            Ok(_) => "its answer has the wrong length".into(),
        };
        if self.state(slot) != LegState::Absent {
            self.leg_failed(slot, format!("failed a read of the resync: {why}"), effects);
        }
        let Some(Job::Copy(copy)) = self.jobs.get(&job) else {
            return;
        };
        let targets = copy.targets;
        if !self.in_sync().without(copy.tried).is_empty() {
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
        self.resync.under_way -= 1;
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
    pub(super) fn copy_again(&mut self, chunks: &crate::raid1::chunks::ChunkSet) {
        for slot in self
            .slots_in(&[LegState::Resync, LegState::Finishing])
            .iter()
        {
            let leg = &mut self.legs[slot.number()];
            // A last flush that is under way came too early.
            leg.last_flush = None;
            leg.state = LegState::Resync;
            leg.missing.unite(chunks);
        }
        for (chunk, partial) in &mut self.resync.chunks {
            if chunks.contains(*chunk) {
                partial.targets = SlotSet::EMPTY;
            }
        }
    }

    /// Legs that miss nothing any more get a last flush; after it they are in sync.
    fn finish_complete_legs(&mut self, effects: &mut Vec<Effect>) {
        for slot in self.slots_in(&[LegState::Resync]).iter() {
            if !self.legs[slot.number()].missing.is_empty() {
                continue;
            }
            // From here on the application's own flushes reach this leg too: what is flushed before it is in sync
            // must be on its disk when it is.
            let flush = self.send(slot, Purpose::FinishFlush, Command::Flush, effects);
            let leg = &mut self.legs[slot.number()];
            leg.state = LegState::Finishing;
            leg.last_flush = Some(flush);
        }
    }

    pub(super) fn finish_flush_done(
        &mut self,
        flush: OperationId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        // Also one that does not count any more: what it could not write may be gone.
        if let Err(failure) = outcome {
            self.leg_failed(slot, format!("failed a flush: {}", failure.why), effects);
            return;
        }
        if self.halted.is_some() {
            return;
        }
        // A failure meanwhile may have sent it back to be copied to.
        let Some(leg) = self
            .leg_mut(slot)
            .filter(|leg| leg.last_flush == Some(flush))
        else {
            return;
        };
        leg.last_flush = None;
        leg.state = LegState::InSync;
        self.members.insert(slot);
        self.superblock_changed();
        // Its bits are of no use any more; until they are dropped, a failover would copy all of it again.
        self.cleaning.next = self.now;
        let version = self.commit.version;
        if let Some(leg) = self.leg_mut(slot) {
            leg.in_sync_from = version;
        }
    }
}

/// Whether all of `data` is zero. Whole pages at a time, so that the compiler can use wide registers.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096)
        .all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}
