//! What only the tests know: which writes were answered, what each node could know, and what administrators gave up.

use std::collections::BTreeMap;

use netraid::mirror::node::{NodeId, NodeSet};

use crate::cluster::Cluster;
use crate::disk::Writes;

#[derive(Debug, Default)]
pub struct Oracle {
    /// Answered with success.
    answered: Writes,
    /// Who wrote each.
    writers: BTreeMap<u32, NodeId>,
    /// Data that an administrator knew of and gave up.
    given_up: Writes,
    /// What each node was last told that each other holds.
    told: BTreeMap<(NodeId, NodeId), Writes>,
    /// For each node, those without which it took part in naming a generation: it knows that they are not in it.
    knows_absent: Vec<NodeSet>,
    /// Left by its source, not restarted and not told of anything since: it can't know.
    unaware: NodeSet,
    pub starts: u64,
    pub answers: u64,
}

impl Oracle {
    pub fn new(count: usize) -> Oracle {
        Oracle {
            knows_absent: vec![NodeSet::NONE; count],
            ..Oracle::default()
        }
    }

    pub fn answered(&mut self, source: NodeId, number: u32) {
        self.answers += 1;
        self.answered.insert(number);
        self.writers.insert(number, source);
    }

    /// These named a generation without those.
    pub fn named(&mut self, in_sync: NodeSet, absent: NodeSet) {
        for node in in_sync.iter() {
            self.knows_absent[node.slot()] = absent;
        }
    }

    /// A leg became equal to a source's.
    pub fn joined(&mut self, source: NodeId, leg: NodeId) {
        let absent = self.knows_absent[source.slot()].without(leg);
        self.knows_absent[source.slot()] = absent;
        self.knows_absent[leg.slot()] = absent;
        self.unaware = self.unaware.without(leg);
    }

    pub fn started(&mut self, node: NodeId) {
        self.starts += 1;
        self.unaware = self.unaware.without(node);
    }

    /// A leg is not in sync any more.
    pub fn left(&mut self, leg: NodeId) {
        self.unaware = self.unaware.with(leg);
    }

    pub fn restarted(&mut self, node: NodeId) {
        self.unaware = self.unaware.without(node);
        self.told.retain(|(to, _), _| *to != node);
    }

    pub fn heard(&mut self, to: NodeId, from: NodeId, holds: Writes) {
        self.told.insert((to, from), holds);
    }

    /// An administrator on `node` gave up what is known there of `loser`.
    pub fn give_up(&mut self, node: NodeId, loser: NodeId) {
        if let Some(holds) = self.told.get(&(node, loser)) {
            self.given_up.add(holds);
        }
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
        let oracle = &self.oracle;
        let knows_absent = oracle.knows_absent[node.slot()];
        let missing = oracle.answered.minus(&disk.holds);
        for write in missing {
            let writer = oracle.writers[&write];
            let given_up = oracle.given_up.contains(write);
            let excused = oracle.unaware.contains(node) || knows_absent.contains(writer);
            assert!(
                excused || given_up,
                "P1, P4: {node:?} goes into service without write {write} of {writer:?}, which was answered; \
                 nobody gave it up, and {node:?} could know"
            );
        }
    }

    /// P4: what was answered is overwritten only by what is newer, unless somebody gave it up.
    pub fn check_overwrite(&mut self, source: NodeId, leg: NodeId) {
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
