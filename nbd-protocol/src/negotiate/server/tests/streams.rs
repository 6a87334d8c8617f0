//! Whole streams of options, cut anywhere, changed, or made of any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn any_policy() -> impl Strategy<Value = ServerPolicy> {
    let tls = prop_oneof![
        Just(Tls::Missing),
        Just(Tls::Forbidden),
        Just(Tls::Offered),
        Just(Tls::Required)
    ];
    (any::<bool>(), any::<bool>(), any::<bool>(), tls).prop_map(
        |(structured, extended, list, tls)| ServerPolicy {
            structured,
            extended,
            list,
            tls,
        },
    )
}

/// A client's stream: flags and options, some of which name an export that there is.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let likely = prop_oneof![
        Just(ClientOption::Info(info("disk"))),
        Just(ClientOption::ListMetaContext(meta(
            "disk",
            &["base:", &SESSION.to_string()]
        ))),
        Just(ClientOption::SetMetaContext(meta(
            "disk",
            &["base:allocation"]
        ))),
        Just(ClientOption::StructuredReply),
        Just(ClientOption::ExtendedHeaders),
    ];
    let option = prop_oneof![crate::option::tests::any_option(), likely];
    (0..4u32, vec(option, 0..8)).prop_map(|(flags, options)| {
        let mut stream = flags.to_be_bytes().to_vec();
        for option in options {
            option.encode(&mut stream).unwrap();
        }
        stream
    })
}

/// Feeds a stream in pieces until the handshake ends or nothing is left; gives all output and the end.
fn feed(
    policy: ServerPolicy,
    stream: &[u8],
    piece: usize,
) -> (Result<Progress, HandshakeError>, BytesMut) {
    let mut server = ServerHandshake::new(policy);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut last = Ok(Progress::NeedMore);
    for piece in stream.chunks(piece.max(1)) {
        input.extend_from_slice(piece);
        loop {
            last = server.receive(&mut input, &Disks, &mut output);
            match last {
                Ok(Progress::Drain) => continue,
                Ok(Progress::NeedMore) => break,
                _ => return (last, output),
            }
        }
    }
    (last, output)
}

proptest! {
    #[test]
    fn it_does_not_matter_how_a_stream_is_cut(
        policy in any_policy().prop_map(|policy| match policy.tls {
            // Where TLS begins it does matter: bytes behind STARTTLS are an attack.
            Tls::Offered => ServerPolicy { tls: Tls::Forbidden, ..policy },
            Tls::Required => ServerPolicy { tls: Tls::Missing, ..policy },
            _ => policy,
        }),
        stream in any_stream(),
        piece in 1..40usize,
    ) {
        let whole = feed(policy, &stream, stream.len());
        prop_assert_eq!(feed(policy, &stream, piece), whole);
    }

    #[test]
    fn changed_streams_neither_panic_nor_cost_memory(
        policy in any_policy(),
        mut stream in any_stream(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        piece in 1..5000usize,
    ) {
        for (index, value) in changes {
            let at = index.index(stream.len());
            stream[at] = value;
        }
        let (_, output) = feed(policy, &stream, piece);
        // Each option of at least 16 bytes gets one description of an export, or one sentence that may quote a name.
        prop_assert!(output.len() <= 64 * stream.len() + 8192, "{}", output.len());
        prop_assert!(output.capacity() <= 4 * (64 * stream.len() + 8192));
    }

    #[test]
    fn any_bytes_do_not_panic(policy in any_policy(), bytes in vec(any::<u8>(), 0..200)) {
        let _ = feed(policy, &bytes, 7);
        let mut stream = vec![0, 0, 0, 3];
        stream.extend(b"IHAVEOPT");
        stream.extend(bytes);
        let _ = feed(policy, &stream, 50);
    }
}
