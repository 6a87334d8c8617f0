//! A leg's metadata on its disk: md superblock, write-intent bitmap and NetRAID record, read and written together.

use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flags::{
    GenerationId, NodeName, PairError, PeerFlags, PeerState, RECORD_BYTES, RecordError,
    RecordFlags, StateRecord, decode_pair,
};
use nbd_protocol::command::Failure;

use crate::md::bitmap::{STATE_STALE, STATE_WRITE_ERROR, Trust};
use crate::md::format::FormattedLeg;
use crate::md::superblock::{Features, Role, Timestamp, WRITE_MOSTLY};
use crate::md::{
    BitmapError, BitmapSuperblock, Layout, LayoutError, PAGE, ResizeError, Room, SECTOR,
    Superblock, SuperblockError,
};
use crate::mirror::departure::Witness;
use crate::mirror::generation::{Generation, Generations, HISTORY, SLOTS};
use crate::raid1::chunks::ChunkSet;
use crate::raid1::engine::{Shape, Update};
use crate::raid1::leg::{LegImage, LegRecord, Slot, SlotSet, SuperState};
use crate::raid1::link::Link;

/// Where metadata 1.2 has its superblock, in bytes.
const SUPERBLOCK: u64 = 4096;

/// Longest write of bitmap pages, in bytes.
const LONGEST_WRITE: usize = 1 << 20;

/// Why a disk is not a usable leg.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// No superblock, and nothing else that was recognised.
    #[error("the disk holds no mirror: no md superblock at byte 4096")]
    Blank,
    /// The disk can't be read or written.
    #[error("the disk's metadata can't be accessed: {0}")]
    Io(#[from] Failure),
    /// The superblock is damaged, or of a kind that is not understood.
    #[error("the superblock can't be used: {0}")]
    Superblock(SuperblockError),
    /// The bitmap is.
    #[error("the write-intent bitmap can't be used: {0}")]
    Bitmap(#[from] BitmapError),
    /// They do not fit together, or the disk.
    #[error("the leg's layout can't be used: {0}")]
    Layout(#[from] LayoutError),
    /// The record is damaged.
    #[error("the leg's NetRAID record can't be used: {0}")]
    Record(#[from] PairError),
    /// It can't be encoded.
    #[error("the leg's NetRAID record can't be written: {0}")]
    Encode(#[from] RecordError),
    /// Whoever made the array left no room for the record.
    #[error(
        "the leg has no room for NetRAID's record in front of its data: create the mirror with netraid"
    )]
    NoRoom,
    /// More or fewer legs than are possible.
    #[error("the array has {0} legs: 1 to 8 are possible")]
    Legs(u32),
    /// It does not say which of the legs it is.
    #[error("the superblock does not say which leg this is (role {0})")]
    Role(String),
}

/// What is known of the metadata of one leg, beyond what the engine decides.
#[derive(Clone, Debug)]
pub struct Metadata {
    superblock: Superblock,
    bitmap: BitmapSuperblock,
    layout: Layout,
    record: StateRecord,
    slot: Slot,
    /// The bits on the disk are of no use, or of another chunk: the next time all are written, and nothing of the bitmap
    /// counts before they are.
    rewrite: bool,
}

/// Names of the nodes of a mirror, by slot.
pub type NodeNames = Vec<NodeName>;

impl Metadata {
    /// The metadata of a leg that is about to be made. `formatted.superblock.dev_number` is its slot.
    pub fn new(
        formatted: FormattedLeg,
        names: &[NodeName],
        slot: Slot,
    ) -> Result<Metadata, MetadataError> {
        let FormattedLeg {
            layout,
            superblock,
            bitmap,
            ..
        } = formatted;
        let record = StateRecord {
            sequence: 0,
            array: superblock.set_uuid.0,
            node_id: slot.number() as u8,
            node: names[slot.number()].clone(),
            current: GenerationId::NONE,
            history: Vec::new(),
            flags: RecordFlags::default(),
            discarded: GenerationId::NONE,
            agreement: 0,
            votes: [0; 32],
            peers: Slot::first(names.len())
                .filter(|peer| *peer != slot)
                .map(|peer| PeerState {
                    node_id: peer.number() as u8,
                    name: names[peer.number()].clone(),
                    bitmap: GenerationId::NONE,
                    flags: PeerFlags::default(),
                    discarded: GenerationId::NONE,
                    agreement: 0,
                })
                .collect(),
        };
        layout.records.ok_or(MetadataError::NoRoom)?;
        Ok(Metadata {
            superblock,
            bitmap,
            layout,
            record,
            slot,
            rewrite: false,
        })
    }

    /// Reads a leg's metadata.
    pub fn read(link: &Link, patience: Duration) -> Result<(Metadata, LegImage), MetadataError> {
        if link.size() < SUPERBLOCK + PAGE as u64 {
            return Err(MetadataError::Blank);
        }
        let bytes = link.read(SUPERBLOCK, PAGE, patience)?;
        let superblock = match Superblock::decode(&bytes) {
            Err(SuperblockError::NoMagic { .. }) => return Err(MetadataError::Blank),
            other => other.map_err(MetadataError::Superblock)?,
        };
        superblock
            .check_place(SUPERBLOCK / SECTOR, link.size() / SECTOR)
            .map_err(MetadataError::Superblock)?;
        let start = superblock.bitmap_sector().ok_or(LayoutError::NoBitmap)? * SECTOR;
        let bitmap = BitmapSuperblock::decode(&link.read(start, PAGE, patience)?)?;
        let trust = bitmap.trust(&superblock)?;
        // They differ where a resize was interrupted.
        let mut bitmap = bitmap.of_size(superblock.size)?;
        let layout = Layout::of(&superblock, &bitmap)?;
        let size = superblock.size.saturating_mul(SECTOR);
        let chunks = layout.chunks(size);
        let dirty = match trust {
            Trust::Complete => {
                // bitmap_room bounds the bitmap; decode() bounded both by the size of the disk.
                let length = (crate::md::bitmap::HEADER as u64 + chunks.div_ceil(8))
                    .next_multiple_of(SECTOR);
                let whole = link.read(start, length as usize, patience)?;
                ChunkSet::from_bytes(chunks, &whole[crate::md::bitmap::HEADER..])
            }
            Trust::OutOfDate { .. }
            | Trust::MarkedStale
            | Trust::WriteFailed
            | Trust::TooShort { .. } => ChunkSet::full(chunks),
        };
        // The engine has every bit written first of all.
        bitmap.state &= !(STATE_STALE | STATE_WRITE_ERROR);
        let legs = superblock.raid_disks;
        if legs == 0 || legs as usize > SLOTS {
            return Err(MetadataError::Legs(legs));
        }
        let slot = match superblock.role() {
            Role::Active(place) => {
                Slot::new(usize::from(place)).filter(|slot| slot.number() < legs as usize)
            }
            _ => None,
        };
        let slot = slot.ok_or_else(|| MetadataError::Role(format!("{:?}", superblock.role())))?;
        let record = read_record(link, &layout, &superblock, slot, patience)?;
        let mut leg_record = leg_record(&record);
        let (recorded, number) = (leg_record.generations, slot.number());
        leg_record.generations =
            witness(&superblock, recorded, number, !dirty.is_empty()).generations();
        let image = LegImage {
            superblock: super_state(&superblock),
            record: leg_record,
            dirty,
        };
        Ok((
            Metadata {
                superblock,
                bitmap,
                layout,
                record,
                slot,
                rewrite: trust != Trust::Complete,
            },
            image,
        ))
    }

    /// The slot that the leg was made for.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Size, chunk and number of slots of the mirror.
    pub fn shape(&self) -> Shape {
        Shape {
            size: self.superblock.size * SECTOR,
            chunk: u64::from(self.bitmap.chunk),
            slots: self.superblock.raid_disks as usize,
        }
    }

    /// First byte of the data on the leg's disk.
    pub fn data_offset(&self) -> u64 {
        self.layout.data
    }

    /// Identity of the array.
    pub fn array(&self) -> crate::md::MdUuid {
        self.superblock.set_uuid
    }

    /// The superblock as it was read or written last.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The bitmap's header as it was read or written last.
    pub fn bitmap(&self) -> &BitmapSuperblock {
        &self.bitmap
    }

    /// What the leg could hold if its disk has `device` bytes.
    ///
    /// # Errors
    /// If it can't be resized.
    pub fn room(&self, device: u64) -> Result<Room, ResizeError> {
        Room::of(&self.superblock, Some(&self.bitmap), device)
    }

    /// Takes all of a disk that has grown to `device` bytes for data; nothing is written before the next [`Metadata::writes`].
    ///
    /// # Errors
    /// If it can't be resized.
    pub fn use_whole_disk(&mut self, device: u64) -> Result<Room, ResizeError> {
        let room = self.room(device)?;
        self.superblock.data_size = room.data / SECTOR;
        self.layout.data_size = room.data;
        self.bitmap.sectors_reserved = u32::try_from(room.bitmap / SECTOR).unwrap_or(u32::MAX);
        Ok(room)
    }

    /// Makes this leg, which was away while the mirror was resized, one of a mirror of that shape, on a disk of `device`
    /// bytes. What its own bitmap did not speak for counts as dirty. Nothing is written before the mirror takes it, with its
    /// whole bitmap.
    ///
    /// # Errors
    /// If its disk is too small.
    pub fn reshape(
        &mut self,
        image: &mut LegImage,
        shape: Shape,
        device: u64,
    ) -> Result<(), ResizeError> {
        let (before, chunk) = (self.shape(), u32::try_from(shape.chunk).unwrap_or(u32::MAX));
        let room = self.room(device)?;
        if room.data < shape.size {
            let (room, need) = (room.data, shape.size);
            return Err(ResizeError::TooSmall { room, need });
        }
        if room.chunk_for(shape.size, chunk)? != chunk {
            let (room, size) = (room.bitmap, shape.size);
            return Err(ResizeError::BitmapRoom { room, size });
        }
        self.use_whole_disk(device)?;
        image.reshape(before, shape);
        self.rewrite |= chunk != self.bitmap.chunk;
        self.bitmap.chunk = chunk;
        self.layout.chunk = chunk;
        Ok(())
    }

    /// Names of the nodes, by slot.
    pub fn names(&self) -> NodeNames {
        Slot::first(self.superblock.raid_disks as usize)
            .map(|slot| match self.record.peer(slot.number() as u8) {
                Some(peer) => peer.name.clone(),
                None => self.record.node.clone(),
            })
            .collect()
    }

    /// What has to be written for `update`, in this order, each durable before the next is begun.
    ///
    /// The bitmap goes first: the kernel takes a bitmap older than the superblock for stale. The record goes before the
    /// superblock, in two copies: a torn one leaves the other, and a leg whose superblock still says "being resynced"
    /// is not started by anyone. A new size is there with the superblock; the bitmap speaks for it before.
    pub fn writes(
        &mut self,
        update: &Update,
        local: Slot,
    ) -> Result<Vec<(u64, Bytes)>, MetadataError> {
        self.bitmap.events = update.events;
        self.bitmap.events_cleared = update.events_cleared;
        self.bitmap.sync_size = update.size / SECTOR;
        let mut writes = Vec::new();
        if !update.pages.is_empty() && std::mem::take(&mut self.rewrite) {
            self.bitmap.state |= STATE_STALE;
            writes = self.bitmap_writes(&update.pages);
            self.bitmap.state &= !STATE_STALE;
            writes.extend(self.bitmap_writes(&update.pages[..1]));
        } else {
            writes.extend(self.bitmap_writes(&update.pages));
        }
        if let Some((record, state)) = &update.superblock {
            self.set_record(record, state, local);
            let bytes = Bytes::copy_from_slice(&self.record.encode()?);
            for at in self.layout.records.ok_or(MetadataError::NoRoom)? {
                writes.push((at, bytes.clone()));
            }
            self.superblock.size = update.size / SECTOR;
            self.set_superblock(state, local);
            writes.push((
                self.layout.superblock,
                Bytes::copy_from_slice(&self.superblock.encode()),
            ));
        }
        Ok(writes)
    }

    /// Neighbouring pages go out together: a whole bitmap is many pages, and each write waits for the one before.
    fn bitmap_writes(&self, pages: &[(u32, Bytes)]) -> Vec<(u64, Bytes)> {
        let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
        for (page, bits) in pages {
            let start = u64::from(*page) * PAGE as u64;
            let mut bytes = Vec::with_capacity(PAGE);
            if *page == 0 {
                bytes.extend_from_slice(&self.bitmap.encode());
            }
            bytes.extend_from_slice(bits);
            let room = self.layout.bitmap_room.saturating_sub(start);
            bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            let at = self.layout.bitmap + start;
            match writes.last_mut() {
                Some((begin, run))
                    if *begin + run.len() as u64 == at && run.len() < LONGEST_WRITE =>
                {
                    run.extend_from_slice(&bytes);
                }
                _ => writes.push((at, bytes)),
            }
        }
        writes
            .into_iter()
            .map(|(at, bytes)| (at, Bytes::from(bytes)))
            .collect()
    }

    fn set_record(&mut self, record: &LegRecord, state: &SuperState, local: Slot) {
        self.record.sequence += 1;
        self.record.current = GenerationId(record.generations.current.0);
        self.record.history = record
            .generations
            .history
            .iter()
            .map(|id| GenerationId(id.0))
            .collect();
        self.record.flags = RecordFlags::default()
            .with(RecordFlags::WAS_SOURCE, self.slot == local && !state.clean)
            .with(RecordFlags::CONSISTENT, record.consistent)
            .with(
                RecordFlags::UP_TO_DATE,
                record.consistent && !state.recovering,
            );
        for peer in &mut self.record.peers {
            let Some(slot) = Slot::new(usize::from(peer.node_id)) else {
                continue;
            };
            peer.bitmap = GenerationId(record.generations.away[slot.number()].0);
            peer.flags = PeerFlags::default().with(PeerFlags::IN_SYNC, state.active.contains(slot));
        }
    }

    fn set_superblock(&mut self, state: &SuperState, local: Slot) {
        let superblock = &mut self.superblock;
        superblock.events = state.events;
        superblock.updated = now();
        for slot in Slot::first(superblock.raid_disks as usize) {
            let role = if state.active.contains(slot) {
                Role::Active(slot.number() as u16)
            } else {
                Role::Faulty
            };
            superblock.set_role(slot.number() as u32, role);
        }
        if state.clean {
            superblock.mark_clean();
        } else {
            superblock.mark_active();
        }
        let recovering = Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP;
        superblock.features = superblock.features.without(recovering);
        superblock.recovery_offset = 0;
        if state.recovering {
            superblock.features = superblock.features | recovering;
        }
        // Reads over the network are for when nothing else is left; the kernel's md keeps to that too.
        superblock.devflags &= !WRITE_MOSTLY;
        if self.slot != local {
            superblock.devflags |= WRITE_MOSTLY;
        }
    }
}

/// The time of day, for the fields that people read; nothing is decided by it.
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: since.as_secs(),
        // Never a whole second, which is the mark of the kernel's superblocks.
        micros: since.subsec_micros().max(1),
    }
}

/// Whether the kernel's md wrote a superblock last: it counts whole seconds, and we never do (see [`now`]).
fn written_by_the_kernel(superblock: &Superblock) -> bool {
    superblock.updated.micros == 0
}

/// What a leg knows of departures: with it, what the kernel wrote without other legs since the record was written gets a
/// name. Else two legs that it ran alone would pass for equals.
pub fn witness(
    superblock: &Superblock,
    recorded: Generations,
    slot: usize,
    dirty: bool,
) -> Witness {
    let active = superblock.roles.iter().filter_map(|role| match role {
        Role::Active(place) if usize::from(*place) < SLOTS => Some(1_u8 << place),
        _ => None,
    });
    Witness {
        slot,
        array: superblock.set_uuid.0,
        recorded,
        slots: superblock.raid_disks as usize,
        active: active.fold(0, |set, bit| set | bit),
        kernel: written_by_the_kernel(superblock),
        dirty,
    }
}

fn read_record(
    link: &Link,
    layout: &Layout,
    superblock: &Superblock,
    slot: Slot,
    patience: Duration,
) -> Result<StateRecord, MetadataError> {
    let [first, second] = layout.records.ok_or(MetadataError::NoRoom)?;
    let first = link.read(first, RECORD_BYTES, patience)?;
    let second = link.read(second, RECORD_BYTES, patience)?;
    if first.iter().chain(&second).all(|byte| *byte == 0) {
        return foreign_record(superblock, slot);
    }
    let chosen = decode_pair(&first, &second)?.record;
    if chosen.array != superblock.set_uuid.0 {
        // Left over from an earlier mirror on the same disk.
        return foreign_record(superblock, slot);
    }
    Ok(chosen)
}

/// The record of a leg that mdadm or the kernel made: legs of one array with the same event count have the same data
/// (their bitmaps say where not), so these two name the generation.
fn foreign_record(superblock: &Superblock, slot: Slot) -> Result<StateRecord, MetadataError> {
    let mut seed = superblock.events;
    for half in superblock.set_uuid.0.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(half);
        seed =
            (seed.rotate_left(29) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    let name = |slot: Slot| {
        NodeName::new(format!("leg{slot}")).map_err(|_| MetadataError::Role(format!("leg{slot}")))
    };
    let mut peers = Vec::new();
    for peer in Slot::first(superblock.raid_disks as usize).filter(|peer| *peer != slot) {
        let flags = PeerFlags::default();
        peers.push(PeerState {
            node_id: peer.number() as u8,
            name: name(peer)?,
            bitmap: GenerationId::NONE,
            flags,
            discarded: GenerationId::NONE,
            agreement: 0,
        });
    }
    Ok(StateRecord {
        sequence: 0,
        array: superblock.set_uuid.0,
        node_id: slot.number() as u8,
        node: name(slot)?,
        current: GenerationId(seed.max(1)),
        history: Vec::new(),
        flags: RecordFlags::default().with(RecordFlags::CONSISTENT, superblock.is_in_sync()),
        discarded: GenerationId::NONE,
        agreement: 0,
        votes: [0; 32],
        peers,
    })
}

fn super_state(superblock: &Superblock) -> SuperState {
    let active: SlotSet = superblock
        .roles
        .iter()
        .filter_map(|role| match role {
            Role::Active(place) => Slot::new(usize::from(*place)),
            _ => None,
        })
        .collect();
    SuperState {
        events: superblock.events,
        clean: superblock.is_clean(),
        active,
        recovering: superblock.features.contains(Features::RECOVERY_OFFSET),
    }
}

fn leg_record(record: &StateRecord) -> LegRecord {
    let mut generations = Generations {
        current: Generation(record.current.0),
        history: record
            .history
            .iter()
            .take(HISTORY)
            .map(|id| Generation(id.0))
            .collect(),
        ..Generations::default()
    };
    for peer in &record.peers {
        if let Some(away) = generations.away.get_mut(usize::from(peer.node_id)) {
            *away = Generation(peer.bitmap.0);
        }
    }
    LegRecord {
        generations,
        consistent: record.flags.contains(RecordFlags::CONSISTENT),
    }
}
