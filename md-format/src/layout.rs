//! Where things are on a leg: superblock, bitmap, room for our own metadata, data.
//!
//! ```text
//!        0   nothing of ours (a boot block stays where it is)
//!     4096   superblock                                          (md 1.2)
//!     8192   write-intent bitmap, `bitmap_room` bytes            (md)
//!            room for eight more bitmaps, one a peer             (NetRAID, not yet used)
//!            room for an activity log of 128 KiB                 (NetRAID, not yet used)
//!  data - 16 KiB   state record, first copy, 4 KiB of 8          (NetRAID, crate `flags`)
//!  data -  8 KiB   state record, second copy, 4 KiB of 8         (NetRAID, crate `flags`)
//!     data   the mirror's data, from `data_offset`, a whole number of MiB
//! ```
//!
//! The kernel and `mdadm` leave what is between the bitmap and the data alone (it is "unused space, before" to them).
//! An array that `mdadm` made has the same order with less room; [`Layout::of`] finds what it has.
//!
//! A leg that keeps a file system where it is (version 1.0) has everything of ours behind the data:
//!
//! ```text
//!        0   the mirror's data, where the file system was already
//!            state record, first copy and second copy            (NetRAID, 8 KiB each)
//!            write-intent bitmap                                 (md)
//!  8 to 12 KiB before the end: superblock                        (md 1.0)
//! ```

use super::bitmap::{BitmapSuperblock, MAX_CHUNKS, bitmap_bytes, chunk_count};
use super::superblock::{BLOCK, Superblock, Version};
use super::{PAGE, SECTOR};

/// Smallest chunk of a bitmap: the block of a file system. `mdadm` has the same bound.
pub const MIN_CHUNK: u32 = 4096;
/// Largest chunk that makes sense.
pub const MAX_CHUNK: u32 = 1 << 30;
/// The data starts at a multiple of this.
pub const DATA_ALIGN: u64 = 1 << 20;
/// Least data that a leg must hold.
pub const MIN_DATA: u64 = 64 * 1024;
/// Smallest disk that can be a leg.
pub const MIN_DEVICE: u64 = DATA_ALIGN + MIN_DATA;
/// The size of an array is a multiple of this, so that disks with blocks of 4 KiB can be legs.
pub const SIZE_ALIGN: u64 = 4096;
/// Bitmaps for which room is kept behind the array's own: one a peer.
pub const PEER_BITMAPS: u64 = 8;
/// Bytes kept for an activity log.
pub const ACTIVITY_LOG: u64 = 128 * 1024;
/// Bytes between the two copies of the state record, and between the second and the data.
pub const RECORD_SLOT: u64 = 8192;
/// Bytes of a state record.
pub const RECORD: u64 = 4096;

/// Where things are on a leg, all in bytes from the start of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The superblock; [`BLOCK`] bytes.
    pub superblock: u64,
    /// The write-intent bitmap.
    pub bitmap: u64,
    /// Bytes that the bitmap may occupy.
    pub bitmap_room: u64,
    /// Bytes for which one bit of the bitmap speaks.
    pub chunk: u32,
    /// The two copies of the state record, [`RECORD`] bytes each; `None` where another tool left no room for them.
    pub records: Option<[u64; 2]>,
    /// The data.
    pub data: u64,
    /// Bytes of data that the leg can hold.
    pub data_size: u64,
}

/// Why a disk cannot be laid out, or what is wrong with the layout that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No room for metadata and data.
    #[error("disk of {device} bytes is too small to be a leg: at least {need} bytes are needed")]
    DiskTooSmall {
        /// Bytes of the disk.
        device: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Not a chunk that can be used.
    #[error(
        "bitmap chunk of {chunk} bytes: a power of two from {MIN_CHUNK} to {MAX_CHUNK} is needed"
    )]
    Chunk {
        /// What was asked for.
        chunk: u32,
    },
    /// The bitmap would have too many bits.
    #[error(
        "bitmap chunk of {chunk} bytes is too small for {bytes} bytes: at least {least} bytes a chunk are needed"
    )]
    TooManyChunks {
        /// What was asked for.
        chunk: u32,
        /// Bytes for which the bitmap speaks.
        bytes: u64,
        /// The smallest chunk that would do.
        least: u64,
    },
    /// The superblock says that there is none.
    #[error("leg has no internal write-intent bitmap")]
    NoBitmap,
    /// The bitmap would run into the data or the superblock.
    #[error(
        "write-intent bitmap of {need} bytes does not fit into the {room} bytes that the leg has for it"
    )]
    BitmapRoom {
        /// Bytes that it needs.
        need: u64,
        /// Bytes that there are.
        room: u64,
    },
}

impl Layout {
    /// Lays out a fresh leg on a disk of `device` bytes.
    ///
    /// The bitmap gets room for `array` bytes of data, or, without it, for all that the disk can hold. A leg of an
    /// array that exists is laid out with the array's size; one that is too small for it is refused.
    pub fn plan(device: u64, chunk: u32, array: Option<u64>) -> Result<Layout, LayoutError> {
        check_chunk(chunk)?;
        let device = device - device % SECTOR;
        let too_small = |need| LayoutError::DiskTooSmall { device, need };
        let bitmap_room = bitmap_room(array.unwrap_or(device), chunk)?;
        let bitmap = SUPERBLOCK + BLOCK as u64;
        let metadata = bitmap + bitmap_room * (1 + PEER_BITMAPS) + ACTIVITY_LOG + 2 * RECORD_SLOT;
        // All of these are small: bitmap_room is at most 32 MiB.
        let data = metadata.next_multiple_of(DATA_ALIGN);
        let need = data.saturating_add(array.unwrap_or(MIN_DATA).max(MIN_DATA));
        if device < need {
            return Err(too_small(need));
        }
        Ok(Layout {
            superblock: SUPERBLOCK,
            bitmap,
            bitmap_room,
            chunk,
            records: Some([data - 2 * RECORD_SLOT, data - RECORD_SLOT]),
            data,
            data_size: device - data,
        })
    }

    /// Lays out a leg whose data starts at the first byte of the disk, so that what is there stays usable: version 1.0.
    /// `array` as in [`Layout::plan`]. Whoever keeps a file system checks that it ends before `data_size`.
    pub fn plan_in_place(
        device: u64,
        chunk: u32,
        array: Option<u64>,
    ) -> Result<Layout, LayoutError> {
        check_chunk(chunk)?;
        let too_small = |need| LayoutError::DiskTooSmall { device, need };
        let least = MIN_DATA + 2 * RECORD_SLOT + 2 * PAGE as u64 + 4 * BLOCK as u64;
        let superblock = Version::V1_0.sector(device / SECTOR);
        let superblock = superblock.ok_or(too_small(least))? * SECTOR;
        let bitmap_room = bitmap_room(array.unwrap_or(superblock), chunk)?;
        let records = superblock.checked_sub(bitmap_room + 2 * RECORD_SLOT);
        let behind = device - superblock + bitmap_room + 2 * RECORD_SLOT;
        let least = array.unwrap_or(MIN_DATA).max(MIN_DATA);
        let first = records
            .map(|first| first - first % SIZE_ALIGN)
            .filter(|&first| first >= least)
            .ok_or(too_small(least.saturating_add(behind + SIZE_ALIGN)))?;
        Ok(Layout {
            superblock,
            bitmap: superblock - bitmap_room,
            bitmap_room,
            chunk,
            records: Some([first, first + RECORD_SLOT]),
            data: 0,
            data_size: first,
        })
    }

    /// The layout of a leg that exists, whoever made it, from its superblock and its bitmap's header.
    pub fn of(superblock: &Superblock, bitmap: &BitmapSuperblock) -> Result<Layout, LayoutError> {
        // decode() of the superblock bounds all of these sectors far below an overflow.
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
        let start = superblock.bitmap_sector().ok_or(LayoutError::NoBitmap)?;
        let own_end = bytes(superblock.super_offset) + superblock.encoded_len() as u64;
        let mut limits = vec![
            bytes(superblock.data_offset),
            bytes(superblock.super_offset),
        ];
        if superblock.bblog_size != 0 && superblock.bblog_offset != 0 {
            let log = superblock
                .super_offset
                .checked_add_signed(superblock.bblog_offset.into());
            limits.extend(log.map(bytes));
        }
        // Behind the bitmap comes the data (1.1, 1.2), the superblock (1.0), or a bad-block log; behind a 1.0
        // superblock comes the end of the disk, for which md keeps 4 KiB from the superblock on.
        let after_own = bytes(superblock.super_offset) + BLOCK as u64;
        let start = bytes(start);
        let limit = limits
            .into_iter()
            .filter(|&limit| limit > start)
            .min()
            .unwrap_or(after_own);
        let room = limit.saturating_sub(start);
        // The kernel writes whole sectors of the last page, not the whole page.
        let need =
            (super::bitmap::HEADER as u64 + bitmap.chunks().div_ceil(8)).next_multiple_of(SECTOR);
        if need > room || (start < own_end && start + need > bytes(superblock.super_offset)) {
            return Err(LayoutError::BitmapRoom { need, room });
        }
        let data = bytes(superblock.data_offset);
        Ok(Layout {
            superblock: bytes(superblock.super_offset),
            bitmap: start,
            bitmap_room: room,
            chunk: bitmap.chunk,
            records: records_before(data, start + need, superblock)
                .or_else(|| records_behind(superblock, start)),
            data,
            data_size: bytes(superblock.data_size),
        })
    }

    /// Bytes of an array made of these legs: the smallest leg, rounded down to [`SIZE_ALIGN`]. 0 without legs.
    pub fn array_size<'a>(legs: impl IntoIterator<Item = &'a Layout>) -> u64 {
        let smallest = legs.into_iter().map(|leg| leg.data_size).min().unwrap_or(0);
        smallest - smallest % SIZE_ALIGN
    }

    /// A chunk that suits an array of so many bytes: 64 KiB, doubled until the bitmap has at most 2^20 bits, the bound
    /// that `mdadm` thinks of as safe.
    pub fn default_chunk(array: u64) -> u32 {
        let mut chunk = 64 * 1024;
        while chunk < MAX_CHUNK && array.div_ceil(u64::from(chunk)) > 1 << 20 {
            chunk *= 2;
        }
        chunk
    }

    /// Chunks of an array of so many bytes.
    pub fn chunks(&self, array: u64) -> u64 {
        chunk_count(array.div_ceil(SECTOR), self.chunk).unwrap_or(0)
    }
}

/// Where the two state records are on a leg that has room for them: in the 16 KiB before the data, if neither the bitmap
/// nor a bad-block log reaches into them.
fn records_before(data: u64, bitmap_end: u64, superblock: &Superblock) -> Option<[u64; 2]> {
    let first = data.checked_sub(2 * RECORD_SLOT)?;
    let own_end = superblock.super_offset.saturating_mul(SECTOR) + BLOCK as u64;
    let log_end = match (superblock.bblog_size, superblock.bblog_offset) {
        (0, _) | (_, 0) => 0,
        (size, offset) => superblock
            .super_offset
            .checked_add_signed(offset.into())?
            .saturating_add(size.into())
            .saturating_mul(SECTOR),
    };
    // A superblock (and what belongs to it) behind the data is a version 1.0: its data starts at the start of the disk.
    let free = own_end
        .max(bitmap_end.next_multiple_of(PAGE as u64))
        .max(log_end);
    (own_end <= data && first >= free).then_some([first, data - RECORD_SLOT])
}

/// Where the two state records are on a leg whose data comes first: behind the data, if the bitmap follows them.
fn records_behind(superblock: &Superblock, bitmap: u64) -> Option<[u64; 2]> {
    let data_end = superblock
        .data_offset
        .saturating_add(superblock.data_size)
        .saturating_mul(SECTOR);
    let own = superblock.super_offset.saturating_mul(SECTOR);
    let fits = data_end.is_multiple_of(SIZE_ALIGN)
        && data_end.saturating_add(2 * RECORD_SLOT) <= bitmap
        && bitmap < own;
    fits.then_some([data_end, data_end + RECORD_SLOT])
}

/// Where the two state records are on a leg of an array that has no bitmap (any more); `None` where there is no room.
pub fn records_without_bitmap(superblock: &Superblock) -> Option<[u64; 2]> {
    let own = superblock.super_offset.saturating_mul(SECTOR);
    let data = superblock.data_offset.saturating_mul(SECTOR);
    records_before(data, own + BLOCK as u64, superblock)
        .or_else(|| records_behind(superblock, own.saturating_sub(PAGE as u64)))
}

fn check_chunk(chunk: u32) -> Result<(), LayoutError> {
    match chunk.is_power_of_two() && (MIN_CHUNK..=MAX_CHUNK).contains(&chunk) {
        true => Ok(()),
        false => Err(LayoutError::Chunk { chunk }),
    }
}

/// Bytes of the bitmap for so many bytes of data.
fn bitmap_room(bytes: u64, chunk: u32) -> Result<u64, LayoutError> {
    let chunks = bytes.div_ceil(u64::from(chunk));
    if chunks > MAX_CHUNKS {
        let least = bytes.div_ceil(MAX_CHUNKS).next_power_of_two();
        return Err(LayoutError::TooManyChunks {
            chunk,
            bytes,
            least,
        });
    }
    Ok(bitmap_bytes(chunks))
}

/// Version 1.2: 4 KiB from the start.
const SUPERBLOCK: u64 = 4096;

#[cfg(test)]
mod tests;
