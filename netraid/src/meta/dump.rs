//! Reads what a node knows of a mirror. Nothing is locked and nothing changed, so it can be done while the mirror is in
//! service; then it is how things were while they were read.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use flags::{FlagFiles, GenerationId, NodeName, RecordFile, StateRecord};

use super::document::{Bitmap, LegMeta, Meta, Record, few, hex};
use crate::api::document::Flags;
use crate::array::disk::{Access, Disk, DiskError};
use crate::array::leg::Leg;
use crate::md::SECTOR;
use crate::md::bitmap::Trust;
use crate::mirror::generation::Generations;

/// Where a node keeps what it knows of a mirror.
#[derive(Clone, Debug)]
pub struct Place {
    /// The flag files; the state record is beside them.
    pub flags: FlagFiles,
    /// The disk of this node's leg.
    pub disk: std::path::PathBuf,
    /// The mirror's nodes, by slot.
    pub names: Vec<NodeName>,
    /// This node's slot.
    pub slot: usize,
}

impl Place {
    /// This node's name.
    pub fn node(&self) -> &str {
        self.names.get(self.slot).map_or("", NodeName::as_str)
    }

    /// The node's state record beside the flags.
    pub fn record(&self) -> RecordFile {
        RecordFile::beside(&self.flags)
    }
}

/// Everything that can be read.
///
/// # Errors
/// The disk can't be opened. What else can't be read is said in the text.
pub fn dump(place: &Place) -> Result<Meta, DiskError> {
    let disk = Disk::open(&place.disk, Access::Read)?;
    let mut problems = Vec::new();
    let leg = match Leg::read(&disk) {
        Ok(leg) => Some(leg),
        Err(error) => {
            problems.push(format!("{}: {error}", place.disk.display()));
            None
        }
    };
    let record = match place.record().load() {
        Ok(record) => record.map(|chosen| chosen.record),
        Err(error) => {
            problems.push(error.to_string());
            None
        }
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Meta {
        tag: place.flags.tag().to_string(),
        node: place.node().to_owned(),
        slot: u8::try_from(place.slot).unwrap_or(u8::MAX),
        time_ms: since.map_or(0, |since| since.as_millis() as u64),
        disk: path(&place.disk),
        disk_bytes: disk.size(),
        flags: flags(&place.flags, &mut problems),
        record: record.as_ref().map(Record::of),
        leg: leg.as_ref().map(LegMeta::of),
        problems,
    })
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// The flag files; one that can't be read counts as not there, and is a problem.
fn flags(files: &FlagFiles, problems: &mut Vec<String>) -> Flags {
    let mut known = |found: Result<bool, flags::FlagError>| match found {
        Ok(found) => found,
        Err(error) => {
            problems.push(error.to_string());
            false
        }
    };
    let (last_owner, data_corrupt) = (known(files.last_owner()), known(files.data_corrupt()));
    let source = match files.source() {
        Ok(source) => source.map(|name| name.to_string()),
        Err(error) => {
            problems.push(error.to_string());
            None
        }
    };
    Flags {
        last_owner,
        source,
        data_corrupt,
    }
}

/// A leg's record with the departures that only its superblock knows of.
pub fn named(leg: &Leg) -> StateRecord {
    let Generations {
        current,
        away,
        history,
    } = leg.witness().generations();
    let mut record = leg.record.clone();
    record.current = GenerationId(current.0);
    record.history = history.iter().map(|id| GenerationId(id.0)).collect();
    for peer in &mut record.peers {
        if let Some(away) = away.get(usize::from(peer.node_id)) {
            peer.bitmap = GenerationId(away.0);
        }
    }
    record
}

impl LegMeta {
    /// For people.
    pub fn of(leg: &Leg) -> LegMeta {
        let superblock = &leg.superblock;
        LegMeta {
            array: superblock.set_uuid.to_string(),
            mirror_bytes: leg.size(),
            data_offset: superblock.data_offset.saturating_mul(SECTOR),
            events: superblock.events,
            clean: superblock.is_clean(),
            consistent: leg.is_consistent(),
            record: Record::of(&named(leg)),
            bitmap: leg.bitmap.as_ref().map(|bitmap| Bitmap {
                chunk: bitmap.header.chunk,
                chunks: bitmap.bits.chunks(),
                distrusted: distrusted(bitmap.trust),
                dirty_bytes: leg
                    .dirty()
                    .iter()
                    .map(|range| range.end - range.start)
                    .sum(),
                dirty: few(bitmap.bits.ranges(), MAX_RANGES),
                header: hex(&bitmap.header.encode()),
            }),
            superblock: hex(&superblock.encode()),
        }
    }
}

fn distrusted(trust: Trust) -> Option<String> {
    Some(match trust {
        Trust::Complete => return None,
        Trust::OutOfDate { bitmap, superblock } => {
            format!("it is of event {bitmap}, the superblock of event {superblock}")
        }
        Trust::MarkedStale => "it is marked as out of date".into(),
        Trust::WriteFailed => "writing it has failed".into(),
        Trust::TooShort { .. } => "it speaks for less than the mirror has".into(),
    })
}

/// Ranges of marked chunks in a text, at most: some 2 MiB of it.
const MAX_RANGES: usize = 100_000;
