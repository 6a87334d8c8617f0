//! What administrators order: pause, resume, a full resync, whose data to give up, more targets or fewer.

use super::super::action::{Action, DropReason};
use super::super::decision::Outcome;
use super::super::generation::{Generation, SLOTS};
use super::super::node::{NodeId, NodeSet};
use super::super::refusal::Refusal;
use super::{Leg, Machine, Service, Standing};

impl Machine {
    pub(super) fn pause(&mut self, targets: NodeSet, out: &mut Vec<Action>) {
        let Some(targets) = self.targets(targets, out) else {
            return;
        };
        self.memory.paused = self.memory.paused.and(targets);
        for node in targets.iter() {
            self.drop_leg(node, DropReason::Paused, out);
        }
        out.push(Action::Done);
    }

    pub(super) fn resume(&mut self, targets: NodeSet, out: &mut Vec<Action>) {
        let Some(targets) = self.targets(targets, out) else {
            return;
        };
        self.memory.paused = self.memory.paused.minus(targets);
        for node in targets.iter() {
            self.peers[node.slot()].failed = false;
        }
        out.push(Action::Done);
    }

    /// Whatever the bitmaps say; and whoever waits for the previous source does not any more.
    pub(super) fn full_resync(&mut self, targets: NodeSet, out: &mut Vec<Action>) {
        let all = targets.is_empty();
        let Some(mut targets) = self.targets(targets, out) else {
            return;
        };
        let conflict = |node: &NodeId| {
            matches!(
                self.standing(*node),
                Standing::SplitBrain | Standing::TwoSources | Standing::Newer
            )
        };
        let conflicts: NodeSet = targets.iter().filter(conflict).collect();
        match conflicts.iter().next() {
            // All that are applicable: those are not.
            Some(_) if all => targets = targets.minus(conflicts),
            Some(node) => return out.push(Action::Refuse(Refusal::SplitBrain(node))),
            None => {}
        }
        self.memory.paused = self.memory.paused.minus(targets);
        self.memory.full = self.memory.full.and(targets);
        for node in targets.iter() {
            let peer = &mut self.peers[node.slot()];
            peer.failed = false;
            if matches!(peer.leg, Leg::InSync | Leg::Resyncing(_)) {
                peer.leg = Leg::Resyncing(0);
                out.push(Action::CopyAll(node));
            }
        }
        if self.held().is_empty() {
            self.stop_timer(out);
        }
        out.push(Action::Done);
    }

    pub(super) fn resolve(&mut self, discard: NodeId, out: &mut Vec<Action>) {
        let refusal = match discard == self.own() {
            true => self.cannot_give_up_own(),
            false => self.cannot_discard(discard),
        };
        if let Some(refusal) = refusal {
            return out.push(Action::Refuse(refusal));
        }
        let given_up = match self.peer(discard) {
            Some(peer) => peer.generations.current,
            None => self.memory.generations.current,
        };
        self.memory.discarded[discard.slot()] = given_up;
        if discard == self.own() {
            self.memory.fresh = false;
        }
        out.push(Action::Done);
    }

    fn cannot_give_up_own(&self) -> Option<Refusal> {
        let others = self.reachable();
        match () {
            () if self.service != Service::Out => Some(Refusal::StopFirst(self.own())),
            // What it has is that source's, and goes on growing.
            () if self.follows().is_some() => self.follows().map(Refusal::StopFirst),
            () if others.iter().any(|node| self.is_conflict(node)) => None,
            () => Some(Refusal::NothingToResolve(
                others.iter().next().unwrap_or(self.own()),
            )),
        }
    }

    fn cannot_discard(&self, node: NodeId) -> Option<Refusal> {
        match self.peer(node) {
            _ if !self.memory.nodes.contains(node) => Some(Refusal::NotATarget(node)),
            None => Some(Refusal::Unreachable(node)),
            Some(peer) if peer.running || peer.starting => Some(Refusal::StopFirst(node)),
            // What it has is that source's, and goes on growing.
            Some(peer) if peer.follows.is_some_and(|source| source != self.own()) => {
                Some(Refusal::StopFirst(peer.follows.unwrap_or(node)))
            }
            Some(_) if self.memory.generations.current == Generation::NONE => Some(Refusal::NoData),
            Some(_) if !self.memory.consistent => Some(Refusal::Inconsistent),
            Some(_) if !self.is_conflict(node) => Some(Refusal::NothingToResolve(node)),
            Some(_) => None,
        }
    }

    /// Whether a peer has data that this node's would overwrite only by an order.
    fn is_conflict(&self, node: NodeId) -> bool {
        let (Some(peer), Some(decision)) = (self.peer(node), self.decision(node)) else {
            return false;
        };
        match decision.outcome {
            Outcome::SplitBrain(_) | Outcome::Unrelated => true,
            Outcome::FromPeer(_) => peer.generations.current != self.memory.generations.current,
            _ => false,
        }
    }

    pub(super) fn extend(&mut self, node: NodeId, out: &mut Vec<Action>) {
        let refusal = match () {
            () if self.service != Service::In => Some(self.not_source()),
            () if node == self.own() => Some(Refusal::OwnTarget),
            () if self.memory.nodes.contains(node) => return out.push(Action::Done),
            () if self.is_tie_breaker(node) => Some(Refusal::TieBreaker(node)),
            () if self.memory.nodes.len() >= SLOTS => Some(Refusal::TooMany),
            () => None,
        };
        match refusal {
            Some(refusal) => out.push(Action::Refuse(refusal)),
            None => {
                self.memory.nodes = self.memory.nodes.with(node);
                // It never had anything that the previous source would know better.
                self.memory.settled = self.memory.settled.with(node);
                out.push(Action::Done);
            }
        }
    }

    pub(super) fn unextend(&mut self, node: NodeId, out: &mut Vec<Action>) {
        let Some(targets) = self.targets(NodeSet::of(node), out) else {
            return;
        };
        if self.previous() == Some(node) {
            self.give_up_waiting(out);
        }
        self.drop_leg(node, DropReason::Unextended, out);
        let memory = &mut self.memory;
        memory.nodes = memory.nodes.minus(targets);
        memory.in_sync = memory.in_sync.minus(targets);
        memory.settled = memory.settled.minus(targets);
        memory.full = memory.full.minus(targets);
        memory.paused = memory.paused.minus(targets);
        memory.discarded[node.slot()] = Generation::NONE;
        out.push(Action::Done);
    }

    /// The targets that are meant, all if none is named; refuses what is not a target, and everything off the source.
    fn targets(&self, named: NodeSet, out: &mut Vec<Action>) -> Option<NodeSet> {
        let all = self.memory.nodes.without(self.own());
        let refusal = match () {
            () if self.service != Service::In => Some(self.not_source()),
            () => match (self.superseded, named.minus(all).iter().next()) {
                (Some(by), _) => Some(Refusal::Superseded(by)),
                (None, unknown) => unknown.map(Refusal::NotATarget),
            },
        };
        if let Some(refusal) = refusal {
            out.push(Action::Refuse(refusal));
            return None;
        }
        Some(if named.is_empty() { all } else { named })
    }

    fn not_source(&self) -> Refusal {
        let source = |node: &NodeId| self.peer(*node).is_some_and(|peer| peer.running);
        match self.service {
            Service::Starting | Service::Stopping => Refusal::Busy,
            _ => Refusal::NotSource(self.reachable().iter().find(source)),
        }
    }
}
