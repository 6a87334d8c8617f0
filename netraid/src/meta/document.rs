//! The text itself: JSON with a schema name, a version and a checksum.

use std::ops::Range;

use flags::{
    GenerationId, MAX_HISTORY, MAX_PEERS, NodeName, PeerFlags, PeerState, RecordFlags, StateRecord,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::md::MdUuid;

/// Schema of [`Document`]: the name, and behind the stroke the version.
pub const SCHEMA: &str = "netraid.meta/1";

/// `netraid dump-meta TAG`: everything that a node knows of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Document {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// CRC-32 of `meta`, written without spaces; 8 hexadecimal digits.
    pub checksum: String,
    /// All the rest.
    pub meta: Meta,
}

/// Everything that a node knows of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Meta {
    /// The mirror.
    pub tag: String,
    /// The node that knows it.
    pub node: String,
    /// Its slot, which is its leg's place in the array.
    pub slot: u8,
    /// When, in milliseconds since 1970 by this node's clock. Nothing is decided by it.
    pub time_ms: u64,
    /// The disk of the leg.
    pub disk: String,
    /// Its bytes.
    pub disk_bytes: u64,
    /// The flag files.
    pub flags: crate::api::document::Flags,
    /// The node's own state record; `None` if there is none.
    pub record: Option<Record>,
    /// The leg; `None` if the disk is none, or can't be read as one.
    pub leg: Option<LegMeta>,
    /// What could not be read, and why: sentences.
    pub problems: Vec<String>,
}

/// A state record, in the node's files or on its leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Identity of the array, as mdadm writes it; zeroes if there is none yet.
    pub array: String,
    /// The node whose record it is.
    pub node: String,
    /// Its slot.
    pub slot: u8,
    /// The generation of its data, 16 hexadecimal digits.
    pub current: String,
    /// Former generations, newest first.
    pub history: Vec<String>,
    /// What is true of it.
    pub flags: Vec<String>,
    /// The generation of its data that was given up; zeroes if none.
    pub discarded: String,
    /// Number of its last agreement.
    pub agreement: u32,
    /// What the node has promised and taken in votes, of a mirror with a quorum: as the record has it, in hexadecimal digits
    /// without the zeroes at its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<String>,
    /// The others.
    pub peers: Vec<Peer>,
}

/// One of the others in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Its slot.
    pub slot: u8,
    /// The generation since which it is away; zeroes while it is not.
    pub away: String,
    /// What is known of it.
    pub flags: Vec<String>,
    /// The generation of its data that was given up; zeroes if none.
    pub discarded: String,
    /// The agreement under which its leg was last added.
    pub agreement: u32,
}

/// A leg's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LegMeta {
    /// Identity of the array, as mdadm writes it.
    pub array: String,
    /// Bytes of the mirror.
    pub mirror_bytes: u64,
    /// First byte of its data on the disk.
    pub data_offset: u64,
    /// md's event count.
    pub events: u64,
    /// The superblock says that the array was stopped cleanly.
    pub clean: bool,
    /// The data is a state that the mirror once had: not in the middle of a resync.
    pub consistent: bool,
    /// The record, with the generations that only the superblock tells of.
    pub record: Record,
    /// The write-intent bitmap; `None` for an array without one.
    pub bitmap: Option<Bitmap>,
    /// The md superblock, in lines of hexadecimal digits, without the zeroes at its end.
    pub superblock: Vec<String>,
}

/// A leg's write-intent bitmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bitmap {
    /// Bytes under one bit.
    pub chunk: u32,
    /// Number of bits.
    pub chunks: u64,
    /// Why its bits can't be believed, so that all are set here; `None` if they can.
    pub distrusted: Option<String>,
    /// Bytes that are marked.
    pub dirty_bytes: u64,
    /// The marked chunks: first, and behind the last.
    pub dirty: Vec<[u64; 2]>,
    /// The bitmap's header, in lines of hexadecimal digits, without the zeroes at its end.
    pub header: Vec<String>,
}

/// Why a text is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// No such JSON.
    #[error("it is no text of netraid dump-meta: {0}")]
    Syntax(String),
    /// Another document.
    #[error("it is {0:?}, not a text of netraid dump-meta ({SCHEMA:?})")]
    Schema(String),
    /// A newer program wrote it.
    #[error("it is {0:?}, which a newer version of netraid wrote; this one knows {SCHEMA:?}")]
    Newer(String),
    /// It was changed.
    #[error(
        "it was changed since it was written: its checksum is {found}, its text gives {expected}"
    )]
    Checksum {
        /// As written.
        found: String,
        /// Of the text.
        expected: String,
    },
    /// Something in it can't be.
    #[error("it says what can't be: {0}")]
    Content(String),
}

impl Document {
    /// The text of what was found.
    ///
    /// # Errors
    /// None that is known: of numbers and texts JSON can always be made.
    pub fn new(meta: Meta) -> Result<Document, DocumentError> {
        Ok(Document {
            schema: SCHEMA.into(),
            checksum: checksum(&meta)?,
            meta,
        })
    }

    /// Reads a text, and believes nothing that has another checksum.
    ///
    /// # Errors
    /// It is no such text, of another version, or was changed.
    pub fn parse(text: &[u8]) -> Result<Document, DocumentError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let syntax = |error: serde_json::Error| DocumentError::Syntax(error.to_string());
        let Head { schema } = serde_json::from_slice(text).map_err(syntax)?;
        if schema != SCHEMA {
            let version = schema.strip_prefix("netraid.meta/");
            return Err(match version.and_then(|version| version.parse().ok()) {
                Some(2..=u64::MAX) => DocumentError::Newer(schema),
                _ => DocumentError::Schema(schema),
            });
        }
        let document: Document = serde_json::from_slice(text).map_err(syntax)?;
        let expected = checksum(&document.meta)?;
        match document.checksum == expected {
            true => Ok(document),
            false => Err(DocumentError::Checksum {
                found: document.checksum,
                expected,
            }),
        }
    }
}

fn checksum(meta: &Meta) -> Result<String, DocumentError> {
    let bytes = serde_json::to_vec(meta);
    let bytes = bytes.map_err(|error| DocumentError::Content(error.to_string()))?;
    Ok(format!("{:08x}", crc32fast::hash(&bytes)))
}

impl Record {
    /// For people.
    pub fn of(record: &StateRecord) -> Record {
        Record {
            array: MdUuid(record.array).to_string(),
            node: record.node.to_string(),
            slot: record.node_id,
            current: record.current.to_string(),
            history: record.history.iter().map(ToString::to_string).collect(),
            flags: RECORD_FLAGS
                .iter()
                .filter(|(flag, _)| record.flags.contains(*flag))
                .map(|(_, name)| (*name).to_owned())
                .collect(),
            discarded: record.discarded.to_string(),
            agreement: record.agreement,
            votes: hex(&record.votes),
            peers: record.peers.iter().map(Peer::of).collect(),
        }
    }

    /// Back again.
    ///
    /// # Errors
    /// Something in it can't be.
    pub fn state(&self) -> Result<StateRecord, DocumentError> {
        if self.history.len() > MAX_HISTORY || self.peers.len() > MAX_PEERS {
            return Err(content("too many generations or nodes"));
        }
        Ok(StateRecord {
            sequence: 0,
            array: array(&self.array)?.0,
            node_id: self.slot,
            node: name(&self.node)?,
            current: id(&self.current)?,
            history: self
                .history
                .iter()
                .map(|text| id(text))
                .collect::<Result<_, _>>()?,
            flags: RecordFlags(bits(
                &self.flags,
                &RECORD_FLAGS.map(|(flag, n)| (flag.0, n)),
            )?),
            discarded: id(&self.discarded)?,
            agreement: self.agreement,
            votes: votes(&self.votes)?,
            peers: self
                .peers
                .iter()
                .map(Peer::state)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Peer {
    fn of(peer: &PeerState) -> Peer {
        Peer {
            node: peer.name.to_string(),
            slot: peer.node_id,
            away: peer.bitmap.to_string(),
            flags: PEER_FLAGS
                .iter()
                .filter(|(flag, _)| peer.flags.contains(*flag))
                .map(|(_, name)| (*name).to_owned())
                .collect(),
            discarded: peer.discarded.to_string(),
            agreement: peer.agreement,
        }
    }

    fn state(&self) -> Result<PeerState, DocumentError> {
        Ok(PeerState {
            node_id: self.slot,
            name: name(&self.node)?,
            bitmap: id(&self.away)?,
            flags: PeerFlags(bits(&self.flags, &PEER_FLAGS.map(|(flag, n)| (flag.0, n)))?),
            discarded: id(&self.discarded)?,
            agreement: self.agreement,
        })
    }
}

impl Bitmap {
    /// The marked ranges in bytes of the mirror.
    pub fn dirty_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let chunk = u64::from(self.chunk);
        let byte = move |at: u64| at.saturating_mul(chunk);
        self.dirty
            .iter()
            .map(move |[first, end]| byte(*first)..byte(*end))
    }
}

/// Ranges of chunks for a text: if they are more than `most`, near ones become one, so that more is marked, never less.
pub fn few(ranges: impl Iterator<Item = Range<u64>> + Clone, most: usize) -> Vec<[u64; 2]> {
    let mut gap = 0_u64;
    loop {
        let mut all: Vec<[u64; 2]> = Vec::new();
        for range in ranges.clone() {
            let full = all.len() >= most.max(1);
            match all.last_mut() {
                Some([_, end]) if range.start - *end <= gap => *end = range.end,
                _ if full => break,
                _ => all.push([range.start, range.end]),
            }
        }
        let whole = ranges.clone().last().map(|range| range.end);
        if all.last().map(|[_, end]| *end) == whole {
            return all;
        }
        gap = gap.saturating_mul(2).max(1);
    }
}

/// Bytes as lines of hexadecimal digits, without the zeroes at their end.
pub fn hex(bytes: &[u8]) -> Vec<String> {
    let used = bytes.iter().rposition(|byte| *byte != 0);
    let used = &bytes[..used.map_or(0, |last| last + 1)];
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect();
    used.chunks(32).map(line).collect()
}

/// The first `length` bytes of what [`hex`] wrote.
///
/// # Errors
/// It is more, or no such digits.
pub fn unhex(lines: &[String], length: usize) -> Result<Vec<u8>, DocumentError> {
    let mut bytes = Vec::new();
    for line in lines {
        for pair in line.as_bytes().chunks(2) {
            let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(content(format!("{line:?} is not hexadecimal")));
            };
            bytes.push((high << 4 | low) as u8);
        }
        if bytes.len() > length {
            return Err(content(format!("more than {length} bytes")));
        }
    }
    bytes.resize(length, 0);
    Ok(bytes)
}

fn votes(lines: &[String]) -> Result<[u8; 32], DocumentError> {
    let bytes = unhex(lines, 32)?;
    let votes = bytes.try_into();
    votes.map_err(|_| content("votes are not 32 bytes"))
}

fn content(what: impl Into<String>) -> DocumentError {
    DocumentError::Content(what.into())
}

fn id(text: &str) -> Result<GenerationId, DocumentError> {
    let digits = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    let id = number.map(GenerationId);
    id.ok_or_else(|| content(format!("{text:?} is no generation")))
}

fn name(text: &str) -> Result<NodeName, DocumentError> {
    NodeName::new(text).map_err(|error| content(error.to_string()))
}

/// An array's identity.
///
/// # Errors
/// The text is none.
pub fn array(text: &str) -> Result<MdUuid, DocumentError> {
    text.parse()
        .map_err(|error: crate::md::UuidError| content(error.to_string()))
}

fn bits(names: &[String], known: &[(u32, &str)]) -> Result<u32, DocumentError> {
    names.iter().try_fold(0, |bits, name| {
        let bit = known.iter().find(|(_, known)| known == name);
        let (bit, _) = bit.ok_or_else(|| content(format!("{name:?} is no flag")))?;
        Ok(bits | bit)
    })
}

const RECORD_FLAGS: [(RecordFlags, &str); 11] = [
    (RecordFlags::WAS_SOURCE, "was-source"),
    (RecordFlags::CONSISTENT, "consistent"),
    (RecordFlags::UP_TO_DATE, "up-to-date"),
    (RecordFlags::OUTDATED, "outdated"),
    (RecordFlags::MEMBER, "member"),
    (RecordFlags::IN_SYNC, "in-sync"),
    (RecordFlags::SETTLED, "settled"),
    (RecordFlags::LAST_OWNER, "last-owner"),
    (RecordFlags::DATA_CORRUPT, "data-corrupt"),
    (RecordFlags::SOURCE, "source"),
    (RecordFlags::LOST_QUORUM, "lost-quorum"),
];

const PEER_FLAGS: [(PeerFlags, &str); 8] = [
    (PeerFlags::IN_SYNC, "in-sync"),
    (PeerFlags::FULL_RESYNC, "full-resync"),
    (PeerFlags::OUTDATED, "outdated"),
    (PeerFlags::MEMBER, "member"),
    (PeerFlags::SETTLED, "settled"),
    (PeerFlags::PAUSED, "paused"),
    (PeerFlags::SOURCE, "source"),
    (PeerFlags::UNFENCED, "unfenced"),
];

#[cfg(test)]
mod tests;
