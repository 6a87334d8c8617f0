//! A superblock from bytes, and bytes from a superblock.

use super::{BLOCK, Features, MAGIC, MAX_DEV, Role, Superblock, SuperblockError, Timestamp, field};
use crate::MdUuid;
use std::ops::Range;

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
