//! Which legs take part: states, losses, expulsions, and when a new generation must be minted.

use super::*;

use crate::mirror::generation::Generation;

impl Engine {
    /// Size and division of the mirror.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The slot of the leg on this node.
    pub fn local(&self) -> Slot {
        self.local
    }

    /// The event counter of the superblocks.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether the superblocks say "clean": no write since every leg was flushed.
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// The chunks whose bit is set.
    pub fn dirty(&self) -> &crate::raid1::chunks::ChunkSet {
        self.intent.dirty()
    }

    /// Whether the leg in `slot` is in sync and says so on its disk, so that a node could take over from it.
    pub fn can_take_over(&self, slot: Slot) -> bool {
        let leg = self.legs.get(slot.number());
        leg.is_some_and(|leg| {
            leg.state == LegState::InSync && leg.in_sync_from <= self.commit.durable
        })
    }

    /// Bytes that the leg in `slot` still misses while it is being resynced.
    pub fn missing(&self, slot: Slot) -> u64 {
        let chunks = self
            .legs
            .get(slot.number())
            .map_or(0, |leg| leg.missing.count());
        (chunks * self.shape.chunk).min(self.shape.size)
    }

    /// How much of the resync of the leg in `slot` is done: 0 to 100; `None` if it is not being resynced.
    pub fn percent(&self, slot: Slot) -> Option<u8> {
        let leg = self.legs.get(slot.number())?;
        match leg.state {
            LegState::Attaching => Some(0),
            LegState::InSync if self.can_take_over(slot) => None,
            LegState::InSync | LegState::Finishing => Some(100),
            LegState::Resync => {
                let done = leg.to_copy.saturating_sub(leg.missing.count());
                let percent = (done * 100).checked_div(leg.to_copy).unwrap_or(100);
                Some(percent.min(100) as u8)
            }
            LegState::Absent => None,
        }
    }

    /// How the leg in `slot` was taken last; `None` if it was refused.
    pub fn joined(&self, slot: Slot) -> Option<Joined> {
        self.legs.get(slot.number()).and_then(|leg| leg.joined)
    }

    /// How often the leg in `slot` has been expelled.
    pub fn expulsions(&self, slot: Slot) -> u64 {
        self.legs.get(slot.number()).map_or(0, |leg| leg.expelled)
    }

    /// Bounds of the resync's speed in bytes a second, the upper one first; 0 for none.
    pub fn speed(&self) -> (u64, u64) {
        (self.settings.resync_rate, self.settings.resync_least)
    }

    /// Whether the current generation is on the disks of all attached legs.
    pub fn generation_is_durable(&self) -> bool {
        self.minted <= self.commit.durable
    }

    /// Changes whenever a leg's part, a generation, or what is durable of them does.
    pub fn stamp(&self) -> (u64, u64, bool) {
        (
            self.commit.version,
            self.commit.durable,
            self.halted.is_some(),
        )
    }

    /// The generations of the data of the legs in sync.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Why no write can be taken any more.
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// How the leg in `slot` takes part.
    pub fn state(&self, slot: Slot) -> LegState {
        self.legs
            .get(slot.number())
            .map_or(LegState::Absent, |leg| leg.state)
    }

    /// Why the leg in `slot` was last expelled or refused, or why it had to be resynced in full.
    pub fn reason(&self, slot: Slot) -> Option<&str> {
        self.legs
            .get(slot.number())
            .and_then(|leg| leg.reason.as_deref())
    }

    /// The slots whose legs are in one of `states`.
    pub(super) fn slots_in(&self, states: &[LegState]) -> SlotSet {
        self.slots()
            .filter(|slot| states.contains(&self.state(*slot)))
            .collect()
    }

    /// All slots of the mirror.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        Slot::first(self.legs.len())
    }

    /// The legs that have every acknowledged block.
    pub(super) fn in_sync(&self) -> SlotSet {
        self.slots_in(&[LegState::InSync])
    }

    /// The legs that receive every write.
    pub(super) fn receiving(&self) -> SlotSet {
        self.slots_in(&[LegState::InSync, LegState::Resync, LegState::Finishing])
    }

    /// The legs whose metadata is kept up to date.
    pub(super) fn attached(&self) -> SlotSet {
        self.slots_in(&[
            LegState::InSync,
            LegState::Resync,
            LegState::Finishing,
            LegState::Attaching,
        ])
    }

    pub(super) fn leg_mut(&mut self, slot: Slot) -> Option<&mut Leg> {
        self.legs.get_mut(slot.number())
    }

    /// The connection of a leg is gone.
    pub(super) fn lost(&mut self, slot: Slot, reason: String, effects: &mut Vec<Effect>) {
        if self.is_behind(slot) {
            return self.let_go(slot, reason, effects);
        }
        if self.state(slot) == LegState::Absent {
            return;
        }
        if self.is_last_in_sync(slot) {
            self.halt(format!("its last leg in sync, {slot}, was lost: {reason}"));
        }
        self.expel(slot, reason, effects);
    }

    /// A leg failed or is too slow. The last leg in sync is kept: without it nobody could read at all.
    pub(super) fn leg_failed(&mut self, slot: Slot, reason: String, effects: &mut Vec<Effect>) {
        if self.is_behind(slot) {
            self.let_go(slot, reason, effects);
        } else if !self.is_last_in_sync(slot) {
            self.expel(slot, reason, effects);
        }
    }

    /// The leg in `slot`, which says that it is in sync, is taken away ([`Event::Part`]).
    pub(super) fn part(&mut self, slot: Slot, reason: String, effects: &mut Vec<Effect>) {
        if self.can_take_over(slot) && !self.is_last_in_sync(slot) {
            self.expel(slot, reason, effects);
            self.mint_if_needed();
        }
    }

    pub(super) fn is_last_in_sync(&self, slot: Slot) -> bool {
        self.state(slot) == LegState::InSync && self.in_sync().count() == 1
    }

    /// No write can be taken any more, because nobody could say afterwards where it went.
    pub(super) fn halt(&mut self, why: String) {
        self.halted.get_or_insert(why);
    }

    fn expel(&mut self, slot: Slot, reason: String, effects: &mut Vec<Effect>) {
        effects.push(Effect::Expel {
            slot,
            reason: reason.clone(),
        });
        self.depart(slot, reason, effects);
    }

    /// The leg in `slot` is away from now on.
    pub(super) fn depart(&mut self, slot: Slot, reason: String, effects: &mut Vec<Effect>) {
        let departure = self.departure_of(slot);
        let Some(leg) = self.leg_mut(slot) else {
            return;
        };
        leg.departure = departure;
        leg.settled = lacks::Settled::No;
        leg.state = LegState::Absent;
        leg.reason = Some(reason);
        leg.needs_whole_bitmap = false;
        leg.last_flush = None;
        leg.missing.clear();
        // Their bits stay: a leg is away from now on, and when it returns it gets what is marked.
        leg.suspect.clear();
        leg.failures.forget_ranges();
        leg.expelled += 1;
        self.forget_copies_to(slot);
        self.superblock_changed();
        // Writes under way were sent under a membership that no longer holds. They may not be answered before the new
        // one, with a generation of its own, is durable: else a node that took over from the expelled leg would look
        // as new as we do, and what was acknowledged here alone would be overwritten.
        if self.owes_a_generation() {
            self.mint_if_needed();
        }
        self.commit.answer_from = self.commit.version;

        self.abandon_cleaning();
        self.forget_leg_in_commit(slot, effects);
        let orphans: Vec<(OperationId, Purpose)> = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.slot == slot)
            .map(|(id, operation)| (*id, operation.purpose))
            .collect();
        if let Some(leg) = self.leg_mut(slot)
            && leg.behind.is_none()
        {
            leg.stream.begin();
        }
        for (id, purpose) in orphans {
            self.operations.remove(&id);
            if let Purpose::Job(job) = purpose {
                let failure = Failure::new(Errno::EIO, "the leg was expelled");
                self.job_operation_done(job, slot, Err(failure), effects);
            }
        }
        self.answer_crowded(effects);
    }

    /// Mints a new generation if the legs that receive writes are fewer than those that share the current one.
    ///
    /// Nothing is answered with success before it is durable.
    pub(super) fn mint_if_needed(&mut self) {
        let in_sync = self.in_sync();
        if in_sync.is_empty() || self.members.without(in_sync).is_empty() {
            return;
        }
        let new = Generation(self.ids.draw());
        let absent: Vec<usize> = self
            .slots()
            .filter(|slot| !in_sync.contains(*slot))
            .map(Slot::number)
            .collect();
        self.generations.mint(new, absent.into_iter());
        self.members = in_sync;
        self.superblock_changed();
        self.minted = self.commit.version;
        self.commit.answer_from = self.commit.version;
    }

    /// The superblocks and records on disk no longer say what is so.
    pub(super) fn superblock_changed(&mut self) {
        self.commit.version += 1;
        self.commit.weighty = self.commit.version;
    }

    /// "Clean" or "active" in the superblocks changed and nothing else: a leg that gets everything in order hears of it in
    /// time anyway.
    pub(super) fn clean_changed(&mut self) {
        self.commit.version += 1;
    }
}
