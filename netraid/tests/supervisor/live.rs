//! Liveness of a mirror with a quorum: while a majority is there, the source among it answers.
//!
//! That the nodes do nothing wrong is checked after each step; this is about doing something at all. Some nodes stay away,
//! the others meet, and nobody orders anything but what netraidd does by itself.

use netraid::mirror::event::Event;
use netraid::mirror::machine::Shortage;
use netraid::mirror::node::{NodeId, NodeSet};
use netraid::mirror::refusal::Refusal;
use netraid::mirror::vote::View;

use crate::array::Until;
use crate::cluster::id;
use crate::schedule::Schedule;

impl Schedule {
    /// Leaves a majority that can talk to each other, and demands that a source in it answers.
    pub fn a_majority_is_enough(&mut self) {
        let Some(quorum) = self.cluster.settings[0].quorum else {
            return;
        };
        let count = self.cluster.nodes.len();
        let mut there: NodeSet = self.cluster.ids().collect();
        for _ in 0..self.below(count - quorum.need + 1) {
            there = there.without(id(self.below(count)));
        }
        self.cluster
            .say(|| format!("-- only {there:?} are there, and can talk to each other"));
        for node in self.cluster.ids() {
            match there.contains(node) {
                true => self.cluster.power_on(node),
                false => self.cluster.power_off(node),
            }
            self.cluster.node(node).fails = false;
            for other in self.cluster.ids() {
                self.cluster.set_link(node, other, true);
            }
        }
        for _ in 0..4 {
            self.cluster.settle();
            for node in there.iter() {
                self.cluster.ask(node, Event::VotesOver);
                self.cluster.ask(node, Event::QuickCheck);
            }
            // An array notices what has left it.
            for source in self.arrays() {
                for leg in self.cluster.broken_legs(source).iter() {
                    self.cluster.expel(source, leg);
                }
            }
            self.finish_resyncs();
        }
        // One that has forgotten what it promised must not vote before it has met all others.
        let votes = |node: &NodeId| !self.cluster.machine(*node).memory().vote.abstains();
        if there.iter().filter(votes).count() < quorum.need {
            return;
        }
        match self.arrays().as_slice() {
            [] => self.must_get_votes(there),
            [source] => self.must_answer(*source),
            // The one that was voted for answers, whatever the others believe.
            several => {
                let rightly = |node: &&NodeId| {
                    self.newest(**node)
                        .is_some_and(|view| view.members.contains(**node))
                };
                if let [source] = several.iter().filter(rightly).collect::<Vec<_>>()[..] {
                    self.must_answer(*source);
                }
            }
        }
    }

    /// Who asks for votes gets them, whatever else forbids a start.
    fn must_get_votes(&mut self, there: NodeSet) {
        for node in there.iter() {
            self.cluster.ask(node, Event::Restore);
            self.cluster.gather_votes(node);
            self.cluster.settle();
            if self.cluster.nodes[node.slot()].array.is_some() {
                return self.must_answer(node);
            }
            let answer = self.cluster.nodes[node.slot()].answer;
            if let Some(Err(Refusal::SplitBrain(other) | Refusal::Newer(other))) = answer
                && let Some(view) = self.newest(node)
            {
                let unvoted = |node: NodeId| self.cluster.machine(node).memory().vote.unvoted;
                let voted = !view.forced && !unvoted(node) && !unvoted(other);
                assert!(
                    !voted || !view.members.contains(node) || view.members.contains(other),
                    "quorum: {node:?} does not start because of what {other:?} has, which nobody answered"
                );
            }
            if let Some(Err(Refusal::LeftOut(by))) = answer
                && there.contains(by)
            {
                // One that was withdrawn says what was true before.
                let term = self.newest(node).filter(|view| view.change == 1);
                let term = term.map(|view| view.term);
                assert!(
                    term.is_none_or(|term| self.cluster.oracle.voted.contains(&term)),
                    "quorum: {node:?} is left out by an attempt of {by:?} that came to nothing, {term:?}"
                );
            }
            assert!(
                !matches!(answer, Some(Err(Refusal::NoQuorum { .. }))),
                "quorum: {node:?} does not get the votes of {there:?}: {answer:?}"
            );
        }
    }

    /// The newest view that a node, or one that it can reach, has taken.
    fn newest(&self, node: NodeId) -> Option<View> {
        let machine = self.cluster.machine(node);
        let peers = machine.reachable();
        let views = peers
            .iter()
            .filter_map(|node| machine.peer(node)?.vote.view);
        views
            .chain(machine.memory().vote.view)
            .max_by_key(|view| (view.term, view.change))
    }

    fn must_answer(&mut self, source: NodeId) {
        let answered = self.cluster.write(source, 0, Until::Answered);
        self.tally.alive += u64::from(answered);
        self.cluster.settle();
        let machine = self.cluster.machine(source);
        let state = machine.quorum().expect("the mirror has a quorum");
        let said = state.why;
        assert_eq!(
            said.is_none(),
            answered,
            "P6: {source:?} says {state:?}, and a write was {}",
            if answered { "answered" } else { "held back" }
        );
        let rightly = match said {
            None => true,
            // Whoever went on without it may have answered since, and is not there.
            Some(Shortage::LeftOut(by)) => self
                .newest(source)
                .is_some_and(|view| view.term.node == by && !view.members.contains(source)),
            Some(Shortage::Superseded(by)) => self.newest(source).is_none_or(|view| {
                view.forced || view.members.contains(by) || !view.members.contains(source)
            }),
            Some(Shortage::TooFew | Shortage::Outbid(_) | Shortage::Votes) => false,
        };
        assert!(
            rightly,
            "quorum: {source:?} holds requests back although {} of {} nodes are there: {said:?}",
            state.present, state.nodes
        );
    }
}
