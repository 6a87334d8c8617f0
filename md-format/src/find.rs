//! Finds a leg's metadata on a disk, whoever does the reading: the superblock first, then what it points to.

use crate::bitmap::{BitmapError, BitmapSuperblock, DirtyBits, HEADER, Trust};
use crate::layout::{Layout, LayoutError};
use crate::superblock::{BLOCK, Superblock, SuperblockError, Version};
use crate::{PAGE, SECTOR};

/// The metadata of a leg.
#[derive(Clone, Debug)]
pub struct Found {
    /// As it is on the disk.
    pub superblock: Superblock,
    /// `None` for an array without an internal bitmap.
    pub bitmap: Option<FoundBitmap>,
}

/// A leg's write-intent bitmap.
#[derive(Clone, Debug)]
pub struct FoundBitmap {
    /// Where it is, and the rest.
    pub layout: Layout,
    /// As it is on the disk, but for the size that it speaks for, which is the array's.
    pub header: BitmapSuperblock,
    /// All set if they can't be believed.
    pub bits: DirtyBits,
    /// Whether they can.
    pub trust: Trust,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError<E> {
    /// The disk can't be read.
    #[error("{0}")]
    Read(E),
    /// There is no superblock of version 1.2 or 1.0.
    #[error("the disk holds no md superblock of version 1.2 or 1.0")]
    Blank,
    /// It is damaged, or of a kind that is not understood.
    #[error("the superblock can't be used: {0}")]
    Superblock(SuperblockError),
    /// The bitmap is.
    #[error("the write-intent bitmap can't be used: {0}")]
    Bitmap(BitmapError),
    /// They do not fit together.
    #[error("the leg's layout can't be used: {0}")]
    Layout(LayoutError),
}

/// Looks for a leg on a disk of `device` bytes. `read` gets offset and length of what is needed, all of it on the disk;
/// at most the bitmap's own size at once (32 MiB), which is bounded before it is asked for.
///
/// # Errors
/// If there is none, or it can't be used. Then nothing is known of the disk's data.
pub fn find<E>(
    device: u64,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Found, FindError<E>> {
    let superblock = find_superblock(device, &mut read)?;
    let Some(sector) = superblock.bitmap_sector() else {
        return Ok(Found {
            superblock,
            bitmap: None,
        });
    };
    // Sectors of a decoded superblock are far below an overflow, but may be anywhere.
    let start = sector.saturating_mul(SECTOR);
    let within = |length: u64| match start.checked_add(length) {
        Some(end) if end <= device => Ok(()),
        _ => Err(FindError::Layout(LayoutError::BitmapRoom {
            need: length,
            room: device.saturating_sub(start),
        })),
    };
    within(HEADER as u64)?;
    let header = read(start, HEADER).map_err(FindError::Read)?;
    let header = BitmapSuperblock::decode(&header).map_err(FindError::Bitmap)?;
    let trust = header.trust(&superblock).map_err(FindError::Bitmap)?;
    // They differ where a resize was interrupted.
    let header = header.of_size(superblock.size).map_err(FindError::Bitmap)?;
    let layout = Layout::of(&superblock, &header).map_err(FindError::Layout)?;
    let bits = match trust {
        Trust::Complete => {
            let used = header.used();
            within(used)?;
            // decode() bounds the number of chunks to MAX_CHUNKS.
            let bytes = read(start, used as usize).map_err(FindError::Read)?;
            header.decode_bits(&bytes).map_err(FindError::Bitmap)?
        }
        _ => DirtyBits::all_dirty(header.chunks()),
    };
    let bitmap = FoundBitmap {
        layout,
        header,
        bits,
        trust,
    };
    Ok(Found {
        superblock,
        bitmap: Some(bitmap),
    })
}

/// Looks for the superblock alone.
///
/// # Errors
/// As [`find`]; what the superblock points to is not looked at.
pub fn find_superblock<E>(
    device: u64,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Superblock, FindError<E>> {
    for version in [Version::V1_2, Version::V1_0] {
        let Some(sector) = version.sector(device / SECTOR) else {
            continue;
        };
        let length = (device - sector * SECTOR).min(BLOCK as u64) as usize;
        let bytes = read(sector * SECTOR, length).map_err(FindError::Read)?;
        match Superblock::decode(&bytes) {
            Err(SuperblockError::NoMagic { .. } | SuperblockError::Short { .. }) => {}
            Err(error) => return Err(FindError::Superblock(error)),
            Ok(superblock) => {
                superblock
                    .check_place(sector, device / SECTOR)
                    .map_err(FindError::Superblock)?;
                return Ok(superblock);
            }
        }
    }
    Err(FindError::Blank)
}

impl BitmapSuperblock {
    /// Bytes that are used of the bitmap's room: whole sectors, header included. Another tool may have left no room for
    /// the rest of the last page.
    pub fn used(&self) -> u64 {
        (HEADER as u64 + self.chunks().div_ceil(8))
            .next_multiple_of(SECTOR)
            .min(self.bytes())
    }
}

const _: () = assert!(PAGE.is_multiple_of(SECTOR as usize));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FormattedLeg, NewLeg, NewMirror, Start};
    use crate::superblock::Timestamp;
    use crate::uuid::MdUuid;

    const DEVICE: u64 = 16 << 20;

    fn disk(in_place: bool) -> (Vec<u8>, FormattedLeg) {
        let mirror = NewMirror {
            uuid: MdUuid([1; 16]),
            name: "data".into(),
            created: Timestamp::default(),
            chunk: 65536,
            daemon_sleep: 5,
            legs: vec![Some(NewLeg {
                device: DEVICE,
                uuid: MdUuid([2; 16]),
                write_mostly: false,
                fail_fast: false,
            })],
            start: Start::Equal,
        };
        let legs = match in_place {
            true => mirror.format_in_place(),
            false => mirror.format(),
        };
        let mut leg = legs.unwrap().remove(0).unwrap();
        leg.bits.set_range(3..5);
        let mut disk = vec![0; DEVICE as usize];
        let bitmap = leg.bits.encode(&leg.bitmap);
        disk[leg.layout.bitmap as usize..][..bitmap.len()].copy_from_slice(&bitmap);
        disk[leg.layout.superblock as usize..][..4096].copy_from_slice(&leg.superblock.encode());
        (disk, leg)
    }

    fn reader(disk: &[u8]) -> impl FnMut(u64, usize) -> Result<Vec<u8>, String> {
        |at, length| {
            let range = at as usize..at as usize + length;
            disk.get(range).map(<[u8]>::to_vec).ok_or("beyond".into())
        }
    }

    #[test]
    fn both_versions_are_found_with_their_bits() {
        for in_place in [false, true] {
            let (disk, leg) = disk(in_place);
            let found = find(DEVICE, reader(&disk)).unwrap();
            assert_eq!(found.superblock, leg.superblock);
            let bitmap = found.bitmap.unwrap();
            let (own, made) = (bitmap.layout, &leg.layout);
            assert_eq!((own.bitmap, own.data), (made.bitmap, made.data));
            assert_eq!(own.data_size, made.data_size);
            assert_eq!(own.records, made.records, "the records are found, too");
            assert_eq!(bitmap.bits.ranges().next(), Some(3..5));
            assert_eq!(bitmap.bits.count(), 2);
        }
    }

    #[test]
    fn what_is_no_leg_is_an_error_and_nothing_beyond_the_disk_is_read() {
        assert_eq!(find(0, reader(&[])).unwrap_err(), FindError::Blank);
        let blank = vec![0; 20_000];
        assert_eq!(find(20_000, reader(&blank)).unwrap_err(), FindError::Blank);
        let (whole, _) = disk(false);
        for size in [4096, 5000, 8192, 8300, 10_000, 1 << 20] {
            let error = find(size as u64, reader(&whole[..size])).unwrap_err();
            assert!(!matches!(error, FindError::Read(_)), "{size}: {error}");
        }
    }
}
