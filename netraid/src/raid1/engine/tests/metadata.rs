//! In which order metadata becomes durable, and what waits for it.

use super::*;

#[test]
fn a_bit_is_durable_on_every_leg_before_the_data_is_sent() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.succeed("metadata 0");
    assert_eq!(bench.pending(), ["metadata 1"], "no data yet");
    bench.succeed("metadata 1");
    assert_eq!(
        bench.pending(),
        ["data 1", "data 0"],
        "the remote leg first"
    );
}

#[test]
fn a_second_write_to_a_dirty_chunk_needs_no_metadata() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.finish();
    bench.write(2, 3);
    assert_eq!(bench.pending(), ["data 1", "data 0"]);
}

#[test]
fn bits_that_are_set_during_a_commit_share_the_next_one() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.write(2, 5);
    bench.write(3, 7);
    assert_eq!(bench.pending(), ["metadata 0"], "one commit at a time");
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    let commits = bench.pending();
    assert_eq!(
        commits,
        ["data 1", "data 0", "metadata 0", "metadata 1"],
        "bits alone go to all legs at once"
    );
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    assert_eq!(bench.pending().len(), 6, "both writes are sent");
}

/// How many bits are set after ten writes, each far from the others and one after the other, when a commit takes `took`
/// milliseconds and the application pauses for `pause`.
fn bits_after_ten_writes(took: u64, pause: u64) -> u64 {
    let shape = Shape {
        size: 1024 * CHUNK,
        ..SHAPE
    };
    let settings = Settings {
        clean_interval: 1_000_000,
        ..Settings::default()
    };
    let mut bench = Bench::whole_with(shape, settings);
    for number in 0..10 {
        bench.write(number, number * 100 + 50);
        bench.now += took;
        bench.finish();
        assert!(bench.succeeded(number));
        bench.now += pause;
        bench.feed(Event::Tick);
    }
    bench.engine.dirty().count()
}

#[test]
fn a_commit_carries_neighbours_bits_if_much_of_the_time_goes_into_commits() {
    assert_eq!(bits_after_ten_writes(0, 0), 10, "they cost next to nothing");
    assert!(bits_after_ten_writes(50, 0) > 80, "over a long way");
    assert_eq!(bits_after_ten_writes(50, 5000), 10, "seldom");
}

#[test]
fn a_new_superblock_reaches_the_local_leg_before_any_other() {
    let mut bench = Bench::whole_with(Shape { slots: 3, ..SHAPE }, Settings::default());
    bench.lose(2);
    assert_eq!(bench.pending(), ["metadata 0"]);
    bench.succeed("metadata 0");
    assert_eq!(bench.pending(), ["metadata 1"]);
}

#[test]
fn a_leg_that_fails_a_commit_is_not_waited_for() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.succeed("metadata 0");
    bench.end("metadata 1", eio("worn out"));
    assert_eq!(bench.expelled.len(), 1);
    bench.finish();
    assert!(bench.succeeded(1));
    assert!(bench.reason(REMOTE).contains("worn out"));
}

#[test]
fn the_local_leg_that_comes_back_is_marked_after_another_says_that_it_is_in_sync() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    // What the local leg will have to get again: not flushed yet.
    bench.write(2, 3);
    bench.finish();
    bench.attach_blank(REMOTE);
    while bench.state(REMOTE) != LegState::InSync {
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
    }
    // The remote leg's disk still says that it is being resynced.
    assert!(!bench.image(REMOTE).record.consistent);
    bench.feed(Event::Remove {
        slot: slot(LOCAL),
        reason: "scratched".into(),
    });
    bench.attach_again(LOCAL);
    while bench.image(LOCAL).record.consistent {
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
        let startable = [LOCAL, REMOTE].map(|leg| bench.image(leg).is_consistent());
        assert!(startable.contains(&true), "no leg could be started now");
    }
    bench.finish();
    assert_eq!(bench.state(LOCAL), LegState::InSync);
}

#[test]
fn a_write_is_not_answered_before_an_expulsion_is_durable() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    let before = bench.engine.generations().current;
    bench.succeed("data 0");
    bench.lose(REMOTE);
    assert!(bench.answers.is_empty());
    assert_ne!(bench.engine.generations().current, before);
    bench.succeed("metadata 0");
    assert!(bench.succeeded(1));
    assert_eq!(bench.engine.generations().away[REMOTE], before);
}

#[test]
fn a_commit_whose_last_leg_in_sync_is_lost_answers_nothing() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    bench.succeed("data 0");
    bench.lose(REMOTE);
    bench.lose(LOCAL);
    assert!(bench.failed(1));
    assert!(bench.engine.halted().unwrap().contains("cut"));
    bench.write(2, 3);
    assert!(bench.failed(2));
}

#[test]
fn a_source_that_starts_again_mints_before_it_writes_alone() {
    let mut bench = Bench::whole();
    bench.lose(REMOTE);
    bench.write(1, 3);
    bench.finish();
    let (away, before) = (
        bench.engine.generations().away[REMOTE],
        bench.engine.generations().current,
    );
    let mut again = Bench::start(SHAPE, Settings::default(), bench.image(LOCAL), false);
    assert_eq!(again.engine.generations().current, before, "not yet");
    again.write(1, 3);
    assert_eq!(again.pending(), ["metadata 0"], "although the bit is set");
    again.finish();
    assert_ne!(again.engine.generations().current, before);
    assert_eq!(again.engine.generations().away[REMOTE], away, "as it was");
}

#[test]
fn nothing_is_written_once_the_mirror_is_stopped() {
    let mut bench = Bench::whole();
    bench.feed(Event::Stop);
    bench.finish();
    assert!(bench.stopped);
    bench.lose(REMOTE);
    bench.hang(120_000);
    bench.attach_again(REMOTE);
    bench.write(1, 0);
    assert!(bench.pending().is_empty());
    assert!(bench.failed(1));
    assert_eq!(
        bench.expelled,
        [(REMOTE, "the mirror is stopped".to_owned())]
    );
}
