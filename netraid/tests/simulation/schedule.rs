//! One random schedule, and the same schedule with its source dying at every moment in turn.

use std::cell::Cell;

use crate::random::Random;
use crate::tally::Tally;
use crate::world::World;

/// Of so many schedules one is repeated with a crash at every moment.
const REPEATED: u64 = 512;

/// The part of a schedule in which the source dies at every moment.
const REPEATED_STEPS: u64 = 40;

thread_local! {
    /// The moment at which the source died in the schedule that runs on this thread.
    static MOMENT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The moment of the last crash that was asked for, for the message about a schedule that failed.
pub fn moment() -> Option<u64> {
    MOMENT.get()
}

/// Runs the schedule named by `seed`; panics when a promise is broken.
pub fn run(seed: u64, trace: bool) -> Tally {
    MOMENT.set(None);
    let mut world = World::new(seed, trace, None);
    let length = 20 + world.random.below(140);
    let mut moments = 0;
    for step in 0..length {
        if step == REPEATED_STEPS {
            moments = world.moments;
        }
        world.step();
    }
    world.let_go();
    match world.random.below(100) {
        0..=11 => world.promote_a_stale_leg(),
        12..=14 => world.write_on_both_sides(),
        15..=19 => world.force_a_leg(),
        20..=24 => world.discard_one_side(),
        _ => world.heal_and_compare(),
    }
    let mut tally = world.tally();
    if seed.is_multiple_of(REPEATED) {
        for moment in 1..moments {
            tally.add(&run_until_moment(seed, moment, trace));
            tally.crash_points += 1;
        }
    }
    tally
}

/// The same schedule up to the given moment, at which the source dies; then everything is mended and compared.
pub fn run_until_moment(seed: u64, moment: u64, trace: bool) -> Tally {
    MOMENT.set(Some(moment));
    let mut world = World::new(seed, trace, Some(moment));
    let _length = world.random.below(140);
    while !world.is_over() {
        world.step();
    }
    world.last_moment = None;
    world.random = Random::new(seed ^ moment.rotate_left(32));
    world.crash_source();
    if world.random.chance(50) {
        for _ in 0..world.random.below(20) {
            world.step();
        }
    }
    world.let_go();
    world.heal_and_compare();
    world.tally()
}
