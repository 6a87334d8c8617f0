//! Golden bytes and round trips of replies, and hostile ones.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::command::Failure;
use crate::error::DecodeError;
use crate::limit::{MAX_EXTENTS, MAX_PAYLOAD};
use crate::number::{ChunkType, CommandFlags, CommandType};
use crate::request::HeaderStyle;
use crate::testing::{STYLES, hex, request, style};

const COOKIE: u64 = 0x0102_0304_0506_0708;

fn to(style: HeaderStyle, kind: CommandType) -> ReplyTo {
    ReplyTo::new(style, request(kind, 0x1000, 0x2000))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn decoded(style: HeaderStyle, bytes: &[u8]) -> Reply {
    let (reply, used) = Reply::decode(style, bytes).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    assert_eq!(reply.cookie, COOKIE);
    assert_eq!(
        reply.request_offset,
        (style == HeaderStyle::Extended).then_some(0x1000)
    );
    reply
}

/// Checks both directions of one reply.
fn golden(style: HeaderStyle, bytes: Vec<u8>, digits: &str, done: bool, body: ReplyBody) {
    assert_eq!(bytes, hex(digits), "{style:?} {body:?}");
    let reply = decoded(style, &bytes);
    assert_eq!((reply.done, reply.body), (done, body));
}

const SIMPLE: HeaderStyle = HeaderStyle::Simple;
const STRUCTURED: HeaderStyle = HeaderStyle::Structured;
const EXTENDED: HeaderStyle = HeaderStyle::Extended;

#[test]
fn golden_simple_reply_message() {
    let read = to(SIMPLE, CommandType::READ);
    golden(
        SIMPLE,
        written(|out| read.data_header(0x2000, out)),
        "67446698 00000000 0102030405060708",
        true,
        ReplyBody::Simple { errno: Errno(0) },
    );
    golden(
        SIMPLE,
        written(|out| read.failure(&Failure::new(Errno::EIO, "unsent"), out)),
        "67446698 00000005 0102030405060708",
        true,
        ReplyBody::Simple { errno: Errno::EIO },
    );
    for style in [SIMPLE, STRUCTURED] {
        golden(
            style,
            written(|out| to(style, CommandType::WRITE).done(out)),
            "67446698 00000000 0102030405060708",
            true,
            ReplyBody::Simple { errno: Errno(0) },
        );
    }
}

#[test]
fn golden_structured_reply_types() {
    let read = to(STRUCTURED, CommandType::READ);
    let head = "668e33ef";
    let cookie = "0102030405060708";
    golden(
        STRUCTURED,
        written(|out| read.done(out)),
        &format!("{head} 0001 0000 {cookie} 00000000"),
        true,
        ReplyBody::Nothing,
    );
    golden(
        STRUCTURED,
        written(|out| read.data_header(0x2000, out)),
        &format!("{head} 0001 0001 {cookie} 00002008 0000000000001000"),
        true,
        ReplyBody::Data {
            offset: 0x1000,
            length: 0x2000,
        },
    );
    golden(
        STRUCTURED,
        written(|out| read.hole(0x1200, 0x200, false, out)),
        &format!("{head} 0000 0002 {cookie} 0000000c 0000000000001200 00000200"),
        false,
        ReplyBody::Hole {
            offset: 0x1200,
            length: 0x200,
        },
    );
    golden(
        STRUCTURED,
        written(|out| read.failure(&Failure::new(Errno::EIO, "bad"), out)),
        &format!("{head} 0001 8001 {cookie} 00000009 00000005 0003 626164"),
        true,
        ReplyBody::Error {
            errno: Errno::EIO,
            text: "bad".into(),
            offset: None,
        },
    );
    golden(
        STRUCTURED,
        written(|out| {
            read.failure_at(&Failure::new(Errno::EIO, "bad"), 0x1200, false, out);
        }),
        &format!("{head} 0000 8002 {cookie} 00000011 00000005 0003 626164 0000000000001200"),
        false,
        ReplyBody::Error {
            errno: Errno::EIO,
            text: "bad".into(),
            offset: Some(0x1200),
        },
    );
    let extents = vec![
        Extent {
            length: 0x1000,
            status: 3,
        },
        Extent {
            length: 0x3000,
            status: 0,
        },
    ];
    let status = to(STRUCTURED, CommandType::BLOCK_STATUS);
    golden(
        STRUCTURED,
        written(|out| status.block_status(7, &extents, true, out).unwrap()),
        &format!("{head} 0001 0005 {cookie} 00000014 00000007 00001000 00000003 00003000 00000000"),
        true,
        ReplyBody::Status {
            context: 7,
            extents,
        },
    );
}

#[test]
fn golden_extended_reply_types() {
    let read = to(EXTENDED, CommandType::READ);
    let head = "6e8a278c";
    let rest = "0102030405060708 0000000000001000";
    for kind in [CommandType::READ, CommandType::WRITE] {
        golden(
            EXTENDED,
            written(|out| to(EXTENDED, kind).done(out)),
            &format!("{head} 0001 0000 {rest} 0000000000000000"),
            true,
            ReplyBody::Nothing,
        );
    }
    golden(
        EXTENDED,
        written(|out| read.data_chunk(0x1800, 0x100, false, out)),
        &format!("{head} 0000 0001 {rest} 0000000000000108 0000000000001800"),
        false,
        ReplyBody::Data {
            offset: 0x1800,
            length: 0x100,
        },
    );
    let extents = vec![Extent {
        length: 1 << 40,
        status: 1 << 50,
    }];
    let status = to(EXTENDED, CommandType::BLOCK_STATUS);
    golden(
        EXTENDED,
        written(|out| status.block_status(7, &extents, false, out).unwrap()),
        &format!(
            "{head} 0000 0006 {rest} 0000000000000018 00000007 00000001
             0000010000000000 0004000000000000"
        ),
        false,
        ReplyBody::Status {
            context: 7,
            extents,
        },
    );
}

fn encoded_extents(reply: ReplyTo, extents: &[Extent]) -> Result<Vec<Extent>, Failure> {
    let mut out = Vec::new();
    let outcome = reply.block_status(1, extents, true, &mut out);
    if let Err(failure) = outcome {
        assert!(out.is_empty(), "a failure must leave nothing half written");
        return Err(failure);
    }
    match decoded(reply.style, &out).body {
        ReplyBody::Status { extents, .. } => Ok(extents),
        other => panic!("{other:?}"),
    }
}

#[test]
fn extents_behind_the_range_are_cut_off_and_the_last_may_reach_beyond_it() {
    let reply = to(STRUCTURED, CommandType::BLOCK_STATUS);
    let extent = |length| Extent { length, status: 0 };
    let extents = [extent(0x1000), extent(0x5000), extent(0x1000)];
    assert_eq!(encoded_extents(reply, &extents).unwrap(), extents[..2]);
    let exact = [extent(0x1000), extent(0x1000), extent(0x1000)];
    assert_eq!(encoded_extents(reply, &exact).unwrap(), exact[..2]);
}

#[test]
fn req_one_gets_one_extent_within_the_range() {
    let mut reply = to(EXTENDED, CommandType::BLOCK_STATUS);
    reply.request.flags = CommandFlags::REQ_ONE;
    let extent = |length| Extent { length, status: 1 };
    assert_eq!(
        encoded_extents(reply, &[extent(0x9000)]).unwrap(),
        [extent(0x2000)]
    );
    assert_eq!(
        encoded_extents(reply, &[extent(1), extent(1)]).unwrap(),
        [extent(1)]
    );
}

#[test]
fn what_does_not_fit_32_bits_is_never_sent_truncated() {
    let mut reply = to(STRUCTURED, CommandType::BLOCK_STATUS);
    reply.request.length = 0xffff_ffff;
    let long = [
        Extent {
            length: 1 << 34,
            status: 1,
        },
        Extent {
            length: 1,
            status: 2,
        },
    ];
    let sent = encoded_extents(reply, &long).unwrap();
    assert_eq!(
        sent,
        [Extent {
            length: 0xffff_0000,
            status: 1
        }]
    );
    let wide = [
        Extent {
            length: 512,
            status: 1,
        },
        Extent {
            length: 512,
            status: 1 << 32,
        },
    ];
    assert_eq!(encoded_extents(reply, &wide).unwrap(), wide[..1]);
    assert_eq!(
        encoded_extents(reply, &wide[1..]).unwrap_err().errno,
        Errno::EIO
    );
    assert_eq!(encoded_extents(reply, &[]).unwrap_err().errno, Errno::EIO);
    reply.style = EXTENDED;
    reply.request.length = 1 << 40;
    assert_eq!(encoded_extents(reply, &wide).unwrap(), wide);
}

#[test]
fn no_more_extents_are_sent_than_a_client_takes() {
    let mut reply = to(EXTENDED, CommandType::BLOCK_STATUS);
    reply.request.length = 1 << 40;
    let extents = vec![
        Extent {
            length: 512,
            status: 0
        };
        MAX_EXTENTS + 1
    ];
    assert_eq!(encoded_extents(reply, &extents).unwrap().len(), MAX_EXTENTS);
}

#[test]
fn an_error_is_never_sent_as_success_and_its_text_is_cut() {
    for style in STYLES {
        for kind in [CommandType::READ, CommandType::WRITE] {
            let failure = Failure::new(Errno(0), "x".repeat(10_000));
            let bytes = written(|out| to(style, kind).failure(&failure, out));
            match decoded(style, &bytes).body {
                ReplyBody::Simple { errno } => assert_eq!((style, errno), (SIMPLE, Errno::EIO)),
                ReplyBody::Error { errno, .. } => assert_eq!(errno, Errno::EIO),
                other => panic!("{other:?}"),
            }
            assert!(bytes.len() <= 32 + 6 + 4096);
        }
    }
}

#[test]
fn replies_of_another_style_are_fatal() {
    let simple = written(|out| to(SIMPLE, CommandType::WRITE).done(out));
    let structured = written(|out| to(STRUCTURED, CommandType::READ).done(out));
    let extended = written(|out| to(EXTENDED, CommandType::READ).done(out));
    for (style, wrong) in [
        (SIMPLE, &structured),
        (SIMPLE, &extended),
        (STRUCTURED, &extended),
        (EXTENDED, &simple),
        (EXTENDED, &structured),
    ] {
        assert!(matches!(
            Reply::decode(style, wrong),
            Err(DecodeError::Magic { .. })
        ));
        assert!(
            Reply::decode(style, &wrong[..4]).is_err(),
            "found with the fourth byte"
        );
    }
}

/// A chunk's header alone, in both styles that have one.
fn claim(kind: u16, flags: u16, length: u64) -> [(HeaderStyle, Vec<u8>); 2] {
    let mut structured = hex("668e33ef");
    let mut extended = hex("6e8a278c");
    for out in [&mut structured, &mut extended] {
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(COOKIE.to_be_bytes());
    }
    structured.extend((length as u32).to_be_bytes());
    extended.extend(0u64.to_be_bytes());
    extended.extend(length.to_be_bytes());
    [(STRUCTURED, structured), (EXTENDED, extended)]
}

#[test]
fn claimed_lengths_outside_the_bounds_are_refused_with_the_header_alone() {
    let cases = [
        (0, 1),
        (1, 8),
        (1, 9 + u64::from(MAX_PAYLOAD)),
        (1, u64::from(u32::MAX)),
        (2, 11),
        (2, 13),
        (5, 11),
        (5, 4 + 8 * (MAX_EXTENTS as u64 + 1)),
        (6, 23),
        (6, 8 + 16 * (MAX_EXTENTS as u64 + 1)),
        (0x8001, 5),
        (0x8001, 1 << 20),
        (0x8002, 13),
        (0x8099, 5),
    ];
    for (kind, length) in cases {
        for (style, header) in claim(kind, 1, length) {
            let outcome = Reply::decode(style, &header);
            assert!(
                matches!(
                    outcome,
                    Err(DecodeError::TooLong { .. } | DecodeError::Truncated { .. })
                ),
                "{style:?} chunk {kind:#x} of {length}: {outcome:?}"
            );
        }
    }
    let [_, (style, header)] = claim(1, 1, u64::MAX);
    assert!(matches!(
        Reply::decode(style, &header),
        Err(DecodeError::TooLong { .. })
    ));
}

#[test]
fn an_unknown_chunk_type_is_fatal_and_an_unknown_error_type_is_an_error() {
    for (style, header) in claim(3, 1, 0) {
        assert_eq!(
            Reply::decode(style, &header),
            Err(DecodeError::UnknownChunk(ChunkType(3)))
        );
    }
    for (style, mut bytes) in claim(0x8077, 1, 9) {
        bytes.extend(hex("00000063 0002 6162 ff"));
        let (reply, _) = Reply::decode(style, &bytes).unwrap().unwrap();
        let error = ReplyBody::Error {
            errno: Errno(99),
            text: "ab".into(),
            offset: None,
        };
        assert_eq!(reply.body, error);
    }
}

#[test]
fn an_error_chunk_that_says_0_is_still_an_error() {
    for (style, mut bytes) in claim(0x8001, 1, 6) {
        bytes.extend(hex("00000000 0000"));
        let (reply, _) = Reply::decode(style, &bytes).unwrap().unwrap();
        let error = ReplyBody::Error {
            errno: Errno::EINVAL,
            text: String::new(),
            offset: None,
        };
        assert_eq!(reply.body, error);
    }
}

#[test]
fn an_empty_chunk_must_be_the_last() {
    for (style, header) in claim(0, 0, 0) {
        assert!(matches!(
            Reply::decode(style, &header),
            Err(DecodeError::Value { .. })
        ));
    }
}

#[test]
fn extents_of_length_zero_and_counts_that_lie_are_fatal() {
    for (style, mut bytes) in claim(5, 1, 12) {
        bytes.extend(hex("00000001 00000000 00000000"));
        assert!(matches!(
            Reply::decode(style, &bytes),
            Err(DecodeError::Value { .. })
        ));
    }
    for (style, mut bytes) in claim(5, 1, 16) {
        bytes.extend(hex("00000001 00000001 00000000 00000000"));
        assert!(matches!(
            Reply::decode(style, &bytes),
            Err(DecodeError::Truncated { .. })
        ));
    }
    for count in ["00000002", "ffffffff"] {
        for (style, mut bytes) in claim(6, 1, 24) {
            bytes.extend(hex(&format!(
                "00000001 {count} 0000000000000001 0000000000000000"
            )));
            assert!(matches!(
                Reply::decode(style, &bytes),
                Err(DecodeError::Value { .. })
            ));
        }
    }
}

#[test]
fn a_count_of_zero_extents_leaves_the_count_to_the_chunks_length() {
    for (style, mut bytes) in claim(6, 1, 24) {
        bytes.extend(hex("00000007 00000000 0000000000000200 0000000000000001"));
        let (reply, _) = Reply::decode(style, &bytes).unwrap().unwrap();
        let extents = vec![Extent {
            length: 512,
            status: 1,
        }];
        assert_eq!(
            reply.body,
            ReplyBody::Status {
                context: 7,
                extents
            }
        );
    }
    for (style, mut bytes) in claim(6, 1, 25) {
        bytes.extend(hex(
            "00000007 00000000 0000000000000200 0000000000000001 00",
        ));
        assert!(Reply::decode(style, &bytes).is_err());
    }
}

#[test]
fn an_error_text_longer_than_its_chunk_is_fatal() {
    for (style, mut bytes) in claim(0x8001, 1, 8) {
        bytes.extend(hex("00000005 0003 6162"));
        assert!(matches!(
            Reply::decode(style, &bytes),
            Err(DecodeError::Truncated { .. })
        ));
    }
}

/// Any outcome of one request, as a server would write it.
fn any_reply() -> impl Strategy<Value = (HeaderStyle, Vec<u8>)> {
    let extents = vec((1..1u64 << 20, 0..9u64), 1..20);
    (style(), 0..7u8, any::<bool>(), extents, "[a-z]{0,50}").prop_map(
        |(style, what, done, extents, text)| {
            let extents: Vec<Extent> = extents
                .into_iter()
                .map(|(length, status)| Extent { length, status })
                .collect();
            let reply = to(style, CommandType::READ);
            let failure = Failure::new(Errno::EIO, text);
            let bytes = written(|out| match (what, style) {
                (0, _) => reply.done(out),
                (1, _) => reply.failure(&failure, out),
                (_, SIMPLE) | (2, _) => reply.data_header(0x2000, out),
                (3, _) => reply.data_chunk(0x1800, 0x100, done, out),
                (4, _) => reply.hole(0x1800, 0x100, done, out),
                (5, _) => reply.failure_at(&failure, 0x1800, done, out),
                _ => reply.block_status(7, &extents, done, out).unwrap(),
            });
            (style, bytes)
        },
    )
}

proptest! {
    #[test]
    fn every_beginning_of_a_reply_is_incomplete((style, bytes) in any_reply()) {
        for end in 0..bytes.len() {
            prop_assert_eq!(Reply::decode(style, &bytes[..end]), Ok(None));
        }
        let (_, used) = Reply::decode(style, &bytes).unwrap().unwrap();
        prop_assert_eq!(used, bytes.len());
    }

    #[test]
    fn any_extents_survive_the_wire(
        extended: bool,
        extents in vec((1..0x100u64, any::<u32>()), 1..20),
    ) {
        let extents: Vec<Extent> = extents
            .into_iter()
            .map(|(length, status)| Extent { length, status: u64::from(status) })
            .collect();
        let style = if extended { EXTENDED } else { STRUCTURED };
        let reply = to(style, CommandType::BLOCK_STATUS);
        prop_assert_eq!(encoded_extents(reply, &extents), Ok(extents));
    }

    #[test]
    fn changed_replies_and_any_bytes_neither_panic_nor_cost_memory(
        (style, mut bytes) in any_reply(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in vec(any::<u8>(), 0..100),
    ) {
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.extend(tail);
        for style in [style, SIMPLE, STRUCTURED, EXTENDED] {
            if let Ok(Some((reply, used))) = Reply::decode(style, &bytes) {
                prop_assert!(used <= bytes.len() && used <= Reply::MAX_SIZE);
                match reply.body {
                    ReplyBody::Status { extents, .. } => {
                        prop_assert!(extents.capacity() <= bytes.len() / 8);
                    }
                    ReplyBody::Error { text, .. } => prop_assert!(text.len() <= bytes.len() * 10),
                    ReplyBody::Data { length, .. } => prop_assert!(length <= MAX_PAYLOAD),
                    _ => {}
                }
            }
        }
    }
}
