//! What only the tests know: which writes were answered, what each node could know, and what administrators gave up.

use std::collections::{BTreeMap, BTreeSet};

use netraid::mirror::node::{NodeId, NodeSet};
use netraid::mirror::policy::Judgement;
use netraid::mirror::record::Record;
use netraid::mirror::vote::Term;

use crate::cluster::Cluster;
use crate::disk::Writes;

#[derive(Debug, Default)]
pub struct Oracle {
    /// Answered with success.
    answered: Writes,
    /// Answered by a source that was forced: others rightly thought that it could not be one.
    forced: Writes,
    /// Nodes whose data goes back to a start by force, which said that what others have may be missing: not only at that
    /// start, but until all nodes are equal again.
    by_force: NodeSet,
    /// Who wrote each.
    writers: BTreeMap<u32, NodeId>,
    /// Nodes that an administrator took out of the mirror, whatever they do since.
    unextended: NodeSet,
    /// Nodes whose data an administrator called good by removing `TAG_data_corrupt`.
    vouched: NodeSet,
    /// Data that an administrator knew of and gave up.
    given_up: Writes,
    /// What each node was last told that each other holds.
    told: BTreeMap<(NodeId, NodeId), Writes>,
    /// For each node, those without which it took part in naming a generation: it knows that they are not in it.
    knows_absent: Vec<NodeSet>,
    /// Nodes that were in sync, and since then were neither restarted nor told that anybody goes on without them.
    believes: NodeSet,
    /// For each node, those of which it heard that they go into service, and not what became of it.
    claimed: Vec<NodeSet>,
    /// Nodes that were told that somebody goes on without them, and have not been equal to a source since.
    outdated: NodeSet,
    pub starts: u64,
    /// Times that a source knew that a node that left can't take over.
    pub fenced: u64,
    /// Times that a node was told so.
    pub outdates: u64,
    pub answers: u64,
    pub resyncs: u64,
    /// Attempts to be source that a majority has voted for.
    pub voted: BTreeSet<Term>,
    /// Writes that were held back.
    pub held: u64,
    /// Times that a policy gave up what a node has.
    pub judged: u64,
    /// Whom a policy gave up of two that were so.
    judgements: BTreeMap<(Told, Told, &'static str), NodeId>,
}

/// A node, its generation, how much was written since, whether it is in service, and what else is judged by.
type Told = (
    usize,
    (u64, Option<u64>),
    bool,
    (Option<NodeId>, Option<NodeId>, bool),
);

impl Oracle {
    pub fn new(count: usize) -> Oracle {
        Oracle {
            knows_absent: vec![NodeSet::NONE; count],
            claimed: vec![NodeSet::NONE; count],
            ..Oracle::default()
        }
    }

    pub fn answered(&mut self, source: NodeId, number: u32, forced: bool) {
        self.answers += 1;
        self.answered.insert(number);
        self.writers.insert(number, source);
        if forced || self.vouched.contains(source) {
            self.forced.insert(number);
        }
    }

    /// These named a generation without those.
    pub fn named(&mut self, in_sync: NodeSet, absent: NodeSet) {
        for node in in_sync.iter() {
            self.knows_absent[node.slot()] = absent;
        }
    }

    /// An administrator said that a node's data counts, whatever becomes of the start that was ordered with it.
    pub fn chosen(&mut self, node: NodeId) {
        self.outdated = self.outdated.without(node);
    }

    /// A leg became equal to a source's.
    pub fn joined(&mut self, source: NodeId, leg: NodeId) {
        self.resyncs += 1;
        let absent = self.knows_absent[source.slot()].without(leg);
        self.knows_absent[source.slot()] = absent;
        self.knows_absent[leg.slot()] = absent;
        self.believes = self.believes.with(leg);
        self.by_force = match self.by_force.contains(source) {
            true => self.by_force.with(leg),
            false => self.by_force.without(leg),
        };
        self.vouched = self.vouched.without(leg);
        self.unextended = self.unextended.without(leg);
        self.outdated = self.outdated.without(leg);
    }

    /// An administrator let a source go on without a node that may not know of it.
    pub fn resumed_without(&mut self, node: NodeId) {
        self.by_force = self.by_force.with(node);
    }

    /// A node forgot all, the mark included.
    pub fn forgot(&mut self, node: NodeId) {
        self.outdated = self.outdated.without(node);
    }

    /// A node promised that it does not go into service any more.
    pub fn outdated(&mut self, node: NodeId) {
        self.outdates += 1;
        self.outdated = self.outdated.with(node);
        self.believes = self.believes.without(node);
    }

    /// All nodes are equal: what they do not have is given up for good, if one of them was forced.
    pub fn whole(&mut self, holds: &Writes) {
        if std::mem::take(&mut self.by_force) != NodeSet::NONE {
            for write in self.answered.minus(holds) {
                self.forced.insert(write);
            }
        }
    }

    pub fn started(&mut self, node: NodeId, forced: bool) {
        self.starts += 1;
        if forced {
            self.by_force = self.by_force.with(node);
        }
        self.believes = self.believes.with(node);
        self.claimed[node.slot()] = NodeSet::NONE;
    }

    /// A driver was restarted: it has to be told everything again.
    pub fn told_nothing(&mut self, node: NodeId) {
        self.told.retain(|(to, _), _| *to != node);
        self.claimed[node.slot()] = NodeSet::NONE;
    }

    pub fn restarted(&mut self, node: NodeId) {
        self.believes = self.believes.without(node);
        self.told.retain(|(to, _), _| *to != node);
    }

    pub fn heard(
        &mut self,
        to: NodeId,
        record: &Record,
        holds: Writes,
        own: &Writes,
        in_sync: bool,
    ) {
        let from = record.node;
        let answered = |writes: Vec<u32>| writes.iter().any(|write| self.answered.contains(*write));
        // Of a fork it is right to think nothing.
        let fork = answered(own.minus(&holds));
        let claimed = &mut self.claimed[to.slot()];
        if record.starting {
            *claimed = claimed.with(from);
        } else if record.running || !answered(holds.minus(own)) {
            *claimed = claimed.without(from);
        }
        if record.running && !record.members.contains(to) && !fork {
            self.believes = self.believes.without(to);
        } else if record.running && in_sync {
            // Older news had come late.
            self.believes = self.believes.with(to);
        }
        self.told.insert((to, from), holds);
    }

    /// An administrator on `node` gave up what is known there of `loser`.
    pub fn give_up(&mut self, node: NodeId, loser: NodeId) {
        if let Some(holds) = self.told.get(&(node, loser)) {
            self.given_up.add(holds);
        }
    }

    /// An administrator removed `TAG_data_corrupt` by hand.
    pub fn vouched_for(&mut self, node: NodeId) {
        self.vouched = self.vouched.with(node);
        self.believes = self.believes.with(node);
        self.claimed[node.slot()] = NodeSet::NONE;
    }

    /// A clean stop left these equal; news of that may still be on their way.
    pub fn stopped(&mut self, equal: NodeSet) {
        self.believes = self.believes.and(equal);
    }

    pub fn unextended(&mut self, node: NodeId) {
        self.unextended = self.unextended.with(node);
    }

    pub fn give_up_own(&mut self, holds: Writes) {
        self.given_up.add(&holds);
    }
}

impl Cluster {
    /// P4 and P1, at the start of an array: the leg is of one moment, and has whatever was answered that its node
    /// could know of.
    pub fn check_start(&mut self, node: NodeId, forced: bool) {
        let disk = &self.nodes[node.slot()].disk;
        if forced {
            return;
        }
        assert!(
            !disk.mixed,
            "P4: {node:?} goes into service in the middle of a resync"
        );
        let votes = self.settings.iter().all(|one| one.quorum.is_some());
        let oracle = &self.oracle;
        assert!(
            !oracle.outdated.contains(node),
            "fencing: {node:?} goes into service although it was marked as outdated"
        );
        let knows_absent = oracle.knows_absent[node.slot()];
        let missing = oracle.answered.minus(&disk.holds);
        for write in missing {
            let writer = oracle.writers[&write];
            let given_up = oracle.given_up.contains(write) || oracle.forced.contains(write);
            let believes = oracle.believes.contains(node) && oracle.claimed[node.slot()].is_empty();
            let excused =
                believes || knows_absent.contains(writer) || oracle.unextended.contains(writer);
            assert!(
                !votes || given_up || oracle.by_force.contains(node),
                "quorum: {node:?} goes into service without write {write} of {writer:?}, which was answered"
            );
            assert!(
                !self.freezes()
                    || given_up
                    || oracle.by_force.contains(node)
                    || oracle.vouched.contains(node)
                    || oracle.unextended.contains(node)
                    || oracle.unextended.contains(writer),
                "fencing: {node:?} goes into service without write {write} of {writer:?}, which was answered"
            );
            assert!(
                excused || given_up,
                "P1, P4: {node:?} goes into service without write {write} of {writer:?}, which was answered; \
                 nobody gave it up, and {node:?} could know"
            );
        }
    }

    /// With a quorum, or with fencing, nobody answers any more once somebody else could go into service, but by force.
    pub fn check_one_source(&self, node: NodeId) {
        let votes = self.settings.iter().all(|one| one.quorum.is_some());
        if !votes && !self.fences() {
            return;
        }
        let started = |node: NodeId| {
            let array = self.nodes[node.slot()].array.as_ref();
            array.map_or(0, |array| array.started)
        };
        // Who was forced in spite of a promise is another matter; with votes not even that is.
        if !votes && self.nodes[node.slot()].forced {
            return;
        }
        for other in self.ids().filter(|other| *other != node) {
            let later = self.nodes[other.slot()].array.is_some() && started(other) > started(node);
            assert!(
                !later || self.nodes[other.slot()].forced,
                "quorum, fencing: {node:?} answers a write although {other:?} went into service after it"
            );
        }
    }

    /// P4: what was answered is overwritten only by what is newer, unless somebody gave it up.
    pub fn check_overwrite(&mut self, source: NodeId, leg: NodeId) {
        if self.nodes[leg.slot()].disk.mixed {
            // Its resync has begun before, rightly; it is not what made an answer true.
            return;
        }
        let oracle = &self.oracle;
        let (ours, theirs) = (
            &self.nodes[source.slot()].disk.holds,
            &self.nodes[leg.slot()].disk.holds,
        );
        for write in theirs.minus(ours) {
            let answered = oracle.answered.contains(write);
            let given_up = oracle.given_up.contains(write);
            assert!(
                !answered || given_up,
                "P4: {source:?} overwrites write {write} on {leg:?}, which was answered, and nobody gave it up"
            );
        }
    }

    /// P1, P4: in the end everything that was answered is there, but what somebody gave up.
    pub fn check_nothing_is_lost(&self, source: NodeId) {
        let holds = &self.nodes[source.slot()].disk.holds;
        for write in self.oracle.answered.minus(holds) {
            assert!(
                self.oracle.given_up.contains(write),
                "P1, P4: write {write} is lost, and nobody gave it up"
            );
        }
    }

    /// A policy for split brains gave up what one of two has, as `node` knows of it.
    pub fn given_up_by_policy(&mut self, node: NodeId, peer: NodeId, judgement: &Judgement) {
        let policies = |node: NodeId| self.settings[node.slot()].rules.policies;
        assert_ne!(
            policies(node),
            Default::default(),
            "P4: no policy was configured"
        );
        assert_eq!(
            policies(node),
            policies(peer),
            "P4: only one of the two has that policy"
        );
        let loser = judgement.loser.expect("somebody is given up");
        let machine = self.machine(node);
        let (Some(told), known) = (machine.peer(peer), machine.record()) else {
            return;
        };
        // From the same records both come to the same.
        let (low, high) = match node < peer {
            true => (&known, told),
            false => (told, &known),
        };
        let of = |record: &Record| {
            let in_service = record.running || record.starting;
            let node = record.node.slot();
            let wrote = (record.generations.current.0, record.changes);
            let knows = (record.source, record.follows, record.consistent);
            (node, wrote, in_service, knows)
        };
        let key = (of(low), of(high), judgement.policy);
        let before = *self.oracle.judgements.entry(key).or_insert(loser);
        assert_eq!(
            before, loser,
            "P4: each of the two gives up the other, {key:?}"
        );
        let own = self.nodes[node.slot()].disk.holds.clone();
        let told = self
            .oracle
            .told
            .get(&(node, peer))
            .cloned()
            .unwrap_or_default();
        let (lost, kept) = match loser == node {
            true => (own, told),
            false => (told, own),
        };
        if judgement.why == "it has written nothing" {
            let answered = lost.minus(&kept);
            let answered: Vec<u32> = answered
                .into_iter()
                .filter(|write| self.oracle.answered.contains(*write))
                .collect();
            assert!(
                answered.is_empty(),
                "P4: {loser:?} is given up as one that wrote nothing, and has the answered writes {answered:?}"
            );
        }
        self.oracle.given_up.add(&lost);
        self.oracle.judged += 1;
    }

    /// P3: two legs hold the same.
    pub fn check_equal(&self, source: NodeId, leg: NodeId, when: &str) {
        let (ours, theirs) = (
            &self.nodes[source.slot()].disk.blocks,
            &self.nodes[leg.slot()].disk.blocks,
        );
        assert_eq!(
            ours, theirs,
            "P3: {source:?} and {leg:?} differ when {when}"
        );
    }
}
