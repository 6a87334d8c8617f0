//! The status words that people see: one for each node, from what one node knows.

use std::fmt;

use super::decision::Outcome;
use super::machine::{Machine, Service, Standing};
use super::node::NodeId;

/// A status word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// In service here.
    Source,
    /// In sync.
    Target,
    /// Being resynced.
    Resyncing,
    /// Connected, not in sync, and not being resynced.
    OutOfSync,
    /// The same, and it was source before the one that is now; on the mirror's own page.
    PreviousSource,
    /// It waits for the previous source's bitmap.
    WaitForPreviousSource,
    /// An administrator paused it.
    Paused,
    /// It can't be reached.
    Unknown,
    /// Written without the others.
    SplitBrain,
}

impl Word {
    /// Every word.
    pub const ALL: [Word; 9] = [
        Word::Source,
        Word::Target,
        Word::Resyncing,
        Word::OutOfSync,
        Word::PreviousSource,
        Word::WaitForPreviousSource,
        Word::Paused,
        Word::Unknown,
        Word::SplitBrain,
    ];

    /// The word as it is shown.
    pub const fn text(self) -> &'static str {
        match self {
            Word::Source => "Source",
            Word::Target => "Target",
            Word::Resyncing => "Resyncing",
            Word::OutOfSync => "Out of Sync",
            Word::PreviousSource => "Out of Sync (Previous Source)",
            Word::WaitForPreviousSource => "Out of Sync (Wait for Previous Source)",
            Word::Paused => "Paused",
            Word::Unknown => "Unknown",
            Word::SplitBrain => "Split Brain",
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Machine {
    /// The word for a node in a list of nodes.
    pub fn word(&self, node: NodeId) -> Word {
        match (node == self.settings().own, self.service()) {
            (true, Service::In | Service::Stopping) => Word::Source,
            (true, _) => self.own_word(),
            (false, Service::In | Service::Stopping) => self.target_word(node),
            (false, _) => self.word_from_aside(node),
        }
    }

    /// The word for a node on the mirror's own page: it names the previous source.
    pub fn detailed_word(&self, node: NodeId) -> Word {
        match self.word(node) {
            Word::OutOfSync if self.previous() == Some(node) => Word::PreviousSource,
            word => word,
        }
    }

    fn target_word(&self, node: NodeId) -> Word {
        match self.standing(node) {
            Standing::InSync => Word::Target,
            Standing::Resyncing(_) => Word::Resyncing,
            Standing::Paused => Word::Paused,
            Standing::Unreachable | Standing::NoSource | Standing::NotATarget => Word::Unknown,
            Standing::TwoSources | Standing::SplitBrain | Standing::Newer => Word::SplitBrain,
            Standing::Superseded(by) if by == node => Word::SplitBrain,
            Standing::WaitsForPrevious(_) => Word::WaitForPreviousSource,
            Standing::Adding
            | Standing::Unrelated
            | Standing::Changing
            | Standing::OwnLegFailed
            | Standing::Superseded(_)
            | Standing::AfterPrevious(_)
            | Standing::WaitsForQuickCheck
            | Standing::WaitsForParents
            | Standing::Failed
            | Standing::NotAgreed
            | Standing::Ready(..) => Word::OutOfSync,
        }
    }

    /// A node that is not in service, of itself.
    fn own_word(&self) -> Word {
        let own = self.settings().own;
        let mut sources = self.reachable().iter().filter_map(|node| self.peer(node));
        let source = sources.find(|peer| peer.running);
        let memory = self.memory();
        match source {
            _ if self.reachable().iter().any(|node| self.is_split(node)) => Word::SplitBrain,
            Some(source) if source.has_in_sync(own, memory.agreement) => Word::Target,
            Some(source) if source.resyncing.contains(own) => Word::Resyncing,
            None if memory.fresh && memory.consistent && !memory.outdated => Word::Target,
            _ => Word::OutOfSync,
        }
    }

    /// Another node, as one sees it that is not in service itself.
    fn word_from_aside(&self, node: NodeId) -> Word {
        let Some(peer) = self.peer(node) else {
            return Word::Unknown;
        };
        let mut peers = self.reachable().iter().filter_map(|node| self.peer(node));
        match peers.find(|peer| peer.running) {
            _ if peer.running => Word::Source,
            _ if self.is_split(node) => Word::SplitBrain,
            Some(source) if source.members.contains(node) => Word::Target,
            Some(source) if source.resyncing.contains(node) => Word::Resyncing,
            None if peer.fresh && peer.consistent && !peer.outdated => Word::Target,
            _ => Word::OutOfSync,
        }
    }

    fn is_split(&self, node: NodeId) -> bool {
        self.decision(node)
            .is_some_and(|decision| matches!(decision.outcome, Outcome::SplitBrain(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_exactly_those_that_people_know() {
        let words: Vec<&str> = Word::ALL.iter().map(|word| word.text()).collect();
        assert_eq!(
            words,
            [
                "Source",
                "Target",
                "Resyncing",
                "Out of Sync",
                "Out of Sync (Previous Source)",
                "Out of Sync (Wait for Previous Source)",
                "Paused",
                "Unknown",
                "Split Brain"
            ]
        );
    }
}
