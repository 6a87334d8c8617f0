//! What a node keeps of a mirror between two starts, and what it tells the other nodes of itself.

use serde::{Deserialize, Serialize};

use super::generation::{Generation, Generations, SLOTS};
use super::node::{NodeId, NodeSet};
use super::vote::Vote;

/// What a node keeps durably: its own leg's generations, the flag files, and what it knows of the others.
///
/// The leg itself is where generations are kept first (an array names a departure on its legs before it answers a
/// write); whoever drives the machine reads them anew before each decision
/// ([`Event::OwnLeg`](super::event::Event::OwnLeg)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Whose data this leg has.
    pub generations: Generations,
    /// The leg's data is of one moment: it is not in the middle of a resync.
    pub consistent: bool,
    /// A source said that it goes on without this leg, or somebody did for it (`netraid outdate`).
    pub outdated: bool,
    /// This leg is known to have the newest data. Only believed until the machine is restarted.
    pub fresh: bool,
    /// In service when this was written; found at a boot, it says that the node crashed as source.
    pub was_source: bool,
    /// The flag file `TAG_last_owner`.
    pub last_owner: bool,
    /// The flag file `TAG_source`.
    pub source: Option<NodeId>,
    /// The flag file `TAG_data_corrupt`.
    pub data_corrupt: bool,
    /// The nodes of the mirror, this one included.
    pub nodes: NodeSet,
    /// Nodes that were in sync when last heard of, or were being resynced and may have become so, and could have gone into
    /// service since.
    pub in_sync: NodeSet,
    /// Nodes that can be resynced without the previous source's bitmap: in sync when it stopped the mirror cleanly, or
    /// resynced by this node since.
    pub settled: NodeSet,
    /// Targets whose next resync has to copy everything.
    pub full: NodeSet,
    /// Targets that an administrator paused.
    pub paused: NodeSet,
    /// For each node, a generation of its data that an administrator gave up.
    pub discarded: [Generation; SLOTS],
    /// Counts how often this node agreed to take a source's writes.
    pub agreement: u32,
    /// For each target, the agreement under which its leg was last added.
    pub agreements: [u32; SLOTS],
    /// What this node has promised and taken of terms and views, if the mirror has a quorum.
    pub vote: Vote,
    /// It lost its quorum while it was in service, and has not been in sync with another source since.
    pub lost_quorum: bool,
    /// With `fencing`: targets that this source called in sync, or that were there when it went into service, and that may
    /// not know yet that it goes on without them.
    pub unfenced: NodeSet,
    /// With `fencing`: nodes that can't take over before they were in sync with this one again.
    pub fenced: NodeSet,
}

/// What a node tells the others of itself: when they meet, and whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who tells.
    pub node: NodeId,
    /// Whose data its leg has.
    pub generations: Generations,
    /// See [`Memory::consistent`].
    pub consistent: bool,
    /// See [`Memory::outdated`].
    pub outdated: bool,
    /// See [`Memory::fresh`].
    pub fresh: bool,
    /// It is in service.
    pub running: bool,
    /// It is going into service.
    pub starting: bool,
    /// It crashed as source, and nobody took over yet as far as it knows.
    pub crashed: bool,
    /// While in service: the nodes whose legs are in sync now, its own included.
    pub members: NodeSet,
    /// While in service: the nodes whose legs are being resynced.
    pub resyncing: NodeSet,
    /// See [`Memory::nodes`].
    pub nodes: NodeSet,
    /// See [`Memory::in_sync`].
    pub in_sync: NodeSet,
    /// Out of service after a clean stop: the nodes that were in sync then.
    pub settled: NodeSet,
    /// The source whose writes this node's leg takes.
    pub accepts: Option<NodeId>,
    /// The same, if that source can be reached and is in service: then what this leg has may go on growing.
    pub follows: Option<NodeId>,
    /// The number of that agreement.
    pub agreement: u32,
    /// While in service: for each node, the agreement under which its leg was added. One that has agreed anew since, for
    /// example after a restart, is not in sync any more, whatever the source still believes.
    pub agreements: [u32; SLOTS],
    /// See [`Memory::discarded`].
    pub discarded: [Generation; SLOTS],
    /// It was in service when it lost its quorum.
    pub lost_quorum: bool,
    /// Its generations are about to change; compare again after that.
    pub changing: bool,
    // What follows was added later: a daemon that does not say it is believed to know nothing of it.
    /// The policies for split brains, as [`Policies`](super::policy::Policies) writes them; empty for the defaults.
    #[serde(default)]
    pub policies: String,
    /// During a split brain: bytes that its own bitmap has marked, so at most so much was written without the other;
    /// [`Record::UNKNOWN_CHANGES`] if that can't be told, `None` if it was not counted yet.
    #[serde(default)]
    pub changes: Option<u64>,
    /// The last source that it knows of, see [`Memory::source`].
    #[serde(default)]
    pub source: Option<NodeId>,
    /// See [`Memory::vote`].
    #[serde(default)]
    pub vote: Vote,
}

impl Record {
    /// See [`Record::changes`].
    pub const UNKNOWN_CHANGES: u64 = u64::MAX;

    /// Whether this node, in service, has `node` in sync, as far as an agreement with that number counts.
    pub fn has_in_sync(&self, node: NodeId, agreement: u32) -> bool {
        self.members.contains(node) && self.agreements[node.slot()] == agreement
    }

    /// Whether an administrator gave up the data that `node` has, as far as this record's node knows.
    pub fn gives_up(&self, node: NodeId, generation: Generation) -> bool {
        generation != Generation::NONE && self.discarded[node.slot()] == generation
    }
}
