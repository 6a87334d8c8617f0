//! The superblock of a leg: which array it belongs to, what it is there, and how far it is in sync.
//!
//! `struct mdp_superblock_1` of md_p.h, versions 1.0, 1.1 and 1.2, which differ only in where the superblock is. All
//! offsets and sizes are in sectors of 512 bytes, as on the disk. What has no meaning for a mirror is carried along
//! unchanged, so that decoding and encoding gives the same bytes.

mod feature;
mod field;
mod role;

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

/// Why bytes are not a superblock that we can use. Any of these means: do not touch the leg.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Fewer bytes than a superblock has.
    #[error("md superblock is cut short: {have} bytes, {need} needed")]
    Short {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Something else is there, or nothing.
    #[error("no md superblock: magic is {found:#010x}, not 0xa92b4efc")]
    NoMagic {
        /// What is in its place.
        found: u32,
    },
    /// Not version 1.
    #[error("md superblock has version {major}, only version 1 is known")]
    Version {
        /// `major_version` as found.
        major: u32,
    },
    /// The role table would not fit.
    #[error("md superblock says that it has {max_dev} roles, at most {MAX_DEV} fit")]
    MaxDev {
        /// `max_dev` as found.
        max_dev: u32,
    },
    /// The bytes were changed or only partly written.
    #[error("md superblock is damaged: checksum {found:#010x}, its bytes give {expected:#010x}")]
    Checksum {
        /// Checksum in the superblock.
        found: u32,
        /// Checksum of its bytes.
        expected: u32,
    },
    /// Bytes that must be zero are not: a format newer than ours.
    #[error(
        "md superblock has non-zero padding at byte {at}: the format is newer than this program"
    )]
    Padding {
        /// Offset in the superblock.
        at: usize,
    },
    /// Uses a feature that we do not honour.
    #[error("md superblock uses features {features:?}: {reason}")]
    Features {
        /// The features that are not understood.
        features: Features,
        /// Why the first of them stands in the way.
        reason: &'static str,
    },
    /// Not a mirror.
    #[error("md superblock belongs to an array of level {level}, not a mirror (level 1)")]
    Level {
        /// `level` as found, signed.
        level: i32,
    },
    /// A mirror has neither chunks nor a layout.
    #[error("md superblock of a mirror has {field} {value}, not 0")]
    NotZero {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A count that makes no sense.
    #[error(
        "md superblock says that the mirror has {raid_disks} legs, 1 to {MAX_DEV} are possible"
    )]
    RaidDisks {
        /// `raid_disks` as found.
        raid_disks: u32,
    },
    /// Offsets and sizes that do not fit in a disk.
    #[error("md superblock has impossible sizes: {what} ({a} and {b} sectors)")]
    Sizes {
        /// What does not fit, in words.
        what: &'static str,
        /// First number of the comparison.
        a: u64,
        /// Second number of the comparison.
        b: u64,
    },
    /// It is a copy of a superblock from another place, for example of the whole disk that this partition is on.
    #[error("md superblock found at sector {found} says that it belongs at sector {says}")]
    Misplaced {
        /// Where it was read.
        found: u64,
        /// `super_offset`.
        says: u64,
    },
}

impl Superblock {
    /// Reads a superblock from the first bytes of `bytes` ([`BLOCK`] bytes are always enough) and checks all that can
    /// be checked without knowing the disk; see [`Superblock::check_place`] for the rest.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, SuperblockError> {
        let need = |need| match bytes.len() < need {
            true => Err(SuperblockError::Short {
                have: bytes.len(),
                need,
            }),
            false => Ok(()),
        };
        need(field::DEV_ROLES)?;
        let magic = u32_at(bytes, field::MAGIC);
        if magic != MAGIC {
            return Err(SuperblockError::NoMagic { found: magic });
        }
        let major = u32_at(bytes, field::MAJOR_VERSION);
        if major != 1 {
            return Err(SuperblockError::Version { major });
        }
        let max_dev = u32_at(bytes, field::MAX_DEV);
        if max_dev > MAX_DEV {
            return Err(SuperblockError::MaxDev { max_dev });
        }
        let length = field::DEV_ROLES + 2 * max_dev as usize;
        need(length)?;
        let covered = &bytes[..length];
        let (found, expected) = (u32_at(bytes, field::SB_CSUM), checksum(covered));
        if found != expected {
            return Err(SuperblockError::Checksum { found, expected });
        }
        if let Some(at) = [field::PAD0, field::PAD3]
            .into_iter()
            .flatten()
            .find(|&at| bytes[at] != 0)
        {
            return Err(SuperblockError::Padding { at });
        }
        let level = u32_at(bytes, field::LEVEL) as i32;
        if level != 1 {
            return Err(SuperblockError::Level { level });
        }
        for (range, field) in [(field::LAYOUT, "layout"), (field::CHUNKSIZE, "chunk size")] {
            let value = u32_at(bytes, range);
            if value != 0 {
                return Err(SuperblockError::NotZero { field, value });
            }
        }
        let superblock = Superblock {
            features: Features(u32_at(bytes, field::FEATURE_MAP)),
            set_uuid: MdUuid(array_at(bytes, field::SET_UUID)),
            set_name: array_at(bytes, field::SET_NAME),
            created: Timestamp::from_raw(u64_at(bytes, field::CTIME)),
            size: u64_at(bytes, field::SIZE),
            raid_disks: u32_at(bytes, field::RAID_DISKS),
            bitmap_offset: u32_at(bytes, field::BITMAP_OFFSET) as i32,
            reshape_fields: array_at(bytes, field::RESHAPE),
            data_offset: u64_at(bytes, field::DATA_OFFSET),
            data_size: u64_at(bytes, field::DATA_SIZE),
            super_offset: u64_at(bytes, field::SUPER_OFFSET),
            recovery_offset: u64_at(bytes, field::RECOVERY_OFFSET),
            dev_number: u32_at(bytes, field::DEV_NUMBER),
            corrected_reads: u32_at(bytes, field::CNT_CORRECTED_READ),
            device_uuid: MdUuid(array_at(bytes, field::DEVICE_UUID)),
            devflags: bytes[field::DEVFLAGS],
            bblog_shift: bytes[field::BBLOG_SHIFT],
            bblog_size: u16::from_le_bytes(array_at(bytes, field::BBLOG_SIZE)),
            bblog_offset: u32_at(bytes, field::BBLOG_OFFSET) as i32,
            updated: Timestamp::from_raw(u64_at(bytes, field::UTIME)),
            events: u64_at(bytes, field::EVENTS),
            resync_offset: u64_at(bytes, field::RESYNC_OFFSET),
            roles: covered[field::DEV_ROLES..]
                .chunks_exact(2)
                .map(|raw| Role::from_raw(u16::from_le_bytes([raw[0], raw[1]])))
                .collect(),
        };
        superblock.check()?;
        Ok(superblock)
    }

    /// The superblock as it is written to the disk: [`BLOCK`] bytes, checksum filled in, zeroes after the role table.
    ///
    /// The kernel and `mdadm` write only the first [`Superblock::encoded_len`] bytes of these.
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut out = [0_u8; BLOCK];
        put(&mut out, field::MAGIC, &MAGIC.to_le_bytes());
        put(&mut out, field::MAJOR_VERSION, &1_u32.to_le_bytes());
        put(&mut out, field::FEATURE_MAP, &self.features.0.to_le_bytes());
        put(&mut out, field::SET_UUID, &self.set_uuid.0);
        put(&mut out, field::SET_NAME, &self.set_name);
        put(&mut out, field::CTIME, &self.created.to_raw().to_le_bytes());
        put(&mut out, field::LEVEL, &1_u32.to_le_bytes());
        put(&mut out, field::SIZE, &self.size.to_le_bytes());
        put(&mut out, field::RAID_DISKS, &self.raid_disks.to_le_bytes());
        put(
            &mut out,
            field::BITMAP_OFFSET,
            &self.bitmap_offset.to_le_bytes(),
        );
        put(&mut out, field::RESHAPE, &self.reshape_fields);
        put(
            &mut out,
            field::DATA_OFFSET,
            &self.data_offset.to_le_bytes(),
        );
        put(&mut out, field::DATA_SIZE, &self.data_size.to_le_bytes());
        put(
            &mut out,
            field::SUPER_OFFSET,
            &self.super_offset.to_le_bytes(),
        );
        put(
            &mut out,
            field::RECOVERY_OFFSET,
            &self.recovery_offset.to_le_bytes(),
        );
        put(&mut out, field::DEV_NUMBER, &self.dev_number.to_le_bytes());
        put(
            &mut out,
            field::CNT_CORRECTED_READ,
            &self.corrected_reads.to_le_bytes(),
        );
        put(&mut out, field::DEVICE_UUID, &self.device_uuid.0);
        out[field::DEVFLAGS] = self.devflags;
        out[field::BBLOG_SHIFT] = self.bblog_shift;
        put(&mut out, field::BBLOG_SIZE, &self.bblog_size.to_le_bytes());
        put(
            &mut out,
            field::BBLOG_OFFSET,
            &self.bblog_offset.to_le_bytes(),
        );
        put(&mut out, field::UTIME, &self.updated.to_raw().to_le_bytes());
        put(&mut out, field::EVENTS, &self.events.to_le_bytes());
        put(
            &mut out,
            field::RESYNC_OFFSET,
            &self.resync_offset.to_le_bytes(),
        );
        // A table longer than MAX_DEV can't come from decode(); roles beyond it would not be written.
        let roles = &self.roles[..self.roles.len().min(MAX_DEV as usize)];
        put(
            &mut out,
            field::MAX_DEV,
            &(roles.len() as u32).to_le_bytes(),
        );
        for (entry, role) in out[field::DEV_ROLES..].chunks_exact_mut(2).zip(roles) {
            entry.copy_from_slice(&role.to_raw().to_le_bytes());
        }
        let sum = checksum(&out[..field::DEV_ROLES + 2 * roles.len()]);
        put(&mut out, field::SB_CSUM, &sum.to_le_bytes());
        out
    }

    /// How many bytes of [`Superblock::encode`] the kernel and `mdadm` would write: whole sectors of 512 bytes.
    pub fn encoded_len(&self) -> usize {
        (field::DEV_ROLES + 2 * self.roles.len())
            .next_multiple_of(512)
            .min(BLOCK)
    }

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

/// The sum that `sb_csum` holds: little-endian 32-bit words of the superblock and its role table, with the checksum
/// itself taken as 0, added up in 64 bits, the carries folded in once (`calc_sb_1_csum` in md.c).
fn checksum(covered: &[u8]) -> u32 {
    let words = covered.chunks(4).enumerate().map(|(i, word)| match word {
        _ if i * 4 == field::SB_CSUM.start => 0,
        [a, b, c, d] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        // The role table may have an odd number of entries.
        [a, b, ..] => u64::from(u16::from_le_bytes([*a, *b])),
        _ => 0,
    });
    let sum: u64 = words.sum();
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

fn sizes(what: &'static str, a: u64, b: u64) -> SuperblockError {
    SuperblockError::Sizes { what, a, b }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

// decode() has checked the length before any of these is called, and the ranges are constants.
fn array_at<const N: usize>(bytes: &[u8], range: Range<usize>) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[range]);
    out
}

fn u32_at(bytes: &[u8], range: Range<usize>) -> u32 {
    u32::from_le_bytes(array_at(bytes, range))
}

fn u64_at(bytes: &[u8], range: Range<usize>) -> u64 {
    u64::from_le_bytes(array_at(bytes, range))
}

fn put(out: &mut [u8; BLOCK], range: Range<usize>, value: &[u8]) {
    out[range].copy_from_slice(value);
}

const SECONDS_MASK: u64 = (1 << 40) - 1;

/// The kernel refuses legs below this (`super_1_load`: "data_size too small").
const MIN_DATA_SECTORS: u64 = 10;

#[cfg(test)]
mod tests;
