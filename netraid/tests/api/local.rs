//! Commands that call the daemon over its unix socket.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::routing::{get, post};
use axum::{Json, Router};
use netraid::api::listen::{self, Access, Caller, Limits, ListenError, Stopper, Terms};
use netraid::api::local_client::{LocalClient, LocalError};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::rig::SOON;

/// A body whose pieces come when the test says so.
struct Pieces(mpsc::UnboundedReceiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok(hyper::body::Frame::data(piece))))
    }
}

struct Served {
    folder: TempDir,
    events: mpsc::UnboundedSender<Bytes>,
    stopper: Stopper,
    task: JoinHandle<Result<(), ListenError>>,
}

impl Served {
    fn new() -> Served {
        let folder = TempDir::new().unwrap();
        let socket = listen::bind_unix(&folder.path().join("sock"), &Access::default()).unwrap();
        let (events, pieces) = mpsc::unbounded_channel();
        let pieces = Arc::new(Mutex::new(Some(pieces)));
        let router =
            Router::new()
                .route(
                    "/caller",
                    get(|Extension(caller): Extension<Caller>| async move {
                        Json(json!([caller.uid, caller.gid, caller.pid]))
                    }),
                )
                .route("/echo", post(|body: Bytes| async { body }))
                .route("/huge", get(|| async { "x".repeat(9 << 20) }))
                .route("/never", get(std::future::pending::<()>))
                .route(
                    "/events",
                    get(move || async move {
                        Body::new(Pieces(pieces.lock().unwrap().take().unwrap()))
                    }),
                );
        let (stopper, stop) = listen::stop();
        let task = tokio::spawn(listen::unix(
            socket,
            router,
            Terms::new(Limits::local()),
            stop,
        ));
        Served {
            folder,
            events,
            stopper,
            task,
        }
    }

    fn client(&self) -> LocalClient {
        LocalClient::new(self.folder.path().join("sock"), SOON)
    }
}

/// The client blocks; so not on the runtime's own thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn the_daemon_knows_who_calls_and_the_client_gets_status_and_body() {
    let served = Served::new();
    let client = served.client();
    blocking(move || {
        let (status, body) = client.get("/caller").unwrap();
        let caller: Value = serde_json::from_slice(&body).unwrap();
        let own = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        assert_eq!(
            (status, caller),
            (200, json!([own.0, own.1, std::process::id()]))
        );
        let large = vec![b'x'; 1 << 20];
        assert_eq!(client.post("/echo", &large).unwrap(), (200, large.clone()));
        assert_eq!(
            client
                .post("/echo", &[&large[..], b"x"].concat())
                .unwrap()
                .0,
            413
        );
        assert_eq!(client.get("/nothing").unwrap().0, 404);
        assert!(matches!(
            client.get("/huge"),
            Err(LocalError::Garbled { .. })
        ));
        for path in ["", "x", "/a b", "/a\r\nb: c", "/ä"] {
            assert!(matches!(client.get(path), Err(LocalError::Path(_))));
        }
    })
    .await;
}

#[tokio::test]
async fn lines_of_a_stream_come_as_they_happen() {
    let served = Served::new();
    let client = served.client();
    let events = served.events.clone();
    drop(served.events);
    blocking(move || {
        let mut stream = client.stream("/events").unwrap();
        assert_eq!(stream.status(), 200);
        let say = |text: &'static str| events.send(Bytes::from(text)).unwrap();
        say("{\"a\":1}\n{\"b\"");
        assert_eq!(stream.next_line(Some(SOON)).unwrap().unwrap(), b"{\"a\":1}");
        let early = stream.next_line(Some(Duration::from_millis(20)));
        assert!(matches!(early, Err(LocalError::Late { .. })));
        say(":2}\n");
        assert_eq!(stream.next_line(None).unwrap().unwrap(), b"{\"b\":2}");
        drop(events);
        assert_eq!(stream.next_line(Some(SOON)).unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_late_and_a_stop_does_not_wait_for_it() {
    let served = Served::new();
    let path = served.folder.path().join("sock");
    let brief = Duration::from_millis(50);
    let late = blocking(move || LocalClient::new(path, brief).get("/never")).await;
    assert!(matches!(late, Err(LocalError::Late { within, .. }) if within == brief));
    served.stopper.stop();
    tokio::time::timeout(SOON, served.task)
        .await
        .expect("it does not end")
        .unwrap()
        .unwrap();
    assert!(
        !served.folder.path().join("sock").exists(),
        "the socket is removed"
    );
}

#[test]
fn without_a_daemon_the_socket_and_the_command_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sock");
    let client = LocalClient::new(&path, SOON);
    let names = |error: LocalError| {
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains("systemctl start netraidd"),
            "{text}"
        );
    };
    names(client.get("/").unwrap_err());
    // A socket that somebody left behind.
    drop(UnixListener::bind(&path).unwrap());
    names(client.get("/").unwrap_err());
}

#[test]
fn a_full_queue_of_a_daemon_that_hangs_does_not_hang_the_client() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sock");
    let flags = SockFlag::SOCK_CLOEXEC;
    let hangs = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    socket::bind(hangs.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    socket::listen(&hangs, Backlog::new(1).unwrap()).unwrap();
    for _ in 0..8 {
        let client = LocalClient::new(&path, Duration::from_millis(10));
        let error = client.get("/").unwrap_err();
        assert!(matches!(error, LocalError::Late { .. }), "{error}");
    }
}

#[test]
fn what_is_no_answer_is_garbled() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
    });
    let error = LocalClient::new(&path, SOON).get("/").unwrap_err();
    assert!(matches!(error, LocalError::Garbled { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn only_a_socket_that_nobody_serves_is_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sock");
    let bind = |path: &Path| listen::bind_unix(path, &Access::default());

    let foreign = UnixListener::bind(&path).unwrap();
    assert!(
        matches!(bind(&path), Err(ListenError::InUse(_))),
        "somebody else's"
    );
    drop(foreign);
    let ours = bind(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o660
    );
    assert!(matches!(bind(&path), Err(ListenError::InUse(_))), "our own");
    drop(ours);
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&path), Err(ListenError::NotASocket(_))));
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let access = Access {
        group: Some("no such group".into()),
        mode: 0o660,
    };
    let other = folder.path().join("other");
    assert!(matches!(
        listen::bind_unix(&other, &access),
        Err(ListenError::NoGroup(_))
    ));
}
