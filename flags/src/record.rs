//! The durable state record: what one node knows about whose data is good, in 4096 bytes.
//!
//! All numbers little-endian; what is not named is zero.
//!
//! ```text
//!    0   8  magic "NRAIDREC"            64  64  name of this node, padded with zeroes
//!    8   4  version, 1                 128 256  history: 32 generation ids, newest first
//!   12   4  length, 4096               384 1024 peers: 8 entries of 128 bytes:
//!   16   8  sequence number                  0   1  number of the node
//!   24  16  UUID of the array                4   4  flags
//!   40   4  flags                            8   8  bitmap id
//!   44   1  number of this node             64  64  name, padded with zeroes
//!   45   1  entries in use: peers     4084   8  sequence number again: differs in a torn record
//!   46   1  entries in use: history   4092   4  CRC-32 (IEEE) of bytes 0 to 4091
//!   48   8  current generation id
//!   56   8  generation of this node that was given up
//! 1408   4  number of this node's last agreement
//! 1412  32  votes, of a mirror with a quorum: 1 byte of bits (1: a term was promised, 2: a view was taken, 4: in service
//!           without a quorum, 8: that view was forced, 16: nothing was answered under it yet, 32: the one before it was forced),
//!           3 bytes (the promised term's node, the view's node, its members), 4 the view's change, 8 the promised term's
//!           number, 8 the view's, 1 the members of the one before it; the rest is zero
//! ```
//!
//! A peer's entry has as well: at 16, 8 bytes, the generation of the peer that was given up; at 24, 4 bytes, the number of
//! the agreement under which its leg was added. On legs these are zero: only the node's own files have them.

pub(crate) mod file;
pub(crate) mod pair;

use crate::name::NodeName;
use std::fmt;
use std::ops::{BitOr, Range};

/// Bytes of an encoded record.
pub const RECORD_BYTES: usize = 4096;
/// Peers that a record has room for.
pub const MAX_PEERS: usize = 8;
/// Former generations that a record has room for; who adds one more drops the oldest.
pub const MAX_HISTORY: usize = 32;

/// The name of a generation: a random number, minted by the caller whenever the set of nodes that receive writes shrinks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GenerationId(pub u64);

impl GenerationId {
    /// No generation: nothing was ever written, or the peer is not absent.
    pub const NONE: GenerationId = GenerationId(0);
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! bits {
    ($(#[$doc:meta])* $type:ident { $($(#[$bit_doc:meta])* $name:ident = $bit:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $type(pub u32);

        impl $type {
            $($(#[$bit_doc])* pub const $name: $type = $type(1 << $bit);)*

            const KNOWN: u32 = $(1 << $bit)|*;

            /// Whether every bit of `other` is set.
            pub const fn contains(self, other: $type) -> bool {
                self.0 & other.0 == other.0
            }

            /// These bits with those of `other` set or cleared.
            pub const fn with(self, other: $type, on: bool) -> $type {
                match on {
                    true => $type(self.0 | other.0),
                    false => $type(self.0 & !other.0),
                }
            }
        }

        impl BitOr for $type {
            type Output = $type;

            fn bitor(self, other: $type) -> $type {
                $type(self.0 | other.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut join = "";
                $(if self.contains($type::$name) {
                    write!(f, "{join}{}", stringify!($name))?;
                    join = "|";
                })*
                match self.0 & !$type::KNOWN {
                    0 if !join.is_empty() => Ok(()),
                    rest => write!(f, "{join}{rest:#x}"),
                }
            }
        }
    };
}

bits! {
    /// What is true of this node's own data and of its last role.
    RecordFlags {
        /// This node was source when the record was last written. Still set at the next start, it says that the node
        /// went down as source without being stopped.
        WAS_SOURCE = 0;
        /// The data is a state that existed: not in the middle of a resync.
        CONSISTENT = 1;
        /// No newer data was known of when the record was last written.
        UP_TO_DATE = 2;
        /// Newer data is known to exist elsewhere.
        OUTDATED = 3;
        /// This node is one of the mirror's.
        MEMBER = 4;
        /// This node was in sync with the source of which was last heard.
        IN_SYNC = 5;
        /// This node was in sync when the mirror was last stopped cleanly.
        SETTLED = 6;
        /// The flag file `TAG_last_owner` was there when the record was written.
        LAST_OWNER = 7;
        /// `TAG_data_corrupt` was.
        DATA_CORRUPT = 8;
        /// `TAG_source` named this node.
        SOURCE = 9;
        /// It lost its quorum while it was in service.
        LOST_QUORUM = 10;
    }
}

bits! {
    /// What this node knows about one peer.
    PeerFlags {
        /// The peer was in sync when last heard of.
        IN_SYNC = 0;
        /// The next resync towards the peer has to copy everything.
        FULL_RESYNC = 1;
        /// The peer can't go into service before it was in sync with this node again: it was fenced.
        OUTDATED = 2;
        /// The peer is one of the mirror's nodes.
        MEMBER = 3;
        /// The peer can be resynced without the previous source's bitmap.
        SETTLED = 4;
        /// An administrator paused the peer.
        PAUSED = 5;
        /// `TAG_source` named the peer when the record was written.
        SOURCE = 6;
        /// The peer was in sync with this source, and may not know yet that it goes on without it (`fencing`).
        UNFENCED = 7;
    }
}

/// One peer in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Number of the node, unique in the mirror.
    pub node_id: u8,
    /// Its name.
    pub name: NodeName,
    /// The generation that was current when the peer was last in sync; [`GenerationId::NONE`] while it is not absent.
    pub bitmap: GenerationId,
    /// What is known of it.
    pub flags: PeerFlags,
    /// The generation of its data that an administrator gave up; [`GenerationId::NONE`] if none.
    pub discarded: GenerationId,
    /// The agreement under which its leg was last added.
    pub agreement: u32,
}

/// What a node knows about whose data is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// Counts writes of the record; the copy with the higher one is newer. [`RecordFile`](crate::RecordFile) counts.
    pub sequence: u64,
    /// Identity of the array.
    pub array: [u8; 16],
    /// Number of this node, unique in the mirror.
    pub node_id: u8,
    /// Name of this node.
    pub node: NodeName,
    /// The generation of this node's data.
    pub current: GenerationId,
    /// Former generations, newest first, at most [`MAX_HISTORY`].
    pub history: Vec<GenerationId>,
    /// Consistency and crash flags.
    pub flags: RecordFlags,
    /// The generation of this node's own data that an administrator gave up; [`GenerationId::NONE`] if none.
    pub discarded: GenerationId,
    /// Counts how often this node agreed to take a source's writes.
    pub agreement: u32,
    /// What this node has promised and taken of terms and views.
    pub votes: [u8; 32],
    /// The other nodes, at most [`MAX_PEERS`].
    pub peers: Vec<PeerState>,
}

/// Why bytes are not a record, or a record has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Nothing was ever written there.
    #[error("no state record: the place is blank")]
    Blank,
    /// Cut off, or not a record's size.
    #[error("state record has {have} bytes, not {RECORD_BYTES}")]
    Length {
        /// Bytes given.
        have: usize,
    },
    /// Something else is there.
    #[error("no state record: it starts with {found:02x?}")]
    Magic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// Only a part of it was written: its beginning and its end are of two different writes.
    #[error("state record is torn: it starts with write {head} and ends with write {tail}")]
    Torn {
        /// Sequence number at the start.
        head: u64,
        /// Sequence number at the end.
        tail: u64,
    },
    /// Bytes are not as they were written.
    #[error("state record is damaged: checksum {found:#010x}, its bytes give {expected:#010x}")]
    Checksum {
        /// Checksum in the record.
        found: u32,
        /// Checksum of its bytes.
        expected: u32,
    },
    /// Written by a newer program.
    #[error(
        "state record has version {version}, this program knows version {VERSION}: use the newer program"
    )]
    Version {
        /// Its version.
        version: u32,
    },
    /// Whole, but says something that cannot be.
    #[error("state record is wrong: {what}")]
    Content {
        /// What is wrong.
        what: String,
    },
}

impl StateRecord {
    /// The bytes of the record; refused if it says something that [`StateRecord::decode`] would refuse.
    pub fn encode(&self) -> Result<[u8; RECORD_BYTES], RecordError> {
        self.check()?;
        let mut out = [0_u8; RECORD_BYTES];
        let mut put = |range: Range<usize>, value: &[u8]| {
            let at = range.start;
            out[at..at + value.len()].copy_from_slice(value);
        };
        put(field::MAGIC, &MAGIC);
        put(field::VERSION, &VERSION.to_le_bytes());
        put(field::LENGTH, &(RECORD_BYTES as u32).to_le_bytes());
        put(field::SEQUENCE, &self.sequence.to_le_bytes());
        put(field::ARRAY, &self.array);
        put(field::FLAGS, &self.flags.0.to_le_bytes());
        // check() has shown that both counts are small.
        put(
            field::COUNTS,
            &[
                self.node_id,
                self.peers.len() as u8,
                self.history.len() as u8,
            ],
        );
        put(field::CURRENT, &self.current.0.to_le_bytes());
        put(field::DISCARDED, &self.discarded.0.to_le_bytes());
        put(field::AGREEMENT, &self.agreement.to_le_bytes());
        put(field::VOTES, &self.votes);
        put(field::NODE, self.node.as_str().as_bytes());
        for (id, entry) in self.history.iter().zip(entries(field::HISTORY, 8)) {
            put(entry, &id.0.to_le_bytes());
        }
        for (peer, entry) in self.peers.iter().zip(entries(field::PEERS, field::PEER)) {
            put(within(&entry, field::PEER_ID), &[peer.node_id]);
            put(
                within(&entry, field::PEER_FLAGS),
                &peer.flags.0.to_le_bytes(),
            );
            put(
                within(&entry, field::PEER_BITMAP),
                &peer.bitmap.0.to_le_bytes(),
            );
            put(
                within(&entry, field::PEER_DISCARDED),
                &peer.discarded.0.to_le_bytes(),
            );
            put(
                within(&entry, field::PEER_AGREEMENT),
                &peer.agreement.to_le_bytes(),
            );
            put(
                within(&entry, field::PEER_NAME),
                peer.name.as_str().as_bytes(),
            );
        }
        put(field::SEQUENCE_AGAIN, &self.sequence.to_le_bytes());
        let sum = crc32fast::hash(&out[..field::CRC.start]);
        out[field::CRC].copy_from_slice(&sum.to_le_bytes());
        Ok(out)
    }

    /// Reads a record, which has to be exactly [`RECORD_BYTES`] long.
    pub fn decode(bytes: &[u8]) -> Result<StateRecord, RecordError> {
        let raw: &[u8; RECORD_BYTES] = bytes
            .try_into()
            .map_err(|_| RecordError::Length { have: bytes.len() })?;
        let magic: [u8; 8] = array_at(raw, field::MAGIC);
        if magic != MAGIC {
            return Err(match raw.iter().all(|&byte| byte == 0) {
                true => RecordError::Blank,
                false => RecordError::Magic { found: magic },
            });
        }
        let (head, tail) = (
            u64_at(raw, field::SEQUENCE),
            u64_at(raw, field::SEQUENCE_AGAIN),
        );
        let (version, length) = (u32_at(raw, field::VERSION), u32_at(raw, field::LENGTH));
        let (found, expected) = (
            u32_at(raw, field::CRC),
            crc32fast::hash(&raw[..field::CRC.start]),
        );
        if found != expected {
            return Err(match head == tail {
                true => RecordError::Checksum { found, expected },
                false => RecordError::Torn { head, tail },
            });
        }
        // Every version keeps magic, version and checksum where they are.
        if version != VERSION {
            return Err(RecordError::Version { version });
        }
        if length as usize != RECORD_BYTES || head != tail {
            return Err(wrong(format!("length {length}, writes {head} and {tail}")));
        }
        let [node_id, peers, history] = array_at(raw, field::COUNTS);
        let (peers, history) = (usize::from(peers), usize::from(history));
        if peers > MAX_PEERS || history > MAX_HISTORY {
            return Err(wrong(format!(
                "{peers} peers and {history} former generations"
            )));
        }
        let record = StateRecord {
            sequence: head,
            array: array_at(raw, field::ARRAY),
            node_id,
            node: name_at(raw, field::NODE)?,
            current: GenerationId(u64_at(raw, field::CURRENT)),
            history: entries(field::HISTORY, 8)
                .take(history)
                .map(|at| GenerationId(u64_at(raw, at)))
                .collect(),
            flags: RecordFlags(u32_at(raw, field::FLAGS)),
            discarded: GenerationId(u64_at(raw, field::DISCARDED)),
            agreement: u32_at(raw, field::AGREEMENT),
            votes: array_at(raw, field::VOTES),
            peers: entries(field::PEERS, field::PEER)
                .take(peers)
                .map(|at| peer_at(raw, &at))
                .collect::<Result<_, _>>()?,
        };
        // Whatever has no name is zero: a bit there would be a feature of which this program knows nothing.
        if record.encode()? != *raw {
            return Err(wrong("bytes that have no meaning are not zero".into()));
        }
        Ok(record)
    }

    /// Puts a former generation at the front of the history, once; the oldest is dropped when there is no room.
    pub fn remember(&mut self, id: GenerationId) {
        if id == GenerationId::NONE {
            return;
        }
        self.history.retain(|&known| known != id);
        self.history.insert(0, id);
        self.history.truncate(MAX_HISTORY);
    }

    /// The entry of a peer.
    pub fn peer(&self, node_id: u8) -> Option<&PeerState> {
        self.peers.iter().find(|peer| peer.node_id == node_id)
    }

    fn check(&self) -> Result<(), RecordError> {
        if self.peers.len() > MAX_PEERS {
            return Err(wrong(format!(
                "{} peers, at most {MAX_PEERS} fit",
                self.peers.len()
            )));
        }
        if self.history.len() > MAX_HISTORY {
            return Err(wrong(format!(
                "{} former generations, at most {MAX_HISTORY} fit",
                self.history.len()
            )));
        }
        if self.flags.0 & !RecordFlags::KNOWN != 0 {
            return Err(wrong(format!("unknown flags {:?}", self.flags)));
        }
        if self.history.contains(&GenerationId::NONE) {
            return Err(wrong("an empty generation in the history".into()));
        }
        for (n, peer) in self.peers.iter().enumerate() {
            if peer.flags.0 & !PeerFlags::KNOWN != 0 {
                return Err(wrong(format!(
                    "unknown flags {:?} of peer {}",
                    peer.flags, peer.name
                )));
            }
            let earlier = &self.peers[..n];
            let twice = |id, name: &NodeName| peer.node_id == id || peer.name == *name;
            if twice(self.node_id, &self.node) || earlier.iter().any(|p| twice(p.node_id, &p.name))
            {
                return Err(wrong(format!(
                    "node {} ({}) is there twice",
                    peer.node_id, peer.name
                )));
            }
        }
        Ok(())
    }
}

fn peer_at(raw: &[u8; RECORD_BYTES], entry: &Range<usize>) -> Result<PeerState, RecordError> {
    Ok(PeerState {
        node_id: raw[entry.start],
        name: name_at(raw, within(entry, field::PEER_NAME))?,
        bitmap: GenerationId(u64_at(raw, within(entry, field::PEER_BITMAP))),
        flags: PeerFlags(u32_at(raw, within(entry, field::PEER_FLAGS))),
        discarded: GenerationId(u64_at(raw, within(entry, field::PEER_DISCARDED))),
        agreement: u32_at(raw, within(entry, field::PEER_AGREEMENT)),
    })
}

fn name_at(raw: &[u8; RECORD_BYTES], range: Range<usize>) -> Result<NodeName, RecordError> {
    let padded = &raw[range];
    let end = padded
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(padded.len());
    let name = String::from_utf8_lossy(&padded[..end]);
    NodeName::new(name).map_err(|error| wrong(error.to_string()))
}

fn wrong(what: String) -> RecordError {
    RecordError::Content { what }
}

/// The ranges of the entries of a table.
fn entries(table: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    table.step_by(size).map(move |at| at..at + size)
}

/// A field's range in an entry, as a range in the record.
fn within(entry: &Range<usize>, field: Range<usize>) -> Range<usize> {
    entry.start + field.start..entry.start + field.end
}

// The ranges are constants of the right length, within the record.
fn array_at<const N: usize>(raw: &[u8; RECORD_BYTES], range: Range<usize>) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&raw[range]);
    out
}

fn u32_at(raw: &[u8; RECORD_BYTES], range: Range<usize>) -> u32 {
    u32::from_le_bytes(array_at(raw, range))
}

fn u64_at(raw: &[u8; RECORD_BYTES], range: Range<usize>) -> u64 {
    u64::from_le_bytes(array_at(raw, range))
}

const MAGIC: [u8; 8] = *b"NRAIDREC";
const VERSION: u32 = 1;

mod field {
    use std::ops::Range;

    pub(super) const MAGIC: Range<usize> = 0..8;
    pub(super) const VERSION: Range<usize> = 8..12;
    pub(super) const LENGTH: Range<usize> = 12..16;
    pub(super) const SEQUENCE: Range<usize> = 16..24;
    pub(super) const ARRAY: Range<usize> = 24..40;
    pub(super) const FLAGS: Range<usize> = 40..44;
    /// Number of this node, peers, entries of the history; one byte each.
    pub(super) const COUNTS: Range<usize> = 44..47;
    pub(super) const CURRENT: Range<usize> = 48..56;
    pub(super) const DISCARDED: Range<usize> = 56..64;
    pub(super) const NODE: Range<usize> = 64..128;
    pub(super) const HISTORY: Range<usize> = 128..384;
    pub(super) const PEERS: Range<usize> = 384..1408;
    /// Bytes of one peer.
    pub(super) const PEER: usize = 128;
    pub(super) const PEER_ID: Range<usize> = 0..1;
    pub(super) const PEER_FLAGS: Range<usize> = 4..8;
    pub(super) const PEER_BITMAP: Range<usize> = 8..16;
    pub(super) const PEER_DISCARDED: Range<usize> = 16..24;
    pub(super) const PEER_AGREEMENT: Range<usize> = 24..28;
    pub(super) const PEER_NAME: Range<usize> = 64..128;
    pub(super) const AGREEMENT: Range<usize> = 1408..1412;
    pub(super) const VOTES: Range<usize> = 1412..1444;
    pub(super) const SEQUENCE_AGAIN: Range<usize> = 4084..4092;
    pub(super) const CRC: Range<usize> = 4092..4096;
}

#[cfg(test)]
mod tests;
