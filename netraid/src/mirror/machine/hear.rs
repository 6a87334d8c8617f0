//! What other nodes tell, and whose writes the own leg takes.

use super::super::action::{Action, DropReason, Note};
use super::super::decision::{Outcome, compare};
use super::super::generation::Generation;
use super::super::node::{NodeId, NodeSet};
use super::super::policy::{Judgement, Policies};
use super::super::record::Record;
use super::{Leg, Machine, Service, Standing};

impl Machine {
    pub(super) fn hear(&mut self, record: Record, out: &mut Vec<Action>) {
        let node = record.node;
        if node == self.own() {
            return;
        }
        let appeared = self.peer(node).is_none();
        if appeared {
            // It may be another day.
            self.peers[node.slot()].failed = false;
        }
        if record.running || record.starting {
            // Whatever was done about it before, it is there again.
            self.memory.fenced = self.memory.fenced.without(node);
        }
        self.peers[node.slot()].record = Some(record.clone());
        self.hear_vote(node, &record.vote);
        self.hears_that_it_knows(node);
        // Another source beside this one may have newer data when both have been stopped.
        let rival = record.running && self.service != Service::Out;
        self.claims = match record.starting || rival {
            true => self.claims.with(node),
            false => self.claims.without(node),
        };
        if record.follows.is_some_and(|source| source != self.own()) {
            // What was given up is not what it has any more.
            self.memory.discarded[node.slot()] = Generation::NONE;
        }
        match (self.service, record.running) {
            (Service::Out, true) => self.hear_source(&record),
            (Service::Out, false) => self.hear_standby(&record),
            _ => self.hear_target(&record, out),
        }
    }

    /// A leg of this source whose node has begun anew since it was added is not what it was.
    fn hear_target(&mut self, target: &Record, out: &mut Vec<Action>) {
        let agreement = self.memory.agreements[target.node.slot()];
        let agreed = target.accepts == Some(self.own()) && target.agreement == agreement;
        if self.leg(target.node) != Leg::Out && !agreed {
            self.drop_leg(target.node, DropReason::Restarted, out);
        }
    }

    /// Somebody is in service, and this node is not.
    fn hear_source(&mut self, source: &Record) {
        let own = self.own();
        if source.nodes.contains(own) || self.is_tie_breaker(own) {
            self.memory.nodes = source.nodes;
        }
        let accepted = self.accepted == Some(source.node);
        let memory = &mut self.memory;
        if accepted && source.has_in_sync(own, memory.agreement) {
            if source.generations.current != memory.generations.current {
                // The array was faster than the news: it may have gone on without this leg already. There will be more.
                return;
            }
            memory.fresh = true;
            memory.outdated = false;
            memory.last_owner = false;
            memory.lost_quorum = false;
            memory.vote.unvoted &= source.vote.view.is_none();
            memory.was_source = false;
            // What it guards against, a resync in the wrong direction, can't happen any more: this leg is equal to the
            // source's. DataKeeper leaves the flag, and refuses the next failover to this node.
            memory.data_corrupt = false;
            memory.source = Some(source.node);
            memory.settled = NodeSet::NONE;
            memory.discarded[own.slot()] = Generation::NONE;
            memory.in_sync = source.in_sync.with(source.node);
            return;
        }
        let outcome = self.decision(source.node).map(|decision| decision.outcome);
        // What this source has written to the own leg can be ahead of what it told.
        let follows = accepted || matches!(outcome, Some(Outcome::FromPeer(_) | Outcome::Nothing));
        if follows {
            let memory = &mut self.memory;
            memory.fresh = false;
            memory.outdated = true;
            memory.last_owner = false;
            memory.was_source = false;
            memory.settled = NodeSet::NONE;
            memory.in_sync = source.in_sync.with(source.node);
        }
    }

    /// Nobody is in service as far as these two know.
    fn hear_standby(&mut self, peer: &Record) {
        let own = self.own();
        if self.memory.source == Some(peer.node) && peer.settled.contains(own) {
            self.memory.settled = peer.settled;
        }
        let newer = self.peer_is_newer(peer.node);
        if newer {
            self.memory.fresh = false;
            self.memory.in_sync = self.memory.in_sync.with(peer.node);
        }
    }

    /// Whether a peer has what this node has not, or the other way round as well.
    fn peer_is_newer(&self, node: NodeId) -> bool {
        let (Some(peer), Some(decision)) = (self.peer(node), self.decision(node)) else {
            return false;
        };
        match decision.outcome {
            Outcome::FromPeer(_) => peer.generations.current != self.memory.generations.current,
            Outcome::SplitBrain(_) => true,
            _ => false,
        }
    }

    /// What a policy gives up is given up as if an administrator had said so: it stays so whoever is in service next.
    pub(super) fn obey_policies(&mut self, out: &mut Vec<Action>) {
        for node in self.others().iter() {
            let decision = self.decision(node);
            let judgement = decision.and_then(|decision| decision.judgement);
            let judgement = judgement.filter(|judgement| !judgement.pending);
            let lost = self.lost_by(node, judgement);
            let decided = decision.is_some_and(|decision| decision.row == "d");
            let loser = judgement.and_then(|judgement| judgement.loser);
            let given_up = match loser.filter(|_| decided) {
                Some(loser) => self.give_up(loser),
                None => false,
            };
            let before = std::mem::replace(&mut self.judged[node.slot()], judgement);
            let told = |judgement: &Judgement| {
                let new = given_up || Some(*judgement) != before;
                new && self.settings.rules.policies != Policies::default()
            };
            if let Some(judgement) = judgement.filter(told) {
                out.push(Action::Note(Note::Judged {
                    node,
                    judgement,
                    first: before.is_none(),
                    lost,
                }));
            }
        }
    }

    /// Gives up what a node has now; whether that is new.
    fn give_up(&mut self, loser: NodeId) -> bool {
        let known = match loser == self.own() {
            true => Some(&self.memory.generations),
            false => self.peer(loser).map(|peer| &peer.generations),
        };
        let Some(current) = known.map(|known| known.current) else {
            return false;
        };
        if loser == self.own() {
            self.memory.fresh = false;
        }
        std::mem::replace(&mut self.memory.discarded[loser.slot()], current) != current
    }

    /// How much the loser wrote without the other, at most.
    fn lost_by(&self, node: NodeId, judgement: Option<Judgement>) -> Option<u64> {
        let loser = judgement?.loser?;
        let changes = match loser == self.own() {
            true => self.changes,
            false => self.peer(node)?.changes,
        };
        changes.filter(|bytes| *bytes != Record::UNKNOWN_CHANGES)
    }

    /// What there is to tell of a conflict with another node, if there is one.
    fn conflict_with(&self, node: NodeId) -> Option<Note> {
        let decision = self.decision(node);
        let outcome = decision.map(|decision| decision.outcome);
        let pending = decision
            .and_then(|decision| decision.judgement)
            .is_some_and(|judgement| judgement.pending);
        let split = (!pending).then_some(Note::SplitBrain(node));
        match (self.standing(node), outcome) {
            (Standing::Newer, _) => Some(Note::PeerIsNewer(node)),
            (Standing::SplitBrain, _) => split,
            (Standing::TwoSources | Standing::NoSource, Some(Outcome::SplitBrain(_)))
            | (Standing::TwoSources, Some(Outcome::Unrelated)) => split,
            // This one is superseded, which is told in other words.
            (Standing::TwoSources, Some(Outcome::FromPeer(_))) => None,
            (Standing::TwoSources, _) => Some(Note::TwoSources(node)),
            _ => None,
        }
    }

    /// Tells of conflicts, each once.
    pub(super) fn note_conflicts(&mut self, out: &mut Vec<Action>) {
        for node in self.others().iter() {
            let conflict = self.conflict_with(node);
            let noted = std::mem::replace(&mut self.noted[node.slot()], conflict);
            if conflict != noted {
                out.extend(conflict.map(Action::Note));
            }
        }
    }

    /// The source that writes to the own leg now, or may begin to.
    pub(super) fn follows(&self) -> Option<NodeId> {
        self.accepted
            .filter(|source| self.peer(*source).is_some_and(|peer| peer.running))
    }

    /// Lets the right source write to the own leg.
    pub(super) fn accept(&mut self, out: &mut Vec<Action>) {
        let chosen = self.choose_source();
        if chosen != self.accepted {
            self.accepted = chosen;
            if chosen.is_some() {
                self.memory.agreement = self.memory.agreement.wrapping_add(1);
            }
            out.push(Action::Accept(chosen));
        }
    }

    fn choose_source(&self) -> Option<NodeId> {
        if self.service != Service::Out || self.is_tie_breaker(self.own()) {
            return None;
        }
        // Whoever is no target (any more) keeps its disk for itself: it may be needed for something else.
        let claims: Vec<&Record> = NodeId::all()
            .filter_map(|node| self.peer(node))
            .filter(|peer| peer.running && peer.nodes.contains(self.own()))
            .filter(|peer| self.may_follow(peer) || self.accepted == Some(peer.node))
            .collect();
        let newest = |claim: &Record| {
            claims.iter().all(|other| {
                let found = compare(claim, other, &self.settings.rules);
                claim.node == other.node || matches!(found.outcome, Outcome::ToPeer(_))
            })
        };
        let newest = claims.iter().find(|claim| newest(claim));
        match (newest, self.accepted) {
            (Some(newest), _) => Some(newest.node),
            // Two that can't be compared: whoever was agreed to before stays; a source that can't be heard may still write.
            (None, Some(before)) => {
                let heard = self.peer(before);
                heard
                    .is_none_or(|peer| peer.running && peer.nodes.contains(self.own()))
                    .then_some(before)
            }
            (None, None) => None,
        }
    }

    fn may_follow(&self, source: &Record) -> bool {
        let found = compare(&self.record(), source, &self.settings.rules);
        matches!(found.outcome, Outcome::FromPeer(_) | Outcome::Nothing)
    }
}
