//! Requests and replies on a connection that works.

use proptest::prelude::*;

use super::*;

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
fn requests_of_many_threads_never_mix_on_the_wire() {
    let (connection, mut server) = pair(HeaderStyle::Simple, Options::default());
    let reader = std::thread::spawn(move || {
        for _ in 0..4 * 60 {
            let request = server.request();
            assert_eq!(request.kind, CommandType::WRITE);
            let payload = server.payload(request.length);
            assert!(
                payload
                    .iter()
                    .all(|byte| u64::from(*byte) == request.offset % 251)
            );
            server.say(&simple(0, request.cookie));
        }
    });
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let connection = &connection;
            scope.spawn(move || {
                let outcomes: Vec<_> = (0..60u64)
                    .map(|index| {
                        let offset = thread * 1000 + index;
                        let data = vec![(offset % 251) as u8; 1000 * index as usize + 1].into();
                        ask(
                            connection,
                            Command::Write {
                                offset,
                                data,
                                fua: false,
                            },
                        )
                    })
                    .collect();
                for outcome in outcomes {
                    assert_eq!(only(outcome), Ok(Answer::Done));
                }
            });
        }
    });
    reader.join().unwrap();
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
        ordered: false,
        integrity: false,
        memory: None,
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
}
