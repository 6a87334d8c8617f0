//! Another size for a leg: how much its disk could hold, and what to write so that it says so.
//!
//! A leg's superblock knows two sizes: that of the array, and that of the room for data on its own disk. Both are set to
//! what is so now. The order of the writes keeps two rules, whatever write is the last that reached the disk: a bitmap
//! never speaks for less than its superblock does without being known as stale, and new chunks are dirty before they exist.
//!
//! Only legs whose metadata stands in front of the data (version 1.2) can be resized: that of version 1.0 is at the end of
//! the disk, and nobody finds it there any more once the disk has grown.

use std::ops::Range;

use crate::bitmap::{
    BitmapSuperblock, DirtyBits, MAX_CHUNKS, STATE_STALE, STATE_WRITE_ERROR, bitmap_bytes,
};
use crate::layout::{ACTIVITY_LOG, Layout, LayoutError, MAX_CHUNK, PEER_BITMAPS, SIZE_ALIGN};
use crate::superblock::Superblock;
use crate::{PAGE, SECTOR};

/// What a leg's disk could hold, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Data.
    pub data: u64,
    /// The write-intent bitmap, header included; 0 for an array without one.
    pub bitmap: u64,
}

/// Why a leg can't have another size. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// Version 1.0.
    #[error(
        "its metadata is behind its data, at the end of the disk (version 1.0): it can't be moved; make a new mirror and copy \
         the data to it"
    )]
    AtTheEnd,
    /// The disk ends before the data does.
    #[error("its disk has room for {room} bytes of data, {need} are needed")]
    TooSmall {
        /// Bytes that there are.
        room: u64,
        /// Bytes needed.
        need: u64,
    },
    /// No chunk is large enough.
    #[error(
        "the room for its write-intent bitmap, {room} bytes, does not suffice for {size} bytes of data: make a new mirror"
    )]
    BitmapRoom {
        /// Bytes that there are.
        room: u64,
        /// Bytes of data.
        size: u64,
    },
    /// Not what an array's size can be.
    #[error("a mirror of {size} bytes: a multiple of {SIZE_ALIGN} that is not 0 is needed")]
    Size {
        /// What was asked for.
        size: u64,
    },
    /// The leg's layout makes no sense.
    #[error("its layout can't be used: {0}")]
    Layout(#[from] LayoutError),
}

impl Room {
    /// What a leg on a disk of `device` bytes could hold.
    ///
    /// Its bitmap may grow into what was left over when the leg was laid out, as long as there is as much again for each
    /// peer, and the activity log.
    ///
    /// # Errors
    /// If the leg can't be resized at all.
    pub fn of(
        superblock: &Superblock,
        bitmap: Option<&BitmapSuperblock>,
        device: u64,
    ) -> Result<Room, ResizeError> {
        if superblock.super_offset > superblock.data_offset {
            return Err(ResizeError::AtTheEnd);
        }
        // decode() bounds these sectors far below an overflow.
        let start = superblock.data_offset.saturating_mul(SECTOR);
        let data = device.saturating_sub(start);
        let data = data - data % SIZE_ALIGN;
        let Some(header) = bitmap else {
            return Ok(Room { data, bitmap: 0 });
        };
        let layout = Layout::of(superblock, header)?;
        let reserved = u64::from(header.sectors_reserved) * SECTOR;
        let end = layout.records.map_or(0, |[first, _]| first);
        let free = end.saturating_sub(layout.bitmap.saturating_add(ACTIVITY_LOG));
        let share = free / (1 + PEER_BITMAPS);
        let share = share - share % PAGE as u64;
        // Behind the records comes the data, so nothing of them may be given away either.
        let bound = match layout.records {
            Some(_) => end.saturating_sub(layout.bitmap),
            None => layout.bitmap_room,
        };
        let bitmap = share.max(reserved).max(header.used()).min(bound);
        Ok(Room { data, bitmap })
    }

    /// The smallest chunk, from `chunk` on, with which the bitmap of `size` bytes of data fits.
    ///
    /// # Errors
    /// If there is none.
    pub fn chunk_for(&self, size: u64, chunk: u32) -> Result<u32, ResizeError> {
        let fits = |chunk: u32| {
            let chunks = size.div_ceil(u64::from(chunk).max(1));
            chunks <= MAX_CHUNKS
                && bitmap_bytes(chunks) <= self.bitmap.next_multiple_of(PAGE as u64)
        };
        let larger = std::iter::successors(Some(chunk), |chunk| chunk.checked_mul(2));
        larger
            .take_while(|chunk| *chunk <= MAX_CHUNK)
            .find(|chunk| fits(*chunk))
            .ok_or(ResizeError::BitmapRoom {
                room: self.bitmap,
                size,
            })
    }
}

/// A leg that is to have another size.
#[derive(Clone, Debug)]
pub struct Resize<'a> {
    /// As found.
    pub superblock: &'a Superblock,
    /// Header and bits as found, `None` without a bitmap. All bits are set if they could not be believed.
    pub bitmap: Option<(&'a BitmapSuperblock, &'a DirtyBits)>,
    /// Bytes of its disk.
    pub device: u64,
    /// Bytes of the array, from now on.
    pub size: u64,
    /// Bytes of a chunk, from now on.
    pub chunk: u32,
}

/// What the leg says afterwards, and how it comes to say so.
#[derive(Clone, Debug)]
pub struct Resized {
    /// The superblock.
    pub superblock: Superblock,
    /// Header and bits of the bitmap.
    pub bitmap: Option<(BitmapSuperblock, DirtyBits)>,
    /// Offset in bytes and data of each write: each durable before the next is begun.
    pub writes: Vec<(u64, Vec<u8>)>,
}

impl Resize<'_> {
    /// Works it out.
    ///
    /// 1. With another chunk: the bitmap's header, which says that the bits are out of date, and then the bits.
    ///    With the same: the bits and the header with the new size. Chunks that are new are dirty.
    /// 2. The superblock. This is the moment in which the leg has its new size.
    /// 3. With another chunk: the header, which says that the bits can be believed.
    ///
    /// A leg that becomes smaller gets its superblock first.
    ///
    /// # Errors
    /// See [`ResizeError`].
    pub fn plan(&self) -> Result<Resized, ResizeError> {
        let (size, device) = (self.size, self.device);
        if size == 0 || !size.is_multiple_of(SIZE_ALIGN) {
            return Err(ResizeError::Size { size });
        }
        let header = self.bitmap.map(|(header, _)| header);
        let room = Room::of(self.superblock, header, device)?;
        if room.data < size {
            let (room, need) = (room.data, size);
            return Err(ResizeError::TooSmall { room, need });
        }
        let mut superblock = self.superblock.clone();
        superblock.size = size / SECTOR;
        superblock.data_size = room.data / SECTOR;
        let at = superblock.super_offset.saturating_mul(SECTOR);
        let length = superblock.encoded_len();
        let own = (at, superblock.encode()[..length].to_vec());
        let Some((header, bits)) = self.bitmap else {
            return Ok(Resized {
                superblock,
                bitmap: None,
                writes: vec![own],
            });
        };
        if room.chunk_for(size, self.chunk)? != self.chunk {
            let room = room.bitmap;
            return Err(ResizeError::BitmapRoom { room, size });
        }
        let before = self.superblock.size.saturating_mul(SECTOR);
        let bits = reshaped(bits, header.chunk, before, self.chunk, size);
        let new = BitmapSuperblock {
            sync_size: superblock.size,
            chunk: self.chunk,
            sectors_reserved: u32::try_from(room.bitmap / SECTOR).unwrap_or(u32::MAX),
            // Bits that could not be believed are all set now.
            state: header.state & !(STATE_STALE | STATE_WRITE_ERROR),
            events: header.events.max(superblock.events),
            ..header.clone()
        };
        let start = Layout::of(self.superblock, header)?.bitmap;
        let stale = BitmapSuperblock {
            state: new.state | STATE_STALE,
            ..new.clone()
        };
        let writes = match (header.chunk != self.chunk, size < before) {
            (true, _) => {
                let mut writes = vec![(start, stale.encode().to_vec())];
                writes.extend(pieces(start, &stale, &bits));
                writes.extend([own, (start, new.encode().to_vec())]);
                writes
            }
            (false, false) => {
                let mut writes = pieces(start, &new, &bits);
                writes.push(own);
                writes
            }
            (false, true) => {
                let mut writes = vec![own];
                writes.extend(pieces(start, &new, &bits));
                writes
            }
        };
        Ok(Resized {
            superblock,
            bitmap: Some((new, bits)),
            writes,
        })
    }
}

/// The bits of an array of `before` bytes in chunks of `old`, for one of `after` bytes in chunks of `new`. What the old ones
/// do not speak for is dirty, a part of a chunk included.
pub fn reshaped(bits: &DirtyBits, old: u32, before: u64, new: u32, after: u64) -> DirtyBits {
    let mut out = DirtyBits::all_clean(after.div_ceil(u64::from(new).max(1)));
    let (old, new) = (u64::from(old), u64::from(new));
    for run in reshaped_ranges(bits.ranges(), old, before, new, after) {
        out.set_range(run);
    }
    out
}

/// The same for runs of dirty chunks, whatever keeps them.
pub fn reshaped_ranges(
    dirty: impl Iterator<Item = Range<u64>>,
    old: u64,
    before: u64,
    new: u64,
    after: u64,
) -> impl Iterator<Item = Range<u64>> {
    let (old, new) = (old.max(1), new.max(1));
    let bytes = dirty.map(move |run| run.start.saturating_mul(old)..run.end.saturating_mul(old));
    let beyond = std::iter::once(before..after);
    bytes
        .chain(beyond)
        .map(move |range| range.start.min(after)..range.end.min(after))
        .filter(|range| range.start < range.end)
        .map(move |range| range.start / new..range.end.div_ceil(new))
}

/// The bitmap as it is written: the page with the header last, because it says for how much the others speak.
fn pieces(start: u64, header: &BitmapSuperblock, bits: &DirtyBits) -> Vec<(u64, Vec<u8>)> {
    let mut bytes = bits.encode(header);
    bytes.truncate(usize::try_from(header.used()).unwrap_or(usize::MAX));
    let rest = bytes.split_off(bytes.len().min(PAGE));
    let behind = start + PAGE as u64;
    let mut writes: Vec<_> = rest
        .chunks(PIECE)
        .enumerate()
        .map(|(n, piece)| (behind + (n * PIECE) as u64, piece.to_vec()))
        .collect();
    writes.push((start, bytes));
    writes
}

/// Longest write of a bitmap, in bytes.
const PIECE: usize = 1 << 20;

#[cfg(test)]
mod tests;
