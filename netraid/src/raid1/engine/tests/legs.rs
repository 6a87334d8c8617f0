//! Legs that come, go, are copied to, are refused or forced; and the words for it.

use super::*;

use crate::mirror::generation::Extent as Amount;

fn zeroes(bench: &mut Bench) {
    while let Some(name) = bench.pending().first().cloned() {
        if name.starts_with("read") {
            let data = Bytes::from(vec![0; CHUNK as usize]);
            bench.end(&name, Ok(Answer::Data(data)));
        } else {
            bench.succeed(&name);
        }
    }
}

#[test]
fn a_blank_leg_gets_everything_but_zeroes_are_not_sent() {
    let settings = Settings {
        resync_piece: CHUNK,
        ..Settings::default()
    };
    let mut bench = Bench::degraded(SHAPE, settings);
    bench.attach_blank(REMOTE);
    assert_eq!(bench.reason(REMOTE), "full resync: new leg");
    zeroes(&mut bench);
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    let totals = bench.engine.resync_totals();
    assert_eq!((totals.copied, totals.sent), (SHAPE.size, 0));
    let writes = bench.sent.iter().filter(|(leg, _)| *leg == REMOTE);
    assert!(
        writes
            .clone()
            .all(|(_, command)| !matches!(command, Command::Write { .. }))
    );
}

#[test]
fn a_leg_that_was_away_gets_only_what_it_missed() {
    let mut bench = Bench::whole();
    bench.lose(REMOTE);
    assert_eq!(bench.reason(REMOTE), "cut");
    bench.write(1, 3);
    bench.write(2, 9);
    bench.finish();
    bench.sent.clear();
    bench.attach_again(REMOTE);
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    assert_eq!(bench.engine.resync_totals().copied, 2 * CHUNK);
}

#[test]
fn an_interrupted_full_resync_goes_on_where_it_was() {
    let settings = Settings {
        resync_piece: CHUNK,
        resync_window: 1,
        ..Settings::default()
    };
    let mut bench = Bench::degraded(SHAPE, settings);
    bench.write(1, 0);
    bench.finish();
    bench.attach_blank(REMOTE);
    while bench.engine.missing(slot(REMOTE)) != SHAPE.size / 2 {
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
    }
    // Two cleaning cycles make half of the bits go.
    bench.feed(Event::PauseResync(true));
    bench.pass(20_000);
    let left = bench.engine.missing(slot(REMOTE));
    assert!(left <= SHAPE.size / 2);
    bench.lose(REMOTE);
    bench.finish();
    let image = bench.image(REMOTE);
    assert!(!image.is_consistent());
    assert!(matches!(
        bench.engine.consider(slot(REMOTE), &image),
        Ok((_, Amount::Partial))
    ));
    bench.feed(Event::PauseResync(false));
    bench.attach_again(REMOTE);
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    assert_eq!(bench.engine.resync_totals().copied, left);
}

#[test]
fn a_copy_to_a_leg_that_went_away_and_came_back_does_not_count() {
    let settings = Settings {
        resync_piece: CHUNK,
        resync_window: 1,
        ..Settings::default()
    };
    let mut bench = Bench::degraded(SHAPE, settings);
    bench.write(1, 0);
    bench.finish();
    bench.attach_blank(REMOTE);
    while bench.pending() != ["read 0"] {
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
    }
    bench.lose(REMOTE);
    while bench.pending() != ["read 0"] {
        bench.succeed("metadata 0");
    }
    bench.attach_again(REMOTE);
    while bench.state(REMOTE) != LegState::Resync {
        let mut names = bench.pending().into_iter();
        let next = names.find(|name| name.starts_with("metadata")).unwrap();
        bench.succeed(&next);
    }
    let missing = bench.engine.missing(slot(REMOTE));
    bench.sent.clear();
    bench.succeed("read 0");
    assert_eq!(bench.engine.missing(slot(REMOTE)), missing);
    let written = |(leg, command): &(usize, Command)| *leg == REMOTE && command.changes_data();
    assert!(
        !bench.sent.iter().any(written),
        "it was read for the old connection"
    );
}

#[test]
fn a_resync_keeps_to_its_rate_and_can_be_paused() {
    let settings = Settings {
        resync_piece: CHUNK,
        resync_rate: CHUNK,
        ..Settings::default()
    };
    let mut bench = Bench::degraded(SHAPE, settings);
    bench.attach_blank(REMOTE);
    bench.finish();
    let before = bench.engine.resync_totals().copied;
    bench.pass(4_000);
    let copied = bench.engine.resync_totals().copied - before;
    assert!(
        (3 * CHUNK..=5 * CHUNK).contains(&copied),
        "{copied} bytes in 4 s at {CHUNK} a second"
    );
    bench.feed(Event::PauseResync(true));
    bench.finish();
    let before = bench.engine.resync_totals().copied;
    bench.pass(10_000);
    assert_eq!(bench.engine.resync_totals().copied, before);
    assert!(bench.engine.progress().unwrap().paused);
}

#[test]
fn a_slow_rate_is_not_starved_by_frequent_events() {
    let settings = Settings {
        resync_piece: CHUNK,
        resync_rate: 500,
        ..Settings::default()
    };
    let mut bench = Bench::degraded(SHAPE, settings);
    bench.attach_blank(REMOTE);
    bench.finish();
    let before = bench.engine.resync_totals().copied;
    for _ in 0..20_000 {
        bench.now += 1;
        bench.feed(Event::Tick);
        bench.finish();
    }
    let copied = bench.engine.resync_totals().copied - before;
    assert!(
        copied >= 2 * CHUNK,
        "{copied} bytes in 20 s at 500 a second"
    );
}

#[test]
fn a_leg_that_does_not_answer_is_expelled_after_its_time() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.succeed("metadata 0");
    bench.hang(9_500);
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    bench.hang(1_000);
    assert_eq!(bench.state(REMOTE), LegState::Absent);
    assert_eq!(bench.reason(REMOTE), "did not answer in time");
    bench.finish();
    assert!(bench.succeeded(1));
}

#[test]
fn the_last_leg_in_sync_is_never_expelled_for_being_slow() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.read(1);
    bench.hang(600_000);
    assert_eq!(bench.state(LOCAL), LegState::InSync);
    bench.finish();
    assert!(bench.succeeded(1));
}

#[test]
fn a_source_that_stood_still_does_not_blame_its_legs() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.succeed("metadata 0");
    bench.now += 30_000;
    bench.feed(Event::Tick);
    assert_eq!(
        bench.state(REMOTE),
        LegState::InSync,
        "the reply may be there"
    );
    // Only once: a clock that ticks too rarely must not keep a dead leg.
    bench.now += 60_000;
    bench.feed(Event::Tick);
    assert_eq!(bench.state(REMOTE), LegState::Absent);
}

#[test]
fn refusals_are_told_in_words_and_write_nothing() {
    let mut bench = Bench::whole();
    let old = bench.image(REMOTE);
    bench.lose(REMOTE);
    bench.write(1, 3);
    bench.finish();
    // The other one was started too, and written.
    let mut other = old.clone();
    let theirs = &mut other.record.generations;
    theirs.mint(
        crate::mirror::generation::Generation(77),
        [LOCAL].into_iter(),
    );
    let before = bench.pending().len();
    bench.feed(Event::Attach {
        slot: slot(REMOTE),
        image: Some(other),
    });
    assert_eq!(bench.pending().len(), before);
    assert_eq!(bench.state(REMOTE), LegState::Absent);
    assert!(bench.reason(REMOTE).starts_with("split brain with leg 1"));
    assert_eq!(bench.expelled.last().unwrap().1, bench.reason(REMOTE));

    let mut stranger = old.clone();
    stranger.record.generations = Generations {
        current: crate::mirror::generation::Generation(99),
        ..Generations::default()
    };
    bench.feed(Event::Attach {
        slot: slot(REMOTE),
        image: Some(stranger),
    });
    assert!(bench.reason(REMOTE).contains("belongs to other data"));

    bench.attach_again(REMOTE);
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
}

#[test]
fn a_newer_leg_is_not_taken_as_a_target() {
    let mut bench = Bench::whole();
    let old = bench.image(REMOTE);
    bench.lose(REMOTE);
    bench.write(1, 3);
    bench.finish();
    let newer = bench.image(LOCAL);
    let stale = Engine::assemble(
        SHAPE,
        Settings::default(),
        slot(REMOTE),
        old,
        IdSource::new(9),
        false,
    );
    let refusal = stale.unwrap().consider(slot(LOCAL), &newer).unwrap_err();
    assert!(refusal.to_string().contains("start the mirror there"));
}

#[test]
fn a_leg_that_is_being_resynced_is_started_by_force_only() {
    let mut bench = Bench::whole();
    bench.lose(REMOTE);
    bench.write(1, 3);
    bench.finish();
    bench.feed(Event::PauseResync(true));
    bench.attach_again(REMOTE);
    bench.finish();
    let image = bench.image(REMOTE);
    let start = |force| {
        let ids = IdSource::new(9);
        let image = image.clone();
        Engine::assemble(SHAPE, Settings::default(), slot(REMOTE), image, ids, force)
    };
    assert!(matches!(start(false), Err(Refusal::Inconsistent(leg)) if leg == slot(REMOTE)));
    let forced = start(true).unwrap();
    assert_ne!(
        forced.generations().current,
        image.record.generations.current
    );
    let refusal = forced.consider(slot(LOCAL), &bench.image(LOCAL));
    assert!(matches!(refusal, Err(Refusal::SplitBrain(..))));
}
