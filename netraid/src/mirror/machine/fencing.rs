//! Fencing (`fencing`): nobody goes on without a node, and nobody goes into service without one, that may not know of it.
//!
//! A target in sync believes that it has everything, and may take over. So when it leaves, a source makes sure that it has
//! learnt of that: from the target's own word while it can be reached, else by the program `fence-peer`. Under
//! `resource-and-stonith` the array answers nothing meanwhile, from the very moment in which the leg left
//! ([`Action::Guard`]); under `resource-only` it goes on. Who wants to go into service asks the same of every node that can't
//! be reached, before anything is started.

use super::super::action::{Action, Hold, Note};
use super::super::fencing::{FenceAnswer, Fencing};
use super::super::generation::{Generation, SLOTS};
use super::super::node::{NodeId, NodeSet};
use super::super::record::Record;
use super::super::refusal::Refusal;
use super::{Leg, Machine, Service};

/// What is known of fencing besides what the memory has.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    /// The program runs for these.
    asked: NodeSet,
    /// What it will answer of these is about an earlier time.
    stale: NodeSet,
    /// It was called for these since they were in sync last.
    called: NodeSet,
    /// What it answered last, of nodes that are still waited for or that were fenced.
    answers: [Option<FenceAnswer>; SLOTS],
    /// Nodes that were told that they are in sync, and have said that they know.
    know: NodeSet,
    /// What the array was told to wait for.
    guard: Option<NodeSet>,
    /// Those that can be reached had time to say that they know that a source goes on without them.
    patience_over: bool,
    /// A start waits for answers.
    starts: bool,
}

/// How it is with a node that has to be fenced, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceState {
    /// The node.
    pub node: NodeId,
    /// The program runs for it.
    pub asked: bool,
    /// What it answered last.
    pub answer: Option<FenceAnswer>,
    /// Nobody goes on without it before it has been fenced, or is back.
    pub waits: bool,
}

impl Machine {
    /// The nodes that have to be fenced, or were, by number; nobody without `fencing`.
    pub fn fencing(&self) -> Vec<FenceState> {
        if self.settings.fencing == Fencing::DontCare {
            return Vec::new();
        }
        let waits = match self.service {
            Service::Starting => self.start_waits_for(),
            _ => self.left_unfenced(),
        };
        let shown = waits.and(self.memory.fenced);
        let state = |node: NodeId| FenceState {
            node,
            asked: self.fence.asked.contains(node),
            answer: self.fence.answers[node.slot()],
            waits: waits.contains(node),
        };
        shown.iter().map(state).collect()
    }

    /// Whether nothing is answered, or may not be, before a node's own leg is back or others know that it is not.
    pub fn is_missed(&self, node: NodeId) -> bool {
        let guarded = self.settings.quorum.is_some() && self.guarded.contains(node);
        (guarded || self.left_unfenced().contains(node)) && self.leg(node) != Leg::InSync
    }

    /// Whether the application's requests are held back until somebody is fenced.
    pub fn is_frozen(&self) -> bool {
        self.settings.fencing == Fencing::ResourceAndStonith && !self.left_unfenced().is_empty()
    }

    /// Whether a start waits for what `fence-peer` answers.
    pub fn is_fencing(&self) -> bool {
        self.service == Service::Starting && self.fence.starts
    }

    /// Whether nodes that can be reached have not said yet that they know that a source goes on without them; they are given
    /// some time, then [`Event::FenceNow`](super::super::event::Event::FenceNow) has the program called.
    pub fn awaits_word(&self) -> bool {
        let silent = |node: NodeId| self.peer(node).is_some() && !self.is_primary(node);
        let called = self.fence.asked.and(self.answered());
        let waits = self.left_unfenced().minus(called);
        !self.fence.patience_over && waits.iter().any(silent)
    }

    /// Whether a call of `fence-peer` has failed that should be tried again.
    pub fn fencing_failed(&self) -> bool {
        let broken = |node: NodeId| self.fence.answers[node.slot()] == Some(FenceAnswer::Broken);
        self.left_unfenced().iter().any(broken)
    }

    fn answered(&self) -> NodeSet {
        let answered = |node: &NodeId| self.fence.answers[node.slot()].is_some();
        NodeId::all().filter(answered).collect()
    }

    fn is_primary(&self, node: NodeId) -> bool {
        self.peer(node)
            .is_some_and(|peer| peer.running || peer.starting)
    }

    /// Targets that left and may not know it.
    fn left_unfenced(&self) -> NodeSet {
        match self.service {
            Service::In | Service::Stopping => self
                .memory
                .unfenced
                .minus(self.with_leg(|leg| leg == Leg::InSync)),
            Service::Out | Service::Starting => NodeSet::NONE,
        }
    }

    // --- a source -----------------------------------------------------------------------------------------------

    /// What the array has to be told before anything else is done.
    pub(super) fn keep_fencing(&mut self, out: &mut Vec<Action>) -> Vec<Action> {
        let mut first = Vec::new();
        if self.settings.fencing == Fencing::DontCare {
            self.fencing_switched_off(out);
            return first;
        }
        match self.service {
            Service::Starting if self.fence.starts => self.start_if_fenced(out),
            Service::In => self.keep_targets_fenced(&mut first, out),
            Service::Out | Service::Starting | Service::Stopping => {}
        }
        first
    }

    /// An array that runs is let go with the quorum, which nobody owns either then.
    fn fencing_switched_off(&mut self, out: &mut Vec<Action>) {
        (self.memory.unfenced, self.memory.fenced) = (NodeSet::NONE, NodeSet::NONE);
        if self.service == Service::Starting && std::mem::take(&mut self.fence.starts) {
            out.push(self.assemble(false));
        }
    }

    fn keep_targets_fenced(&mut self, first: &mut Vec<Action>, out: &mut Vec<Action>) {
        for node in self
            .with_leg(|leg| leg == Leg::InSync)
            .without(self.own())
            .iter()
        {
            self.may_take_over(node, out);
        }
        for node in self.left_unfenced().iter() {
            if self.said_outdated(node) {
                self.is_fenced(node, FenceAnswer::Outdated, out);
            }
        }
        let waits = self.left_unfenced();
        if waits.is_empty() {
            self.fence.patience_over = false;
        }
        for node in waits.iter() {
            let wait = match self.peer(node) {
                // It took over, or is about to: no program is asked what is known.
                Some(_) if self.is_primary(node) => true,
                Some(_) => !self.fence.patience_over,
                None => !self.peers_had_time,
            };
            if !wait && self.fence.answers[node.slot()].is_none() {
                self.ask_to_fence(node, out);
            }
        }
        let guard = self.memory.unfenced;
        if self.settings.fencing == Fencing::ResourceAndStonith && self.fence.guard != Some(guard) {
            let unknown = self.fence.guard.replace(guard).is_none();
            first.push(Action::Guard {
                members: guard,
                only: true,
            });
            if unknown {
                // An array that has just been started answers nothing before this.
                first.push(Action::Hold(Hold::No));
            }
        }
    }

    /// A target that is in sync may take over, unless it is told that this source goes on without it.
    fn may_take_over(&mut self, node: NodeId, out: &mut Vec<Action>) {
        let new = !self.memory.unfenced.contains(node);
        let was_fenced = self.memory.fenced.contains(node) || self.fence.called.contains(node);
        self.memory.unfenced = self.memory.unfenced.with(node);
        self.memory.fenced = self.memory.fenced.without(node);
        if self.fence.answers[node.slot()] == Some(FenceAnswer::Primary) && !self.own_leg_failed {
            // It is a target again, so nobody has what this source has not.
            self.memory.outdated = false;
        }
        let fence = &mut self.fence;
        fence.called = fence.called.without(node);
        fence.answers[node.slot()] = None;
        fence.stale = fence.stale.and(fence.asked.both(NodeSet::of(node)));
        if new {
            fence.know = fence.know.without(node);
        }
        self.hears_that_it_knows(node);
        if was_fenced {
            out.push(Action::Unfence(node));
        }
    }

    /// What a node says after it has said that it is not outdated is about a later time.
    pub(super) fn hears_that_it_knows(&mut self, node: NodeId) {
        if self.memory.unfenced.contains(node) && self.peer(node).is_some_and(may_be_started) {
            self.fence.know = self.fence.know.with(node);
        }
    }

    /// Whether a target that left can be reached and has said, since then, that it can't take over.
    fn said_outdated(&self, node: NodeId) -> bool {
        let Some(peer) = self.peer(node) else {
            return false;
        };
        let agreement = self.memory.agreements[node.slot()];
        let later = self.fence.know.contains(node) || peer.agreement != agreement;
        later && !self.is_primary(node) && !may_be_started(peer)
    }

    fn ask_to_fence(&mut self, node: NodeId, out: &mut Vec<Action>) {
        self.fence.called = self.fence.called.with(node);
        if !self.fence.asked.contains(node) {
            self.fence.asked = self.fence.asked.with(node);
            out.push(Action::Fence(node));
        }
    }

    /// A node can't take over any more.
    fn is_fenced(&mut self, node: NodeId, answer: FenceAnswer, out: &mut Vec<Action>) {
        self.memory.unfenced = self.memory.unfenced.without(node);
        self.memory.fenced = self.memory.fenced.with(node);
        self.fence.answers[node.slot()] = Some(answer);
        out.push(Action::Note(Note::Fenced(node, answer)));
    }

    /// What the program has answered.
    pub(super) fn fenced(&mut self, node: NodeId, answer: FenceAnswer, out: &mut Vec<Action>) {
        let stale = self.fence.stale.contains(node);
        self.fence.stale = self.fence.stale.without(node);
        if !self.fence.asked.contains(node) {
            return super::out_of_turn(out);
        }
        self.fence.asked = self.fence.asked.without(node);
        let waits = match self.service {
            Service::Starting => self.start_waits_for(),
            _ => self.left_unfenced(),
        };
        if stale || !waits.contains(node) {
            return;
        }
        match answer {
            FenceAnswer::Primary => {
                self.memory.outdated = true;
                self.fence.answers[node.slot()] = Some(answer);
                out.push(Action::Note(Note::Fenced(node, answer)));
            }
            FenceAnswer::Broken => {
                self.fence.answers[node.slot()] = Some(answer);
                out.push(Action::Note(Note::Fenced(node, answer)));
            }
            // Whoever is seen in service was not fenced, whatever the program says.
            _ if self.is_primary(node) => {
                self.fence.answers[node.slot()] = Some(FenceAnswer::Primary);
            }
            _ if self.service == Service::Starting => {
                self.fence.answers[node.slot()] = Some(answer);
            }
            _ => self.is_fenced(node, answer, out),
        }
    }

    /// Those that can be reached had time to say a word; calls that failed are tried again.
    pub(super) fn fence_now(&mut self) {
        self.fence.patience_over = true;
        for node in self.left_unfenced().iter() {
            let answer = &mut self.fence.answers[node.slot()];
            *answer = answer.filter(|answer| *answer != FenceAnswer::Broken);
        }
    }

    /// An administrator goes on without those that may not know it.
    pub(super) fn resume_io(&mut self, out: &mut Vec<Action>) {
        if self.service != Service::In {
            return out.push(Action::Refuse(Refusal::NotSource(None)));
        }
        if let Some(refusal) = self.no_quorum() {
            return out.push(Action::Refuse(refusal));
        }
        let left = self.left_unfenced();
        if let Some(by) = self.superseded {
            return out.push(Action::Refuse(Refusal::Superseded(by)));
        }
        if let Some(node) = left.iter().find(|node| self.is_primary(*node)) {
            return out.push(Action::Refuse(Refusal::InService(node)));
        }
        if !left.is_empty() {
            self.memory.unfenced = self.memory.unfenced.minus(left);
            out.push(Action::Note(Note::ResumedUnfenced(left)));
        }
        out.push(Action::Done);
    }

    // --- a start ------------------------------------------------------------------------------------------------

    /// Begins a start; true if it waits for answers.
    pub(super) fn fence_for_start(&mut self, force: bool) -> bool {
        let asked = self.fence.asked;
        self.fence = Fence {
            asked,
            stale: asked,
            starts: !force && self.settings.fencing != Fencing::DontCare,
            ..Fence::default()
        };
        if !self.fence.starts {
            self.know_who_may_take_over();
        }
        self.fence.starts
    }

    /// Nodes without whose answer this one does not go into service.
    fn start_waits_for(&self) -> NodeSet {
        let memory = &self.memory;
        // Only a source could have brought it up to date again: of two nodes that is this one.
        let known = match memory.nodes.with(self.own()).len() {
            2 => memory.fenced,
            _ => NodeSet::NONE,
        };
        let answered = |node: NodeId| {
            let answer = self.fence.answers[node.slot()];
            answer.is_some_and(|answer| self.is_enough(answer))
        };
        // Who was let go from the mirror without having been told may not know that either.
        let all = memory.nodes.and(memory.unfenced).without(self.own());
        let all = all.minus(self.reachable()).minus(known);
        all.iter().filter(|node| !answered(*node)).collect()
    }

    /// Whether an answer is enough to go into service. That a node can't be reached says nothing of what it has: only who
    /// knows that its own data is the newest goes by that, as with DRBD.
    fn is_enough(&self, answer: FenceAnswer) -> bool {
        match answer {
            FenceAnswer::Inconsistent | FenceAnswer::Outdated | FenceAnswer::Stonithed => true,
            FenceAnswer::Down => self.memory.fresh,
            FenceAnswer::Primary | FenceAnswer::Broken => false,
        }
    }

    /// Goes on with a start that waits for answers, or gives it up.
    fn start_if_fenced(&mut self, out: &mut Vec<Action>) {
        let waits = self.start_waits_for();
        let refused = waits.iter().find_map(|node| {
            let answer = self.fence.answers[node.slot()]?;
            Some(Refusal::NotFenced(node, answer))
        });
        if let Some(refusal) = refused {
            return self.give_up_start(refusal, out);
        }
        for node in waits.iter() {
            self.ask_to_fence(node, out);
        }
        if !waits.is_empty() {
            return;
        }
        if let Some(refusal) = self.obstacle(false) {
            return self.give_up_start(refusal, out);
        }
        let fenced = |node: NodeId| self.fence.answers[node.slot()].is_some();
        let fenced: NodeSet = self.others().iter().filter(|node| fenced(*node)).collect();
        self.memory.fenced = self.memory.fenced.and(fenced.minus(self.reachable()));
        self.fence.starts = false;
        self.know_who_may_take_over();
        out.push(self.assemble(false));
    }

    /// Whoever can be reached when this node goes into service is told of that; until it says so, it may take over.
    fn know_who_may_take_over(&mut self) {
        if self.settings.fencing == Fencing::DontCare {
            self.memory.unfenced = NodeSet::NONE;
            return;
        }
        let may = |node: &NodeId| self.peer(*node).is_some_and(may_be_started);
        let may: NodeSet = self.reachable().iter().filter(may).collect();
        self.memory.unfenced = may;
        self.fence.know = may;
    }

    pub(super) fn give_up_start(&mut self, refusal: Refusal, out: &mut Vec<Action>) {
        let outdated = self.memory.outdated;
        self.fence.starts = false;
        self.not_started();
        // That another is in service was learnt meanwhile.
        self.memory.outdated |= outdated;
        out.push(Action::GaveUpStart(refusal));
    }
}

/// Whether a node would go into service, as far as its own record says.
fn may_be_started(peer: &Record) -> bool {
    !peer.outdated && peer.consistent && peer.generations.current != Generation::NONE
}
