//! Pulling ahead of a leg whose send buffer is congested (`on-congestion = "pull-ahead"`).
//!
//! The leg, now *behind*, counts as away: it gets nothing more, what it lacks is marked, and a new generation tells it from
//! those that go on. But its connection is not cut. What was on its way still reaches it, in order, and a flush behind
//! that: so it becomes, and stays, a state that the source had at one moment. When all of it is there, and enough time has
//! passed, it is let go ([`Effect::Expel`]); whoever connects legs takes it again, and the resync copies what is marked.
//!
//! The time doubles each time that the leg is congested again soon after, so that a link which is always too slow does
//! not make it inconsistent again and again.

use super::*;

/// A leg that is behind.
#[derive(Debug)]
pub(super) struct Behind {
    /// What is still on its way to it.
    waiting: BTreeMap<OperationId, stream::Weight>,
    /// Not before then it is let go, in milliseconds.
    until: u64,
}

/// How long a leg is left behind at least, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The last time; 0 before the first.
    last: u64,
    /// When it was in sync again.
    back: u64,
}

impl Patience {
    pub(super) fn in_sync(&mut self, now: u64) {
        self.back = now;
    }

    fn next(&mut self, now: u64) -> u64 {
        let again = self.last > 0 && now < self.back.saturating_add(SOON);
        self.last = match again {
            true => (self.last * 2).min(LONGEST),
            false => SHORTEST,
        };
        self.last
    }
}

impl Engine {
    /// Whether the leg in `slot` is behind: away, but connected until all that was on its way has reached it.
    pub fn is_behind(&self, slot: Slot) -> bool {
        let leg = self.legs.get(slot.number());
        leg.is_some_and(|leg| leg.behind.is_some())
    }

    /// Goes on without the leg in `slot`, but lets it have what is on its way.
    pub(super) fn pull_ahead(&mut self, slot: Slot, reason: String, effects: &mut Vec<Effect>) {
        // Behind all else in its stream, so that what it has then is on its disk.
        self.send(slot, Purpose::CleanFlush, Command::Flush, effects);
        let waiting = self.operations.iter().filter_map(|(id, operation)| {
            let weight = operation.weight.filter(|_| operation.slot == slot)?;
            Some((*id, weight))
        });
        let (waiting, now) = (waiting.collect(), self.now);
        if let Some(leg) = self.leg_mut(slot) {
            let until = now.saturating_add(leg.patience.next(now));
            leg.behind = Some(Behind { waiting, until });
        }
        self.depart(slot, reason, effects);
    }

    /// An operation of a leg that went is over; one that is behind may wait for it.
    pub(super) fn behind_got(
        &mut self,
        id: OperationId,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let waits = |slot: &Slot| {
            let behind = self.legs[slot.number()].behind.as_ref();
            behind.is_some_and(|behind| behind.waiting.contains_key(&id))
        };
        let Some(slot) = self.slots().find(waits) else {
            return;
        };
        if let Err(failure) = outcome {
            let why = format!("failed what was on its way to it: {}", failure.why);
            return self.let_go(slot, why, effects);
        }
        if let Some(leg) = self.leg_mut(slot)
            && let Some(behind) = &mut leg.behind
            && let Some(weight) = behind.waiting.remove(&id)
        {
            leg.stream.done(weight, now);
        }
    }

    /// Lets go who has had all that was on its way, for long enough.
    pub(super) fn tick_behind(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        let over = |slot: &Slot| {
            let behind = self.legs[slot.number()].behind.as_ref();
            behind.is_some_and(|behind| behind.waiting.is_empty() && behind.until <= now)
        };
        let over: Vec<Slot> = self.slots().filter(over).collect();
        for slot in over {
            let why = "was behind; it comes back for what it missed".to_owned();
            self.let_go(slot, why, effects);
        }
    }

    /// The leg in `slot` is not behind any more, but away like any other.
    pub(super) fn let_go(&mut self, slot: Slot, reason: String, effects: &mut Vec<Effect>) {
        self.forget_behind(slot);
        if let Some(leg) = self.leg_mut(slot) {
            leg.reason = Some(reason.clone());
        }
        effects.push(Effect::Expel { slot, reason });
    }

    /// As if the leg in `slot` had been away all the time.
    pub(super) fn forget_behind(&mut self, slot: Slot) {
        if let Some(leg) = self.leg_mut(slot)
            && leg.behind.take().is_some()
        {
            leg.stream.begin();
        }
    }
}

/// The first time that a leg is left behind, in milliseconds.
const SHORTEST: u64 = 1_000;
/// The longest.
const LONGEST: u64 = 60_000;
/// A leg that is congested again within this time, in milliseconds, was taken back too soon.
const SOON: u64 = 60_000;
