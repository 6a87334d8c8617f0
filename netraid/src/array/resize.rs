//! Another size for a leg that is at rest: what its disk could hold, and the writes that make it so.
//!
//! The own leg alone is written, whole: the other nodes' legs are brought to the same size when they are taken back. So a
//! crash leaves the mirror's old size or its new one, whichever this leg's superblock says ([`crate::md::resize`] has the
//! order of the writes, each of which is durable before the next).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ArrayError;
use super::disk::{Access, Disk};
use super::filesystem::{self, FileSystem};
use super::leg::Leg;
use crate::md::{Resize, Room, SECTOR};

/// What a node's disk could hold of a mirror, as far as its own leg is concerned. All in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRoom {
    /// Data.
    pub data: u64,
    /// The write-intent bitmap; 0 without one.
    pub bitmap: u64,
    /// Why the leg can't be resized.
    pub problem: Option<String>,
}

impl LegRoom {
    /// Of a leg on a disk of `device` bytes.
    pub fn of(leg: &Leg, device: u64) -> LegRoom {
        let header = leg.bitmap.as_ref().map(|bitmap| &bitmap.header);
        match Room::of(&leg.superblock, header, device) {
            Ok(Room { data, bitmap }) => LegRoom {
                data,
                bitmap,
                problem: None,
            },
            Err(error) => LegRoom {
                data: leg.size(),
                bitmap: 0,
                problem: Some(error.to_string()),
            },
        }
    }
}

/// Gives the leg on `disk` another size and, if it has a bitmap, chunks of `chunk` bytes.
///
/// # Errors
/// The disk is in use, or has no room; nothing was written then.
pub fn resize(disk: &Path, size: u64, chunk: Option<u32>) -> Result<(), ArrayError> {
    let place = disk.display();
    let disk = Disk::open(disk, Access::Exclusive).map_err(ArrayError::failed)?;
    let leg = Leg::read(&disk).map_err(|error| ArrayError::Failed(format!("{place}: {error}")))?;
    let bitmap = leg.bitmap.as_ref();
    let resized = Resize {
        superblock: &leg.superblock,
        bitmap: bitmap.map(|bitmap| (&bitmap.header, &bitmap.bits)),
        device: disk.size(),
        size,
        chunk: chunk
            .or(bitmap.map(|bitmap| bitmap.header.chunk))
            .unwrap_or(0),
    }
    .plan()
    .map_err(|error| ArrayError::refused(format!("{place}: {error}")))?;
    for (at, data) in &resized.writes {
        disk.write(*at, data).map_err(ArrayError::failed)?;
    }
    Ok(())
}

/// The file system on the data of a leg, if its size can be told.
///
/// # Errors
/// If the disk can't be read.
pub fn file_system(disk: &Path) -> Result<Option<FileSystem>, ArrayError> {
    let opened = Disk::open(disk, Access::Read).map_err(ArrayError::failed)?;
    let leg = Leg::read(&opened)
        .map_err(|error| ArrayError::Failed(format!("{}: {error}", disk.display())))?;
    let data = leg.superblock.data_offset.saturating_mul(SECTOR);
    filesystem::find_at(&opened, data).map_err(ArrayError::failed)
}
