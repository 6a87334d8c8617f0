//! Whether an image is what was loaded, block by block. Nobody is asked but the image and its paper.

use std::ops::Range;

use super::manifest::Shipment;
use super::seal;
use crate::array::disk::{Disk, DiskError};
use crate::array::leg::LegError;

/// Why an image can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It can't be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is not what was loaded.
    #[error("{0}")]
    Wrong(String),
    /// Some of it is not what was loaded.
    #[error("{}", damaged_text(.0))]
    Damaged(Vec<Range<u64>>),
}

fn damaged_text(ranges: &[Range<u64>]) -> String {
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let places: Vec<String> = ranges
        .iter()
        .take(4)
        .map(|range| format!("{} to {}", range.start, range.end))
        .collect();
    let more = if ranges.len() > 4 { " and more" } else { "" };
    format!(
        "it was damaged on its way: blocks of {bytes} bytes in all are not what was loaded (bytes {}{more} of the data)",
        places.join(", ")
    )
}

/// Looks at what lies before the data: whether it is the image of this paper, all of it there, and sealed.
///
/// # Errors
/// What is wrong with it.
pub fn head(disk: &Disk, shipment: &Shipment) -> Result<(), CheckError> {
    let wrong = |why: String| Err(CheckError::Wrong(why));
    if disk.size() < shipment.image_bytes {
        return wrong(format!(
            "it has {} bytes and was loaded with {}: the copy is not complete",
            disk.size(),
            shipment.image_bytes
        ));
    }
    let leg = seal::read(disk);
    match &leg {
        Ok(leg) => {
            if let Err(why) = shipment.is_of(leg) {
                return wrong(why);
            }
        }
        Err(LegError::Disk(error)) => {
            return wrong(format!("what lies before its data can't be read: {error}"));
        }
        Err(LegError::Blank) => {
            return wrong("there is no leg in it: it is another file, or was damaged".into());
        }
        Err(error) => return wrong(format!("it was damaged on its way: {error}")),
    }
    if !seal::is_sealed(disk)? {
        return wrong(
            "it is not sealed: it was put in use already, or was not loaded to its end".into(),
        );
    }
    if metadata_digest(disk, shipment.data_offset)? != shipment.metadata {
        return wrong(
            "it was damaged on its way: what lies before its data is not what was loaded".into(),
        );
    }
    Ok(())
}

/// Reads all of the image, and tells of each block that was read.
///
/// # Errors
/// What is wrong with it.
pub fn all(disk: &Disk, shipment: &Shipment, mut tell: impl FnMut(u64)) -> Result<(), CheckError> {
    head(disk, shipment)?;
    data(disk, shipment, &mut tell)
}

/// Reads its data alone.
///
/// # Errors
/// What is wrong with it.
pub fn data(disk: &Disk, shipment: &Shipment, tell: &mut dyn FnMut(u64)) -> Result<(), CheckError> {
    let mut damaged: Vec<Range<u64>> = Vec::new();
    let place = Data::of(shipment);
    for (number, expected) in shipment.digests.iter().enumerate() {
        if place.digest(disk, number)? != *expected {
            let start = number as u64 * shipment.block;
            let end = start + shipment.block_bytes(number);
            match damaged.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => damaged.push(start..end),
            }
        }
        tell(shipment.block_bytes(number));
    }
    match damaged.is_empty() {
        true => Ok(()),
        false => Err(CheckError::Damaged(damaged)),
    }
}

/// The digest of what lies before the data.
///
/// # Errors
/// If it can't be read.
pub fn metadata_digest(disk: &Disk, data_offset: u64) -> Result<String, DiskError> {
    let mut hasher = blake3::Hasher::new();
    for at in (0..data_offset).step_by(PIECE) {
        let length = (data_offset - at).min(PIECE as u64);
        hasher.update(&disk.read(at, length as usize)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Where the data of an image is, and how it is divided.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Its first byte on the disk.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
    /// Bytes under one digest.
    pub block: u64,
}

impl Data {
    /// That of a shipment.
    pub fn of(shipment: &Shipment) -> Data {
        Data {
            offset: shipment.data_offset,
            size: shipment.mirror_bytes,
            block: shipment.block,
        }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        // The manifest bounds it to a million.
        self.size.div_ceil(self.block.max(1)) as usize
    }

    /// First byte on the disk, and length.
    pub fn place(&self, number: usize) -> (u64, u64) {
        let start = number as u64 * self.block;
        let length = self.size.saturating_sub(start).min(self.block);
        (self.offset + start, length)
    }

    /// The digest of one block. What is a hole is not read.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn digest(&self, disk: &Disk, number: usize) -> Result<String, DiskError> {
        let (start, length) = self.place(number);
        let mut hasher = blake3::Hasher::new();
        let (mut at, end) = (start, start + length);
        while at < end {
            let data = disk.next_data(at).min(end);
            let hole = (data - at).min(PIECE as u64);
            if hole > 0 {
                hasher.update(&ZEROES[..hole as usize]);
                at += hole;
                continue;
            }
            let piece = (end - at).min(PIECE as u64);
            hasher.update(&disk.read(at, piece as usize)?);
            at += piece;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Bytes read at once.
const PIECE: usize = 1 << 20;
static ZEROES: [u8; PIECE] = [0; PIECE];
