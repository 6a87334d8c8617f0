//! Both roles against each other: every combination of what a client wants and a server allows.

use bytes::BytesMut;

use super::client::{ClientHandshake, ClientHandshakeError, ClientWants, Goal, Outcome};
use super::server::{HandshakeError, Negotiated, ServerHandshake, ServerPolicy, Tls};
use super::testing::{Disks, SESSION, STALE};
use super::{client, server};
use crate::number::{Opt, Rep, TransmissionFlags};
use crate::request::HeaderStyle;
use crate::session::Session;
use crate::testing::STYLES;

type Ends = (
    Result<Outcome, ClientHandshakeError>,
    Result<Option<Negotiated>, HandshakeError>,
);

/// Lets both talk, `piece` bytes at a time, until both have ended.
fn negotiate(wants: ClientWants, policy: ServerPolicy, piece: usize) -> Ends {
    let mut client = ClientHandshake::new(wants).unwrap();
    let mut server = ServerHandshake::new(policy);
    let mut to_client = BytesMut::from(&server.greeting()[..]);
    let mut to_server = BytesMut::new();
    let (mut client_input, mut server_input) = (BytesMut::new(), BytesMut::new());
    let (mut client_end, mut server_end) = (None, None);
    for _ in 0..100_000 {
        let moved = to_client.split_to(piece.min(to_client.len()));
        client_input.extend_from_slice(&moved);
        if client_end.is_none() {
            match client.receive(&mut client_input, &mut to_server) {
                Ok(client::Progress::NeedMore) => {}
                Ok(client::Progress::Done(outcome)) => client_end = Some(Ok(*outcome)),
                Err(error) => client_end = Some(Err(error)),
            }
        }
        let moved = to_server.split_to(piece.min(to_server.len()));
        server_input.extend_from_slice(&moved);
        if server_end.is_none() {
            match server.receive(&mut server_input, &Disks, &mut to_client) {
                Ok(server::Progress::NeedMore | server::Progress::Drain) => {}
                Ok(server::Progress::Transmission(negotiated)) => {
                    server_end = Some(Ok(Some(*negotiated)));
                }
                Ok(server::Progress::Ended) => server_end = Some(Ok(None)),
                Ok(server::Progress::StartTls) => panic!("no client asks for TLS"),
                Err(error) => server_end = Some(Err(error)),
            }
        }
        if to_client.is_empty() && to_server.is_empty() {
            match (client_end.take(), server_end.take()) {
                (Some(client), Some(server)) => return (client, server),
                (None, Some(Err(error))) => panic!("the server closed on the client: {error}"),
                ends => (client_end, server_end) = ends,
            }
        }
    }
    panic!("the handshake hangs: client {client_end:?}, server {server_end:?}");
}

const BOOLS: [bool; 2] = [false, true];

/// Every policy without TLS.
fn policies() -> Vec<ServerPolicy> {
    let mut policies = Vec::new();
    for structured in BOOLS {
        for extended in BOOLS {
            for list in BOOLS {
                for tls in [Tls::Missing, Tls::Forbidden, Tls::Offered] {
                    policies.push(ServerPolicy {
                        structured,
                        extended,
                        list,
                        tls,
                    });
                }
            }
        }
    }
    policies
}

/// Everything that a client may want of `export`.
fn wishes(export: &str) -> Vec<ClientWants> {
    let mut wishes = Vec::new();
    let names = [
        "base:allocation",
        "x-netraid:blake3",
        "qemu:allocation-depth",
    ];
    let contexts = [Vec::new(), names.map(str::to_owned).to_vec()];
    for goal in [Goal::Go, Goal::Info, Goal::List] {
        for style in STYLES {
            for contexts in &contexts {
                for list_contexts in BOOLS {
                    for session in [None, Some(SESSION)] {
                        for conservative in BOOLS {
                            wishes.push(ClientWants {
                                export: export.into(),
                                goal,
                                style,
                                contexts: contexts.clone(),
                                list_contexts,
                                ordered: false,
                                integrity: false,
                                session,
                                conservative,
                            });
                        }
                    }
                }
            }
        }
    }
    wishes
}

fn best_style(wants: &ClientWants, policy: &ServerPolicy) -> HeaderStyle {
    match wants.style {
        HeaderStyle::Extended if policy.extended => HeaderStyle::Extended,
        HeaderStyle::Simple => HeaderStyle::Simple,
        _ if policy.structured => HeaderStyle::Structured,
        _ => HeaderStyle::Simple,
    }
}

#[test]
fn every_wish_with_every_policy_ends_with_both_sides_agreeing() {
    for policy in policies() {
        for wants in wishes("disk") {
            let context = format!("{wants:?} with {policy:?}");
            let (outcome, served) = negotiate(wants.clone(), policy, usize::MAX);
            if wants.goal == Goal::List && !policy.list {
                let error = outcome.unwrap_err();
                let policy = Rep::ERR_POLICY;
                assert!(
                    matches!(error, ClientHandshakeError::Refused { option: Opt::LIST, reply, .. } if reply == policy)
                );
                assert_eq!(served, Ok(None), "{context}");
                continue;
            }
            let outcome = outcome.unwrap_or_else(|error| panic!("{context}: {error}"));
            let served = served.unwrap_or_else(|error| panic!("{context}: {error}"));
            match wants.goal {
                Goal::Go => check_go(&wants, &policy, &outcome, &served.unwrap(), &context),
                Goal::Info => {
                    assert!(served.is_none(), "{context}");
                    let export = outcome.export.unwrap();
                    assert_eq!(export.description.as_deref(), Some("a disk"));
                    assert_eq!(outcome.available_contexts.is_empty(), !wants.list_contexts);
                }
                Goal::List => {
                    assert!(served.is_none(), "{context}");
                    let names: Vec<&str> = outcome
                        .exports
                        .iter()
                        .map(|export| export.name.as_str())
                        .collect();
                    assert_eq!(names, ["disk", "other"]);
                }
            }
        }
    }
}

fn check_go(
    wants: &ClientWants,
    policy: &ServerPolicy,
    outcome: &Outcome,
    served: &Negotiated,
    context: &str,
) {
    let modern = !wants.conservative;
    let style = if modern {
        best_style(wants, policy)
    } else {
        HeaderStyle::Simple
    };
    assert_eq!((outcome.style, served.style), (style, style), "{context}");
    let export = outcome.export.as_ref().unwrap();
    assert_eq!(
        (export.size, export.flags),
        (served.export.size, served.export.flags)
    );
    assert_eq!(export.block_sizes_given, modern, "{context}");
    assert_eq!(
        export.minimum_block, served.export.minimum_block,
        "{context}"
    );
    assert_eq!(
        export.flags.contains(TransmissionFlags::SEND_DF),
        style != HeaderStyle::Simple
    );

    let granted: Vec<(u32, &str)> = outcome
        .contexts
        .iter()
        .map(|context| (context.id, context.name.as_str()))
        .collect();
    let selected: Vec<(u32, &str)> = served
        .contexts
        .iter()
        .map(|context| (context.id, context.name.as_str()))
        .collect();
    assert_eq!(granted, selected, "{context}");
    let expected = match style {
        _ if wants.contexts.is_empty() => 0,
        HeaderStyle::Simple => 0,
        HeaderStyle::Structured => 1,
        HeaderStyle::Extended => 2,
    };
    assert_eq!(granted.len(), expected, "{context}");
    assert_eq!(
        outcome.available_contexts.is_empty(),
        !(wants.list_contexts && modern)
    );
    let session = wants.session.filter(|_| modern);
    assert_eq!(served.session, session, "{context}");
    assert_eq!(outcome.fenced, session.is_some(), "{context}");
}

#[test]
fn the_outcome_does_not_depend_on_how_the_bytes_arrive() {
    let policy = ServerPolicy::default();
    for wants in wishes("") {
        let whole = negotiate(wants.clone(), policy, usize::MAX);
        assert!(whole.0.is_ok());
        for piece in [1, 3, 17] {
            assert_eq!(negotiate(wants.clone(), policy, piece), whole, "{wants:?}");
        }
    }
}

#[test]
fn an_unknown_export_ends_with_its_name_and_a_soft_goodbye() {
    let (outcome, served) = negotiate(
        ClientWants::open("nothing"),
        ServerPolicy::default(),
        usize::MAX,
    );
    let error = outcome.unwrap_err().to_string();
    assert_eq!(
        error,
        "the server refused GO: ERR_UNKNOWN: no export is named \"nothing\""
    );
    assert_eq!(served, Ok(None));
}

#[test]
fn a_fenced_client_learns_which_generation_fences_it() {
    let open = |session: Session| {
        let wants = ClientWants {
            session: Some(session),
            ..ClientWants::open("disk")
        };
        negotiate(wants, ServerPolicy::default(), usize::MAX)
    };
    let (outcome, served) = open(STALE);
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.contains("generation 4 is fenced by the newer generation 5"),
        "{error}"
    );
    assert_eq!(served, Ok(None));
    let newer = Session {
        generation: 6,
        ..SESSION
    };
    assert_eq!(open(newer).1.unwrap().unwrap().session, Some(newer));
}

#[test]
fn a_client_without_tls_says_goodbye_to_a_server_that_requires_it() {
    let policy = ServerPolicy {
        tls: Tls::Required,
        ..ServerPolicy::default()
    };
    let wants = ClientWants::open("disk");
    let (outcome, served) = negotiate(wants, policy, usize::MAX);
    assert!(matches!(
        outcome,
        Err(ClientHandshakeError::Refused {
            reply: Rep::ERR_TLS_REQD,
            ..
        })
    ));
    assert_eq!(served, Ok(None));
}
