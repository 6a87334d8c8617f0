//! The way to a peer: one kept connection, over which each side tells the other what is new of its mirrors.
//!
//! A peer counts as reachable while this node's own connection to it answers; what it tells over its own connection to us
//! is taken as well, but never makes it reachable. One connection carries all mirrors, so a cut and its end cost one
//! connection and not a storm.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json, Router, routing};
use flags::NodeName;
use hyper::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::driver::Input;
use super::shared::{News, Question, Shared};
use crate::api::identity::Identity;
use crate::api::listen::{PeerName, Stop};
use crate::api::peer_client::{PeerClient, PeerError};

/// What one side says, and what it wants to hear.
///
/// Within a version fields are only added, each with what its absence means (`#[serde(default)]`), so that daemons that are
/// updated one after the other understand each other.
#[derive(Debug, Serialize, Deserialize)]
struct Exchange {
    /// Version of what is said between peers.
    version: u32,
    /// What is new.
    news: News,
    /// Up to which of the other's sequence numbers all is known.
    known: u64,
    /// Of these mirrors everything is to be told as it is now, read anew.
    fresh: Vec<String>,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    version: u32,
    news: News,
}

/// What this program says between peers. A daemon that says another version is refused by name.
const VERSION: u32 = 1;

/// Whom a link goes to.
pub struct Peer {
    /// Its name, which its certificate has to prove.
    pub name: NodeName,
    /// Its host and port.
    pub address: String,
}

/// Keeps the link to a peer until `stop`.
pub async fn keep(peer: Peer, identity: Arc<Identity>, shared: Arc<Shared>, mut stop: Stop) {
    let (sender, questions) = mpsc::channel(QUESTIONS);
    let wake = Arc::new(Notify::new());
    shared.register_link(peer.name.as_str(), sender, Arc::clone(&wake));
    let link = Link {
        name: peer.name.to_string(),
        peer,
        identity,
        shared,
        questions,
        wake,
        own_told: 0,
        known: 0,
        complained: None,
    };
    tokio::select! {
        () = link.run() => {}
        () = stop.stopped() => {}
    }
}

struct Link {
    name: String,
    peer: Peer,
    identity: Arc<Identity>,
    shared: Arc<Shared>,
    questions: mpsc::Receiver<Question>,
    wake: Arc<Notify>,
    /// The own sequence number up to which the peer was told.
    own_told: u64,
    /// The peer's, up to which it has told.
    known: u64,
    /// The last reason why it could not be reached, to say each once.
    complained: Option<String>,
}

impl Link {
    async fn run(mut self) {
        let mut pause = SOON;
        let mut asked = Vec::new();
        loop {
            let met = match self.connect().await {
                Ok(client) => {
                    pause = SOON;
                    self.talk(client, &mut asked).await
                }
                Err(error) => error,
            };
            let why = met.to_string();
            self.shared.lost(&self.name, &why);
            self.complain(why);
            // Whoever asked hears that there is no answer.
            asked.clear();
            tokio::select! {
                () = tokio::time::sleep(uneven(pause)) => pause = (pause * 2).min(SELDOM),
                () = self.wake.notified() => {}
                Some(question) = self.questions.recv() => asked.push(question),
            }
        }
    }

    async fn connect(&self) -> Result<PeerClient, PeerError> {
        let Peer { name, address } = &self.peer;
        PeerClient::connect(&self.identity, address, name, PATIENCE).await
    }

    /// Talks until the connection breaks.
    async fn talk(&mut self, mut client: PeerClient, asked: &mut Vec<Question>) -> PeerError {
        let mut published = self.shared.newest_published();
        (self.own_told, self.known) = (0, 0);
        let mut met = None;
        loop {
            let fresh = asked.iter().map(|question| question.tag.clone()).collect();
            let reply = match self.exchange(&mut client, fresh).await {
                Ok(reply) => reply,
                Err(error) => return error,
            };
            if met != Some(reply.news.instance) {
                if met.is_some() {
                    // It began anew behind the same connection, which can't be.
                    return self.garbled("it is another run of netraidd all of a sudden");
                }
                met = Some(reply.news.instance);
                self.shared.met(&self.name, reply.news.instance);
                self.complained = None;
            }
            for question in asked.drain(..) {
                let told = self.shared.answered(&self.name, &question.tag, &reply.news);
                let _ = question.answer.try_send(told);
            }
            self.known = reply.news.upto;
            if !self.shared.hear(&self.name, reply.news) {
                return self.garbled("more than the mirrors of this node can take up at once");
            }
            let next = Instant::now() + BEAT;
            tokio::select! {
                () = sleep_until(next) => {}
                changed = published.changed() => if changed.is_err() {
                    return self.garbled("this daemon ends");
                },
                Some(question) = self.questions.recv() => asked.push(question),
            }
        }
    }

    async fn exchange(
        &mut self,
        client: &mut PeerClient,
        fresh: Vec<String>,
    ) -> Result<Reply, PeerError> {
        let news = self.shared.news(&self.name, self.own_told);
        let upto = news.upto;
        let exchange = Exchange {
            version: VERSION,
            news,
            known: self.known,
            fresh,
        };
        let reply: Value = client
            .request(Method::POST, PATH, &exchange, PATIENCE)
            .await?;
        let reply: Reply = understood(reply).map_err(|why| self.garbled(&why))?;
        self.own_told = upto;
        Ok(reply)
    }

    fn garbled(&self, why: &str) -> PeerError {
        PeerError::Garbled {
            node: self.peer.name.clone(),
            address: self.peer.address.clone(),
            reason: why.to_owned(),
        }
    }

    fn complain(&mut self, why: String) {
        if self.complained.as_deref() != Some(&why) {
            self.shared.tell(None, "peer-unreachable", why.clone());
            self.complained = Some(why);
        }
    }
}

/// What was said, if it is said in this program's version: another may say all but the version in another way.
fn understood<T: DeserializeOwned>(said: Value) -> Result<T, String> {
    let version = said.get("version").and_then(Value::as_u64);
    match version {
        Some(version) if version != u64::from(VERSION) => Err(format!(
            "it speaks version {version} of what peers say, this daemon version {VERSION}: use the same netraid on both"
        )),
        _ => serde_json::from_value(said).map_err(|error| error.to_string()),
    }
}

/// Three quarters to five quarters of a pause: those who lost somebody at one moment do not all return at another.
pub(super) fn uneven(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u8;
    pause * 3 / 4 + pause * u32::from(random) / 512
}

/// What peers may ask.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(PATH, routing::post(answer))
        .with_state(shared)
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Extension(PeerName(peer)): Extension<PeerName>,
    Json(said): Json<Value>,
) -> Result<Json<Reply>, (hyper::StatusCode, String)> {
    let exchange: Exchange = understood(said).map_err(|why| {
        let why = format!("what {peer} says is not understood here: {why}");
        (hyper::StatusCode::BAD_REQUEST, why)
    })?;
    // Before it is asked how it is: what the peer says with its question counts.
    shared.hear(peer.as_str(), exchange.news);
    let asked = exchange.fresh.iter().take(MAX_FRESH);
    let fresh: Vec<&String> = asked.filter(|tag| shared.inputs(tag).is_some()).collect();
    let mut waits = Vec::new();
    for tag in &fresh {
        // Who asks others itself says so, and can't be asked meanwhile.
        if shared.envelope(tag).is_some_and(|envelope| envelope.claims) {
            continue;
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(inputs) = shared.inputs(tag)
            && inputs.try_send(Input::Ask(sender)).is_ok()
        {
            waits.push(receiver);
        }
    }
    // All of them within one time. Who is busy says what it said last: nothing that follows from what it does now has been
    // done yet.
    let _ = timeout(BUSY, async {
        for wait in waits {
            let _ = wait.await;
        }
    })
    .await;
    let mut news = shared.news(peer.as_str(), exchange.known);
    for tag in fresh {
        if news.mirrors.iter().all(|envelope| envelope.tag != *tag) {
            let envelope = shared.envelope(tag);
            news.mirrors
                .extend(envelope.and_then(|envelope| envelope.for_node(peer.as_str())));
        }
    }
    Ok(Json(Reply {
        version: VERSION,
        news,
    }))
}

const PATH: &str = "/v1/peer/exchange";
/// How often two nodes hear of each other at least.
const BEAT: Duration = Duration::from_secs(1);
/// Longest wait for a connection or an answer. A peer that is silent for so long can't be reached.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Longest wait for a mirror that is asked how it is.
const BUSY: Duration = Duration::from_millis(1000);
/// First pause between two attempts; doubled each time.
const SOON: Duration = Duration::from_millis(250);
/// The longest.
const SELDOM: Duration = Duration::from_secs(2);
/// Questions that wait: every mirror may ask at once.
const QUESTIONS: usize = 512;
/// Questions in one exchange.
const MAX_FRESH: usize = 256;
