//! The handshake, option by option; each row of the table of edge cases (reference: protocol document, "Option types").

use std::time::Duration;

use nbd_server::export::Export;
use nbd_server::server::Options;

use crate::client::*;
use crate::devices::GateDevice;
use crate::setup::TestServer;

fn server() -> TestServer {
    TestServer::new(vec![
        ("disk", GateDevice::new(4096)),
        ("other", GateDevice::new(8192)),
    ])
}

#[test]
fn a_client_flag_that_was_not_offered_closes_the_connection() {
    let server = server();
    for flags in [4u32, 0x8000_0001] {
        let mut client = Client::greet(&server.socket);
        client.send(&flags.to_be_bytes());
        client.wait_for_close();
    }
}

#[test]
fn an_option_that_claims_two_gib_closes_the_connection_at_once() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    let mut option = option_bytes(0x1234, b"");
    option[12..16].copy_from_slice(&0x8000_0000u32.to_be_bytes());
    client.send(&option);
    client.wait_for_close();
}

#[test]
fn an_unknown_option_is_skipped_with_its_data() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    assert_eq!(client.option(0x1234, &[7; 3000])[0].0, ERR_UNSUP);
    assert_eq!(client.go("disk"), ACK);
}

#[test]
fn abort_is_acknowledged_and_closes() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    assert_eq!(client.option(ABORT, b""), [(ACK, vec![])]);
    client.wait_for_close();
}

#[test]
fn list_names_every_export_and_takes_no_data() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    let replies = client.option(LIST, b"");
    assert_eq!(
        replies.iter().map(|reply| reply.0).collect::<Vec<_>>(),
        [REP_SERVER, REP_SERVER, ACK]
    );
    assert_eq!(&replies[0].1, b"\0\0\0\x04disk");
    assert_eq!(client.option(LIST, b"x")[0].0, ERR_INVALID);
}

#[test]
fn a_secret_name_is_in_no_list_and_only_those_who_know_it_get_in() {
    let secret = Export::new("5f3a", GateDevice::new(4096)).with_secret_name(true);
    let server = TestServer::serve(Options::default(), vec![secret]);
    let mut client = Client::connect(&server.socket);
    assert_eq!(client.option(LIST, b""), [(ACK, vec![])]);
    assert_eq!(client.go(""), ERR_UNKNOWN);
    assert_eq!(client.go("5f3b"), ERR_UNKNOWN);
    assert_eq!(client.go("5f3a"), ACK);
}

#[test]
fn go_and_info_refuse_an_unknown_name_and_the_connection_stays() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    // There are two exports, so the empty name means none of them.
    for name in ["nothing", ""] {
        assert_eq!(client.option(INFO, &go_data(name))[0].0, ERR_UNKNOWN);
        assert_eq!(client.go(name), ERR_UNKNOWN);
    }
    let info = client.option(INFO, &go_data("other"));
    let (size, flags) = (&info[0].1[2..10], &info[0].1[10..12]);
    assert_eq!(
        (size, u16::from_be_bytes([flags[0], flags[1]]) & 1),
        (&8192u64.to_be_bytes()[..], 1)
    );
    assert_eq!(client.go("other"), ACK);
}

#[test]
fn the_empty_name_opens_the_only_export() {
    let server = TestServer::of(GateDevice::new(4096));
    let mut client = Client::attach(&server.socket, "");
    assert_eq!(client.call_read(0, 4), [0; 4]);
}

#[test]
fn export_name_answers_with_or_without_the_zeroes_and_closes_for_an_unknown_name() {
    let server = server();
    for (flags, zeroes) in [(1u32, 124), (3, 0)] {
        let mut client = Client::greet(&server.socket);
        client.send(&flags.to_be_bytes());
        client.send(&option_bytes(EXPORT_NAME, b"disk"));
        let answer = client.bytes(10 + zeroes);
        assert_eq!(answer[..8], 4096u64.to_be_bytes());
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        assert_eq!(client.call_read(0, 4), [0; 4]);
    }
    let mut client = Client::connect(&server.socket);
    client.send(&option_bytes(EXPORT_NAME, b"nothing"));
    client.wait_for_close();
}

#[test]
fn starttls_is_refused_and_the_connection_stays() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    assert_eq!(client.option(STARTTLS, b"")[0].0, ERR_UNSUP);
    assert_eq!(client.go("disk"), ACK);
}

#[test]
fn structured_replies_and_contexts_are_negotiated() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    // Selecting needs structured replies first.
    assert_eq!(
        client.option(SET_META_CONTEXT, &meta("disk", &["base:allocation"]))[0].0,
        ERR_INVALID
    );
    assert_eq!(client.option(STRUCTURED_REPLY, b"x")[0].0, ERR_INVALID);
    assert_eq!(client.option(STRUCTURED_REPLY, b""), [(ACK, vec![])]);
    assert_eq!(client.option(STRUCTURED_REPLY, b"")[0].0, ERR_INVALID);
    let all = client.option(LIST_META_CONTEXT, &meta("disk", &[]));
    assert_eq!(
        all.len(),
        3,
        "both contexts of the device and the end: {all:?}"
    );
    let none = client.option(
        SET_META_CONTEXT,
        &meta("disk", &["qemu:dirty-bitmap:x", "nonsense"]),
    );
    assert_eq!(none, [(ACK, vec![])]);
    let mut broken = meta("disk", &["base:allocation"]);
    broken.truncate(broken.len() - 1);
    assert_eq!(client.option(SET_META_CONTEXT, &broken)[0].0, ERR_INVALID);
}

#[test]
fn extended_headers_are_agreed_to_once() {
    let server = server();
    let mut client = Client::connect(&server.socket);
    assert_eq!(client.option(EXTENDED_HEADERS, b""), [(ACK, vec![])]);
    assert_eq!(client.option(EXTENDED_HEADERS, b"")[0].0, ERR_INVALID);
    assert_eq!(client.go("disk"), ACK);
    // READ of 4 bytes with the extended header; the answer is a data chunk with the extended header.
    let mut request = 0x21e4_1c71u32.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 0]);
    request.extend(5u64.to_be_bytes());
    request.extend(16u64.to_be_bytes());
    request.extend(4u64.to_be_bytes());
    client.send(&request);
    let answer = client.bytes(32 + 8 + 4);
    assert_eq!(answer[..4], 0x6e8a_278cu32.to_be_bytes());
    assert_eq!(
        (&answer[8..16], &answer[16..24]),
        (&5u64.to_be_bytes()[..], &16u64.to_be_bytes()[..])
    );
}

#[test]
fn a_client_that_says_nothing_is_closed_at_the_deadline() {
    let options = Options {
        handshake_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let server = TestServer::with(options, vec![("disk", GateDevice::new(4096))]);
    let mut silent = Client::greet(&server.socket);
    silent.wait_for_close();
    // One that goes on talking for ever is closed as well.
    let mut chatty = Client::connect(&server.socket);
    let begun = std::time::Instant::now();
    let mut talk = || -> std::io::Result<()> {
        loop {
            std::io::Write::write_all(&mut chatty.stream, &option_bytes(LIST, b"x"))?;
            if std::io::Read::read(&mut chatty.stream, &mut [0; 4096])? == 0 {
                return Ok(());
            }
        }
    };
    // Closed or reset, both are right.
    let _ = talk();
    assert!(begun.elapsed() < crate::devices::PATIENCE);
    // Transmission has no deadline.
    let mut client = server.attach();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(client.call_read(0, 4), [0; 4]);
}

#[test]
fn exports_come_and_go_while_the_server_runs() {
    let server = server();
    let new = nbd_server::export::Export::new("new", GateDevice::new(512));
    server.handle.add_export(new).unwrap();
    let again = nbd_server::export::Export::new("new", GateDevice::new(512));
    assert!(
        server
            .handle
            .add_export(again)
            .unwrap_err()
            .to_string()
            .contains("exists already")
    );
    let mut client = Client::attach(&server.socket, "new");
    assert!(server.handle.remove_export("new"));
    client.wait_for_close();
    assert!(!server.handle.remove_export("new"));
    assert_eq!(Client::connect(&server.socket).go("new"), ERR_UNKNOWN);
}
