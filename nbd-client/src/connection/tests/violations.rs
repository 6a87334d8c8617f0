//! Everything that a server may do against the protocol: the connection ends, and every request is told.

use proptest::prelude::*;

use super::*;

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

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
