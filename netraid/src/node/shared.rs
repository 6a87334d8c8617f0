//! What all mirrors of a node have in common: what each last published, the events, and the way to the peers.

mod peers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};

use super::driver::Input;
use super::local::Ticket;
use crate::api::document::{self, Event};
use crate::array::resize::LegRoom;
use crate::mirror::record::Record;
use crate::mirror::word::Word;

/// What a mirror tells its peers, as it was when all that it describes had been done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The mirror.
    pub tag: String,
    /// Counts up with each that a daemon publishes.
    pub sequence: u64,
    /// The names of the mirror's nodes, by slot: both sides must mean the same.
    pub nodes: Vec<String>,
    /// The machine's record.
    pub record: Record,
    /// The node asks the others whether it may go into service.
    pub claims: bool,
    /// What lets the agreed source in; told to it alone.
    pub ticket: Option<Ticket>,
    /// What the node's disk could hold.
    #[serde(default)]
    pub room: Option<LegRoom>,
}

impl Envelope {
    /// As the node of that name may see it.
    pub fn for_node(&self, name: &str) -> Option<Envelope> {
        let slot = self.nodes.iter().position(|known| known == name)?;
        let mut envelope = self.clone();
        envelope.ticket = envelope
            .ticket
            .filter(|ticket| ticket.source.slot() == slot);
        Some(envelope)
    }
}

/// What a peer told of one mirror.
#[derive(Clone, Debug)]
pub struct Told {
    /// The names of the mirror's nodes, as the peer has them.
    pub nodes: Vec<String>,
    /// The record; its node is the one that told it.
    pub record: Record,
    /// It asks the others whether it may go into service.
    pub claims: bool,
    /// What lets this node into its export.
    pub ticket: Option<String>,
    /// What its disk could hold.
    pub room: Option<LegRoom>,
    /// Which meeting with the peer it comes from; each has a higher number than the one before.
    pub epoch: u64,
    /// [`Envelope::sequence`]
    pub sequence: u64,
}

/// What a node tells a peer of all its mirrors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct News {
    /// The run of the daemon that tells.
    pub instance: u64,
    /// The sequence number up to which this is all.
    pub upto: u64,
    /// What is new.
    pub mirrors: Vec<Envelope>,
    /// Mirrors of which the node does not know how they are.
    pub gone: Vec<(String, u64)>,
}

/// A question to a peer's link: how is it now?
#[derive(Debug)]
pub struct Question {
    /// The mirror.
    pub tag: String,
    /// Where the answer goes; `None` if it can't be reached.
    pub answer: std::sync::mpsc::SyncSender<Option<Told>>,
}

/// One mirror as others see it.
#[derive(Default)]
struct Entry {
    inputs: Option<SyncSender<Input>>,
    envelope: Option<Envelope>,
    /// The sequence number under which the envelope was taken back.
    gone: u64,
    mirror: Option<document::Mirror>,
    /// Why its thread could not even begin.
    broken: Option<String>,
    /// Said of its disk by others than its thread, which may hang with it.
    hangs: Option<String>,
}

impl Entry {
    fn shown(&self) -> Option<document::Mirror> {
        let mut mirror = self.mirror.clone()?;
        mirror.problems.extend(self.hangs.clone());
        Some(mirror)
    }
}

/// What can be shown of a mirror.
#[derive(Debug)]
pub enum Shown {
    /// How it is.
    Mirror(Box<document::Mirror>),
    /// Its thread has just begun.
    NotYet,
    /// Its thread can't begin, for this reason, and tries again.
    Broken(String),
    /// There is none of that name.
    Unknown,
}

/// See above.
pub struct Shared {
    /// This node's name.
    pub node: String,
    /// A number of this run of the daemon: sequence numbers of another mean nothing.
    pub instance: u64,
    table: Mutex<Table>,
    events: Mutex<Journal>,
    /// The newest event's number, for whoever waits for the next.
    newest: watch::Sender<u64>,
    /// The newest sequence number, for the links.
    published: watch::Sender<u64>,
    links: Mutex<BTreeMap<String, Link>>,
    epochs: AtomicU64,
    ending: AtomicBool,
}

/// What is known of the way to a peer.
struct Link {
    questions: mpsc::Sender<Question>,
    wake: Arc<Notify>,
    /// The meeting that lasts: its number, and the peer's run of the daemon.
    met: Option<(u64, u64)>,
    /// Mirrors of which it told, and the newest sequence number of each.
    told: BTreeMap<String, u64>,
    /// Why it can't be reached.
    failure: Option<String>,
}

#[derive(Default)]
struct Table {
    mirrors: BTreeMap<String, Entry>,
    /// Mirrors that are looked after no more, with the sequence number of that.
    forgotten: BTreeMap<String, u64>,
    sequence: u64,
}

#[derive(Default)]
struct Journal {
    events: std::collections::VecDeque<Event>,
    last: u64,
}

impl Shared {
    /// Of a node, in this run of the daemon.
    pub fn new(node: String, instance: u64) -> Shared {
        Shared {
            node,
            instance,
            table: Mutex::default(),
            events: Mutex::default(),
            newest: watch::Sender::new(0),
            published: watch::Sender::new(0),
            links: Mutex::default(),
            epochs: AtomicU64::new(1),
            ending: AtomicBool::new(false),
        }
    }

    /// The daemon ends: its links are about to go, so that no peer answers says nothing of the peers any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Whether the daemon ends.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, Link>> {
        self.links
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.events
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    // --- mirrors ------------------------------------------------------------------------------------------------

    /// A mirror's thread has begun; it hears `inputs`.
    pub fn register(&self, tag: &str, inputs: SyncSender<Input>) {
        let mut table = self.table();
        table.forgotten.remove(tag);
        table.mirrors.entry(tag.to_owned()).or_default().inputs = Some(inputs);
    }

    /// A mirror is looked after no more: peers hear that it is gone, people that there is none.
    pub fn forget(&self, tag: &str) {
        let mut table = self.table();
        table.mirrors.remove(tag);
        table.sequence += 1;
        let sequence = table.sequence;
        table.forgotten.insert(tag.to_owned(), sequence);
        drop(table);
        self.published.send_replace(sequence);
    }

    /// The way to a mirror's thread.
    pub fn inputs(&self, tag: &str) -> Option<SyncSender<Input>> {
        self.table().mirrors.get(tag)?.inputs.clone()
    }

    /// Every mirror's tag.
    pub fn tags(&self) -> Vec<String> {
        self.table().mirrors.keys().cloned().collect()
    }

    /// A mirror's thread shows peers how it is; nothing happens if it is as before.
    pub fn publish(&self, mut envelope: Envelope) {
        let mut table = self.table();
        let next = table.sequence + 1;
        let entry = table.mirrors.entry(envelope.tag.clone()).or_default();
        if let Some(before) = &entry.envelope {
            envelope.sequence = before.sequence;
            if *before == envelope {
                return;
            }
        }
        envelope.sequence = next;
        entry.gone = 0;
        entry.envelope = Some(envelope);
        table.sequence = next;
        drop(table);
        self.published.send_replace(next);
    }

    /// What a mirror last published.
    pub fn envelope(&self, tag: &str) -> Option<Envelope> {
        self.table().mirrors.get(tag)?.envelope.clone()
    }

    /// What is new since the sequence number `after`, for a peer of that name.
    pub fn news(&self, node: &str, after: u64) -> News {
        let table = self.table();
        let mirrors = table.mirrors.values();
        let envelopes = mirrors.filter_map(|entry| entry.envelope.as_ref());
        let newer = envelopes.filter(|envelope| envelope.sequence > after);
        let gone = table.mirrors.iter().filter(|(_, entry)| entry.gone > after);
        let forgotten = table.forgotten.iter().filter(|(_, at)| **at > after);
        News {
            instance: self.instance,
            upto: table.sequence,
            mirrors: newer
                .filter_map(|envelope| envelope.for_node(node))
                .collect(),
            gone: gone
                .map(|(tag, entry)| (tag, entry.gone))
                .chain(forgotten.map(|(tag, at)| (tag, *at)))
                .map(|(tag, at)| (tag.clone(), at))
                .collect(),
        }
    }

    /// A mirror's thread shows people how it is.
    pub fn show(&self, mirror: document::Mirror) {
        let tag = mirror.tag.clone();
        let mut table = self.table();
        let entry = table.mirrors.entry(tag).or_default();
        (entry.mirror, entry.broken) = (Some(mirror), None);
    }

    /// A mirror's thread can't go on for now: peers get no answer, people get the reason.
    pub fn broken(&self, tag: &str, why: &str) {
        self.tell(Some(tag), "broken", why.to_owned());
        let mut table = self.table();
        table.sequence += 1;
        let sequence = table.sequence;
        let entry = table.mirrors.entry(tag.to_owned()).or_default();
        entry.envelope = None;
        entry.gone = sequence;
        match &mut entry.mirror {
            Some(mirror) => mirror.problems = vec![why.to_owned()],
            None => entry.broken = Some(why.to_owned()),
        }
        drop(table);
        self.published.send_replace(sequence);
    }

    /// A mirror's disk hangs, for this reason, or does no more; told when it changes.
    pub fn disk_hangs(&self, tag: &str, why: Option<String>) {
        let mut table = self.table();
        let Some(entry) = table.mirrors.get_mut(tag) else {
            return;
        };
        if entry.hangs == why {
            return;
        }
        entry.hangs.clone_from(&why);
        drop(table);
        match why {
            Some(why) => self.tell(Some(tag), "disk-hangs", why),
            None => self.tell(
                Some(tag),
                "disk-answers",
                "the disk ends requests again".into(),
            ),
        }
    }

    /// One mirror, for people.
    pub fn mirror(&self, tag: &str) -> Shown {
        let table = self.table();
        match table.mirrors.get(tag) {
            None => Shown::Unknown,
            Some(entry) => match (entry.shown(), &entry.broken) {
                (Some(mirror), _) => Shown::Mirror(Box::new(mirror)),
                (None, Some(why)) => Shown::Broken(why.clone()),
                (None, None) => Shown::NotYet,
            },
        }
    }

    /// Whether a resync of a mirror is under way that this node has a part in, as it showed last.
    pub fn resyncs(&self, tag: &str) -> bool {
        let table = self.table();
        let entry = table.mirrors.get(tag);
        let shown = entry.filter(|entry| entry.broken.is_none());
        shown
            .and_then(|entry| entry.mirror.as_ref())
            .is_some_and(|mirror| {
                let resyncing = Word::Resyncing.text();
                let own = mirror.nodes.iter().find(|node| node.own);
                mirror.resync.is_some() || own.is_some_and(|node| node.status == resyncing)
            })
    }

    /// Whether all mirrors can be shown that ever will be, as far as is known.
    pub fn all_begun(&self) -> bool {
        let table = self.table();
        let mut entries = table.mirrors.values();
        entries.all(|entry| entry.mirror.is_some() || entry.broken.is_some())
    }

    /// All of them.
    pub fn mirrors(&self) -> document::Mirrors {
        document::Mirrors {
            schema: document::MIRRORS.into(),
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            mirrors: {
                let table = self.table();
                table.mirrors.values().filter_map(Entry::shown).collect()
            },
        }
    }

    // --- events -------------------------------------------------------------------------------------------------

    /// Something happened: into the log, and to whoever listens.
    pub fn tell(&self, tag: Option<&str>, event: &str, text: String) {
        tracing::info!(tag, event, "{text}");
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH);
        let time_ms = time_ms.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let mut journal = self.journal();
        journal.last += 1;
        let number = journal.last;
        journal.events.push_back(Event {
            number,
            time_ms,
            tag: tag.map(str::to_owned),
            event: event.to_owned(),
            text,
        });
        if journal.events.len() > KEPT {
            journal.events.pop_front();
        }
        drop(journal);
        self.newest.send_replace(number);
    }

    /// What happened after the event `after`.
    pub fn events(&self, after: u64, tag: Option<&str>) -> document::Events {
        let journal = self.journal();
        let wanted = journal.events.iter().filter(|event| event.number > after);
        let wanted = wanted.filter(|event| tag.is_none() || event.tag.as_deref() == tag);
        document::Events {
            schema: document::EVENTS.into(),
            node: self.node.clone(),
            events: wanted.cloned().collect(),
            last: journal.last,
        }
    }

    /// Tells when there is a newer event.
    pub fn newest_event(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// Events that are kept for whoever asks later.
const KEPT: usize = 2000;
