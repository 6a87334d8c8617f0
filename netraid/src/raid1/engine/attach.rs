//! Beginning and growing a mirror: who may be in it, what must be copied, and why somebody is refused.

use super::*;

use crate::mirror::generation::{Decision, Extent as Amount, Generation, Verdict, decide};
use crate::raid1::chunks::ChunkSet;

/// Why a leg may not take part as asked. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The leg was in the middle of a resync: its blocks are of different times.
    #[error(
        "leg {0} was being resynced and its data is not consistent; start the mirror on another node, or force it"
    )]
    Inconsistent(Slot),
    /// The leg never had data.
    #[error("leg {0} never had data of this mirror")]
    NoData(Slot),
    /// The other leg has newer data.
    #[error("leg {0} has newer data than this node ({1}); start the mirror there instead")]
    Newer(Slot, &'static str),
    /// Both were written without the other.
    #[error(
        "split brain with leg {0} ({1}): both were written without the other; choose whose data is discarded"
    )]
    SplitBrain(Slot, &'static str),
    /// They have nothing in common.
    #[error(
        "leg {0} belongs to other data than this mirror ({1}); extend to it anew to overwrite it"
    )]
    Unrelated(Slot, &'static str),
    /// There is no such slot, or it is taken.
    #[error("leg {0} can't be attached: {1}")]
    Slot(Slot, &'static str),
}

/// How much may be copied to a leg, by what the generations say and whether an order discards what the leg has;
/// `None` if nothing may be. Both backends ask here.
pub fn permitted(decision: Decision, discard: bool) -> Option<Amount> {
    match decision.verdict {
        Verdict::Same => Some(Amount::Partial),
        Verdict::ToPeer(amount) => Some(amount),
        Verdict::NoData => Some(Amount::Full),
        // Both sides' bits since they parted are there, and are all that may differ.
        Verdict::SplitBrain if discard && decision.rule == "both written alone" => {
            Some(Amount::Partial)
        }
        Verdict::FromPeer(_) | Verdict::SplitBrain | Verdict::Unrelated => {
            discard.then_some(Amount::Full)
        }
    }
}

impl Engine {
    /// What a new mirror's first leg has to say; write it durably before [`Engine::assemble`].
    pub fn create(shape: Shape, local: Slot, ids: &mut IdSource) -> LegImage {
        let generations = Generations {
            current: Generation(ids.draw()),
            ..Generations::default()
        };
        LegImage {
            superblock: SuperState {
                events: 1,
                clean: true,
                active: [local].into_iter().collect(),
                recovering: false,
            },
            record: LegRecord {
                generations,
                consistent: true,
            },
            dirty: ChunkSet::empty(shape.chunks()),
        }
    }

    /// Starts a mirror, degraded, from its leg on this node. `force` takes a leg that was being resynced as it is.
    pub fn assemble(
        shape: Shape,
        settings: Settings,
        local: Slot,
        image: LegImage,
        ids: IdSource,
        force: bool,
    ) -> Result<Engine, Refusal> {
        if local.number() >= shape.slots {
            return Err(Refusal::Slot(local, "the mirror has fewer slots"));
        }
        if image.record.generations.current == Generation::NONE && !force {
            return Err(Refusal::NoData(local));
        }
        let consistent = image.is_consistent();
        if !consistent && !force {
            return Err(Refusal::Inconsistent(local));
        }
        let mut generations = image.record.generations;
        let dirty = image.dirty;
        if generations.current == Generation::NONE {
            generations.current = Generation(1);
        }
        generations.returned(local.number());
        let chunks = shape.chunks();
        let legs = (0..shape.slots)
            .map(|_| Leg {
                state: LegState::Absent,
                record: LegRecord::default(),
                missing: ChunkSet::empty(chunks),
                // For whom they were set is not known any more.
                lacks: dirty.clone(),
                departure: None,
                settled: lacks::Settled::No,
                needs_whole_bitmap: false,
                last_flush: None,
                in_sync_from: 0,
                reason: None,
                joined: None,
                to_copy: 0,
                expelled: 0,
                no_digests: None,
                stream: stream::Stream::default(),
                suspect: ChunkSet::empty(chunks),
                failures: io_errors::Failures::default(),
                behind: None,
                patience: ahead::Patience::default(),
            })
            .collect();
        let mut engine = Engine {
            shape,
            settings,
            local,
            legs,
            now: 0,
            last_tick: 0,
            ids,
            generations,
            minted: 0,
            resized: 0,
            growing: None,
            // All, also those that this leg knows to be away: it may itself have been left behind since, by a leg that
            // was in sync with it. What is written now without that one gets a generation that it never heard of.
            members: Slot::first(shape.slots).collect(),
            events: image.superblock.events,
            events_cleared: 0,
            clean: image.superblock.clean,
            intent: Intent::new(dirty),
            commit: commit::CommitState::default(),
            cleaning: clean::Cleaning::default(),
            resync: resync::Resync::default(),
            verify: None,
            verify_refused: None,
            ranges: RangeLock::new(),
            jobs: HashMap::new(),
            runnable: VecDeque::new(),
            next_job: 0,
            operations: BTreeMap::new(),
            next_operation: 0,
            unlaunched: VecDeque::new(),
            unanswered: Vec::new(),
            held: hold::Held::default(),
            crowded: Vec::new(),
            untold: None,
            halted: None,
            stopping: false,
            stopped: false,
        };
        engine.legs[local.number()].state = LegState::InSync;
        if force && !consistent || engine.settings.new_generation {
            // Forced data is like nobody else's; and a majority may have voted for this start.
            engine.mint_if_needed();
        }
        // Others are away from now on, and the superblock says so before the first write.
        engine.superblock_changed();
        Ok(engine)
    }

    /// Would a leg with this image be taken, and what would be copied to it?
    pub fn consider(
        &self,
        slot: Slot,
        image: &LegImage,
    ) -> Result<(&'static str, Amount), Refusal> {
        let (decision, amount) = self.consider_on(slot, image, false)?;
        Ok((decision.rule, amount))
    }

    fn consider_on(
        &self,
        slot: Slot,
        image: &LegImage,
        discard: bool,
    ) -> Result<(Decision, Amount), Refusal> {
        match self.state(slot) {
            LegState::Absent if slot.number() < self.legs.len() => {}
            _ => return Err(Refusal::Slot(slot, "the slot is taken or does not exist")),
        }
        let theirs = &image.record.generations;
        let decision = decide(
            &self.generations,
            self.local.number(),
            theirs,
            slot.number(),
        );
        match (permitted(decision, discard), decision.verdict) {
            (Some(amount), _) => Ok((decision, amount)),
            (None, Verdict::FromPeer(_)) => Err(Refusal::Newer(slot, decision.rule)),
            (None, Verdict::SplitBrain) => Err(Refusal::SplitBrain(slot, decision.rule)),
            (None, _) => Err(Refusal::Unrelated(slot, decision.rule)),
        }
    }

    pub(super) fn attach(
        &mut self,
        slot: Slot,
        image: Option<LegImage>,
        terms: Terms,
        effects: &mut Vec<Effect>,
    ) {
        // Over another connection: what was on its way is dropped with the old one.
        self.forget_behind(slot);
        if let Some(leg) = self.leg_mut(slot) {
            leg.joined = None;
        }
        let considered = match &image {
            Some(image) => {
                let considered = self.consider_on(slot, image, terms.discard);
                considered.map(|(decision, amount)| {
                    // Its own generation is given up, unless it would be taken without being told to.
                    let given_up = permitted(decision, false).is_none();
                    (decision.rule, amount, given_up)
                })
            }
            None if self.state(slot) == LegState::Absent && slot.number() < self.legs.len() => {
                Ok(("new leg", Amount::Full, false))
            }
            None => Err(Refusal::Slot(slot, "the slot is taken or does not exist")),
        };
        let considered = match considered {
            _ if self.halted.is_some() || self.stopping => {
                Err(Refusal::Slot(slot, "the mirror takes no writes"))
            }
            other => other,
        };
        let (rule, amount, given_up) = match considered {
            Ok(considered) => considered,
            Err(refusal) => {
                let reason = refusal.to_string();
                if let Some(leg) = self
                    .leg_mut(slot)
                    .filter(|leg| leg.state == LegState::Absent)
                {
                    leg.reason = Some(reason.clone());
                }
                effects.push(Effect::Expel { slot, reason });
                return;
            }
        };
        let amount = if terms.full { Amount::Full } else { amount };
        let merged = image
            .as_ref()
            .map_or(0, |image| self.shape.bytes_under(&image.dirty));
        let merged_bits = match &image {
            _ if amount == Amount::Full => Some(ChunkSet::full(self.shape.chunks())),
            // All that it says is known, and for which leg.
            Some(image) if !given_up && self.is_as_it_went(slot, image) => None,
            // Its own bits come first: what it wrote, or may have written, while we were not there must be overwritten.
            Some(image) => Some(image.dirty.clone()),
            None => None,
        };
        if let Some(bits) = merged_bits {
            self.intent.merge(&bits);
            self.legs[slot.number()].lacks.unite(&bits);
        }
        if !self.intent.dirty().is_empty() {
            // With this leg the array may be complete, and a kernel ignores the bits of one that says "clean".
            self.clean = false;
        }
        let mut record = image.map_or_else(LegRecord::default, |image| image.record);
        if amount == Amount::Full || given_up {
            // From now on it is a leg that has been away since its slot was empty: its bitmap, with all that it may
            // differ in, is durable on it before this is, so an interrupted resync goes on instead of beginning again.
            let since = self.generations.away[slot.number()];
            let current = if since == Generation::NONE {
                self.generations.current
            } else {
                since
            };
            record = LegRecord {
                generations: Generations {
                    current,
                    ..Generations::default()
                },
                consistent: false,
            };
        }
        let same = record.consistent && record.generations.current == self.generations.current;
        let lacks = &self.legs[slot.number()].lacks;
        record.consistent = same && lacks.is_empty();
        let dirty_bytes = self.shape.bytes_under(lacks);
        let Some(leg) = self.leg_mut(slot) else {
            return;
        };
        // Otherwise the reason of its last expulsion stays: it is why this resync is needed.
        if amount == Amount::Full {
            leg.reason = Some(format!("full resync: {rule}"));
        }
        leg.departure = None;
        leg.settled = lacks::Settled::No;
        leg.joined = Some(Joined {
            rule,
            full: amount == Amount::Full,
            merged_bytes: merged,
            dirty_bytes,
        });
        leg.to_copy = 0;
        leg.no_digests = None;
        leg.failures = io_errors::Failures::default();
        leg.stream.begin();
        leg.record = record;
        leg.state = LegState::Attaching;
        leg.needs_whole_bitmap = true;
        self.abandon_cleaning();
        self.superblock_changed();
    }

    /// The leg's metadata holds every bit that is set, and says whether the leg is consistent.
    pub(super) fn metadata_of_attaching_leg_written(&mut self, slot: Slot) {
        if self.state(slot) != LegState::Attaching {
            return;
        }
        // What it missed while away, its own, and the writes under way that it does not receive. A bit that is not
        // durable yet belongs to a write that will reach this leg too, or to another leg's attachment.
        let mut missing = self.intent.durable().clone();
        missing.intersect(&self.legs[slot.number()].lacks);
        let unmarked = self.legs[slot.number()].record.consistent && !missing.is_empty();
        let Some(leg) = self.leg_mut(slot) else {
            return;
        };
        if unmarked {
            // A write came in between. The leg must say that it is being resynced before data of now reaches it.
            leg.record.consistent = false;
            leg.needs_whole_bitmap = true;
        } else {
            leg.to_copy = missing.count();
            leg.missing = missing;
            leg.state = LegState::Resync;
        }
        self.superblock_changed();
        self.resync.restart(self.now);
    }
}
