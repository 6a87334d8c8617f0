//! What becomes of a split brain without an administrator: DRBD's policies, and the one function that judges by them.
//!
//! The options and their values have DRBD's names. All of them default to `disconnect`: nobody's data is touched. Where DRBD
//! would change the data below an application that uses it (`violently-as0p`, `violently`), there is no such value here; the
//! configuration refuses it by name. Whoever loses while it is in service is told, and may have a program that ends the
//! application; it becomes a target when it is out of service.
//!
//! [`judge`] looks at the two nodes in the order of their numbers, never as "own" and "peer", so both sides come to the same
//! judgement from the same two records.

use std::fmt;

use super::node::NodeId;
use super::record::Record;

/// `after-sb-0pri`: neither of the two is in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NoneInService {
    /// An administrator decides.
    #[default]
    Disconnect,
    /// The data of the one that was source before the split is kept; if that is not known, as least changes.
    DiscardYoungerPrimary,
    /// The data of the one that took over is kept; if that is not known, as least changes.
    DiscardOlderPrimary,
    /// If one has written nothing, the other's data is kept.
    DiscardZeroChanges,
    /// The data of the one that has written more is kept.
    DiscardLeastChanges,
    /// `discard-node-NAME`: this node's data is given up.
    DiscardNode(NodeId),
}

/// `after-sb-1pri`: one of the two is in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OneInService {
    /// An administrator decides.
    #[default]
    Disconnect,
    /// As `after-sb-0pri`, if that gives up the one that is not in service; otherwise an administrator decides.
    Consensus,
    /// The data of the one in service is kept.
    DiscardSecondary,
    /// As `after-sb-0pri`; if the one in service loses, its program `pri-lost-after-sb` is called.
    CallPriLost,
}

/// `after-sb-2pri`: both are in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BothInService {
    /// An administrator decides.
    #[default]
    Disconnect,
    /// As `after-sb-0pri`; the program `pri-lost-after-sb` of the one that loses is called.
    CallPriLost,
}

/// `rr-conflict`: no split brain, but the one in service has the older data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RoleConflict {
    /// It is told, loses its targets, and becomes a target when it is out of service.
    #[default]
    Disconnect,
    /// The same, and its program `pri-lost` is called.
    CallPriLost,
}

/// The policies of a mirror; the same on all its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policies {
    /// `after-sb-0pri`
    pub none_in_service: NoneInService,
    /// `after-sb-1pri`
    pub one_in_service: OneInService,
    /// `after-sb-2pri`
    pub both_in_service: BothInService,
    /// `rr-conflict`
    pub role_conflict: RoleConflict,
    /// `always-asbp`: also when only some common ancestor is known; then everything is copied.
    pub always: bool,
}

impl NoneInService {
    /// As it is configured; of `discard-node-NAME` without the name.
    pub fn as_str(self) -> &'static str {
        match self {
            NoneInService::Disconnect => "disconnect",
            NoneInService::DiscardYoungerPrimary => "discard-younger-primary",
            NoneInService::DiscardOlderPrimary => "discard-older-primary",
            NoneInService::DiscardZeroChanges => "discard-zero-changes",
            NoneInService::DiscardLeastChanges => "discard-least-changes",
            NoneInService::DiscardNode(_) => "discard-node",
        }
    }
}

/// One line for comparing two nodes' policies; empty for the defaults, which is also what a daemon says that has none.
impl fmt::Display for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Policies::default() {
            return Ok(());
        }
        let zero = self.none_in_service.as_str();
        write!(f, "after-sb-0pri={zero}")?;
        if let NoneInService::DiscardNode(node) = self.none_in_service {
            write!(f, "-{}", node.slot())?;
        }
        let one = match self.one_in_service {
            OneInService::Disconnect => "disconnect",
            OneInService::Consensus => "consensus",
            OneInService::DiscardSecondary => "discard-secondary",
            OneInService::CallPriLost => "call-pri-lost-after-sb",
        };
        let both = match self.both_in_service {
            BothInService::Disconnect => "disconnect",
            BothInService::CallPriLost => "call-pri-lost-after-sb",
        };
        let roles = match self.role_conflict {
            RoleConflict::Disconnect => "disconnect",
            RoleConflict::CallPriLost => "call-pri-lost",
        };
        let always = if self.always { "yes" } else { "no" };
        write!(
            f,
            " after-sb-1pri={one} after-sb-2pri={both} rr-conflict={roles} always-asbp={always}"
        )
    }
}

/// What the policies say of two nodes; the same from either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The option that applies, and its value.
    pub policy: &'static str,
    /// Why it says so.
    pub why: &'static str,
    /// Whose data is given up; `None` if an administrator decides.
    pub loser: Option<NodeId>,
    /// The loser is in service: nothing happens before it is not.
    pub must_stop: bool,
    /// One of the two has not yet told what it would need.
    pub pending: bool,
}

/// Judges a split brain. `ancestor_only`: the two don't even know what each has marked since.
pub fn judge(one: &Record, other: &Record, policies: &Policies, ancestor_only: bool) -> Judgement {
    let (low, high) = match one.node < other.node {
        true => (one, other),
        false => (other, one),
    };
    let in_service = |record: &Record| record.running || record.starting;
    let (low_in, high_in) = (in_service(low), in_service(high));
    let zero = policies.none_in_service;
    let policy = name(policies, low_in, high_in);
    let says = |why, loser| Judgement {
        policy,
        why,
        loser,
        must_stop: false,
        pending: false,
    };
    let text = policies.to_string();
    let follows = |record: &Record| {
        let source = record.follows;
        source.is_some_and(|source| source != low.node && source != high.node)
    };
    let off = match (low_in, high_in) {
        (false, false) => zero == NoneInService::Disconnect,
        (true, true) => policies.both_in_service == BothInService::Disconnect,
        _ => policies.one_in_service == OneInService::Disconnect,
    };
    match () {
        () if low.policies != text || high.policies != text => {
            return says("the two are configured differently", None);
        }
        () if off => return says(DECIDES, None),
        () if ancestor_only && !policies.always => {
            return Judgement {
                policy: "always-asbp no",
                ..says("only a common ancestor is known", None)
            };
        }
        () if follows(low) || follows(high) => {
            return says("one of the two follows another source", None);
        }
        () if low.changes.is_none() || high.changes.is_none() => {
            return Judgement {
                pending: true,
                ..says("not yet told what was written", None)
            };
        }
        () => {}
    }
    let (why, loser) = match (policies.one_in_service, low_in != high_in) {
        (OneInService::DiscardSecondary, true) => {
            let secondary = if low_in { high } else { low };
            ("the other is in service", Some(secondary.node))
        }
        _ => by_data(low, high, zero),
    };
    let must_stop =
        loser.is_some_and(|loser| (low_in && loser == low.node) || (high_in && loser == high.node));
    let winner = loser.map(|loser| if loser == low.node { high } else { low });
    match () {
        () if must_stop
            && policies.one_in_service == OneInService::Consensus
            && !(low_in && high_in) =>
        {
            says("the one in service would lose", None)
        }
        () if winner.is_some_and(|winner| !winner.consistent) => {
            says("the one to keep was being resynced", None)
        }
        () => Judgement {
            must_stop,
            ..says(why, loser)
        },
    }
}

/// No split brain, but the one in service has the older data.
pub fn judge_roles(loser: NodeId, policies: &Policies) -> Judgement {
    Judgement {
        policy: match policies.role_conflict {
            RoleConflict::Disconnect => "rr-conflict disconnect",
            RoleConflict::CallPriLost => "rr-conflict call-pri-lost",
        },
        why: "the one in service has the older data",
        loser: Some(loser),
        must_stop: true,
        pending: false,
    }
}

/// `after-sb-0pri`, whoever is in service.
fn by_data(low: &Record, high: &Record, zero: NoneInService) -> (&'static str, Option<NodeId>) {
    let known = |record: &Record| {
        record
            .changes
            .filter(|bytes| *bytes != Record::UNKNOWN_CHANGES)
    };
    let (Some(by_low), Some(by_high)) = (known(low), known(high)) else {
        return match zero {
            NoneInService::DiscardNode(node) => by_name(low, high, node),
            _ => match (first_source(low, high), zero) {
                (Some(first), NoneInService::DiscardYoungerPrimary) => {
                    ("it took over", Some(other_of(low, high, first)))
                }
                (Some(first), NoneInService::DiscardOlderPrimary) => {
                    ("it was source before", Some(first))
                }
                _ => ("what was written is not known", None),
            },
        };
    };
    let least = match by_low <= by_high {
        // Of two that wrote as much the one with the lower number is kept.
        true if by_low == by_high => ("both have written as much", Some(high.node)),
        true => ("it has written less", Some(low.node)),
        false => ("it has written less", Some(high.node)),
    };
    match (zero, first_source(low, high)) {
        (NoneInService::Disconnect, _) => (DECIDES, None),
        (NoneInService::DiscardNode(node), _) => by_name(low, high, node),
        (NoneInService::DiscardYoungerPrimary, Some(first)) => {
            ("it took over", Some(other_of(low, high, first)))
        }
        (NoneInService::DiscardOlderPrimary, Some(first)) => ("it was source before", Some(first)),
        (NoneInService::DiscardZeroChanges, _) => match (by_low, by_high) {
            (0, 0) => ("neither has written anything", Some(high.node)),
            (0, _) => ("it has written nothing", Some(low.node)),
            (_, 0) => ("it has written nothing", Some(high.node)),
            _ => ("both have written", None),
        },
        _ => least,
    }
}

fn by_name(low: &Record, high: &Record, named: NodeId) -> (&'static str, Option<NodeId>) {
    match named == low.node || named == high.node {
        true => ("it is named", Some(named)),
        false => ("neither of the two is named", None),
    }
}

/// Which of the two was source before the split, if both say the same: who took over still names the one before.
fn first_source(low: &Record, high: &Record) -> Option<NodeId> {
    let first = low.source.filter(|source| high.source == Some(*source))?;
    (first == low.node || first == high.node).then_some(first)
}

fn other_of(low: &Record, high: &Record, node: NodeId) -> NodeId {
    match node == low.node {
        true => high.node,
        false => low.node,
    }
}

fn name(policies: &Policies, low_in: bool, high_in: bool) -> &'static str {
    match (low_in, high_in) {
        (false, false) => match policies.none_in_service {
            NoneInService::Disconnect => "after-sb-0pri disconnect",
            NoneInService::DiscardYoungerPrimary => "after-sb-0pri discard-younger-primary",
            NoneInService::DiscardOlderPrimary => "after-sb-0pri discard-older-primary",
            NoneInService::DiscardZeroChanges => "after-sb-0pri discard-zero-changes",
            NoneInService::DiscardLeastChanges => "after-sb-0pri discard-least-changes",
            NoneInService::DiscardNode(_) => "after-sb-0pri discard-node",
        },
        (true, true) => match policies.both_in_service {
            BothInService::Disconnect => "after-sb-2pri disconnect",
            BothInService::CallPriLost => "after-sb-2pri call-pri-lost-after-sb",
        },
        _ => match policies.one_in_service {
            OneInService::Disconnect => "after-sb-1pri disconnect",
            OneInService::Consensus => "after-sb-1pri consensus",
            OneInService::DiscardSecondary => "after-sb-1pri discard-secondary",
            OneInService::CallPriLost => "after-sb-1pri call-pri-lost-after-sb",
        },
    }
}

const DECIDES: &str = "an administrator decides";

#[cfg(test)]
mod tests;
