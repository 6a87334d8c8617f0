//! Copies an image to a disk, sparsely, comparing each block with its digest before it is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::check::{self, CheckError, Data};
use super::manifest::Shipment;
use crate::array::disk::{Disk, DiskError};

/// Why nothing arrived. The disk holds no leg then.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The image is not what was loaded, or can't be read.
    #[error("the image: {0}")]
    Image(CheckError),
    /// The disk can't be written.
    #[error("{}: {error}", disk.display())]
    Write {
        /// Which.
        disk: std::path::PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The disk does not have what was written to it.
    #[error("the disk does not give back what was written to it: {0}")]
    Disk(CheckError),
}

fn image(error: DiskError) -> CopyError {
    CopyError::Image(error.into())
}

/// Writes all of the image to `disk`, seal included, and reads it back from there. What is zero is written only where
/// something else is. On the disk when this returns. `tell` hears of bytes of the data, each twice: written, and read back.
///
/// # Errors
/// Where it ends, the disk is sealed or holds no leg.
pub fn copy(
    from: &Disk,
    disk: &Disk,
    shipment: &Shipment,
    tell: &mut dyn FnMut(u64),
) -> Result<(), CopyError> {
    let failed = |error| CopyError::Write {
        disk: disk.path().to_owned(),
        error,
    };
    let to = File::options()
        .write(true)
        .open(disk.path())
        .map_err(failed)?;
    let writer = Writer { to: &to, disk };
    let data = Data::of(shipment);
    let mut block = Vec::new();
    for (number, expected) in shipment.digests.iter().enumerate() {
        let (at, length) = data.place(number);
        read(from, at, length, &mut block).map_err(image)?;
        if blake3::hash(&block).to_hex().as_str() != expected {
            let start = at - data.offset;
            let damaged = std::iter::once(start..start + length).collect();
            return Err(CopyError::Image(CheckError::Damaged(damaged)));
        }
        writer.write(at, &block).map_err(failed)?;
        tell(length);
    }
    // Before all of it is there, the disk holds nothing that could be taken for a leg.
    let head = Data {
        offset: 0,
        size: shipment.data_offset,
        block: PIECE,
    };
    for number in 0..head.blocks() {
        let (at, length) = head.place(number);
        let bytes = from.read(at, length as usize).map_err(image)?;
        writer.write(at, &bytes).map_err(failed)?;
    }
    to.sync_all().map_err(failed)?;
    // What is read back is to come from the disk; where the cache can't be dropped it is read past it.
    let _ = posix_fadvise(&to, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    check::head(disk, shipment)
        .and_then(|()| check::data(disk, shipment, tell))
        .map_err(CopyError::Disk)
}

/// Reads a part of a disk into `into`; what is a hole is not read.
fn read(disk: &Disk, start: u64, length: u64, into: &mut Vec<u8>) -> Result<(), DiskError> {
    into.clear();
    let (mut at, end) = (start, start + length);
    while at < end {
        let data = disk.next_data(at).min(end);
        // The manifest bounds a block to 64 MiB.
        into.resize(into.len() + (data - at) as usize, 0);
        at = data;
        let piece = (end - at).min(PIECE);
        into.extend_from_slice(&disk.read(at, piece as usize)?);
        at += piece;
    }
    Ok(())
}

struct Writer<'a> {
    to: &'a File,
    disk: &'a Disk,
}

impl Writer<'_> {
    fn write(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, piece) in bytes.chunks(GRAIN).enumerate() {
            let at = start + (number * GRAIN) as u64;
            if piece.iter().any(|byte| *byte != 0) || !self.is_zero(at, piece.len())? {
                self.to.write_all_at(piece, at)?;
            }
        }
        Ok(())
    }

    fn is_zero(&self, at: u64, length: usize) -> io::Result<bool> {
        if self.disk.next_data(at) >= at + length as u64 {
            return Ok(true);
        }
        let found = self.disk.read(at, length).map_err(|error| error.error)?;
        Ok(found.iter().all(|byte| *byte == 0))
    }
}

/// Bytes read at once.
const PIECE: u64 = 1 << 20;
/// Bytes that are a hole together, or not.
const GRAIN: usize = 64 << 10;
