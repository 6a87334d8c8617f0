//! The plain HTTP on this machine: read-only, and for names of this machine alone.

use axum::Router;
use axum::routing::get;
use netraid::api::listen::{self, Limits, ListenError, Stopper, Terms};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::rig::until_closed;

async fn serve() -> (SocketAddr, Stopper) {
    let listener = listen::bind_loopback("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (stopper, stop) = listen::stop();
    let router = Router::new().route(
        "/v1/mirrors",
        get(|| async { "[]" }).post(|| async { "changed" }),
    );
    tokio::spawn(listen::loopback(
        listener,
        router,
        Terms::new(Limits::default()),
        stop,
    ));
    (address, stopper)
}

async fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    until_closed(stream).await
}

#[tokio::test]
async fn things_are_read_and_not_changed() {
    let (address, _stopper) = serve().await;
    let answer = ask(
        address,
        &format!("GET /v1/mirrors HTTP/1.1\r\nhost: {address}"),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n[]"),
        "{answer}"
    );
    let answer = ask(address, "HEAD /v1/mirrors HTTP/1.1\r\nhost: localhost").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "XYZ"] {
        let answer = ask(
            address,
            &format!("{method} /v1/mirrors HTTP/1.1\r\nhost: localhost"),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_name_that_somebody_else_points_here_is_refused() {
    let (address, _stopper) = serve().await;
    for (head, status) in [
        ("GET /v1/mirrors HTTP/1.1\r\nhost: evil.example", "421"),
        ("GET /v1/mirrors HTTP/1.1\r\nhost: 10.0.0.1", "421"),
        (
            "GET http://evil.example/v1/mirrors HTTP/1.1\r\nhost: localhost",
            "421",
        ),
        (
            "GET /v1/mirrors HTTP/1.1\r\nhost: localhost\r\nhost: evil.example",
            "400",
        ),
        ("GET /v1/mirrors HTTP/1.1\r\nx: y", "400"),
    ] {
        let answer = ask(address, head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{head}: {answer}"
        );
    }
}

#[tokio::test]
async fn addresses_that_others_reach_are_refused() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let error = listen::bind_loopback(address.parse().unwrap())
            .await
            .unwrap_err();
        assert!(matches!(error, ListenError::NotLoopback(_)), "{error}");
    }
    let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (_stopper, stop) = listen::stop();
    let served = listen::loopback(everywhere, Router::new(), Terms::default(), stop).await;
    assert!(matches!(served, Err(ListenError::NotLoopback(_))));
}
