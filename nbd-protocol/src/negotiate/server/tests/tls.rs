//! STARTTLS: refused, required, and what must not survive it.

use super::*;

#[test]
fn starttls_is_refused_where_there_is_none() {
    assert_eq!(
        Talk::new(ALL).refused(ClientOption::StartTls),
        Rep::ERR_UNSUP
    );
    let mut talk = Talk::new(ServerPolicy {
        tls: Tls::Forbidden,
        ..ALL
    });
    assert_eq!(talk.refused(ClientOption::StartTls), Rep::ERR_POLICY);
}

#[test]
fn a_server_that_requires_tls_allows_nothing_else_before_it() {
    let mut talk = Talk::new(ServerPolicy {
        tls: Tls::Required,
        ..ALL
    });
    for option in [
        ClientOption::List,
        ClientOption::Go(info("disk")),
        ClientOption::StructuredReply,
        ClientOption::ListMetaContext(meta("disk", &[])),
    ] {
        assert_eq!(talk.refused(option), Rep::ERR_TLS_REQD);
    }
    let (progress, output) = talk.send(&ClientOption::StartTls);
    assert_eq!(progress, Ok(Progress::StartTls));
    assert_eq!(replies(&output), [(Opt::STARTTLS, OptionReply::Ack)]);
    talk.server.tls_established();
    assert_eq!(talk.refused(ClientOption::StartTls), Rep::ERR_INVALID);
    assert!(talk.go("disk").tls);
    let mut talk = Talk::new(ServerPolicy {
        tls: Tls::Required,
        ..ALL
    });
    let (progress, _) = talk.send(&ClientOption::ExportName("disk".into()));
    assert!(matches!(progress, Err(HandshakeError::ExportName(_))));
}

#[test]
fn tls_forgets_what_was_negotiated_before_it() {
    let mut talk = Talk::new(ServerPolicy {
        tls: Tls::Offered,
        ..ALL
    });
    talk.ask(ClientOption::StructuredReply);
    talk.ask(ClientOption::SetMetaContext(meta(
        "disk",
        &["base:allocation"],
    )));
    talk.ask(ClientOption::ListMetaContext(meta(
        "disk",
        &[&SESSION.to_string()],
    )));
    assert_eq!(talk.send(&ClientOption::StartTls).0, Ok(Progress::StartTls));
    talk.server.tls_established();
    let negotiated = talk.go("disk");
    assert_eq!(negotiated.style, HeaderStyle::Simple);
    assert!(negotiated.contexts.is_empty() && negotiated.session.is_none());
}

#[test]
fn bytes_injected_behind_starttls_close() {
    let mut talk = Talk::new(ServerPolicy {
        tls: Tls::Offered,
        ..ALL
    });
    ClientOption::StartTls.encode(&mut talk.input).unwrap();
    let (progress, output) = talk.send(&ClientOption::StructuredReply);
    assert_eq!(progress, Err(HandshakeError::Injected(16)));
    assert!(output.is_empty());
}
