//! The client against nbdkit, qemu-nbd and Debian's nbd-server: every command, and what each does not offer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peers;

use std::sync::mpsc;

use bytes::Bytes;
use nbd_client::{Connection, Options, Target};
use nbd_protocol::HeaderStyle;
use nbd_protocol::command::{Answer, Command, Completion, Errno, Outcome};
use nbd_protocol::number::TransmissionFlags;

fn ask(connection: &Connection, command: Command) -> Outcome {
    let (sender, outcome) = mpsc::channel();
    connection.submit_now(
        command,
        Completion::new(move |outcome| sender.send(outcome).unwrap()),
    );
    outcome
        .recv_timeout(std::time::Duration::from_secs(20))
        .unwrap()
}

fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length)
        .map(|position| (position as u8).wrapping_mul(31) ^ seed ^ (position >> 8) as u8)
        .collect::<Vec<_>>()
        .into()
}

/// Every command against a server whose export has at least 8 MiB of zeroes.
fn exercise(target: &Target, headers: HeaderStyle) {
    let contexts = vec!["base:allocation".to_owned()];
    let connection = Connection::open(
        target,
        Options {
            headers,
            contexts,
            ..Options::default()
        },
    )
    .unwrap();
    let export = connection.export().clone();
    assert!(export.size >= 8 << 20, "{export:?}");
    assert!(export.style <= headers);
    let offers = |flag| export.offers(flag);

    // Many at once, larger and smaller than one receive, in one kick.
    let (sender, outcomes) = mpsc::channel();
    let pieces = [
        (0, 1 << 20),
        (1 << 20, 512),
        (2 << 20, 65536),
        (3 << 20, 300 << 10),
        (4 << 20, 4096),
    ];
    for (index, (offset, length)) in pieces.into_iter().enumerate() {
        let sender = sender.clone();
        let data = pattern(length, index as u8);
        let completion = Completion::new(move |outcome| sender.send((index, outcome)).unwrap());
        connection.submit(
            Command::Write {
                offset,
                data,
                fua: index == 1,
            },
            completion,
        );
    }
    connection.kick();
    for _ in pieces {
        let (index, outcome) = outcomes.recv().unwrap();
        assert_eq!(outcome, Ok(Answer::Done), "write {index}");
    }
    for (index, (offset, length)) in pieces.into_iter().enumerate() {
        let sender = sender.clone();
        let completion = Completion::new(move |outcome| sender.send((index, outcome)).unwrap());
        connection.submit(
            Command::Read {
                offset,
                length: length as u32,
            },
            completion,
        );
    }
    connection.kick();
    for _ in pieces {
        let (index, outcome) = outcomes.recv().unwrap();
        assert_eq!(
            outcome,
            Ok(Answer::Data(pattern(pieces[index].1, index as u8))),
            "read {index}"
        );
    }
    // Data, then a hole, in one read.
    let mut expected = pattern(4096, 4).to_vec();
    expected.resize(1 << 20, 0);
    let read = ask(
        &connection,
        Command::Read {
            offset: 4 << 20,
            length: 1 << 20,
        },
    );
    assert_eq!(read, Ok(Answer::Data(expected.into())));

    assert_eq!(ask(&connection, Command::Flush), Ok(Answer::Done));
    let zero = Command::WriteZeroes {
        offset: 0,
        length: 4096,
        fua: true,
        no_hole: false,
        fast: false,
    };
    let trim = Command::Trim {
        offset: 2 << 20,
        length: 65536,
        fua: false,
    };
    for (command, flag) in [
        (zero, TransmissionFlags::SEND_WRITE_ZEROES),
        (trim, TransmissionFlags::SEND_TRIM),
    ] {
        let outcome = ask(&connection, command.clone());
        if offers(flag) {
            assert_eq!(outcome, Ok(Answer::Done), "{command:?}");
        } else {
            assert_eq!(outcome.unwrap_err().errno, Errno::ENOTSUP, "{command:?}");
        }
    }
    if offers(TransmissionFlags::SEND_WRITE_ZEROES) {
        let read = ask(
            &connection,
            Command::Read {
                offset: 0,
                length: 8192,
            },
        );
        let mut expected = pattern(1 << 20, 0)[..8192].to_vec();
        expected[..4096].fill(0);
        assert_eq!(read, Ok(Answer::Data(expected.into())));
    }
    if let Some(context) = export.context("base:allocation") {
        let status = Command::BlockStatus {
            offset: 0,
            length: export.size,
            one: false,
            context,
        };
        let Ok(Answer::Extents(extents)) = ask(&connection, status) else {
            panic!("no extents")
        };
        assert!(!extents.is_empty());
    } else {
        let status = Command::BlockStatus {
            offset: 0,
            length: 4096,
            one: false,
            context: 0,
        };
        assert_eq!(ask(&connection, status).unwrap_err().errno, Errno::EINVAL);
    }
    // Refused without being sent: the connection stays.
    let beyond = ask(
        &connection,
        Command::Read {
            offset: export.size,
            length: 512,
        },
    );
    assert_eq!(beyond.unwrap_err().errno, Errno::EINVAL);
    assert!(connection.is_alive());
    connection.close();
    let late = ask(&connection, Command::Flush);
    assert_eq!(late.unwrap_err().errno, nbd_client::connection::NOT_SENT);
}

const STYLES: [HeaderStyle; 3] = [
    HeaderStyle::Simple,
    HeaderStyle::Structured,
    HeaderStyle::Extended,
];

#[test]
fn nbdkit_understands_every_command() {
    let directory = tempfile::tempdir().unwrap();
    for headers in STYLES {
        let Some(server) = peers::nbdkit(directory.path(), &["memory", "16M"]) else {
            return;
        };
        exercise(&server.target(""), headers);
    }
}

#[test]
fn qemu_nbd_understands_every_command() {
    let directory = tempfile::tempdir().unwrap();
    for headers in STYLES {
        let image = peers::image(directory.path(), "disk.img", 16 << 20);
        let Some(server) = peers::qemu_nbd(directory.path(), &image, &[]) else {
            return;
        };
        exercise(&server.target("disk"), headers);
    }
}

#[test]
fn debians_nbd_server_understands_every_command() {
    let directory = tempfile::tempdir().unwrap();
    for (headers, options) in
        STYLES
            .into_iter()
            .zip(["", "flush = true\nfua = true\ntrim = true", "flush = true"])
    {
        let image = peers::image(directory.path(), "disk.img", 16 << 20);
        let options = if options.is_empty() {
            "flush = true\nfua = true"
        } else {
            options
        };
        let Some(server) = peers::nbd_server(directory.path(), &image, options) else {
            return;
        };
        exercise(&server.target("disk"), headers);
    }
}

#[test]
fn an_export_that_does_not_exist_is_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let image = peers::image(directory.path(), "disk.img", 1 << 20);
    let Some(server) = peers::qemu_nbd(directory.path(), &image, &[]) else {
        return;
    };
    let error = Connection::open(&server.target("nonsense"), Options::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("nonsense"), "{error}");
}
