//! Mirrors as a supervisor drives them: one set of orders, two ways to carry them out.
//!
//! - [`md`]: the kernel's RAID1 over a local disk and NBD devices (`/dev/nbdN`); needs root, `md` and `mdadm`.
//! - [`embedded`]: the engine of [`crate::raid1`], running in a process of its own (`netraid run`).
//!
//! Both keep the same metadata on the legs ([`crate::md`] and the NetRAID record), so a mirror that one stopped the other
//! starts, with nothing to resync. A mirror is made by [`create`](mod@create) for either.

pub mod create;
pub mod disk;
pub mod embedded;
pub mod filesystem;
pub mod leg;
pub mod md;
pub mod resize;
pub mod tunable;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mirror::generation::{Generation, Generations};
use crate::raid1::engine::{Control, OnCongestion};
use crate::status::{LegStatus, Status, word};

/// A way to run mirrors.
pub trait Backend {
    /// Puts a leg of this node into service, alone. The others are added with [`Array::add`]: so the direction of every
    /// resync is fixed, from this leg to those that come after it.
    ///
    /// Starting a mirror that runs on the same disk already is done at once.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if the leg was being resynced, or belongs to another mirror.
    fn start(&self, start: &Start) -> Result<Box<dyn Array>, ArrayError>;

    /// A mirror that runs, whoever started it.
    ///
    /// # Errors
    /// If it can't be told. That none runs is `Ok(None)`.
    fn find(&self, tag: &str) -> Result<Option<Box<dyn Array>>, ArrayError>;
}

/// A mirror that runs on this node.
pub trait Array {
    /// How it is.
    ///
    /// # Errors
    /// If it does not run any more, or can't be asked.
    fn status(&self) -> Result<ArrayStatus, ArrayError>;

    /// Adds a leg, or takes one back: its own bitmap is merged into the mirror's first, and whose data is good is
    /// decided by generations alone. Returns when the resync has begun.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if the leg has newer data, was written alone, or holds something else.
    fn add(&self, leg: &NewLeg) -> Result<Added, ArrayError>;

    /// Goes on without a node's leg. What it misses from now on is marked.
    ///
    /// # Errors
    /// If it has no such leg.
    fn remove(&self, node: &str) -> Result<(), ArrayError>;

    /// Goes on without a node's leg, which is in sync, for good: returns when what follows has a generation of its own,
    /// although nothing may have been written. So what the leg has is told from whatever is put in its place later.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if it is not in sync, or the backend can't.
    fn part(&self, _node: &str) -> Result<(), ArrayError> {
        Err(ArrayError::refused(
            "only the embedded engine names a generation when it is told to",
        ))
    }

    /// Copies everything to a node's leg, whatever the bitmap says.
    ///
    /// # Errors
    /// If it has no such leg.
    fn full_resync(&self, node: &str) -> Result<Added, ArrayError>;

    /// Bounds the speed of resyncs, from now on.
    ///
    /// # Errors
    /// If the mirror does not take it.
    fn set_speed(&self, speed: Speed) -> Result<(), ArrayError>;

    /// Has resyncs wait, those that begin later too, or go on. What is being written is not held back by it.
    ///
    /// # Errors
    /// If the mirror does not take it.
    fn hold_resync(&self, held: bool) -> Result<(), ArrayError>;

    /// Answers nothing that one of these nodes' legs has not, from now on: when one of them leaves, all requests wait until
    /// this is ordered anew without it, or it is in sync again. `only`: those named before are forgotten.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if the backend can't.
    fn guard(&self, nodes: &[String], only: bool) -> Result<(), ArrayError>;

    /// Holds the application's requests back, whatever legs are there: they wait, or fail (`Some(true)`). `None`: no more.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if the backend can't.
    fn hold(&self, fail: Option<bool>) -> Result<(), ArrayError>;

    /// Begins to compare legs in sync with the source's, while the mirror is in use; its status tells of it. The embedded
    /// engine marks what differs in the bitmap, durably; the kernel's RAID1 would copy it at once then, so there it is only told
    /// unless it is to be repaired.
    ///
    /// `ways` are the targets' exports as far as they are known, by node: the kernel's mirrors are read through them.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if one is under way, or no leg that was named is in sync.
    fn verify(&self, request: &VerifyRequest, ways: &[(String, String)]) -> Result<(), ArrayError>;

    /// Undoes what a daemon that died has left half done on a mirror that runs.
    ///
    /// # Errors
    /// If the mirror does not take it.
    fn adopt(&self) -> Result<(), ArrayError> {
        Ok(())
    }

    /// Stops the verify that is under way; what was found stays found.
    ///
    /// # Errors
    /// If the mirror does not take it.
    fn stop_verify(&self) -> Result<(), ArrayError>;

    /// Becomes larger while it is in service, with this node's leg alone: no other may be in it. Returns when this leg says so
    /// durably, and everything that is new is marked in its bitmap. The disk has grown already.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if another leg is in it, or there is no room.
    fn grow(&self, size: u64) -> Result<(), ArrayError>;

    /// Whether it can do that.
    fn grows_in_service(&self) -> bool;

    /// Begins to listen to what happens.
    ///
    /// # Errors
    /// If the mirror can't be watched.
    fn watch(&self) -> Result<Box<dyn Watch>, ArrayError>;

    /// Stops the mirror cleanly.
    ///
    /// # Errors
    /// If it is in use.
    fn stop(&self) -> Result<(), ArrayError>;
}

/// What happens to a mirror, as it happens.
pub trait Watch {
    /// Waits until something happens, at most `patience`; nothing may have.
    ///
    /// # Errors
    /// If the mirror can't be watched any more, for example because it was stopped.
    fn next(&mut self, patience: Duration) -> Result<Vec<Event>, ArrayError>;
}

/// Which mirror to start, from which disk.
#[derive(Clone, Debug)]
pub struct Start {
    /// The mirror.
    pub tag: String,
    /// The leg of this node.
    pub disk: PathBuf,
    /// Start even if the leg was being resynced: its data may be of different times.
    pub force: bool,
    /// Name a new generation before anything is written. The embedded engine alone can do that.
    pub new_generation: bool,
    /// Bounds of the resync's speed.
    pub speed: Speed,
    /// Writes that may be on the way to the other legs when the application is answered; `None` to wait for all legs.
    pub async_limit: Option<u16>,
    /// Resyncs compare by digests first and send only what differs, where the backend and the targets' servers can.
    pub compare: bool,
    /// Legs that are written in order without being waited for.
    pub streams: Streams,
    /// What becomes of legs that fail.
    pub care: Care,
}

/// What becomes of legs that fail, and how damage on the way is noticed; the embedded engine alone knows it, the kernel's
/// RAID1 gives legs up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Care {
    /// The own leg is kept when it fails a write, and the application is told.
    pub pass_through: bool,
    /// Errors after which a leg is given up, 0 for no bound; `None` for the default.
    pub error_limit: Option<u64>,
    /// Messages between the legs are followed by checksums.
    pub integrity: bool,
    /// Requests are held back from the start on, until [`Array::hold`] says otherwise.
    pub held: bool,
}

/// Legs that are written asynchronously with order kept (protocol A); the embedded engine alone can do that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// The nodes whose legs they are; the own one may be among them, and is not meant.
    pub nodes: Vec<String>,
    /// Most bytes on the way to each of them whose writes are answered already; `None` for the default.
    pub send_buffer: Option<u64>,
    /// What becomes of one to which too much is on its way.
    pub on_congestion: OnCongestion,
}

/// Which leg to add.
#[derive(Clone, Debug)]
pub struct NewLeg {
    /// The node whose disk it is.
    pub node: String,
    /// The block device (kernel), or the NBD URI (embedded).
    pub location: String,
    /// Copy everything.
    pub full: bool,
    /// Give up what the leg wrote while it was alone, or has newer.
    pub discard: bool,
    /// Overwrite what the disk holds if it is no leg of this mirror.
    pub force: bool,
}

/// What adding a leg began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Everything is copied, not only what is marked.
    pub full: bool,
    /// The rule that decided so.
    pub rule: String,
    /// Bytes that the leg's own bitmap had marked, all of which were merged into the mirror's.
    pub merged_bytes: u64,
    /// Bytes that were marked when the resync began, the merged ones included.
    pub dirty_bytes: u64,
}

/// What to verify, as [`Array::verify`] takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The nodes whose legs are to be compared; all that are in sync if none is named.
    pub nodes: Vec<String>,
    /// First byte.
    pub start: u64,
    /// Behind the last byte; `None` for the mirror's end.
    pub stop: Option<u64>,
    /// Most bytes a second; 0 for no bound.
    pub rate: u64,
    /// Have what differs copied from the source.
    pub repair: bool,
}

/// Bounds of a resync's speed, in KiB a second: `c-max-rate` and `c-min-rate`, else `LKDR_SPEED_LIMIT` and
/// `LKDR_SPEED_LIMIT_MIN`. `None` leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speed {
    /// Never faster.
    pub most: Option<u32>,
    /// Not slower for the sake of the application's writes.
    pub least: Option<u32>,
    /// How much is on its way at once between them; the kernel's RAID1 has no such thing.
    pub control: Option<Control>,
}

impl Speed {
    /// As fast as the legs and the network are, or exactly so fast, in KiB a second; the application is not spared.
    pub fn boosted(rate: Option<u32>) -> Speed {
        let rate = rate.unwrap_or(i32::MAX as u32);
        Speed {
            most: Some(rate),
            least: Some(rate),
            control: Some(Control::OFF),
        }
    }
}

/// The status of a mirror with what only arrays have; one JSON object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArrayStatus {
    /// As `netraid status --json` has it.
    #[serde(flatten)]
    pub status: Status,
    /// The block device that the application uses, if it is one.
    pub device: Option<String>,
    /// Whether there is a write-intent bitmap. Without it, every interruption ends in a full resync.
    pub bitmap: bool,
    /// Writes that may be on the way to asynchronous legs; 0: all legs are synchronous.
    pub async_limit: u32,
    /// Bounds of the resync's speed in KiB a second, as far as they can be told.
    pub speed_limit: Option<u32>,
    /// The lower one.
    pub speed_limit_min: Option<u32>,
    /// What somebody should know who relies on this mirror: sentences.
    pub notes: Vec<String>,
    /// How each node's leg takes part, by slot.
    #[serde(default)]
    pub nodes: Vec<NodeState>,
    /// The generations of the data of the legs in sync, as far as they are on disk.
    #[serde(default)]
    pub generations: Option<GenerationIds>,
    /// Connections to the mirror's export, if it has one.
    #[serde(default)]
    pub connections: u64,
}

/// Whether a leg has the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It has everything, and says so on its disk.
    InSync,
    /// It is being resynced.
    Resyncing,
    /// It takes no part: what it misses is marked.
    Out,
}

/// How one node's leg takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The node whose disk it is.
    pub node: String,
    /// Whether it is the node that answers.
    pub local: bool,
    /// Whether it has the data.
    pub state: Part,
    /// How much of its resync is done, 0 to 100, while it is being resynced.
    pub percent: Option<u8>,
    /// Bytes that it still misses, while it is being resynced; of a leg of an embedded mirror that is away, what it would
    /// get if it came back now.
    pub missing_bytes: u64,
    /// Bytes that were answered or are about to be and that it does not have yet, if it is written asynchronously.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_bytes: Option<u64>,
    /// Whether the mirror was pulled ahead of it because of congestion.
    #[serde(default)]
    pub left_behind: bool,
    /// Why it is out, or was last, or needed a full resync.
    pub reason: Option<String>,
}

impl NodeState {
    /// From what the status document says of a leg.
    pub(crate) fn of(leg: &LegStatus, percent: Option<u8>) -> NodeState {
        let state = match leg.disk.as_str() {
            "UpToDate" if leg.status != word::RESYNCING => Part::InSync,
            "UpToDate" | "Inconsistent" => Part::Resyncing,
            _ => Part::Out,
        };
        NodeState {
            node: leg.node.clone(),
            local: leg.local,
            state,
            percent: percent.filter(|_| state == Part::Resyncing),
            missing_bytes: leg.missing_bytes,
            behind_bytes: leg.behind_bytes,
            left_behind: leg.left_behind,
            reason: leg.reason.clone(),
        }
    }
}

/// [`Generations`] in a document: each id 16 hexadecimal digits, all 0 for none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationIds {
    /// Of the data.
    pub current: String,
    /// By slot: the one since which that leg is away.
    pub away: Vec<String>,
    /// Former ones, newest first.
    pub history: Vec<String>,
}

impl From<&Generations> for GenerationIds {
    fn from(generations: &Generations) -> GenerationIds {
        let text = |id: &Generation| format!("{id:?}");
        GenerationIds {
            current: text(&generations.current),
            away: generations.away.iter().map(text).collect(),
            history: generations.history.iter().map(text).collect(),
        }
    }
}

impl GenerationIds {
    /// As the decisions take them; `None` if one is not a number.
    pub fn generations(&self) -> Option<Generations> {
        let id = |text: &String| u64::from_str_radix(text, 16).ok().map(Generation);
        let mut generations = Generations {
            current: id(&self.current)?,
            history: self.history.iter().map(id).collect::<Option<_>>()?,
            ..Generations::default()
        };
        for (place, text) in generations.away.iter_mut().zip(&self.away) {
            *place = id(text)?;
        }
        Some(generations)
    }
}

/// Something that happened to a mirror. What changes twice before anybody looks is told once, as it is then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Listening began: nothing that lasts from now on is missed.
    Watching,
    /// The number of missing or incomplete legs changed.
    Degraded {
        /// Now.
        legs: u32,
    },
    /// The state of the whole array changed: `clean`, `active`, `active-idle`, `write-pending` and so on.
    State {
        /// Now.
        state: String,
    },
    /// A resync began, ended or was stopped: `idle`, `recover`, `resync`, `check`, `frozen`.
    Sync {
        /// Now.
        action: String,
    },
    /// A leg appeared, changed, or was removed.
    Leg {
        /// Its device.
        device: String,
        /// Its flags; empty when it was removed.
        flags: Vec<String>,
    },
    /// A node's leg takes part in another way, or its resync went on. After [`Event::Watching`] it is told of every leg.
    Node(NodeState),
    /// A generation was minted, and is on disk: what is written from now on, some legs do not get. Told once after
    /// [`Event::Watching`], too.
    Minted(GenerationIds),
    /// The leg of this node failed; the mirror goes on from another.
    OwnLegFailed {
        /// Why.
        reason: String,
    },
    /// No write is taken any more.
    Halted {
        /// Why.
        reason: String,
    },
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// The request can't be meant.
    #[error("{0}")]
    Usage(String),
    /// The state forbids it; nothing was changed.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
        /// What could help.
        hint: Option<String>,
    },
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// It did not end in time.
    #[error("{0}")]
    Late(String),
}

impl ArrayError {
    pub(crate) fn refused(why: impl fmt::Display) -> ArrayError {
        ArrayError::Refused {
            why: why.to_string(),
            hint: None,
        }
    }

    pub(crate) fn refused_with(why: impl fmt::Display, hint: impl fmt::Display) -> ArrayError {
        ArrayError::Refused {
            why: why.to_string(),
            hint: Some(hint.to_string()),
        }
    }

    pub(crate) fn failed(why: impl fmt::Display) -> ArrayError {
        ArrayError::Failed(why.to_string())
    }
}

/// Bytes in ranges.
pub(crate) fn bytes_in(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}
