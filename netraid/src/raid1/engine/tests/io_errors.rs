//! Legs that answer with errors: what is repaired, what the application is told, and when a leg is given up.

use super::*;

use crate::raid1::engine::IoErrors;

/// A leg is given up with its fourth error.
fn defaults() -> Settings {
    Settings {
        io_error_limit: 3,
        ..Settings::default()
    }
}

fn pass() -> Settings {
    Settings {
        pass_through: true,
        ..defaults()
    }
}

fn errors(bench: &Bench) -> IoErrors {
    bench.engine.io_errors(slot(LOCAL))
}

#[test]
fn what_a_leg_fails_to_read_is_written_to_it_again_from_another() {
    let mut bench = Bench::whole();
    bench.read(1);
    bench.end("read 0", eio("scratched"));
    bench.succeed("read 1");
    assert!(bench.succeeded(1));
    assert_eq!(errors(&bench).failed, CHUNK);
    bench.read(2);
    bench.succeed("read 1");
    assert!(bench.succeeded(2), "it is not asked for that any more");
    bench.finish();
    let written = |(leg, command): &(usize, Command)| {
        *leg == LOCAL && matches!(command, Command::Write { offset: 0, .. })
    };
    assert!(bench.sent.iter().any(written));
    assert_eq!(
        (
            errors(&bench).errors,
            errors(&bench).repaired,
            errors(&bench).failed
        ),
        (1, CHUNK, 0)
    );
    assert_eq!(bench.state(LOCAL), LegState::InSync);
    bench.read(3);
    assert_eq!(bench.pending(), ["read 0"]);
}

#[test]
fn a_leg_that_can_not_be_repaired_is_given_up() {
    let mut bench = Bench::whole();
    bench.read(1);
    bench.end("read 0", eio("scratched"));
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    bench.succeed("read 1");
    bench.succeed("read 1");
    bench.end("data 0", eio("no spare sectors"));
    assert_eq!(bench.state(LOCAL), LegState::Absent);
    assert_eq!(
        bench.reason(LOCAL),
        "can't be repaired at 0: no spare sectors"
    );
}

#[test]
fn a_leg_with_more_errors_than_may_be_is_given_up() {
    let mut bench = Bench::whole_with(SHAPE, defaults());
    for request in 1..=3 {
        bench.read(request);
        bench.end("read 0", eio("scratched"));
        bench.finish();
        assert_eq!(bench.state(LOCAL), LegState::InSync);
    }
    bench.read(4);
    bench.end("read 0", eio("scratched"));
    assert_eq!(
        bench.reason(LOCAL),
        "failed too often, at last a read: scratched"
    );
    bench.finish();
    assert!(bench.succeeded(4));
}

#[test]
fn a_failed_write_is_passed_through_and_written_again_in_the_background() {
    let mut bench = Bench::whole_with(SHAPE, pass());
    bench.write(1, 0);
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    bench.end("data 0", eio("scratched"));
    bench.succeed("data 1");
    assert!(bench.failed(1), "the application is told");
    assert_eq!((errors(&bench).passed, errors(&bench).failed), (1, CHUNK));
    bench.read(2);
    assert_eq!(bench.pending(), ["read 1"], "nobody knows what leg 0 has");
    bench.finish();
    bench.pass(500);
    assert_eq!((errors(&bench).repaired, errors(&bench).failed), (CHUNK, 0));
    bench.read(3);
    assert_eq!(bench.pending(), ["read 0"]);
}

#[test]
fn what_was_passed_through_stays_marked_and_is_read_from_nobody_else() {
    let mut bench = Bench::whole_with(SHAPE, pass());
    bench.write(1, 0);
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    bench.end("data 0", eio("scratched"));
    bench.succeed("data 1");
    bench.lose(REMOTE);
    bench.read(2);
    assert!(bench.failed(2), "the only leg left does not know");
    bench.pass(30_000);
    assert!(bench.engine.dirty().contains(0) && !bench.engine.is_clean());
    bench.write(3, 0);
    bench.finish();
    bench.read(4);
    bench.finish();
    assert!(
        bench.succeeded(3) && bench.succeeded(4),
        "it was written again"
    );
}

#[test]
fn a_write_that_the_application_repeats_makes_the_range_known_again() {
    let mut bench = Bench::whole_with(SHAPE, pass());
    bench.write(1, 0);
    bench.succeed("metadata 0");
    bench.succeed("metadata 1");
    bench.end("data 0", eio("scratched"));
    bench.finish();
    bench.write(2, 0);
    bench.finish();
    assert!(bench.succeeded(2));
    assert_eq!((errors(&bench).failed, errors(&bench).repaired), (0, 0));
}

#[test]
fn a_leg_that_fails_again_and_again_is_given_up_under_pass_through_too() {
    let mut bench = Bench::whole_with(SHAPE, pass());
    for request in 1..=4 {
        bench.write(request, 0);
        while !bench.pending().contains(&"data 0".to_owned()) {
            let name = bench.pending()[0].clone();
            bench.succeed(&name);
        }
        bench.end("data 0", eio("scratched"));
        bench.finish();
        assert_eq!(bench.failed(request), request <= 3);
    }
    assert_eq!(bench.state(LOCAL), LegState::Absent);
    assert!(bench.succeeded(4), "the mirror goes on through the target");
}

#[test]
fn a_failed_flush_gives_the_leg_up_whatever_is_configured() {
    let mut bench = Bench::whole_with(SHAPE, pass());
    bench.ask(1, Command::Flush);
    bench.end("flush 0", eio("lost"));
    assert_eq!(bench.state(LOCAL), LegState::Absent);
}
