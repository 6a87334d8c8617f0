//! Legs on order: somebody else (a supervisor) says when one is added, removed, or copied anew. Nothing here connects a
//! leg by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_client::Target;

use super::{Keepers, TargetState};
use crate::raid1::engine::{Joined, Terms};
use crate::raid1::holds::holds;
use crate::raid1::leg::{LegImage, LegState, Slot};
use crate::raid1::link::Link;
use crate::raid1::metadata::{Metadata, MetadataError};

/// Why an order about a leg was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The state of the mirror or of the disk forbids it. Nothing was written.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
        /// What could help.
        hint: Option<&'static str>,
    },
    /// The disk could not be reached, read or written.
    #[error("{0}")]
    Failed(String),
}

fn refused(why: impl ToString) -> OrderError {
    let (why, hint) = (why.to_string(), None);
    OrderError::Refused { why, hint }
}

fn refused_with(why: impl ToString, hint: &'static str) -> OrderError {
    let (why, hint) = (why.to_string(), Some(hint));
    OrderError::Refused { why, hint }
}

/// Which disk to make a leg, and how.
#[derive(Clone, Debug)]
pub struct Addition {
    /// Where it is.
    pub target: Target,
    /// What the engine is told.
    pub terms: Terms,
    /// Overwrite what the disk holds if it is no leg of this mirror.
    pub force: bool,
}

impl Keepers {
    /// Adds the leg in `slot`, or takes it back; returns when its resync has begun.
    ///
    /// # Errors
    /// The slot has a leg, the disk holds something else or newer data, or it can't be used.
    pub fn add(self: &Arc<Self>, slot: Slot, addition: &Addition) -> Result<Joined, OrderError> {
        let _turn = self.turn(slot);
        self.add_in_turn(slot, addition)
    }

    fn add_in_turn(&self, slot: Slot, addition: &Addition) -> Result<Joined, OrderError> {
        let node = &self.names[slot.number()];
        let (local, own, state, behind) = self.mirror.view(|view| {
            let local = view.engine.local();
            let (own, state) = (view.engine.state(local), view.engine.state(slot));
            (local, own, state, view.engine.is_behind(slot))
        });
        if behind {
            return Err(refused(is_behind(node)));
        }
        if slot == local {
            return Err(refused(format!(
                "{node} is this node: its leg is the mirror's source"
            )));
        }
        if own == LegState::Absent {
            return Err(refused_with(
                "this node's own leg has failed: it does not know any more what others miss",
                "stop the mirror and start it on a node whose leg is in sync; add the others there",
            ));
        }
        if state != LegState::Absent {
            return Err(refused(format!("{node} has a leg in the mirror already")));
        }
        let joined = self.connect_on_order(slot, addition);
        let problem = joined.as_ref().err().map(ToString::to_string);
        let target = addition.target.clone();
        let known = TargetState { target, problem };
        self.lock().targets.insert(slot, known);
        joined
    }

    fn connect_on_order(&self, slot: Slot, addition: &Addition) -> Result<Joined, OrderError> {
        let target = &addition.target;
        let link = self
            .open_within(slot, target, CONNECT)
            .map_err(|why| OrderError::Failed(format!("{target} can't be reached: {why}")))?;
        if link.is_read_only() {
            return Err(refused(format!("{target} is read-only")));
        }
        let (metadata, image) = match self.look_at(slot, &link, addition)? {
            Some((metadata, image)) => (metadata, Some(image)),
            None => (self.blank_leg(slot, target, &link)?, None),
        };
        let joined = self
            .mirror
            .join(slot, link, metadata, image, addition.terms);
        let joined = joined.map_err(|why| {
            let by_its_data = ["newer data", "split brain", "belongs to other data"];
            match by_its_data.iter().any(|words| why.contains(words)) {
                true => refused_with(why, "discard gives up what was written there"),
                false => refused(why),
            }
        })?;
        self.wait_until_taken(slot)?;
        Ok(joined)
    }

    /// Its metadata has to be durable on it, with every bit.
    fn wait_until_taken(&self, slot: Slot) -> Result<(), OrderError> {
        let deadline = Instant::now() + TAKE;
        loop {
            let seen = self.mirror.changes();
            let (state, reason) = self.mirror.view(|view| {
                let reason = view.engine.reason(slot).map(str::to_owned);
                (view.engine.state(slot), reason)
            });
            match state {
                LegState::Resync | LegState::Finishing | LegState::InSync => return Ok(()),
                LegState::Absent => {
                    return Err(OrderError::Failed(
                        reason.unwrap_or_else(|| "the leg was lost at once".into()),
                    ));
                }
                LegState::Attaching => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.mirror
                    .remove(slot, "its metadata was not written in time".into());
                return Err(OrderError::Failed(format!(
                    "the leg's metadata was not written within {} s",
                    TAKE.as_secs()
                )));
            }
            self.mirror.wait_for_change(seen, left);
        }
    }

    /// Goes on without the leg in `slot`.
    ///
    /// # Errors
    /// There is none, or it is the last in sync.
    pub fn remove(&self, slot: Slot) -> Result<(), OrderError> {
        let _turn = self.turn(slot);
        self.remove_in_turn(slot, "removed on order")
    }

    /// Goes on without the leg in `slot`, which has everything, for good; returns when what follows has a generation of its
    /// own on this node's disk: what the leg has is told from all that comes later, whatever is put in its slot.
    ///
    /// # Errors
    /// It is not in sync, is the last that is, or the generation can't be made durable in time. Then it is out, or not.
    pub fn part(&self, slot: Slot) -> Result<(), OrderError> {
        let _turn = self.turn(slot);
        let node = &self.names[slot.number()];
        let (local, ready) = self.mirror.view(|view| {
            let engine = view.engine;
            (engine.local(), engine.can_take_over(slot))
        });
        if slot == local {
            return Err(refused(format!(
                "{node} is this node: its leg is the mirror's source"
            )));
        }
        if !ready {
            return Err(refused(format!("the leg of {node} is not in sync")));
        }
        // What it needed to become so is marked until all legs have been flushed once: else all of that would be copied again.
        // Where that does not come about, more is copied than has to be, and nothing less.
        let deadline = Instant::now() + SETTLE;
        loop {
            let seen = self.mirror.changes();
            let settled = self.mirror.view(|view| {
                let in_sync = view.engine.state(slot) == LegState::InSync;
                view.engine.is_settled(slot) || !in_sync
            });
            let left = deadline.saturating_duration_since(Instant::now());
            if settled || left.is_zero() {
                break;
            }
            self.mirror.wait_for_change(seen, left.min(LOOK));
        }
        if !self.mirror.view(|view| view.engine.can_take_over(slot)) {
            return Err(refused(format!(
                "the leg of {node} is not in sync any more"
            )));
        }
        self.mirror.part(slot, "it was taken away on order".into());
        if self.mirror.view(|view| view.engine.state(slot)) != LegState::Absent {
            return Err(refused(format!(
                "the leg of {node} is the last one in sync: nobody could read without it"
            )));
        }
        let deadline = Instant::now() + TAKE;
        loop {
            let seen = self.mirror.changes();
            let (durable, halted) = self.mirror.view(|view| {
                let halted = view.engine.halted().map(str::to_owned);
                (view.engine.generation_is_durable(), halted)
            });
            let left = deadline.saturating_duration_since(Instant::now());
            match halted {
                Some(why) => return Err(OrderError::Failed(why)),
                None if durable => return Ok(()),
                None if left.is_zero() => {
                    let why = "the new generation was not written in time";
                    return Err(OrderError::Failed(why.into()));
                }
                None => self.mirror.wait_for_change(seen, left.min(CONNECT)),
            }
        }
    }

    fn remove_in_turn(&self, slot: Slot, reason: &str) -> Result<(), OrderError> {
        let node = &self.names[slot.number()];
        let (local, state) = self
            .mirror
            .view(|view| (view.engine.local(), view.engine.state(slot)));
        if slot == local {
            return Err(refused(format!(
                "{node} is this node: its leg is the mirror's source"
            )));
        }
        let behind = self.mirror.view(|view| view.engine.is_behind(slot));
        if state == LegState::Absent && !behind {
            return Err(refused(format!("{node} has no leg in the mirror")));
        }
        self.mirror.remove(slot, reason.to_owned());
        if self.mirror.view(|view| view.engine.state(slot)) != LegState::Absent {
            return Err(refused(format!(
                "the leg of {node} is the last one in sync: nobody could read without it"
            )));
        }
        Ok(())
    }

    /// Copies everything to the leg in `slot`: it leaves, and is taken again with every bit set.
    ///
    /// # Errors
    /// It has no leg there, or could not be reached again; it is out then.
    pub fn full_resync(self: &Arc<Self>, slot: Slot) -> Result<Joined, OrderError> {
        let _turn = self.turn(slot);
        let target = self.lock().targets.get(&slot).map(|it| it.target.clone());
        // Said first where it has no leg at all.
        self.remove_in_turn(slot, "full resync ordered")?;
        let target = target.ok_or_else(|| OrderError::Failed("its place is not known".into()))?;
        let terms = Terms {
            full: true,
            discard: false,
        };
        let addition = Addition {
            target,
            terms,
            force: false,
        };
        self.add_in_turn(slot, &addition)
    }

    /// Makes the mirror larger, with its own leg alone: all others are taken out first, and brought along when they are taken
    /// back. Returns when the own leg has the size durably.
    ///
    /// # Errors
    /// Another leg is in it, or its disk has no room.
    pub fn grow(self: &Arc<Self>, size: u64) -> Result<(), OrderError> {
        // Nobody is added meanwhile.
        let _turns: Vec<_> = Slot::first(self.names.len())
            .map(|slot| self.turn(slot))
            .collect();
        let shape = self.mirror.shape();
        if size == shape.size {
            return Ok(());
        }
        if size < shape.size {
            return Err(refused("a mirror in service can't become smaller"));
        }
        let local = self.mirror.view(|view| view.engine.local());
        let attached = Slot::first(self.names.len()).find(|slot| {
            *slot != local && self.mirror.view(|view| view.engine.state(*slot)) != LegState::Absent
        });
        if let Some(slot) = attached {
            let node = &self.names[slot.number()];
            return Err(refused(format!(
                "{node} has a leg in the mirror: take it out first"
            )));
        }
        let room = self.mirror.room().map_err(refused)?;
        let chunk = u32::try_from(shape.chunk).unwrap_or(u32::MAX);
        if size > room.data {
            return Err(refused(format!(
                "the disk of this node has room for {} bytes of data, {size} are needed",
                room.data
            )));
        }
        match room.chunk_for(size, chunk) {
            Ok(same) if same == chunk => {}
            Ok(larger) => {
                return Err(refused_with(
                    format!(
                        "the write-intent bitmap has room for that only with chunks of {larger} bytes instead of {chunk}"
                    ),
                    "stop the mirror: out of service its chunks can become larger",
                ));
            }
            Err(error) => return Err(refused(error)),
        }
        self.mirror.grow(size, TAKE).map_err(OrderError::Failed)
    }

    /// Expels the legs whose connection has died, and asks quiet ones for a sign of life. To be called a few times a second
    /// where no keeper looks after them.
    pub fn look_after_legs(self: &Arc<Self>) {
        let asks = self.lock().is_time_to_ask();
        for slot in Slot::first(self.names.len()) {
            // An order is at it, and finds out by itself.
            let Ok(_turn) = self.turns[slot.number()].try_lock() else {
                continue;
            };
            let Some(link) = self.mirror.link(slot) else {
                continue;
            };
            match link.lost() {
                Some(why) => self.mirror.lost(slot, format!("connection lost: {why}")),
                None if asks => link.ask_for_life(),
                None => {}
            }
        }
    }

    /// The leg of this mirror that the disk is; `None` if it is not one and may be overwritten.
    fn look_at(
        &self,
        slot: Slot,
        link: &Link,
        addition: &Addition,
    ) -> Result<Option<(Metadata, LegImage)>, OrderError> {
        let target = &addition.target;
        let overwrite = |holds: String| match addition.force {
            true => Ok(None),
            false => Err(refused_with(
                format!("{target} holds {holds}; nothing was written"),
                "force overwrites it",
            )),
        };
        let failed = |why: String| OrderError::Failed(format!("{target}: {why}"));
        match Metadata::read(link, ANSWER) {
            Ok((metadata, _)) if metadata.array() != self.array => {
                overwrite(format!("a leg of another mirror, {}", metadata.array()))
            }
            Ok((metadata, _)) if metadata.slot() != slot => Err(refused(format!(
                "{target} is leg {} of this mirror; {} has leg {slot}",
                metadata.slot(),
                self.names[slot.number()]
            ))),
            Ok((mut metadata, mut image)) => {
                self.bring_along(&mut metadata, &mut image, link)
                    .map_err(|why| refused(format!("{target}: {why}")))?;
                Ok(Some((metadata, image)))
            }
            Err(MetadataError::Io(failure)) => Err(failed(failure.to_string())),
            Err(MetadataError::Blank) => {
                let found = holds(link, ANSWER).map_err(|failure| failed(failure.to_string()))?;
                found.map_or(Ok(None), |what| overwrite(what.into()))
            }
            Err(error) => overwrite(format!("a leg that can't be used ({error})")),
        }
    }
}

/// Longest time for a connection to a leg and its handshake.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for one answer while a leg's metadata is read.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest wait until what is marked for a leg in sync is what was written lately.
const SETTLE: Duration = Duration::from_secs(15);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait until a leg's metadata is written.
const TAKE: Duration = Duration::from_secs(30);

/// What is answered to who wants a leg that was pulled ahead of.
pub(super) fn is_behind(node: &impl std::fmt::Display) -> String {
    format!("{node} is behind: it is taken back when it has had what is on its way")
}
