//! A leg at rest or under a running kernel: what its metadata says, and what to write to say something else.

use std::ops::Range;

use flags::{
    GenerationId, NodeName, PairError, PeerFlags, PeerState, RECORD_BYTES, RecordError,
    RecordFlags, StateRecord, decode_pair,
};

use super::disk::{Disk, DiskError};
use crate::md::bitmap::Trust;
use crate::md::layout::{RECORD_SLOT, records_without_bitmap};
use crate::md::superblock::Features;
use crate::md::{
    BitmapError, BitmapSuperblock, DirtyBits, FindError, LayoutError, Role, SECTOR, Superblock,
    SuperblockError, find,
};
use crate::mirror::departure::Witness;
use crate::mirror::generation::{Generation, Generations, HISTORY, SLOTS};
use crate::raid1::metadata;

/// Why a disk is not a leg that can be used.
#[derive(Debug, thiserror::Error)]
pub enum LegError {
    /// No md superblock where versions 1.2 and 1.0 have it.
    #[error("the disk holds no mirror: no md superblock of version 1.2 or 1.0")]
    Blank,
    /// It can't be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The superblock is damaged, or of a kind that is not understood.
    #[error("the superblock can't be used: {0}")]
    Superblock(SuperblockError),
    /// The bitmap is.
    #[error("the write-intent bitmap can't be used: {0}")]
    Bitmap(BitmapError),
    /// They do not fit together, or the disk.
    #[error("the leg's layout can't be used: {0}")]
    Layout(LayoutError),
    /// Both copies of the record are damaged.
    #[error("the leg's NetRAID record can't be used: {0}")]
    Record(#[from] PairError),
    /// A record that can't be written.
    #[error("the leg's NetRAID record can't be written: {0}")]
    Encode(#[from] RecordError),
    /// Whoever made the array left no room for the record.
    #[error(
        "the leg has no room for NetRAID's record: create the mirror with netraid array create"
    )]
    NoRoom,
    /// More or fewer legs than are possible.
    #[error("the array has {0} legs: 1 to 8 are possible")]
    Legs(u32),
    /// It does not say which of the legs it is.
    #[error("the superblock does not say which leg this is: {0}")]
    Role(Role),
    /// A name that no node can have.
    #[error("{0}")]
    Name(#[from] flags::NameError),
}

impl From<FindError<DiskError>> for LegError {
    fn from(error: FindError<DiskError>) -> LegError {
        match error {
            FindError::Read(error) => LegError::Disk(error),
            FindError::Blank => LegError::Blank,
            FindError::Superblock(error) => LegError::Superblock(error),
            FindError::Bitmap(error) => LegError::Bitmap(error),
            FindError::Layout(error) => LegError::Layout(error),
        }
    }
}

/// One leg's metadata.
#[derive(Clone, Debug)]
pub struct Leg {
    /// As read.
    pub superblock: Superblock,
    /// `None` for an array without one: then nothing can be resynced in part.
    pub bitmap: Option<Bitmap>,
    /// As read; made up if there is none, or one of another array.
    pub record: StateRecord,
    /// Where both copies of the record are, in bytes.
    pub records: [u64; 2],
    /// The leg's slot, which is its md raid-disk number.
    pub slot: usize,
}

/// A leg's write-intent bitmap.
#[derive(Clone, Debug)]
pub struct Bitmap {
    /// Its first byte on the disk.
    pub start: u64,
    /// Its header.
    pub header: BitmapSuperblock,
    /// Its bits; all set if they can't be believed.
    pub bits: DirtyBits,
    /// Whether they can.
    pub trust: Trust,
}

/// Something to write, in bytes from the start of a disk.
pub type Write = (u64, Vec<u8>);

impl Leg {
    /// Reads a leg's metadata.
    pub fn read(disk: &Disk) -> Result<Leg, LegError> {
        Leg::read_by(disk.size(), |at, length| disk.read(at, length))
    }

    /// The same of a disk of `size` bytes, whoever does the reading.
    pub fn read_by(
        size: u64,
        read: impl Fn(u64, usize) -> Result<Vec<u8>, DiskError>,
    ) -> Result<Leg, LegError> {
        let found = find(size, &read)?;
        let superblock = found.superblock;
        let legs = superblock.raid_disks;
        if legs == 0 || legs as usize > SLOTS {
            return Err(LegError::Legs(legs));
        }
        let place = match superblock.role() {
            Role::Active(place) if u32::from(place) < legs => Some(usize::from(place)),
            // The kernel writes this when it has taken a leg and not yet given it its place; then the record knows.
            Role::Spare => None,
            other => return Err(LegError::Role(other)),
        };
        let records = match &found.bitmap {
            Some(bitmap) => bitmap.layout.records,
            None => records_without_bitmap(&superblock),
        };
        let bitmap = found.bitmap.map(|bitmap| Bitmap {
            start: bitmap.layout.bitmap,
            header: bitmap.header,
            bits: bitmap.bits,
            trust: bitmap.trust,
        });
        let records = records.ok_or(LegError::NoRoom)?;
        let stored = stored_record(&read, records, &superblock)?;
        let known = stored.as_ref().map(|record| usize::from(record.node_id));
        let slot = place.or(known.filter(|&slot| slot < legs as usize));
        let slot = slot.ok_or(LegError::Role(Role::Spare))?;
        let record = match stored {
            Some(record) => record,
            None => made_up_record(&superblock, slot)?,
        };
        Ok(Leg {
            superblock,
            bitmap,
            record,
            records,
            slot,
        })
    }

    /// What this leg knows, for the decision whose data is good.
    pub fn witness(&self) -> Witness {
        let dirty = self
            .bitmap
            .as_ref()
            .is_none_or(|bitmap| !bitmap.bits.is_clean() || bitmap.trust != Trust::Complete);
        let recorded = generations(&self.record);
        metadata::witness(&self.superblock, recorded, self.slot, dirty)
    }

    /// Whether the leg's data is one state that the mirror once had, so that it may be put into service.
    pub fn is_consistent(&self) -> bool {
        self.superblock.is_in_sync() && self.record_is_consistent()
    }

    /// Whether the record says so; the superblock may say that the leg is being recovered.
    pub fn record_is_consistent(&self) -> bool {
        self.record.flags.contains(RecordFlags::CONSISTENT)
    }

    /// Whether this is a leg of mirror `tag`. A long tag is cut in the superblock.
    pub fn is_of(&self, tag: &str) -> bool {
        let name = self.tag();
        name == tag || name.len() == 31 && tag.starts_with(&name)
    }

    /// The tag, which stands behind the name of a host.
    pub fn tag(&self) -> String {
        let name = self.superblock.name();
        match name.split_once(':') {
            Some((_, tag)) => tag.to_owned(),
            None => name,
        }
    }

    /// Bytes of the mirror.
    pub fn size(&self) -> u64 {
        self.superblock.size.saturating_mul(SECTOR)
    }

    /// Names of the nodes, by slot.
    pub fn names(&self) -> Vec<NodeName> {
        let peer = |slot: usize| self.record.peer(slot as u8).map(|peer| peer.name.clone());
        (0..self.superblock.raid_disks as usize)
            .map(|slot| peer(slot).unwrap_or_else(|| self.record.node.clone()))
            .collect()
    }

    /// Dirty ranges in bytes of the mirror; all of it without a bitmap, or where a full recovery was not finished: that
    /// follows a position and not the bitmap, whose bits then say nothing about the rest.
    pub fn dirty(&self) -> Vec<Range<u64>> {
        let size = self.size();
        let features = self.superblock.features;
        let full_recovery = features.contains(Features::RECOVERY_OFFSET)
            && !features.contains(Features::RECOVERY_BITMAP);
        match &self.bitmap {
            _ if full_recovery => std::iter::once(0..size).collect(),
            None => std::iter::once(0..size).collect(),
            Some(bitmap) => {
                let chunk = u64::from(bitmap.header.chunk);
                let ranges = bitmap.bits.ranges();
                ranges
                    .map(|run| run.start * chunk..(run.end * chunk).min(size))
                    .collect()
            }
        }
    }

    /// The record that makes this leg say `generations`: both copies, to be written one after the other.
    pub fn record_writes(&self, generations: &Generations) -> Result<Vec<Write>, LegError> {
        let names = self.names();
        let sequence = self.record.sequence + 1;
        let record = record(&self.superblock, self.slot, &names, generations, sequence)?;
        encode_record(&record, self.records)
    }
}

/// Both copies of a record.
pub fn encode_record(record: &StateRecord, at: [u64; 2]) -> Result<Vec<Write>, LegError> {
    let bytes = record.encode()?.to_vec();
    Ok(at.map(|at| (at, bytes.clone())).into())
}

/// The record of the leg in `slot`. Whether its data is consistent the superblock says too, as soon as the kernel has it:
/// a leg that is being recovered is not.
pub fn record(
    superblock: &Superblock,
    slot: usize,
    names: &[NodeName],
    generations: &Generations,
    sequence: u64,
) -> Result<StateRecord, LegError> {
    let node = names.get(slot).cloned();
    let peers = names.iter().enumerate().filter(|(peer, _)| *peer != slot);
    Ok(StateRecord {
        sequence,
        array: superblock.set_uuid.0,
        node_id: slot as u8,
        node: node.ok_or(LegError::Legs(slot as u32))?,
        current: GenerationId(generations.current.0),
        history: generations
            .history
            .iter()
            .map(|id| GenerationId(id.0))
            .collect(),
        flags: RecordFlags::CONSISTENT,
        discarded: GenerationId::NONE,
        agreement: 0,
        votes: [0; 32],
        peers: peers
            .map(|(peer, name)| {
                let away = generations.away[peer];
                PeerState {
                    node_id: peer as u8,
                    name: name.clone(),
                    bitmap: GenerationId(away.0),
                    flags: PeerFlags::default().with(PeerFlags::IN_SYNC, away == Generation::NONE),
                    discarded: GenerationId::NONE,
                    agreement: 0,
                }
            })
            .collect(),
    })
}

/// The generations of a record.
pub fn generations(record: &StateRecord) -> Generations {
    let history = record.history.iter().take(HISTORY);
    let mut generations = Generations {
        current: Generation(record.current.0),
        history: history.map(|id| Generation(id.0)).collect(),
        ..Generations::default()
    };
    for peer in &record.peers {
        if let Some(away) = generations.away.get_mut(usize::from(peer.node_id)) {
            *away = Generation(peer.bitmap.0);
        }
    }
    generations
}

/// The leg's record; `None` if it has none, or one that is left over from an earlier mirror on the same disk.
fn stored_record(
    read: impl Fn(u64, usize) -> Result<Vec<u8>, DiskError>,
    at: [u64; 2],
    superblock: &Superblock,
) -> Result<Option<StateRecord>, LegError> {
    debug_assert_eq!(at[1] - at[0], RECORD_SLOT);
    let first = read(at[0], RECORD_BYTES)?;
    let second = read(at[1], RECORD_BYTES)?;
    if first.iter().chain(&second).all(|byte| *byte == 0) {
        return Ok(None);
    }
    let chosen = decode_pair(&first, &second)?.record;
    Ok(Some(chosen).filter(|record| record.array == superblock.set_uuid.0))
}

/// No record: mdadm made the array. It has no generation, and so nothing is resynced in part to or from it.
fn made_up_record(superblock: &Superblock, slot: usize) -> Result<StateRecord, LegError> {
    let names = (0..superblock.raid_disks as usize).map(|slot| NodeName::new(format!("leg{slot}")));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    record(superblock, slot, &names, &Generations::default(), 0)
}
