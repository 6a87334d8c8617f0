//! A write that a client left behind on a dead connection never lands after one that it sent later.
//!
//! The fault (found with the kernel's client and nbdkit, and in production elsewhere): a server holds write A, the client
//! gives the connection up and sends A again on a new one, it is answered; the client sends B to the same place, it is
//! answered; then the server gets round to the first A. The disk reads A, and nobody was told of an error.

use std::io::{Read, Write};
use std::path::Path;

use crate::client::{
    ACK, Client, ERR_POLICY, FLUSH, LIST_META_CONTEXT, READ, REP_META_CONTEXT, WRITE, meta,
};
use crate::devices::{GateDevice, is_write};
use crate::setup::{TestServer, wait_until};

const A: [u8; 512] = [b'A'; 512];
const B: [u8; 512] = [b'B'; 512];

#[test]
fn a_write_held_up_on_a_dead_connection_does_not_overwrite_a_newer_one() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    device.hold(is_write);
    let mut first = server.attach();
    first.write(0, 1, 0, &A);
    device.wait_for_held(1);
    drop(first);

    let mut second = server.attach();
    second.write(0, 2, 0, &A);
    second.write(0, 3, 0, &B);
    // Both wait for the held one; a command elsewhere shows that they have arrived.
    assert_eq!(second.call(FLUSH, 0, 0, 0), 0);
    assert_eq!(
        device
            .seen()
            .iter()
            .filter(|seen| seen.starts_with("Write"))
            .count(),
        1
    );

    device.open();
    assert_eq!((second.answer(0).cookie, second.answer(0).cookie), (2, 3));
    assert_eq!(device.byte(0), b'B');
}

#[test]
fn what_a_dead_connection_had_queued_is_dropped() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    device.hold(is_write);
    let mut other = server.attach();
    other.write(0, 1, 0, &B);
    device.wait_for_held(1);

    let mut dying = server.attach();
    dying.write(0, 2, 256, &A);
    assert_eq!(dying.call(FLUSH, 0, 0, 0), 0);
    drop(dying);
    let begun = std::time::Instant::now();
    server.wait_for_connections(1);
    assert!(begun.elapsed().as_secs() < 5, "it was waited for instead");

    device.open();
    assert_eq!(other.answer(0).cookie, 1);
    assert_eq!(other.call_write(0, 2048, &B), 0);
    let writes = device
        .seen()
        .into_iter()
        .filter(|seen| seen.starts_with("Write"))
        .count();
    assert_eq!(
        (device.byte(256), device.byte(600), writes),
        (b'B', 0, 2),
        "{:?}",
        device.seen()
    );
}

#[test]
fn what_arrives_with_the_end_of_its_connection_does_not_start() {
    let device = GateDevice::new(8 << 20);
    let server = TestServer::of(device.clone());
    let mut client = server.attach();
    // More than the socket holds: the server does not get to the end before the client reads.
    let reads: Vec<u8> = (0..60)
        .flat_map(|cookie| crate::client::request_bytes(READ, 0, cookie, 0, 128 << 10))
        .collect();
    client.send(&reads);
    client.write(0, 99, 0, &A);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    // From here on the client may have sent newer writes on another connection.
    for cookie in 0..60 {
        assert_eq!(client.answer(128 << 10).cookie, cookie);
    }
    client.wait_for_close();
    server.wait_for_connections(0);
    let seen = device.seen();
    assert!(
        seen.len() == 60 && seen.iter().all(|seen| seen.starts_with("Read")),
        "{seen:?}"
    );
}

#[test]
fn what_a_client_sent_before_its_goodbye_is_done() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    let mut client = server.attach();
    let mut message = Vec::new();
    for (cookie, offset) in [(1, 0), (2, 0), (3, 1024)] {
        message.extend(crate::client::request_bytes(WRITE, 0, cookie, offset, 512));
        message.extend(if cookie == 2 { B } else { A });
    }
    message.extend(crate::client::request_bytes(
        crate::client::DISC,
        0,
        4,
        0,
        0,
    ));
    client.send(&message);
    // Closed before the server has looked, perhaps.
    drop(client);
    wait_until("the writes", || device.byte(1024) == b'A');
    assert_eq!(device.byte(0), b'B');
}

#[test]
fn writes_behind_a_slow_one_do_not_start_when_the_client_has_gone() {
    /// Takes its time for the first write, on the thread that asks.
    struct Slow {
        inner: std::sync::Arc<GateDevice>,
        gate: std::sync::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
        entered: std::sync::mpsc::Sender<()>,
    }
    impl nbd_server::device::BlockDevice for Slow {
        fn geometry(&self) -> nbd_server::device::Geometry {
            self.inner.geometry()
        }
        fn submit(
            &self,
            command: nbd_protocol::command::Command,
            completion: nbd_protocol::command::Completion,
        ) {
            if is_write(&command)
                && let Some(gate) = self.gate.lock().unwrap().take()
            {
                self.entered.send(()).unwrap();
                gate.recv().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            self.inner.submit(command, completion);
        }
    }
    let inner = GateDevice::new(4096);
    let (open, gate) = std::sync::mpsc::channel();
    let (entered, is_entered) = std::sync::mpsc::channel();
    let server = TestServer::of(std::sync::Arc::new(Slow {
        inner: inner.clone(),
        gate: Some(gate).into(),
        entered,
    }));
    let mut client = server.attach();
    let mut message = Vec::new();
    for cookie in 0..4u64 {
        message.extend(crate::client::request_bytes(
            WRITE,
            0,
            cookie,
            cookie * 512,
            512,
        ));
        message.extend(A);
    }
    client.send(&message);
    // All four have passed the gate when the first one starts.
    is_entered.recv().unwrap();
    drop(client);
    open.send(()).unwrap();
    server.wait_for_connections(0);
    assert_eq!(inner.byte(512), 0, "{:?}", inner.seen());
}

/// Presents a session for "disk"; the type of the last reply.
fn present(client: &mut Client, uuid: &str, generation: u64) -> u32 {
    let query = format!("x-netraid:session:{uuid}:{generation}");
    let replies = client.option(LIST_META_CONTEXT, &meta("disk", &[&query]));
    if replies.len() == 2 {
        assert_eq!(replies[0].0, REP_META_CONTEXT);
        assert_eq!(&replies[0].1[4..], query.as_bytes());
    }
    replies.last().unwrap().0
}

fn attach_as(socket: &Path, uuid: &str, generation: u64) -> Client {
    let mut client = Client::connect(socket);
    assert_eq!(present(&mut client, uuid, generation), ACK);
    assert_eq!(client.go("disk"), ACK);
    client
}

const ALICE: &str = "0ee0ba8e-1c5f-4d2c-9c14-6a1f3a1a0001";
const BOB: &str = "0ee0ba8e-1c5f-4d2c-9c14-6a1f3a1a0002";

#[test]
fn a_newer_session_fences_the_older_one_even_if_its_connection_seems_alive() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    let mut bob = attach_as(&server.socket, BOB, 1);
    let mut old = attach_as(&server.socket, ALICE, 7);
    device.hold(is_write);
    old.write(0, 1, 0, &A);
    device.wait_for_held(1);
    // Queued behind the held one.
    old.write(0, 2, 256, &A);
    assert_eq!(old.call(FLUSH, 0, 0, 0), 0);

    let mut new = attach_as(&server.socket, ALICE, 8);
    // The old connection is shut down by the server, though its client never closed it.
    old.wait_for_close();
    new.write(0, 3, 0, &B);
    device.open();
    assert_eq!((new.answer(0).cookie, device.byte(0)), (3, b'B'));
    // The queued one was dropped; other clients are not affected.
    assert_eq!(device.byte(600), 0);
    assert_eq!(bob.call_write(0, 2048, &A), 0);
}

#[test]
fn a_fenced_connection_is_cut_without_an_error_for_what_it_had_asked() {
    // An error would end the request for the client (for a kernel, the leg); without one it asks again on its new
    // connection.
    let device = GateDevice::new(4096);
    let server = TestServer::of(device);
    for generation in 1..100 {
        let mut old: Vec<Client> = (0..8)
            .map(|_| attach_as(&server.socket, ALICE, generation * 2))
            .collect();
        let writers: Vec<_> = old
            .iter()
            .map(|client| {
                let mut sender = client.stream.try_clone().unwrap();
                let mut message = crate::client::request_bytes(WRITE, 0, 7, 0, 512);
                message.extend_from_slice(&A);
                std::thread::spawn(move || while sender.write_all(&message).is_ok() {})
            })
            .collect();
        // They are busy now.
        for client in &mut old {
            assert_eq!(client.answer(0).error, 0);
        }
        let _new = attach_as(&server.socket, ALICE, generation * 2 + 1);
        for client in &mut old {
            let mut rest = Vec::new();
            let _ = client.stream.read_to_end(&mut rest);
            let failed = rest.chunks_exact(16).find(|reply| reply[4..8] != [0; 4]);
            assert_eq!(failed, None, "round {generation}");
        }
        for writer in writers {
            writer.join().unwrap();
        }
    }
}

#[test]
fn connections_of_one_session_live_together() {
    let server = TestServer::of(GateDevice::new(4096));
    let mut one = attach_as(&server.socket, ALICE, 3);
    let mut two = attach_as(&server.socket, ALICE, 3);
    assert_eq!(
        (one.call_write(0, 0, &A), two.call_write(0, 512, &B)),
        (0, 0)
    );
    assert_eq!(one.call_read(512, 512), B);
}

#[test]
fn an_older_session_that_comes_late_is_refused_with_a_reason() {
    let server = TestServer::of(GateDevice::new(4096));
    let mut new = attach_as(&server.socket, ALICE, 9);
    let mut late = Client::connect(&server.socket);
    let query = format!("x-netraid:session:{ALICE}:8");
    let replies = late.option(LIST_META_CONTEXT, &meta("disk", &[&query]));
    let (kind, text) = replies.last().unwrap();
    assert_eq!(*kind, ERR_POLICY);
    assert!(String::from_utf8_lossy(text).contains('9'), "{replies:?}");
    assert_eq!(new.call_write(0, 0, &A), 0);
}

#[test]
fn a_session_that_was_overtaken_between_its_presentation_and_go_does_not_get_in() {
    let server = TestServer::of(GateDevice::new(4096));
    let mut overtaken = Client::connect(&server.socket);
    assert_eq!(present(&mut overtaken, ALICE, 1), ACK);
    let mut new = attach_as(&server.socket, ALICE, 2);
    overtaken.send(&crate::client::option_bytes(
        crate::client::GO,
        &crate::client::go_data("disk"),
    ));
    overtaken.wait_for_close();
    assert_eq!(new.call_write(0, 0, &A), 0);
}

#[test]
fn the_clients_that_are_remembered_are_bounded_in_number() {
    let server = TestServer::of(GateDevice::new(4096));
    let mut kept = attach_as(&server.socket, ALICE, 5);
    for number in 0..1100 {
        let uuid = format!("00000000-0000-4000-8000-{number:012}");
        let mut stranger = attach_as(&server.socket, &uuid, 1);
        stranger.request(crate::client::DISC, 0, 0, 0, 0);
    }
    // The one with a living connection was not forgotten for them.
    let mut late = Client::connect(&server.socket);
    assert_eq!(present(&mut late, ALICE, 4), ERR_POLICY);
    assert_eq!(kept.call_write(0, 0, &A), 0);
}

#[test]
fn nbdkit_shows_the_fault_that_the_tests_above_exclude() {
    let directory = tempfile::tempdir().unwrap();
    let Some(nbdkit) = crate::interop::Nbdkit::holding_first_write(directory.path()) else {
        return;
    };
    let mut first = Client::attach(&nbdkit.socket, "");
    first.write(0, 1, 0, &A);
    nbdkit.wait_until_first_write_is_held();
    drop(first);

    let mut second = Client::attach(&nbdkit.socket, "");
    assert_eq!(second.call_write(0, 0, &A), 0);
    assert_eq!(second.call_write(0, 0, &B), 0);
    assert_eq!(second.call_read(0, 1), b"B");
    nbdkit.let_first_write_go();
    wait_until("the stale write to land", || {
        second.request(READ, 0, 5, 0, 1);
        second.answer(1).payload == b"A"
    });
}
