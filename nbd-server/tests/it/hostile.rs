//! Peers that are broken or mean: they get an error or a closed connection, and everybody else is served.

use std::io::{Read, Write};
use std::time::Duration;

use nbd_server::server::Options;

use crate::client::*;
use crate::devices::GateDevice;
use crate::setup::TestServer;

fn server() -> TestServer {
    TestServer::of(GateDevice::new(4096))
}

fn assert_alive(server: &TestServer) {
    assert_eq!(server.attach().call_read(0, 4), [0; 4]);
}

#[test]
fn a_bad_request_magic_closes_the_connection_after_what_came_before_it() {
    let server = server();
    let mut client = server.attach();
    let mut message = request_bytes(READ, 0, 1, 0, 4);
    message.extend([0xab; 28]);
    client.send(&message);
    assert_eq!(client.answer(4).cookie, 1);
    client.wait_for_close();
    assert_alive(&server);
}

#[test]
fn a_write_that_claims_four_gib_closes_the_connection() {
    let server = server();
    for length in [u32::MAX, (64 << 20) + 1] {
        let mut client = server.attach();
        client.request(WRITE, 0, 1, 0, length);
        client.wait_for_close();
    }
    // What carries no payload may claim whatever it likes.
    let mut client = server.attach();
    for kind in [READ, TRIM, CACHE] {
        assert_eq!(client.call(kind, 0, 0, u32::MAX), EINVAL);
    }
    assert_eq!(client.call(WRITE_ZEROES, 0, 0, u32::MAX), ENOSPC);
}

#[test]
fn a_peer_that_leaves_at_any_byte_of_a_session_harms_nobody() {
    let server = server();
    let mut session = 3u32.to_be_bytes().to_vec();
    session.extend(option_bytes(STRUCTURED_REPLY, b""));
    session.extend(option_bytes(
        SET_META_CONTEXT,
        &meta("disk", &["base:allocation"]),
    ));
    session.extend(option_bytes(GO, &go_data("disk")));
    session.extend(request_bytes(WRITE, 0, 1, 0, 16));
    session.extend([0; 16]);
    session.extend(request_bytes(READ, 0, 2, 0, 512));
    for cut in 0..session.len() {
        let mut client = Client::greet(&server.socket);
        client.send(&session[..cut]);
    }
    server.wait_for_connections(0);
    assert_alive(&server);
}

#[test]
fn garbage_of_every_kind_harms_nobody() {
    let server = server();
    let mut session = option_bytes(LIST, b"");
    session.extend(option_bytes(GO, &go_data("disk")));
    session.extend(request_bytes(READ, 0, 2, 0, 512));
    session.extend(request_bytes(FLUSH, 0, 3, 0, 0));
    // A small generator of its own, so that a failure is repeated by running the test again.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let mut mutated = session.clone();
        for _ in 0..1 + random() % 6 {
            let at = random() as usize % mutated.len();
            mutated[at] = random() as u8;
        }
        let mut client = Client::connect(&server.socket);
        // The server may close at any moment.
        let _ = client.stream.write_all(&mutated);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        let _ = client.stream.read_to_end(&mut Vec::new());
    }
    server.wait_for_connections(0);
    assert_alive(&server);
}

#[test]
fn a_flood_of_options_ends_in_a_closed_connection() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    let mut flood = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let options: Vec<u8> = (0..100).flat_map(|_| option_bytes(LIST, b"")).collect();
        for _ in 0..1000 {
            if flood.write_all(&options).is_err() {
                return;
            }
        }
        panic!("100 000 options were taken");
    });
    client.wait_for_close();
    sender.join().unwrap();
    assert_alive(&server);
}

#[test]
fn a_flood_of_options_whose_answers_are_never_read_ends_at_the_deadline() {
    let options = Options {
        handshake_timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let server = TestServer::with(options, vec![("disk", GateDevice::new(4096))]);
    let mut client = Client::connect(&server.socket);
    let options: Vec<u8> = (0..100).flat_map(|_| option_bytes(LIST, b"")).collect();
    while client.stream.write_all(&options).is_ok() {}
    server.wait_for_connections(0);
    assert_alive(&server);
}

#[test]
fn more_connections_than_allowed_are_closed_and_room_is_made_again() {
    let options = Options {
        max_connections: 3,
        ..Options::default()
    };
    let server = TestServer::with(options, vec![("disk", GateDevice::new(4096))]);
    let mut kept: Vec<Client> = (0..3).map(|_| server.attach()).collect();
    let mut refused = std::os::unix::net::UnixStream::connect(&server.socket).unwrap();
    assert_eq!(refused.read(&mut [0; 18]).unwrap(), 0);
    assert_eq!(kept[2].call_read(0, 4), [0; 4]);
    kept.pop();
    server.wait_for_connections(2);
    assert_alive(&server);
}

#[test]
fn a_name_of_4096_bytes_is_looked_up_and_a_longer_one_refused() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    assert_eq!(client.go(&"x".repeat(4096)), ERR_UNKNOWN);
    let reply = client.go(&"x".repeat(4097));
    assert!(reply & 0x8000_0000 != 0, "{reply:#x}");
    // A name length beyond the option.
    let mut data = go_data("disk");
    data[0..4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(client.option(GO, &data)[0].0 & 0x8000_0000 != 0);
    assert_eq!(client.go("disk"), ACK);
}
