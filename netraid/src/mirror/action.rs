//! What the machine asks for: to be performed in the order given, each only when the one before is done.

use super::fencing::FenceAnswer;
use super::generation::Extent;
use super::node::{NodeId, NodeSet};
use super::policy::Judgement;
use super::refusal::Refusal;

/// Something to do. What is said of order is what makes it safe: flags and memory are durable before what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make or change a flag file.
    SetFlag(Flag),
    /// Remove a flag file.
    ClearFlag(Flag),
    /// Make the machine's [`Memory`](super::record::Memory) durable as it is now.
    Persist,

    /// Start the array from the own leg alone (`Backend::start`); ends in `Assembled` or `AssembleFailed`.
    Assemble {
        /// Even if the leg was being resynced: then its data gets a generation of its own at once.
        force: bool,
        /// Its data gets a generation of its own at once in any case: a majority has voted for this start, and whatever
        /// others call newer was answered by nobody.
        voted: bool,
    },
    /// Stop the array cleanly (`Array::stop`); ends in `Stopped` or `StopFailed`.
    Stop,
    /// Connect a peer's leg. This, [`Action::Merge`] and [`Action::Add`] follow each other (`Array::add`); they end in
    /// `Added`, or the first that fails in `LegFailed`.
    Connect(NodeId),
    /// Mark durably whatever the leg's own bitmap has marked.
    Merge(NodeId),
    /// Take the leg into the array and copy to it.
    Add {
        /// Whose leg.
        node: NodeId,
        /// How much.
        extent: Extent,
        /// The rule that says so.
        rule: &'static str,
        /// An administrator gave up what the leg has.
        discard: bool,
    },
    /// Copy everything to a leg that is in the array (`Array::full_resync`).
    CopyAll(NodeId),
    /// Go on without a leg and disconnect it (`Array::remove`). A resync of it ends.
    Drop(NodeId, DropReason),

    /// Answer nothing that one of these legs has not; when one of them leaves, hold all requests back until told again.
    Guard {
        /// The legs.
        members: NodeSet,
        /// Only these from now on. Else those before as well.
        only: bool,
    },
    /// Hold the application's requests back, whatever legs are there, or do so no more.
    Hold(Hold),
    /// Call the program `fence-peer` for a node that can't be told otherwise; ends in `Fenced`.
    Fence(NodeId),
    /// Call `unfence-peer`: a node that was fenced is in sync again.
    Unfence(NodeId),
    /// Take writes to the own leg from this source only; from nobody if `None`.
    Accept(Option<NodeId>),
    /// Tell these peers the machine's record as it is now.
    Tell(NodeSet),
    /// Send `WaitOver` after so many seconds.
    StartTimer(u32),
    /// Don't.
    StopTimer,

    /// To whoever asked: it is done, or already so.
    Done,
    /// To whoever asked: no; nothing was changed but what the flags before this say.
    Refuse(Refusal),
    /// To whoever ordered a start that waited for answers of `fence-peer`: no.
    GaveUpStart(Refusal),
    /// A line in the log and the events.
    Note(Note),
}

/// What becomes of the application's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// They are served.
    #[default]
    No,
    /// They wait.
    Suspend,
    /// They fail.
    Fail,
}

/// A flag file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `TAG_last_owner`
    LastOwner,
    /// `TAG_source`, with the node it names; the node does not matter when it is removed.
    Source(NodeId),
    /// `TAG_data_corrupt`
    DataCorrupt,
}

/// Why a leg is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// An administrator paused it.
    Paused,
    /// It is not a target any more.
    Unextended,
    /// Another node with newer data is in service.
    Superseded(NodeId),
    /// Its node has begun anew since it was added.
    Restarted,
    /// It is in the array though nobody ordered that any more.
    NotOrdered,
    /// This node's own leg failed, so what a new resync would need is not known.
    OwnLegFailed,
}

/// Something worth knowing that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A flag file was made or changed by hand, and counts.
    SetByHand(Flag),
    /// A flag file was removed by hand, and counts.
    ClearedByHand(Flag),
    /// Both wrote without the other; nobody's data is touched until somebody decides.
    SplitBrain(NodeId),
    /// What the policies for split brains say of this node and a peer.
    Judged {
        /// The peer.
        node: NodeId,
        /// What they say.
        judgement: Judgement,
        /// It is the first that is said of this conflict.
        first: bool,
        /// Bytes that the loser wrote without the other, at most; they are given up.
        lost: Option<u64>,
    },
    /// Another node is in service while this one is, and has nothing that this one has not.
    TwoSources(NodeId),
    /// Another node with newer data is in service while this one is.
    Superseded(NodeId),
    /// A peer that is not in service has newer data than this source.
    PeerIsNewer(NodeId),
    /// Targets wait for the previous source and its bitmap.
    WaitsFor(NodeId),
    /// They don't any more: they get full resyncs.
    GaveUpWaiting(NodeId),
    /// The previous source's bitmap was merged.
    Merged(NodeId),
    /// This node's data was marked as outdated, on behalf of that node if it is known.
    Outdated(Option<NodeId>),
    /// This is what `fence-peer`, or the node itself, says of a node that left.
    Fenced(NodeId, FenceAnswer),
    /// An administrator goes on although these may not know of it.
    ResumedUnfenced(NodeSet),
    /// What was told does not fit what this machine asked for; nothing was changed.
    OutOfTurn,
}
