//! Legs that are taken away for good: what follows is told from what they have, whatever is put in their slot later.

use super::*;

use crate::mirror::generation::Generation;

impl Bench {
    fn part(&mut self, leg: usize) {
        self.feed(Event::Part {
            slot: slot(leg),
            reason: "taken away".into(),
        });
        self.finish();
    }

    /// Attaches a leg with the metadata that it had some time ago: how much is copied.
    fn attach_old(&mut self, leg: usize, image: LegImage) -> u64 {
        self.feed(Event::Attach {
            slot: slot(leg),
            image: Some(image),
        });
        let joined = self.engine.joined(slot(leg)).unwrap();
        self.finish();
        assert_eq!(self.state(leg), LegState::InSync);
        joined.dirty_bytes / CHUNK
    }

    fn generation(&self) -> Generation {
        self.engine.generations().current
    }
}

#[test]
fn what_follows_has_a_generation_of_its_own_though_nothing_was_written() {
    let mut bench = Bench::whole();
    let before = bench.generation();
    bench.part(REMOTE);
    assert_eq!(bench.state(REMOTE), LegState::Absent);
    assert_ne!(bench.generation(), before);
    assert!(bench.engine.generation_is_durable());
    assert_eq!(bench.engine.generations().away[REMOTE], before);
    assert_eq!(bench.image(REMOTE).record.generations.current, before);
    assert_eq!(bench.image(REMOTE).dirty.count(), 0);
    // It comes back with what it had.
    bench.write(1, 5);
    bench.finish();
    let image = bench.image(REMOTE);
    assert_eq!(bench.attach_old(REMOTE, image), 1);
}

#[test]
fn an_older_leg_of_the_same_slot_is_never_taken_for_the_one_that_was_taken_away_last() {
    let mut bench = Bench::whole();
    bench.part(REMOTE);
    let first = bench.image(REMOTE);
    // Another disk; nothing was written between, but while that one is in sync.
    bench.attach_blank(REMOTE);
    bench.finish();
    bench.write(1, 5);
    bench.finish();
    bench.pass(20_000);
    assert!(bench.engine.dirty().is_empty());
    bench.part(REMOTE);
    assert_eq!(bench.attach_old(REMOTE, first), CHUNKS, "all of it");
}

#[test]
fn a_leg_that_is_not_in_sync_is_not_taken_away_nor_the_last_that_is() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    let before = bench.generation();
    bench.part(LOCAL);
    assert_eq!(bench.state(LOCAL), LegState::InSync);
    bench.feed(Event::PauseResync(true));
    bench.attach_blank(REMOTE);
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::Resync);
    bench.part(REMOTE);
    assert_eq!(bench.state(REMOTE), LegState::Resync);
    assert_eq!(bench.generation(), before);
}

#[test]
fn a_leg_is_settled_when_what_it_needed_is_not_marked_any_more_on_its_own_disk_either() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.attach_blank(REMOTE);
    while bench.state(REMOTE) != LegState::InSync {
        assert!(!bench.engine.is_settled(slot(REMOTE)));
        let next = bench.pending().first().cloned().unwrap();
        bench.succeed(&next);
    }
    assert!(!bench.engine.is_settled(slot(REMOTE)));
    assert_eq!(bench.engine.lacks(slot(REMOTE)), CHUNKS * CHUNK);
    bench.finish();
    bench.pass(20_000);
    assert!(bench.engine.is_settled(slot(REMOTE)));
    assert_eq!(bench.engine.lacks(slot(REMOTE)), 0);
    assert_eq!(bench.image(REMOTE).dirty.count(), 0);
    bench.lose(REMOTE);
    assert!(!bench.engine.is_settled(slot(REMOTE)));
}
