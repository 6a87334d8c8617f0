//! The metadata of a leg that is being added: superblock, bitmap and record, found on its disk or made, and what they have
//! to say before the kernel gets it.

use super::super::step::Step;
use super::Situation;
use crate::array::ArrayError;
use crate::array::leg::{self, Leg, LegError};
use crate::md::format::FormattedLeg;
use crate::md::superblock::{Features, Role, WRITE_MOSTLY};
use crate::md::{BitmapSuperblock, DirtyBits, SECTOR, Superblock};
use crate::mirror::generation::{Generation, Generations};

/// The leg's own metadata, whether it was found or is made.
pub(super) struct Prepared {
    superblock: Superblock,
    bitmap: Option<(u64, BitmapSuperblock)>,
    records: [u64; 2],
    sequence: u64,
}

impl Prepared {
    pub(super) fn new(
        local: &Leg,
        situation: &Situation<'_>,
        whole: Option<&(BitmapSuperblock, DirtyBits)>,
    ) -> Result<Prepared, ArrayError> {
        let slot = situation.slot;
        let mut prepared = match situation.found {
            Some(found) => Prepared {
                superblock: found.superblock.clone(),
                bitmap: found
                    .bitmap
                    .as_ref()
                    .map(|bitmap| (bitmap.start, bitmap.header.clone())),
                records: found.records,
                sequence: found.record.sequence + 1,
            },
            None => Prepared::made(local, situation, whole)?,
        };
        let superblock = &mut prepared.superblock;
        let recovering = match whole {
            Some(_) => Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP,
            None => Features::RECOVERY_OFFSET,
        };
        let all = Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP;
        superblock.features = superblock.features.without(all) | recovering;
        superblock.recovery_offset = 0;
        superblock.devflags |= WRITE_MOSTLY;
        (
            superblock.bblog_size,
            superblock.bblog_offset,
            superblock.bblog_shift,
        ) = (0, 0, 0);
        superblock.events = match whole {
            Some(_) => local.superblock.events,
            // Of an array without a bitmap the kernel takes a leg to its old place only if the leg's count is not behind
            // its own (super_1_validate of drivers/md/md.c), and its own goes on with every change between clean and
            // active. Nobody is misled by too high a count: the leg can't be started before it is recovered, and with
            // its first superblock after that it has the array's.
            None => local.superblock.events.saturating_add(EVENTS_MEANWHILE),
        };
        superblock.resync_offset = local.superblock.resync_offset;
        superblock.raid_disks = local.superblock.raid_disks;
        superblock.roles = local.superblock.roles.clone();
        superblock.dev_number = slot as u32;
        superblock.set_role(slot as u32, Role::Active(slot as u16));
        superblock.updated = situation.now;
        if let (Some((_, header)), Some((array, _))) = (&mut prepared.bitmap, whole) {
            header.events = array.events.max(local.superblock.events);
            header.events_cleared = array.events_cleared;
            header.state = array.state;
            header.write_behind = array.write_behind;
        }
        Ok(prepared)
    }

    fn made(
        local: &Leg,
        situation: &Situation<'_>,
        whole: Option<&(BitmapSuperblock, DirtyBits)>,
    ) -> Result<Prepared, ArrayError> {
        let leg = crate::md::format::NewLeg {
            device: situation.size,
            uuid: situation.uuid,
            write_mostly: true,
            fail_fast: false,
        };
        // Without a bitmap the layout is the same, with room for one.
        let header = whole.map_or_else(|| plain_bitmap(local), |(header, _)| header.clone());
        let number = situation.slot as u32;
        let made = FormattedLeg::join(&local.superblock, &header, number, number as u16, &leg)
            .map_err(|error| {
                ArrayError::refused(format!(
                    "{} can't be a leg: {error}",
                    situation.disk.display()
                ))
            })?;
        let mut superblock = made.superblock;
        if whole.is_none() {
            superblock.features = superblock.features.without(Features::BITMAP_OFFSET);
        }
        Ok(Prepared {
            superblock,
            bitmap: whole.map(|_| (made.layout.bitmap, made.bitmap)),
            records: made
                .layout
                .records
                .ok_or_else(|| ArrayError::failed(LegError::NoRoom))?,
            sequence: 1,
        })
    }

    /// The bitmap, then the superblock that keeps everybody from starting the leg, then the record.
    pub(super) fn step(
        self,
        situation: &Situation<'_>,
        bits: Option<&DirtyBits>,
        local: &Leg,
        generations: &Generations,
    ) -> Result<Step, ArrayError> {
        let mut writes = Vec::new();
        if let (Some((start, header)), Some(bits)) = (&self.bitmap, bits) {
            let used = header.used();
            let mut bytes = bits.encode(header);
            bytes.truncate(used as usize);
            let pieces = bytes.chunks(PIECE).enumerate();
            writes.extend(pieces.map(|(n, piece)| (start + (n * PIECE) as u64, piece.to_vec())));
        }
        let at = self.superblock.super_offset * SECTOR;
        let length = self.superblock.encoded_len();
        writes.push((at, self.superblock.encode()[..length].to_vec()));
        let mut own = generations.clone();
        own.away[situation.slot] = Generation::NONE;
        let names = local.names();
        let record = leg::record(
            &self.superblock,
            situation.slot,
            &names,
            &own,
            self.sequence,
        )
        .map_err(ArrayError::failed)?;
        writes.extend(leg::encode_record(&record, self.records).map_err(ArrayError::failed)?);
        Ok(Step::Write {
            disk: situation.disk.to_owned(),
            what: "it is being recovered".into(),
            writes,
        })
    }
}

/// A header for the layout of a leg of an array without a bitmap.
fn plain_bitmap(local: &Leg) -> BitmapSuperblock {
    BitmapSuperblock {
        uuid: local.superblock.set_uuid,
        events: local.superblock.events,
        events_cleared: local.superblock.events,
        sync_size: local.superblock.size,
        state: 0,
        chunk: crate::md::Layout::default_chunk(local.size()),
        daemon_sleep: 5,
        write_behind: 0,
        sectors_reserved: 0,
        cluster_name: [0; 64],
    }
}

/// Events that an array may have while a leg is prepared for it: some ten a second while an application writes now and
/// then, for as long as a slow disk may need for the steps.
const EVENTS_MEANWHILE: u64 = 1 << 10;
/// Longest write of a bitmap, in bytes.
const PIECE: usize = 1 << 20;
