//! Votes: what makes two sources at the same time impossible when a mirror has a quorum.
//!
//! A *view* says which nodes have everything that a source has answered. A source answers writes only while every node of
//! its view has them, and goes on with fewer only when a majority keeps durably that the view is smaller now. Who wants to
//! become source asks a majority for the newest view that any of them knows of: any two majorities have a node in common,
//! so it hears of the last one, and goes into service only if it belongs to it, after a majority has taken its own view.
//!
//! The order is that of Paxos: each attempt has a [`Term`] of its own. A node that has promised a term takes no view of an
//! older one. What is told here is durable before it is told.

use serde::{Deserialize, Serialize};

use super::node::{NodeId, NodeSet};

/// Names one attempt to be the source; the higher one counts, and no two nodes use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Term {
    /// Counts up.
    pub number: u64,
    /// Whose attempt it is.
    pub node: NodeId,
}

/// Who has everything that a source has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The source, and its attempt.
    pub term: Term,
    /// Counts the changes within the term, from 1.
    pub change: u32,
    /// The nodes.
    pub members: NodeSet,
    /// An administrator forced it, or one that it comes from: what others have answered may be missing here.
    pub forced: bool,
}

impl View {
    fn age(&self) -> (Term, u32) {
        (self.term, self.change)
    }

    /// Whether it comes after another, if there is one.
    pub fn is_newer(&self, than: Option<&View>) -> bool {
        than.is_none_or(|than| self.age() > than.age())
    }
}

/// What a node keeps, and tells, of terms and views; only of a mirror with a quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// It takes no view of an older term.
    pub promised: Option<Term>,
    /// The newest view that it took.
    pub view: Option<View>,
    /// It has data of a time without votes, and was not in sync with a source that had any since: views say nothing of what it
    /// answered.
    pub unvoted: bool,
    /// While this node seeks votes for a view that it has proposed: nothing was answered under that one yet.
    #[serde(default)]
    pub attempt: Option<Attempt>,
}

/// What was true before a view was proposed: the newest view that a majority knew of, or that of all nodes if there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// See [`View::members`].
    pub members: NodeSet,
    /// See [`View::forced`].
    pub forced: bool,
}

impl Vote {
    /// Whether it promises nothing, not even as one that was there from the beginning: the mirror is new, its quorum is, or
    /// this node forgot what it promised. It must not count then.
    pub fn abstains(&self) -> bool {
        self.promised.is_none()
    }

    /// Whether nobody has tried yet, as far as it knows.
    pub fn is_blank(&self) -> bool {
        self.view.is_none() && self.promised.is_none_or(|term| term.number == 0)
    }

    /// Begins to vote, with what all the others have promised and taken. Whatever this node forgot, one of them knows: who
    /// asked for a promise remembers it, and a view that counts was taken by another node as well.
    pub fn begin(&mut self, own: NodeId, others: &[Vote]) {
        let first = Term {
            number: 0,
            node: own,
        };
        let promised = others.iter().filter_map(|other| other.promised);
        self.promised = promised.chain([first]).max();
        self.view = others.iter().filter_map(|other| other.view).fold(
            None,
            |newest: Option<View>, view| match view.is_newer(newest.as_ref()) {
                true => Some(view),
                false => newest,
            },
        );
    }

    /// What a node tells of its own attempt.
    pub fn hear(&mut self, node: NodeId, theirs: &Vote) {
        if let Some(term) = theirs.promised.filter(|term| term.node == node)
            && Some(term) > self.promised
        {
            self.promised = Some(term);
        }
        if let Some(view) = theirs.view.filter(|view| view.term.node == node)
            && Some(view.term) >= self.promised
            && view.is_newer(self.view.as_ref())
        {
            self.promised = Some(view.term);
            self.view = Some(view);
        }
    }
}

/// How many nodes have to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// So many of the configured nodes, the own one included; more than half.
    pub need: usize,
    /// The configured nodes.
    pub nodes: usize,
    /// Those of them that have no disk, and only vote.
    pub tie_breakers: NodeSet,
    /// `on-no-quorum = "io-error"`: the application's requests fail. Else they wait.
    pub fail: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(number: u64, node: u8) -> Term {
        let node = NodeId::new(node).unwrap();
        Term { number, node }
    }

    fn view(term: Term, change: u32, members: &[u8]) -> View {
        let members = members.iter().filter_map(|node| NodeId::new(*node));
        View {
            term,
            change,
            members: members.collect(),
            forced: false,
        }
    }

    fn told(term: Term, view: Option<View>) -> Vote {
        Vote {
            promised: Some(term),
            view,
            unvoted: false,
            attempt: None,
        }
    }

    #[test]
    fn who_has_promised_a_term_takes_no_view_of_an_older_one() {
        let (old, new) = (term(3, 0), term(3, 1));
        let mut vote = Vote::default();
        vote.hear(old.node, &told(old, Some(view(old, 1, &[0]))));
        assert_eq!(vote.view, Some(view(old, 1, &[0])));
        vote.hear(new.node, &told(new, None));
        assert_eq!(vote.promised, Some(new));
        // What the former source says now comes too late.
        vote.hear(old.node, &told(old, Some(view(old, 2, &[0, 2]))));
        assert_eq!(vote.view, Some(view(old, 1, &[0])));
        vote.hear(new.node, &told(new, Some(view(new, 1, &[1]))));
        assert_eq!(vote.view, Some(view(new, 1, &[1])));
        vote.hear(new.node, &told(new, Some(view(new, 2, &[1, 2]))));
        vote.hear(new.node, &told(new, Some(view(new, 1, &[1]))));
        assert_eq!(vote.view, Some(view(new, 2, &[1, 2])));
    }

    #[test]
    fn who_forgot_what_it_promised_begins_with_what_the_others_know() {
        let own = NodeId::new(1).unwrap();
        let mut blank = Vote::default();
        assert!(blank.abstains());
        blank.begin(own, &[Vote::default(), Vote::default()]);
        assert!(!blank.abstains() && blank.is_blank(), "{blank:?}");
        let (old, new) = (term(3, 0), term(7, 2));
        let mut forgot = Vote::default();
        let bidder = told(new, Some(view(old, 1, &[0, 1])));
        forgot.begin(own, &[told(old, Some(view(old, 2, &[0]))), bidder]);
        assert_eq!(forgot.promised, Some(new));
        assert_eq!(forgot.view, Some(view(old, 2, &[0])));
        // What was promised before counts again.
        forgot.hear(old.node, &told(old, Some(view(old, 3, &[0, 1]))));
        assert_eq!(forgot.view, Some(view(old, 2, &[0])));
    }

    #[test]
    fn what_a_node_repeats_of_another_is_no_attempt_of_its_own() {
        let other = term(5, 2);
        let mut vote = Vote::default();
        let repeated = told(other, Some(view(other, 1, &[2])));
        vote.hear(NodeId::new(0).unwrap(), &repeated);
        assert_eq!(vote, Vote::default());
    }
}
