//! What can happen to a mirror on a node.

use super::fencing::FenceAnswer;
use super::generation::Generations;
use super::node::{NodeId, NodeSet};
use super::record::Record;

/// Something that happened; the machine answers with [`Action`](super::action::Action)s.
///
/// What an array has to tell of a leg ends when that leg is ordered to be connected or dropped: whoever performs
/// [`Action::Connect`](super::action::Action::Connect) or [`Action::Drop`](super::action::Action::Drop) forgets what was not
/// yet told of the leg before. Else the end of an old resync would be taken for that of the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The driver began, with what [`Memory`](super::record::Memory) it found.
    Boot(Boot),
    /// What the own leg says of itself. Others write to it, so it is read and told again after [`Event::Boot`], before
    /// [`Event::Restore`], [`Event::Force`], [`Event::Resolve`], [`Event::Outdate`], [`Event::Peer`] and [`Event::PeerLost`], and before
    /// [`Action::Tell`](super::action::Action::Tell) is performed.
    OwnLeg {
        /// Its generations, departures that only md's superblock knows of included.
        generations: Generations,
        /// It is not in the middle of a resync.
        consistent: bool,
    },
    /// What the flag files say; somebody may have made or removed one by hand.
    Flags {
        /// `TAG_last_owner` is there.
        last_owner: bool,
        /// The node that `TAG_source` names.
        source: Option<NodeId>,
        /// `TAG_data_corrupt` is there.
        data_corrupt: bool,
    },

    /// How much the own bitmap has marked, see [`Record::changes`]. Counted while [`Machine::counts_changes`] says that it
    /// is needed, and again whenever it may have changed.
    ///
    /// [`Machine::counts_changes`]: super::machine::Machine::counts_changes
    Changes(Option<u64>),

    /// The cluster manager brings the mirror in service here. Every peer is asked anew before ([`Event::Peer`] or
    /// [`Event::PeerLost`]), as before [`Event::Force`] and [`Event::Resolve`]: what was told earlier may be old.
    Restore,
    /// The cluster manager takes it out of service here.
    Remove,
    /// The cluster manager looks after it (`quickCheck`, each `LKCHECKINTERVAL`).
    QuickCheck,
    /// The parent resource that `LKDR_WAIT_TO_RESYNC` names came into service, or left it.
    Parents {
        /// It is in service.
        up: bool,
    },

    /// A peer's daemon was reached, or told something new of itself.
    Peer(Box<Record>),
    /// A peer's daemon can't be reached any more.
    PeerLost(NodeId),

    /// [`Action::Assemble`](super::action::Action::Assemble) was done.
    Assembled,
    /// It was not.
    AssembleFailed,
    /// [`Action::Stop`](super::action::Action::Stop) was done: every write is on the legs, and they are clean.
    Stopped,
    /// It was not: somebody uses the mirror.
    StopFailed,
    /// A leg was connected, its bitmap merged, and its resync has begun.
    Added(NodeId),
    /// A leg could not be added, or was expelled from the array.
    LegFailed(NodeId),
    /// This node's own leg was expelled from the array; the application is served by the others.
    OwnLegFailed,
    /// So much of a leg's resync is done, in percent, 0 to 100.
    Progress(NodeId, u8),
    /// A leg's resync ended: it is equal, and its record says so. What the own leg says has changed by that, so
    /// [`Event::OwnLeg`] comes first.
    ResyncEnded(NodeId),
    /// The array has named a new generation for what is written without the absent legs; its legs say so durably. These
    /// were its generations then; [`Event::OwnLeg`] comes first and says what they are now.
    Minted(Generations),
    /// Enough time was given to the peers to vote, or to be met again after [`Event::Boot`].
    VotesOver,
    /// The time for the previous source is over.
    WaitOver,

    /// `mirror_action TAG pause`, with its targets; all if none is named.
    Pause(NodeSet),
    /// `mirror_action TAG resume`.
    Resume(NodeSet),
    /// `mirror_action TAG fullresync`.
    FullResync(NodeSet),
    /// `mirror_action TAG force` on this node.
    Force,
    /// `netraid resolve TAG --discard NODE`.
    Resolve {
        /// Whose data is given up.
        discard: NodeId,
    },
    /// `netraid extend`: one more target.
    Extend(NodeId),
    /// `netraid unextend`: one less.
    Unextend(NodeId),
    /// `netraid outdate`: somebody, this node if it is known which, goes on without this node's data.
    Outdate(Option<NodeId>),
    /// What the program that [`Action::Fence`](super::action::Action::Fence) called has answered.
    Fenced(NodeId, FenceAnswer),
    /// Whoever can be reached had time to say that it knows that this source goes on without it
    /// ([`Machine::awaits_word`]); or a call that failed is to be tried again ([`Machine::fencing_failed`]).
    ///
    /// [`Machine::awaits_word`]: super::machine::Machine::awaits_word
    /// [`Machine::fencing_failed`]: super::machine::Machine::fencing_failed
    FenceNow,
    /// `netraid resume-io`: go on although somebody may not know of it.
    ResumeIo,
}

/// How the driver found the mirror when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// Nothing runs here, and what was known of the others may be old.
    Idle,
    /// Only the driver was restarted; the own leg is still being served to a source.
    Serving {
        /// Whose writes it takes, as agreed before.
        source: NodeId,
    },
    /// Only the driver was restarted; the array goes on, with these legs in sync and those being resynced.
    Running {
        /// In sync; without this node if its own leg has failed.
        members: NodeSet,
        /// Being resynced.
        resyncing: NodeSet,
    },
}
