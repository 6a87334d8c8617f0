//! Callers that are broken or mean it badly: each is closed, and the others are served.

use std::time::Instant;

use hyper::Method;
use netraid::api::listen::Limits;
use netraid::api::peer_client::PeerError;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::rig::{Cluster, Get, SOON, Served, node, short, until, until_closed};

/// An authenticated connection for raw bytes.
async fn raw(cluster: &Cluster, served: &Served) -> tokio_rustls::client::TlsStream<TcpStream> {
    let identity = cluster.identity("server2");
    let stream = TcpStream::connect(served.address).await.unwrap();
    tokio_rustls::TlsConnector::from(identity.client())
        .connect("server1".try_into().unwrap(), stream)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_no_tls_is_closed() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let garbage = [0xff; 100_000];
    let cases: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        &garbage,
        b"",
        &[0x16, 3, 1, 0x40],
    ];
    for (at, bytes) in cases.iter().enumerate() {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        // It may be closed while this is being written.
        let _ = stream.write_all(bytes).await;
        let answer = until_closed(stream).await;
        assert!(answer.len() < 100 && !answer.contains("HTTP"), "{answer}");
        until("counted", || {
            served.counters.handshake_failed() == at as u64 + 1
        })
        .await;
    }
    served.still_serves(&cluster.identity("server2")).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_closed_whether_it_is_slow_or_large() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let mut slow = raw(&cluster, &served).await;
    slow.write_all(b"GET /who HTTP/1.1\r\nx: ").await.unwrap();
    until_closed(slow).await;

    let mut large = raw(&cluster, &served).await;
    let head = format!("GET /who HTTP/1.1\r\nx: {}", "y".repeat(100_000));
    let _ = large.write_all(head.as_bytes()).await;
    let _ = large.flush().await;
    let answer = until_closed(large).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );

    let mut many = raw(&cluster, &served).await;
    let head = format!("GET /who HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(65));
    many.write_all(head.as_bytes()).await.unwrap();
    many.flush().await.unwrap();
    let answer = until_closed(many).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    until("counted", || served.counters.broken() == 3).await;
    served.still_serves(&cluster.identity("server2")).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_announced_or_not() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let identity = cluster.identity("server2");
    let mut client = served.connect(&identity).await.unwrap();
    let fits = json!("x".repeat(998));
    client
        .request::<_, Value>(Method::POST, "/echo", &fits, SOON)
        .await
        .unwrap();
    let over = json!("x".repeat(999));
    let error = client
        .request::<_, Value>(Method::POST, "/echo", &over, SOON)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PeerError::Refused { status: 413, .. }),
        "{error}"
    );

    let mut chunked = raw(&cluster, &served).await;
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = format!(
        "{head}3e8\r\n\"{}\r\n3e8\r\n{}\r\n",
        "x".repeat(999),
        "x".repeat(1000)
    );
    let _ = chunked.write_all(body.as_bytes()).await;
    let _ = chunked.flush().await;
    let answer = until_closed(chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    served.still_serves(&identity).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_and_an_answer_that_is_not_read_end_in_time() {
    let cluster = Cluster::new();
    let served = Served::new(&cluster, &["server2"], short()).await;
    let mut waiting = raw(&cluster, &served).await;
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n\"";
    waiting.write_all(head.as_bytes()).await.unwrap();
    waiting.flush().await.unwrap();
    let answer = until_closed(waiting).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");

    // More answers than any socket buffers hold; none is read.
    let mut deaf = raw(&cluster, &served).await;
    let before = served.counters.broken();
    for _ in 0..20 {
        if deaf
            .write_all(b"GET /huge HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .is_err()
        {
            break;
        }
    }
    let _ = deaf.flush().await;
    until("given up", || served.counters.broken() > before).await;
    served.still_serves(&cluster.identity("server2")).await;
}

#[tokio::test]
async fn too_many_connections_of_one_address_are_closed_and_places_come_back() {
    let cluster = Cluster::new();
    let limits = Limits {
        per_address: 3,
        ..Limits::default()
    };
    let served = Served::new(&cluster, &["server2"], limits).await;
    let identity = cluster.identity("server2");
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(TcpStream::connect(served.address).await.unwrap());
    }
    until("accepted", || served.counters.accepted() == 3).await;
    for turn in 1..=5 {
        let closed = TcpStream::connect(served.address).await.unwrap();
        assert_eq!(until_closed(closed).await, "");
        assert_eq!(served.counters.too_many(), turn);
    }
    drop(open);
    until("they are seen to be gone", || {
        served.counters.handshake_failed() == 3
    })
    .await;
    // The place is given back a moment after the count.
    let end = Instant::now() + SOON;
    while served.who(&identity).await.is_err() {
        assert!(Instant::now() < end, "the places are lost");
    }
}

#[tokio::test]
async fn strangers_that_fill_the_handshakes_do_not_take_the_places_of_peers() {
    let cluster = Cluster::new();
    let limits = Limits {
        handshakes: 2,
        per_address: 100,
        ..Limits::default()
    };
    let served = Served::new(&cluster, &["server2"], limits).await;
    let mut peer = served.connect(&cluster.identity("server2")).await.unwrap();
    peer.get("/who").await.unwrap();
    let _strangers = [
        TcpStream::connect(served.address).await.unwrap(),
        TcpStream::connect(served.address).await.unwrap(),
    ];
    until("accepted", || served.counters.accepted() == 3).await;
    let refused = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(until_closed(refused).await, "");
    assert_eq!(
        peer.get("/who").await.unwrap(),
        json!(node("server2").as_str())
    );
}
