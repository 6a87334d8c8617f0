//! What a mirror says about itself, for people and for scripts: the document behind `netraid embedded status --json`.
//!
//! Changes within a schema version only add fields. Sizes are in bytes, times in milliseconds.

use serde::{Deserialize, Serialize};

/// Name and version of the document's schema.
pub const SCHEMA: &str = "netraid.status/1";

/// One mirror as its source sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Name of the mirror.
    pub tag: String,
    /// The node that answers; it is the source.
    pub node: String,
    /// Where the mirror can be used: an NBD URI for each listener.
    pub uris: Vec<String>,
    /// `embedded` or `md`.
    pub backend: String,
    /// Id of the array, in the form that `mdadm --examine` prints.
    pub array_uuid: String,
    /// Bytes that the application sees.
    pub size: u64,
    /// Bytes under one bit of the write-intent bitmap.
    pub chunk: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// Chunks whose bit is set.
    pub dirty_chunks: u64,
    /// Bytes under those bits (the last chunk may be shorter).
    pub dirty_bytes: u64,
    /// Event counter of the superblocks.
    pub events: u64,
    /// `clean` or `active`, as the superblocks say.
    pub array_state: String,
    /// Generation of the data, in hexadecimal.
    pub generation: String,
    /// Why no write can be taken, if so.
    pub halted: Option<String>,
    /// The legs, by slot.
    pub legs: Vec<LegStatus>,
    /// The resync under way.
    pub resync: Option<ResyncStatus>,
    /// The last resync that ended.
    pub last_resync: Option<ResyncEnd>,
    /// The verify under way, or the last one since the mirror was started.
    #[serde(default)]
    pub verify: Option<VerifyStatus>,
}

/// One leg of a mirror.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LegStatus {
    /// Its slot, which is its md raid-disk number.
    pub slot: usize,
    /// The node whose disk it is.
    pub node: String,
    /// Whether it is the disk of the node that answers.
    pub local: bool,
    /// Path or NBD URI; empty when none is configured.
    pub location: String,
    /// One of the words of [`word`].
    pub status: String,
    /// `UpToDate`, `Inconsistent`, `Consistent` (left behind), `Outdated` or `DUnknown`.
    pub disk: String,
    /// Why it was expelled or refused last, or why it needs a full resync.
    pub reason: Option<String>,
    /// Bytes that it still misses, while it is being resynced; of a leg of an embedded mirror that is away, what it would
    /// get if it came back now.
    pub missing_bytes: u64,
    /// Why its resyncs can't compare by digests first; `null` if they can, or if that was not tried yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_digests: Option<String>,
    /// Bytes of writes that it does not have yet, if it is written asynchronously (protocol A).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_bytes: Option<u64>,
    /// Whether the mirror was pulled ahead of it because of congestion (`on-congestion = "pull-ahead"`): it gets what is on
    /// its way, is of one moment, and is resynced when that is there.
    #[serde(default)]
    pub left_behind: bool,
    /// Bytes under marks that a verify made because the leg differs there, until they are copied.
    #[serde(default)]
    pub differing_bytes: u64,
    /// Errors of its disk since it was taken: reads, and writes after which it was kept.
    #[serde(default)]
    pub io_errors: u64,
    /// Bytes written to it again from another leg after that.
    #[serde(default)]
    pub repaired_bytes: u64,
    /// Bytes that are not read from it before they could be written again.
    #[serde(default)]
    pub failed_bytes: u64,
    /// Connections to it that ended because a message was changed on its way (`data-integrity-alg`).
    #[serde(default)]
    pub damaged: u64,
}

/// The status words shown to people.
pub mod word {
    /// The leg of the node that the application uses.
    pub const SOURCE: &str = "Source";
    /// In sync.
    pub const TARGET: &str = "Target";
    /// Being resynced.
    pub const RESYNCING: &str = "Resyncing";
    /// Connected or known, but not in sync and not being resynced.
    pub const OUT_OF_SYNC: &str = "Out of Sync";
    /// Its resync is paused.
    pub const PAUSED: &str = "Paused";
    /// Not connected.
    pub const UNKNOWN: &str = "Unknown";
    /// Written without the others.
    pub const SPLIT_BRAIN: &str = "Split Brain";
}

/// The words for what keeps a resync from being faster.
pub mod limited_by {
    /// Nothing that was set: the legs and the network.
    pub const LEGS: &str = "legs";
    /// `c-max-rate`, or the fixed rate.
    pub const RATE: &str = "c-max-rate";
    /// It steps aside for the application, down to `c-min-rate`.
    pub const APPLICATION: &str = "application";
    /// What is on its way takes as long as `c-delay-target` allows, or is as much as `c-fill-target`.
    pub const DELAY: &str = "delay";
    /// It is held.
    pub const PAUSED: &str = "paused";
}

/// A resync under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResyncStatus {
    /// Bytes copied so far, zeroes and what was found to be equal included.
    pub copied: u64,
    /// Of them, bytes that crossed the network.
    pub sent: u64,
    /// Bytes that were compared by digests before anything was sent.
    #[serde(default)]
    pub compared: u64,
    /// Of them, bytes that were equal.
    #[serde(default)]
    pub equal: u64,
    /// Bytes still to be copied.
    pub left: u64,
    /// 0 to 100.
    pub percent: f64,
    /// Bytes a second, during the last seconds.
    pub speed: u64,
    /// Milliseconds until it ends at this speed, if that can be told.
    pub time_left_ms: Option<u64>,
    /// Somebody stopped it for now.
    pub paused: bool,
    /// What kept it from being faster for most of the last second: a word of [`limited_by`]; `None` if that is not known.
    #[serde(default)]
    pub limited_by: Option<String>,
    /// Milliseconds that a piece takes until all targets have it; 0 if that is not known.
    #[serde(default)]
    pub delay_ms: u64,
}

/// A verify under way, or the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VerifyStatus {
    /// How many were begun since the mirror was started, this one included.
    pub number: u64,
    /// `running`, `done` or `interrupted`.
    pub state: String,
    /// Why it did not get to its end.
    pub why: Option<String>,
    /// The nodes whose legs are compared with the source's.
    pub targets: Vec<String>,
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub stop: u64,
    /// Everything from `start` up to here was compared.
    pub position: u64,
    /// Bytes compared.
    pub checked: u64,
    /// 0 to 100.
    pub percent: f64,
    /// Bytes a second, since it began.
    pub speed: u64,
    /// Most bytes a second; 0 for no bound.
    pub rate: u64,
    /// Bytes that differ, in whole units of 4096, counted once a target.
    pub differing: u64,
    /// Where.
    pub differences: Vec<VerifyDifference>,
    /// There are more than are listed.
    pub more_differences: bool,
    /// What differs is copied from the source in the end.
    pub repair: bool,
    /// When it began: milliseconds since 1970 by the clock of the node that answers.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How long it has taken.
    pub elapsed_ms: u64,
}

/// Bytes that a target has differently from the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VerifyDifference {
    /// Whose leg.
    pub node: String,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl VerifyStatus {
    /// In one sentence, without a full stop.
    pub fn sentence(&self) -> String {
        let with = self.targets.join(", ");
        let checked = format!("{} bytes were compared with {with}", self.checked);
        let found = match (self.differing, self.repair) {
            (0, _) => "and all are equal".into(),
            (bytes, false) => format!("and {bytes} of them differ"),
            (bytes, true) => format!("and {bytes} of them differed and are copied from the source"),
        };
        match &self.why {
            None if self.state == "running" => format!("{checked} so far, {found}"),
            None => format!("{checked}, {found}"),
            Some(why) => format!("{checked}, {found}; it was interrupted: {why}"),
        }
    }
}

/// A resync that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResyncEnd {
    /// How many resyncs have ended since the mirror was started, this one included.
    pub number: u64,
    /// Bytes copied, zeroes and what was found to be equal included.
    pub copied: u64,
    /// Of them, bytes that crossed the network.
    pub sent: u64,
    /// Bytes that were compared by digests before anything was sent.
    #[serde(default)]
    pub compared: u64,
    /// Of them, bytes that were equal.
    #[serde(default)]
    pub equal: u64,
    /// How long it took.
    pub elapsed_ms: u64,
}
