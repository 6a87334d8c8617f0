//! The legs of a source: what each is, what it waits for, and when it is taken into the array.

use super::super::action::{Action, DropReason, Note};
use super::super::decision::{Decision, Outcome};
use super::super::generation::{Extent, Generation};
use super::super::node::{NodeId, NodeSet};
use super::{Leg, Machine, ORDERED, Service, Wait, out_of_turn};

/// What a peer is to this node while this node is in service, and what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This node is not in service.
    NoSource,
    /// It is no target of this mirror.
    NotATarget,
    /// In sync.
    InSync,
    /// Being resynced, so many percent.
    Resyncing(u8),
    /// Being connected and added.
    Adding,
    /// An administrator paused it.
    Paused,
    /// It can't be reached.
    Unreachable,
    /// It is in service as well.
    TwoSources,
    /// Both were written without the other.
    SplitBrain,
    /// It has newer data, and is not in service.
    Newer,
    /// It holds something else.
    Unrelated,
    /// Its generations are about to change.
    Changing,
    /// Another source has newer data; this one has no targets any more.
    Superseded(NodeId),
    /// This node's own leg failed.
    OwnLegFailed,
    /// It waits for the bitmap of the previous source.
    WaitsForPrevious(NodeId),
    /// It waits until the previous source is resynced.
    AfterPrevious(NodeId),
    /// It waits for the first quickCheck (`LKDR_CONNECT_NBD_DURING_RESTORE`).
    WaitsForQuickCheck,
    /// It waits for the parent resource (`LKDR_WAIT_TO_RESYNC`).
    WaitsForParents,
    /// It failed; it is tried again at the next quickCheck.
    Failed,
    /// It has not yet agreed to take this node's writes.
    NotAgreed,
    /// It can be taken: this is what is to be copied.
    Ready(Decision, Extent),
}

impl Machine {
    /// What a peer is, as far as this node is concerned as a source.
    pub fn standing(&self, node: NodeId) -> Standing {
        if !matches!(self.service, Service::In | Service::Stopping) {
            return Standing::NoSource;
        }
        if node == self.own() || !self.memory.nodes.contains(node) {
            return Standing::NotATarget;
        }
        match self.leg(node) {
            Leg::InSync => return Standing::InSync,
            Leg::Resyncing(percent) => return Standing::Resyncing(percent),
            Leg::Adding => return Standing::Adding,
            Leg::Out => {}
        }
        let (Some(peer), Some(decision)) = (self.peer(node), self.decision(node)) else {
            return match self.memory.paused.contains(node) {
                true => Standing::Paused,
                false => Standing::Unreachable,
            };
        };
        if peer.running {
            return match self.superseded {
                Some(by) => Standing::Superseded(by),
                None => Standing::TwoSources,
            };
        }
        let extent = match decision.outcome {
            Outcome::SplitBrain(_) => return Standing::SplitBrain,
            Outcome::FromPeer(_) => return Standing::Newer,
            Outcome::Unrelated => return Standing::Unrelated,
            Outcome::Again => return Standing::Changing,
            Outcome::Nothing => Extent::Partial,
            Outcome::ToPeer(extent) => extent,
        };
        let blank = peer.generations.current == Generation::NONE;
        let extent = match () {
            () if self.memory.full.contains(node) || !self.settings.bitmap => Extent::Full,
            () if blank && self.settings.no_full_sync => Extent::Partial,
            () => extent,
        };
        self.gate(node).unwrap_or(Standing::Ready(decision, extent))
    }

    /// What else a leg that could be resynced waits for.
    fn gate(&self, node: NodeId) -> Option<Standing> {
        let previous = self.previous();
        let accepted = self.peer(node).and_then(|peer| peer.accepts);
        match () {
            () if self.memory.paused.contains(node) => Some(Standing::Paused),
            () if self.superseded.is_some() => self.superseded.map(Standing::Superseded),
            () if self.own_leg_failed => Some(Standing::OwnLegFailed),
            () if self.held().contains(node) => previous.map(Standing::WaitsForPrevious),
            () if self.first.is_some_and(|first| first != node) => {
                self.first.map(Standing::AfterPrevious)
            }
            () if !self.may_connect => Some(Standing::WaitsForQuickCheck),
            () if self.settings.wait_to_resync && !self.parents_up => {
                Some(Standing::WaitsForParents)
            }
            () if self.peers[node.slot()].failed => Some(Standing::Failed),
            () if accepted != Some(self.own()) => Some(Standing::NotAgreed),
            () => None,
        }
    }

    /// The source before this one, while its bitmap was not merged.
    pub fn previous(&self) -> Option<NodeId> {
        let running = matches!(self.service, Service::In | Service::Stopping);
        self.memory
            .source
            .filter(|source| running && *source != self.own())
    }

    /// Targets that wait for the previous source.
    pub fn held(&self) -> NodeSet {
        let Some(previous) = self.previous() else {
            return NodeSet::NONE;
        };
        self.memory
            .nodes
            .without(self.own())
            .without(previous)
            .minus(self.memory.settled)
            .minus(self.memory.full)
            .both(self.with_leg(|leg| leg == Leg::Out))
    }

    /// Begins whatever can begin.
    pub(super) fn advance(&mut self, out: &mut Vec<Action>) {
        if self.service != Service::In {
            return;
        }
        self.look_for_successor(out);
        if let Some(previous) = self.previous()
            && self
                .peer(previous)
                .is_some_and(|peer| peer.generations.current == Generation::NONE)
        {
            // It comes without the bitmap for which the others wait.
            self.give_up_waiting(out);
        }
        let previous = self.previous();
        let others = NodeId::all().filter(|node| Some(*node) != previous);
        for node in previous.into_iter().chain(others) {
            if let Standing::Ready(decision, extent) = self.standing(node) {
                let agreement = self.peer(node).map_or(0, |peer| peer.agreement);
                self.peers[node.slot()].leg = Leg::Adding;
                self.memory.agreements[node.slot()] = agreement;
                self.memory.in_sync = self.memory.in_sync.with(node);
                let discard = matches!(decision.row, "c" | "d" | "e" | "f");
                out.extend([
                    Action::Connect(node),
                    Action::Merge(node),
                    Action::Add {
                        node,
                        extent,
                        rule: self.rule(node, decision),
                        discard,
                    },
                ]);
            }
        }
    }

    /// Why so much is copied to a target.
    fn rule(&self, node: NodeId, decision: Decision) -> &'static str {
        let blank = self
            .peer(node)
            .is_some_and(|peer| peer.generations.current == Generation::NONE);
        match () {
            () if self.memory.full.contains(node) => ORDERED,
            () if !self.settings.bitmap => "no bitmap",
            () if blank && self.settings.no_full_sync => "newly added, full resync suppressed",
            () => decision.rule,
        }
    }

    /// Another node that took over from this one without its knowing.
    fn look_for_successor(&mut self, out: &mut Vec<Action>) {
        if let Some(by) = self.superseded {
            // It was taken out of service again: now it is a peer with newer data, or a split brain.
            if self.peer(by).is_some_and(|peer| !peer.running) {
                self.superseded = None;
            }
            return;
        }
        let successor = self.reachable().iter().find(|node| {
            let running = self.peer(*node).is_some_and(|peer| peer.running);
            running
                && self
                    .decision(*node)
                    .is_some_and(|decision| matches!(decision.outcome, Outcome::FromPeer(_)))
        });
        if let Some(by) = successor {
            self.superseded = Some(by);
            self.memory.fresh = false;
            out.push(Action::Note(Note::Superseded(by)));
            for node in self.with_leg(|leg| leg != Leg::Out).iter() {
                self.drop_leg(node, DropReason::Superseded(by), out);
            }
        }
    }

    // --- the previous source ------------------------------------------------------------------------------------

    /// This node has just become source: is there somebody whose bitmap is missing?
    pub(super) fn begin_waiting(&mut self, out: &mut Vec<Action>) {
        let Some(previous) = self.previous() else {
            self.memory.source = Some(self.own());
            return;
        };
        if self.held().is_empty() {
            // With nobody to wait, the previous source still is one, unless it stopped cleanly.
            if self.memory.settled.contains(previous) {
                self.memory.source = Some(self.own());
            }
            return;
        }
        match self.settings.wait {
            Wait::No => self.give_up_waiting(out),
            Wait::Forever => out.push(Action::Note(Note::WaitsFor(previous))),
            Wait::Seconds(seconds) => {
                self.timer = true;
                out.push(Action::Note(Note::WaitsFor(previous)));
                out.push(Action::StartTimer(seconds));
            }
        }
    }

    pub(super) fn wait_over(&mut self, out: &mut Vec<Action>) {
        match self.timer {
            true => self.give_up_waiting(out),
            false => out_of_turn(out),
        }
    }

    /// Whoever waited gets everything.
    pub(super) fn give_up_waiting(&mut self, out: &mut Vec<Action>) {
        let Some(previous) = self.previous() else {
            return;
        };
        self.memory.full = self.memory.full.and(self.held());
        self.memory.source = Some(self.own());
        out.push(Action::Note(Note::GaveUpWaiting(previous)));
        self.stop_timer(out);
    }

    pub(super) fn stop_timer(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.timer) {
            out.push(Action::StopTimer);
        }
    }

    // --- what becomes of legs -----------------------------------------------------------------------------------

    pub(super) fn quick_check(&mut self, out: &mut Vec<Action>) {
        self.may_connect = true;
        for peer in &mut self.peers {
            peer.failed = false;
        }
        out.push(Action::Done);
    }

    pub(super) fn added(&mut self, node: NodeId, out: &mut Vec<Action>) {
        if self.leg(node) != Leg::Adding {
            return self.not_ordered(node, out);
        }
        self.peers[node.slot()].leg = Leg::Resyncing(0);
        if self.previous() == Some(node) {
            // Its bitmap is in ours now, durably. Its resync goes first, then come the others.
            self.memory.source = Some(self.own());
            self.first = Some(node);
            out.push(Action::Note(Note::Merged(node)));
            self.stop_timer(out);
        }
    }

    pub(super) fn leg_failed(&mut self, node: NodeId, out: &mut Vec<Action>) {
        if self.leg(node) == Leg::Out {
            return out_of_turn(out);
        }
        self.leg_is_out(node);
        self.peers[node.slot()].failed = true;
    }

    pub(super) fn drop_leg(&mut self, node: NodeId, why: DropReason, out: &mut Vec<Action>) {
        if self.leg(node) != Leg::Out {
            self.leg_is_out(node);
            out.push(Action::Drop(node, why));
        }
    }

    fn leg_is_out(&mut self, node: NodeId) {
        self.peers[node.slot()].leg = Leg::Out;
        if self.first == Some(node) {
            self.first = None;
        }
    }

    pub(super) fn progress(&mut self, node: NodeId, percent: u8, out: &mut Vec<Action>) {
        match &mut self.peers[node.slot()].leg {
            Leg::Resyncing(known) => *known = percent.min(100),
            _ => self.not_ordered(node, out),
        }
    }

    /// The array has a leg that it should not have: bring it in line.
    fn not_ordered(&mut self, node: NodeId, out: &mut Vec<Action>) {
        match (self.leg(node), self.service) {
            (Leg::Out, Service::In) => out.push(Action::Drop(node, DropReason::NotOrdered)),
            _ => out_of_turn(out),
        }
    }

    pub(super) fn resync_ended(&mut self, node: NodeId, out: &mut Vec<Action>) {
        if !matches!(self.leg(node), Leg::Resyncing(_)) {
            return self.not_ordered(node, out);
        }
        if self.first == Some(node) {
            self.first = None;
        }
        self.leg_is_in_sync(node);
    }

    pub(super) fn leg_is_in_sync(&mut self, node: NodeId) {
        self.peers[node.slot()].leg = Leg::InSync;
        let memory = &mut self.memory;
        memory.settled = memory.settled.with(node);
        memory.full = memory.full.without(node);
        memory.discarded[node.slot()] = Generation::NONE;
    }
}
