//! Copying what legs miss, piece by piece, while writes go on.
//!
//! A piece holds its range like a write does: a write that overlaps waits for it, so an older block never lands on a
//! newer one. Zeroes are not sent.

use super::pace::{Bounds, STEP, Seen, Window};
use super::*;

use std::collections::BTreeMap;

/// How far a resync is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes dealt with since the resync began: read from the source, or found to be equal.
    pub copied: u64,
    /// Of them, bytes that were neither equal nor zero and crossed to the targets.
    pub sent: u64,
    /// Bytes that were compared by digests first.
    pub compared: u64,
    /// Of them, bytes that turned out to be equal and were not sent.
    pub equal: u64,
    /// Bytes still to be copied.
    pub left: u64,
    /// Milliseconds since it began.
    pub elapsed: u64,
    /// Bytes a second during the last seconds; `None` before the first is over.
    pub recent: Option<u64>,
    /// What kept it from being faster for most of the last second.
    pub limit: Limit,
    /// Milliseconds that a piece takes lately from its beginning until all targets have it; 0 before the first.
    pub delay: u64,
    /// Somebody stopped it for now.
    pub paused: bool,
}

/// What keeps a resync from being faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// Nothing that was set: all pieces that may be under way are, or none is left to begin.
    #[default]
    Legs,
    /// The upper bound of the rate.
    Rate,
    /// It steps aside for the application.
    Application,
    /// A piece takes as long as it may, or as much as may be is on the way ([`pace::Control`]).
    Delay,
}

/// Bytes of the current or the last resync; what they mean is told at [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Dealt with.
    pub copied: u64,
    /// Sent.
    pub sent: u64,
    /// Compared by digests.
    pub compared: u64,
    /// Found to be equal.
    pub equal: u64,
}

/// State of the copying.
#[derive(Debug, Default)]
pub(super) struct Resync {
    pub(super) paused: bool,
    pub(super) under_way: usize,
    /// Chunks being copied: bytes of each that are still to come, and the legs that get them.
    pub(super) chunks: BTreeMap<u64, Partial>,
    /// Where the next piece is looked for.
    cursor: u64,
    began: u64,
    pub(super) copied: u64,
    pub(super) sent: u64,
    compared: u64,
    equal: u64,
    /// Pieces in a row that had no equal block.
    futile: u32,
    /// What the upper bound of the speed allows.
    most: Allowance,
    /// What the lower one asks for.
    least: Allowance,
    application_seen: u64,
    /// Bytes of the pieces under way.
    on_the_way: u64,
    /// What the controller allows, if it is on.
    pace: Option<Window>,
    /// When it was asked last, and what has arrived since.
    stepped: u64,
    arrived: u64,
    /// The shortest time of a piece, and the usual one lately; 0 before the first.
    round_trip: u64,
    delay: u64,
    diary: Diary,
}

/// What the last second was like.
#[derive(Debug, Default)]
struct Diary {
    /// Since when the second is counted, and how much was copied by then.
    since: u64,
    copied: u64,
    /// How long each limit held, and which one holds now, since when.
    held: [u64; 4],
    now: (Limit, u64),
    /// Of the second before.
    limit: Limit,
    rate: Option<u64>,
}

impl Diary {
    fn begin(&mut self, now: u64, copied: u64) {
        *self = Diary {
            since: now,
            copied,
            now: (Limit::Legs, now),
            ..Diary::default()
        };
    }

    /// From `now` on it is `limit` that holds.
    fn note(&mut self, limit: Limit, now: u64, copied: u64) {
        let (held, since) = std::mem::replace(&mut self.now, (limit, now));
        self.held[held as usize] += now.saturating_sub(since);
        let elapsed = now.saturating_sub(self.since);
        if elapsed < SECOND {
            return;
        }
        let limits = [Limit::Legs, Limit::Rate, Limit::Application, Limit::Delay];
        let longest = limits
            .into_iter()
            .max_by_key(|limit| self.held[*limit as usize]);
        self.limit = longest.unwrap_or_default();
        let rate = copied.saturating_sub(self.copied).saturating_mul(SECOND) / elapsed;
        // A single second can be far off.
        self.rate = Some(self.rate.map_or(rate, |before| (2 * before + rate) / 3));
        (self.since, self.copied, self.held) = (now, copied, [0; 4]);
    }
}

#[derive(Debug)]
pub(super) struct Partial {
    pub(super) left: u64,
    /// First byte that no piece has taken yet.
    next: u64,
    pub(super) targets: SlotSet,
}

/// Bytes that may be copied at a certain rate: gained with time, spent by pieces. A piece may cost more than there is;
/// then the next one waits for longer.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowance {
    bytes: i64,
    at: u64,
}

impl Allowance {
    /// Nothing, at time `now`.
    pub(super) fn empty(now: u64) -> Allowance {
        Allowance { bytes: 0, at: now }
    }

    /// What there is at time `now`, at `rate` bytes a second. No more than a second's worth is saved up.
    pub(super) fn at(&mut self, now: u64, rate: u64) -> i64 {
        let most = i64::try_from(rate).unwrap_or(i64::MAX);
        let elapsed = now.saturating_sub(self.at);
        let gained = i64::try_from(rate.saturating_mul(elapsed) / 1000).unwrap_or(i64::MAX);
        // What is less than a byte is kept by not counting its time.
        if gained > 0 {
            self.at = now;
            self.bytes = self.bytes.saturating_add(gained).min(most);
        }
        self.bytes
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Forgets what was spent beyond a second's worth: who was fast for hours is not to be held back for hours.
    fn forgive(&mut self, rate: u64) {
        let most = i64::try_from(rate).unwrap_or(i64::MAX);
        self.bytes = self.bytes.max(-most);
    }
}

impl Resync {
    pub(super) fn restart(&mut self, now: u64) {
        self.cursor = 0;
        if self.under_way == 0 {
            self.began = now;
            self.copied = 0;
            self.sent = 0;
            self.compared = 0;
            self.equal = 0;
            self.futile = 0;
            self.pace = None;
            self.rest(now);
            (self.round_trip, self.delay) = (0, 0);
        }
    }

    /// Nothing is under way for now by somebody's will: that says nothing about the legs.
    fn rest(&mut self, now: u64) {
        (self.stepped, self.arrived) = (now, 0);
        self.diary.begin(now, self.copied);
    }

    /// A piece is over, which all of its targets have or none.
    pub(super) fn piece_over(&mut self, length: u64, began: u64, now: u64, written: bool) {
        self.under_way -= 1;
        self.on_the_way = self.on_the_way.saturating_sub(length);
        if !written {
            return;
        }
        self.arrived += length;
        let took = now.saturating_sub(began).max(1);
        (self.round_trip, self.delay) = match (self.round_trip, self.delay) {
            (0, _) => (took, took),
            (least, delay) => (least.min(took), (7 * delay + took).div_ceil(8)),
        };
    }

    /// So many bytes were compared, and so many of them were equal.
    pub(super) fn compared(&mut self, bytes: u64, equal: u64) {
        self.compared += bytes;
        self.equal += equal;
        self.copied += equal;
        self.futile = if equal > 0 {
            0
        } else {
            self.futile.saturating_add(1)
        };
    }

    /// Whether comparing the next piece promises anything: where all was different for long, only samples are compared.
    pub(super) fn worth_comparing(&mut self) -> bool {
        if self.futile < FUTILE {
            return true;
        }
        self.futile = self.futile.saturating_add(1);
        self.futile.is_multiple_of(SAMPLE)
    }
}

/// Pieces under way while the application is busy: enough to go on, too few to be in its way.
const BUSY_WINDOW: usize = 2;

/// After so many pieces in a row without an equal block, only one in [`SAMPLE`] is compared.
const FUTILE: u32 = 32;
const SAMPLE: u32 = 16;

/// A piece is not made smaller than this, in bytes.
const SMALLEST: u64 = 64 << 10;

const SECOND: u64 = 1000;

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
            compared: self.resync.compared,
            equal: self.resync.equal,
            left: left.min(self.shape.size),
            elapsed: self.now.saturating_sub(self.resync.began),
            recent: self.resync.diary.rate,
            limit: self.resync.diary.limit,
            delay: self.resync.delay,
            paused: self.resync.paused,
        })
    }

    /// Pieces of the resync that are under way, and their bytes.
    pub fn resync_under_way(&self) -> (usize, u64) {
        (self.resync.under_way, self.resync.on_the_way)
    }

    /// What the current or the last resync has done so far.
    pub fn resync_totals(&self) -> Totals {
        let Resync {
            copied,
            sent,
            compared,
            equal,
            ..
        } = self.resync;
        Totals {
            copied,
            sent,
            compared,
            equal,
        }
    }

    /// Starts as many pieces as the window and the rate allow, and finishes legs that miss nothing.
    pub(super) fn pump_resync(&mut self, effects: &mut Vec<Effect>) {
        // Nothing can be written down any more: a leg that became equal now could not say so on its disk.
        if self.halted.is_some() {
            return;
        }
        self.finish_complete_legs(effects);
        if self.resync.paused || self.stopping {
            self.resync.rest(self.now);
            return;
        }
        let quiet = self.is_quiet();
        self.step_pace();
        let limit = loop {
            if let Some(limit) = self.limit(quiet) {
                break limit;
            }
            let Some((offset, length, targets)) = self.next_piece() else {
                break Limit::Legs;
            };
            self.resync.under_way += 1;
            self.resync.on_the_way += length;
            self.resync.most.spend(length);
            self.resync.least.spend(length);
            self.resync.least.forgive(self.settings.resync_least);
            let compare = self.compares(targets);
            let job = copy::CopyJob::new((offset, length), targets, compare, self.now);
            let job = self.new_job(Job::Copy(job));
            self.admit(job, offset, length);
            self.start_runnable(effects);
        };
        self.resync.diary.note(limit, self.now, self.resync.copied);
    }

    /// Whether the application has asked for nothing for a while.
    pub(super) fn is_quiet(&mut self) -> bool {
        let busy = self.jobs.len() > self.resync.under_way + self.verifying();
        if busy {
            self.resync.application_seen = self.now;
        }
        !busy && self.now.saturating_sub(self.resync.application_seen) >= BUSY_FOR
    }

    /// What keeps another piece from being begun now, if anything does.
    fn limit(&mut self, quiet: bool) -> Option<Limit> {
        if !self.rate_allows() {
            return Some(Limit::Rate);
        }
        // Asked in any case: what was gained until now counts before the next piece is paid for.
        let behind = self.is_below_least();
        match self.resync.under_way {
            0 => return None,
            pieces if pieces >= self.settings.resync_window => return Some(Limit::Legs),
            _ => {}
        }
        // A resync that is slower than it may be made does not step aside.
        if behind {
            return None;
        }
        if !quiet && self.resync.under_way >= BUSY_WINDOW {
            return Some(Limit::Application);
        }
        let allowed = self.resync.pace.map_or(u64::MAX, |window| window.bytes);
        (self.resync.on_the_way + self.piece() > allowed).then_some(Limit::Delay)
    }

    /// It is slower than its lower bound.
    fn is_below_least(&mut self) -> bool {
        let least = self.settings.resync_least;
        least > 0 && self.resync.least.at(self.now, least) > 0
    }

    /// Most bytes of the next piece: where little may be on the way, that is to be more than one piece.
    fn piece(&mut self) -> u64 {
        let most = self.settings.resync_piece.max(1);
        match self.resync.pace.map(|window| (window.bytes / 2).max(1)) {
            Some(half) if !self.is_below_least() => most.min(SMALLEST.max(1 << half.ilog2())),
            _ => most,
        }
    }

    /// Asks the controller, if it is on and its time has come.
    fn step_pace(&mut self) {
        let control = self.settings.control;
        if control.plan_ahead == 0 {
            self.resync.pace = None;
            return;
        }
        let piece = self.settings.resync_piece.max(1);
        let pieces = u64::try_from(self.settings.resync_window).unwrap_or(u64::MAX);
        let bounds = Bounds {
            smallest: SMALLEST.min(piece),
            largest: piece.saturating_mul(pieces),
        };
        let resync = &mut self.resync;
        let window = resync.pace.unwrap_or(Window::first(&control, bounds));
        resync.pace = Some(window);
        let elapsed = self.now.saturating_sub(resync.stepped);
        if elapsed < STEP {
            return;
        }
        let seen = Seen {
            arrived: std::mem::take(&mut resync.arrived),
            on_the_way: resync.on_the_way,
            elapsed,
            round_trip: resync.round_trip,
        };
        resync.stepped = self.now;
        resync.pace = Some(window.next(&control, bounds, seen));
    }

    fn rate_allows(&mut self) -> bool {
        let rate = self.settings.resync_rate;
        rate == 0 || self.resync.most.at(self.now, rate) > 0
    }

    /// Other bounds of the speed, from now on. What was saved up or is owed at another rate is forgotten.
    pub(super) fn set_speed(
        &mut self,
        most: Option<u64>,
        least: Option<u64>,
        control: Option<Control>,
    ) {
        if let Some(control) = control {
            self.settings.control = control;
        }
        let fresh = Allowance {
            bytes: 0,
            at: self.now,
        };
        if let Some(most) = most {
            self.settings.resync_rate = most;
            self.resync.most = Allowance { ..fresh };
        }
        if let Some(least) = least {
            self.settings.resync_least = least;
            self.resync.least = fresh;
        }
    }

    /// The next range to copy: within one chunk if chunks are large, else a run of neighbouring chunks.
    fn next_piece(&mut self) -> Option<(u64, u64, SlotSet)> {
        let (chunk_size, piece) = (self.shape.chunk, self.piece());
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
        let now = self.now;
        // A failure meanwhile may have sent it back to be copied to.
        let Some(leg) = self
            .leg_mut(slot)
            .filter(|leg| leg.last_flush == Some(flush))
        else {
            return;
        };
        leg.last_flush = None;
        leg.state = LegState::InSync;
        leg.patience.in_sync(now);
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
