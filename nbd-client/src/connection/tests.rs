//! A server that is a script, on the other end of a socket pair: whatever it does, every request is completed once.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};

use bytes::{BufMut, BytesMut};
use nbd_protocol::command::{Answer, Errno, Outcome};
use nbd_protocol::number::{
    ChunkFlags, ChunkType, EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
    TransmissionFlags,
};
use proptest::prelude::*;

use super::*;

/// The server's end.
struct Script {
    socket: UnixStream,
    style: HeaderStyle,
}

impl Script {
    /// The next request, without its payload.
    fn request(&mut self) -> RequestHeader {
        let mut header = vec![0; RequestHeader::size(self.style)];
        self.socket.read_exact(&mut header).unwrap();
        RequestHeader::decode(self.style, &header).unwrap().unwrap()
    }

    fn payload(&mut self, length: u64) -> Vec<u8> {
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).unwrap();
        payload
    }

    fn say(&mut self, bytes: &[u8]) {
        // The client may have hung up in the middle: that is what some tests are about.
        let _ = self.socket.write_all(bytes);
    }

    /// Whether the client closed the connection; what it sends before that is skipped.
    fn client_left(&mut self) -> bool {
        self.socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut rest = [0; 4096];
        loop {
            match self.socket.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

fn simple(errno: u32, cookie: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(errno);
    out.put_u64(cookie);
    out
}

fn chunk(done: bool, kind: ChunkType, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(STRUCTURED_REPLY_MAGIC);
    out.put_u16(if done { ChunkFlags::DONE.0 } else { 0 });
    out.put_u16(kind.0);
    out.put_u64(cookie);
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
    out
}

fn data_chunk(done: bool, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend_from_slice(data);
    chunk(done, ChunkType::OFFSET_DATA, cookie, &payload)
}

fn hole_chunk(done: bool, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.put_u32(length);
    chunk(done, ChunkType::OFFSET_HOLE, cookie, &payload)
}

fn pair(style: HeaderStyle, options: Options) -> (Connection, Script) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let contexts = ["base:allocation", "x-netraid:dirty"];
    let export = Export {
        size: 1 << 40,
        flags: TransmissionFlags(0xffff)
            .without(TransmissionFlags::READ_ONLY)
            .without(TransmissionFlags::BLOCK_STATUS_PAYLOAD),
        minimum_block: 1,
        preferred_block: 4096,
        maximum_payload: 32 << 20,
        block_sizes_given: true,
        style,
        contexts: (7..)
            .zip(contexts)
            .map(|(id, name)| Context {
                name: name.to_owned(),
                id,
            })
            .collect(),
        fenced: false,
        name: None,
        description: None,
    };
    let opened = Opened {
        socket: ours.into(),
        export,
        surplus: BytesMut::new(),
    };
    (
        Connection::start(opened, options).unwrap(),
        Script {
            socket: theirs,
            style,
        },
    )
}

/// Submits without a kick; the outcome arrives on the channel, and a second one would too.
fn submit(connection: &Connection, command: Command) -> Receiver<Outcome> {
    let (sender, outcome) = mpsc::channel();
    connection.submit(
        command,
        Completion::new(move |outcome| sender.send(outcome).unwrap()),
    );
    outcome
}

fn ask(connection: &Connection, command: Command) -> Receiver<Outcome> {
    let outcome = submit(connection, command);
    connection.kick();
    outcome
}

/// The one outcome of a request: there is no second.
fn only(outcome: Receiver<Outcome>) -> Outcome {
    let first = outcome.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(outcome.recv(), Err(mpsc::RecvError), "completed twice");
    first
}

const READ: Command = Command::Read {
    offset: 4096,
    length: 1000,
};

#[test]
fn replies_in_another_order_reach_their_own_requests() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcomes: Vec<_> = (0..10u64)
        .map(|offset| submit(&connection, Command::Read { offset, length: 4 }))
        .collect();
    connection.kick();
    let requests: Vec<_> = (0..10).map(|_| server.request()).collect();
    let mut answers = Vec::new();
    for request in requests.iter().rev() {
        answers.extend(simple(0, request.cookie));
        answers.extend([request.offset as u8; 4]);
    }
    server.say(&answers);
    for (offset, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(
            only(outcome),
            Ok(Answer::Data(vec![offset as u8; 4].into()))
        );
    }
}

#[test]
fn an_error_of_the_server_is_that_requests_outcome_alone() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let bad = ask(&connection, READ);
    let good = ask(&connection, Command::Flush);
    let (first, second) = (server.request(), server.request());
    server.say(&simple(5, first.cookie));
    server.say(&simple(0, second.cookie));
    assert_eq!(only(bad).unwrap_err().errno, Errno::EIO);
    assert_eq!(only(good), Ok(Answer::Done));
    assert!(connection.is_alive());
}

#[test]
fn no_server_can_answer_with_the_error_numbers_that_mean_a_lost_connection() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    for errno in [LOST, TIMED_OUT, NOT_SENT, BUSY, Errno(4_000_000_000)] {
        let outcome = ask(&connection, Command::Flush);
        let request = server.request();
        server.say(&simple(errno.0, request.cookie));
        assert_eq!(only(outcome).unwrap_err().errno, Errno::EINVAL);
    }
}

/// Lets the server misbehave in answer to one read, and expects the connection to be given up for it.
fn violates(style: HeaderStyle, answer: impl FnOnce(&RequestHeader) -> Vec<u8>) -> String {
    let (connection, mut server) = pair(style, Options::default());
    let read = submit(&connection, READ);
    let bystander = ask(&connection, Command::Flush);
    let request = server.request();
    server.say(&answer(&request));
    let failure = only(read).unwrap_err();
    assert_eq!(failure.errno, LOST, "{failure}");
    assert_eq!(only(bystander).unwrap_err().errno, LOST);
    assert!(server.client_left());
    assert!(!connection.is_alive());
    assert_eq!(
        only(ask(&connection, Command::Flush)).unwrap_err().errno,
        NOT_SENT
    );
    let Some(Lost::Violation { what }) = connection.lost() else {
        panic!("{:?}", connection.lost())
    };
    what
}

#[test]
fn a_server_that_breaks_simple_replies_is_left() {
    use HeaderStyle::Simple;
    violates(Simple, |_| vec![0; 16]);
    violates(Simple, |_| b"HTTP/1.1 400 Bad Request".to_vec());
    violates(Simple, |request| simple(0, request.cookie ^ 1 << 33));
    violates(Simple, |request| simple(0, !request.cookie));
    violates(Simple, |request| {
        data_chunk(true, request.cookie, 4096, &[1; 1000])
    });
    violates(Simple, |request| {
        let mut twice = [simple(5, request.cookie), simple(5, request.cookie)].concat();
        twice.truncate(32);
        // The first completes the read, so only the second is wrong: give it back as an unknown one alone.
        twice[8] ^= 0xff;
        twice
    });
}

#[test]
fn a_server_that_breaks_structured_replies_is_left() {
    use HeaderStyle::Structured;
    type Answer = fn(&RequestHeader) -> Vec<u8>;
    let table: [(&str, Answer); 16] = [
        ("simple reply to a read", |r| simple(0, r.cookie)),
        ("before the range", |r| {
            data_chunk(true, r.cookie, 4095, &[1; 1000])
        }),
        ("behind the range", |r| {
            data_chunk(true, r.cookie, 4097, &[1; 1000])
        }),
        ("far away", |r| {
            data_chunk(true, r.cookie, u64::MAX, &[1; 1])
        }),
        ("hole too long", |r| hole_chunk(true, r.cookie, 4096, 1001)),
        ("hole of nothing", |r| hole_chunk(false, r.cookie, 4096, 0)),
        ("data of nothing", |r| {
            data_chunk(false, r.cookie, 4096, &[])
        }),
        ("a gap", |r| data_chunk(true, r.cookie, 4096, &[1; 999])),
        ("nothing at all", |r| {
            chunk(true, ChunkType::NONE, r.cookie, &[])
        }),
        ("overlap", |r| {
            [
                data_chunk(false, r.cookie, 4096, &[1; 600]),
                hole_chunk(true, r.cookie, 4695, 401),
            ]
            .concat()
        }),
        ("the same again", |r| {
            [
                data_chunk(false, r.cookie, 4096, &[1; 1000]),
                data_chunk(true, r.cookie, 4096, &[1; 1000]),
            ]
            .concat()
        }),
        ("status of a read", |r| {
            chunk(
                true,
                ChunkType::BLOCK_STATUS,
                r.cookie,
                &[0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0],
            )
        }),
        ("unknown chunk", |r| {
            chunk(true, ChunkType(9), r.cookie, &[])
        }),
        ("4 GiB", |r| {
            let mut header = chunk(true, ChunkType::OFFSET_DATA, r.cookie, &[]);
            header[16..20].fill(0xff);
            header
        }),
        ("4 GiB of text", |r| {
            let mut header = chunk(true, ChunkType::ERROR, r.cookie, &[]);
            header[16..20].fill(0xff);
            header
        }),
        ("text longer than its chunk", |r| {
            chunk(
                true,
                ChunkType::ERROR,
                r.cookie,
                &[0, 0, 0, 5, 0xff, 0xff, 65],
            )
        }),
    ];
    for (name, answer) in table {
        eprintln!("{name}");
        violates(Structured, answer);
    }
}

#[test]
fn a_server_that_breaks_extended_replies_is_left() {
    let extended = |cookie: u64, offset: u64, length: u64| {
        let mut out = Vec::new();
        out.put_u32(EXTENDED_REPLY_MAGIC);
        out.put_u16(1);
        out.put_u16(ChunkType::OFFSET_DATA.0);
        out.put_u64(cookie);
        out.put_u64(offset);
        out.put_u64(length);
        out.put_u64(4096);
        out
    };
    violates(HeaderStyle::Extended, |r| extended(r.cookie, 0, 1008));
    violates(HeaderStyle::Extended, |r| {
        extended(r.cookie, 4096, u64::MAX)
    });
    violates(HeaderStyle::Extended, |r| {
        data_chunk(true, r.cookie, 4096, &[1; 1000])
    });
}

#[test]
fn a_request_to_a_silent_server_times_out_and_so_do_all_others() {
    let after = Duration::from_millis(50);
    let options = Options {
        request_timeout: Some(after),
        ..Options::default()
    };
    let (connection, mut server) = pair(HeaderStyle::Structured, options);
    let started = Instant::now();
    let outcomes = [ask(&connection, READ), ask(&connection, Command::Flush)];
    for outcome in outcomes {
        let failure = only(outcome).unwrap_err();
        assert_eq!(failure.errno, TIMED_OUT, "{failure}");
        assert!(failure.why.contains("outcome unknown"), "{failure}");
    }
    assert!(started.elapsed() >= after);
    assert_eq!(connection.lost(), Some(Lost::TimedOut { after }));
    assert!(server.client_left());
}

#[test]
fn a_server_that_stops_in_the_middle_of_a_reply_times_out() {
    let options = Options {
        request_timeout: Some(Duration::from_millis(50)),
        ..Options::default()
    };
    for cut in [1, 15, 17, 900] {
        let (connection, mut server) = pair(HeaderStyle::Simple, options.clone());
        let read = ask(&connection, READ);
        let request = server.request();
        let whole = [simple(0, request.cookie), vec![1; 1000]].concat();
        server.say(&whole[..cut]);
        assert_eq!(only(read).unwrap_err().errno, TIMED_OUT);
    }
}

#[test]
fn a_server_that_answers_in_time_is_never_given_up() {
    let options = Options {
        request_timeout: Some(Duration::from_millis(200)),
        ..Options::default()
    };
    let (connection, mut server) = pair(HeaderStyle::Simple, options);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        let outcome = ask(&connection, Command::Flush);
        let request = server.request();
        server.say(&simple(0, request.cookie));
        assert_eq!(only(outcome), Ok(Answer::Done));
    }
    assert!(connection.is_alive());
}

#[test]
fn a_server_that_never_reads_does_not_hold_a_submitter_and_times_out() {
    let options = Options {
        request_timeout: Some(Duration::from_millis(300)),
        ..Options::default()
    };
    let (connection, _server) = pair(HeaderStyle::Simple, options);
    let data = Bytes::from(vec![1; 8 << 20]);
    let started = Instant::now();
    let outcomes: Vec<_> = (0..4)
        .map(|_| {
            ask(
                &connection,
                Command::Write {
                    offset: 0,
                    data: data.clone(),
                    fua: false,
                },
            )
        })
        .collect();
    assert!(
        started.elapsed() < Duration::from_millis(250),
        "a submit waited for the socket"
    );
    let errnos: Vec<Errno> = outcomes
        .into_iter()
        .map(|outcome| only(outcome).unwrap_err().errno)
        .collect();
    assert_eq!(errnos[0], TIMED_OUT);
    assert!(
        errnos
            .iter()
            .all(|errno| [TIMED_OUT, NOT_SENT].contains(errno)),
        "{errnos:?}"
    );
}

#[test]
fn what_was_never_sent_is_told_so() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let sent = ask(&connection, Command::Flush);
    server.request();
    let queued = submit(
        &connection,
        Command::Write {
            offset: 0,
            data: vec![1; 512].into(),
            fua: false,
        },
    );
    connection.abort();
    assert_eq!(only(sent).unwrap_err().errno, LOST);
    let failure = only(queued).unwrap_err();
    assert_eq!(failure.errno, NOT_SENT, "{failure}");
    assert!(server.client_left());
}

#[test]
fn large_writes_arrive_whole_and_in_order_through_a_full_socket() {
    let (connection, mut server) = pair(HeaderStyle::Extended, Options::default());
    let reader = std::thread::spawn(move || {
        for index in 0..40u64 {
            let request = server.request();
            assert_eq!((request.offset, request.length), (index << 20, 1 << 20));
            let payload = server.payload(request.length);
            assert!(payload.iter().all(|byte| *byte == index as u8 + 1));
            let mut reply = Vec::new();
            reply.put_u32(EXTENDED_REPLY_MAGIC);
            reply.put_u16(1);
            reply.put_u16(ChunkType::NONE.0);
            reply.put_u64(request.cookie);
            reply.put_u64(request.offset);
            reply.put_u64(0);
            server.say(&reply);
        }
    });
    let outcomes: Vec<_> = (0..40u64)
        .map(|index| {
            let data = vec![index as u8 + 1; 1 << 20].into();
            ask(
                &connection,
                Command::Write {
                    offset: index << 20,
                    data,
                    fua: true,
                },
            )
        })
        .collect();
    for outcome in outcomes {
        assert_eq!(only(outcome), Ok(Answer::Done));
    }
    reader.join().unwrap();
}

#[test]
fn a_server_that_hangs_up_fails_everything_once() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcomes: Vec<_> = (0..100).map(|_| submit(&connection, READ)).collect();
    connection.kick();
    server.request();
    drop(server);
    for outcome in outcomes {
        let failure = only(outcome).unwrap_err();
        assert!([LOST, NOT_SENT].contains(&failure.errno), "{failure}");
    }
    assert!(!connection.is_alive());
}

#[test]
fn a_dropped_connection_completes_what_is_in_flight() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcome = ask(&connection, READ);
    server.request();
    drop(connection);
    assert_eq!(only(outcome).unwrap_err().errno, LOST);
    assert!(server.client_left());
}

#[test]
fn a_closed_connection_says_goodbye_after_the_last_answer() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcome = ask(&connection, Command::Flush);
    let flush = server.request();
    connection.close();
    assert_eq!(
        only(ask(&connection, Command::Flush)).unwrap_err().errno,
        NOT_SENT
    );
    server.say(&simple(0, flush.cookie));
    assert_eq!(only(outcome), Ok(Answer::Done));
    assert_eq!(server.request().kind, CommandType::DISC);
    drop(server);
    drop(connection);
}

#[test]
fn an_idle_connection_that_is_dropped_says_goodbye() {
    let (connection, mut server) = pair(HeaderStyle::Extended, Options::default());
    drop(connection);
    assert_eq!(server.request().kind, CommandType::DISC);
}

#[test]
fn a_server_that_shuts_down_is_left_softly() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let outcome = ask(&connection, Command::Flush);
    let request = server.request();
    server.say(&simple(Errno::ESHUTDOWN.0, request.cookie));
    assert_eq!(only(outcome).unwrap_err().errno, Errno::ESHUTDOWN);
    assert_eq!(server.request().kind, CommandType::DISC);
    assert!(!connection.is_alive());
}

#[test]
fn what_the_server_does_not_offer_is_never_sent() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let export = Export {
        size: 1 << 20,
        flags: TransmissionFlags::HAS_FLAGS,
        minimum_block: 512,
        preferred_block: 4096,
        maximum_payload: 65536,
        block_sizes_given: true,
        style: HeaderStyle::Simple,
        contexts: Vec::new(),
        fenced: false,
        name: None,
        description: None,
    };
    let opened = Opened {
        socket: ours.into(),
        export,
        surplus: BytesMut::new(),
    };
    let connection = Connection::start(opened, Options::default()).unwrap();
    let data = Bytes::from(vec![0; 512]);
    let zeroes = |fast| Command::WriteZeroes {
        offset: 0,
        length: 512,
        fua: false,
        no_hole: false,
        fast,
    };
    let refused = [
        (Command::Flush, Errno::ENOTSUP),
        (
            Command::Trim {
                offset: 0,
                length: 512,
                fua: false,
            },
            Errno::ENOTSUP,
        ),
        (zeroes(false), Errno::ENOTSUP),
        (zeroes(true), Errno::ENOTSUP),
        (
            Command::Cache {
                offset: 0,
                length: 512,
            },
            Errno::ENOTSUP,
        ),
        (
            Command::Write {
                offset: 0,
                data: data.clone(),
                fua: true,
            },
            Errno::ENOTSUP,
        ),
        (
            Command::BlockStatus {
                offset: 0,
                length: 512,
                one: false,
                context: 0,
            },
            Errno::EINVAL,
        ),
        (
            Command::Read {
                offset: 1,
                length: 512,
            },
            Errno::EINVAL,
        ),
        (
            Command::Read {
                offset: 0,
                length: 511,
            },
            Errno::EINVAL,
        ),
        (
            Command::Read {
                offset: 0,
                length: 0,
            },
            Errno::EINVAL,
        ),
        (
            Command::Read {
                offset: 0,
                length: 66048,
            },
            Errno::EINVAL,
        ),
        (
            Command::Read {
                offset: u64::MAX - 511,
                length: 512,
            },
            Errno::EINVAL,
        ),
        (
            Command::Write {
                offset: 1 << 20,
                data,
                fua: false,
            },
            Errno::ENOSPC,
        ),
    ];
    for (command, errno) in refused {
        let shown = format!("{command:?}");
        assert_eq!(
            only(ask(&connection, command)).unwrap_err().errno,
            errno,
            "{shown}"
        );
    }
    drop(connection);
    let mut server = Script {
        socket: theirs,
        style: HeaderStyle::Simple,
    };
    assert_eq!(
        server.request().kind,
        CommandType::DISC,
        "nothing else was sent"
    );
}

#[test]
fn a_durable_write_without_fua_is_a_write_and_then_a_flush() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut donor, _unused) = pair(HeaderStyle::Simple, Options::default());
    let mut export = donor.export().clone();
    export.flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
    let opened = Opened {
        socket: ours.into(),
        export,
        surplus: BytesMut::new(),
    };
    donor = Connection::start(
        opened,
        Options {
            max_requests: 1,
            ..Options::default()
        },
    )
    .unwrap();
    let mut server = Script {
        socket: theirs,
        style: HeaderStyle::Simple,
    };
    let outcome = ask(
        &donor,
        Command::Write {
            offset: 0,
            data: vec![9; 512].into(),
            fua: true,
        },
    );
    let write = server.request();
    assert_eq!(
        (write.kind, write.flags),
        (CommandType::WRITE, CommandFlags::NONE)
    );
    server.payload(512);
    server.say(&simple(0, write.cookie));
    let flush = server.request();
    assert_eq!(flush.kind, CommandType::FLUSH);
    assert!(
        outcome.try_recv().is_err(),
        "completed before it is durable"
    );
    server.say(&simple(0, flush.cookie));
    assert_eq!(only(outcome), Ok(Answer::Done));
}

#[test]
fn a_full_connection_refuses_or_waits_as_told() {
    let options = Options {
        max_requests: 2,
        when_full: WhenFull::Fail,
        ..Options::default()
    };
    let (connection, mut server) = pair(HeaderStyle::Simple, options);
    let first = [ask(&connection, READ), ask(&connection, READ)];
    assert_eq!(only(ask(&connection, READ)).unwrap_err().errno, BUSY);
    let (one, two) = (server.request(), server.request());
    server.say(&simple(5, one.cookie));
    server.say(&simple(5, two.cookie));
    for outcome in first {
        assert_eq!(only(outcome).unwrap_err().errno, Errno::EIO);
    }

    let options = Options {
        max_requests: 2,
        when_full: WhenFull::Wait,
        ..Options::default()
    };
    let (connection, mut server) = pair(HeaderStyle::Simple, options);
    let answering = std::thread::spawn(move || {
        for _ in 0..50 {
            let request = server.request();
            server.say(&simple(5, request.cookie));
        }
    });
    // Never kicked: a submitter that has to wait sends what was gathered.
    let outcomes: Vec<_> = (0..49).map(|_| submit(&connection, READ)).collect();
    let last = ask(&connection, READ);
    for outcome in outcomes.into_iter().chain([last]) {
        assert_eq!(only(outcome).unwrap_err().errno, Errno::EIO);
    }
    answering.join().unwrap();
}

#[test]
fn a_completion_may_submit_and_a_batch_is_wrapped_once() {
    let batches = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&batches);
    let around: AroundBatch = Arc::new(move |complete| {
        counted.fetch_add(1, Ordering::SeqCst);
        complete();
    });
    let options = Options {
        around_batch: Some(around),
        ..Options::default()
    };
    let (connection, mut server) = pair(HeaderStyle::Simple, options);
    let connection = Arc::new(connection);
    let (sender, second) = mpsc::channel();
    for _ in 0..8 {
        let (again, sender) = (Arc::clone(&connection), sender.clone());
        let then = Completion::new(move |outcome| {
            assert_eq!(outcome, Ok(Answer::Done));
            // Not kicked: the receiving thread sends what completions submit.
            again.submit(
                Command::Flush,
                Completion::new(move |outcome| sender.send(outcome).unwrap()),
            );
        });
        connection.submit(Command::Flush, then);
    }
    connection.kick();
    let cookies: Vec<_> = (0..8).map(|_| server.request().cookie).collect();
    server.say(
        &cookies
            .iter()
            .flat_map(|cookie| simple(0, *cookie))
            .collect::<Vec<_>>(),
    );
    for _ in 0..8 {
        let request = server.request();
        server.say(&simple(0, request.cookie));
        assert_eq!(
            second.recv_timeout(Duration::from_secs(10)).unwrap(),
            Ok(Answer::Done)
        );
    }
    assert_eq!(
        batches.load(Ordering::SeqCst),
        9,
        "eight replies in one batch, then one each"
    );
}

#[test]
fn a_completion_that_panics_ends_the_connection_and_no_other_request_is_forgotten() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    connection.submit(
        Command::Flush,
        Completion::new(|_| panic!("a test's panic, expected")),
    );
    let batched = submit(&connection, Command::Flush);
    let pending = ask(&connection, Command::Flush);
    let (one, two) = (server.request(), server.request());
    server.say(&[simple(0, one.cookie), simple(0, two.cookie)].concat());
    assert_eq!(only(batched), Ok(Answer::Done));
    assert_eq!(only(pending).unwrap_err().errno, LOST);
}

#[test]
fn a_status_answer_is_that_of_the_context_asked_for() {
    let (connection, mut server) = pair(HeaderStyle::Structured, Options::default());
    let status = |context| Command::BlockStatus {
        offset: 0,
        length: 4096,
        one: false,
        context,
    };
    let outcomes = [ask(&connection, status(0)), ask(&connection, status(1))];
    for _ in 0..2 {
        let cookie = server.request().cookie;
        for (id, last) in [(7u32, false), (8, true)] {
            let mut payload = Vec::new();
            payload.put_u32(id);
            payload.put_u32(4096);
            payload.put_u32(id * 100);
            server.say(&chunk(last, ChunkType::BLOCK_STATUS, cookie, &payload));
        }
    }
    for (outcome, status) in outcomes.into_iter().zip([700, 800]) {
        let Ok(Answer::Extents(extents)) = only(outcome) else {
            panic!()
        };
        assert_eq!(
            extents,
            [nbd_protocol::command::Extent {
                length: 4096,
                status
            }]
        );
    }
    let outcome = ask(&connection, status(0));
    let cookie = server.request().cookie;
    server.say(&chunk(
        true,
        ChunkType::BLOCK_STATUS,
        cookie,
        &[0, 0, 0, 99, 0, 0, 16, 0, 0, 0, 0, 0],
    ));
    assert_eq!(
        only(outcome).unwrap_err().errno,
        LOST,
        "a context that was not granted"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn reads_in_chunks_of_any_size_and_order_are_put_together(
        cuts in proptest::collection::btree_set(1u32..400_000, 0..12),
        holes in proptest::collection::vec(any::<bool>(), 13),
        order in Just((0..13usize).collect::<Vec<_>>()).prop_shuffle(),
        done_apart in any::<bool>(),
        slice in 1usize..300_000,
    ) {
        let length = 400_000;
        let (connection, mut server) = pair(HeaderStyle::Structured, Options::default());
        let read = ask(&connection, Command::Read { offset: 1 << 33, length });
        let small = ask(&connection, Command::Flush);
        let (request, flush) = (server.request(), server.request());
        let mut edges: Vec<u32> = std::iter::once(0).chain(cuts).collect();
        edges.push(length);
        let mut chunks: Vec<(u32, u32)> = edges.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let order: Vec<usize> = order.into_iter().filter(|index| *index < chunks.len()).collect();
        chunks = order.iter().map(|index| chunks[*index]).collect();
        let mut expected = vec![0; length as usize];
        let mut wire = Vec::new();
        for (index, (first, end)) in chunks.iter().copied().enumerate() {
            let done = index + 1 == chunks.len() && !done_apart;
            let offset = (1 << 33) + u64::from(first);
            if holes[index] {
                wire.extend(hole_chunk(done, request.cookie, offset, end - first));
            } else {
                let data: Vec<u8> = (first..end).map(|position| (position % 251) as u8 + 1).collect();
                expected[first as usize..end as usize].copy_from_slice(&data);
                wire.extend(data_chunk(done, request.cookie, offset, &data));
            }
            if index == 0 {
                wire.extend(simple(0, flush.cookie));
            }
        }
        if done_apart {
            wire.extend(chunk(true, ChunkType::NONE, request.cookie, &[]));
        }
        for piece in wire.chunks(slice) {
            server.say(piece);
        }
        prop_assert_eq!(only(read), Ok(Answer::Data(expected.into())));
        prop_assert_eq!(only(small), Ok(Answer::Done));
    }

    #[test]
    fn no_bytes_from_a_server_make_the_client_hang_or_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        position in 0usize..60,
        flip in any::<u8>(),
    ) {
        let (connection, mut server) = pair(HeaderStyle::Structured, Options::default());
        let outcomes = [ask(&connection, READ), ask(&connection, Command::Flush)];
        let request = server.request();
        let mut wire = data_chunk(true, request.cookie, 4096, &[3; 1000]);
        wire[position] ^= flip;
        server.say(&wire);
        server.say(&noise);
        drop(server);
        for outcome in outcomes {
            let outcome = only(outcome);
            // The flags (bytes 4 and 5) have unused bits, and flipped data are data.
            let harmless = flip == 0 || position >= 28 || (4..6).contains(&position);
            prop_assert!(outcome.is_err() || harmless, "byte {} was flipped by {}", position, flip);
        }
    }
}
