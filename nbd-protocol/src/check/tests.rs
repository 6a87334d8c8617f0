//! Every rule of the checks, and the promise that nothing that passes reaches outside of the export.

use proptest::prelude::*;

use super::*;
use crate::testing::{STYLES, request, style};

const SIZE: u64 = 1 << 20;

/// An export that offers everything.
fn shape(style: HeaderStyle) -> ExportShape {
    ExportShape {
        size: SIZE,
        flags: TransmissionFlags(0x1fff).without(TransmissionFlags::READ_ONLY),
        minimum_block: 1,
        maximum_payload: 64 << 20,
        style,
        contexts: if style == HeaderStyle::Simple { 0 } else { 1 },
    }
}

/// The request as a client with this style would send it.
fn proper(style: HeaderStyle, kind: CommandType, offset: u64, length: u64) -> RequestHeader {
    let mut header = request(kind, offset, length);
    if kind == CommandType::WRITE && style == HeaderStyle::Extended {
        header.flags = CommandFlags::PAYLOAD_LEN;
    }
    header
}

fn errno(header: &RequestHeader, shape: &ExportShape) -> Errno {
    match check(header, shape) {
        Err(failure) => failure.errno,
        Ok(checked) => panic!("{header:?} passed as {checked:?}"),
    }
}

const RANGED: [CommandType; 6] = [
    CommandType::READ,
    CommandType::WRITE,
    CommandType::TRIM,
    CommandType::CACHE,
    CommandType::WRITE_ZEROES,
    CommandType::BLOCK_STATUS,
];

fn beyond_end(kind: CommandType) -> Errno {
    match kind {
        CommandType::WRITE | CommandType::WRITE_ZEROES => Errno::ENOSPC,
        _ => Errno::EINVAL,
    }
}

#[test]
fn every_command_within_the_export_passes() {
    for style in STYLES {
        for kind in RANGED {
            if kind == CommandType::BLOCK_STATUS && style == HeaderStyle::Simple {
                continue;
            }
            for (offset, length) in [(0, SIZE), (SIZE - 1, 1), (0, 1), (SIZE / 2, SIZE / 2)] {
                let header = proper(style, kind, offset, length);
                assert!(
                    check(&header, &shape(style)).is_ok(),
                    "{style:?} {header:?}"
                );
            }
        }
    }
}

#[test]
fn beyond_the_end_is_enospc_for_writes_and_einval_for_the_rest() {
    let style = HeaderStyle::Extended;
    for kind in RANGED {
        let cases = [
            (0, SIZE + 1),
            (SIZE, 1),
            (SIZE - 1, 2),
            (SIZE + 1, 1),
            (u64::MAX, 1),
            (1, u64::MAX),
            (u64::MAX, u64::MAX),
        ];
        for (offset, length) in cases {
            let header = proper(style, kind, offset, length);
            assert_eq!(
                errno(&header, &shape(style)),
                beyond_end(kind),
                "{header:?}"
            );
        }
    }
}

#[test]
fn a_length_of_zero_is_einval_for_every_command_with_a_range() {
    for kind in RANGED {
        for offset in [0, SIZE] {
            let header = proper(HeaderStyle::Structured, kind, offset, 0);
            assert_eq!(
                errno(&header, &shape(HeaderStyle::Structured)),
                Errno::EINVAL
            );
        }
    }
}

#[test]
fn what_changes_data_is_eperm_on_a_read_only_export_even_beyond_its_end() {
    for style in STYLES {
        let mut shape = shape(style);
        shape.flags |= TransmissionFlags::READ_ONLY;
        for kind in [
            CommandType::WRITE,
            CommandType::TRIM,
            CommandType::WRITE_ZEROES,
        ] {
            for length in [512, SIZE + 1] {
                assert_eq!(errno(&proper(style, kind, 0, length), &shape), Errno::EPERM);
            }
        }
        assert!(check(&proper(style, CommandType::READ, 0, 512), &shape).is_ok());
    }
}

#[test]
fn unaligned_is_einval_in_offset_and_in_length() {
    let mut shape = shape(HeaderStyle::Extended);
    shape.minimum_block = 4096;
    for kind in RANGED {
        for (offset, length) in [(512, 4096), (4096, 512), (4095, 4097)] {
            let header = proper(HeaderStyle::Extended, kind, offset, length);
            assert_eq!(errno(&header, &shape), Errno::EINVAL, "{header:?}");
        }
        assert!(check(&proper(HeaderStyle::Extended, kind, 4096, 8192), &shape).is_ok());
    }
}

#[test]
fn unknown_commands_and_flags_are_einval() {
    for style in STYLES {
        let shape = shape(style);
        for kind in [CommandType::RESIZE, CommandType(9), CommandType(u16::MAX)] {
            assert_eq!(errno(&request(kind, 0, 512), &shape), Errno::EINVAL);
        }
        for kind in RANGED {
            for bit in 6..16 {
                let mut header = proper(style, kind, 0, 512);
                header.flags |= CommandFlags(1 << bit);
                assert_eq!(errno(&header, &shape), Errno::EINVAL);
            }
        }
    }
}

/// The whitelist, written out once more: which flags which command takes where everything was negotiated.
#[test]
fn each_command_takes_its_own_flags_and_no_other() {
    use CommandFlags as F;
    let style = HeaderStyle::Extended;
    let table = [
        (CommandType::READ, F::FUA | F::DF),
        (CommandType::WRITE, F::FUA | F::PAYLOAD_LEN),
        (CommandType::TRIM, F::FUA),
        (CommandType::CACHE, F::FUA),
        (
            CommandType::WRITE_ZEROES,
            F::FUA | F::NO_HOLE | F::FAST_ZERO,
        ),
        (
            CommandType::BLOCK_STATUS,
            F::FUA | F::REQ_ONE | F::PAYLOAD_LEN,
        ),
        (CommandType::FLUSH, F::FUA),
    ];
    for (kind, allowed) in table {
        for flag in F::NAMED {
            let range = if kind == CommandType::FLUSH { 0 } else { 512 };
            let mut header = proper(style, kind, range, range);
            header.flags |= *flag;
            let passed = check(&header, &shape(style)).is_ok();
            assert_eq!(passed, allowed.contains(*flag), "{kind:?} with {flag:?}");
        }
    }
}

#[test]
fn a_flag_that_was_not_advertised_is_einval() {
    let cases = [
        (
            CommandType::READ,
            CommandFlags::DF,
            TransmissionFlags::SEND_DF,
        ),
        (
            CommandType::READ,
            CommandFlags::FUA,
            TransmissionFlags::SEND_FUA,
        ),
        (
            CommandType::WRITE,
            CommandFlags::FUA,
            TransmissionFlags::SEND_FUA,
        ),
        (
            CommandType::WRITE_ZEROES,
            CommandFlags::FAST_ZERO,
            TransmissionFlags::SEND_FAST_ZERO,
        ),
        (
            CommandType::BLOCK_STATUS,
            CommandFlags::PAYLOAD_LEN,
            TransmissionFlags::BLOCK_STATUS_PAYLOAD,
        ),
    ];
    for (kind, flag, offer) in cases {
        let mut shape = shape(HeaderStyle::Extended);
        let mut header = proper(HeaderStyle::Extended, kind, 0, 512);
        header.flags |= flag;
        assert!(check(&header, &shape).is_ok());
        shape.flags = shape.flags.without(offer);
        assert_eq!(errno(&header, &shape), Errno::EINVAL, "{kind:?} {flag:?}");
    }
}

#[test]
fn df_and_payload_len_are_einval_where_the_style_has_no_room_for_them() {
    let mut header = request(CommandType::READ, 0, 512);
    header.flags = CommandFlags::DF;
    assert_eq!(errno(&header, &shape(HeaderStyle::Simple)), Errno::EINVAL);
    let mut header = request(CommandType::WRITE, 0, 512);
    header.flags = CommandFlags::PAYLOAD_LEN;
    assert_eq!(
        errno(&header, &shape(HeaderStyle::Structured)),
        Errno::EINVAL
    );
}

#[test]
fn a_write_as_qemu_10_sends_it_is_taken_with_its_payload() {
    // Extended headers, FUA, and no PAYLOAD_LEN.
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&[0x21, 0xe4, 0x1c, 0x71, 0, 1, 0, 1]);
    bytes[15] = 1;
    bytes[30] = 0x10;
    let header = RequestHeader::decode(HeaderStyle::Extended, &bytes).unwrap();
    let header = header.unwrap();
    assert_eq!(header.payload_length(HeaderStyle::Extended), Ok(4096));
    let write = Checked::Write {
        offset: 0,
        length: 4096,
        fua: true,
    };
    assert_eq!(check(&header, &shape(HeaderStyle::Extended)), Ok(write));
}

#[test]
fn a_command_that_was_not_advertised_is_einval_but_cache() {
    let mut shape = shape(HeaderStyle::Structured);
    shape.flags = TransmissionFlags::HAS_FLAGS;
    let flush = request(CommandType::FLUSH, 0, 0);
    assert_eq!(errno(&flush, &shape), Errno::EINVAL);
    for kind in [CommandType::TRIM, CommandType::WRITE_ZEROES] {
        assert_eq!(errno(&request(kind, 0, 512), &shape), Errno::EINVAL);
    }
    assert!(check(&request(CommandType::CACHE, 0, 512), &shape).is_ok());
    assert!(check(&request(CommandType::WRITE, 0, 512), &shape).is_ok());
}

#[test]
fn block_status_without_a_negotiated_context_is_einval() {
    let mut shape = shape(HeaderStyle::Structured);
    let header = request(CommandType::BLOCK_STATUS, 0, 512);
    assert!(check(&header, &shape).is_ok());
    shape.contexts = 0;
    assert_eq!(errno(&header, &shape), Errno::EINVAL);
}

#[test]
fn a_flush_with_offset_or_length_is_einval() {
    let shape = shape(HeaderStyle::Simple);
    assert_eq!(
        errno(&request(CommandType::FLUSH, 0, 512), &shape),
        Errno::EINVAL
    );
    assert_eq!(
        errno(&request(CommandType::FLUSH, 512, 0), &shape),
        Errno::EINVAL
    );
    let flush = check(&request(CommandType::FLUSH, 0, 0), &shape);
    assert_eq!(flush, Ok(Checked::Command(Command::Flush)));
}

#[test]
fn disc_is_obeyed_whatever_it_carries() {
    let mut header = request(CommandType::DISC, u64::MAX, 77);
    header.flags = CommandFlags(0xffff);
    for style in STYLES {
        assert_eq!(check(&header, &shape(style)), Ok(Checked::Disconnect));
    }
}

#[test]
fn reads_and_writes_above_the_maximum_payload_are_einval_but_zeroes_are_not() {
    let style = HeaderStyle::Extended;
    let mut shape = shape(style);
    shape.size = 1 << 40;
    let above = u64::from(shape.maximum_payload) + 1;
    for kind in [CommandType::READ, CommandType::WRITE] {
        assert_eq!(errno(&proper(style, kind, 0, above), &shape), Errno::EINVAL);
        assert!(check(&proper(style, kind, 0, above - 1), &shape).is_ok());
        assert_eq!(
            errno(&proper(style, kind, 0, 1 << 32), &shape),
            Errno::EINVAL
        );
    }
    let zeroes = proper(style, CommandType::WRITE_ZEROES, 0, 1 << 40);
    assert!(check(&zeroes, &shape).is_ok());
}

#[test]
fn flags_and_payload_end_up_in_the_command() {
    let shape = shape(HeaderStyle::Structured);
    let mut header = request(CommandType::WRITE_ZEROES, 512, 1024);
    header.flags = CommandFlags::FUA | CommandFlags::FAST_ZERO;
    let (offset, length) = (512, 1024);
    let zeroes = Command::WriteZeroes {
        offset,
        length,
        fua: true,
        no_hole: false,
        fast: true,
    };
    assert_eq!(check(&header, &shape), Ok(Checked::Command(zeroes)));

    let mut header = request(CommandType::WRITE, 512, 3);
    header.flags = CommandFlags::FUA;
    let checked = check(&header, &shape).unwrap();
    assert_eq!(
        checked,
        Checked::Write {
            offset,
            length: 3,
            fua: true
        }
    );
    let data = Bytes::from_static(b"abc");
    let write = Command::Write {
        offset,
        data: data.clone(),
        fua: true,
    };
    assert_eq!(checked.with_data(data), Some(write));

    let mut header = request(CommandType::BLOCK_STATUS, 512, 1024);
    header.flags = CommandFlags::REQ_ONE;
    let status = Checked::BlockStatus {
        offset,
        length: 1024,
        one: true,
    };
    assert_eq!(check(&header, &shape), Ok(status));
}

#[test]
fn a_status_payload_chooses_among_the_selected_contexts_only() {
    let shape = shape(HeaderStyle::Extended);
    let ask = |effect_length, contexts: &[u32]| {
        let payload = StatusPayload {
            effect_length,
            contexts: contexts.to_vec(),
        };
        check_status_payload(512, &payload, &[5, 6, 9], &shape).map_err(|failure| failure.errno)
    };
    assert_eq!(ask(1024, &[9, 5]), Ok((1024, vec![2, 0])));
    assert_eq!(ask(1024, &[7]), Err(Errno::EINVAL));
    assert_eq!(ask(1024, &[5, 5]), Err(Errno::EINVAL));
    assert_eq!(ask(1024, &[]), Err(Errno::EINVAL));
    assert_eq!(ask(SIZE, &[5]), Err(Errno::EINVAL));
}

#[test]
fn a_status_payload_of_more_ids_than_are_taken_is_einval_before_it_is_received() {
    let mut header = request(CommandType::BLOCK_STATUS, 512, 8 + 4 * 256);
    header.flags = CommandFlags::PAYLOAD_LEN;
    let shape = shape(HeaderStyle::Extended);
    let expected = Checked::BlockStatusPayload {
        offset: 512,
        length: 8 + 4 * 256,
        one: false,
    };
    assert_eq!(check(&header, &shape), Ok(expected));
    header.length += 4;
    assert_eq!(errno(&header, &shape), Errno::EINVAL);
}

proptest! {
    /// The invariant that the server builds on.
    #[test]
    fn whatever_passes_lies_within_the_export_and_is_aligned(
        style in style(),
        flags: u16,
        offered: u16,
        kind in 0..10u16,
        offset in prop_oneof![0..2 * SIZE, any::<u64>()],
        length in prop_oneof![0..2 * SIZE, any::<u64>()],
        block in 0..17u32,
    ) {
        let mut header = request(CommandType(kind), offset, length);
        header.flags = CommandFlags(flags & 0x3f);
        let mut shape = shape(style);
        shape.flags = TransmissionFlags(offered);
        shape.minimum_block = 1 << block;
        let command = match check(&header, &shape) {
            Ok(Checked::Write { offset, length, fua }) => {
                prop_assert!(length <= shape.maximum_payload);
                Command::Trim { offset, length: length.into(), fua }
            }
            Ok(Checked::BlockStatus { offset, length, one }) => {
                Command::BlockStatus { offset, length, one, context: 0 }
            }
            Ok(Checked::Command(command)) => command,
            Ok(Checked::Disconnect | Checked::BlockStatusPayload { .. }) => return Ok(()),
            Err(failure) => {
                let known = [Errno::EINVAL, Errno::ENOSPC, Errno::EPERM];
                prop_assert!(known.contains(&failure.errno));
                return Ok(());
            }
        };
        if let Some((offset, length)) = command.range() {
            prop_assert!(length > 0 && offset.checked_add(length).is_some_and(|end| end <= SIZE));
            prop_assert_eq!(offset % u64::from(shape.minimum_block), 0);
            prop_assert_eq!(length % u64::from(shape.minimum_block), 0);
        }
        if command.changes_data() {
            prop_assert!(!shape.flags.contains(TransmissionFlags::READ_ONLY));
        }
    }
}
