//! Going into service and out of it, and what forbids it.

use super::super::action::{Action, DropReason, Hold};
use super::super::decision::{MAY_HAVE_MORE, Outcome};
use super::super::generation::Generation;
use super::super::node::NodeSet;
use super::super::refusal::Refusal;
use super::{Leg, Machine, Service, out_of_turn};

impl Machine {
    /// Puts the mirror in service on this node, unless somebody else may have better data.
    pub(super) fn start(&mut self, force: bool, out: &mut Vec<Action>) {
        match self.service {
            Service::In => return out.push(Action::Done),
            Service::Starting | Service::Stopping => {
                return out.push(Action::Refuse(Refusal::Busy));
            }
            Service::Out => {}
        }
        if let Some(refusal) = self.obstacle(force) {
            if matches!(refusal, Refusal::CannotReach(_)) {
                self.memory.data_corrupt = true;
            }
            return out.push(Action::Refuse(refusal));
        }
        self.before_start = Some(Box::new(self.memory.clone()));
        if force {
            self.choose_own_data();
        }
        // Before the first write, so that a crash is recognised as that of a source.
        self.memory.last_owner = true;
        self.memory.was_source = true;
        self.service = Service::Starting;
        let waits = self.seek(force) | self.fence_for_start(force);
        // What the former source still has on its way must not land any more.
        if self.accepted.take().is_some() {
            out.push(Action::Accept(None));
        }
        // Nobody else is to begin the same meanwhile.
        if !self.reachable().is_empty() {
            out.push(Action::Tell(self.reachable()));
        }
        if !waits {
            out.push(self.assemble(force));
        }
    }

    pub(super) fn assemble(&self, force: bool) -> Action {
        Action::Assemble {
            force: force && !self.memory.consistent,
            voted: self.settings.quorum.is_some(),
        }
    }

    /// An administrator says that this node's data counts, whatever is known of the others now. What they turn out to
    /// have that is not known now is another matter.
    fn choose_own_data(&mut self) {
        self.memory.data_corrupt = false;
        self.memory.outdated = false;
        self.memory.discarded[self.own().slot()] = Generation::NONE;
        for node in self.reachable().iter() {
            let conflict = self.decision(node).is_some_and(|decision| {
                matches!(
                    decision.outcome,
                    Outcome::FromPeer(_) | Outcome::SplitBrain(_)
                )
            });
            if let Some(peer) = self.peer(node)
                && conflict
                && peer.accepts.is_none_or(|source| source == self.own())
            {
                self.memory.discarded[node.slot()] = peer.generations.current;
            }
        }
    }

    /// Why the mirror may not go into service here now, unless it is forced; `None` if it may, or is.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.service {
            Service::Out => self.obstacle(false),
            Service::In => None,
            Service::Starting | Service::Stopping => Some(Refusal::Busy),
        }
    }

    /// Why the mirror must not go into service here, if so.
    pub(super) fn obstacle(&self, force: bool) -> Option<Refusal> {
        if self.is_tie_breaker(self.own()) {
            return Some(Refusal::TieBreaker(self.own()));
        }
        let running = |node: &_| {
            self.peer(*node)
                .is_some_and(|peer| peer.running || peer.starting)
        };
        if let Some(node) = self.reachable().iter().find(running) {
            return Some(Refusal::InService(node));
        }
        let memory = &self.memory;
        if memory.generations.current == Generation::NONE {
            return Some(Refusal::NoData);
        }
        if let Some(refusal) = self.no_quorum().or_else(|| self.no_vote()) {
            return Some(refusal);
        }
        if force {
            return None;
        }
        // To ask for votes all the same would end the terms of those who have them.
        if let Some(by) = self.left_out_by() {
            return Some(Refusal::LeftOut(by));
        }
        let unheard = self.unheard();
        match () {
            () if memory.data_corrupt => Some(Refusal::DataCorrupt),
            () if !memory.consistent => Some(Refusal::Inconsistent),
            () if self.gave_itself_up() => Some(Refusal::GivenUp),
            () => self
                .better_peer()
                .or_else(|| memory.outdated.then_some(Refusal::Outdated))
                .or_else(|| match () {
                    () if unheard.is_empty() => None,
                    () if memory.was_source || memory.last_owner => {
                        Some(Refusal::CannotReach(unheard))
                    }
                    () => Some(Refusal::MayBeOld(unheard)),
                }),
        }
    }

    fn gave_itself_up(&self) -> bool {
        self.record()
            .gives_up(self.own(), self.memory.generations.current)
    }

    /// A reachable peer that has what this node has not.
    fn better_peer(&self) -> Option<Refusal> {
        let conflicting = self.reachable();
        let conflicting = conflicting.iter().filter(|node| !self.is_outvoted(*node));
        conflicting.into_iter().find_map(|node| {
            let decision = self.decision(node)?;
            let same = self.peer(node)?.generations.current == self.memory.generations.current;
            match decision.outcome {
                Outcome::SplitBrain(_) => Some(Refusal::SplitBrain(node)),
                Outcome::FromPeer(_) if decision.rule == MAY_HAVE_MORE => {
                    Some(Refusal::MayHaveMore(node))
                }
                Outcome::FromPeer(_) if !same => Some(Refusal::Newer(node)),
                Outcome::Again => Some(Refusal::Busy),
                _ => None,
            }
        })
    }

    /// Nodes that could have gone into service without this one since, and can't be asked.
    fn unheard(&self) -> NodeSet {
        let could = match self.memory.fresh {
            true => self.claims.and(self.hearsay()),
            false => self.memory.in_sync.and(self.claims),
        };
        could.minus(self.reachable()).without(self.own())
    }

    /// Nodes of which a peer says that they went on without it, which this node never heard of, though they could.
    fn hearsay(&self) -> NodeSet {
        let peers = self.reachable().iter().filter_map(|node| self.peer(node));
        let sources = peers
            .filter(|peer| peer.outdated)
            .filter_map(|peer| peer.accepts);
        sources
            .filter(|source| Some(*source) != self.accepted)
            .filter(|source| self.memory.in_sync.contains(*source))
            .collect()
    }

    pub(super) fn assembled(&mut self, out: &mut Vec<Action>) {
        if self.service != Service::Starting || self.is_seeking() || self.is_fencing() {
            return out_of_turn(out);
        }
        self.seeking = None;
        self.before_start = None;
        // An array that was just started holds nothing back.
        let free = self.settings.quorum.is_none();
        (self.hold, self.peers_had_time) = (free.then_some(Hold::No), true);
        self.service = Service::In;
        self.memory.fresh = true;
        self.memory.outdated = false;
        self.memory.in_sync = self.memory.in_sync.with(self.own());
        self.superseded = None;
        self.first = None;
        self.own_leg_failed = false;
        self.may_connect = self.settings.connect_during_restore;
        self.parents_up = false;
        self.begin_waiting(out);
        out.push(Action::Done);
    }

    pub(super) fn assemble_failed(&mut self, out: &mut Vec<Action>) {
        if self.service != Service::Starting || self.is_seeking() || self.is_fencing() {
            return out_of_turn(out);
        }
        self.withdraw();
        self.not_started();
        out.push(Action::Refuse(Refusal::NotStarted));
    }

    /// Nothing was written: it is as if nobody had tried.
    pub(super) fn not_started(&mut self) {
        self.service = Service::Out;
        if let Some(before) = self.before_start.take() {
            self.memory.last_owner = before.last_owner;
            self.memory.was_source = before.was_source;
            self.memory.data_corrupt = before.data_corrupt;
            self.memory.outdated = before.outdated;
            self.memory.discarded = before.discarded;
        }
    }

    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        match self.service {
            Service::Out => out.push(Action::Done),
            Service::Starting | Service::Stopping => out.push(Action::Refuse(Refusal::Busy)),
            Service::In => {
                self.service = Service::Stopping;
                out.push(Action::Stop);
            }
        }
    }

    pub(super) fn stopped(&mut self, out: &mut Vec<Action>) {
        if self.service != Service::Stopping {
            return out_of_turn(out);
        }
        let members = self.members();
        self.service = Service::Out;
        self.memory.was_source = false;
        self.memory.settled = members;
        self.memory.fresh = self.superseded.is_none() && !self.own_leg_failed;
        self.superseded = None;
        self.first = None;
        self.own_leg_failed = false;
        for peer in &mut self.peers {
            (peer.leg, peer.failed) = (Leg::Out, false);
        }
        self.stop_timer(out);
        out.push(Action::Done);
    }

    pub(super) fn stop_failed(&mut self, out: &mut Vec<Action>) {
        if self.service != Service::Stopping {
            return out_of_turn(out);
        }
        self.service = Service::In;
        out.push(Action::Refuse(Refusal::InUse));
    }

    pub(super) fn own_leg_failed(&mut self, out: &mut Vec<Action>) {
        if self.members().is_empty() {
            return out_of_turn(out);
        }
        self.own_leg_failed = true;
        self.memory.outdated = true;
        // Only legs that are in sync go on: what the others lack was kept on the leg that failed.
        for node in self
            .with_leg(|leg| matches!(leg, Leg::Adding | Leg::Resyncing(_)))
            .iter()
        {
            self.drop_leg(node, DropReason::OwnLegFailed, out);
        }
    }
}
