//! Nodes of a mirror by number, sets of them, and their names for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::generation::SLOTS;

/// A node of the mirror: the number of its slot, 0 to 7, which is its leg's place in the array as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct NodeId(u8);

impl TryFrom<u8> for NodeId {
    type Error = String;

    fn try_from(slot: u8) -> Result<NodeId, String> {
        NodeId::new(slot).ok_or_else(|| format!("node {slot}: a mirror's are 0 to {}", SLOTS - 1))
    }
}

impl From<NodeId> for u8 {
    fn from(node: NodeId) -> u8 {
        node.0
    }
}

impl NodeId {
    /// The node in `slot`; `None` from [`SLOTS`] on.
    pub const fn new(slot: u8) -> Option<NodeId> {
        match (slot as usize) < SLOTS {
            true => Some(NodeId(slot)),
            false => None,
        }
    }

    /// The slot, as an index into tables of [`SLOTS`].
    pub const fn slot(self) -> usize {
        self.0 as usize
    }

    /// Every node that can be.
    pub fn all() -> impl Iterator<Item = NodeId> {
        (0..SLOTS as u8).map(NodeId)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of nodes; in JSON the list of their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<NodeId>", into = "Vec<NodeId>")]
pub struct NodeSet(u8);

impl NodeSet {
    /// Nobody.
    pub const NONE: NodeSet = NodeSet(0);

    /// One node.
    pub const fn of(node: NodeId) -> NodeSet {
        NodeSet(1 << node.0)
    }

    /// Whether the node is among them.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }

    /// These and `node`.
    #[must_use]
    pub const fn with(self, node: NodeId) -> NodeSet {
        NodeSet(self.0 | 1 << node.0)
    }

    /// These but not `node`.
    #[must_use]
    pub const fn without(self, node: NodeId) -> NodeSet {
        NodeSet(self.0 & !(1 << node.0))
    }

    /// Those of either.
    #[must_use]
    pub const fn and(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 | other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & !other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn both(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & other.0)
    }

    /// Whether nobody is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// They, by number.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        NodeId::all().filter(move |node| self.contains(*node))
    }
}

impl TryFrom<Vec<NodeId>> for NodeSet {
    type Error = String;

    fn try_from(nodes: Vec<NodeId>) -> Result<NodeSet, String> {
        let set: NodeSet = nodes.iter().copied().collect();
        match set.len() == nodes.len() {
            true => Ok(set),
            false => Err("a node is named twice".into()),
        }
    }
}

impl From<NodeSet> for Vec<NodeId> {
    fn from(set: NodeSet) -> Vec<NodeId> {
        set.iter().collect()
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> NodeSet {
        nodes.into_iter().fold(NodeSet::NONE, NodeSet::with)
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What the mirror and its nodes are called, for sentences and commands that people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The mirror.
    pub tag: String,
    /// The nodes, by slot; slots after the last have no name.
    pub nodes: Vec<String>,
}

impl Names {
    /// What a node is called; one without a name is called by its number.
    pub fn node(&self, node: NodeId) -> String {
        match self.nodes.get(node.slot()) {
            Some(name) => name.clone(),
            None => format!("node {}", node.slot()),
        }
    }

    /// `a`, `a and b`, `a, b and c`; `nobody` for none.
    pub fn list(&self, nodes: NodeSet) -> String {
        let names: Vec<String> = nodes.iter().map(|node| self.node(node)).collect();
        match names.as_slice() {
            [] => "nobody".into(),
            [one] => one.clone(),
            [most @ .., last] => format!("{} and {last}", most.join(", ")),
        }
    }

    /// The node of a name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        let slot = self.nodes.iter().position(|known| known == name)?;
        NodeId::new(u8::try_from(slot).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eight_nodes() {
        assert_eq!(NodeId::all().count(), 8);
        assert_eq!(NodeId::new(7).map(NodeId::slot), Some(7));
        assert_eq!(NodeId::new(8), None);
    }

    #[test]
    fn lists_of_nodes_read_as_people_write_them() {
        let names = Names {
            tag: "t".into(),
            nodes: vec!["a".into(), "b".into(), "c".into()],
        };
        let set = |slots: &[u8]| slots.iter().filter_map(|&slot| NodeId::new(slot)).collect();
        assert_eq!(names.list(set(&[])), "nobody");
        assert_eq!(names.list(set(&[2])), "c");
        assert_eq!(names.list(set(&[0, 2])), "a and c");
        assert_eq!(names.list(set(&[0, 1, 7])), "a, b and node 7");
        assert_eq!(names.find("b"), NodeId::new(1));
    }
}
