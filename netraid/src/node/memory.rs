//! What a node remembers of a mirror, on its disk: the flag files, and the state record beside them.

use flags::{
    FlagError, FlagFiles, FlagState, GenerationId, NodeName, PeerFlags, PeerState, RecordFile,
    RecordFileError, RecordFlags, StateRecord,
};

use crate::mirror::action::Flag;
use crate::mirror::generation::{Generation, Generations, HISTORY, SLOTS};
use crate::mirror::node::{Names, NodeId, NodeSet};
use crate::mirror::record::Memory;
use crate::mirror::vote::{Attempt, Term, View, Vote};

/// Where a node keeps its memory of one mirror, and what the record said last.
#[derive(Debug)]
pub struct Store {
    flags: FlagFiles,
    file: RecordFile,
    names: Vec<NodeName>,
    own: NodeId,
    /// Identity of the array, from the own leg; zero until there is one.
    array: [u8; 16],
    /// Counts the writes of the record.
    sequence: u64,
}

/// Why the memory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A flag file.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordFileError),
    /// The record is of another node or another set of nodes than the configuration's.
    #[error("{file}: {what}; if the configuration is right, move the file away")]
    Foreign {
        /// The record's first file.
        file: String,
        /// What does not fit.
        what: String,
    },
    /// `TAG_source` names a node that the mirror does not have.
    #[error(
        "{file} names {node}, which is not a node of the mirror; put the right name there, or remove the file"
    )]
    UnknownSource {
        /// The file.
        file: String,
        /// What it names.
        node: NodeName,
    },
}

impl Store {
    /// The memory of a mirror whose nodes have these names, by slot. Nothing is read yet.
    pub fn new(flags: FlagFiles, names: Vec<NodeName>, own: NodeId) -> Store {
        let file = RecordFile::beside(&flags);
        Store {
            flags,
            file,
            names,
            own,
            array: [0; 16],
            sequence: 0,
        }
    }

    /// Reads the record; `None` if nothing was ever kept. Of the flag files it says what they were when it was written: what a
    /// hand has done to them since shows in [`Store::flags`].
    ///
    /// # Errors
    /// If a file can't be read, is damaged, or is of another mirror.
    pub fn load(&mut self) -> Result<Option<Memory>, StoreError> {
        let Some(chosen) = self.file.load()? else {
            return Ok(None);
        };
        let record = chosen.record;
        self.check(&record)?;
        self.sequence = record.sequence;
        self.array = record.array;
        Ok(Some(memory_of(&record)))
    }

    /// Makes the memory durable; the flag files are written by [`Store::set`] and [`Store::clear`]. When this returns,
    /// both copies and their folder are on the disk.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn store(&mut self, memory: &Memory, array: Option<[u8; 16]>) -> Result<(), StoreError> {
        self.array = array.unwrap_or(self.array);
        let mut record = record_of(memory, &self.names, self.own, self.array);
        record.sequence = self.sequence;
        let stored = self.file.store(&mut record);
        // Also after a failure: one of the copies may have been written.
        self.sequence = record.sequence;
        Ok(stored?)
    }

    /// What the flag files say now: last owner, source, data corrupt.
    ///
    /// # Errors
    /// If one can't be read, or the source is not a node of the mirror.
    pub fn flags(&self) -> Result<(bool, Option<NodeId>, bool), StoreError> {
        let FlagState {
            last_owner,
            source,
            data_corrupt,
        } = self.flags.read()?;
        let source = match source? {
            None => None,
            Some(name) => Some(self.find(&name).ok_or_else(|| StoreError::UnknownSource {
                file: format!(
                    "{}/{}_source",
                    self.flags.folder().display(),
                    self.flags.tag()
                ),
                node: name,
            })?),
        };
        Ok((last_owner, source, data_corrupt))
    }

    /// Makes or changes a flag file; durable when this returns.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn set(&self, flag: Flag) -> Result<(), StoreError> {
        match flag {
            Flag::LastOwner => self.flags.set_last_owner(true)?,
            Flag::DataCorrupt => self.flags.set_data_corrupt(true)?,
            Flag::Source(node) => self.flags.set_source(self.names.get(node.slot()))?,
        };
        Ok(())
    }

    /// Removes a flag file; durable when this returns.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn clear(&self, flag: Flag) -> Result<(), StoreError> {
        match flag {
            Flag::LastOwner => self.flags.set_last_owner(false)?,
            Flag::DataCorrupt => self.flags.set_data_corrupt(false)?,
            Flag::Source(_) => self.flags.set_source(None)?,
        };
        Ok(())
    }

    /// Removes everything that was kept of the mirror.
    ///
    /// # Errors
    /// If a file can't be removed.
    pub fn forget(&mut self) -> Result<(), StoreError> {
        self.flags.clear_all()?;
        self.file.remove()?;
        self.sequence = 0;
        Ok(())
    }

    /// The folder of the flag files.
    pub fn folder(&self) -> &std::path::Path {
        self.flags.folder()
    }

    fn find(&self, name: &NodeName) -> Option<NodeId> {
        let slot = self.names.iter().position(|known| known == name)?;
        NodeId::new(u8::try_from(slot).ok()?)
    }

    fn check(&self, record: &StateRecord) -> Result<(), StoreError> {
        let own = self.names.get(self.own.slot());
        let told = |id: u8, name: &NodeName| {
            let known = self.names.get(usize::from(id));
            (known != Some(name)).then(|| match known {
                Some(known) => {
                    format!("node {id} is {name} there, and {known} in the configuration")
                }
                None => format!("node {id}, {name}, is not in the configuration"),
            })
        };
        let mut wrong = told(record.node_id, &record.node);
        if wrong.is_none() && own != Some(&record.node) {
            wrong = Some(format!("it is the record of {}", record.node));
        }
        let wrong = wrong.or_else(|| {
            let member = |peer: &&PeerState| peer.flags.contains(PeerFlags::MEMBER);
            let mut peers = record.peers.iter().filter(member);
            peers.find_map(|peer| told(peer.node_id, &peer.name))
        });
        match wrong {
            None => Ok(()),
            Some(what) => Err(StoreError::Foreign {
                file: self.file.paths()[0].display().to_string(),
                what,
            }),
        }
    }
}

/// Names for sentences.
pub fn names(tag: &str, nodes: &[NodeName]) -> Names {
    Names {
        tag: tag.to_owned(),
        nodes: nodes.iter().map(|name| name.to_string()).collect(),
    }
}

fn record_of(memory: &Memory, names: &[NodeName], own: NodeId, array: [u8; 16]) -> StateRecord {
    let id = |generation: Generation| GenerationId(generation.0);
    let peer = |node: NodeId| {
        let has = |set: NodeSet| set.contains(node);
        let slot = node.slot();
        Some(PeerState {
            node_id: node.into(),
            name: names.get(slot)?.clone(),
            bitmap: id(memory.generations.away[slot]),
            flags: PeerFlags::default()
                .with(PeerFlags::MEMBER, has(memory.nodes))
                .with(PeerFlags::IN_SYNC, has(memory.in_sync))
                .with(PeerFlags::SETTLED, has(memory.settled))
                .with(PeerFlags::FULL_RESYNC, has(memory.full))
                .with(PeerFlags::PAUSED, has(memory.paused))
                .with(PeerFlags::OUTDATED, has(memory.fenced))
                .with(PeerFlags::UNFENCED, has(memory.unfenced))
                .with(PeerFlags::SOURCE, memory.source == Some(node)),
            discarded: id(memory.discarded[slot]),
            agreement: memory.agreements[slot],
        })
    };
    let has = |set: NodeSet| set.contains(own);
    StateRecord {
        votes: votes_of(&memory.vote),
        sequence: 0,
        array,
        node_id: own.into(),
        // A node without a name can't be: `Store` is made for nodes of the configuration.
        node: names
            .get(own.slot())
            .or(names.first())
            .cloned()
            .unwrap_or_else(unnamed),
        current: id(memory.generations.current),
        history: memory.generations.history.iter().copied().map(id).collect(),
        flags: RecordFlags::default()
            .with(RecordFlags::WAS_SOURCE, memory.was_source)
            .with(RecordFlags::CONSISTENT, memory.consistent)
            .with(RecordFlags::UP_TO_DATE, memory.fresh)
            .with(RecordFlags::OUTDATED, memory.outdated)
            .with(RecordFlags::LOST_QUORUM, memory.lost_quorum)
            .with(RecordFlags::MEMBER, has(memory.nodes))
            .with(RecordFlags::IN_SYNC, has(memory.in_sync))
            .with(RecordFlags::SETTLED, has(memory.settled))
            .with(RecordFlags::LAST_OWNER, memory.last_owner)
            .with(RecordFlags::DATA_CORRUPT, memory.data_corrupt)
            .with(RecordFlags::SOURCE, memory.source == Some(own)),
        discarded: id(memory.discarded[own.slot()]),
        agreement: memory.agreement,
        peers: NodeId::all()
            .filter(|node| *node != own)
            .filter_map(peer)
            .collect(),
    }
}

/// The votes as the record has them; see there.
fn votes_of(vote: &Vote) -> [u8; 32] {
    let mut out = [0; 32];
    if let Some(term) = vote.promised {
        out[0] |= 1;
        out[1] = term.node.into();
        out[8..16].copy_from_slice(&term.number.to_le_bytes());
    }
    if let Some(view) = vote.view {
        out[0] |= 2 | if view.forced { 8 } else { 0 };
        out[2] = view.term.node.into();
        out[3] = bits_of(view.members);
        out[4..8].copy_from_slice(&view.change.to_le_bytes());
        out[16..24].copy_from_slice(&view.term.number.to_le_bytes());
    }
    if vote.unvoted {
        out[0] |= 4;
    }
    if let Some(attempt) = vote.attempt {
        out[0] |= 16 | if attempt.forced { 32 } else { 0 };
        out[24] = bits_of(attempt.members);
    }
    out
}

fn bits_of(nodes: NodeSet) -> u8 {
    nodes.iter().fold(0, |bits, node| bits | 1 << node.slot())
}

fn nodes_of(bits: u8) -> NodeSet {
    NodeId::all()
        .filter(|node| bits & 1 << node.slot() != 0)
        .collect()
}

fn vote_of(bytes: &[u8; 32]) -> Vote {
    let number = |at: usize| {
        let digits = bytes[at..at + 8].try_into();
        digits.map_or(0, u64::from_le_bytes)
    };
    let term = |node: u8, at: usize| {
        let node = NodeId::new(node)?;
        Some(Term {
            number: number(at),
            node,
        })
    };
    let has = |bit: u8| bytes[0] & bit != 0;
    let change = [bytes[4], bytes[5], bytes[6], bytes[7]];
    Vote {
        promised: term(bytes[1], 8).filter(|_| has(1)),
        view: term(bytes[2], 16).filter(|_| has(2)).map(|term| View {
            term,
            change: u32::from_le_bytes(change),
            members: nodes_of(bytes[3]),
            forced: has(8),
        }),
        unvoted: has(4),
        attempt: has(16).then(|| Attempt {
            members: nodes_of(bytes[24]),
            forced: has(32),
        }),
    }
}

fn unnamed() -> NodeName {
    #[allow(
        clippy::unwrap_used,
        reason = "the name is a constant, and a right one"
    )]
    NodeName::new("unnamed").unwrap()
}

fn memory_of(record: &StateRecord) -> Memory {
    let own = NodeId::new(record.node_id);
    let peers = |flag: PeerFlags, own_too: RecordFlags| -> NodeSet {
        let peers = record.peers.iter().filter(|peer| peer.flags.contains(flag));
        let peers = peers.filter_map(|peer| NodeId::new(peer.node_id));
        let own_too = own_too != RecordFlags::default() && record.flags.contains(own_too);
        peers.chain(own.filter(|_| own_too)).collect()
    };
    let none = RecordFlags::default();
    let history = record.history.iter().take(HISTORY);
    let mut memory = Memory {
        generations: Generations {
            current: Generation(record.current.0),
            away: [Generation::NONE; SLOTS],
            history: history.map(|id| Generation(id.0)).collect(),
        },
        consistent: record.flags.contains(RecordFlags::CONSISTENT),
        outdated: record.flags.contains(RecordFlags::OUTDATED),
        fresh: record.flags.contains(RecordFlags::UP_TO_DATE),
        was_source: record.flags.contains(RecordFlags::WAS_SOURCE),
        last_owner: record.flags.contains(RecordFlags::LAST_OWNER),
        data_corrupt: record.flags.contains(RecordFlags::DATA_CORRUPT),
        source: peers(PeerFlags::SOURCE, RecordFlags::SOURCE).iter().next(),
        nodes: peers(PeerFlags::MEMBER, RecordFlags::MEMBER),
        in_sync: peers(PeerFlags::IN_SYNC, RecordFlags::IN_SYNC),
        settled: peers(PeerFlags::SETTLED, RecordFlags::SETTLED),
        full: peers(PeerFlags::FULL_RESYNC, none),
        paused: peers(PeerFlags::PAUSED, none),
        fenced: peers(PeerFlags::OUTDATED, none),
        unfenced: peers(PeerFlags::UNFENCED, none),
        agreement: record.agreement,
        vote: vote_of(&record.votes),
        lost_quorum: record.flags.contains(RecordFlags::LOST_QUORUM),
        ..Memory::default()
    };
    if let Some(own) = own {
        memory.discarded[own.slot()] = Generation(record.discarded.0);
    }
    for peer in &record.peers {
        if let Some(node) = NodeId::new(peer.node_id) {
            memory.generations.away[node.slot()] = Generation(peer.bitmap.0);
            memory.discarded[node.slot()] = Generation(peer.discarded.0);
            memory.agreements[node.slot()] = peer.agreement;
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use flags::Tag;

    fn node(slot: u8) -> NodeId {
        NodeId::new(slot).unwrap()
    }

    fn set(slots: &[u8]) -> NodeSet {
        slots.iter().copied().map(node).collect()
    }

    fn full_memory() -> Memory {
        let mut memory = Memory {
            generations: Generations {
                current: Generation(7),
                away: [Generation::NONE; SLOTS],
                history: vec![Generation(6), Generation(5)],
            },
            consistent: true,
            outdated: true,
            fresh: true,
            was_source: true,
            last_owner: true,
            source: Some(node(2)),
            data_corrupt: true,
            nodes: set(&[0, 1, 2]),
            in_sync: set(&[1, 2]),
            settled: set(&[0, 1]),
            full: set(&[2]),
            paused: set(&[0]),
            agreement: 9,
            ..Memory::default()
        };
        memory.generations.away[2] = Generation(4);
        memory.discarded[1] = Generation(3);
        memory.discarded[0] = Generation(8);
        memory.agreements[2] = 11;
        memory.lost_quorum = true;
        (memory.fenced, memory.unfenced) = (set(&[0]), set(&[2]));
        let term = |number, slot| Term {
            number,
            node: node(slot),
        };
        memory.vote = Vote {
            promised: Some(term(7, 2)),
            view: Some(View {
                term: term(6, 1),
                change: 5,
                members: set(&[0, 2]),
                forced: true,
            }),
            unvoted: true,
            attempt: Some(Attempt {
                members: set(&[1, 2]),
                forced: true,
            }),
        };
        memory
    }

    fn store(folder: &std::path::Path, names: &[&str], own: u8) -> Store {
        let flags = FlagFiles::new(folder, Tag::new("t").unwrap());
        let names = names.iter().map(|name| NodeName::new(*name).unwrap());
        Store::new(flags, names.collect(), node(own))
    }

    #[test]
    fn what_was_kept_is_found_again_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = store(folder.path(), &["a", "b", "c"], 1);
        assert_eq!(kept.load().unwrap(), None);
        let memory = full_memory();
        kept.set(Flag::LastOwner).unwrap();
        kept.set(Flag::Source(node(2))).unwrap();
        kept.set(Flag::DataCorrupt).unwrap();
        kept.store(&memory, Some([3; 16])).unwrap();
        let mut again = store(folder.path(), &["a", "b", "c"], 1);
        assert_eq!(again.load().unwrap(), Some(memory.clone()));
        // The identity of the array is kept, and the next write counts on.
        again.store(&memory, None).unwrap();
        let found = again.file.load().unwrap().unwrap().record;
        assert_eq!((found.array, found.sequence), ([3; 16], 2));
        again.clear(Flag::Source(node(2))).unwrap();
        again.clear(Flag::LastOwner).unwrap();
        again.clear(Flag::DataCorrupt).unwrap();
        assert_eq!(again.flags().unwrap(), (false, None, false));
        again.forget().unwrap();
        assert_eq!(again.load().unwrap(), None);
    }

    #[test]
    fn a_record_of_other_nodes_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = store(folder.path(), &["a", "b", "c"], 1);
        kept.store(&full_memory(), None).unwrap();
        for (names, own, why) in [
            (
                &["a", "x", "c"][..],
                1,
                "node 1 is b there, and x in the configuration",
            ),
            (&["a", "b", "c"][..], 0, "it is the record of b"),
            (&["a", "b"][..], 1, "node 2, c, is not in the configuration"),
        ] {
            let error = store(folder.path(), names, own)
                .load()
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_source_that_is_no_node_of_the_mirror_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let kept = store(folder.path(), &["a", "b"], 0);
        let stranger = NodeName::new("z").unwrap();
        kept.flags.set_source(Some(&stranger)).unwrap();
        let error = kept.flags().unwrap_err().to_string();
        assert!(
            error.contains("names z, which is not a node of the mirror"),
            "{error}"
        );
    }
}
