//! The way to the peers: who was met, what each told last, and questions to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::super::driver::{Input, STACK};
use super::{Envelope, Link, News, Question, Shared, Told};
use crate::mirror::generation::{HISTORY, SLOTS};
use crate::mirror::node::NodeId;

impl Shared {
    /// Tells when something is published.
    pub fn newest_published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// The link to a peer has begun; it answers `questions`, and tries at once when it is woken.
    pub fn register_link(&self, peer: &str, questions: mpsc::Sender<Question>, wake: Arc<Notify>) {
        let link = Link {
            questions,
            wake,
            met: None,
            told: BTreeMap::new(),
            failure: None,
        };
        self.links().insert(peer.to_owned(), link);
    }

    /// The names of the peers.
    pub fn peers(&self) -> Vec<String> {
        self.links().keys().cloned().collect()
    }

    /// A peer was met. Whatever it told before was before this.
    pub fn met(&self, peer: &str, instance: u64) {
        let epoch = self.epochs.fetch_add(1, Ordering::Relaxed);
        if let Some(link) = self.links().get_mut(peer) {
            link.met = Some((epoch, instance));
            link.told.clear();
            link.failure = None;
        }
    }

    /// Why a peer can't be reached, if that is so.
    pub fn failure(&self, peer: &str) -> Option<String> {
        self.links().get(peer)?.failure.clone()
    }

    /// A peer can't be reached any more: every mirror of which it told hears that.
    pub fn lost(&self, peer: &str, why: &str) {
        let mut links = self.links();
        let Some(link) = links.get_mut(peer) else {
            return;
        };
        let Some((epoch, _)) = link.met.take() else {
            link.failure = Some(why.to_owned());
            return;
        };
        link.failure = Some(why.to_owned());
        for tag in std::mem::take(&mut link.told).into_keys() {
            self.lose(&tag, peer, epoch);
        }
    }

    fn lose(&self, tag: &str, peer: &str, epoch: u64) {
        let node = self.envelope(tag).and_then(|own| slot_of(&own.nodes, peer));
        if let (Some(node), Some(inputs)) = (node, self.inputs(tag)) {
            // Whose queue is full asks by itself (`tells`).
            let _ = inputs.try_send(Input::PeerLost(node, epoch));
        }
    }

    /// A peer told something, over its connection or ours. It counts while our own connection holds, so that its loss is
    /// noticed; nothing older is passed on after something newer.
    /// False if a mirror that is too busy could not be told: then it has to be told again.
    pub fn hear(&self, peer: &str, news: News) -> bool {
        let mut links = self.links();
        let Some(link) = links.get_mut(peer) else {
            return true;
        };
        let Some((epoch, _)) = link.met.filter(|(_, instance)| *instance == news.instance) else {
            // It lives, or has begun anew: find out.
            link.wake.notify_one();
            return true;
        };
        let mut all = true;
        for (tag, sequence) in news.gone {
            if link.told.get(&tag).is_some_and(|known| *known < sequence) {
                link.told.remove(&tag);
                self.lose(&tag, peer, epoch);
            }
        }
        for envelope in news.mirrors {
            let (tag, sequence) = (envelope.tag.clone(), envelope.sequence);
            if link.told.get(&tag).is_some_and(|known| *known >= sequence) {
                continue;
            }
            let Some(inputs) = self.inputs(&tag) else {
                continue;
            };
            let Some(told) = self.told(peer, epoch, envelope) else {
                continue;
            };
            match inputs.try_send(Input::Peer(Box::new(told))) {
                Ok(()) => {
                    link.told.insert(tag, sequence);
                }
                Err(_) => all = false,
            }
        }
        all
    }

    /// Whether a peer can be reached and has told of a mirror.
    pub fn tells(&self, peer: &str, tag: &str) -> bool {
        let links = self.links();
        links
            .get(peer)
            .is_some_and(|link| link.met.is_some() && link.told.contains_key(tag))
    }

    /// What an envelope of a peer says, if it is of a node of that name.
    fn told(&self, peer: &str, epoch: u64, envelope: Envelope) -> Option<Told> {
        // What a mirror can have is bounded, whatever a peer sends.
        let bounded = envelope.nodes.len() <= SLOTS
            && envelope
                .nodes
                .iter()
                .all(|name| name.len() <= flags::MAX_NAME)
            && envelope.record.generations.history.len() <= HISTORY;
        let node = slot_of(&envelope.nodes, peer).filter(|_| bounded)?;
        (node == envelope.record.node).then_some(())?;
        let own = slot_of(&envelope.nodes, &self.node);
        let ticket = envelope.ticket.filter(|ticket| Some(ticket.source) == own);
        Some(Told {
            nodes: envelope.nodes,
            record: envelope.record,
            claims: envelope.claims,
            ticket: ticket.map(|ticket| ticket.secret),
            room: envelope.room,
            epoch,
            sequence: envelope.sequence,
        })
    }

    /// The answer to a question, for whoever asked.
    pub fn answered(&self, peer: &str, tag: &str, news: &News) -> Option<Told> {
        let epoch = self.links().get(peer)?.met?.0;
        let envelope = news.mirrors.iter().find(|envelope| envelope.tag == tag)?;
        self.told(peer, epoch, envelope.clone())
    }

    fn link(&self, peer: &str) -> Option<mpsc::Sender<Question>> {
        self.links().get(peer).map(|link| link.questions.clone())
    }

    /// Asks peers how a mirror is there now, all at once; `None` for those that don't answer in time.
    pub fn ask(&self, tag: &str, peers: &[(NodeId, String)]) -> Vec<(NodeId, Option<Told>)> {
        let deadline = std::time::Instant::now() + PATIENCE;
        let asked: Vec<_> = peers
            .iter()
            .map(|(node, name)| {
                let (answer, heard) = std::sync::mpsc::sync_channel(1);
                let tag = tag.to_owned();
                let sent = self
                    .link(name)
                    .is_some_and(|link| link.try_send(Question { tag, answer }).is_ok());
                (*node, sent.then_some(heard))
            })
            .collect();
        asked
            .into_iter()
            .map(|(node, heard)| {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                let told = heard.and_then(|heard| heard.recv_timeout(left).ok().flatten());
                (node, told.filter(|told| told.record.node == node))
            })
            .collect()
    }

    /// Has every peer tell a mirror anew how it is, without waiting for it.
    pub fn greet(&self, tag: &str) {
        let Some(inputs) = self.inputs(tag) else {
            return;
        };
        let links = self.links();
        let links: Vec<_> = links.values().map(|link| link.questions.clone()).collect();
        for link in links {
            let (answer, heard) = std::sync::mpsc::sync_channel(1);
            let tag = tag.to_owned();
            let inputs = inputs.clone();
            if link.try_send(Question { tag, answer }).is_ok() {
                // Ends with the answer, or when the link drops the question.
                let _ = std::thread::Builder::new()
                    .name("greet".into())
                    .stack_size(STACK)
                    .spawn(move || {
                        if let Ok(Some(told)) = heard.recv() {
                            let _ = inputs.try_send(Input::Peer(Box::new(told)));
                        }
                    });
            }
        }
    }
}

fn slot_of(nodes: &[String], name: &str) -> Option<NodeId> {
    let slot = nodes.iter().position(|known| known == name)?;
    NodeId::new(u8::try_from(slot).ok()?)
}

/// How long a mirror waits for its peers' answers before it decides without them.
const PATIENCE: Duration = Duration::from_secs(3);
