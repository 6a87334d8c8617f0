//! Requests that are held back: by an order, or because a leg left that others may believe to have everything.

use netraid::raid1::engine::{Event, Hold};
use netraid::raid1::leg::{LegState, SlotSet};

use crate::application::Learned;
use crate::world::{World, slot};

impl World {
    /// A supervisor says which legs have to have what is answered, or holds requests back, or does so no more.
    pub fn guard_or_hold(&mut self) {
        if self.engine.is_none() || self.is_over() {
            return;
        }
        match self.random.below(10) {
            0..=5 => {
                let members = self.in_sync().into_iter().map(slot).collect();
                self.guard(members, true);
            }
            6 | 7 => {
                let slots = self.slots();
                let members = slots.filter(|_| self.random.chance(40)).map(slot);
                let members = members.collect();
                self.guard(members, false);
            }
            order => {
                self.hold = [Hold::Suspend, Hold::Fail][order as usize - 8];
                if self.random.chance(50) {
                    self.hold = Hold::No;
                }
                self.note(|| "requests are held back, or not".into());
                self.feed(Event::Hold(self.hold));
            }
        }
    }

    fn guard(&mut self, members: SlotSet, only: bool) {
        let before = if only { SlotSet::EMPTY } else { self.guard };
        self.guard = before.or(members);
        self.note(|| format!("legs that have to have all: {members:?}, only {only}"));
        self.feed(Event::Guard { members, only });
    }

    /// Nothing is held back any more.
    pub fn let_go(&mut self) {
        self.hold = Hold::No;
        self.feed(Event::Hold(Hold::No));
        self.guard(SlotSet::EMPTY, true);
    }

    /// Whether nothing may be answered with success now.
    pub fn is_held(&self) -> bool {
        let missing =
            |leg: &usize| self.guard.contains(slot(*leg)) && self.state(*leg) != LegState::InSync;
        self.hold != Hold::No || self.slots().any(|leg| missing(&leg))
    }

    pub fn check_held(&mut self, learned: &Learned) {
        let answered = !matches!(learned, Learned::Nothing);
        assert!(
            !answered || !self.silent,
            "something was answered while requests are held back: {learned:?}"
        );
        self.tally.guarded += u64::from(answered && !self.guard.is_empty());
    }
}
