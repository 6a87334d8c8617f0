//! Answers that fit, answers that don't.

use proptest::prelude::*;

use super::*;
use crate::testing::request;

const OFFSET: u64 = 0x1000;
const LENGTH: u64 = 0x2000;

fn pending(style: HeaderStyle, kind: CommandType) -> Pending {
    Pending::new(style, request(kind, OFFSET, LENGTH), &[3, 4])
}

fn reply(done: bool, body: ReplyBody) -> Reply {
    Reply {
        cookie: 0,
        done,
        request_offset: None,
        body,
    }
}

fn data(offset: u64, length: u32, done: bool) -> Reply {
    reply(done, ReplyBody::Data { offset, length })
}

fn simple(errno: u32) -> Reply {
    reply(
        true,
        ReplyBody::Simple {
            errno: Errno(errno),
        },
    )
}

fn error(errno: Errno, text: &str, offset: Option<u64>, done: bool) -> Reply {
    reply(
        done,
        ReplyBody::Error {
            errno,
            text: text.into(),
            offset,
        },
    )
}

fn status(context: u32, lengths: &[u64], done: bool) -> Reply {
    let extents = lengths
        .iter()
        .map(|length| Extent {
            length: *length,
            status: 0,
        })
        .collect();
    reply(done, ReplyBody::Status { context, extents })
}

fn nothing() -> Reply {
    reply(true, ReplyBody::Nothing)
}

#[test]
fn a_simple_read_announces_its_whole_range() {
    let mut read = pending(HeaderStyle::Simple, CommandType::READ);
    let accepted = read.accept(&simple(0)).unwrap();
    let whole = Piece {
        at: 0,
        length: LENGTH as usize,
    };
    assert_eq!(
        accepted,
        Accepted {
            data: Some(whole),
            zeroes: None,
            finished: true
        }
    );
    assert_eq!(read.finish(), Ok(()));
}

#[test]
fn a_simple_error_announces_nothing_and_is_the_outcome() {
    let mut read = pending(HeaderStyle::Simple, CommandType::READ);
    let accepted = read.accept(&simple(5)).unwrap();
    assert_eq!(
        accepted,
        Accepted {
            finished: true,
            ..Accepted::default()
        }
    );
    assert_eq!(read.finish().unwrap_err().errno, Errno::EIO);
}

#[test]
fn a_simple_reply_to_a_structured_read_is_a_violation_even_as_an_error() {
    for errno in [0, 22] {
        let mut read = pending(HeaderStyle::Structured, CommandType::READ);
        assert!(matches!(
            read.accept(&simple(errno)),
            Err(Violation::Unfitting { .. })
        ));
    }
    let mut write = pending(HeaderStyle::Structured, CommandType::WRITE);
    assert!(write.accept(&simple(0)).unwrap().finished);
}

#[test]
fn pieces_in_any_order_cover_a_read_and_holes_are_filled() {
    let mut read = pending(HeaderStyle::Structured, CommandType::READ);
    let accepted = read.accept(&data(0x2000, 0x800, false)).unwrap();
    assert_eq!(
        accepted.data,
        Some(Piece {
            at: 0x1000,
            length: 0x800
        })
    );
    assert!(!accepted.finished);
    let hole = ReplyBody::Hole {
        offset: 0x2800,
        length: 0x800,
    };
    let accepted = read.accept(&reply(false, hole)).unwrap();
    assert_eq!(
        accepted.zeroes,
        Some(Piece {
            at: 0x1800,
            length: 0x800
        })
    );
    read.accept(&data(0x1000, 0x1000, false)).unwrap();
    assert!(read.accept(&nothing()).unwrap().finished);
    assert_eq!(read.finish(), Ok(()));
}

#[test]
fn a_read_that_ends_with_a_gap_is_a_violation_and_never_a_success() {
    let mut read = pending(HeaderStyle::Structured, CommandType::READ);
    read.accept(&data(0x1000, 0xfff, false)).unwrap();
    let missing = Err(Violation::Missing {
        what: "all of the data",
    });
    assert_eq!(read.accept(&data(0x2000, 0x1000, true)), missing);
    let mut read = pending(HeaderStyle::Extended, CommandType::READ);
    assert_eq!(read.accept(&nothing()), missing);
}

#[test]
fn a_read_that_fails_half_way_needs_no_more_data() {
    let mut read = pending(HeaderStyle::Structured, CommandType::READ);
    read.accept(&data(0x1000, 0x1000, false)).unwrap();
    read.accept(&error(Errno::EIO, "bad sector", Some(0x2200), false))
        .unwrap();
    read.accept(&error(Errno::EINVAL, "later", None, false))
        .unwrap();
    assert!(read.accept(&nothing()).unwrap().finished);
    assert_eq!(
        read.finish(),
        Err(Failure::new(Errno::EIO, "bad sector (at 8704)"))
    );
}

#[test]
fn data_outside_of_the_request_or_twice_is_a_violation() {
    let outside = [
        (0xfff, 1),
        (0x3000, 1),
        (0x2fff, 2),
        (0x1000, 0x2001),
        (u64::MAX, u32::MAX),
    ];
    for (offset, length) in outside {
        let mut read = pending(HeaderStyle::Structured, CommandType::READ);
        let accepted = read.accept(&data(offset, length, false));
        assert!(
            matches!(accepted, Err(Violation::Outside { .. })),
            "{offset:#x}+{length:#x}"
        );
    }
    let overlaps = [
        (0x1800, 0x800),
        (0x17ff, 2),
        (0x1fff, 1),
        (0x1fff, 2),
        (0x1000, 0x2000),
    ];
    for (offset, length) in overlaps {
        let mut read = pending(HeaderStyle::Structured, CommandType::READ);
        read.accept(&data(0x1800, 0x800, false)).unwrap();
        let accepted = read.accept(&data(offset, length, false));
        assert!(
            matches!(accepted, Err(Violation::Twice { .. })),
            "{offset:#x}+{length:#x}"
        );
    }
    let mut read = pending(HeaderStyle::Structured, CommandType::READ);
    read.accept(&data(0x1000, 0x2000, false)).unwrap();
    assert!(matches!(
        read.accept(&data(0x1000, 1, false)),
        Err(Violation::Twice { .. })
    ));
}

#[test]
fn df_allows_one_piece() {
    let mut header = request(CommandType::READ, OFFSET, LENGTH);
    header.flags = CommandFlags::DF;
    let mut read = Pending::new(HeaderStyle::Structured, header, &[]);
    read.accept(&data(0x1000, 0x1000, false)).unwrap();
    let second = read.accept(&data(0x2000, 0x1000, false));
    assert!(matches!(second, Err(Violation::Unfitting { .. })));
}

#[test]
fn a_read_in_countless_pieces_is_a_violation() {
    let header = request(CommandType::READ, 0, 1 << 20);
    let mut read = Pending::new(HeaderStyle::Structured, header, &[]);
    let crumbs = (0..1 << 19).map(|i| data(2 * i, 1, false));
    let taken = crumbs
        .take_while(|crumb| read.accept(crumb).is_ok())
        .count();
    assert_eq!(taken, MAX_PIECES);
    // In order the same bytes are one piece.
    let mut read = Pending::new(HeaderStyle::Structured, header, &[]);
    for i in 0..1 << 20 {
        read.accept(&data(i, 1, i + 1 == 1 << 20)).unwrap();
    }
    assert_eq!(read.finish(), Ok(()));
}

#[test]
fn data_or_extents_for_another_command_are_a_violation() {
    let mut write = pending(HeaderStyle::Structured, CommandType::WRITE);
    assert!(write.accept(&data(0x1000, 1, false)).is_err());
    let hole = ReplyBody::Hole {
        offset: 0x1000,
        length: 1,
    };
    assert!(write.accept(&reply(false, hole)).is_err());
    assert!(write.accept(&status(3, &[512], true)).is_err());
    let mut query = pending(HeaderStyle::Structured, CommandType::BLOCK_STATUS);
    assert!(query.accept(&data(0x1000, 1, false)).is_err());
}

#[test]
fn block_status_needs_exactly_one_chunk_per_context() {
    let query = || pending(HeaderStyle::Structured, CommandType::BLOCK_STATUS);
    let mut both = query();
    both.accept(&status(4, &[0x1000, 0x1000], false)).unwrap();
    assert!(both.accept(&status(3, &[0x9000], true)).unwrap().finished);
    assert_eq!(both.finish(), Ok(()));

    let mut one = query();
    assert!(matches!(
        one.accept(&status(4, &[0x2000], true)),
        Err(Violation::Missing { .. })
    ));
    let mut twice = query();
    twice.accept(&status(4, &[0x2000], false)).unwrap();
    assert_eq!(
        twice.accept(&status(4, &[0x2000], false)),
        Err(Violation::Context(4))
    );
    assert_eq!(
        query().accept(&status(5, &[0x2000], false)),
        Err(Violation::Context(5))
    );
    assert!(matches!(
        query().accept(&simple(0)),
        Err(Violation::Missing { .. })
    ));
    assert!(query().accept(&simple(22)).unwrap().finished);
}

#[test]
fn extents_behind_the_end_are_a_violation() {
    let query = || pending(HeaderStyle::Extended, CommandType::BLOCK_STATUS);
    assert!(query().accept(&status(3, &[0x1fff, 0x9000], false)).is_ok());
    for lengths in [
        &[0x2000, 1][..],
        &[0x1000, 0x1000, 1],
        &[u64::MAX, u64::MAX],
        &[],
    ] {
        assert_eq!(
            query().accept(&status(3, lengths, false)),
            Err(Violation::Extents)
        );
    }
    let mut header = request(CommandType::BLOCK_STATUS, OFFSET, LENGTH);
    header.flags = CommandFlags::REQ_ONE;
    let mut one = Pending::new(HeaderStyle::Extended, header, &[3]);
    assert_eq!(
        one.accept(&status(3, &[1, 1], true)),
        Err(Violation::Extents)
    );
}

#[test]
fn an_extended_reply_must_repeat_the_offset() {
    let mut write = pending(HeaderStyle::Extended, CommandType::WRITE);
    let mut done = nothing();
    done.request_offset = Some(OFFSET + 1);
    let found = OFFSET + 1;
    assert_eq!(
        write.accept(&done),
        Err(Violation::Offset {
            expected: OFFSET,
            found
        })
    );
    done.request_offset = Some(OFFSET);
    assert!(write.accept(&done).unwrap().finished);
}

#[test]
fn an_error_outside_of_the_request_is_a_violation() {
    for offset in [OFFSET - 1, OFFSET + LENGTH, u64::MAX] {
        let mut read = pending(HeaderStyle::Structured, CommandType::READ);
        let accepted = read.accept(&error(Errno::EIO, "", Some(offset), true));
        assert!(matches!(accepted, Err(Violation::Outside { .. })));
    }
}

proptest! {
    /// Against a bitmap: success means that every byte came exactly once.
    #[test]
    fn success_of_a_read_means_that_every_byte_came_once(
        pieces in proptest::collection::vec((0..40u64, 1..20u32, any::<bool>()), 1..12),
    ) {
        let header = request(CommandType::READ, 4, 32);
        let mut read = Pending::new(HeaderStyle::Structured, header, &[]);
        let mut seen = [false; 64];
        for (offset, length, hole) in pieces {
            let body = if hole {
                ReplyBody::Hole { offset, length }
            } else {
                ReplyBody::Data { offset, length }
            };
            let range = offset as usize..offset as usize + length as usize;
            let inside = range.start >= 4 && range.end <= 36;
            let fits = inside && !seen[range.clone()].contains(&true);
            let accepted = read.accept(&reply(false, body));
            prop_assert_eq!(accepted.is_ok(), fits);
            if !fits {
                return Ok(());
            }
            seen[range].fill(true);
        }
        let complete = seen[4..36].iter().all(|byte| *byte);
        prop_assert_eq!(read.accept(&nothing()).is_ok(), complete);
    }
}
