//! `x-netraid:blake3`: digests of a disk's content as block status, so that two disks can be compared without their data
//! crossing the wire.
//!
//! One extent describes [`BLOCK`] bytes, counted from the offset that was asked for (not from the disk's beginning: two
//! legs may keep their data at different offsets); the last one of a range may be shorter. The status is the first
//! 64 bits of the block's BLAKE3, most significant byte first: the first 16 digits that `b3sum` prints for the block.
//! Neighbours of the same digest stay extents of their own. One answer describes at most [`MOST`] bytes; whoever wants
//! more asks again from there. All of what one answer describes is of one moment, because the range is held against
//! overlapping writes meanwhile, as a write would hold it; hence the bound. It also waits for what a dead connection has
//! under way there: a client that is told that nothing differs may send nothing, and no older write may land after that.
//!
//! 64 bits are enough against chance, not against somebody who makes up data to collide.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use linux_sys::buffer::Buffer;
use nbd_protocol::command::{Answer, Errno, Extent, Failure, Outcome};

use super::status;

/// Name of the context.
pub const CONTEXT: &str = "x-netraid:blake3";
/// Bytes under one digest.
pub const BLOCK: u64 = 64 << 10;
/// Most bytes that one answer describes: a write that overlaps waits for some milliseconds.
pub const MOST: u64 = 4 << 20;

/// Bytes read at once; the memory that one answer takes.
const READ: u64 = 256 << 10;

/// The digest of one block, as it stands in an extent.
pub fn digest(block: &[u8]) -> u64 {
    let hash = blake3::hash(block);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// The extents of `data`, as a server would answer for it.
pub fn extents_of(data: &[u8]) -> Vec<Extent> {
    let extent = |block: &[u8]| Extent {
        length: block.len() as u64,
        status: digest(block),
    };
    data.chunks(BLOCK as usize).map(extent).collect()
}

/// Digests from `offset` on: at least one, of at most [`MOST`] bytes. Where the file system tells of a hole nothing is
/// read.
pub(super) fn extents(file: &File, size: u64, offset: u64, length: u64, one: bool) -> Outcome {
    let length = length.min(if one { BLOCK } else { MOST });
    let end = offset.saturating_add(length);
    let mut extents = Vec::with_capacity(length.div_ceil(BLOCK) as usize);
    let mut buffer = Buffer::take(READ.min(length) as usize);
    let mut position = offset;
    // Up to here there is a hole, and from here on data that was not looked at yet.
    let mut hole = status::hole_at(file, size, position)?;
    while position < end {
        let piece = READ.min(end - position);
        if hole < position {
            hole = status::hole_at(file, size, position)?;
        }
        if hole >= (position + BLOCK).min(end) {
            let length = BLOCK.min(end - position);
            extents.push(Extent {
                length,
                status: digest_of_zeroes(length),
            });
            position += length;
            continue;
        }
        let bytes = &mut buffer[..piece as usize];
        file.read_exact_at(bytes, position).map_err(|error| {
            let what = format!("reading for a digest at {position} failed: {error}");
            Failure::new(Errno::EIO, what)
        })?;
        extents.extend(extents_of(bytes));
        position += piece;
    }
    Ok(Answer::Extents(extents))
}

fn digest_of_zeroes(length: u64) -> u64 {
    static WHOLE: OnceLock<u64> = OnceLock::new();
    match length {
        BLOCK => *WHOLE.get_or_init(|| digest(&[0; BLOCK as usize])),
        _ => digest(&vec![0; length as usize]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(answer: Outcome) -> Vec<(u64, u64)> {
        match answer.unwrap() {
            Answer::Extents(extents) => extents.iter().map(|e| (e.length, e.status)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn of(data: &[u8]) -> Vec<(u64, u64)> {
        extents_of(data)
            .iter()
            .map(|e| (e.length, e.status))
            .collect()
    }

    #[test]
    fn a_digest_is_what_b3sum_prints_first() {
        // b3sum of nothing and of "abc", as its own test vectors have them.
        assert_eq!(digest(b""), 0xaf13_49b9_f5f9_a1a6);
        assert_eq!(digest(b"abc"), 0x6437_b3ac_3846_5133);
    }

    #[test]
    fn holes_have_the_digest_of_the_zeroes_that_they_read_as() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        let size = 20 * BLOCK + 1000;
        file.set_len(size).unwrap();
        let mut whole = vec![0; size as usize];
        // Beginning, in the middle of a block, over a boundary, and the short end.
        for (at, bytes) in [
            (0, 1),
            (3 * BLOCK + 77, 4096),
            (7 * BLOCK - 5, 10),
            (size - 1, 1),
        ] {
            let data = vec![0xa5; bytes];
            file.write_all_at(&data, at).unwrap();
            whole[at as usize..at as usize + bytes].copy_from_slice(&data);
        }
        for offset in [0, 512, BLOCK, 2 * BLOCK + 4096, size - 700] {
            for length in [1, 4096, BLOCK, 5 * BLOCK + 3, size] {
                let length = length.min(size - offset);
                let range = offset as usize..(offset + length) as usize;
                assert_eq!(
                    status(extents(&file, size, offset, length, false)),
                    of(&whole[range]),
                    "{length} bytes at {offset}"
                );
            }
        }
    }

    #[test]
    fn one_answer_is_bounded() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        let bytes = |one| {
            let all = status(extents(&file, 1 << 40, 12_345, 1 << 39, one));
            all.iter().map(|(length, _)| length).sum::<u64>()
        };
        assert_eq!(bytes(false), MOST);
        assert_eq!(bytes(true), BLOCK);
    }
}
