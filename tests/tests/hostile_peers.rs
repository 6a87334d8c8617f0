//! Peers that lie, stop, flood or never listen: our nbd-server answers with an error or closes, keeps its memory
//! bounded, and goes on serving everybody else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use netraid_tests::peers::{self, ZZUF};
use netraid_tests::process::{DEADLINE, run_with_input};
use netraid_tests::raw::{self, ORDINARY_CLIENT, Raw, command, option, reply};
use netraid_tests::require;
use netraid_tests::scratch::{MIB, Noise, Scratch};
use netraid_tests::servers::{self, Endpoint, Server};

const EINVAL: u32 = 22;

/// Resident memory that no peer here may push a server beyond.
const MEMORY_BOUND: u64 = 192 * MIB;

struct Ours {
    server: Server,
    _scratch: Scratch,
}

fn serve() -> Ours {
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", 16 * MIB, 1);
    let place = Endpoint::unix(&scratch, "s");
    let server = servers::ours(
        &peers::ours("nbd-server"),
        &scratch,
        &place,
        "disk",
        &image,
        &[],
    );
    Ours {
        server,
        _scratch: scratch,
    }
}

impl Ours {
    fn place(&self) -> &Endpoint {
        &self.server.endpoint
    }

    fn go(&self) -> Raw {
        Raw::go(self.place(), "disk").expect("negotiate").0
    }

    fn resident(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.server.daemon.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            << 10
    }

    /// Makes sure that the server still does its work and has not grown.
    fn is_well(&mut self) {
        assert!(
            self.server.daemon.is_running(),
            "the server ended; it said:\n{}",
            self.server.daemon.said()
        );
        let mut connection = self.go();
        let mut expected = vec![0; 4096];
        Noise::new(1).fill(&mut expected);
        assert_eq!(
            connection.read(0, 4096).expect("read"),
            expected,
            "the first block is as it was"
        );
        let resident = self.resident();
        assert!(resident < MEMORY_BOUND, "{} MiB resident", resident / MIB);
    }
}

#[test]
fn an_unknown_client_flag_ends_the_connection() {
    let mut ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT | 0x100).unwrap();
    assert!(connection.is_closed_within(Duration::from_secs(5)));
    ours.is_well();
}

#[test]
fn a_wrong_option_magic_ends_the_connection() {
    let mut ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    connection.send(b"HAVEIOPT\0\0\0\x07\0\0\0\0").unwrap();
    assert!(connection.is_closed_within(Duration::from_secs(5)));
    ours.is_well();
}

#[test]
fn an_option_that_claims_two_gib_is_refused_without_waiting_for_it() {
    let mut ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    connection
        .send(&raw::option_bytes(option::GO, 1 << 31, b"abc"))
        .unwrap();
    assert!(connection.is_closed_within(Duration::from_secs(5)));
    ours.is_well();
}

#[test]
fn an_unknown_option_is_answered_and_the_next_one_still_understood() {
    let ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    let answer = connection.ask(0x7777, b"whatever this may mean").unwrap();
    assert_eq!(answer.kind, reply::ERR_UNSUP, "{answer:x?}");
    let answer = connection.ask(option::INFO, &raw::go_data("disk")).unwrap();
    assert_eq!(answer.kind, reply::ACK, "{answer:x?}");
    let answer = connection.ask(option::ABORT, &[]).unwrap();
    assert_eq!(answer.kind, reply::ACK, "{answer:x?}");
}

#[test]
fn tls_is_refused_and_the_session_goes_on() {
    let ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    let answer = connection.ask(option::STARTTLS, &[]).unwrap();
    assert!(
        matches!(answer.kind, reply::ERR_UNSUP | reply::ERR_POLICY),
        "{answer:x?}"
    );
    let answer = connection.ask(option::GO, &raw::go_data("disk")).unwrap();
    assert_eq!(answer.kind, reply::ACK, "{answer:x?}");
}

#[test]
fn an_unknown_export_is_named_unknown_and_another_may_be_asked_for() {
    let ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    let answer = connection.ask(option::GO, &raw::go_data("desk")).unwrap();
    assert_eq!(answer.kind, reply::ERR_UNKNOWN, "{answer:x?}");
    let answer = connection.ask(option::GO, &raw::go_data("disk")).unwrap();
    assert_eq!(answer.kind, reply::ACK, "{answer:x?}");
}

#[test]
fn an_export_name_longer_than_the_option_is_invalid() {
    let ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    let mut data = raw::go_data("disk");
    data[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let answer = connection.ask(option::GO, &data).unwrap();
    assert_eq!(answer.kind, reply::ERR_INVALID, "{answer:x?}");
}

#[test]
fn more_meta_context_queries_than_the_option_holds_are_invalid() {
    let ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    assert_eq!(
        connection.ask(option::STRUCTURED_REPLY, &[]).unwrap().kind,
        reply::ACK
    );
    let mut data = raw::meta_context_data("disk", &["base:allocation"]);
    data[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let answer = connection.ask(option::SET_META_CONTEXT, &data).unwrap();
    assert!(
        matches!(answer.kind, reply::ERR_INVALID | reply::ERR_TOO_BIG),
        "{answer:x?}"
    );
    let answer = connection.ask(option::GO, &raw::go_data("disk")).unwrap();
    assert_eq!(answer.kind, reply::ACK, "{answer:x?}");
}

#[test]
fn a_flood_of_options_ends_with_a_closed_connection() {
    let mut ours = serve();
    let mut connection = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    let flood = raw::option_bytes(option::LIST, 0, &[]).repeat(1000);
    let mut sent = 0;
    // It may be closed while this is still being sent, and the answers are not read.
    while sent < 2000 && connection.send(&flood).is_ok() {
        sent += 1;
    }
    assert!(connection.is_closed_within(Duration::from_secs(20)));
    ours.is_well();
}

#[test]
fn a_wrong_request_magic_ends_the_connection() {
    let mut ours = serve();
    let mut connection = ours.go();
    let mut bytes = raw::request_bytes(0, command::READ, 1, 0, 512);
    bytes[0] ^= 0x80;
    connection.send(&bytes).unwrap();
    assert!(connection.is_closed_within(Duration::from_secs(5)));
    ours.is_well();
}

#[test]
fn a_write_that_claims_four_gib_is_refused_without_waiting_for_it() {
    let mut ours = serve();
    let mut connection = ours.go();
    connection
        .send_request(0, command::WRITE, 1, 0, u32::MAX)
        .unwrap();
    connection.send(&[0; 4096]).unwrap();
    // Either an error, with the payload thrown away as it comes, or the end.
    match connection.read_reply() {
        Ok((errno, cookie)) => assert_eq!((errno, cookie), (EINVAL, 1)),
        Err(_) => assert!(connection.is_closed_within(Duration::from_secs(5))),
    }
    ours.is_well();
}

#[test]
fn a_read_of_four_gib_is_an_error_and_the_session_goes_on() {
    let mut ours = serve();
    let mut connection = ours.go();
    let errno = connection.call(0, command::READ, 0, u32::MAX, &[]).unwrap();
    assert!(matches!(errno, EINVAL | 75), "error {errno}");
    assert_eq!(connection.read(0, 512).unwrap().len(), 512);
    ours.is_well();
}

#[test]
fn odd_requests_get_their_own_error_and_the_session_goes_on() {
    let ours = serve();
    let mut connection = ours.go();
    for (what, flags, command, offset, length) in [
        ("flush with a length", 0, command::FLUSH, 0, 512),
        ("flush with an offset", 0, command::FLUSH, 512, 0),
        ("unknown command", 0, 99, 0, 512),
        ("read with an unknown flag", 0x4000, command::READ, 0, 512),
        (
            "block status without a context",
            0,
            command::BLOCK_STATUS,
            0,
            512,
        ),
        (
            "read in one piece without structured replies",
            4,
            command::READ,
            0,
            512,
        ),
        ("read of nothing", 0, command::READ, 0, 0),
        (
            "read whose end overflows",
            0,
            command::READ,
            u64::MAX - 100,
            512,
        ),
        ("trim whose end overflows", 0, command::TRIM, u64::MAX, 512),
        ("cache of nothing", 0, command::CACHE, 0, 0),
    ] {
        assert_eq!(
            connection
                .call(flags, command, offset, length, &[])
                .unwrap(),
            EINVAL,
            "{what}"
        );
    }
    assert_eq!(
        connection
            .call(0, command::WRITE, u64::MAX - 100, 512, &[0; 512])
            .unwrap(),
        28,
        "write"
    );
    assert_eq!(
        connection
            .call(0, command::WRITE_ZEROES, u64::MAX - 100, 512, &[])
            .unwrap(),
        28,
        "zeroes"
    );
    assert_eq!(connection.read(4096, 512).unwrap().len(), 512);
}

#[test]
fn a_peer_that_stops_in_the_middle_of_a_header_disturbs_nobody() {
    let mut ours = serve();
    let mut in_option = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    in_option.send(b"IHAVE").unwrap();
    let mut in_request = ours.go();
    in_request
        .send(&raw::request_bytes(0, command::READ, 1, 0, 512)[..13])
        .unwrap();
    let mut in_payload = ours.go();
    in_payload
        .send_request(0, command::WRITE, 1, 8192, MIB as u32)
        .unwrap();
    in_payload.send(&[7; 1000]).unwrap();
    ours.is_well();
    drop((in_option, in_request, in_payload));
    assert_ne!(
        ours.go().read(8192, 1000).unwrap(),
        vec![7; 1000],
        "a write that never arrived whole is not done"
    );
    ours.is_well();
}

#[test]
fn a_client_that_says_nothing_is_sent_away() {
    let mut ours = serve();
    let mut silent = Raw::greet(ours.place(), ORDINARY_CLIENT).unwrap();
    assert!(
        silent.is_closed_within(Duration::from_secs(45)),
        "still open after 45 s"
    );
    ours.is_well();
}

#[test]
fn a_peer_that_never_reads_its_replies_costs_bounded_memory() {
    let mut ours = serve();
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut connection = ours.go();
        // 16 GiB of replies, were they all made; the send fails once the server has stopped reading.
        let requests = raw::request_bytes(0, command::READ, 1, 0, MIB as u32).repeat(4096);
        connection
            .set_write_timeout(Duration::from_secs(1))
            .unwrap();
        for _ in 0..4 {
            if connection.send(&requests).is_err() {
                break;
            }
        }
        deaf.push(connection);
    }
    ours.is_well();
}

#[test]
fn an_idle_server_stays_below_10_mib() {
    let ours = serve();
    drop(ours.go());
    assert!(
        ours.resident() < 10 * MIB,
        "{} KiB resident",
        ours.resident() >> 10
    );
}

#[test]
fn a_thousand_idle_connections_stay_below_64_mib() {
    let ours = serve();
    let idle = ours.resident();
    // Two descriptors are needed here for none of them, but one for each, and the usual limit is 1024.
    let (soft, hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    if hard < 1200 {
        peers::skip(&format!("no more than {hard} files may be open here"));
        return;
    }
    nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_NOFILE,
        soft.max(1200),
        hard,
    )
    .unwrap();
    let connections: Vec<Raw> = (0..1000).map(|_| ours.go()).collect();
    let resident = ours.resident();
    assert!(
        resident < 64 * MIB,
        "{} KiB with 1000 connections, {} KiB with none",
        resident >> 10,
        idle >> 10
    );
    drop(connections);
}

/// What ordinary clients send, one stream a dialect.
fn seed_streams() -> Vec<Vec<u8>> {
    let greeting = ORDINARY_CLIENT.to_be_bytes().to_vec();
    let option = |option: u32, data: &[u8]| raw::option_bytes(option, data.len() as u32, data);
    let mut requests = Vec::new();
    requests.extend(raw::request_bytes(0, command::READ, 1, 0, 4096));
    requests.extend(raw::request_bytes(1, command::WRITE, 2, 8 * MIB, 512));
    requests.extend([0x55; 512]);
    requests.extend(raw::request_bytes(0, command::FLUSH, 3, 0, 0));
    requests.extend(raw::request_bytes(0, command::TRIM, 4, 12 * MIB, 65536));
    requests.extend(raw::request_bytes(
        0,
        command::WRITE_ZEROES,
        5,
        13 * MIB,
        65536,
    ));
    requests.extend(raw::request_bytes(0, command::BLOCK_STATUS, 6, 0, 16 << 20));
    requests.extend(raw::request_bytes(0, command::CACHE, 7, 0, 65536));
    requests.extend(raw::request_bytes(0, command::DISC, 8, 0, 0));
    let simple = [
        greeting.clone(),
        option(option::GO, &raw::go_data("disk")),
        requests.clone(),
    ]
    .concat();
    let structured = [
        greeting.clone(),
        option(option::STRUCTURED_REPLY, &[]),
        option(
            option::LIST_META_CONTEXT,
            &raw::meta_context_data("disk", &["base:", "x-netraid:"]),
        ),
        option(
            option::SET_META_CONTEXT,
            &raw::meta_context_data("disk", &["base:allocation"]),
        ),
        option(option::GO, &raw::go_data("disk")),
        requests.clone(),
    ]
    .concat();
    let talkative = [
        greeting.clone(),
        option(option::LIST, &[]),
        option(0x1234, &[0; 64]),
        option(option::STARTTLS, &[]),
        option(option::INFO, &raw::go_data("disk")),
        option(option::INFO, &raw::go_data("nothing")),
        option(option::ABORT, &[]),
    ]
    .concat();
    let mut old = vec![0, 0, 0, 1];
    old.extend(option(option::EXPORT_NAME, b"disk"));
    old.extend(&requests);
    let extended_request = |command: u16, offset: u64, length: u64| {
        let mut bytes = 0x21e4_1c71_u32.to_be_bytes().to_vec();
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(9_u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes
    };
    let extended = [
        greeting,
        option(11, &[]),
        option(
            option::SET_META_CONTEXT,
            &raw::meta_context_data("disk", &["base:allocation"]),
        ),
        option(option::GO, &raw::go_data("disk")),
        extended_request(command::READ, 0, 4096),
        extended_request(command::BLOCK_STATUS, 0, 16 * MIB),
        extended_request(command::WRITE_ZEROES, 12 * MIB, MIB),
        extended_request(command::DISC, 0, 0),
    ]
    .concat();
    vec![simple, structured, talkative, old, extended]
}

#[test]
fn mutated_streams_neither_stop_nor_bloat_the_server() {
    let zzuf = require!(ZZUF);
    let mut ours = serve();
    for (number, stream) in seed_streams().into_iter().enumerate() {
        for seed in 0..40 {
            let mutated = run_with_input(
                Command::new(&zzuf)
                    .args(["-s", &seed.to_string(), "-r", "0.004:0.05"])
                    .env("LC_ALL", "C"),
                stream.clone(),
                DEADLINE,
            )
            .ok();
            assert!(
                !mutated.stdout_bytes.is_empty(),
                "zzuf gave nothing for stream {number}"
            );
            let mut connection = ours.place().connect().unwrap();
            // The server may close at any byte; what it answers is thrown away.
            let _ = connection.write_all(&mutated.stdout_bytes);
            let _ = connection.finish();
            drain(connection);
        }
        assert!(
            ours.server.daemon.is_running(),
            "stream {number} stopped the server"
        );
        let mut connection = ours.go();
        assert_eq!(connection.read(4096, 512).expect("read").len(), 512);
        assert!(
            ours.resident() < MEMORY_BOUND,
            "stream {number}: {} MiB resident",
            ours.resident() / MIB
        );
    }
}

fn drain(mut connection: netraid_tests::servers::Connection) {
    use std::io::Read;
    let mut bytes = [0; 65536];
    while matches!(connection.read(&mut bytes), Ok(count) if count > 0) {}
}
