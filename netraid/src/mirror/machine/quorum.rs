//! Quorum: whether enough nodes are there, and the votes without which nobody goes into service or on without a target.
//!
//! The array holds back answers by itself when a leg that it was told to wait for leaves ([`Action::Guard`]); so nothing
//! is answered between that moment and the one at which a majority knows of it.

use super::super::action::{Action, Hold};
use super::super::generation::Generation;
use super::super::node::{NodeId, NodeSet};
use super::super::refusal::Refusal;
use super::super::vote::{Quorum, Term, View, Vote};
use super::{Machine, Service};

/// An attempt to go into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seeking {
    term: Term,
    force: bool,
    /// The newest view when this node proposed its own, if there was any.
    before: Option<View>,
    /// It has the votes, and the array is being started.
    voted: bool,
}

/// What is known of a mirror's quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumState {
    /// Nodes that are there, the own one included.
    pub present: usize,
    /// So many are needed.
    pub need: usize,
    /// So many are configured.
    pub nodes: usize,
    /// The application's requests, while this node is in service.
    pub hold: Hold,
}

impl Machine {
    /// How the quorum is, if the mirror has one.
    pub fn quorum(&self) -> Option<QuorumState> {
        let quorum = self.settings.quorum?;
        Some(QuorumState {
            present: self.present(),
            need: quorum.need,
            nodes: quorum.nodes,
            hold: match self.service {
                Service::In | Service::Stopping => self.hold.unwrap_or_default(),
                Service::Out | Service::Starting => Hold::No,
            },
        })
    }

    /// What another node tells of its votes. Of what this one answered before it heard of any, they say nothing.
    pub(super) fn hear_vote(&mut self, node: NodeId, theirs: &Vote) {
        if self.settings.quorum.is_none() {
            return;
        }
        let before = self.memory.vote;
        self.memory.vote.hear(node, theirs);
        let has_data = self.memory.generations.current != Generation::NONE;
        if before == Vote::default() && self.memory.vote != before && has_data {
            self.memory.vote.unvoted = true;
        }
    }

    /// Whether this node waits for votes before it goes into service.
    pub fn is_seeking(&self) -> bool {
        self.seeking.is_some_and(|seeking| !seeking.voted)
    }

    /// Whether the newest view that this node took says that a source went on without a node.
    pub fn is_left_out(&self, node: NodeId) -> bool {
        let view = self
            .memory
            .vote
            .view
            .filter(|_| self.settings.quorum.is_some());
        view.is_some_and(|view| !view.members.contains(node))
    }

    fn present(&self) -> usize {
        1 + self.reachable().len()
    }

    /// Why there are not enough nodes, if so.
    pub(super) fn no_quorum(&self) -> Option<Refusal> {
        let quorum = self.settings.quorum?;
        (self.present() < quorum.need).then_some(Refusal::NoQuorum {
            present: self.present(),
            need: quorum.need,
        })
    }

    /// Begins an attempt; true if the array must not be started before it has come to something.
    pub(super) fn seek(&mut self, force: bool) -> bool {
        if self.settings.quorum.is_none() {
            if self.memory.vote != Vote::default() {
                self.memory.vote = Vote {
                    unvoted: true,
                    ..Vote::default()
                };
            }
            return false;
        }
        let term = self.new_term();
        self.seeking = Some(Seeking {
            term,
            force,
            before: None,
            voted: false,
        });
        true
    }

    fn new_term(&mut self) -> Term {
        let peers = self.reachable();
        let peers = peers.iter().filter_map(|node| self.peer(node));
        let known = peers.map(|peer| peer.vote.promised);
        let known = known.chain([self.memory.vote.promised]).flatten();
        let number = known.map(|term| term.number).max().unwrap_or(0);
        let term = Term {
            number: number.saturating_add(1),
            node: self.own(),
        };
        self.memory.vote.promised = Some(term);
        term
    }

    /// How many have promised a term of this node.
    fn promises(&self, term: Term) -> usize {
        let own = self.memory.vote.promised == Some(term);
        let told = |node: &_| {
            self.peer(*node)
                .is_some_and(|peer| peer.vote.promised == Some(term))
        };
        usize::from(own) + self.reachable().iter().filter(told).count()
    }

    /// How many have taken a view.
    fn votes(&self, view: View) -> usize {
        let own = self.memory.vote.view == Some(view);
        let told = |node: &_| {
            self.peer(*node)
                .is_some_and(|peer| peer.vote.view == Some(view))
        };
        usize::from(own) + self.reachable().iter().filter(told).count()
    }

    /// The newest view that those know of who have promised a term.
    fn newest(&self, term: Term) -> Option<View> {
        let peers = self.reachable();
        let peers = peers.iter().filter_map(|node| self.peer(node));
        let promised = peers.filter(|peer| peer.vote.promised == Some(term));
        let views = promised.map(|peer| peer.vote.view);
        let views = views.chain([self.memory.vote.view]).flatten();
        views.reduce(|one, other| match other.is_newer(Some(&one)) {
            true => other,
            false => one,
        })
    }

    fn propose(&mut self, term: Term, change: u32, members: NodeSet, forced: bool) {
        let all = self
            .settings
            .quorum
            .is_some_and(|quorum| members.len() == quorum.nodes);
        self.memory.vote.view = Some(View {
            term,
            change,
            members,
            forced: forced && !all,
        });
    }

    /// Goes on with what was begun; what the array has to be told before anything else is done.
    pub(super) fn keep_quorum(&mut self, out: &mut Vec<Action>) -> Vec<Action> {
        let mut first = Vec::new();
        let Some(quorum) = self.settings.quorum else {
            self.quorum_switched_off(out);
            return first;
        };
        match self.service {
            Service::Starting => self.seek_votes(quorum, out),
            Service::In => self.keep_view(quorum, &mut first),
            Service::Out | Service::Stopping => {}
        }
        first
    }

    /// The array of a mirror that has no quorum any more waits for nobody.
    fn quorum_switched_off(&mut self, out: &mut Vec<Action>) {
        if self.service == Service::In && self.memory.vote.view.is_some() {
            self.memory.vote = Vote {
                unvoted: true,
                ..Vote::default()
            };
            self.memory.lost_quorum = false;
            let members = NodeSet::NONE;
            out.extend([
                Action::Guard {
                    members,
                    only: true,
                },
                Action::Hold(Hold::No),
            ]);
        }
    }

    fn seek_votes(&mut self, quorum: Quorum, out: &mut Vec<Action>) {
        let own = self.own();
        let Some(seeking) = self.seeking.filter(|seeking| !seeking.voted) else {
            return;
        };
        if self.memory.vote.promised != Some(seeking.term) {
            return self.votes_over(out);
        }
        let proposed = self.memory.vote.view;
        let proposed = proposed.filter(|view| view.term == seeking.term);
        if proposed.is_none() && self.promises(seeking.term) >= quorum.need {
            let newest = self.newest(seeking.term);
            let left_out = newest.filter(|view| !view.members.contains(own));
            if let Some(view) = left_out.filter(|_| !seeking.force) {
                return self.give_up_seeking(Refusal::LeftOut(view.term.node), out);
            }
            let forced = left_out.is_some() || newest.is_some_and(|view| view.forced);
            self.propose(seeking.term, 1, NodeSet::of(own), forced);
            self.seeking = Some(Seeking {
                before: newest,
                ..seeking
            });
        }
        let proposed = self.memory.vote.view;
        let proposed = proposed.filter(|view| view.term == seeking.term);
        if proposed.is_some_and(|view| self.votes(view) >= quorum.need) {
            self.seeking = self.seeking.map(|seeking| Seeking {
                voted: true,
                ..seeking
            });
            self.guard = Some(NodeSet::of(own));
            out.push(Action::Assemble {
                force: seeking.force && !self.memory.consistent,
            });
        }
    }

    /// The time for votes is over; in service, that for the peers to return after this machine was begun.
    pub(super) fn votes_over(&mut self, out: &mut Vec<Action>) {
        self.peers_had_time = true;
        if let Some(seeking) = self.seeking.filter(|seeking| !seeking.voted) {
            let refusal = match self.settings.quorum {
                Some(quorum) => Refusal::NoQuorum {
                    present: self.promises(seeking.term).max(1),
                    need: quorum.need,
                },
                None => Refusal::Busy,
            };
            self.give_up_seeking(refusal, out);
        }
    }

    fn give_up_seeking(&mut self, refusal: Refusal, out: &mut Vec<Action>) {
        self.withdraw();
        self.not_started();
        out.push(Action::Refuse(refusal));
    }

    /// Nothing was answered under the view that this node has just proposed: the one before it is still true.
    pub(super) fn withdraw(&mut self) {
        let Some(seeking) = self.seeking.take() else {
            return;
        };
        let Some(quorum) = self.settings.quorum else {
            return;
        };
        let all = NodeId::all().take(quorum.nodes).collect();
        let (members, forced) = match seeking.before {
            Some(before) => (before.members, before.forced),
            // None had been voted for: it is as if anybody could have been in it.
            None => (all, false),
        };
        let view = self.memory.vote.view;
        if let Some(view) = view.filter(|view| view.term == seeking.term) {
            self.propose(view.term, view.change + 1, members, forced);
        }
    }

    /// The legs that have everything that is answered.
    fn view_members(&self) -> NodeSet {
        match self.own_leg_failed {
            true => self.members().without(self.own()),
            false => self.members(),
        }
    }

    fn keep_view(&mut self, quorum: Quorum, first: &mut Vec<Action>) {
        let own = self.own();
        let target = self.view_members();
        let others = self.reachable();
        let rival = others.iter().any(|node| {
            self.peer(node)
                .is_some_and(|peer| peer.running || peer.starting)
        });
        let present = self.present() >= quorum.need;
        let promised = self.memory.vote.promised;
        let mine = promised.filter(|term| term.node == own);
        let view = self.memory.vote.view;
        let mut overtaken = self.superseded.is_some();
        match (mine, view) {
            (Some(term), Some(view)) if view.term == term => {
                if view.members != target {
                    self.change_view(term, view.change.saturating_add(1), view.forced, first);
                }
            }
            (Some(term), _) if self.promises(term) >= quorum.need => match self.newest(term) {
                Some(newest) if !newest.members.contains(own) && newest.term.node != own => {
                    overtaken = true;
                }
                newest => {
                    let forced = newest.is_some_and(|view| view.forced);
                    self.change_view(term, 1, forced, first);
                }
            },
            (Some(_), _) => {}
            // Somebody else has tried meanwhile, and is not in service.
            (None, _) if present && !rival && !overtaken => {
                self.new_term();
            }
            (None, _) => {}
        }
        let view = self.memory.vote.view;
        let taken = view.filter(|view| {
            let mine = Some(view.term) == self.memory.vote.promised && view.term.node == own;
            mine && view.members == target && self.votes(*view) >= quorum.need
        });
        if let Some(view) = taken
            && self.guard != Some(view.members)
        {
            self.guard = Some(view.members);
            first.push(Action::Guard {
                members: view.members,
                only: true,
            });
        }
        self.memory.lost_quorum = !present && (self.peers_had_time || self.memory.lost_quorum);
        let hold = match () {
            () if present && !overtaken => Hold::No,
            () if !overtaken && !self.peers_had_time => return,
            () if quorum.fail => Hold::Fail,
            () => Hold::Suspend,
        };
        if present {
            self.peers_had_time = true;
        }
        if self.hold != Some(hold) {
            self.hold = Some(hold);
            first.push(Action::Hold(hold));
        }
    }

    /// The array waits for whoever is new in it before anybody hears that they have everything.
    fn change_view(&mut self, term: Term, change: u32, forced: bool, first: &mut Vec<Action>) {
        let target = self.view_members();
        self.guard = None;
        first.push(Action::Guard {
            members: target,
            only: false,
        });
        self.propose(term, change, target, forced);
    }
}
