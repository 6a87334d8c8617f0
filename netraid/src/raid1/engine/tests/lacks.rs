//! What each leg would have to get: not what another one missed, and no less after another node had it.

use super::*;

const THREE: Shape = Shape { slots: 3, ..SHAPE };

fn three() -> Bench {
    Bench::whole_with(THREE, Settings::default())
}

fn lacks(bench: &Bench, leg: usize) -> u64 {
    bench.engine.lacks(slot(leg)) / CHUNK
}

/// How many chunks were copied until it was in sync.
fn copied_to(bench: &mut Bench, leg: usize) -> u64 {
    bench.attach_again(leg);
    bench.finish();
    assert_eq!(bench.state(leg), LegState::InSync);
    bench.engine.resync_totals().copied / CHUNK
}

#[test]
fn a_leg_gets_what_it_missed_itself_and_not_what_another_one_did() {
    let mut bench = three();
    bench.lose(1);
    bench.write(1, 3);
    bench.write(2, 4);
    bench.finish();
    bench.pass(20_000);
    assert_eq!((lacks(&bench, 1), lacks(&bench, 2)), (2, 0));
    bench.lose(2);
    bench.write(3, 9);
    bench.finish();
    assert_eq!((lacks(&bench, 1), lacks(&bench, 2)), (3, 1));
    assert_eq!(copied_to(&mut bench, 2), 1);
    assert_eq!(copied_to(&mut bench, 1), 3);
    bench.pass(20_000);
    assert!(bench.engine.dirty().is_empty());
}

#[test]
fn a_full_resync_of_one_leg_is_nothing_to_another_that_goes_meanwhile() {
    let mut bench = three();
    bench.lose(2);
    bench.attach_blank(2);
    bench.lose(1);
    bench.write(1, 5);
    bench.finish();
    assert_eq!(bench.state(2), LegState::InSync);
    assert_eq!(bench.engine.dirty().count(), CHUNKS);
    bench.pass(20_000);
    let kept: Vec<u64> = bench.engine.dirty().iter().collect();
    assert_eq!(kept, [5], "what the leg that is away needs, and no more");
    assert_eq!(copied_to(&mut bench, 1), 1);
}

#[test]
fn a_leg_that_another_node_copied_to_gets_what_that_one_marked_too() {
    let mut bench = three();
    bench.lose(2);
    bench.write(1, 5);
    bench.finish();
    let mut image = bench.image(2);
    // In the middle of a resync from elsewhere.
    image.record.consistent = false;
    image.superblock.recovering = true;
    image.dirty.insert(7);
    bench.feed(Event::Attach {
        slot: slot(2),
        image: Some(image),
    });
    bench.finish();
    assert_eq!(bench.state(2), LegState::InSync);
    assert_eq!(bench.engine.resync_totals().copied, 2 * CHUNK);
}

#[test]
fn what_a_leg_may_have_lost_is_kept_for_all_until_the_others_are_of_a_newer_generation() {
    let mut bench = three();
    bench.write(1, 3);
    bench.finish();
    bench.lose(1);
    bench.finish();
    bench.pass(20_000);
    assert_eq!((lacks(&bench, 1), lacks(&bench, 2)), (1, 1));
    bench.ask(2, Command::Flush);
    bench.finish();
    bench.pass(20_000);
    assert_eq!((lacks(&bench, 1), lacks(&bench, 2)), (1, 0));
}

/// More than is needed, if the disk told the truth when it was flushed before; a disk that fails flushes need not have.
#[test]
fn what_the_last_leg_does_not_answer_for_any_more_is_copied_to_whoever_comes_back() {
    let mut bench = three();
    bench.lose(2);
    bench.write(1, 3);
    bench.finish();
    bench.pass(20_000);
    bench.lose(1);
    assert_eq!((lacks(&bench, 1), lacks(&bench, 2)), (0, 1));
    bench.ask(2, Command::Flush);
    bench.end("flush 0", eio("it is broken"));
    assert!(bench.failed(2));
    assert_eq!((lacks(&bench, 1), lacks(&bench, 2)), (1, 1));
}
