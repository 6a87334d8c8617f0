//! A peer whose netraidd is another version: one that says a bit more or less is understood, one that says all in another
//! way is refused by the version's name; data goes on flowing meanwhile, and nothing is copied again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Json, Router};
use flags::NodeName;
use netraid::api::identity::Identity;
use netraid::api::listen::{Stopper, Terms, peers, stop};
use netraid::api::peer_client::{PeerClient, PeerError};
use serde_json::{Value, json};

use crate::cluster::{Cluster, MIB};
use crate::node::Node;
use crate::strangers::listens;

fn named(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn identity(node: &Node) -> Identity {
    Identity::load(&node.folder.join("etc/tls"), &named(&node.name)).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// A daemon of another version in the place of a node's own, which does not run. It ends when it is dropped.
struct StandIn {
    stopper: Stopper,
    served: Option<tokio::task::JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
}

impl StandIn {
    fn new(node: &Node, answer: Value) -> StandIn {
        let runtime = runtime();
        let identity = Arc::new(identity(node));
        let address: SocketAddr = listens(node);
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(address))
            .unwrap();
        let (stopper, stop) = stop();
        let router = Router::new().fallback(move || {
            let answer = answer.clone();
            async move { Json(answer) }
        });
        let allowed = Arc::new(|| vec![named("server1"), named("server2")]);
        let served = peers(listener, identity, allowed, router, Terms::default(), stop);
        StandIn {
            stopper,
            served: Some(runtime.spawn(served)),
            runtime,
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(served) = self.served.take() {
            let _ = self.runtime.block_on(served);
        }
    }
}

/// Asks a node what peers ask, with the identity of another.
fn ask(to: &Node, from: &Node, question: &Value) -> Result<Value, PeerError> {
    let identity = identity(from);
    runtime().block_on(async {
        let (address, patience) = (listens(to).to_string(), Duration::from_secs(20));
        let name = named(&to.name);
        let mut client = PeerClient::connect(&identity, &address, &name, patience).await?;
        let post = hyper::Method::POST;
        client
            .request(post, "/v1/peer/exchange", question, patience)
            .await
    })
}

#[test]
fn a_daemon_of_another_version_is_refused_by_its_number_and_the_data_goes_on() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    application.goes_on(5);
    let before = server1.status();
    // The newer one says everything in another way, the older one nothing of what is said today.
    for (version, answer) in [
        (
            7,
            json!({"version": 7, "news": "all is well", "mirrors": {"data": "source"}}),
        ),
        (0, json!({"version": 0})),
    ] {
        server2.end_daemon();
        let stand_in = StandIn::new(server2, answer);
        let words = format!("speaks version {version} of what peers say, this daemon version 1");
        server1.wait_told("peer-unreachable", &words);
        let node = server1.wait_for("why", |mirror| {
            let failure = mirror.nodes[1].failure.as_deref();
            failure.is_some_and(|why| why.contains(&words))
        });
        assert_eq!(
            node.nodes[1].status, "Target",
            "its leg is in sync all the same"
        );
        let error = ask(server1, server2, &json!({"version": version, "hello": 1})).unwrap_err();
        assert!(error.to_string().contains(&words), "{error}");
        application.goes_on(5);
        drop(stand_in);
        server2.start_daemon();
        server2.sees(&["Source", "Target"]);
        server1.wait_for("server2", |mirror| mirror.nodes[1].reachable);
    }
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    let after = server1.sees(&["Source", "Target"]);
    assert_eq!(after.generation, before.generation);
    assert_eq!(after.nodes[1].last_resync, before.nodes[1].last_resync);
    let copies = server1.events();
    let copies = copies.iter().filter(|event| event.event == "resync");
    assert_eq!(copies.count(), 1, "the first one");
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn what_a_newer_daemon_of_the_same_version_says_besides_is_no_reason_to_refuse_it() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let question = json!({"version": 1, "known": 0, "fresh": [], "later": {"what": "nobody knows yet"}, "news":
        {"instance": 1, "upto": 0, "mirrors": [], "gone": [], "weather": "fine"}});
    let answer = ask(server1, server2, &question).unwrap();
    assert_eq!(answer["version"], 1);
    let mirror = &answer["news"]["mirrors"][0];
    assert_eq!(mirror["tag"], "data", "{answer}");
    server1.sees(&["Source", "Target"]);
}
