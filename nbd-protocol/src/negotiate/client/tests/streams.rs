//! Streams of a server: any replies, changed, or made of any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn any_wants() -> impl Strategy<Value = ClientWants> {
    let goal = prop_oneof![Just(Goal::Go), Just(Goal::Info), Just(Goal::List)];
    (goal, crate::testing::style(), any::<[bool; 4]>()).prop_map(
        |(goal, style, [contexts, list_contexts, session, conservative])| ClientWants {
            export: "disk".into(),
            goal,
            style,
            contexts: if contexts {
                vec!["base:allocation".into()]
            } else {
                Vec::new()
            },
            list_contexts,
            ordered: false,
            integrity: false,
            session: session.then_some(SESSION),
            conservative,
        },
    )
}

/// Feeds the client a greeting and then, to each option that it sends, what `reply` makes of it.
fn play(wants: ClientWants, replies: &[(bool, OptionReply)], changes: &[(usize, u8)]) {
    let mut client = ClientHandshake::new(wants).unwrap();
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut stream = BytesMut::from(&b"NBDMAGICIHAVEOPT\0\x03"[..]);
    let mut asked = Opt::GO;
    let mut sent = 0;
    for (ack, reply) in replies {
        reply.encode(asked, &mut stream).unwrap();
        if *ack {
            OptionReply::Ack.encode(asked, &mut stream).unwrap();
        }
        for (at, value) in changes {
            if let Some(byte) = at.checked_sub(sent).and_then(|at| stream.get_mut(at)) {
                *byte = *value;
            }
        }
        sent += stream.len();
        input.extend_from_slice(&stream.split());
        let progress = client.receive(&mut input, &mut output);
        assert!(output.len() <= 16 << 10, "{}", output.len());
        let Ok(Progress::NeedMore) = progress else {
            return;
        };
        asked = match options(output.get(4..).unwrap_or_default()).last() {
            Some(option) => *option,
            None => asked,
        };
    }
}

proptest! {
    #[test]
    fn changed_streams_of_a_server_neither_panic_nor_cost_memory(
        wants in any_wants(),
        replies in vec((any::<bool>(), crate::option::tests::any_reply()), 1..12),
        changes in vec((18..400usize, any::<u8>()), 0..3),
    ) {
        play(wants, &replies, &changes);
    }

    #[test]
    fn any_bytes_do_not_panic(wants in any_wants(), bytes in vec(any::<u8>(), 0..300)) {
        for prefix in [&b""[..], b"NBDMAGICIHAVEOPT", b"NBDMAGICIHAVEOPT\0\x03"] {
            let mut client = ClientHandshake::new(wants.clone()).unwrap();
            let mut input = BytesMut::from(prefix);
            input.extend_from_slice(&bytes);
            let mut output = BytesMut::new();
            let _ = client.receive(&mut input, &mut output);
            prop_assert!(output.len() <= 16 << 10);
        }
    }
}
