//! How much of a resync is on its way at once, by DRBD's variable rate: a pure controller, fed with what arrives.
//!
//! It regulates bytes on their way, not a rate: each piece that arrives makes room for the next, so the rate follows from
//! what the network and the disks can do. The amount moves towards what is wanted ([`Control::fill_target`], or what takes
//! [`Control::delay_target`] at the rate that arrives) as slowly as [`Control::plan_ahead`] says. The bounds of the rate
//! (`c-max-rate`, `c-min-rate`) are kept by whoever sends the pieces.

use serde::{Deserialize, Serialize};

/// What is configured of it. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// `c-plan-ahead`: how long a correction takes.
    pub plan_ahead: u64,
    /// `c-fill-target`: bytes that are to be on their way; 0: as many as take the delay.
    pub fill_target: u64,
    /// `c-delay-target`: how long a piece may take from its beginning to its end.
    pub delay_target: u64,
    /// `resync-rate`: bytes a second to begin with; 0: one piece at once.
    pub start: u64,
}

impl Control {
    /// All pieces that there is memory for may be under way.
    pub const OFF: Control = Control {
        plan_ahead: 0,
        fill_target: 0,
        delay_target: 0,
        start: 0,
    };
}

impl Default for Control {
    fn default() -> Control {
        Control {
            plan_ahead: 2000,
            fill_target: 0,
            delay_target: 300,
            start: 0,
        }
    }
}

/// Least and most bytes that may be on their way, whatever is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// One small piece: there is always one.
    pub(super) smallest: u64,
    /// All pieces that there is memory for.
    pub(super) largest: u64,
}

/// What happened since the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Bytes that arrived.
    pub(super) arrived: u64,
    /// Bytes that are on their way now.
    pub(super) on_the_way: u64,
    /// Milliseconds.
    pub(super) elapsed: u64,
    /// The shortest time that a piece has taken so far.
    pub(super) round_trip: u64,
}

/// The amount now, and what it follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Bytes that may be on their way.
    pub(super) bytes: u64,
    /// Bytes a second that arrive, over the time of a plan.
    pub(super) rate: u64,
}

impl Window {
    /// To begin with.
    pub(super) fn first(control: &Control, bounds: Bounds) -> Window {
        let wanted = match control.fill_target {
            0 => per(control.start, control.delay_target),
            bytes => bytes,
        };
        // A whole piece at least: that it is too much shows at once.
        let piece = bounds.largest / 8;
        Window {
            bytes: wanted
                .max(piece)
                .clamp(bounds.smallest, bounds.largest.max(bounds.smallest)),
            rate: 0,
        }
    }

    /// What is wanted on the way, at the rate that arrives.
    pub(super) fn wanted(&self, control: &Control, round_trip: u64) -> u64 {
        match control.fill_target {
            // Where a lone piece takes longer, the target can't be kept, and fewer pieces would only be slower.
            0 => per(
                self.rate,
                control.delay_target.max(round_trip.saturating_mul(5) / 4),
            ),
            bytes => bytes,
        }
    }

    /// One step further, at most [`LONGEST`] milliseconds after the one before.
    pub(super) fn next(self, control: &Control, bounds: Bounds, seen: Seen) -> Window {
        let elapsed = seen.elapsed.min(LONGEST);
        // Nothing was asked for, so nothing is known.
        if elapsed == 0 || seen.arrived == 0 && seen.on_the_way == 0 {
            return self;
        }
        let plan = control.plan_ahead.max(STEP);
        let now = seen.arrived.saturating_mul(1000) / seen.elapsed.max(1);
        let rate = match self.rate {
            0 => now,
            rate => towards(rate, now, elapsed, plan.min(RATE_OVER)),
        };
        let next = Window { rate, ..self };
        let wanted = next.wanted(control, seen.round_trip);
        let bytes = towards(self.bytes, wanted, elapsed, plan);
        Window {
            bytes: bytes.clamp(bounds.smallest, bounds.largest.max(bounds.smallest)),
            rate,
        }
    }
}

/// From `from` to `to` in so many milliseconds, after some of them.
fn towards(from: u64, to: u64, after: u64, whole: u64) -> u64 {
    let part = |difference: u64| {
        let share =
            u128::from(difference) * u128::from(after.min(whole)) / u128::from(whole.max(1));
        // At least one, so that it gets there.
        u64::try_from(share)
            .unwrap_or(difference)
            .max(u64::from(difference > 0))
    };
    match to >= from {
        true => from + part(to - from),
        false => from - part(from - to),
    }
}

/// Bytes in so many milliseconds.
fn per(rate: u64, milliseconds: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(milliseconds) / 1000).unwrap_or(u64::MAX)
}

/// Between two steps, in milliseconds.
pub(super) const STEP: u64 = 100;
/// What is later than this counts as this late.
const LONGEST: u64 = 500;
/// The rate that arrives is measured over this time, in milliseconds, unless the plan is shorter.
const RATE_OVER: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const BOUNDS: Bounds = Bounds {
        smallest: 64 << 10,
        largest: 8 * MIB,
    };

    /// A link of so many bytes a second, with a round trip; what others send goes first.
    struct Link {
        bandwidth: u64,
        round_trip: u64,
        others: u64,
        /// When each piece that was sent arrives, with its length and its beginning.
        pieces: VecDeque<(u64, u64, u64)>,
        /// When the link is free again, in microseconds.
        free: u64,
        window: Window,
        seen: Seen,
        stepped: u64,
        now: u64,
        arrived: u64,
        longest: u64,
    }

    impl Link {
        fn new(control: &Control, bandwidth: u64, round_trip: u64) -> Link {
            Link {
                bandwidth,
                round_trip,
                others: 0,
                pieces: VecDeque::new(),
                free: 0,
                window: Window::first(control, BOUNDS),
                seen: Seen {
                    arrived: 0,
                    on_the_way: 0,
                    elapsed: 0,
                    round_trip: 0,
                },
                stepped: 0,
                now: 0,
                arrived: 0,
                longest: 0,
            }
        }

        /// One millisecond.
        fn pass(&mut self, control: &Control) {
            self.now += 1;
            while self.pieces.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (_, length, began) = self.pieces.pop_front().unwrap();
                let took = (self.now - began).max(1);
                self.seen.arrived += length;
                self.seen.on_the_way -= length;
                self.seen.round_trip = match self.seen.round_trip {
                    0 => took,
                    known => known.min(took),
                };
                self.arrived += length;
                self.longest = took;
            }
            if self.now - self.stepped >= STEP {
                self.seen.elapsed = self.now - self.stepped;
                self.window = self.window.next(control, BOUNDS, self.seen);
                self.seen.arrived = 0;
                self.stepped = self.now;
            }
            let left = (self.bandwidth - self.others).max(1);
            let piece = (self.window.bytes / 2).clamp(BOUNDS.smallest, MIB);
            while self.seen.on_the_way == 0 || self.seen.on_the_way + piece <= self.window.bytes {
                let takes = piece * 1_000_000 / left;
                self.free = self.free.max(self.now * 1000) + takes;
                let at = self.free / 1000 + self.round_trip;
                self.pieces.push_back((at, piece, self.now));
                self.seen.on_the_way += piece;
            }
        }

        fn run(&mut self, control: &Control, milliseconds: u64) -> (u64, u64, u64) {
            let (before, mut least, mut most) = (self.arrived, u64::MAX, 0);
            for _ in 0..milliseconds {
                self.pass(control);
                least = least.min(self.window.bytes);
                most = most.max(self.window.bytes);
            }
            let rate = (self.arrived - before) * 1000 / milliseconds;
            (rate, least, most)
        }
    }

    proptest! {
        #[test]
        fn the_amount_stays_within_its_bounds_whatever_is_seen(
            control in (0..100_000_u64, any::<u64>(), any::<u64>(), any::<u64>()),
            seen in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..50),
        ) {
            let (plan_ahead, fill_target, delay_target, start) = control;
            let control = Control { plan_ahead, fill_target, delay_target, start };
            let mut window = Window::first(&control, BOUNDS);
            for (arrived, on_the_way, elapsed, round_trip) in seen {
                prop_assert!((BOUNDS.smallest..=BOUNDS.largest).contains(&window.bytes));
                window = window.next(&control, BOUNDS, Seen { arrived, on_the_way, elapsed, round_trip });
            }
        }

        #[test]
        fn a_fixed_link_is_filled_to_the_target_without_swinging(
            bandwidth in 4 * MIB..400 * MIB,
            round_trip in 0..50_u64,
            fill in 256 << 10..8 * MIB,
        ) {
            let control = Control { fill_target: fill, ..Control::default() };
            let mut link = Link::new(&control, bandwidth, round_trip);
            link.run(&control, 20_000);
            let (_, least, most) = link.run(&control, 5_000);
            prop_assert!(least >= fill - 64 && most <= fill + 64, "{least}..{most} of {fill}");
        }

        #[test]
        fn a_fixed_link_is_used_and_kept_to_the_delay(
            bandwidth in MIB..400 * MIB,
            round_trip in 0..100_u64,
        ) {
            let control = Control::default();
            let mut link = Link::new(&control, bandwidth, round_trip);
            link.run(&control, 20_000);
            let (rate, least, most) = link.run(&control, 5_000);
            // What the link carries, or what can be on its way at once.
            let carries = bandwidth.min(BOUNDS.largest * 1000 / (round_trip + 1));
            prop_assert!(rate >= carries * 6 / 10, "{rate} of {carries}");
            prop_assert!(most - least <= most / 3, "{least}..{most}");
            let piece = BOUNDS.smallest * 1000 / bandwidth;
            let allowed = control.delay_target * 3 / 2 + 3 * round_trip + 2 * piece;
            prop_assert!(link.longest <= allowed, "{} ms, {allowed} allowed", link.longest);
        }
    }

    #[test]
    fn what_others_send_makes_room_and_takes_it_back() {
        let control = Control::default();
        let mut link = Link::new(&control, 20 * MIB, 1);
        link.run(&control, 10_000);
        let (free, ..) = link.run(&control, 5_000);
        link.others = 18 * MIB;
        link.run(&control, 10_000);
        let (_, _, crowded) = link.run(&control, 5_000);
        assert!(
            crowded <= 2 * MIB * 45 / 100,
            "{crowded} bytes on the way of 2 MiB a second"
        );
        link.others = 0;
        link.run(&control, 10_000);
        let (again, ..) = link.run(&control, 5_000);
        assert!(again >= free * 9 / 10, "{again} after {free}");
    }

    #[test]
    fn a_pause_teaches_nothing() {
        let control = Control::default();
        let mut window = Window::first(&control, BOUNDS);
        let seen = |arrived, on_the_way| Seen {
            arrived,
            on_the_way,
            elapsed: 100,
            round_trip: 5,
        };
        for _ in 0..100 {
            window = window.next(&control, BOUNDS, seen(4 * MIB, MIB));
        }
        assert_eq!(window.next(&control, BOUNDS, seen(0, 0)), window);
        assert!(window.next(&control, BOUNDS, seen(0, MIB)).rate < window.rate);
    }
}
