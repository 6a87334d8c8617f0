//! Who copies to whom, and how much: one function over the records of two nodes, in the rows of DRBD's table.
//!
//! The rows, their numbers and their order are those of `drbd_receiver.c` (`drbd_uuid_compare` and what follows it in
//! `drbd_sync_handshake`); the generations alone are compared by [`decide`]. Where the kernel's md makes a row of no
//! consequence (it always copies what either bitmap has marked, so "no sync" is a resync of nothing), the row is kept for
//! its direction and its name. Seen from either side the answers are each other's [`Outcome::reversed`] under the same
//! rule name.

use super::generation::{Extent, Generation, Verdict, decide};
use super::policy::{self, Judgement, Policies};
use super::record::Record;

/// What is to be done with two legs, seen from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing needs to be copied, or there is nothing to copy.
    Nothing,
    /// The other leg is the target.
    ToPeer(Extent),
    /// This leg is the target.
    FromPeer(Extent),
    /// Both were written without the other. Nothing is copied until an administrator gives one up; then this much.
    SplitBrain(Extent),
    /// They never belonged together, or too long ago to tell.
    Unrelated,
    /// Something is about to change: compare again after that.
    Again,
}

impl Outcome {
    /// The same seen from the other side.
    #[must_use]
    pub fn reversed(self) -> Outcome {
        match self {
            Outcome::ToPeer(extent) => Outcome::FromPeer(extent),
            Outcome::FromPeer(extent) => Outcome::ToPeer(extent),
            other => other,
        }
    }
}

/// An outcome and where it comes from, for logs and the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The row of the table, seen from this side: `0` to `22`, or the letter of a step after it.
    pub row: &'static str,
    /// The row's name, the same on both sides.
    pub rule: &'static str,
    /// What it says.
    pub outcome: Outcome,
    /// In a split brain, or when the one in service has the older data: what the policies say, the same on both sides.
    pub judgement: Option<Judgement>,
}

/// By which rules a mirror's nodes are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How writes are acknowledged.
    pub protocol: Protocol,
    /// What becomes of a split brain.
    pub policies: Policies,
}

/// How writes are acknowledged, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Asynchronous (A, B): a source may have acknowledged what its targets never got.
    Async,
    /// Synchronous (C): what was acknowledged is on every leg in sync.
    Sync,
}

/// Compares two nodes' records; the first row that matches decides, and then what administrators gave up, and the policies.
pub fn compare(own: &Record, peer: &Record, rules: &Rules) -> Decision {
    if own.changing || peer.changing {
        return row("0", "changed while comparing", Outcome::Again);
    }
    let found = by_quorum(own, peer, table(own, peer, rules.protocol));
    let ordered = given_up(own, peer, found);
    by_policy(own, peer, &rules.policies, found, ordered)
}

/// Step c: of two that wrote without each other, one had no quorum: nothing that it wrote then was answered.
fn by_quorum(own: &Record, peer: &Record, found: Decision) -> Decision {
    let (Some(ours), Some(theirs)) = (own.vote.view, peer.vote.view) else {
        return found;
    };
    let Outcome::SplitBrain(extent) = found.outcome else {
        return found;
    };
    let newest = match theirs.is_newer(Some(&ours)) {
        true => theirs,
        false => ours,
    };
    if newest.forced || own.vote.unvoted || peer.vote.unvoted {
        return found;
    }
    // Who has promised a later term may follow a source of which these views do not know.
    let knows = |record: &Record| record.vote.promised <= Some(newest.term);
    let has = |record: &Record| newest.members.contains(record.node);
    match (has(own), has(peer)) {
        (true, false) if !knows(peer) => found,
        (false, true) if !knows(own) => found,
        (true, false) => row("c", NO_QUORUM, Outcome::ToPeer(extent)),
        (false, true) => row("c", NO_QUORUM, Outcome::FromPeer(extent)),
        _ => found,
    }
}

/// Step d, and g: what the policies say. They come after what administrators gave up, which counts more; what both give up
/// goes by the policy's name.
fn by_policy(
    own: &Record,
    peer: &Record,
    policies: &Policies,
    found: Decision,
    ordered: Decision,
) -> Decision {
    let judgement = match found.outcome {
        Outcome::SplitBrain(extent) => policy::judge(own, peer, policies, extent == Extent::Full),
        Outcome::FromPeer(_) if own.running && ordered == found => {
            policy::judge_roles(own.node, policies)
        }
        Outcome::ToPeer(_) if peer.running && ordered == found => {
            policy::judge_roles(peer.node, policies)
        }
        _ => return ordered,
    };
    let judged = Decision {
        judgement: Some(judgement),
        ..found
    };
    let (Outcome::SplitBrain(extent), Some(loser)) = (found.outcome, judgement.loser) else {
        return if ordered == found { judged } else { ordered };
    };
    let outcome = match loser == own.node {
        true => Outcome::FromPeer(extent),
        false => Outcome::ToPeer(extent),
    };
    match () {
        () if ordered != found && ordered.outcome != outcome => ordered,
        () if judgement.must_stop && ordered == found => judged,
        () if judgement.must_stop => ordered,
        () => Decision {
            row: "d",
            rule: judgement.policy,
            outcome,
            judgement: Some(judgement),
        },
    }
}

fn table(own: &Record, peer: &Record, protocol: Protocol) -> Decision {
    let (own_slot, peer_slot) = (own.node.slot(), peer.node.slot());
    let by_id = decide(&own.generations, own_slot, &peer.generations, peer_slot);
    let split = |row: &'static str, extent| Decision {
        row,
        rule: by_id.rule,
        outcome: Outcome::SplitBrain(extent),
        judgement: None,
    };
    let pick = |to: &'static str, from: &'static str| match by_id.verdict {
        Verdict::ToPeer(extent) => row(to, by_id.rule, Outcome::ToPeer(extent)),
        Verdict::FromPeer(extent) => row(from, by_id.rule, Outcome::FromPeer(extent)),
        _ => row("22", by_id.rule, Outcome::Unrelated),
    };
    match (by_id.verdict, by_id.rule) {
        (Verdict::NoData, rule) => row("1", rule, Outcome::Nothing),
        (Verdict::Same, _) => same_generation(own, peer, protocol),
        (Verdict::SplitBrain, "both written alone") => split("20", Extent::Partial),
        (Verdict::SplitBrain, _) => split("21", Extent::Full),
        (_, "one just created") => pick("3", "2"),
        (_, "was away") => pick("16", "14"),
        (_, "away as another leg") => pick("17", "15"),
        _ => pick("19", "18"),
    }
}

/// Rows 4 to 13: nobody wrote without the other. What is marked in either bitmap is copied; this is about direction.
fn same_generation(own: &Record, peer: &Record, protocol: Protocol) -> Decision {
    let partial = Extent::Partial;
    let way = |to_peer: bool| match to_peer {
        true => Outcome::ToPeer(partial),
        false => Outcome::FromPeer(partial),
    };
    let away = |here: &Record, there: &Record| {
        here.generations.away[there.node.slot()] != Generation::NONE
    };
    let tie = own.node < peer.node;
    let nothing = |number, rule| row(number, rule, Outcome::Nothing);
    match () {
        // DRBD looks at step a later and at some rows only. Here nothing that was done in the past counts more than what
        // applications see now: since neither wrote without the other, both directions are right.
        () if own.consistent != peer.consistent => {
            row("a", "one was being resynced", way(own.consistent))
        }
        () if own.running != peer.running => row("a", "one is in service", way(own.running)),
        () if away(own, peer) && !away(peer, own) => {
            row("4", "end of the resync not seen", way(true))
        }
        () if away(peer, own) && !away(own, peer) => {
            row("5", "end of the resync not seen", way(false))
        }
        () if own.fresh && peer.fresh => nothing("6", "neither was restarted"),
        () if protocol == Protocol::Async && own.crashed != peer.crashed => {
            row("7", MAY_HAVE_MORE, way(own.crashed))
        }
        () if own.lost_quorum != peer.lost_quorum => {
            row("8", "one lost its quorum as source", way(own.lost_quorum))
        }
        () if own.lost_quorum => row("9", "both lost their quorum as source", way(tie)),
        () if own.crashed && peer.fresh => row("10", SURVIVED, way(false)),
        () if peer.crashed && own.fresh => row("10", SURVIVED, way(true)),
        () if own.fresh || peer.fresh => nothing("11", "one was restarted"),
        () if own.crashed && peer.crashed => row("12", "both crashed as source", way(tie)),
        () if own.crashed || peer.crashed => row("12", "one crashed as source", way(own.crashed)),
        () => nothing("13", "both were off, none crashed"),
    }
}

/// Steps e and f: what administrators gave up.
fn given_up(own: &Record, peer: &Record, found: Decision) -> Decision {
    if own.generations.current == peer.generations.current {
        // Whoever gave it up has it meanwhile.
        return found;
    }
    let loses = |loser: &Record, other: &Record| {
        let current = loser.generations.current;
        loser.gives_up(loser.node, current) || other.gives_up(loser.node, current)
    };
    let to_peer = match (loses(own, peer), loses(peer, own)) {
        (false, true) => true,
        (true, false) => false,
        // Opposite orders: the one that was given where it can be carried out counts.
        (true, true) if own.running != peer.running => own.running,
        _ => return found,
    };
    let toward = |extent| match to_peer {
        true => Outcome::ToPeer(extent),
        false => Outcome::FromPeer(extent),
    };
    let source = if to_peer { own } else { peer };
    match found.outcome {
        Outcome::SplitBrain(extent) => row("e", "split brain, one side given up", toward(extent)),
        Outcome::Unrelated => row(
            "e",
            "unrelated data, one side given up",
            toward(Extent::Full),
        ),
        Outcome::ToPeer(extent) | Outcome::FromPeer(extent)
            if found.outcome != toward(extent) && source.consistent && has_data(source) =>
        {
            row("f", "reverting to older data", toward(extent))
        }
        _ => found,
    }
}

fn has_data(record: &Record) -> bool {
    record.generations.current != Generation::NONE
}

const NO_QUORUM: &str = "one wrote without a quorum, and answered nothing of it";
const SURVIVED: &str = "one crashed, the other survived";
/// The name of row 7, which is the only one of rows 4 to 13 that forbids something.
pub const MAY_HAVE_MORE: &str = "crashed source may have acknowledged more";

fn row(row: &'static str, rule: &'static str, outcome: Outcome) -> Decision {
    Decision {
        row,
        rule,
        outcome,
        judgement: None,
    }
}

#[cfg(test)]
pub(super) mod tests;
