//! The superblock of a leg: which array it belongs to, what it is there, and how far it is in sync.
//!
//! `struct mdp_superblock_1` of md_p.h, versions 1.0, 1.1 and 1.2, which differ only in where the superblock is. All
//! offsets and sizes are in sectors of 512 bytes, as on the disk. What has no meaning for a mirror is carried along
//! unchanged, so that decoding and encoding gives the same bytes.

mod codec;
mod error;
mod feature;
mod field;
mod role;

pub use error::SuperblockError;
pub use feature::Features;
pub use role::Role;

use super::MdUuid;
use std::ops::Range;

/// First four bytes of every md superblock (little-endian).
pub const MAGIC: u32 = 0xa92b_4efc;

/// [`Superblock::resync_offset`] of an array that was stopped with its legs equal.
pub const IN_SYNC: u64 = u64::MAX;

/// Bytes that a superblock occupies at most; what follows may belong to the bitmap.
pub const BLOCK: usize = 4096;

/// Entries that the role table can have: what fits in [`BLOCK`] after the fixed part.
pub const MAX_DEV: u32 = ((BLOCK - field::DEV_ROLES) / 2) as u32;

/// Seconds and microseconds since 1970, as md packs them: 40 bits and 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds, below 2^40.
    pub seconds: u64,
    /// The upper 24 bits: microseconds, or 0.
    pub micros: u32,
}

impl Timestamp {
    /// A time in whole seconds, which is what `mdadm` and the kernel write.
    pub const fn from_seconds(seconds: u64) -> Timestamp {
        Timestamp {
            seconds: seconds & SECONDS_MASK,
            micros: 0,
        }
    }

    const fn from_raw(raw: u64) -> Timestamp {
        Timestamp {
            seconds: raw & SECONDS_MASK,
            micros: (raw >> 40) as u32,
        }
    }

    const fn to_raw(self) -> u64 {
        (self.seconds & SECONDS_MASK) | ((self.micros as u64) << 40)
    }
}

/// Where on a disk the superblock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Near the end: between 8 and 12 KiB before it, on a 4 KiB boundary.
    V1_0,
    /// At the very start.
    V1_1,
    /// 4 KiB from the start. What we write.
    V1_2,
}

impl Version {
    /// The sector at which a superblock of this version starts on a disk of `device_sectors`; `None` if the disk is too
    /// small to have one.
    pub fn sector(self, device_sectors: u64) -> Option<u64> {
        match self {
            Version::V1_0 => device_sectors.checked_sub(16).map(|s| s & !7),
            Version::V1_1 => (device_sectors >= 8).then_some(0),
            Version::V1_2 => (device_sectors >= 16).then_some(8),
        }
    }
}

/// A decoded superblock. Sizes and offsets in sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Which optional fields are meaningful.
    pub features: Features,
    /// Identity of the array.
    pub set_uuid: MdUuid,
    /// Name of the array, padded with zeroes; see [`Superblock::name`].
    pub set_name: [u8; 32],
    /// When the array was made. Shown to people; never used to decide anything.
    pub created: Timestamp,
    /// Sectors of each leg that the array uses, which for a mirror is the size of the array.
    pub size: u64,
    /// Legs that the array should have.
    pub raid_disks: u32,
    /// Sectors from the superblock to the bitmap, may be negative; meaningful with [`Features::BITMAP_OFFSET`].
    pub bitmap_offset: i32,
    /// `new_level` to `new_offset`, kept as found: they mean something only in a reshape, which is refused.
    pub reshape_fields: [u8; 28],
    /// Sector at which the data starts on this leg.
    pub data_offset: u64,
    /// Sectors that this leg could hold.
    pub data_size: u64,
    /// Sector of this superblock on its disk.
    pub super_offset: u64,
    /// With [`Features::RECOVERY_OFFSET`]: sectors of data, from the start, that have been recovered.
    pub recovery_offset: u64,
    /// This device's index in the role table.
    pub dev_number: u32,
    /// Read errors that were cured by writing again.
    pub corrected_reads: u32,
    /// Identity of this leg.
    pub device_uuid: MdUuid,
    /// Flags of this leg: [`WRITE_MOSTLY`], [`FAIL_FAST`].
    pub devflags: u8,
    /// Bad-block log: block size as a power of two of sectors.
    pub bblog_shift: u8,
    /// Bad-block log: sectors reserved for it.
    pub bblog_size: u16,
    /// Bad-block log: sectors from the superblock, may be negative; 0 means that there is none.
    pub bblog_offset: i32,
    /// When the superblock was last written. Shown to people; never used to decide anything.
    pub updated: Timestamp,
    /// Counts changes of the array's state. The leg with the most knows best which legs are in it.
    pub events: u64,
    /// Data before this sector is known to be equal on all legs; [`IN_SYNC`] when all is.
    pub resync_offset: u64,
    /// Role of each device, indexed by `dev_number`; its length is `max_dev`.
    pub roles: Vec<Role>,
}

/// [`Superblock::devflags`]: read from this leg only when no other is left.
pub const WRITE_MOSTLY: u8 = 1;
/// [`Superblock::devflags`]: no retries, fail at the first error.
pub const FAIL_FAST: u8 = 2;

impl Superblock {
    /// Checks that the superblock belongs where it was read, and to a disk of this size.
    pub fn check_place(&self, sector: u64, device_sectors: u64) -> Result<(), SuperblockError> {
        if self.super_offset != sector {
            return Err(SuperblockError::Misplaced {
                found: sector,
                says: self.super_offset,
            });
        }
        // decode() has shown that the sum does not overflow.
        let end = self.data_offset.saturating_add(self.data_size);
        if end > device_sectors {
            return Err(sizes(
                "data ends after the end of the disk",
                end,
                device_sectors,
            ));
        }
        Ok(())
    }

    /// The name of the array, up to its first zero byte; bytes that are not UTF-8 are replaced.
    ///
    /// `mdadm` writes `HOST:NAME`, or `NAME` alone where that would be too long.
    pub fn name(&self) -> String {
        let end = self
            .set_name
            .iter()
            .position(|&b| b == 0)
            .unwrap_or(self.set_name.len());
        String::from_utf8_lossy(&self.set_name[..end]).into_owned()
    }

    /// Whether the array was stopped with all its legs equal ("clean" in `mdadm --examine`, else "active").
    pub fn is_clean(&self) -> bool {
        self.resync_offset == IN_SYNC
    }

    /// Says that legs may differ where the bitmap has bits. To be made durable before the first bit is set.
    pub fn mark_active(&mut self) {
        self.resync_offset = 0;
    }

    /// Says that the array is cleanly stopped. Only when every in-sync leg has every write and no bit is set for them.
    pub fn mark_clean(&mut self) {
        self.resync_offset = IN_SYNC;
    }

    /// What this leg is in the array. A leg whose number is beyond the table is a spare, as for the kernel.
    pub fn role(&self) -> Role {
        self.roles
            .get(self.dev_number as usize)
            .copied()
            .unwrap_or(Role::Spare)
    }

    /// Writes down what a device is, in this leg's copy of the table; the table grows as needed. Numbers beyond
    /// [`MAX_DEV`] are ignored. Every leg that is there gets the same table.
    pub fn set_role(&mut self, dev_number: u32, role: Role) {
        if dev_number >= MAX_DEV {
            return;
        }
        let number = dev_number as usize;
        if number >= self.roles.len() {
            self.roles.resize(number + 1, Role::Spare);
        }
        self.roles[number] = role;
    }

    /// Whether this leg holds all data: it has a place and no recovery is under way.
    ///
    /// True for a leg that missed writes, too: only `events` and the other legs' bitmaps tell that.
    pub fn is_in_sync(&self) -> bool {
        matches!(self.role(), Role::Active(_)) && !self.features.contains(Features::RECOVERY_OFFSET)
    }

    /// The letters of "Array State" in `mdadm --examine`, one a leg: `A` there, `.` missing, `R` two devices for one
    /// place, `?` more.
    pub fn array_state(&self) -> String {
        let letter = |place| match self
            .roles
            .iter()
            .filter(|r| **r == Role::Active(place))
            .count()
        {
            0 => '.',
            1 => 'A',
            2 => 'R',
            _ => '?',
        };
        // check() bounds raid_disks; a value changed by hand is bounded by the letters a u16 place can name.
        (0..self.raid_disks.min(MAX_DEV) as u16)
            .map(letter)
            .collect()
    }

    /// The sector of the disk at which the internal bitmap starts; `None` when the array has none.
    pub fn bitmap_sector(&self) -> Option<u64> {
        if !self.features.contains(Features::BITMAP_OFFSET) {
            return None;
        }
        self.super_offset
            .checked_add_signed(i64::from(self.bitmap_offset))
    }

    /// Sectors of data, from the start, that this leg holds once its recovery is accounted for.
    pub fn recovered_sectors(&self) -> u64 {
        match self.features.contains(Features::RECOVERY_OFFSET) {
            true => self.recovery_offset.min(self.size),
            false => self.size,
        }
    }

    fn check(&self) -> Result<(), SuperblockError> {
        if let Some((features, reason)) = self.features.refusal() {
            return Err(SuperblockError::Features { features, reason });
        }
        if self.raid_disks == 0 || self.raid_disks > MAX_DEV {
            return Err(SuperblockError::RaidDisks {
                raid_disks: self.raid_disks,
            });
        }
        let limit = i64::MAX as u64 / super::SECTOR;
        let data_end = self.data_offset.checked_add(self.data_size);
        let Some(data_end) = data_end.filter(|&end| end <= limit) else {
            return Err(sizes(
                "data offset and size are beyond any disk",
                self.data_offset,
                self.data_size,
            ));
        };
        if self.super_offset > limit {
            return Err(sizes(
                "superblock is beyond any disk",
                self.super_offset,
                limit,
            ));
        }
        if self.data_size < MIN_DATA_SECTORS {
            return Err(sizes(
                "leg holds almost nothing",
                self.data_size,
                MIN_DATA_SECTORS,
            ));
        }
        if self.size > self.data_size {
            return Err(sizes(
                "array is larger than the leg",
                self.size,
                self.data_size,
            ));
        }
        let own = self.super_offset..self.super_offset + (self.encoded_len() / 512) as u64;
        let data = self.data_offset..data_end;
        if overlap(&own, &data) {
            return Err(sizes(
                "superblock lies in the data",
                self.super_offset,
                self.data_offset,
            ));
        }
        if self.features.contains(Features::BITMAP_OFFSET) {
            let Some(start) = self.bitmap_sector().filter(|&start| start <= limit) else {
                let by = u64::from(self.bitmap_offset.unsigned_abs());
                return Err(sizes(
                    "bitmap is before the start of the disk",
                    self.super_offset,
                    by,
                ));
            };
            let header = start..start + 1;
            if overlap(&header, &own) || overlap(&header, &data) {
                return Err(sizes(
                    "bitmap lies in the superblock or the data",
                    start,
                    self.data_offset,
                ));
            }
        }
        Ok(())
    }
}

fn sizes(what: &'static str, a: u64, b: u64) -> SuperblockError {
    SuperblockError::Sizes { what, a, b }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

const SECONDS_MASK: u64 = (1 << 40) - 1;

/// The kernel refuses legs below this (`super_1_load`: "data_size too small").
const MIN_DATA_SECTORS: u64 = 10;

#[cfg(test)]
pub(super) mod tests;
