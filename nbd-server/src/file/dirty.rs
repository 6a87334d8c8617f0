//! `x-netraid:dirty`: the write-intent bitmap of a leg at rest, as block status of its disk.
//!
//! Offsets are those of the export: chunk 0 starts where the leg's data starts. Metadata is never dirty. Flags:
//! [`DIRTY`] says that the bytes may differ from the other legs', [`UNKNOWN`] that there is no bitmap that could be
//! believed: then all data is dirty, and of a disk that is no leg everything. So whoever merges these extents into
//! another leg's bitmap never misses a difference.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use md_format::bitmap::Trust;
use md_format::{Found, SECTOR, find};
use nbd_protocol::command::{Answer, Errno, Extent, Failure, Outcome};

/// Bit 0: may differ from the other legs.
pub const DIRTY: u64 = 1;
/// Bit 1: because nothing is known about it.
pub const UNKNOWN: u64 = 2;

/// Name of the context.
pub const CONTEXT: &str = "x-netraid:dirty";

/// Extents from `offset` on: at least one, at most [`MOST`], not beyond the end of the range.
pub(super) fn extents(file: &File, size: u64, offset: u64, length: u64, one: bool) -> Outcome {
    let map = map(file, size).map_err(|error| {
        let what = format!("the write-intent bitmap can't be read: {error}");
        Failure::new(Errno::EIO, what)
    })?;
    let most = if one { 1 } else { MOST };
    Ok(Answer::Extents(map.extents(offset..offset + length, most)))
}

/// What is dirty on a whole disk.
#[derive(Debug)]
struct Map {
    /// In order, without overlaps.
    dirty: Vec<Range<u64>>,
    /// The flags of these.
    flags: u64,
}

fn map(file: &File, size: u64) -> io::Result<Map> {
    let read = |offset, length| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    match find(size, read) {
        Ok(found) => Ok(Map::of(&found, size)),
        Err(md_format::FindError::Read(error)) => Err(error),
        Err(_) => Ok(Map {
            dirty: std::iter::once(0..size).collect(),
            flags: DIRTY | UNKNOWN,
        }),
    }
}

impl Map {
    fn of(found: &Found, size: u64) -> Map {
        let superblock = &found.superblock;
        let data = superblock.data_offset.saturating_mul(SECTOR).min(size);
        let end = data
            .saturating_add(superblock.size.saturating_mul(SECTOR))
            .min(size);
        let all = || std::iter::once(data..end).collect();
        let Some(bitmap) = &found.bitmap else {
            return Map {
                dirty: all(),
                flags: DIRTY | UNKNOWN,
            };
        };
        if bitmap.trust != Trust::Complete {
            return Map {
                dirty: all(),
                flags: DIRTY | UNKNOWN,
            };
        }
        let chunk = u64::from(bitmap.header.chunk);
        let bytes = |chunks: u64| data.saturating_add(chunks.saturating_mul(chunk)).min(end);
        let runs = bitmap.bits.ranges();
        Map {
            dirty: runs.map(|run| bytes(run.start)..bytes(run.end)).collect(),
            flags: DIRTY,
        }
    }

    fn extents(&self, range: Range<u64>, most: usize) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut position = range.start;
        let first = self.dirty.partition_point(|run| run.end <= position);
        for run in &self.dirty[first..] {
            for (end, status) in [(run.start, 0), (run.end, self.flags)] {
                let end = end.min(range.end);
                if end > position && extents.len() < most {
                    let length = end - position;
                    extents.push(Extent { length, status });
                    position = end;
                }
            }
            if position >= range.end || extents.len() >= most {
                return extents;
            }
        }
        extents.push(Extent {
            length: range.end - position,
            status: 0,
        });
        extents
    }
}

/// Bounds the length of one answer; whoever needs more asks again from there.
const MOST: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn extents_of(dirty: &[Range<u64>], range: Range<u64>, most: usize) -> Vec<(u64, u64)> {
        let map = Map {
            dirty: dirty.to_vec(),
            flags: DIRTY,
        };
        let extents = map.extents(range, most);
        extents.iter().map(|e| (e.length, e.status)).collect()
    }

    #[test]
    fn extents_cover_the_range_and_nothing_else() {
        let dirty = [10..20, 20..25, 40..50];
        assert_eq!(
            extents_of(&dirty, 0..60, 99),
            [(10, 0), (10, 1), (5, 1), (15, 0), (10, 1), (10, 0)]
        );
        assert_eq!(
            extents_of(&dirty, 12..42, 99),
            [(8, 1), (5, 1), (15, 0), (2, 1)]
        );
        assert_eq!(extents_of(&dirty, 25..40, 99), [(15, 0)]);
        assert_eq!(extents_of(&dirty, 0..60, 1), [(10, 0)]);
        assert_eq!(extents_of(&dirty, 45..60, 1), [(5, 1)]);
        assert_eq!(extents_of(&[], 7..9, 1), [(2, 0)]);
    }
}
