//! Flushes: whom they reach, what it means when one fails, and how a mirror ends.

use super::*;

#[test]
fn a_flush_reaches_every_leg_in_sync() {
    let mut bench = Bench::whole();
    bench.ask(1, Command::Flush);
    assert_eq!(bench.pending(), ["flush 0", "flush 1"]);
    bench.succeed("flush 0");
    assert!(bench.answers.is_empty());
    bench.succeed("flush 1");
    assert!(bench.succeeded(1));
}

#[test]
fn a_flush_without_a_leg_that_has_left_waits_for_a_generation_of_its_own() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.finish();
    bench.lose(REMOTE);
    bench.finish();
    let before = bench.engine.generations().current;
    bench.ask(2, Command::Flush);
    bench.succeed("flush 0");
    assert!(
        !bench.answers.contains_key(&2),
        "the other may lose what it did not flush, and would look as new"
    );
    bench.succeed("metadata 0");
    assert!(bench.succeeded(2));
    assert_ne!(bench.engine.generations().current, before);
    bench.ask(3, Command::Flush);
    bench.succeed("flush 0");
    assert!(bench.succeeded(3), "once is enough");
}

#[test]
fn a_flush_of_its_own_that_fails_is_told_to_the_next_who_asks() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.write(1, 3);
    bench.finish();
    while bench.pending().is_empty() {
        bench.hang(500);
    }
    bench.end("flush 0", eio("full"));
    bench.ask(2, Command::Flush);
    assert!(bench.failed(2));
    bench.ask(3, Command::Flush);
    bench.finish();
    assert!(bench.succeeded(3), "whoever asks again has been told");
}

#[test]
fn a_flush_that_fails_fails_those_beside_it() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.write(1, 3);
    bench.finish();
    bench.write(2, 3);
    bench.ask(3, Command::Flush);
    bench.ask(4, Command::Flush);
    bench.end("flush 0", eio("full"));
    bench.finish();
    assert!(bench.failed(3) && bench.failed(4));
    assert!(bench.failed(2), "it may have been lost as well");
    bench.write(5, 3);
    bench.ask(6, Command::Flush);
    bench.finish();
    assert!(bench.succeeded(5) && bench.succeeded(6));
}

#[test]
fn what_a_failed_flush_may_have_lost_is_copied_again() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.write(1, 3);
    bench.finish();
    bench.attach_blank(REMOTE);
    while bench.pending() != ["flush 1"] {
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
    }
    bench.ask(2, Command::Flush);
    bench.end("flush 0", eio("full"));
    assert_eq!(bench.state(REMOTE), LegState::Resync);
    assert_eq!(bench.engine.missing(slot(REMOTE)), SHAPE.size);
}

/// A target that missed nothing is in its last flush while a write is on its way to both legs. Then the only leg in sync
/// fails what `fails` names; no piece may reach the target before its disk says that it is not consistent.
fn a_leg_that_was_equal_is_marked_first(fails: &str) {
    let mut bench = Bench::whole();
    bench.lose(REMOTE);
    bench.finish();
    bench.attach_again(REMOTE);
    while bench.state(REMOTE) != LegState::Finishing {
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
    }
    assert!(bench.image(REMOTE).is_consistent());
    bench.write(1, 3);
    while !bench.pending().contains(&"data 0".into()) {
        let pending = bench.pending();
        let metadata = pending.iter().find(|name| name.starts_with("metadata"));
        bench.succeed(metadata.expect("a write waits for metadata only"));
    }
    bench.succeed("data 1");
    if fails == "flush 0" {
        bench.succeed("data 0");
        bench.ask(2, Command::Flush);
    }
    bench.end(fails, eio("full"));
    assert_eq!(bench.state(REMOTE), LegState::Attaching);
    bench.sent.clear();
    while bench.image(REMOTE).is_consistent() {
        let touched = bench
            .sent
            .iter()
            .any(|(_, command)| command.changes_data() || matches!(command, Command::Read { .. }));
        assert!(!touched, "copied to before it is marked");
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
    }
    let bits = bench.image(REMOTE).dirty;
    assert!(bits.contains(3), "a crash now must not hide the difference");
    bench.finish();
    assert!(bench.failed(if fails == "flush 0" { 2 } else { 1 }));
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    assert!(bench.image(REMOTE).is_consistent());
    let copied = |(leg, command): &(usize, Command)| {
        *leg == REMOTE && command.changes_data() && command.range().unwrap().0 == 3 * CHUNK
    };
    assert!(bench.sent.iter().any(copied));
}

#[test]
fn a_leg_that_was_equal_is_marked_before_it_is_copied_to_after_a_failed_write() {
    a_leg_that_was_equal_is_marked_first("data 0");
}

#[test]
fn a_leg_that_was_equal_is_marked_before_it_is_copied_to_after_a_failed_flush() {
    a_leg_that_was_equal_is_marked_first("flush 0");
}

#[test]
fn a_flush_that_does_not_count_any_more_may_still_fail() {
    let mut bench = Bench::whole_with(Shape { slots: 3, ..SHAPE }, Settings::default());
    bench.write(1, 3);
    bench.finish();
    while bench.pending().is_empty() {
        bench.hang(500);
    }
    assert_eq!(bench.pending(), ["flush 0", "flush 1", "flush 2"]);
    // The cycle is given up, its flushes are not taken back.
    bench.lose(2);
    bench.end("flush 1", eio("full"));
    assert_eq!(bench.state(1), LegState::Absent);
    assert_eq!(bench.reason(1), "failed a flush: full");
}

#[test]
fn a_bit_stays_until_every_leg_was_flushed() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.finish();
    let mut cycles = 0;
    while !bench.engine.dirty().is_empty() {
        bench.hang(500);
        if bench.pending() == ["flush 0", "flush 1"] {
            bench.succeed("flush 0");
            assert_eq!(bench.engine.dirty().count(), 1, "one leg is not flushed");
            bench.succeed("flush 1");
            cycles += 1;
        }
        bench.finish();
    }
    assert!(cycles <= 2);
}

#[test]
fn no_bit_is_dropped_while_a_leg_is_away() {
    let mut bench = Bench::whole();
    bench.lose(REMOTE);
    bench.write(1, 3);
    bench.finish();
    bench.pass(60_000);
    assert_eq!(bench.engine.dirty().count(), 1);
    assert!(bench.engine.is_clean(), "flushed all the same");
    bench.attach_again(REMOTE);
    bench.finish();
    bench.pass(60_000);
    assert!(bench.engine.dirty().is_empty());
}

#[test]
fn a_stop_ends_although_the_last_leg_fails_every_flush() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.write(1, 3);
    bench.finish();
    bench.feed(Event::Stop);
    for _ in 0..10 {
        if bench.stopped {
            break;
        }
        bench.end("flush 0", eio("full"));
    }
    assert!(bench.stopped);
    assert!(
        !bench.image(LOCAL).superblock.clean,
        "it is not called clean"
    );
    assert!(bench.engine.halted().unwrap().contains("full"));
}

#[test]
fn stopping_while_a_leg_is_being_resynced_keeps_what_it_misses() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.feed(Event::PauseResync(true));
    bench.attach_blank(REMOTE);
    bench.finish();
    bench.feed(Event::Stop);
    bench.finish();
    assert!(bench.stopped);
    assert_eq!(bench.image(LOCAL).dirty.count(), CHUNKS);
    assert!(!bench.image(REMOTE).is_consistent());
}
