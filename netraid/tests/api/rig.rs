//! A cluster's certificates, a served router, and bounds short enough for a test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Extension;
use axum::routing::{get, post};
use axum::{Json, Router};
use flags::NodeName;
use netraid::api::identity::Identity;
use netraid::api::issue;
use netraid::api::listen::{self, Counters, Limits, PeerName, Stopper, Terms};
use netraid::api::peer_client::{PeerClient, PeerError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Long enough for anything that should happen.
pub const SOON: Duration = Duration::from_secs(20);

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// One CA, and folders for nodes that it knows.
pub struct Cluster {
    folder: TempDir,
}

impl Cluster {
    /// The CA is made on `server1`.
    pub fn new() -> Cluster {
        let cluster = Cluster {
            folder: TempDir::new().unwrap(),
        };
        issue::init(&cluster.tls_dir("server1"), &node("server1")).unwrap();
        cluster
    }

    pub fn tls_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The identity of a node, made by inviting it if need be.
    pub fn identity(&self, name: &str) -> Arc<Identity> {
        let folder = self.tls_dir(name);
        if !folder.exists() {
            let bundle = self.folder.path().join(format!("{name}.bundle"));
            issue::invite(&self.tls_dir("server1"), &node(name), &bundle).unwrap();
            issue::join(&folder, &bundle).unwrap();
        }
        Arc::new(Identity::load(&folder, &node(name)).unwrap())
    }
}

/// Short times, so that a test of them is short too.
pub fn short() -> Limits {
    Limits {
        handshake: Duration::from_millis(400),
        head: Duration::from_millis(400),
        request: Duration::from_millis(400),
        stall: Some(Duration::from_millis(400)),
        body: 1000,
        ..Limits::default()
    }
}

/// `server1`, serving peers.
pub struct Served {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    pub allowed: Arc<Mutex<Vec<NodeName>>>,
    pub stopper: Stopper,
    pub task: JoinHandle<()>,
}

impl Served {
    pub async fn new(cluster: &Cluster, allowed: &[&str], limits: Limits) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stopper, stop) = listen::stop();
        let terms = Terms::new(limits);
        let counters = Arc::clone(&terms.counters);
        let allowed = Arc::new(Mutex::new(
            allowed.iter().map(|name| node(name)).collect::<Vec<_>>(),
        ));
        let asked = Arc::clone(&allowed);
        let task = tokio::spawn(listen::peers(
            listener,
            cluster.identity("server1"),
            Arc::new(move || asked.lock().unwrap().clone()),
            router(),
            terms,
            stop,
        ));
        Served {
            address,
            counters,
            allowed,
            stopper,
            task,
        }
    }

    pub async fn connect(&self, identity: &Identity) -> Result<PeerClient, PeerError> {
        PeerClient::connect(identity, &self.address.to_string(), &node("server1"), SOON).await
    }

    /// What `server1` answers to the question who asks.
    pub async fn who(&self, identity: &Identity) -> Result<Value, PeerError> {
        self.connect(identity).await?.get("/who").await
    }

    /// Others are served whatever happened before.
    pub async fn still_serves(&self, identity: &Identity) {
        assert_eq!(
            self.who(identity).await.unwrap(),
            json!(identity.node().as_str())
        );
    }
}

/// A GET without a body.
pub trait Get {
    async fn get(&mut self, path: &str) -> Result<Value, PeerError>;
}

impl Get for PeerClient {
    async fn get(&mut self, path: &str) -> Result<Value, PeerError> {
        self.request(hyper::Method::GET, path, &(), SOON).await
    }
}

fn router() -> Router {
    Router::new()
        .route(
            "/who",
            get(
                |Extension(PeerName(node)): Extension<PeerName>| async move {
                    Json(json!(node.as_str()))
                },
            ),
        )
        .route(
            "/echo",
            post(|Json(question): Json<Value>| async move { Json(question) }),
        )
        .route("/never", get(std::future::pending::<()>))
        .route(
            "/no",
            get(|| async { (axum::http::StatusCode::CONFLICT, "split brain") }),
        )
        .route("/text", get(|| async { "no JSON" }))
        .route("/huge", get(|| async { "x".repeat(5 << 20) }))
}

/// Waits until something is so; fails after [`SOON`].
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !so() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All that comes until the other side closes, which it has to.
pub async fn until_closed(mut stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // A reset is a close, too.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes))
        .await
        .expect("it is not closed");
    String::from_utf8_lossy(&bytes).into_owned()
}
