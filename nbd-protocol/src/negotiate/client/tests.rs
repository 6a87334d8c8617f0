//! The client's side of the handshake against scripted servers: old, odd and hostile ones.

mod streams;

use super::*;
use crate::limit::MAX_STRING;
use crate::negotiate::testing::SESSION;
use crate::option::{InfoReply, OptionHeader};
use crate::testing::hex;

/// A client and what a test sends it.
struct Talk {
    client: ClientHandshake,
    input: BytesMut,
}

type Received = Result<Progress, ClientHandshakeError>;

impl Talk {
    /// A client that has got the greeting of a modern server; gives what it sent as well.
    fn new(wants: ClientWants) -> (Talk, Vec<Opt>) {
        Talk::greeted(wants, 3)
    }

    fn greeted(wants: ClientWants, flags: u16) -> (Talk, Vec<Opt>) {
        let client = ClientHandshake::new(wants).unwrap();
        let mut talk = Talk {
            client,
            input: BytesMut::new(),
        };
        talk.input.put_slice(b"NBDMAGICIHAVEOPT");
        talk.input.put_u16(flags);
        let (progress, output) = talk.receive();
        assert_eq!(progress, Ok(Progress::NeedMore));
        assert_eq!(output[..4], u32::from(flags & 3).to_be_bytes());
        (talk, options(&output[4..]))
    }

    fn receive(&mut self) -> (Received, BytesMut) {
        let mut output = BytesMut::new();
        (self.client.receive(&mut self.input, &mut output), output)
    }

    /// Sends replies to one option; gives what becomes of it and the options that the client sends.
    fn say(&mut self, option: Opt, replies: &[OptionReply]) -> (Received, Vec<Opt>) {
        for reply in replies {
            reply.encode(option, &mut self.input).unwrap();
        }
        let (progress, output) = self.receive();
        (progress, options(&output))
    }
}

fn options(mut output: &[u8]) -> Vec<Opt> {
    let mut options = Vec::new();
    while !output.is_empty() {
        let header = OptionHeader::decode(output).unwrap().unwrap();
        let end = OptionHeader::SIZE + header.length as usize;
        ClientOption::decode(header.option, &output[OptionHeader::SIZE..end]).unwrap();
        options.push(header.option);
        output = &output[end..];
    }
    options
}

fn done(progress: Received) -> Outcome {
    match progress {
        Ok(Progress::Done(outcome)) => *outcome,
        other => panic!("{other:?}"),
    }
}

fn refuse(reply: Rep) -> OptionReply {
    OptionReply::Error {
        reply,
        text: "because".into(),
    }
}

fn simple() -> ClientWants {
    ClientWants {
        style: HeaderStyle::Simple,
        ..ClientWants::open("disk")
    }
}

const EXPORT: OptionReply = OptionReply::Info(InfoReply::Export {
    size: 1 << 20,
    flags: TransmissionFlags(0x1fff),
});

#[test]
fn golden_newstyle_negotiation_of_a_client() {
    let mut client = ClientHandshake::new(simple()).unwrap();
    let mut input = BytesMut::from(hex("4e42444d41474943 49484156454f5054 0003").as_slice());
    let mut output = BytesMut::new();
    client.receive(&mut input, &mut output).unwrap();
    let go = "00000003 49484156454f5054 00000007 00000010 00000004 6469736b 0003 0001 0002 0003";
    assert_eq!(output, hex(go));
}

#[test]
fn other_greetings_are_named() {
    let greet = |bytes: &[u8]| {
        let mut client = ClientHandshake::new(simple()).unwrap();
        client.receive(&mut BytesMut::from(bytes), &mut BytesMut::new())
    };
    assert!(matches!(
        greet(b"SSH-2.0-"),
        Err(ClientHandshakeError::Decode(_))
    ));
    assert!(matches!(
        greet(b"NBDMAGICIHAVEOPX"),
        Err(ClientHandshakeError::Decode(_))
    ));
    let oldstyle = hex("4e42444d41474943 0000420281861253");
    assert_eq!(greet(&oldstyle), Err(ClientHandshakeError::Oldstyle));
    assert_eq!(greet(b"NBDMAGICIHAVEOP"), Ok(Progress::NeedMore));
}

#[test]
fn unknown_handshake_flags_are_ignored_and_not_sent_back() {
    let (_, sent) = Talk::greeted(simple(), 0xffff);
    assert_eq!(sent, [Opt::GO]);
}

#[test]
fn a_name_that_the_protocol_can_not_carry_is_refused_at_once() {
    for name in ["a\0b".to_owned(), "n".repeat(MAX_STRING + 1)] {
        assert!(ClientHandshake::new(ClientWants::open(name)).is_err());
    }
    let contexts = vec!["x".to_owned(); 257];
    assert!(
        ClientHandshake::new(ClientWants {
            contexts,
            ..simple()
        })
        .is_err()
    );
}

#[test]
fn a_server_that_knows_no_go_gets_export_name_and_its_zeroes_are_swallowed() {
    for (flags, zeroes) in [(3, 0), (1, 124)] {
        let (mut talk, sent) = Talk::greeted(simple(), flags);
        assert_eq!(sent, [Opt::GO]);
        let (progress, sent) = talk.say(Opt::GO, &[refuse(Rep::ERR_UNSUP)]);
        assert_eq!(
            (progress, sent),
            (Ok(Progress::NeedMore), vec![Opt::EXPORT_NAME])
        );
        talk.input.put_slice(&hex("0000000000100000 0005"));
        talk.input.put_bytes(0, zeroes);
        talk.input.put_slice(b"rest");
        let outcome = done(talk.receive().0);
        let export = outcome.export.unwrap();
        assert_eq!((export.size, export.flags.0), (1 << 20, 5));
        let sizes = (
            export.minimum_block,
            export.preferred_block,
            export.maximum_payload,
        );
        assert_eq!(sizes, (512, 4096, 32 << 20));
        assert!(!export.block_sizes_given);
        assert_eq!(talk.input.as_ref(), b"rest");
        assert_eq!(outcome.refused.len(), 1);
    }
}

#[test]
fn conservative_clients_and_servers_without_fixed_newstyle_use_export_name_only() {
    let wants = ClientWants {
        conservative: true,
        contexts: vec!["base:allocation".into()],
        session: Some(SESSION),
        ..ClientWants::open("disk")
    };
    assert_eq!(Talk::new(wants).1, [Opt::EXPORT_NAME]);
    assert_eq!(
        Talk::greeted(ClientWants::open("disk"), 0).1,
        [Opt::EXPORT_NAME]
    );
    let wants = ClientWants {
        goal: Goal::List,
        ..simple()
    };
    let mut client = ClientHandshake::new(wants).unwrap();
    let mut input = BytesMut::from(&b"NBDMAGICIHAVEOPT\0\0"[..]);
    let outcome = client.receive(&mut input, &mut BytesMut::new());
    assert_eq!(outcome, Err(ClientHandshakeError::TooOld(Opt::LIST)));
}

#[test]
fn a_refused_goal_is_an_error_with_the_servers_words_and_a_goodbye() {
    for reply in [
        Rep::ERR_UNKNOWN,
        Rep::ERR_POLICY,
        Rep::ERR_TLS_REQD,
        Rep(0x8000_1234),
    ] {
        let (mut talk, _) = Talk::new(simple());
        let (progress, sent) = talk.say(Opt::GO, &[refuse(reply)]);
        let text = "because".to_owned();
        let expected = ClientHandshakeError::Refused {
            option: Opt::GO,
            reply,
            text,
        };
        assert_eq!((progress, sent), (Err(expected), vec![Opt::ABORT]));
    }
}

#[test]
fn export_name_is_never_sent_after_extended_headers() {
    let (mut talk, sent) = Talk::new(ClientWants::open("disk"));
    assert_eq!(sent, [Opt::EXTENDED_HEADERS]);
    let (_, sent) = talk.say(Opt::EXTENDED_HEADERS, &[OptionReply::Ack]);
    assert_eq!(sent, [Opt::GO]);
    let (progress, sent) = talk.say(Opt::GO, &[refuse(Rep::ERR_UNSUP)]);
    assert!(matches!(
        progress,
        Err(ClientHandshakeError::Refused { .. })
    ));
    assert_eq!(sent, [Opt::ABORT]);
}

#[test]
fn each_refused_wish_is_done_without() {
    let wants = ClientWants {
        contexts: vec!["base:allocation".into()],
        list_contexts: true,
        session: Some(SESSION),
        ..ClientWants::open("disk")
    };
    let (mut talk, sent) = Talk::new(wants.clone());
    assert_eq!(sent, [Opt::EXTENDED_HEADERS]);
    let steps = [
        (Opt::EXTENDED_HEADERS, Opt::STRUCTURED_REPLY),
        (Opt::STRUCTURED_REPLY, Opt::LIST_META_CONTEXT),
        (Opt::LIST_META_CONTEXT, Opt::LIST_META_CONTEXT),
        // No contexts are selected without structured replies.
        (Opt::LIST_META_CONTEXT, Opt::GO),
    ];
    for (refused, next) in steps {
        assert_eq!(talk.say(refused, &[refuse(Rep::ERR_UNSUP)]).1, [next]);
    }
    let outcome = done(talk.say(Opt::GO, &[EXPORT, OptionReply::Ack]).0);
    assert_eq!(outcome.style, HeaderStyle::Simple);
    assert!(!outcome.fenced && outcome.contexts.is_empty());
    assert_eq!(outcome.refused.len(), 4);
}

#[test]
fn contexts_that_are_followed_by_an_error_are_forgotten() {
    let wants = ClientWants {
        style: HeaderStyle::Structured,
        contexts: vec!["a:a".to_owned()],
        list_contexts: true,
        ..simple()
    };
    let (mut talk, _) = Talk::new(wants);
    talk.say(Opt::STRUCTURED_REPLY, &[OptionReply::Ack])
        .0
        .unwrap();
    let context = OptionReply::MetaContext {
        id: 1,
        name: "a:a".into(),
    };
    let replies = [context, refuse(Rep::ERR_TOO_BIG)];
    talk.say(Opt::LIST_META_CONTEXT, &replies).0.unwrap();
    talk.say(Opt::SET_META_CONTEXT, &replies).0.unwrap();
    let outcome = done(talk.say(Opt::GO, &[EXPORT, OptionReply::Ack]).0);
    assert!(outcome.contexts.is_empty() && outcome.available_contexts.is_empty());
    assert_eq!(outcome.refused.len(), 2);
}

#[test]
fn the_most_replies_that_are_taken_are_counted_for_each_option() {
    let (mut talk, _) = Talk::new(ClientWants {
        list_contexts: true,
        ..simple()
    });
    let context = OptionReply::MetaContext {
        id: 0,
        name: "x".into(),
    };
    let mut replies = vec![context; MAX_REPLIES - 1];
    replies.push(OptionReply::Ack);
    assert_eq!(talk.say(Opt::LIST_META_CONTEXT, &replies).1, [Opt::GO]);
    let outcome = done(talk.say(Opt::GO, &[EXPORT, OptionReply::Ack]).0);
    assert_eq!(outcome.available_contexts.len(), MAX_REPLIES - 1);
}

#[test]
fn a_fenced_session_ends_the_handshake_and_a_foreign_server_leaves_it_unfenced() {
    let wants = ClientWants {
        session: Some(SESSION),
        ..simple()
    };
    let (mut talk, sent) = Talk::new(wants.clone());
    assert_eq!(sent, [Opt::LIST_META_CONTEXT]);
    let (progress, sent) = talk.say(Opt::LIST_META_CONTEXT, &[refuse(Rep::ERR_POLICY)]);
    assert!(matches!(
        progress,
        Err(ClientHandshakeError::Refused { .. })
    ));
    assert_eq!(sent, [Opt::ABORT]);

    let name = SESSION.to_string();
    let other = name.replace(":5", ":6");
    let echo = |name: &str| OptionReply::MetaContext {
        id: 0,
        name: name.into(),
    };
    let cases = [
        (vec![echo(&name)], true),
        (vec![], false),
        (vec![echo(&other)], false),
    ];
    for (mut replies, fenced) in cases {
        let (mut talk, _) = Talk::new(wants.clone());
        replies.push(OptionReply::Ack);
        assert_eq!(talk.say(Opt::LIST_META_CONTEXT, &replies).1, [Opt::GO]);
        let outcome = done(talk.say(Opt::GO, &[EXPORT, OptionReply::Ack]).0);
        assert_eq!(outcome.fenced, fenced);
    }
    // An echo that is followed by an error confirms nothing.
    let (mut talk, _) = Talk::new(wants);
    let replies = [echo(&name), refuse(Rep::ERR_INVALID)];
    assert_eq!(talk.say(Opt::LIST_META_CONTEXT, &replies).1, [Opt::GO]);
    assert!(!done(talk.say(Opt::GO, &[EXPORT, OptionReply::Ack]).0).fenced);
}

#[test]
fn a_server_that_shuts_down_or_wants_tls_gets_a_goodbye_at_any_step() {
    for reply in [Rep::ERR_SHUTDOWN, Rep::ERR_TLS_REQD] {
        let (mut talk, _) = Talk::new(ClientWants::open("disk"));
        let (progress, sent) = talk.say(Opt::EXTENDED_HEADERS, &[refuse(reply)]);
        assert!(matches!(
            progress,
            Err(ClientHandshakeError::Refused { .. })
        ));
        assert_eq!(sent, [Opt::ABORT]);
    }
}

#[test]
fn unknown_informations_are_ignored_and_the_size_is_not_optional() {
    let (mut talk, _) = Talk::new(simple());
    let data = vec![1, 2].into();
    let unknown = OptionReply::Info(InfoReply::Unknown {
        info: Info(99),
        data,
    });
    let outcome = done(
        talk.say(Opt::GO, &[unknown.clone(), EXPORT, OptionReply::Ack])
            .0,
    );
    let export = outcome.export.unwrap();
    assert_eq!(export.size, 1 << 20);
    assert!(
        !export.flags.contains(TransmissionFlags::SEND_DF),
        "no use without a style for it"
    );
    let (mut talk, _) = Talk::new(simple());
    let (progress, _) = talk.say(Opt::GO, &[unknown, OptionReply::Ack]);
    assert_eq!(progress, Err(ClientHandshakeError::NoSize(Opt::GO)));
}

#[test]
fn impossible_block_sizes_are_an_error_and_odd_ones_are_made_usable() {
    let go = |minimum, preferred, maximum| {
        let (mut talk, _) = Talk::new(simple());
        let sizes = OptionReply::Info(InfoReply::BlockSize {
            minimum,
            preferred,
            maximum,
        });
        match talk.say(Opt::GO, &[EXPORT, sizes, OptionReply::Ack]).0 {
            Ok(Progress::Done(outcome)) => {
                let export = outcome.export.unwrap();
                assert!(export.block_sizes_given);
                Some((
                    export.minimum_block,
                    export.preferred_block,
                    export.maximum_payload,
                ))
            }
            Err(ClientHandshakeError::BlockSizes { .. }) => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(go(1, 4096, 32 << 20), Some((1, 4096, 32 << 20)));
    assert_eq!(go(512, 65536, u32::MAX), Some((512, 65536, 64 << 20)));
    assert_eq!(go(4096, 512, 1 << 20), Some((4096, 4096, 1 << 20)));
    assert_eq!(go(4096, 5000, (1 << 20) + 1), Some((4096, 4096, 1 << 20)));
    for (minimum, maximum) in [(0, 1 << 20), (3, 1 << 20), (1 << 17, 1 << 20), (4096, 512)] {
        assert_eq!(go(minimum, 1 << 17, maximum), None);
    }
}

#[test]
fn an_export_that_512_does_not_divide_can_be_read_to_its_end() {
    let (mut talk, _) = Talk::new(simple());
    let flags = TransmissionFlags::HAS_FLAGS;
    let odd = OptionReply::Info(InfoReply::Export { size: 1000, flags });
    let export = done(talk.say(Opt::GO, &[odd, OptionReply::Ack]).0)
        .export
        .unwrap();
    assert_eq!(export.minimum_block, 1);
}

#[test]
fn replies_to_another_option_or_of_another_kind_are_violations() {
    let cases = [
        (Opt::INFO, OptionReply::Ack),
        (
            Opt::GO,
            OptionReply::MetaContext {
                id: 1,
                name: "x".into(),
            },
        ),
        (
            Opt::GO,
            OptionReply::Server {
                name: "x".into(),
                description: String::new(),
            },
        ),
        (
            Opt::GO,
            OptionReply::Unknown {
                reply: Rep(99),
                data: Vec::new().into(),
            },
        ),
    ];
    for (option, reply) in cases {
        let (mut talk, _) = Talk::new(simple());
        let (progress, _) = talk.say(option, std::slice::from_ref(&reply));
        assert!(
            matches!(progress, Err(ClientHandshakeError::Unfitting { .. })),
            "{reply:?}: {progress:?}"
        );
    }
}

#[test]
fn two_contexts_with_one_id_are_a_violation() {
    let contexts = vec!["a:a".to_owned(), "b:b".to_owned()];
    let wants = ClientWants {
        style: HeaderStyle::Structured,
        contexts,
        ..simple()
    };
    let granted = |id, name: &str| OptionReply::MetaContext {
        id,
        name: name.into(),
    };
    for second in [granted(1, "b:b"), granted(2, "a:a")] {
        let (mut talk, _) = Talk::new(wants.clone());
        let (_, sent) = talk.say(Opt::STRUCTURED_REPLY, &[OptionReply::Ack]);
        assert_eq!(sent, [Opt::SET_META_CONTEXT]);
        let (progress, _) = talk.say(Opt::SET_META_CONTEXT, &[granted(1, "a:a"), second]);
        assert!(matches!(
            progress,
            Err(ClientHandshakeError::Unfitting { .. })
        ));
    }
}

#[test]
fn a_reply_claiming_2_gib_ends_before_any_byte_of_it() {
    let (mut talk, _) = Talk::new(simple());
    let header = ReplyHeader {
        option: Opt::GO,
        reply: Rep::ERR_UNKNOWN,
        length: 1 << 31,
    };
    header.encode(&mut talk.input);
    let (progress, _) = talk.receive();
    assert!(matches!(
        progress,
        Err(ClientHandshakeError::Decode(DecodeError::TooLong { .. }))
    ));
}

#[test]
fn an_endless_list_ends() {
    let wants = ClientWants {
        goal: Goal::List,
        ..simple()
    };
    let export = |description: usize| OptionReply::Server {
        name: "x".into(),
        description: "d".repeat(description),
    };
    for (description, most) in [(0, MAX_REPLIES), (4096, MAX_COLLECTED / 4096)] {
        let (mut talk, sent) = Talk::new(wants.clone());
        assert_eq!(sent, [Opt::LIST]);
        let reply = export(description);
        let mut count = 0;
        let error = loop {
            match talk.say(Opt::LIST, std::slice::from_ref(&reply)).0 {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, ClientHandshakeError::TooMuch(Opt::LIST));
        assert!(count <= most && count > most / 2, "{count}");
    }
}

#[test]
fn a_list_ends_with_a_goodbye() {
    let (mut talk, _) = Talk::new(ClientWants {
        goal: Goal::List,
        ..ClientWants::open("")
    });
    let export = OptionReply::Server {
        name: "disk".into(),
        description: "a disk".into(),
    };
    let (progress, sent) = talk.say(Opt::LIST, &[export, OptionReply::Ack]);
    let outcome = done(progress);
    assert_eq!(sent, [Opt::ABORT]);
    let listed = ListedExport {
        name: "disk".into(),
        description: "a disk".into(),
    };
    assert_eq!(outcome.exports, [listed]);
    assert_eq!(outcome.export, None);
    assert_eq!(done(talk.receive().0), outcome, "it stays done");
}
