//! What somebody orders of a mirror at work, and waiting for what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use super::Mirror;
use crate::raid1::engine::{Event, Joined, Terms};
use crate::raid1::leg::{LegImage, Slot};
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

    /// Bounds the speed of resyncs, in bytes a second; `None` leaves a bound.
    pub fn set_speed(self: &Arc<Self>, most: Option<u64>, least: Option<u64>) {
        self.drive([Event::Speed { most, least }, Event::Tick]);
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
