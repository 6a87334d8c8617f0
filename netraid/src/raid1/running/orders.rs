//! What somebody orders of a mirror at work, and waiting for what becomes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Mirror, lock};
use crate::md::{BitmapSuperblock, Room, Superblock};
use crate::raid1::engine::{Control, Event, Hold, Joined, Terms};
use crate::raid1::leg::{LegImage, Slot, SlotSet};
use crate::raid1::link::Link;
use crate::raid1::metadata::Metadata;

impl Mirror {
    /// Gives the mirror a leg on order, like [`Mirror::attach`]; tells how it was taken, or why it is not.
    ///
    /// The slot has to be empty: whoever calls this sees to that.
    pub fn join(
        self: &Arc<Self>,
        slot: Slot,
        link: Link,
        metadata: Metadata,
        image: Option<LegImage>,
        terms: Terms,
    ) -> Result<Joined, String> {
        self.put(slot, link, metadata);
        self.drive([Event::Join { slot, image, terms }]);
        let core = self.lock();
        core.engine.joined(slot).ok_or_else(|| {
            let why = core.engine.halted().or_else(|| core.engine.reason(slot));
            why.unwrap_or("the mirror is stopped").to_owned()
        })
    }

    /// Goes on without a leg; nothing happens if it is the last in sync.
    pub fn remove(self: &Arc<Self>, slot: Slot, reason: String) {
        self.drive([Event::Remove { slot, reason }]);
    }

    /// Goes on without a leg in sync, for good ([`Event::Part`]); nothing happens if it is not, or is the last.
    pub fn part(self: &Arc<Self>, slot: Slot, reason: String) {
        self.drive([Event::Part { slot, reason }]);
    }

    /// Bounds the speed of resyncs, in bytes a second; `None` leaves a bound.
    pub fn set_speed(
        self: &Arc<Self>,
        most: Option<u64>,
        least: Option<u64>,
        control: Option<Control>,
    ) {
        let speed = Event::Speed {
            most,
            least,
            control,
        };
        self.drive([speed, Event::Tick]);
    }

    /// Answers nothing that one of these legs has not ([`Event::Guard`]).
    pub fn guard(self: &Arc<Self>, members: SlotSet, only: bool) {
        self.drive([Event::Guard { members, only }]);
    }

    /// Holds requests back ([`Event::Hold`]).
    pub fn hold(self: &Arc<Self>, hold: Hold) {
        self.drive([Event::Hold(hold)]);
    }

    /// What the own leg's disk could hold, as it is now.
    ///
    /// # Errors
    /// If there is no such leg, or it can't be resized.
    pub fn room(&self) -> Result<Room, String> {
        let attached = self.attached(self.local).ok_or("the own leg has failed")?;
        let device = attached.link.size();
        let metadata = lock(&attached.metadata);
        metadata.room(device).map_err(|error| error.to_string())
    }

    /// The own leg's superblock and bitmap header, as they were written last; `None` if the leg has failed.
    pub fn template(&self) -> Option<(Superblock, BitmapSuperblock)> {
        let attached = self.attached(self.local)?;
        let metadata = lock(&attached.metadata);
        Some((metadata.superblock().clone(), metadata.bitmap().clone()))
    }

    /// Grows to `size` bytes, while no other leg is attached; returns when the own leg says so durably.
    ///
    /// # Errors
    /// Why it did not, or that it took longer than `patience`; then it may still.
    pub fn grow(self: &Arc<Self>, size: u64, patience: Duration) -> Result<(), String> {
        let attached = self.attached(self.local).ok_or("the own leg has failed")?;
        // The file or disk is longer than when it was opened.
        let device = attached.link.size();
        let room = lock(&attached.metadata).use_whole_disk(device);
        room.map_err(|error| error.to_string())?;
        self.drive([Event::Grow { size }]);
        let deadline = Instant::now() + patience;
        loop {
            let seen = self.changes();
            let (now, durable, growing, halted) = self.view(|view| {
                let engine = view.engine;
                let halted = engine.halted().map(str::to_owned);
                let durable = engine.size_is_durable();
                (engine.shape().size, durable, engine.is_growing(), halted)
            });
            if let Some(why) = halted {
                return Err(why);
            }
            match () {
                () if now >= size && durable => return Ok(()),
                () if now < size && !growing => {
                    return Err("another leg is attached, or the mirror is being stopped".into());
                }
                () => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("its own leg did not take the new size in time".into());
            }
            self.wait_for_change(seen, left.min(LOOK));
        }
    }

    /// Counts the changes of the legs' parts and of generations.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Waits until there was a change after number `seen`, at most `patience`.
    pub fn wait_for_change(&self, seen: u64, patience: Duration) {
        let core = self.lock();
        // Whoever waits looks again in any case.
        let _ = self
            .changed
            .wait_timeout_while(core, patience, |core| core.changes == seen);
    }
}

/// How often the end of a growth is looked for.
const LOOK: Duration = Duration::from_millis(20);
