//! The documents that scripts and pages poll, and the orders that commands give: JSON with a schema name and a version.
//!
//! Changes within a version only add fields. Sizes are in bytes, times in milliseconds since 1970 where people read them;
//! nothing is decided by them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Schema of [`Mirrors`].
pub const MIRRORS: &str = "netraid.mirrors/1";
/// Schema of [`Events`].
pub const EVENTS: &str = "netraid.events/1";
/// Schema of [`Answer`].
pub const ANSWER: &str = "netraid.answer/1";

/// `GET /v1/mirrors`, and `netraid status --json`: every mirror as this node knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mirrors {
    /// Always [`MIRRORS`].
    pub schema: String,
    /// This node.
    pub node: String,
    /// Version of the daemon.
    pub version: String,
    /// The mirrors, by tag.
    pub mirrors: Vec<Mirror>,
}

/// `GET /v1/mirrors/TAG`: one mirror.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mirror {
    /// Its name.
    pub tag: String,
    /// `embedded` or `md`.
    pub backend: String,
    /// `A`, `B` or `C`.
    pub protocol: String,
    /// Whether it can be used on this node: `in`, `out`, `starting` or `stopping`.
    pub service: String,
    /// The node on which it can be used, as far as this node knows.
    pub source: Option<String>,
    /// The source before, while targets wait for its bitmap or its resync.
    pub previous_source: Option<String>,
    /// Where the application finds it, while it is in service here: a block device, or NBD URIs.
    pub places: Vec<String>,
    /// Bytes that the application sees, if known.
    pub size: Option<u64>,
    /// Bytes under one bit of the write-intent bitmap; `None` without one, or out of service.
    pub chunk: Option<u64>,
    /// Bytes that are marked in the write-intent bitmap, while it is in service here.
    pub dirty_bytes: Option<u64>,
    /// Generation of this node's data, 16 hexadecimal digits.
    pub generation: String,
    /// Whether enough nodes are there, if the mirror has a quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Quorum>,
    /// Who was fenced or has to be, if the mirror has `fencing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing: Option<Fencing>,
    /// The flag files.
    pub flags: Flags,
    /// Why the mirror may not go into service here, if so.
    pub refusal: Option<Reason>,
    /// The nodes, by slot.
    pub nodes: Vec<Node>,
    /// The resync under way.
    pub resync: Option<Resync>,
    /// The verify under way, or the last one since the mirror was put in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<crate::status::VerifyStatus>,
    /// What somebody should know or mend: sentences.
    pub problems: Vec<String>,
    /// What somebody may like to know, with nothing to mend: sentences.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The flag files of a mirror on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flags {
    /// `TAG_last_owner` is there.
    pub last_owner: bool,
    /// The node that `TAG_source` names.
    pub source: Option<String>,
    /// `TAG_data_corrupt` is there.
    pub data_corrupt: bool,
}

/// The quorum of a mirror, as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quorum {
    /// Nodes that are there, the own one included.
    pub present: u8,
    /// So many are needed.
    pub need: u8,
    /// So many are configured.
    pub nodes: u8,
    /// What becomes of the application's requests here: `served`, `suspended` or `failed`; `served` out of service, too.
    pub requests: String,
}

/// The fencing of a mirror, as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fencing {
    /// `resource-only` or `resource-and-stonith`.
    pub policy: String,
    /// What becomes of the application's requests here: `served`, or `suspended` until somebody is fenced.
    pub requests: String,
    /// The nodes that were fenced, or have to be.
    pub nodes: Vec<FencedNode>,
}

/// A node that was fenced, or has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FencedNode {
    /// Its name.
    pub name: String,
    /// `fenced`; `asked`: `fence-peer` runs; `unfenced`: it could take over.
    pub state: String,
    /// What `fence-peer`, or the node itself, said last: `inconsistent`, `outdated`, `down`, `primary`, `stonithed` or `failed`.
    pub answer: Option<String>,
    /// When `fence-peer` has ended, if it was called since this daemon began.
    pub time_ms: Option<u64>,
    /// Why it has failed.
    pub failure: Option<String>,
}

/// Why, and what could help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// One sentence, without a full stop.
    pub why: String,
    /// The command that is most likely what is needed.
    pub next: Option<String>,
}

/// One node of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its slot, which is its leg's place in the array.
    pub slot: u8,
    /// It is the node that answers.
    pub own: bool,
    /// It is one of the mirror's (`netraid extend`); otherwise it is only configured.
    pub member: bool,
    /// Its daemon can be reached.
    pub reachable: bool,
    /// The status word.
    pub status: String,
    /// `UpToDate`, `Consistent` (of one moment, but somebody may have newer data), `Outdated`, `Inconsistent`, `Diskless` or
    /// `DUnknown`.
    pub disk: String,
    /// Its disk there.
    pub device: String,
    /// Its address and port for the mirror's data.
    pub address: String,
    /// How much of its resync is done, in percent, while it is being resynced.
    pub percent: Option<u8>,
    /// Bytes that it does not have yet, while it is a target that is written asynchronously (protocol A).
    pub behind_bytes: Option<u64>,
    /// Whether the mirror was pulled ahead of it because of congestion (bsr: Ahead here, Behind there): it gets what is on its
    /// way, and what it missed afterwards.
    #[serde(default)]
    pub left_behind: bool,
    /// Why it is as it is: one sentence, without a full stop.
    pub why: String,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// The command that would change that.
    pub command: Option<String>,
    /// A leg for it that travels (`netraid truck`), on the source where it was loaded, until it is in sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truck: Option<Truck>,
    /// How its last resync was decided.
    pub last_resync: Option<Decided>,
    /// Why it can't be reached, else why its leg failed last.
    pub failure: Option<String>,
}

/// Where a shipment stands, seen from the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Truck {
    /// `loading`: the image is being filled; `full`: it has everything and gets every write, until it is taken out; `away`: what
    /// is written since is marked.
    pub state: String,
    /// How much of it is filled, while it is.
    pub percent: Option<u8>,
    /// The generation of its data, 16 hexadecimal digits, once it is away.
    pub generation: Option<String>,
    /// When it left, by this node's clock.
    pub loaded_ms: Option<u64>,
    /// Bytes that are marked for it since: what the network will carry, at most; `None` out of service.
    pub dirty_bytes: Option<u64>,
}

/// How a resync was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decided {
    /// The name of the rule.
    pub rule: String,
    /// Everything is copied, not only what is marked.
    pub full: bool,
    /// Bytes that the target's own bitmap had marked.
    pub merged_bytes: u64,
    /// Bytes that were marked when it began.
    pub dirty_bytes: u64,
}

/// A resync under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resync {
    /// Bytes copied.
    pub copied: u64,
    /// Bytes still to be copied.
    pub left: u64,
    /// 0 to 100.
    pub percent: f64,
    /// Bytes a second, lately.
    pub speed: u64,
    /// Milliseconds until it ends at this speed; `None` if that is not known, or it is held.
    pub time_left_ms: Option<u64>,
    /// It is held.
    #[serde(default)]
    pub paused: bool,
    /// The mirror whose resync it waits for (`resync-after`).
    #[serde(default)]
    pub waits_for: Option<String>,
    /// What keeps it from being faster: `legs` (the disks and the network), `c-max-rate`, `application`, `delay`, `paused`;
    /// `None` if that is not known.
    #[serde(default)]
    pub limited_by: Option<String>,
    /// The same in one sentence, without a full stop.
    #[serde(default)]
    pub why: Option<String>,
    /// `netraid resync TAG --boost` was ordered, and holds until it ends.
    #[serde(default)]
    pub boosted: bool,
}

/// `GET /v1/events?after=N`: what happened, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Events {
    /// Always [`EVENTS`].
    pub schema: String,
    /// This node.
    pub node: String,
    /// Events after the one that was named; the oldest may be forgotten by now.
    pub events: Vec<Event>,
    /// What to name next time.
    pub last: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Counts up by one with each event since the daemon began.
    pub number: u64,
    /// When, by this node's clock.
    pub time_ms: u64,
    /// The mirror, if it is about one.
    pub tag: Option<String>,
    /// A word for scripts, such as `in-service` or `leg-failed`.
    pub event: String,
    /// A sentence for people.
    pub text: String,
}

/// `POST /v1/mirrors/TAG/orders`: what is to be done. With `?dry-run=true` nothing is, and the steps are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Make this node's disk the first leg of the mirror, and put it in service here (`netraid create`).
    Create {
        /// Overwrite what the disk holds.
        #[serde(default)]
        force: bool,
        /// Keep the file system that the disk holds.
        #[serde(default)]
        keep: bool,
    },
    /// Put it in service here (`restore`, `netraid start`).
    Restore,
    /// Take it out of service here (`remove`, `netraid stop`).
    Remove,
    /// See whether all is well, and try again what failed (`quickCheck`).
    QuickCheck,
    /// The parent resource that `LKDR_WAIT_TO_RESYNC` names came into service, or left it.
    Parents {
        /// It is in service.
        up: bool,
    },
    /// `mirror_action TAG pause`.
    Pause {
        /// The targets; all if none is named.
        #[serde(default)]
        targets: Vec<String>,
    },
    /// `mirror_action TAG resume`.
    Resume {
        /// The targets; all if none is named.
        #[serde(default)]
        targets: Vec<String>,
    },
    /// `mirror_action TAG fullresync`.
    FullResync {
        /// The targets; all if none is named.
        #[serde(default)]
        targets: Vec<String>,
    },
    /// `mirror_action TAG force`: this node's data counts.
    Force,
    /// `netraid resolve TAG --discard NODE`.
    Resolve {
        /// Whose data is given up.
        discard: String,
    },
    /// `netraid resolve TAG --tentative`: what would be copied where; nothing is done.
    Tentative,
    /// `netraid show-gi TAG`: what this node keeps of the mirror, explained; nothing is done.
    ShowGi,
    /// `netraid extend TAG NODE`.
    Extend {
        /// The new target.
        node: String,
        /// Overwrite what its disk holds.
        #[serde(default)]
        force: bool,
    },
    /// `netraid unextend TAG NODE`.
    Unextend {
        /// The target that leaves.
        node: String,
    },
    /// `mirror_resize TAG`, `netraid resize TAG`: another size, on the source.
    Resize {
        /// Bytes; as many as all disks hold if `None`.
        #[serde(default)]
        size: Option<u64>,
        /// What lies behind a smaller size may be lost.
        #[serde(default)]
        force: bool,
    },
    /// `netraid verify TAG`: compare targets in sync with the source, on the source.
    Verify {
        /// The targets; all that are in sync if none is named.
        #[serde(default)]
        targets: Vec<String>,
        /// First byte.
        #[serde(default)]
        start: u64,
        /// Behind the last byte; the mirror's end if `None`.
        #[serde(default)]
        stop: Option<u64>,
        /// Most bytes a second, 0 for no bound; `verify-rate` of the configuration if `None`.
        #[serde(default)]
        rate: Option<u64>,
        /// Copy what differs from the source.
        #[serde(default)]
        repair: bool,
    },
    /// `netraid resync TAG --boost`: faster than it is configured, until the resync under way ends; on the source.
    BoostResync {
        /// Bytes a second; as many as can be if `None`.
        #[serde(default)]
        rate: Option<u64>,
    },
    /// `netraid resync TAG --normal`: as fast as it is configured.
    NormalResync,
    /// `netraid verify TAG --cancel`.
    StopVerify,
    /// `netraid truck load TAG`: take the image that is served on this node as the leg of a target, and copy everything to it. The
    /// target is paused.
    TruckLoad {
        /// The target.
        node: String,
        /// Overwrite what the image holds.
        #[serde(default)]
        force: bool,
    },
    /// The end of `netraid truck load TAG`: go on without the image, which has everything; what it misses from now on is marked.
    TruckLeave {
        /// The target.
        node: String,
    },
    /// `netraid truck connect TAG`: go on with the target that has got its shipment.
    TruckConnect {
        /// The target.
        node: String,
        /// Also if everything has to be copied over the network.
        #[serde(default)]
        full: bool,
    },
    /// `netraid outdate TAG`: this node's data is outdated, somebody goes on without it.
    Outdate {
        /// The node that goes on, if it is known.
        #[serde(default, rename = "for")]
        asker: Option<String>,
    },
    /// `netraid resume-io TAG`: the source goes on although a node that left may not know of it.
    ResumeIo,
    /// `netraid delete TAG`: forget what this node remembers of the mirror. The data stays on the disk.
    Delete,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// Always [`ANSWER`].
    pub schema: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not done.
    pub reason: Option<Reason>,
    /// The exit code of the command, where it has more of them than there are outcomes (`netraid outdate`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// With `dry-run`: what would be done, in order. Of a resize also what was done.
    #[serde(default)]
    pub steps: Vec<String>,
}

/// How an order ended; each has an exit code of the commands and a status of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done, or already so: 0; 200.
    Done,
    /// It did not work: 1; 500.
    Failed,
    /// It names something that does not exist, or can't be meant: 2; 404 or 400.
    Usage,
    /// The state forbids it; nothing was changed: 3; 409.
    Refused,
    /// It did not end in time; it may still: 124; 504.
    Late,
}

impl Outcome {
    /// The exit code of the command that gave the order.
    pub const fn exit_code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Usage => 2,
            Outcome::Refused => 3,
            Outcome::Late => 124,
        }
    }
}

impl Answer {
    /// It is done.
    pub fn done() -> Answer {
        Answer {
            schema: ANSWER.into(),
            outcome: Outcome::Done,
            reason: None,
            exit_code: None,
            steps: Vec::new(),
        }
    }

    /// It is not.
    pub fn not(outcome: Outcome, why: impl std::fmt::Display, next: Option<String>) -> Answer {
        Answer {
            outcome,
            reason: Some(Reason {
                why: why.to_string(),
                next,
            }),
            ..Answer::done()
        }
    }
}
