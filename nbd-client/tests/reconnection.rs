//! The asynchronous client over lost connections: what is sent again, what is not, and when it gives up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "reconnection/holding.rs"]
mod holding;
mod peers;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_client::client::{Error, Zeroing};
use nbd_client::{Client, ClientOptions, Connection, OpenError, Options, Target};
use nbd_protocol::command::{Answer, Command, Completion};
use nbd_protocol::session::Session;
use nbd_server::device::{BlockDevice, Geometry};
use nbd_server::export::Export;
use nbd_server::listener::Listener;
use nbd_server::server::{Server, ServerHandle};

use holding::Holding;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

fn impatient() -> ClientOptions {
    let connection = Options {
        request_timeout: Some(Duration::from_secs(5)),
        ..Options::default()
    };
    ClientOptions {
        connection,
        first_pause: Duration::from_millis(5),
        ..ClientOptions::default()
    }
}

#[test]
fn a_read_waits_for_a_server_that_was_killed_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let image = peers::image(directory.path(), "disk.img", 4 << 20);
    let arguments = ["file", image.to_str().unwrap()];
    let Some(mut server) = peers::nbdkit(directory.path(), &arguments) else {
        return;
    };
    let client = Client::open(
        &server.target(""),
        ClientOptions {
            connections: 3,
            ..impatient()
        },
    )
    .unwrap();
    assert_eq!(client.connections(), 3);
    run(client.write(4096, Bytes::from(vec![7; 4096]), true)).unwrap();
    server.kill();
    let reading = client.clone();
    let read = std::thread::spawn(move || run(reading.read(4096, 4096)));
    peers::wait_until("the loss is noticed", || {
        client.connections() == 0 || read.is_finished()
    });
    let _again = peers::nbdkit(directory.path(), &arguments).unwrap();
    assert_eq!(read.join().unwrap().unwrap(), vec![7; 4096]);
    assert_eq!(client.reconnections(), 1);
    assert_eq!(client.connections(), 3);
}

#[test]
fn a_write_of_unknown_outcome_is_not_sent_again_to_a_server_that_does_not_fence() {
    let directory = tempfile::tempdir().unwrap();
    let image = peers::image(directory.path(), "disk.img", 4 << 20);
    let slow = [
        "--filter=delay",
        "file",
        image.to_str().unwrap(),
        "wdelay=60",
    ];
    let fast = ["file", image.to_str().unwrap()];
    for replay_writes in [false, true] {
        let Some(mut server) = peers::nbdkit(directory.path(), &slow) else {
            return;
        };
        let options = ClientOptions {
            replay_writes,
            ..impatient()
        };
        let client = Client::open(&server.target(""), options).unwrap();
        assert!(!client.export().fenced);
        let writing = client.clone();
        let write =
            std::thread::spawn(move || run(writing.write(0, Bytes::from(vec![1; 512]), false)));
        // The write is on its way once a read behind it on the same connection was answered.
        run(client.read(0, 512)).unwrap();
        server.kill();
        let _again = peers::nbdkit(directory.path(), &fast).unwrap();
        let outcome = write.join().unwrap();
        if replay_writes {
            outcome.unwrap();
            assert_eq!(run(client.read(0, 512)).unwrap(), vec![1; 512]);
        } else {
            assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
            assert_eq!(
                run(client.read(0, 512)).unwrap(),
                vec![0; 512],
                "the client itself goes on"
            );
        }
        assert_eq!(client.reconnections(), 1);
    }
}

#[test]
fn a_server_that_may_have_lost_a_write_that_was_not_flushed_is_not_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    for flushed in [true, false] {
        let Some(mut server) = peers::nbdkit(directory.path(), &["memory", "4M"]) else {
            return;
        };
        let client = Client::open(&server.target(""), impatient()).unwrap();
        run(client.write(0, Bytes::from(vec![1; 512]), false)).unwrap();
        run(client.flush()).unwrap();
        if !flushed {
            run(client.write(0, Bytes::from(vec![2; 512]), false)).unwrap();
        }
        server.kill();
        let _again = peers::nbdkit(directory.path(), &["memory", "4M"]).unwrap();
        let read = run(client.read(0, 512));
        match flushed {
            true => drop(read.unwrap()),
            false => {
                let error = read.unwrap_err();
                assert!(matches!(error, Error::Changed { .. }), "{error}");
                assert!(error.to_string().contains("can't prove"), "{error}");
            }
        }
    }
}

#[test]
fn with_a_server_that_proves_to_have_all_writes_the_client_goes_on() {
    for memory in [Some("kept"), None] {
        let directory = tempfile::tempdir().unwrap();
        let device = Arc::new(Holding {
            data: Mutex::new(vec![0; 1 << 20]),
            writes: Mutex::new(1),
            memory,
            ..Holding::default()
        });
        let (server, target) = our_server(directory.path(), Arc::clone(&device));
        let client = Client::open(&target, impatient()).unwrap();
        assert!(client.export().memory.is_some());
        run(client.write(0, Bytes::from(vec![1; 512]), false)).unwrap();
        server.stop(Duration::ZERO);
        let (_server, _) = our_server(directory.path(), device);
        let read = run(client.read(0, 512));
        match memory {
            Some(_) => assert_eq!(read.unwrap(), vec![1; 512]),
            None => {
                let error = read.unwrap_err();
                assert!(matches!(error, Error::Changed { .. }), "{error}");
                assert!(error.to_string().contains("restarted"), "{error}");
            }
        }
    }
}

#[test]
fn a_server_that_comes_back_with_another_size_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut server) = peers::nbdkit(directory.path(), &["memory", "16M"]) else {
        return;
    };
    let client = Client::open(&server.target(""), impatient()).unwrap();
    server.kill();
    let _again = peers::nbdkit(directory.path(), &["memory", "8M"]).unwrap();
    let error = run(client.read(0, 512)).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("8388608 bytes instead of 16777216"),
        "{error}"
    );
}

#[test]
fn a_server_that_stays_away_is_given_up_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut server) = peers::nbdkit(directory.path(), &["memory", "16M"]) else {
        return;
    };
    let give_up_after = Duration::from_millis(300);
    let client = Client::open(
        &server.target(""),
        ClientOptions {
            give_up_after,
            ..impatient()
        },
    )
    .unwrap();
    server.kill();
    let started = Instant::now();
    let error = run(client.read(0, 512)).unwrap_err();
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(run(client.flush()).is_err(), "and stays given up");
}

#[test]
fn a_client_told_never_to_reconnect_fails_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut server) = peers::nbdkit(directory.path(), &["memory", "16M"]) else {
        return;
    };
    let give_up_after = Duration::ZERO;
    let client = Client::open(
        &server.target(""),
        ClientOptions {
            give_up_after,
            ..impatient()
        },
    )
    .unwrap();
    server.kill();
    assert!(run(client.read(0, 512)).is_err());
}

fn our_server(directory: &std::path::Path, device: Arc<Holding>) -> (ServerHandle, Target) {
    let path = directory.join("ours.sock");
    let mut server = Server::new(nbd_server::server::Options::default());
    server.add_export(Export::new("disk", device)).unwrap();
    server.add_listener(Listener::unix(&path).unwrap());
    (server.start().unwrap(), Target::unix(path, "disk"))
}

#[test]
fn with_a_server_that_fences_a_held_up_write_never_overwrites_a_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let device = Arc::new(Holding {
        data: Mutex::new(vec![0; 1 << 20]),
        ..Holding::default()
    });
    let (_server, target) = our_server(directory.path(), Arc::clone(&device));
    let mut options = impatient();
    options.connection.request_timeout = Some(Duration::from_millis(300));
    options.session = Some(SESSION);
    let client = Client::open(&target, options).unwrap();
    assert!(client.export().fenced, "our server knows sessions");
    let writing = client.clone();
    let old = std::thread::spawn(move || run(writing.write(0, Bytes::from(vec![1; 4096]), false)));
    // The first copy is stuck in the device: its request times out and is sent again on the next connection.
    peers::wait_until("the client is connected again", || {
        client.reconnections() >= 1
    });
    device.release();
    old.join().unwrap().unwrap();
    run(client.write(0, Bytes::from(vec![2; 4096]), false)).unwrap();
    run(client.flush()).unwrap();
    assert_eq!(run(client.read(0, 4096)).unwrap(), vec![2; 4096]);
    assert!(
        device.data.lock().unwrap()[..4096]
            .iter()
            .all(|byte| *byte == 2)
    );
    let options = Options {
        session: Some(SESSION),
        ..Options::default()
    };
    let error = Connection::open(&target, options).unwrap_err();
    assert!(
        matches!(error, OpenError::Handshake { .. }),
        "the generation has grown: {error}"
    );
}

const SESSION: Session = Session {
    client: 0x1234,
    generation: 3,
};

#[test]
fn a_newer_session_fences_older_connections_and_an_older_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let device = Arc::new(Holding {
        data: Mutex::new(vec![0; 1 << 20]),
        writes: Mutex::new(1),
        ..Holding::default()
    });
    let (_server, target) = our_server(directory.path(), Arc::clone(&device));
    let open = |generation| {
        let session = Some(Session {
            client: 7,
            generation,
        });
        Connection::open(
            &target,
            Options {
                session,
                ..Options::default()
            },
        )
    };
    let write = |connection: &Connection, byte: u8| {
        let (sender, outcome) = std::sync::mpsc::channel();
        let command = Command::Write {
            offset: 0,
            data: vec![byte; 512].into(),
            fua: false,
        };
        connection.submit_now(
            command,
            Completion::new(move |outcome| sender.send(outcome).unwrap()),
        );
        outcome.recv_timeout(Duration::from_secs(10)).unwrap()
    };
    let old = open(5).unwrap();
    let sibling = open(5).unwrap();
    assert!(old.export().fenced);
    write(&old, 1).unwrap();
    write(&sibling, 2).unwrap();
    let new = open(6).unwrap();
    write(&old, 3).unwrap_err();
    write(&sibling, 4).unwrap_err();
    assert_eq!(device.data.lock().unwrap()[0], 2);
    write(&new, 5).unwrap();
    let error = open(5).unwrap_err();
    assert!(matches!(error, OpenError::Handshake { .. }), "{error}");
    assert!(new.is_alive());
}

#[test]
fn a_request_larger_than_the_server_takes_is_split() {
    let directory = tempfile::tempdir().unwrap();
    let filter = [
        "--filter=blocksize-policy",
        "memory",
        "80M",
        "blocksize-maximum=65536",
        "blocksize-minimum=512",
    ];
    let more = ["blocksize-preferred=4096", "blocksize-error-policy=error"];
    let Some(server) = peers::nbdkit(directory.path(), &[&filter[..], &more[..]].concat()) else {
        return;
    };
    let client = Client::open(&server.target(""), impatient()).unwrap();
    assert_eq!(client.export().maximum_payload, 65536);
    let data: Bytes = (0..3_000_320u32)
        .map(|position| (position % 253) as u8)
        .collect::<Vec<_>>()
        .into();
    run(client.write(512, data.clone(), true)).unwrap();
    assert_eq!(run(client.read(512, data.len())).unwrap(), data);
    run(client.write_zeroes(1024, 70_000_128, Zeroing::default())).unwrap();
    let read = run(client.read(0, data.len())).unwrap();
    assert_eq!(read[..512], [0; 512]);
    assert_eq!(read[512..1024], data[..512]);
    assert!(read[1024..].iter().all(|byte| *byte == 0));
    let error = run(client.read(1, 512)).unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error}");
    assert_eq!(run(client.read(0, 0)).unwrap().len(), 0);
}

#[test]
fn zeroes_are_written_where_the_server_can_not_zero() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = peers::nbdkit(directory.path(), &["--filter=nozero", "memory", "8M"]) else {
        return;
    };
    let client = Client::open(&server.target(""), impatient()).unwrap();
    assert!(
        !client
            .export()
            .offers(nbd_protocol::number::TransmissionFlags::SEND_WRITE_ZEROES)
    );
    run(client.write(0, Bytes::from(vec![5; 8 << 20]), false)).unwrap();
    run(client.write_zeroes(
        1000,
        7 << 20,
        Zeroing {
            fua: true,
            ..Zeroing::default()
        },
    ))
    .unwrap();
    assert!(
        run(client.write_zeroes(
            0,
            512,
            Zeroing {
                fast: true,
                ..Zeroing::default()
            }
        ))
        .is_err()
    );
    let back = run(client.read(0, 8 << 20)).unwrap();
    let zeroed = 1000..1000 + (7 << 20);
    assert!(
        back.iter()
            .enumerate()
            .all(|(at, byte)| *byte == if zeroed.contains(&at) { 0 } else { 5 })
    );
}

#[test]
fn a_closed_client_answers_what_was_asked_and_takes_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = peers::nbdkit(
        directory.path(),
        &["--filter=delay", "memory", "1M", "rdelay=300ms"],
    ) else {
        return;
    };
    let client = Client::open(&server.target(""), impatient()).unwrap();
    run(async {
        let (read, refused) = tokio::join!(client.read(0, 512), async {
            client.close();
            client.read(0, 512).await
        });
        assert_eq!(read.unwrap(), vec![0; 512]);
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    });
}

#[test]
fn more_requests_than_the_bounds_allow_wait_for_their_turn() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = peers::nbdkit(directory.path(), &["memory", "16M"]) else {
        return;
    };
    let mut options = impatient();
    options.connection.max_requests = 4;
    options.connection.max_bytes = 64 << 10;
    let client = Client::open(&server.target(""), options).unwrap();
    run(async {
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..200u64 {
            let client = client.clone();
            tasks.spawn(async move {
                let data = Bytes::from(vec![index as u8; 48 << 10]);
                client
                    .write(index * (64 << 10), data.clone(), false)
                    .await
                    .unwrap();
                assert_eq!(
                    client.read(index * (64 << 10), 48 << 10).await.unwrap(),
                    data
                );
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
}

#[test]
fn a_server_that_loses_every_connection_is_not_asked_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("poison.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let connections = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&connections);
    // An old server whose every connection ends with the first request.
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for client in listener.incoming() {
            let mut client = client.unwrap();
            *counted.lock().unwrap() += 1;
            let _ = client.write_all(b"NBDMAGICIHAVEOPT\x00\x00");
            let _ = client.read_exact(&mut [0; 4 + 16 + 4]);
            let _ = client.write_all(&(1u64 << 20).to_be_bytes());
            let _ = client.write_all(&[0; 126]);
            let _ = client.read_exact(&mut [0; 28]);
        }
    });
    let give_up_after = Duration::from_millis(400);
    let options = ClientOptions {
        give_up_after,
        ..impatient()
    };
    let client = Client::open(&Target::unix(path, "disk"), options).unwrap();
    let started = Instant::now();
    let error = run(client.read(0, 512)).unwrap_err();
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let connections = *connections.lock().unwrap();
    assert!(
        (2..20).contains(&connections),
        "{connections} connections without a pause between them"
    );
}

#[test]
fn one_context_of_several_is_asked_for_alone_where_the_server_can_do_that() {
    #[derive(Default)]
    struct Asked(Mutex<Vec<usize>>);
    impl BlockDevice for Asked {
        fn geometry(&self) -> Geometry {
            let contexts = vec!["base:allocation".to_owned(), "x-netraid:dirty".to_owned()];
            Geometry {
                contexts,
                ..Holding::default().geometry()
            }
        }
        fn submit(&self, command: Command, completion: Completion) {
            let Command::BlockStatus {
                length, context, ..
            } = command
            else {
                return completion.complete(Ok(Answer::Done));
            };
            self.0.lock().unwrap().push(context);
            let status = 40 + context as u64;
            completion.complete(Ok(Answer::Extents(vec![nbd_protocol::command::Extent {
                length,
                status,
            }])));
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ours.sock");
    let device = Arc::new(Asked::default());
    let mut server = Server::new(nbd_server::server::Options::default());
    server
        .add_export(Export::new("disk", device.clone()))
        .unwrap();
    server.add_listener(Listener::unix(&path).unwrap());
    let _server = server.start().unwrap();
    for headers in [
        nbd_protocol::HeaderStyle::Structured,
        nbd_protocol::HeaderStyle::Extended,
    ] {
        let mut options = impatient();
        options.connection.headers = headers;
        options.connection.contexts =
            vec!["x-netraid:dirty".to_owned(), "base:allocation".to_owned()];
        let client = Client::open(&Target::unix(&path, "disk"), options).unwrap();
        assert_eq!(client.export().style, headers);
        device.0.lock().unwrap().clear();
        for (context, status) in [(0, 41), (1, 40)] {
            let extents = run(client.block_status(0, 1 << 20, context)).unwrap();
            assert_eq!(extents[0].status, status);
            assert_eq!(extents[0].length, 1 << 20);
        }
        let asked = device.0.lock().unwrap().len();
        let alone = client
            .export()
            .offers(nbd_protocol::number::TransmissionFlags::BLOCK_STATUS_PAYLOAD);
        assert_eq!(asked, if alone { 2 } else { 4 }, "{headers:?}");
    }
}
