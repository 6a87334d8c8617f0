//! Who is asked, in which order overlapping requests go, and what is refused.

use super::*;

#[test]
fn the_local_leg_is_read_and_another_one_when_it_fails() {
    let mut bench = Bench::whole();
    bench.read(1);
    assert_eq!(bench.pending(), ["read 0"]);
    bench.end("read 0", eio("scratched"));
    assert_eq!(bench.state(LOCAL), LegState::InSync, "it is repaired");
    assert!(bench.pending().contains(&"read 1".into()));
    bench.succeed("read 1");
    assert!(bench.succeeded(1));
}

#[test]
fn a_read_of_the_wrong_length_is_a_failed_read() {
    let mut bench = Bench::whole();
    bench.read(1);
    bench.end("read 0", Ok(Answer::Data(Bytes::from_static(b"short"))));
    assert_eq!(bench.engine.io_errors(slot(LOCAL)).errors, 1);
    bench.succeed("read 1");
    assert!(bench.succeeded(1));
}

#[test]
fn the_last_leg_in_sync_is_kept_when_it_fails_a_read() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.read(1);
    bench.end("read 0", eio("scratched"));
    assert!(bench.failed(1));
    assert_eq!(bench.state(LOCAL), LegState::InSync);
    bench.read(2);
    bench.finish();
    assert!(bench.succeeded(2));
}

#[test]
fn a_leg_that_is_being_resynced_is_never_read() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.feed(Event::PauseResync(true));
    bench.attach_blank(REMOTE);
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::Resync);
    bench.read(1);
    bench.end("read 0", eio("scratched"));
    assert!(bench.failed(1), "the other leg has only a part of the data");
}

#[test]
fn overlapping_writes_take_turns_and_others_do_not() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.finish();
    bench.write(2, 3);
    bench.write(3, 3);
    bench.write(4, 4);
    bench.finish();
    assert!([2, 3, 4].iter().all(|request| bench.succeeded(*request)));

    bench.write(5, 3);
    bench.write(6, 3);
    bench.write(7, 4);
    assert_eq!(bench.pending(), ["data 1", "data 0", "data 1", "data 0"]);
    bench.succeed("data 1");
    assert_eq!(bench.pending().len(), 3, "one leg has not done it yet");
    bench.succeed("data 0");
    assert!(bench.succeeded(5));
    assert_eq!(bench.pending(), ["data 1", "data 0", "data 1", "data 0"]);
}

#[test]
fn trimming_becomes_zeroing_so_that_legs_do_not_differ() {
    let mut bench = Bench::whole();
    bench.ask(
        1,
        Command::Trim {
            offset: 0,
            length: CHUNK,
            fua: true,
        },
    );
    bench.finish();
    assert_eq!(bench.sent.len(), 2);
    for (_, command) in &bench.sent {
        assert!(matches!(
            command,
            Command::WriteZeroes {
                fua: true,
                no_hole: false,
                ..
            }
        ));
    }
}

#[test]
fn what_does_not_lie_within_the_mirror_is_refused() {
    let mut bench = Bench::whole();
    let data = Bytes::from_static(b"four");
    let write = |offset| Command::Write {
        offset,
        data: data.clone(),
        fua: false,
    };
    let read = |offset, length| Command::Read { offset, length };
    let zero = |fast, length| Command::WriteZeroes {
        offset: 0,
        length,
        fua: false,
        no_hole: false,
        fast,
    };
    for (request, command, errno) in [
        (1, write(SHAPE.size - 3), Errno::ENOSPC),
        (2, write(u64::MAX), Errno::ENOSPC),
        (3, read(SHAPE.size, 1), Errno::EINVAL),
        (4, read(0, 0), Errno::EINVAL),
        (5, zero(true, CHUNK), Errno::ENOTSUP),
        (6, zero(false, 0), Errno::EINVAL),
    ] {
        bench.ask(request, command);
        assert_eq!(
            bench.answers[&request].as_ref().unwrap_err().errno,
            errno,
            "request {request}"
        );
    }
    assert!(bench.sent.is_empty());
}

#[test]
fn requests_are_refused_while_stopping_and_accepted_ones_finish() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.feed(Event::Stop);
    bench.write(2, 4);
    bench.read(3);
    for request in [2, 3] {
        let failure = bench.answers[&request].as_ref().unwrap_err();
        assert_eq!(failure.errno, Errno::ESHUTDOWN);
    }
    bench.finish();
    assert!(bench.succeeded(1) && bench.stopped);
    assert!(bench.engine.is_clean() && bench.engine.dirty().is_empty());
}

#[test]
fn dirty_ranges_are_told_as_extents() {
    let mut bench = Bench::whole();
    bench.write(1, 3);
    bench.write(2, 4);
    bench.finish();
    bench.ask(
        3,
        Command::BlockStatus {
            offset: CHUNK,
            length: 6 * CHUNK,
            one: false,
            context: 1,
        },
    );
    let Ok(Answer::Extents(extents)) = &bench.answers[&3] else {
        panic!("{:?}", bench.answers[&3]);
    };
    let told: Vec<(u64, u64)> = extents
        .iter()
        .map(|extent| (extent.length / CHUNK, extent.status))
        .collect();
    assert_eq!(told, [(2, 0), (2, 1), (2, 0)]);
}

#[test]
fn a_write_that_the_last_leg_fails_is_copied_to_the_others_again() {
    let mut bench = Bench::degraded(SHAPE, Settings::default());
    bench.attach_blank(REMOTE);
    while bench.pending() != ["flush 1"] {
        let next = bench.pending()[0].clone();
        bench.succeed(&next);
    }
    bench.write(1, 3);
    bench.finish_but_flushes();
    bench.write(2, 3);
    bench.succeed("data 1");
    bench.end("data 0", eio("scratched"));
    assert!(bench.failed(2));
    assert_eq!(bench.state(REMOTE), LegState::Resync);
    bench.sent.clear();
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    assert!(
        bench.sent.iter().any(|(leg, command)| *leg == REMOTE
            && command.range().is_some_and(|(at, _)| at == 3 * CHUNK)),
        "whatever the local leg has there now"
    );
}

impl Bench {
    fn finish_but_flushes(&mut self) {
        while let Some(name) = self
            .pending()
            .into_iter()
            .find(|name| !name.starts_with("flush"))
        {
            self.succeed(&name);
        }
    }
}
