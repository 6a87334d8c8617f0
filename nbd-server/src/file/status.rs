//! Where a file has holes (`base:allocation`).

use std::fs::File;

use nbd_protocol::command::{Answer, Errno, Extent, Failure, Outcome};
use nix::unistd::{Whence, lseek};

/// Extents from `offset` on: at least one, at most [`MOST`], not beyond the end of the range but for the last, which
/// reaches as far as the file tells without being asked again. Needs no lock: the file's own position is used by
/// nobody, and lseek(2) with these two directions depends on its argument alone.
pub(super) fn extents(file: &File, size: u64, offset: u64, length: u64, one: bool) -> Outcome {
    let end = offset + length;
    let most = if one { 1 } else { MOST };
    let mut extents = Vec::new();
    let mut position = offset;
    while position < end && extents.len() < most {
        let (next, status) = run_at(file, size, position)?;
        extents.push(Extent {
            length: next - position,
            status,
        });
        position = next;
    }
    Ok(Answer::Extents(extents))
}

/// The end of the hole at `position`; `position` itself if there is data.
pub(super) fn hole_at(file: &File, size: u64, position: u64) -> Result<u64, Failure> {
    let data = seek(file, position, Whence::SeekData)?;
    Ok(data.unwrap_or(size).min(size).max(position))
}

/// The end of the run of data or hole at `position`, and its status.
fn run_at(file: &File, size: u64, position: u64) -> Result<(u64, u64), Failure> {
    let data = seek(file, position, Whence::SeekData)?
        .unwrap_or(size)
        .min(size);
    if data > position {
        return Ok((data, HOLE | ZERO));
    }
    let hole = seek(file, position, Whence::SeekHole)?
        .unwrap_or(size)
        .min(size);
    // Not ahead only if somebody punched here between the two calls.
    Ok((if hole > position { hole } else { size }, DATA))
}

/// `None`: nothing of the kind up to the end.
fn seek(file: &File, position: u64, whence: Whence) -> Result<Option<u64>, Failure> {
    let Ok(start) = i64::try_from(position) else {
        return Ok(None);
    };
    match lseek(file, start, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        // A file system or device that does not know: all of it is data.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::EOPNOTSUPP) => {
            Ok(matches!(whence, Whence::SeekData).then_some(position))
        }
        Err(error) => Err(Failure::new(
            Errno::EIO,
            format!("looking for holes at {position} failed: {error}"),
        )),
    }
}

/// Bounds the time of one command: each extent takes two system calls.
const MOST: usize = 1024;
const DATA: u64 = 0;
const HOLE: u64 = 1;
const ZERO: u64 = 2;
