//! Nodes that call each other, and those that should not.

use std::time::{Duration, SystemTime};

use hyper::Method;
use netraid::api::identity::{Identity, Parts};
use netraid::api::issue::Authority;
use netraid::api::peer_client::{PeerClient, PeerError};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::rig::{Cluster, Get, SOON, Served, node, short, until};

#[tokio::test]
async fn both_sides_know_who_the_other_is() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2", "Server_3"], short()).await;
    for name in ["server2", "Server_3"] {
        assert_eq!(
            served.who(&cluster.identity(name)).await.unwrap(),
            json!(name)
        );
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_refusals() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let mut client = served.connect(&cluster.identity("server2")).await.unwrap();
    for n in 0..50 {
        let question = json!({ "n": n });
        let answer: Value = client
            .request(Method::POST, "/echo", &question, SOON)
            .await
            .unwrap();
        assert_eq!(answer, question);
        let error = client.get("/no").await.unwrap_err();
        assert!(
            matches!(&error, PeerError::Refused { status: 409, body, .. } if body == "split brain"),
            "{error}"
        );
    }
    assert!(!client.is_closed());
    assert_eq!(served.counters.accepted(), 1);
}

#[tokio::test]
async fn a_caller_of_another_ca_is_refused_and_told() {
    let (cluster, foreign) = (Cluster::new(), Cluster::new());
    let served = Served::new(&cluster, &["server2"], short()).await;
    // Its own CA is not that of the server either; to come as far as the server's check it trusts that one.
    let folder = foreign.tls_dir("server2");
    foreign.identity("server2");
    let texts = [
        cluster.tls_dir("server1").join("ca.pem"),
        folder.join("node.pem"),
        folder.join("node.key"),
    ]
    .map(|path| std::fs::read(path).unwrap());
    let parts = Parts::from_pem([&texts[0], &texts[1], &texts[2]], [""; 3]).unwrap();
    let (_, config) = netraid::api::tls::configurations(parts).unwrap();
    let stream = tokio::net::TcpStream::connect(served.address)
        .await
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector
        .connect("server1".try_into().unwrap(), stream)
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("/who").body(String::new()).unwrap();
    assert!(sender.send_request(request).await.is_err(), "it was served");
    let _ = connection.await;
    until("counted", || served.counters.handshake_failed() == 1).await;

    // And one that uses the client as it is finds out that the server is a stranger.
    let error = served.who(&foreign.identity("server2")).await.unwrap_err();
    assert!(
        matches!(error, PeerError::NotAuthenticated { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("another CA"), "{error}");
    served.still_serves(&cluster.identity("server2")).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused_on_both_sides_with_the_reason() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let ca = Authority::load(&cluster.tls_dir("server1")).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5 * 86400);
    let made = ca.issue(&node("server2"), later).unwrap();
    let texts = [ca.certificate(), &made.certificate, &made.key].map(str::as_bytes);
    let parts = Parts::from_pem(texts, [""; 3]).unwrap();
    let early = Identity::new(parts, &node("server2"), "").unwrap();
    let error = served.who(&early).await.unwrap_err();
    assert!(matches!(error, PeerError::NotAccepted { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("server1") && text.contains("server2"),
        "{text}"
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(early.server());
        let _ = acceptor.accept(listener.accept().await.unwrap().0).await;
    });
    let identity = cluster.identity("server1");
    let error = PeerClient::connect(&identity, &address, &node("server2"), SOON)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PeerError::NotAuthenticated { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("not valid yet"), "{error}");
}

#[tokio::test]
async fn a_node_of_the_ca_that_is_not_configured_is_refused_by_name() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let error = served.who(&cluster.identity("server9")).await.unwrap_err();
    assert!(
        matches!(&error, PeerError::Refused { status: 403, body, .. } if body.contains("server9")),
        "{error}"
    );
    assert_eq!(served.counters.not_configured(), 1);
    // Names that differ in case alone are different nodes.
    let error = served.who(&cluster.identity("Server2")).await.unwrap_err();
    assert!(
        matches!(error, PeerError::Refused { status: 403, .. }),
        "{error}"
    );
    served.still_serves(&cluster.identity("server2")).await;
}

#[tokio::test]
async fn a_node_that_leaves_the_configuration_is_refused_on_its_open_connection() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let mut client = served.connect(&cluster.identity("server2")).await.unwrap();
    client.get("/who").await.unwrap();
    served.allowed.lock().unwrap().clear();
    let error = client.get("/who").await.unwrap_err();
    assert!(
        matches!(error, PeerError::Refused { status: 403, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_does_not_talk_to_another_node_than_it_means() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let identity = cluster.identity("server2");
    for other in ["server3", "Server1", "10.0.0.1"] {
        let address = served.address.to_string();
        let error = PeerClient::connect(&identity, &address, &node(other), SOON)
            .await
            .unwrap_err();
        assert!(
            matches!(error, PeerError::NotAuthenticated { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&format!("{other:?}")) && text.contains("\"server1\""),
            "{text}"
        );
    }
}

#[tokio::test]
async fn answers_that_are_late_garbled_or_too_large_are_told_apart() {
    let cluster = Cluster::new();
    let served = Served::new(
        &cluster,
        &["server2"],
        netraid::api::listen::Limits::default(),
    )
    .await;
    let identity = cluster.identity("server2");
    let mut client = served.connect(&identity).await.unwrap();
    let brief = Duration::from_millis(50);
    let error = client
        .request::<_, Value>(Method::GET, "/never", &(), brief)
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::Deadline { .. }), "{error}");
    assert!(client.is_closed());
    assert!(
        matches!(client.get("/who").await, Err(PeerError::Unreachable { .. })),
        "no stale answer"
    );

    let error = served
        .connect(&identity)
        .await
        .unwrap()
        .get("/text")
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::Garbled { .. }), "{error}");
    let error = served
        .connect(&identity)
        .await
        .unwrap()
        .get("/huge")
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_that_is_not_there_or_does_not_answer_is_noticed_by_the_deadline() {
    let cluster = Cluster::new();
    let identity = cluster.identity("server1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let brief = Duration::from_millis(50);
    // The system takes the connection; nobody shakes hands.
    let error = PeerClient::connect(&identity, &address, &node("server2"), brief)
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::Deadline { .. }), "{error}");
    drop(listener);
    let error = PeerClient::connect(&identity, &address, &node("server2"), SOON)
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_stop_lets_requests_end_for_a_while_and_then_ends() {
    let cluster = Cluster::new();
    let limits = netraid::api::listen::Limits {
        grace: Duration::from_millis(100),
        ..Default::default()
    };
    let served = Served::new(&cluster, &["server2"], limits).await;
    let mut client = served.connect(&cluster.identity("server2")).await.unwrap();
    client.get("/who").await.unwrap();
    served.stopper.stop();
    tokio::time::timeout(SOON, served.task)
        .await
        .expect("it does not end")
        .unwrap();
    assert!(client.get("/who").await.is_err());
}
