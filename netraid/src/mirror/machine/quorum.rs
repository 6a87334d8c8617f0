//! Quorum: whether enough nodes are there, and the votes without which nobody goes into service or on without a target.
//!
//! The array holds back answers by itself when a leg that it was told to wait for leaves ([`Action::Guard`]); so nothing
//! is answered between that moment and the one at which a majority knows of it.

use super::super::action::{Action, Hold};
use super::super::fencing::Fencing;
use super::super::generation::Generation;
use super::super::node::{NodeId, NodeSet};
use super::super::refusal::Refusal;
use super::super::vote::{Attempt, Quorum, Term, View, Vote};
use super::{Machine, Service};

/// An attempt to go into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seeking {
    term: Term,
    force: bool,
    /// What was true when this node proposed its own view, once it has.
    before: Option<Attempt>,
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
    /// Why they wait or fail, if they do.
    pub why: Option<Shortage>,
    /// Nodes that are there and do not vote yet: they have not met all others since they know of the quorum.
    pub abstaining: NodeSet,
}

/// Why the requests of a source wait or fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Not enough nodes are there.
    TooFew,
    /// A majority went on without this node, under that one.
    LeftOut(NodeId),
    /// That node took over, and has newer data.
    Superseded(NodeId),
    /// That node tried to take over, and is not known to have given up; this one asks for the votes again.
    Outbid(NodeId),
    /// A leg has left, and a majority does not know of it yet.
    Votes,
}

impl Machine {
    /// How the quorum is, if the mirror has one.
    pub fn quorum(&self) -> Option<QuorumState> {
        let quorum = self.settings.quorum?;
        let serves = matches!(self.service, Service::In | Service::Stopping);
        let told = self.hold.filter(|_| serves).unwrap_or_default();
        let why = match told {
            // The array holds them back by itself.
            Hold::No if serves && !self.guarded.minus(self.view_members()).is_empty() => {
                match self.present() < quorum.need {
                    true => Some(Shortage::TooFew),
                    false => Some(Shortage::Votes),
                }
            }
            Hold::No => None,
            Hold::Suspend | Hold::Fail => self.shortage,
        };
        let silent = |node: &NodeId| self.peer(*node).is_some_and(|peer| peer.vote.abstains());
        let own = match self.memory.vote.abstains() {
            true => NodeSet::of(self.own()),
            false => NodeSet::NONE,
        };
        Some(QuorumState {
            present: self.present(),
            need: quorum.need,
            nodes: quorum.nodes,
            hold: match (told, why) {
                (Hold::No, Some(_)) => Hold::Suspend,
                _ => told,
            },
            why,
            abstaining: self
                .reachable()
                .iter()
                .filter(silent)
                .collect::<NodeSet>()
                .and(own),
        })
    }

    /// What another node tells of its votes. Of what this one answered before it heard of any, they say nothing.
    pub(super) fn hear_vote(&mut self, node: NodeId, theirs: &Vote) {
        if self.settings.quorum.is_none() {
            return;
        }
        let before = self.memory.vote;
        match before.abstains() {
            false => self.memory.vote.hear(node, theirs),
            true => self.begin_to_vote(),
        }
        let has_data = self.memory.generations.current != Generation::NONE;
        if before.is_blank() && !self.memory.vote.is_blank() && has_data {
            self.memory.vote.unvoted = true;
        }
    }

    /// A node without a memory of votes may have forgotten one. It votes as soon as it has met all others.
    fn begin_to_vote(&mut self) {
        let Some(quorum) = self.settings.quorum else {
            return;
        };
        if self.unreachable(quorum.nodes).is_empty() {
            let others = self.reachable();
            let others = others.iter().filter_map(|node| self.peer(node));
            let others: Vec<Vote> = others.map(|peer| peer.vote).collect();
            self.memory.vote.begin(self.own(), &others);
        }
    }

    /// Why this node can't ask for votes, if so.
    pub(super) fn no_vote(&self) -> Option<Refusal> {
        let quorum = self.settings.quorum?;
        let abstains = self.memory.vote.abstains();
        abstains.then(|| Refusal::NoVote(self.unreachable(quorum.nodes)))
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

    /// Whether a node has no disk, and only votes.
    pub fn is_tie_breaker(&self, node: NodeId) -> bool {
        let quorum = self.settings.quorum;
        quorum.is_some_and(|quorum| quorum.tie_breakers.contains(node))
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
        if self.memory.vote.is_blank() && self.memory.generations.current != Generation::NONE {
            // Until a majority has voted for it, nobody knows whether others have something of that time, too.
            self.memory.vote.unvoted = true;
        }
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
        newest_of(views.chain([self.memory.vote.view]))
    }

    fn propose(&mut self, term: Term, change: u32, members: NodeSet, forced: bool) {
        let all = self
            .settings
            .quorum
            .is_some_and(|quorum| members.len() == quorum.nodes - quorum.tie_breakers.len());
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
            self.quorum_switched_off(&mut first);
            return first;
        };
        if self.memory.vote.abstains() {
            // One alone has nobody to hear of.
            self.begin_to_vote();
        }
        match self.service {
            Service::Starting => self.seek_votes(quorum, out),
            Service::In => self.keep_view(quorum, &mut first),
            Service::Out | Service::Stopping => {}
        }
        first
    }

    /// The array of a mirror that has no quorum any more waits for nobody. Whoever looked after it before may have told it
    /// to, and is gone.
    fn quorum_switched_off(&mut self, first: &mut Vec<Action>) {
        let fences = self.settings.fencing == Fencing::ResourceAndStonith;
        if self.service != Service::In || self.hold.is_some() || fences {
            return;
        }
        self.hold = Some(Hold::No);
        self.memory.lost_quorum = false;
        let members = NodeSet::NONE;
        first.extend([
            Action::Guard {
                members,
                only: true,
            },
            Action::Hold(Hold::No),
        ]);
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
            let before = Attempt {
                // If nobody had voted, it is as if anybody could have been in it.
                members: newest.map_or_else(
                    || {
                        let all: NodeSet = NodeId::all().take(quorum.nodes).collect();
                        all.minus(quorum.tie_breakers)
                    },
                    |view| view.members,
                ),
                forced: newest.is_some_and(|view| view.forced),
            };
            self.memory.vote.attempt = Some(before);
            self.seeking = Some(Seeking {
                before: Some(before),
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
            self.guarded = NodeSet::of(own);
            // From here on something may be answered under it.
            self.memory.vote.attempt = None;
            self.memory.vote.unvoted = false;
            out.push(self.assemble(seeking.force));
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
        let sought = self.seeking.take().and_then(|seeking| seeking.before);
        let attempt = self.memory.vote.attempt.take();
        // The second: the array was not started after all.
        let (Some(before), Some(view)) = (attempt.or(sought), self.memory.vote.view) else {
            return;
        };
        if self.settings.quorum.is_some() && view.term.node == self.own() {
            let change = view.change.saturating_add(1);
            self.propose(view.term, change, before.members, before.forced);
        }
    }

    /// The legs that have everything that is answered.
    fn view_members(&self) -> NodeSet {
        match self.own_leg_failed {
            true => self.members().without(self.own()),
            false => self.members(),
        }
    }

    /// The newest view that anybody who is there knows of.
    fn newest_known(&self) -> Option<View> {
        let peers = self.reachable();
        let peers = peers.iter().filter_map(|node| self.peer(node));
        let views = peers.map(|peer| peer.vote.view);
        newest_of(views.chain([self.memory.vote.view]))
    }

    /// Whose view leaves this node out.
    pub(super) fn left_out_by(&self) -> Option<NodeId> {
        let own = self.own();
        self.settings.quorum?;
        let left_out = |view: &View| !view.members.contains(own) && view.term.node != own;
        let view = self.newest_known().filter(left_out);
        view.map(|view| view.term.node)
    }

    /// Whether nothing that a peer has beyond this node was answered, as far as the views tell that anybody who is there has
    /// taken. Whether there is a newer one, the votes say.
    pub(super) fn is_outvoted(&self, node: NodeId) -> bool {
        let quorum = self.settings.quorum.is_some();
        let unvoted = self.peer(node).is_none_or(|peer| peer.vote.unvoted);
        let view = self.newest_known().filter(|view| quorum && !view.forced);
        !unvoted
            && !self.memory.vote.unvoted
            && view.is_some_and(|view| {
                view.members.contains(self.own()) && !view.members.contains(node)
            })
    }

    /// Whose view leaves this node out, or who has newer data.
    fn overtaken(&self) -> Option<Shortage> {
        let left_out = self.left_out_by().map(Shortage::LeftOut);
        left_out.or(self.superseded.map(Shortage::Superseded))
    }

    /// Whether this source may ask for the votes again, after somebody else had them or may have: not while that one goes
    /// on trying, or is in service with the same right. Two would take turns for ever.
    fn may_bid(&self) -> bool {
        let newest = self.newest_known();
        let may_serve = |node: &NodeId| newest.is_none_or(|view| view.members.contains(*node));
        let tries = |node: &NodeId| {
            self.peer(*node)
                .is_some_and(|peer| peer.running || peer.starting)
        };
        !self
            .reachable()
            .iter()
            .any(|node| tries(&node) && may_serve(&node))
    }

    /// A term that somebody who is there has promised after this node's own, if any: its views are not taken any more.
    fn outbid(&self) -> Option<Term> {
        let peers = self.reachable();
        let peers = peers.iter().filter_map(|node| self.peer(node));
        let highest = peers.filter_map(|peer| peer.vote.promised).max();
        highest.filter(|term| Some(*term) > self.memory.vote.promised)
    }

    fn keep_view(&mut self, quorum: Quorum, first: &mut Vec<Action>) {
        let own = self.own();
        let target = self.view_members();
        let present = self.present() >= quorum.need;
        let mut overtaken = self.overtaken();
        let bids = present && overtaken.is_none() && !self.memory.vote.abstains() && self.may_bid();
        let outbid = self.outbid();
        let promised = self.memory.vote.promised;
        let mine = promised.filter(|term| term.node == own && term.number > 0);
        let view = self.memory.vote.view;
        match (mine, view) {
            (Some(_), _) if outbid.is_some() && bids => {
                self.new_term();
            }
            (Some(term), Some(view)) if view.term == term => {
                if view.members != target {
                    self.change_view(term, view.change.saturating_add(1), view.forced, first);
                }
            }
            (Some(term), _) if self.promises(term) >= quorum.need => match self.newest(term) {
                Some(newest) if !newest.members.contains(own) && newest.term.node != own => {
                    overtaken = Some(Shortage::LeftOut(newest.term.node));
                }
                newest => {
                    let forced = newest.is_some_and(|view| view.forced);
                    self.change_view(term, 1, forced, first);
                }
            },
            (Some(_), _) => {}
            // Somebody else has tried meanwhile, and is not in service.
            (None, _) if bids => {
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
            self.guarded = view.members;
            first.push(Action::Guard {
                members: view.members,
                only: true,
            });
        }
        self.memory.lost_quorum = !present && (self.peers_had_time || self.memory.lost_quorum);
        let doubt = outbid.or_else(|| self.in_doubt());
        let (hold, why) = match (overtaken, doubt) {
            (Some(why), _) => (without(quorum), Some(why)),
            (None, _) if !present && !self.peers_had_time => return,
            (None, _) if !present => (without(quorum), Some(Shortage::TooFew)),
            // It is a matter of moments, as long as a majority is there.
            (None, Some(term)) => (Hold::Suspend, Some(Shortage::Outbid(term.node))),
            (None, None) => (Hold::No, None),
        };
        if present {
            self.peers_had_time = true;
        }
        let passes = |why: Option<Shortage>| matches!(why, None | Some(Shortage::Outbid(_)));
        let lasts = passes(self.shortage) && !passes(why);
        self.shortage = why;
        if self.hold != Some(hold) || lasts {
            self.hold = Some(hold);
            first.push(Action::Hold(hold));
        }
    }

    /// The term that ended the one under which this source answered, if another one began.
    fn in_doubt(&self) -> Option<Term> {
        let vote = &self.memory.vote;
        let term = vote.view?.term;
        vote.promised.filter(|promised| *promised > term)
    }

    /// The array waits for whoever is new in it before anybody hears that they have everything.
    fn change_view(&mut self, term: Term, change: u32, forced: bool, first: &mut Vec<Action>) {
        let target = self.view_members();
        self.guard = None;
        self.guarded = self.guarded.and(target);
        first.push(Action::Guard {
            members: target,
            only: false,
        });
        self.propose(term, change, target, forced);
    }
}

fn newest_of(views: impl Iterator<Item = Option<View>>) -> Option<View> {
    views.flatten().fold(None, |newest, view| match newest {
        Some(newest) if !view.is_newer(Some(&newest)) => Some(newest),
        _ => Some(view),
    })
}

fn without(quorum: Quorum) -> Hold {
    match quorum.fail {
        true => Hold::Fail,
        false => Hold::Suspend,
    }
}
