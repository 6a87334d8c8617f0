//! Connections that ask for order: one request after the other, and nothing behind one that failed.

use nbd_protocol::command::Command;

use crate::client::{ACK, Client, FLUSH, LIST_META_CONTEXT, READ, REP_META_CONTEXT, WRITE, meta};
use crate::devices::{GateDevice, is_write};
use crate::setup::TestServer;

const A: [u8; 512] = [b'A'; 512];
const ORDERED: &str = "x-netraid:ordered";

/// A connection to "disk" that keeps order.
fn attach_in_order(server: &TestServer) -> Client {
    let mut client = Client::connect(&server.socket);
    let replies = client.option(LIST_META_CONTEXT, &meta("disk", &[ORDERED]));
    assert_eq!(replies[0].0, REP_META_CONTEXT);
    assert_eq!(&replies[0].1[4..], ORDERED.as_bytes());
    assert_eq!(replies.last().unwrap().0, ACK);
    assert_eq!(client.go("disk"), ACK);
    client
}

#[test]
fn requests_that_do_not_overlap_wait_for_each_other_flushes_and_reads_too() {
    let device = GateDevice::new(8192);
    let server = TestServer::of(device.clone());
    let mut client = attach_in_order(&server);
    device.hold(|_| true);
    client.write(0, 1, 0, &A);
    client.request(FLUSH, 0, 2, 0, 0);
    client.write(0, 3, 4096, &A);
    client.request(READ, 0, 4, 4096, 1);
    for count in 1..=4 {
        device.wait_for_held(1);
        device.assert_no_more_than(1);
        assert_eq!(device.seen().len(), count, "{:?}", device.seen());
        device.release(0);
    }
    let cookies: Vec<u64> = (0..3).map(|_| client.answer(0).cookie).collect();
    assert_eq!(cookies, [1, 2, 3]);
    let read = client.answer(1);
    assert_eq!((read.cookie, read.payload.as_slice()), (4, &b"A"[..]));
}

#[test]
fn a_connection_that_did_not_ask_for_order_has_none() {
    let device = GateDevice::new(8192);
    let server = TestServer::of(device.clone());
    let mut client = server.attach();
    device.hold(is_write);
    client.write(0, 1, 0, &A);
    client.write(0, 2, 4096, &A);
    device.wait_for_held(2);
    device.open();
    client.answer(0);
    client.answer(0);
}

#[test]
fn nothing_behind_a_request_that_failed_is_done() {
    let device = GateDevice::new(8192);
    device.hold(|command| matches!(command, Command::Write { offset: 4096, .. }));
    let server = TestServer::of(device.clone());
    let mut client = attach_in_order(&server);
    let mut message = Vec::new();
    for (cookie, offset) in [(1, 0), (2, 4096), (3, 512)] {
        message.extend(crate::client::request_bytes(WRITE, 0, cookie, offset, 512));
        message.extend(A);
    }
    client.send(&message);
    assert_eq!(client.answer(0).error, 0);
    device.wait_for_held(1);
    device.forget_held();
    let failed = client.answer(0);
    assert_eq!(failed.cookie, 2);
    assert_ne!(failed.error, 0);
    server.wait_for_connections(0);
    assert_eq!((device.byte(0), device.byte(512)), (b'A', 0));
}

#[test]
fn nothing_behind_a_request_that_is_refused_is_done() {
    let device = GateDevice::new(8192);
    let server = TestServer::of(device.clone());
    let mut client = attach_in_order(&server);
    let mut message = Vec::new();
    for (cookie, offset) in [(1, 1 << 20), (2, 512)] {
        message.extend(crate::client::request_bytes(WRITE, 0, cookie, offset, 512));
        message.extend(A);
    }
    client.send(&message);
    server.wait_for_connections(0);
    assert_eq!(device.byte(512), 0, "{:?}", device.seen());
}

#[test]
fn what_was_received_in_order_and_had_not_begun_when_the_client_went_is_dropped_from_the_end() {
    let device = GateDevice::new(8192);
    let server = TestServer::of(device.clone());
    let mut client = attach_in_order(&server);
    device.hold(is_write);
    for number in 0..4u64 {
        client.write(0, number, number * 1024, &A);
    }
    device.wait_for_held(1);
    drop(client);
    // The server has seen that it is gone when a newer connection's write, which waits for all, is next.
    let mut other = attach_in_order(&server);
    other.write(0, 9, 7168, &A);
    device.assert_no_more_than(1);
    device.open();
    assert_eq!(other.answer(0).cookie, 9);
    let bytes: Vec<u8> = (0..4).map(|number| device.byte(number * 1024)).collect();
    let done = bytes.iter().take_while(|byte| **byte == b'A').count();
    assert!(bytes[done..].iter().all(|byte| *byte == 0), "{bytes:?}");
}
