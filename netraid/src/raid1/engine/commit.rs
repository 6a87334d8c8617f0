//! Writing metadata: bits and superblocks of all attached legs, one commit at a time, many changes in each.

use super::*;

use crate::raid1::intent::page_bytes;

/// What is durable and what is on its way.
#[derive(Debug, Default)]
pub(super) struct CommitState {
    /// Counts the changes of superblocks and records in memory.
    pub(super) version: u64,
    /// The last of them that is durable on every attached leg.
    pub(super) durable: u64,
    /// No write may be answered before this version is durable.
    pub(super) answer_from: u64,
    /// The last version that legs which are written asynchronously must have, too, before it counts as durable.
    pub(super) weighty: u64,
    under_way: Option<UnderWay>,
    /// How often bits had to be written lately.
    pub(super) pace: Pace,
}

/// Decides how many neighbouring bits to set with one that is needed.
///
/// A load that touches chunk after chunk waits for a commit at each; the more of its time goes into that, the more bits
/// each commit carries. Over a long way few commits are such a load's whole time, so they are weighed by how long they
/// take, not counted. A quiet load sets only what it needs.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: u64,
    /// Of the window, and of the one before half as much.
    weight: u64,
}

impl Pace {
    /// The size of the group whose bits are set together: a power of two, 1 to [`MOST_AT_ONCE`] chunks.
    pub(super) fn group(&self, now: u64) -> u64 {
        (self.weight_at(now) / WEIGHT_PER_STEP)
            .max(1)
            .next_power_of_two()
            .min(MOST_AT_ONCE)
    }

    /// What counts of the weight by now: all of it within its window, half in the next one.
    fn weight_at(&self, now: u64) -> u64 {
        match now.saturating_sub(self.since) / PACE_WINDOW {
            0 => self.weight,
            1 => self.weight / 2,
            _ => 0,
        }
    }

    /// A commit of bits is durable after so many milliseconds.
    fn note_commit(&mut self, now: u64, took: u64) {
        if now.saturating_sub(self.since) >= PACE_WINDOW {
            *self = Pace {
                since: now,
                weight: self.weight_at(now),
            };
        }
        self.weight = self.weight.saturating_add(1 + took);
    }
}

/// Milliseconds over which commits are weighed.
const PACE_WINDOW: u64 = 1000;
/// What lets the group grow by one chunk: so many commits that take no time, or so many milliseconds.
const WEIGHT_PER_STEP: u64 = 16;
/// Most chunks in a group.
const MOST_AT_ONCE: u64 = 64;

#[derive(Debug)]
struct UnderWay {
    version: u64,
    /// When it began, if it carries bits.
    bits_since: Option<u64>,
    waiting: SlotSet,
    /// Legs that got their whole bitmap and whose superblock said that they are being resynced, or need not be.
    attaching: SlotSet,
    /// Legs whose record said that they are in sync.
    in_sync: SlotSet,
    /// The legs that get it first.
    first: SlotSet,
    /// What the other legs get once those have it.
    then: Vec<(Slot, Purpose, Update)>,
}

impl Engine {
    /// Begins a commit if something changed and none is under way.
    pub(super) fn start_commit(&mut self, effects: &mut Vec<Effect>) {
        let attached = self.attached();
        let whole: SlotSet = attached
            .iter()
            .filter(|slot| self.legs[slot.number()].needs_whole_bitmap)
            .collect();
        let superblock = self.commit.durable < self.commit.version;
        let changed = superblock || self.intent.has_changes() || !whole.is_empty();
        if !changed
            || self.commit.under_way.is_some()
            || self.halted.is_some()
            || attached.is_empty()
        {
            return;
        }
        if superblock {
            self.events += 1;
        }
        let mut pages = self.intent.begin_commit();
        self.settle_legs(lacks::Settled::Here, lacks::Settled::Committing);
        let bits_since = (!pages.is_empty()).then_some(self.now);
        if superblock {
            // The kernel takes a bitmap whose events are older than the superblock's for stale: keep them together.
            pages.insert(0);
        }
        let unhurried = match self.commit.durable < self.commit.weighty {
            true => SlotSet::EMPTY,
            false => self.trailing(),
        };
        let first = if superblock {
            self.first_to_hear()
        } else {
            attached
        };
        let mut then = Vec::new();
        let shared = self.page_contents(pages.iter().copied());
        for slot in attached.iter() {
            let pages = if whole.contains(slot) {
                self.whole_bitmap()
            } else {
                shared.clone()
            };
            let superblock = superblock.then(|| (self.record_of(slot), self.super_state_of(slot)));
            let update = Update {
                events: self.events,
                events_cleared: self.events_cleared,
                size: self.shape.size,
                pages,
                superblock,
            };
            self.legs[slot.number()].needs_whole_bitmap = false;
            let purpose = match unhurried.contains(slot) {
                true => Purpose::Trailing,
                false => Purpose::Commit,
            };
            if first.contains(slot) {
                self.send_metadata(slot, purpose, update, effects);
            } else {
                then.push((slot, purpose, update));
            }
        }
        let version = self.commit.version;
        let waiting = attached.without(unhurried);
        let in_sync = if superblock {
            self.in_sync().and(waiting)
        } else {
            SlotSet::EMPTY
        };
        self.commit.under_way = Some(UnderWay {
            version,
            bits_since,
            waiting,
            attaching: whole,
            in_sync,
            first: first.without(unhurried),
            then,
        });
    }

    /// The legs that get a new superblock before all others do.
    ///
    /// The local leg, if it is in sync: sent to all at once, a crash could leave a generation on a target that this node
    /// has never heard of, and the target would look newer although nothing was written. Else the legs that are in sync:
    /// a leg that was in sync may be about to be marked as being resynced (the local one, coming back), and before that
    /// another must say durably that it is in sync, or a crash would leave none that can be started.
    fn first_to_hear(&self) -> SlotSet {
        let in_sync = self.in_sync();
        if in_sync.contains(self.local) {
            [self.local].into_iter().collect()
        } else {
            in_sync
        }
    }

    fn send_metadata(
        &mut self,
        slot: Slot,
        purpose: Purpose,
        update: Update,
        effects: &mut Vec<Effect>,
    ) {
        let weight = stream::Weight::of_update(&update);
        let (operation, order) = self.operation(slot, purpose, weight);
        effects.push(Effect::Metadata {
            operation,
            slot,
            update,
            order,
        });
    }

    fn page_contents(&self, pages: impl Iterator<Item = u32>) -> Vec<(u32, Bytes)> {
        pages
            .map(|page| {
                let (first, length) = page_bytes(page);
                (page, Bytes::from(self.intent.dirty().bytes(first, length)))
            })
            .collect()
    }

    fn whole_bitmap(&self) -> Vec<(u32, Bytes)> {
        let last = crate::raid1::intent::page_of(self.shape.chunks().saturating_sub(1));
        self.page_contents(0..=last)
    }

    /// What the record on the leg in `slot` has to say now.
    fn record_of(&self, slot: Slot) -> LegRecord {
        match self.state(slot) {
            LegState::InSync => {
                let mut generations = self.generations.clone();
                generations.returned(slot.number());
                LegRecord {
                    generations,
                    consistent: true,
                }
            }
            _ => self.legs[slot.number()].record.clone(),
        }
    }

    fn super_state_of(&self, slot: Slot) -> SuperState {
        let recovering = match self.state(slot) {
            LegState::InSync => false,
            _ => !self.legs[slot.number()].record.consistent,
        };
        SuperState {
            events: self.events,
            clean: self.clean,
            active: self.attached(),
            recovering,
        }
    }

    pub(super) fn commit_operation_done(
        &mut self,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        match outcome {
            Ok(_) => self.leg_has_metadata(slot, effects),
            Err(failure) => self.metadata_failed(slot, &failure, effects),
        }
    }

    /// A leg that the commit did not wait for has its metadata, or failed.
    pub(super) fn trailing_metadata_done(
        &mut self,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(failure) = outcome {
            self.metadata_failed(slot, &failure, effects);
        }
    }

    fn metadata_failed(&mut self, slot: Slot, failure: &Failure, effects: &mut Vec<Effect>) {
        let reason = format!("its metadata can't be written: {}", failure.why);
        if self.is_last_in_sync(slot) {
            self.halt(format!("leg {slot}: {reason}"));
        }
        self.leg_failed(slot, reason, effects);
    }

    /// A leg was expelled: the commit does not wait for it any longer.
    pub(super) fn forget_leg_in_commit(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        if let Some(under_way) = &mut self.commit.under_way {
            under_way.attaching.remove(slot);
            under_way.then.retain(|(later, _, _)| *later != slot);
        }
        self.leg_has_metadata(slot, effects);
    }

    /// The commit need not wait for this leg any longer.
    fn leg_has_metadata(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        // A commit that ends because its last leg is gone is durable nowhere.
        if self.halted.is_some() {
            return;
        }
        let Some(under_way) = &mut self.commit.under_way else {
            return;
        };
        under_way.waiting.remove(slot);
        under_way.first.remove(slot);
        if under_way.first.is_empty() {
            for (slot, purpose, update) in std::mem::take(&mut under_way.then) {
                self.send_metadata(slot, purpose, update, effects);
            }
        }
        self.finish_commit(effects);
    }

    fn finish_commit(&mut self, effects: &mut Vec<Effect>) {
        let Some(under_way) = self
            .commit
            .under_way
            .take_if(|under_way| under_way.waiting.is_empty())
        else {
            return;
        };
        // One that no write waits for, as when bits are dropped, costs nobody anything.
        let since = under_way.bits_since;
        if let Some(since) = since.filter(|_| !self.unlaunched.is_empty()) {
            let took = self.now.saturating_sub(since);
            self.commit.pace.note_commit(self.now, took);
        }
        self.intent.end_commit();
        self.settle_legs(lacks::Settled::Committing, lacks::Settled::Yes);
        self.commit.durable = under_way.version;
        self.welcome_returned_legs(under_way.in_sync);
        for slot in under_way.attaching.iter() {
            self.metadata_of_attaching_leg_written(slot);
        }
        self.answer_held_writes(effects);
        self.answer_crowded(effects);
        self.launch_ready_writes(effects);
    }

    /// A leg that says durably that it is in sync is not away any more. Said earlier, a crash in between would leave it
    /// with a generation that nobody remembers as its own.
    fn welcome_returned_legs(&mut self, written: SlotSet) {
        for slot in written.and(self.in_sync()).iter() {
            if self.generations.away[slot.number()] != crate::mirror::generation::Generation::NONE {
                self.generations.returned(slot.number());
                self.superblock_changed();
            }
        }
    }

    /// Nothing can be made durable any more: what waits for it fails.
    pub(super) fn fail_unlaunched(&mut self, effects: &mut Vec<Effect>) {
        for job in std::mem::take(&mut self.unlaunched) {
            match self.jobs.get(&job) {
                Some(Job::Repair(_)) => self.end_repair(job),
                _ => self.finish_write(job, effects),
            }
        }
        for (request, _) in std::mem::take(&mut self.unanswered) {
            let failure = Failure::new(Errno::EIO, "the mirror lost its last leg in sync");
            effects.push(Effect::Answer {
                request,
                outcome: Err(failure),
            });
        }
    }
}
