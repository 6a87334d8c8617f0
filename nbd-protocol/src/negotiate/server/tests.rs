//! The server's side of the handshake, option by option.

mod contexts;
mod streams;
mod tls;

use super::*;
use crate::limit::MAX_STRING;
use crate::negotiate::testing::{Disks, SESSION, STALE};
use crate::number::{Info, TransmissionFlags};
use crate::option::{InfoReply, InfoRequest, MetaRequest, ReplyHeader};
use crate::testing::hex;

/// A client that has sent its flags.
struct Talk {
    server: ServerHandshake,
    input: BytesMut,
}

type Replies = Vec<(Opt, OptionReply)>;

impl Talk {
    fn new(policy: ServerPolicy) -> Talk {
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        Talk::with_flags(policy, flags.0)
    }

    fn with_flags(policy: ServerPolicy, flags: u32) -> Talk {
        let mut input = BytesMut::new();
        input.put_u32(flags);
        Talk {
            server: ServerHandshake::new(policy),
            input,
        }
    }

    fn receive(&mut self) -> (Result<Progress, HandshakeError>, BytesMut) {
        let mut output = BytesMut::new();
        let progress = self.server.receive(&mut self.input, &Disks, &mut output);
        (progress, output)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<Progress, HandshakeError> {
        self.input.extend_from_slice(bytes);
        self.receive().0
    }

    fn send(&mut self, option: &ClientOption) -> (Result<Progress, HandshakeError>, BytesMut) {
        option.encode(&mut self.input).unwrap();
        self.receive()
    }

    /// Sends an option that does not end the handshake; gives what was answered.
    fn ask(&mut self, option: ClientOption) -> Vec<OptionReply> {
        let (progress, output) = self.send(&option);
        assert_eq!(progress, Ok(Progress::NeedMore), "{option:?}");
        let replies = replies(&output);
        assert!(
            replies
                .iter()
                .all(|(answered, _)| *answered == option.option())
        );
        replies.into_iter().map(|(_, reply)| reply).collect()
    }

    /// Sends an option that is refused.
    fn refused(&mut self, option: ClientOption) -> Rep {
        match self.ask(option).as_slice() {
            [OptionReply::Error { reply, text }] => {
                assert!(!text.is_empty(), "{reply:?} without a sentence");
                *reply
            }
            other => panic!("{other:?}"),
        }
    }

    fn go(&mut self, export: &str) -> Negotiated {
        match self.send(&ClientOption::Go(info(export))).0 {
            Ok(Progress::Transmission(negotiated)) => *negotiated,
            other => panic!("{other:?}"),
        }
    }
}

fn replies(mut output: &[u8]) -> Replies {
    let mut replies = Vec::new();
    while !output.is_empty() {
        let header = ReplyHeader::decode(output).unwrap().unwrap();
        let end = ReplyHeader::SIZE + header.length as usize;
        let reply = OptionReply::decode(header.reply, &output[ReplyHeader::SIZE..end]).unwrap();
        replies.push((header.option, reply));
        output = &output[end..];
    }
    replies
}

fn info(export: &str) -> InfoRequest {
    InfoRequest {
        export: export.into(),
        infos: Vec::new(),
    }
}

fn meta(export: &str, queries: &[&str]) -> MetaRequest {
    MetaRequest {
        export: export.into(),
        queries: queries.iter().map(|q| q.to_string()).collect(),
    }
}

const ALL: ServerPolicy = ServerPolicy {
    structured: true,
    extended: true,
    list: true,
    tls: Tls::Missing,
};

#[test]
fn golden_newstyle_negotiation_greeting() {
    let greeting = ServerHandshake::new(ALL).greeting();
    assert_eq!(
        greeting.as_slice(),
        hex("4e42444d41474943 49484156454f5054 0003")
    );
}

#[test]
fn golden_nbd_opt_export_name_with_and_without_zeroes() {
    for (flags, zeroes) in [(1, 124), (3, 0), (0, 124)] {
        let mut talk = Talk::with_flags(ALL, flags);
        let (progress, output) = talk.send(&ClientOption::ExportName("disk".into()));
        let Ok(Progress::Transmission(negotiated)) = progress else {
            panic!("{progress:?}")
        };
        let mut expected = hex("0000000000100000 0d6d");
        expected.extend(vec![0; zeroes]);
        assert_eq!(output, expected);
        assert_eq!(
            (negotiated.asked.as_str(), negotiated.style),
            ("disk", HeaderStyle::Simple)
        );
    }
}

#[test]
fn export_name_of_no_export_closes() {
    for name in ["nothing".to_owned(), "a".repeat(MAX_STRING)] {
        let (progress, output) = Talk::new(ALL).send(&ClientOption::ExportName(name));
        assert!(
            matches!(progress, Err(HandshakeError::ExportName(_))),
            "{progress:?}"
        );
        assert!(output.is_empty());
    }
}

#[test]
fn export_name_after_extended_headers_closes() {
    let mut talk = Talk::new(ALL);
    assert_eq!(talk.ask(ClientOption::ExtendedHeaders), [OptionReply::Ack]);
    let (progress, _) = talk.send(&ClientOption::ExportName("disk".into()));
    assert!(matches!(progress, Err(HandshakeError::ExportName(_))));
}

#[test]
fn unknown_client_flags_close() {
    for flags in [4, 7, 0x8000_0000, u32::MAX] {
        let (progress, output) = Talk::with_flags(ALL, flags).receive();
        assert_eq!(progress, Err(HandshakeError::ClientFlags(flags)));
        assert!(output.is_empty());
    }
}

#[test]
fn a_client_that_did_not_say_fixed_newstyle_gets_export_name_only() {
    let mut talk = Talk::with_flags(ALL, 0);
    let (progress, output) = talk.send(&ClientOption::List);
    assert_eq!(progress, Err(HandshakeError::NotFixed(Opt::LIST)));
    assert!(output.is_empty());
}

#[test]
fn an_option_claiming_2_gib_closes_before_any_byte_of_it() {
    for option in [Opt::GO, Opt::EXPORT_NAME, Opt::ABORT, Opt(99)] {
        let mut talk = Talk::new(ALL);
        let mut frame = Vec::new();
        OptionHeader {
            option,
            length: 1 << 31,
        }
        .encode(&mut frame);
        let capacity = talk.input.capacity();
        let progress = talk.bytes(&frame);
        assert!(matches!(
            progress,
            Err(HandshakeError::Decode(DecodeError::TooLong { .. }))
        ));
        assert!(talk.input.capacity() <= capacity + 1024);
    }
}

#[test]
fn a_name_of_4096_bytes_is_taken_and_one_more_is_refused() {
    let mut talk = Talk::new(ALL);
    let longest = "n".repeat(MAX_STRING);
    assert_eq!(
        talk.refused(ClientOption::Info(info(&longest))),
        Rep::ERR_UNKNOWN
    );
    let mut data = (MAX_STRING as u32 + 1).to_be_bytes().to_vec();
    data.resize(4 + MAX_STRING + 1, b'n');
    data.extend([0, 0]);
    let option = ClientOption::Unknown {
        option: Opt::INFO,
        data: data.into(),
    };
    assert_eq!(talk.refused(option), Rep::ERR_TOO_BIG);
    let data = vec![b'n'; MAX_STRING + 1];
    let option = ClientOption::Unknown {
        option: Opt::EXPORT_NAME,
        data: data.into(),
    };
    assert!(matches!(
        talk.send(&option).0,
        Err(HandshakeError::ExportName(_))
    ));
}

#[test]
fn wrong_option_magic_closes_with_its_eighth_byte() {
    let mut talk = Talk::new(ALL);
    assert_eq!(talk.bytes(b"IHAVEOP"), Ok(Progress::NeedMore));
    assert!(matches!(
        talk.bytes(b"X"),
        Err(HandshakeError::Decode(DecodeError::Magic { .. }))
    ));
}

#[test]
fn a_flood_of_options_ends() {
    let mut talk = Talk::new(ALL);
    for _ in 0..MAX_OPTIONS {
        assert_eq!(talk.refused(ClientOption::StartTls), Rep::ERR_UNSUP);
    }
    let (progress, _) = talk.send(&ClientOption::StartTls);
    assert_eq!(progress, Err(HandshakeError::TooManyOptions(MAX_OPTIONS)));
}

#[test]
fn a_flood_of_lists_never_gathers_more_output_than_its_limit() {
    struct Many;
    impl ExportDirectory for Many {
        fn list(&self) -> Vec<Listing> {
            let listing = |i| Listing {
                name: format!("{i:0>100}"),
                description: String::new(),
            };
            (0..100).map(listing).collect()
        }
        fn find(&self, name: &str) -> Result<ExportInfo, Refusal> {
            Err(Refusal::unknown(name))
        }
    }
    let mut talk = Talk::new(ALL);
    for _ in 0..100 {
        ClientOption::List.encode(&mut talk.input).unwrap();
    }
    let each = 100 * (20 + 4 + 100) + 20;
    let (mut drains, mut total) = (0, 0);
    loop {
        let mut output = BytesMut::new();
        let progress = talk.server.receive(&mut talk.input, &Many, &mut output);
        assert!(output.len() < MAX_HANDSHAKE_OUTPUT + each);
        total += output.len();
        match progress {
            Ok(Progress::Drain) => drains += 1,
            progress => {
                assert_eq!(progress, Ok(Progress::NeedMore));
                break;
            }
        }
    }
    assert_eq!((drains, total), (4, 100 * each));
}

#[test]
fn abort_is_acknowledged_whatever_it_carries() {
    let mut talk = Talk::new(ALL);
    talk.server.shut_down();
    let data = vec![1, 2, 3].into();
    let (progress, output) = talk.send(&ClientOption::Unknown {
        option: Opt::ABORT,
        data,
    });
    assert_eq!(progress, Ok(Progress::Ended));
    assert_eq!(replies(&output), [(Opt::ABORT, OptionReply::Ack)]);
}

#[test]
fn an_unknown_option_is_refused_with_a_sentence_and_the_next_one_is_understood() {
    let mut talk = Talk::new(ALL);
    let data = vec![7; 300].into();
    let unknown = ClientOption::Unknown {
        option: Opt(0x4242),
        data,
    };
    assert_eq!(talk.refused(unknown), Rep::ERR_UNSUP);
    let data = Vec::new().into();
    let peek = ClientOption::Unknown {
        option: Opt::PEEK_EXPORT,
        data,
    };
    assert_eq!(talk.refused(peek), Rep::ERR_UNSUP);
    assert_eq!(talk.ask(ClientOption::StructuredReply), [OptionReply::Ack]);
}

#[test]
fn list_names_every_export() {
    let replies = Talk::new(ALL).ask(ClientOption::List);
    let server = |name: &str, description: &str| OptionReply::Server {
        name: name.into(),
        description: description.into(),
    };
    let expected = [
        server("disk", "a disk"),
        server("other", ""),
        OptionReply::Ack,
    ];
    assert_eq!(replies, expected);
    let mut talk = Talk::new(ServerPolicy { list: false, ..ALL });
    assert_eq!(talk.refused(ClientOption::List), Rep::ERR_POLICY);
}

#[test]
fn options_that_carry_no_data_are_invalid_with_data() {
    let mut talk = Talk::new(ALL);
    for option in [
        Opt::LIST,
        Opt::STARTTLS,
        Opt::STRUCTURED_REPLY,
        Opt::EXTENDED_HEADERS,
    ] {
        let data = vec![0].into();
        assert_eq!(
            talk.refused(ClientOption::Unknown { option, data }),
            Rep::ERR_INVALID
        );
    }
    assert_eq!(
        talk.go("disk").style,
        HeaderStyle::Simple,
        "nothing was negotiated by them"
    );
}

#[test]
fn info_and_go_tell_the_same() {
    let mut talk = Talk::new(ALL);
    let infos = vec![
        Info::NAME,
        Info::DESCRIPTION,
        Info::BLOCK_SIZE,
        Info(77),
        Info::NAME,
    ];
    let request = InfoRequest {
        export: String::new(),
        infos,
    };
    let told = talk.ask(ClientOption::Info(request.clone()));
    let flags = TransmissionFlags(0x0d6d);
    let expected = [
        OptionReply::Info(InfoReply::Export {
            size: 1 << 20,
            flags,
        }),
        OptionReply::Info(InfoReply::Name("disk".into())),
        OptionReply::Info(InfoReply::Description("a disk".into())),
        OptionReply::Info(InfoReply::BlockSize {
            minimum: 512,
            preferred: 4096,
            maximum: 32 << 20,
        }),
        OptionReply::Ack,
    ];
    assert_eq!(told, expected);
    let (progress, output) = talk.send(&ClientOption::Go(request));
    assert!(matches!(progress, Ok(Progress::Transmission(_))));
    let again: Vec<OptionReply> = replies(&output)
        .into_iter()
        .map(|(_, reply)| reply)
        .collect();
    assert_eq!(again, expected);
}

#[test]
fn an_unknown_export_is_refused_before_anything_is_told_and_the_handshake_goes_on() {
    let mut talk = Talk::new(ALL);
    assert_eq!(
        talk.refused(ClientOption::Go(info("nothing"))),
        Rep::ERR_UNKNOWN
    );
    assert_eq!(
        talk.refused(ClientOption::Info(info("nothing"))),
        Rep::ERR_UNKNOWN
    );
    assert_eq!(talk.go("disk").export.size, 1 << 20);
}

#[test]
fn flags_that_need_a_style_or_another_flag_are_told_only_with_it() {
    let flags = |options: &[ClientOption], export: &str| {
        let mut talk = Talk::new(ALL);
        for option in options {
            talk.ask(option.clone());
        }
        talk.go(export).export.flags
    };
    use TransmissionFlags as T;
    let simple = flags(&[], "disk");
    assert!(simple.contains(T::HAS_FLAGS | T::SEND_FAST_ZERO | T::CAN_MULTI_CONN));
    assert!(!simple.contains(T::SEND_DF) && !simple.contains(T::BLOCK_STATUS_PAYLOAD));
    assert!(!simple.contains(T::SEND_RESIZE));
    let structured = flags(&[ClientOption::StructuredReply], "disk");
    assert_eq!(structured, simple | T::SEND_DF);
    let extended = flags(&[ClientOption::ExtendedHeaders], "disk");
    assert_eq!(extended, structured | T::BLOCK_STATUS_PAYLOAD);
    assert_eq!(
        flags(&[], "other"),
        T::HAS_FLAGS,
        "fast zero without write zeroes"
    );
}

#[test]
fn extended_headers_take_precedence_over_structured_replies() {
    let mut talk = Talk::new(ALL);
    assert_eq!(talk.ask(ClientOption::StructuredReply), [OptionReply::Ack]);
    assert_eq!(
        talk.refused(ClientOption::StructuredReply),
        Rep::ERR_INVALID
    );
    assert_eq!(talk.ask(ClientOption::ExtendedHeaders), [OptionReply::Ack]);
    assert_eq!(
        talk.refused(ClientOption::ExtendedHeaders),
        Rep::ERR_INVALID
    );
    assert_eq!(
        talk.refused(ClientOption::StructuredReply),
        Rep::ERR_EXT_HEADER_REQD
    );
    assert_eq!(talk.go("disk").style, HeaderStyle::Extended);
}

#[test]
fn what_policy_switches_off_is_unsupported() {
    let mut talk = Talk::new(ServerPolicy {
        structured: false,
        extended: false,
        ..ALL
    });
    assert_eq!(talk.refused(ClientOption::StructuredReply), Rep::ERR_UNSUP);
    assert_eq!(talk.refused(ClientOption::ExtendedHeaders), Rep::ERR_UNSUP);
    let set = ClientOption::SetMetaContext(meta("disk", &["base:allocation"]));
    assert_eq!(talk.refused(set), Rep::ERR_INVALID);
    assert_eq!(talk.go("disk").style, HeaderStyle::Simple);
}

#[test]
fn a_server_that_shuts_down_says_so_to_every_option() {
    let mut talk = Talk::new(ALL);
    talk.server.shut_down();
    assert_eq!(
        talk.refused(ClientOption::Go(info("disk"))),
        Rep::ERR_SHUTDOWN
    );
    assert_eq!(talk.refused(ClientOption::List), Rep::ERR_SHUTDOWN);
    let data = Vec::new().into();
    let unknown = ClientOption::Unknown {
        option: Opt(99),
        data,
    };
    assert_eq!(talk.refused(unknown), Rep::ERR_SHUTDOWN);
    let (progress, _) = talk.send(&ClientOption::ExportName("disk".into()));
    assert!(matches!(progress, Err(HandshakeError::ExportName(_))));
}

#[test]
fn what_follows_go_is_left_in_the_input() {
    let mut talk = Talk::new(ALL);
    ClientOption::Go(info("disk"))
        .encode(&mut talk.input)
        .unwrap();
    let progress = talk.bytes(b"IHAVEOPT, but a request");
    assert!(matches!(progress, Ok(Progress::Transmission(_))));
    assert_eq!(talk.input.as_ref(), b"IHAVEOPT, but a request");
    assert_eq!(
        talk.receive().0,
        Ok(Progress::Ended),
        "a handshake ends once"
    );
}

#[test]
fn exports_whose_names_can_not_be_sent_are_left_out() {
    struct Odd;
    impl ExportDirectory for Odd {
        fn list(&self) -> Vec<Listing> {
            let listing = |name: &str| Listing {
                name: name.into(),
                description: "x\0y".into(),
            };
            vec![listing("a\0b"), listing("fine"), listing(&"n".repeat(5000))]
        }
        fn find(&self, name: &str) -> Result<ExportInfo, Refusal> {
            Err(Refusal::unknown(name))
        }
    }
    let mut talk = Talk::new(ALL);
    ClientOption::List.encode(&mut talk.input).unwrap();
    let mut output = BytesMut::new();
    talk.server
        .receive(&mut talk.input, &Odd, &mut output)
        .unwrap();
    let server = OptionReply::Server {
        name: "fine".into(),
        description: "x".into(),
    };
    assert_eq!(
        replies(&output),
        [(Opt::LIST, server), (Opt::LIST, OptionReply::Ack)]
    );
}
