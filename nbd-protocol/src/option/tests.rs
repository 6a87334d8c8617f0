//! Golden bytes, round trips and hostile input for the handshake's messages.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::error::DecodeError;
use crate::limit::{MAX_OPTION_DATA, MAX_QUERIES, MAX_STRING};
use crate::number::{Info, Opt, Rep, TransmissionFlags};
use crate::testing::{hex, string};

fn sent(option: &ClientOption) -> Vec<u8> {
    let mut bytes = Vec::new();
    option.encode(&mut bytes).unwrap();
    bytes
}

fn answered(option: Opt, reply: &OptionReply) -> Vec<u8> {
    let mut bytes = Vec::new();
    reply.encode(option, &mut bytes).unwrap();
    bytes
}

/// Checks both directions of an option.
fn golden_option(option: ClientOption, digits: &str) {
    let bytes = hex(digits);
    assert_eq!(sent(&option), bytes, "{option:?}");
    let header = OptionHeader::decode(&bytes).unwrap().unwrap();
    assert_eq!(header.length as usize, bytes.len() - OptionHeader::SIZE);
    assert_eq!(
        ClientOption::decode(header.option, &bytes[OptionHeader::SIZE..]),
        Ok(option)
    );
}

/// Checks both directions of a reply.
fn golden_reply(option: Opt, reply: OptionReply, digits: &str) {
    let bytes = hex(digits);
    assert_eq!(answered(option, &reply), bytes, "{reply:?}");
    let header = ReplyHeader::decode(&bytes).unwrap().unwrap();
    assert_eq!(header.option, option);
    assert_eq!(header.length as usize, bytes.len() - ReplyHeader::SIZE);
    assert_eq!(
        OptionReply::decode(header.reply, &bytes[ReplyHeader::SIZE..]),
        Ok(reply)
    );
}

const EXPORT: &str = "disk";

#[test]
fn golden_option_types() {
    let magic = "49484156454f5054";
    golden_option(
        ClientOption::ExportName(EXPORT.into()),
        &format!("{magic} 00000001 00000004 6469736b"),
    );
    golden_option(ClientOption::Abort, &format!("{magic} 00000002 00000000"));
    golden_option(ClientOption::List, &format!("{magic} 00000003 00000000"));
    golden_option(
        ClientOption::StartTls,
        &format!("{magic} 00000005 00000000"),
    );
    golden_option(
        ClientOption::StructuredReply,
        &format!("{magic} 00000008 00000000"),
    );
    golden_option(
        ClientOption::ExtendedHeaders,
        &format!("{magic} 0000000b 00000000"),
    );
    let data = Bytes::from_static(&[1, 2]);
    golden_option(
        ClientOption::Unknown {
            option: Opt(0x77),
            data,
        },
        &format!("{magic} 00000077 00000002 0102"),
    );
}

#[test]
fn golden_nbd_opt_info_and_go() {
    let request = InfoRequest {
        export: EXPORT.into(),
        infos: vec![Info::NAME, Info::BLOCK_SIZE],
    };
    let data = "0000000e 00000004 6469736b 0002 0001 0003";
    golden_option(
        ClientOption::Info(request.clone()),
        &format!("49484156454f5054 00000006 {data}"),
    );
    golden_option(
        ClientOption::Go(request),
        &format!("49484156454f5054 00000007 {data}"),
    );
}

#[test]
fn golden_nbd_opt_list_and_set_meta_context() {
    let request = MetaRequest {
        export: EXPORT.into(),
        queries: vec!["base:allocation".into(), "x".into()],
    };
    let data = "00000024 00000004 6469736b 00000002
                0000000f 626173653a616c6c6f636174696f6e 00000001 78";
    golden_option(
        ClientOption::ListMetaContext(request.clone()),
        &format!("49484156454f5054 00000009 {data}"),
    );
    golden_option(
        ClientOption::SetMetaContext(request),
        &format!("49484156454f5054 0000000a {data}"),
    );
}

#[test]
fn golden_option_reply_types() {
    let magic = "0003e889045565a9";
    golden_reply(
        Opt::LIST,
        OptionReply::Ack,
        &format!("{magic} 00000003 00000001 00000000"),
    );
    golden_reply(
        Opt::LIST,
        OptionReply::Server {
            name: EXPORT.into(),
            description: "x".into(),
        },
        &format!("{magic} 00000003 00000002 00000009 00000004 6469736b 78"),
    );
    golden_reply(
        Opt::SET_META_CONTEXT,
        OptionReply::MetaContext {
            id: 7,
            name: "base:allocation".into(),
        },
        &format!("{magic} 0000000a 00000004 00000013 00000007 626173653a616c6c6f636174696f6e"),
    );
    golden_reply(
        Opt::STARTTLS,
        OptionReply::Error {
            reply: Rep::ERR_POLICY,
            text: "no".into(),
        },
        &format!("{magic} 00000005 80000002 00000002 6e6f"),
    );
    golden_reply(
        Opt::GO,
        OptionReply::Unknown {
            reply: Rep(0x99),
            data: Bytes::from_static(b"\xff"),
        },
        &format!("{magic} 00000007 00000099 00000001 ff"),
    );
}

#[test]
fn golden_nbd_rep_info() {
    let magic = "0003e889045565a9 00000007 00000003";
    let go = |info, digits: &str| {
        golden_reply(
            Opt::GO,
            OptionReply::Info(info),
            &format!("{magic} {digits}"),
        );
    };
    let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
    go(
        InfoReply::Export {
            size: 1 << 40,
            flags,
        },
        "0000000c 0000 0000010000000000 0005",
    );
    go(InfoReply::Name("n".into()), "00000003 0001 6e");
    go(InfoReply::Description("d".into()), "00000003 0002 64");
    go(
        InfoReply::BlockSize {
            minimum: 1,
            preferred: 4096,
            maximum: 32 << 20,
        },
        "0000000e 0003 00000001 00001000 02000000",
    );
    let data = Bytes::from_static(&[0xab]);
    go(
        InfoReply::Unknown {
            info: Info(0x1234),
            data,
        },
        "00000003 1234 ab",
    );
}

#[test]
fn trailing_garbage_in_info_go_list_and_starttls_is_an_error() {
    let mut data = hex("00000004 6469736b 0001 0003");
    assert!(ClientOption::decode(Opt::GO, &data).is_ok());
    data.push(0);
    for option in [
        Opt::GO,
        Opt::INFO,
        Opt::LIST,
        Opt::STARTTLS,
        Opt::STRUCTURED_REPLY,
    ] {
        let error = ClientOption::decode(option, &data).unwrap_err();
        assert!(
            matches!(error, DecodeError::Trailing { .. }),
            "{option:?}: {error}"
        );
    }
    assert_eq!(
        ClientOption::decode(Opt::ABORT, &data),
        Ok(ClientOption::Abort)
    );
}

#[test]
fn lengths_that_lie_are_truncated_and_lengths_above_the_limit_are_too_long() {
    let name = |length: u32, bytes: usize| {
        let mut data = length.to_be_bytes().to_vec();
        data.resize(4 + bytes, b'a');
        data.extend([0, 0]);
        ClientOption::decode(Opt::GO, &data)
    };
    assert!(name(4096, 4096).is_ok());
    assert!(matches!(name(4097, 4097), Err(DecodeError::TooLong { .. })));
    assert!(matches!(
        name(u32::MAX, 4096),
        Err(DecodeError::Truncated { .. })
    ));
    // A count of informations that reaches beyond the data.
    let lie = hex("00000000 ffff 0000");
    assert!(matches!(
        ClientOption::decode(Opt::INFO, &lie),
        Err(DecodeError::Truncated { .. })
    ));
    // A count of queries that the data can't hold, and one that they can but that is too much.
    let lie = hex("00000000 80000000 00000000");
    let list = |data: &[u8]| ClientOption::decode(Opt::LIST_META_CONTEXT, data);
    assert!(matches!(list(&lie), Err(DecodeError::Truncated { .. })));
    let mut many = hex("00000000");
    many.extend((MAX_QUERIES + 1).to_be_bytes());
    many.extend(vec![0; 4 * (MAX_QUERIES as usize + 1)]);
    assert!(matches!(list(&many), Err(DecodeError::TooLong { .. })));
}

#[test]
fn strings_with_nul_or_broken_utf8_are_errors() {
    for data in [&b"a\0b"[..], b"\xff", b"\xc3"] {
        let error = ClientOption::decode(Opt::EXPORT_NAME, data).unwrap_err();
        assert!(matches!(error, DecodeError::Text { .. }), "{error}");
    }
    let mut out = Vec::new();
    assert!(
        ClientOption::ExportName("a\0".into())
            .encode(&mut out)
            .is_err()
    );
    assert!(
        ClientOption::ExportName("a".repeat(MAX_STRING + 1))
            .encode(&mut out)
            .is_err()
    );
    assert!(out.is_empty());
}

#[test]
fn an_error_text_of_a_peer_is_escaped_and_cut() {
    let mut data = b"\x1b[31m\xff\0".to_vec();
    data.resize(16 << 10, b'x');
    let Ok(OptionReply::Error { text, .. }) = OptionReply::decode(Rep::ERR_INVALID, &data) else {
        panic!("not an error");
    };
    assert!(text.starts_with("\\u{1b}[31m\u{fffd}\\u{0}xx"), "{text}");
    assert!(text.len() <= crate::text::MAX_SHOWN);
}

fn info_request() -> impl Strategy<Value = InfoRequest> {
    (string(300), vec(any::<u16>().prop_map(Info), 0..20))
        .prop_map(|(export, infos)| InfoRequest { export, infos })
}

fn meta_request() -> impl Strategy<Value = MetaRequest> {
    (string(300), vec(string(60), 0..10))
        .prop_map(|(export, queries)| MetaRequest { export, queries })
}

/// Any option, for the state machines' tests as well.
pub(crate) fn any_option() -> impl Strategy<Value = ClientOption> {
    prop_oneof![
        string(1000).prop_map(ClientOption::ExportName),
        Just(ClientOption::Abort),
        Just(ClientOption::List),
        Just(ClientOption::StartTls),
        info_request().prop_map(ClientOption::Info),
        info_request().prop_map(ClientOption::Go),
        Just(ClientOption::StructuredReply),
        meta_request().prop_map(ClientOption::ListMetaContext),
        meta_request().prop_map(ClientOption::SetMetaContext),
        Just(ClientOption::ExtendedHeaders),
        (12..u32::MAX, vec(any::<u8>(), 0..50)).prop_map(|(option, data)| {
            ClientOption::Unknown {
                option: Opt(option),
                data: data.into(),
            }
        }),
    ]
}

fn any_info() -> impl Strategy<Value = InfoReply> {
    prop_oneof![
        (any::<u64>(), any::<u16>()).prop_map(|(size, flags)| InfoReply::Export {
            size,
            flags: TransmissionFlags(flags)
        }),
        string(300).prop_map(InfoReply::Name),
        string(300).prop_map(InfoReply::Description),
        any::<[u32; 3]>().prop_map(|[minimum, preferred, maximum]| {
            InfoReply::BlockSize {
                minimum,
                preferred,
                maximum,
            }
        }),
        (4..u16::MAX, vec(any::<u8>(), 0..50)).prop_map(|(info, data)| InfoReply::Unknown {
            info: Info(info),
            data: data.into()
        }),
    ]
}

/// Any reply, for the state machines' tests as well.
pub(crate) fn any_reply() -> impl Strategy<Value = OptionReply> {
    prop_oneof![
        Just(OptionReply::Ack),
        (string(300), string(300))
            .prop_map(|(name, description)| OptionReply::Server { name, description }),
        any_info().prop_map(OptionReply::Info),
        (any::<u32>(), string(300)).prop_map(|(id, name)| OptionReply::MetaContext { id, name }),
        (any::<u32>(), "[a-z ]{0,100}").prop_map(|(reply, text)| OptionReply::Error {
            reply: Rep(reply | 0x8000_0000),
            text
        }),
        (5..0x8000_0000u32, vec(any::<u8>(), 0..50)).prop_map(|(reply, data)| {
            OptionReply::Unknown {
                reply: Rep(reply),
                data: data.into(),
            }
        }),
    ]
}

proptest! {
    #[test]
    fn any_option_survives_the_wire(option in any_option()) {
        let bytes = sent(&option);
        let (head, data) = bytes.split_at(OptionHeader::SIZE);
        let header = OptionHeader::decode(head).unwrap().unwrap();
        prop_assert_eq!(header.length as usize, data.len());
        prop_assert_eq!(ClientOption::decode(header.option, data), Ok(option));
    }

    #[test]
    fn any_reply_survives_the_wire(option: u32, reply in any_reply()) {
        let bytes = answered(Opt(option), &reply);
        let (head, data) = bytes.split_at(ReplyHeader::SIZE);
        let header = ReplyHeader::decode(head).unwrap().unwrap();
        prop_assert_eq!(header.option, Opt(option));
        prop_assert_eq!(header.length as usize, data.len());
        prop_assert_eq!(OptionReply::decode(header.reply, data), Ok(reply));
    }

    #[test]
    fn every_beginning_of_a_message_is_incomplete_and_never_wrong(option in any_option()) {
        let bytes = sent(&option);
        for end in 0..OptionHeader::SIZE {
            prop_assert_eq!(OptionHeader::decode(&bytes[..end]), Ok(None));
        }
    }

    /// What is decoded never holds more than a small multiple of what was received.
    #[test]
    fn option_data_of_any_bytes_neither_panic_nor_cost_memory(
        option in 0..13u32,
        data in vec(prop_oneof![4 => Just(0u8), 1 => any::<u8>()], 0..600),
    ) {
        if let Ok(decoded) = ClientOption::decode(Opt(option), &data) {
            let held = match &decoded {
                ClientOption::Info(request) | ClientOption::Go(request) => {
                    request.export.capacity() + 2 * request.infos.capacity()
                }
                ClientOption::ListMetaContext(request) | ClientOption::SetMetaContext(request) => {
                    let strings: usize = request.queries.iter().map(String::capacity).sum();
                    request.export.capacity() + strings + 4 * request.queries.capacity() / 2
                }
                ClientOption::ExportName(name) => name.capacity(),
                _ => 0,
            };
            prop_assert!(held <= 2 * data.len() + 64, "{held} bytes of {}", data.len());
            let mut again = Vec::new();
            decoded.encode(&mut again).unwrap();
            prop_assert!(again.len() <= MAX_OPTION_DATA as usize + OptionHeader::SIZE);
        }
    }

    #[test]
    fn reply_data_of_any_bytes_do_not_panic(
        reply in prop_oneof![0..6u32, 0x8000_0000..0x8000_000fu32],
        data in vec(prop_oneof![2 => Just(0u8), 1 => any::<u8>()], 0..600),
    ) {
        let _ = OptionReply::decode(Rep(reply), &data);
    }
}
