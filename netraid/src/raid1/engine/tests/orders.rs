//! Orders of a supervisor: legs with more or less than their generations ask for, removal, speed.

use super::*;

use crate::mirror::generation::Generation;

/// A mirror whose legs were both written without the other, and the image of the other.
fn split() -> (Bench, LegImage) {
    let mut bench = Bench::whole();
    let mut other = bench.image(REMOTE);
    bench.lose(REMOTE);
    bench.write(1, 3);
    bench.finish();
    let theirs = &mut other.record.generations;
    theirs.mint(Generation(77), [LOCAL].into_iter());
    other.dirty.insert(9);
    (bench, other)
}

fn join(bench: &mut Bench, image: &LegImage, terms: Terms) {
    bench.feed(Event::Join {
        slot: slot(REMOTE),
        image: Some(image.clone()),
        terms,
    });
}

const DISCARD: Terms = Terms {
    full: false,
    discard: true,
};

#[test]
fn what_a_leg_wrote_alone_is_discarded_only_on_order_and_its_bits_are_durable_here_first() {
    let (mut bench, other) = split();
    join(&mut bench, &other, Terms::default());
    assert_eq!(bench.engine.joined(slot(REMOTE)), None);
    assert!(bench.reason(REMOTE).starts_with("split brain"));

    join(&mut bench, &other, DISCARD);
    let joined = bench.engine.joined(slot(REMOTE)).unwrap();
    assert_eq!((joined.rule, joined.full), ("both written alone", false));
    assert_eq!(
        (joined.merged_bytes, joined.dirty_bytes),
        (CHUNK, 2 * CHUNK)
    );
    assert_eq!(bench.pending(), ["metadata 0"]);
    bench.succeed("metadata 0");
    let ours = bench.metadata[LOCAL].clone().unwrap();
    let bits = ChunkSet::from_bytes(CHUNKS, &ours.pages[0].1);
    assert!(bits.contains(3) && bits.contains(9));
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
}

#[test]
fn an_interrupted_resync_of_a_leg_whose_writes_were_discarded_goes_on_without_another_order() {
    let (mut bench, other) = split();
    bench.feed(Event::PauseResync(true));
    join(&mut bench, &other, DISCARD);
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::Resync);
    assert!(!bench.image(REMOTE).is_consistent());
    bench.lose(REMOTE);
    bench.finish();
    bench.feed(Event::PauseResync(false));
    bench.attach_again(REMOTE);
    let joined = bench.engine.joined(slot(REMOTE)).unwrap();
    assert!(!joined.full, "{joined:?}");
    let copied = |bench: &Bench, chunk: u64| {
        bench.sent.iter().any(|(leg, command)| {
            let range = command.range().unwrap_or((0, 0));
            *leg == REMOTE
                && command.changes_data()
                && (range.0..range.0 + range.1).contains(&(chunk * CHUNK))
        })
    };
    bench.sent.clear();
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    assert!(copied(&bench, 3) && copied(&bench, 9) && !copied(&bench, 5));
}

#[test]
fn a_newer_leg_that_is_discarded_is_copied_in_full() {
    let mut bench = Bench::whole();
    let mut newer = bench.image(REMOTE);
    let theirs = &mut newer.record.generations;
    theirs.mint(Generation(77), [LOCAL].into_iter());
    bench.lose(REMOTE);
    bench.finish();
    join(&mut bench, &newer, Terms::default());
    assert!(bench.reason(REMOTE).contains("newer data"));
    join(&mut bench, &newer, DISCARD);
    let joined = bench.engine.joined(slot(REMOTE)).unwrap();
    assert!(
        joined.full && joined.dirty_bytes == CHUNKS * CHUNK,
        "{joined:?}"
    );
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    let theirs = bench.image(REMOTE).record.generations.current;
    assert_eq!(theirs, bench.engine.generations().current);
}

#[test]
fn a_leg_that_misses_nothing_is_copied_in_full_on_order() {
    let mut bench = Bench::whole();
    let image = bench.image(REMOTE);
    bench.feed(Event::Remove {
        slot: slot(REMOTE),
        reason: "on order".into(),
    });
    assert_eq!(bench.reason(REMOTE), "on order");
    assert_eq!(bench.engine.expulsions(slot(REMOTE)), 1);
    bench.finish();
    let full = Terms {
        full: true,
        discard: false,
    };
    join(&mut bench, &image, full);
    assert!(bench.engine.joined(slot(REMOTE)).unwrap().full);
    bench.finish();
    assert_eq!(bench.engine.resync_totals().copied, CHUNKS * CHUNK);
    assert_eq!(bench.state(REMOTE), LegState::InSync);
}

#[test]
fn the_last_leg_in_sync_is_not_removed() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.feed(Event::Remove {
        slot: slot(LOCAL),
        reason: "on order".into(),
    });
    assert_eq!(bench.state(LOCAL), LegState::InSync);
}

#[test]
fn a_resync_steps_aside_for_the_application_but_not_below_its_lower_bound() {
    let pieces = |least: u64| {
        let settings = Settings {
            resync_piece: CHUNK,
            resync_least: least,
            ..Settings::default()
        };
        let mut bench = Bench::degraded(SHAPE, settings);
        bench.now = 60_000;
        bench.feed(Event::PauseResync(true));
        bench.attach_blank(REMOTE);
        bench.finish();
        // A read that does not end keeps the application busy.
        bench.read(1);
        bench.feed(Event::PauseResync(false));
        bench
            .pending()
            .iter()
            .filter(|name| *name == "read 0")
            .count()
            - 1
    };
    assert_eq!(pieces(0), 2);
    assert_eq!(pieces(100 * CHUNK), Settings::default().resync_window);
    assert_eq!(pieces(3 * CHUNK), 3, "no more than are needed for it");
}

#[test]
fn pieces_larger_than_a_second_allows_are_paid_for_by_waiting() {
    let settings = Settings {
        resync_piece: 4 * CHUNK,
        resync_rate: CHUNK,
        ..Settings::default()
    };
    let mut bench = Bench::degraded(SHAPE, settings);
    bench.attach_blank(REMOTE);
    bench.finish();
    bench.pass(9_000);
    let copied = bench.engine.resync_totals().copied / CHUNK;
    assert!(
        (8..=12).contains(&copied),
        "{copied} chunks in 9 s at one a second"
    );
    bench.feed(Event::Speed {
        most: Some(0),
        least: None,
        control: None,
    });
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
}

#[test]
fn a_resync_that_was_fast_while_it_was_quiet_has_its_lower_bound_once_the_application_comes() {
    let shape = Shape {
        size: 4096 * CHUNK,
        chunk: CHUNK,
        slots: 2,
    };
    let settings = Settings {
        resync_piece: CHUNK,
        resync_least: 10 * CHUNK,
        ..Settings::default()
    };
    let mut bench = Bench::degraded(shape, settings);
    bench.now = 60_000;
    bench.attach_blank(REMOTE);
    bench.feed(Event::Tick);
    while bench.engine.resync_totals().copied < 2000 * CHUNK {
        let name = bench.pending()[0].clone();
        bench.succeed(&name);
    }
    // A flush that does not end keeps the application busy.
    bench.ask(1, Command::Flush);
    for name in bench.pending() {
        if !name.starts_with("flush") {
            bench.succeed(&name);
        }
    }
    bench.now += 2000;
    bench.feed(Event::Tick);
    let (pieces, _) = bench.engine.resync_under_way();
    assert_eq!(pieces, Settings::default().resync_window);
}
