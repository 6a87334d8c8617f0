//! Sizes, and what is on the disk after every single write of a resize.

use super::*;
use crate::bitmap::Trust;
use crate::find::{Found, find};
use crate::format::{FormattedLeg, NewLeg, NewMirror, Start};
use crate::superblock::Timestamp;
use crate::uuid::MdUuid;
use proptest::prelude::*;

const CHUNK: u32 = 4096;

fn formatted(device: u64, in_place: bool) -> FormattedLeg {
    let mirror = NewMirror {
        uuid: MdUuid([1; 16]),
        name: "data".into(),
        created: Timestamp::default(),
        chunk: CHUNK,
        daemon_sleep: 5,
        legs: vec![
            Some(NewLeg {
                device,
                uuid: MdUuid([2; 16]),
                write_mostly: false,
                fail_fast: false,
            }),
            None,
        ],
        start: Start::Equal,
    };
    let legs = match in_place {
        true => mirror.format_in_place(),
        false => mirror.format(),
    };
    legs.unwrap().remove(0).unwrap()
}

/// The metadata of a leg on a disk, with these chunks dirty.
fn disk(device: u64, dirty: &[u64]) -> Vec<u8> {
    let mut leg = formatted(device, false);
    let chunks = leg.bits.chunks();
    leg.bits.clear_range(0..chunks);
    dirty.iter().for_each(|chunk| {
        leg.bits.set(*chunk);
    });
    let mut disk = vec![0; device as usize];
    let bitmap = leg.bits.encode(&leg.bitmap);
    disk[leg.layout.bitmap as usize..][..bitmap.len()].copy_from_slice(&bitmap);
    disk[leg.layout.superblock as usize..][..4096].copy_from_slice(&leg.superblock.encode());
    disk
}

fn look(disk: &[u8]) -> Found {
    find(disk.len() as u64, |at, length| {
        let range = at as usize..at as usize + length;
        disk.get(range).map(<[u8]>::to_vec).ok_or("beyond the end")
    })
    .unwrap()
}

fn planned(disk: &[u8], size: u64, chunk: u32) -> Result<Resized, ResizeError> {
    let found = look(disk);
    let bitmap = found.bitmap.as_ref().unwrap();
    Resize {
        superblock: &found.superblock,
        bitmap: Some((&bitmap.header, &bitmap.bits)),
        device: disk.len() as u64,
        size,
        chunk,
    }
    .plan()
}

fn write(disk: &mut [u8], (at, data): &(u64, Vec<u8>)) {
    disk[*at as usize..][..data.len()].copy_from_slice(data);
}

/// Bytes that the leg says may differ.
fn dirty(found: &Found) -> Vec<Range<u64>> {
    let bitmap = found.bitmap.as_ref().unwrap();
    let chunk = u64::from(bitmap.header.chunk);
    let size = found.superblock.size * SECTOR;
    bitmap
        .bits
        .ranges()
        .map(|run| run.start * chunk..(run.end * chunk).min(size))
        .collect()
}

fn covers(found: &Found, wanted: &Range<u64>) -> bool {
    wanted.is_empty()
        || dirty(found)
            .iter()
            .any(|run| run.start <= wanted.start && wanted.end <= run.end)
}

#[test]
fn a_leg_grows_by_three_kinds_of_writes_whose_bytes_are_known() {
    let mut disk = disk(4 << 20, &[2]);
    let before = look(&disk);
    let old = before.superblock.size * SECTOR;
    assert_eq!(old, 3 << 20);
    disk.resize(8 << 20, 0);
    let resized = planned(&disk, 7 << 20, CHUNK).unwrap();
    let places: Vec<(u64, usize)> = resized
        .writes
        .iter()
        .map(|(at, data)| (*at, data.len()))
        .collect();
    // Header and 1792 bits in one sector; the superblock with its 128 roles.
    assert_eq!(places, [(8192, 512), (4096, 512)]);
    let bitmap = &resized.writes[0].1;
    assert_eq!(bitmap[40..48], (7_u64 << 11).to_le_bytes(), "sync_size");
    assert_eq!(bitmap[48..52], [0; 4], "state");
    assert_eq!(bitmap[256], 1 << 2, "what was dirty is dirty");
    assert_eq!(bitmap[256 + 95], 0);
    assert!(bitmap[256 + 96..256 + 224].iter().all(|byte| *byte == 0xff));
    let superblock = &resized.writes[1].1;
    assert_eq!(superblock[80..88], (7_u64 << 11).to_le_bytes(), "size");
    assert_eq!(
        superblock[136..144],
        (7_u64 << 11).to_le_bytes(),
        "data_size"
    );
    resized.writes.iter().for_each(|one| write(&mut disk, one));
    let after = look(&disk);
    assert_eq!(after.bitmap.as_ref().unwrap().trust, Trust::Complete);
    assert_eq!(dirty(&after), [8192..12288, 3 << 20..7 << 20]);
    assert_eq!(after.superblock.events, before.superblock.events);
    assert_eq!(after.superblock.updated, before.superblock.updated);
}

#[test]
fn the_chunk_that_the_old_size_ends_in_is_dirty_and_a_larger_one_covers_what_smaller_ones_did() {
    let bits = DirtyBits::all_clean(10);
    let grown = reshaped(&bits, 4096, 9 * 4096 + 512, 4096, 12 * 4096);
    assert!(grown.ranges().eq(std::iter::once(9..12)));
    let mut bits = DirtyBits::all_clean(10);
    bits.set(3);
    let coarse = reshaped(&bits, 4096, 10 * 4096, 8192, 16 * 4096);
    assert_eq!(coarse.ranges().collect::<Vec<_>>(), [1..2, 5..8]);
    let fine = reshaped(&bits, 4096, 10 * 4096, 1024, 10 * 4096);
    assert!(fine.ranges().eq(std::iter::once(12..16)));
    let cut = reshaped(&bits, 4096, 10 * 4096, 4096, 3 * 4096);
    assert!(cut.is_clean(), "what is cut off is not spoken of");
}

#[test]
fn what_does_not_fit_is_refused_and_says_the_bytes() {
    let disk = disk(4 << 20, &[]);
    let error = planned(&disk, (3 << 20) + 4096, CHUNK).unwrap_err();
    assert_eq!(
        error.to_string(),
        "its disk has room for 3145728 bytes of data, 3149824 are needed"
    );
    for size in [0, 4097] {
        let error = planned(&disk, size, CHUNK).unwrap_err();
        assert_eq!(error, ResizeError::Size { size });
    }
    let leg = formatted(4 << 20, true);
    let room = Room::of(&leg.superblock, Some(&leg.bitmap), 8 << 20);
    assert_eq!(room, Err(ResizeError::AtTheEnd));
}

#[test]
fn the_chunk_is_doubled_only_where_the_bitmap_has_no_room_and_never_into_the_records() {
    let leg = formatted(1 << 30, false);
    let room = Room::of(&leg.superblock, Some(&leg.bitmap), 1 << 40).unwrap();
    let [records, _] = leg.layout.records.unwrap();
    assert!(leg.layout.bitmap + room.bitmap <= records);
    assert!(room.bitmap >= leg.layout.bitmap_room);
    assert_eq!(room.data, (1 << 40) - leg.layout.data);
    assert_eq!(room.chunk_for(1 << 30, CHUNK), Ok(CHUNK));
    for size in [1_u64 << 32, 1 << 36, 1 << 40] {
        let chunk = room.chunk_for(size, CHUNK).unwrap();
        let need = |chunk: u32| bitmap_bytes(size.div_ceil(chunk.into()));
        assert!(need(chunk) <= room.bitmap);
        assert!(chunk == CHUNK || need(chunk / 2) > room.bitmap);
    }
    let narrow = Room {
        data: u64::MAX,
        bitmap: 4096,
    };
    assert!(matches!(
        narrow.chunk_for(1 << 60, CHUNK),
        Err(ResizeError::BitmapRoom { .. })
    ));
}

proptest! {
    /// Whatever write was the last that reached the disk: the leg has its old size or the new one, and whatever was dirty,
    /// or is new, is dirty.
    #[test]
    fn after_any_write_the_leg_has_one_of_both_sizes_and_misses_no_dirty_chunk(
        blocks in 16_u64..600,
        target in 16_u64..2000,
        doublings in 0_u32..3,
        marks in proptest::collection::vec(0_u64..600, 0..6),
        again in 16_u64..2000,
    ) {
        let data = 1 << 20;
        let marks: Vec<u64> = marks.into_iter().filter(|mark| *mark < blocks).collect();
        let mut disk = disk(data + blocks * 4096, &marks);
        let old = look(&disk).superblock.size * SECTOR;
        disk.resize((data + 2000 * 4096) as usize, 0);
        let new = target * 4096;
        let chunk = if new < old { CHUNK } else { CHUNK << doublings };
        let resized = planned(&disk, new, chunk).unwrap();
        for count in 0..=resized.writes.len() {
            let mut disk = disk.clone();
            resized.writes[..count].iter().for_each(|one| write(&mut disk, one));
            let found = look(&disk);
            let size = found.superblock.size * SECTOR;
            prop_assert!(size == old || size == new, "{count}: {size}");
            for mark in &marks {
                prop_assert!(covers(&found, &(mark * 4096..((mark + 1) * 4096).min(size).max(mark * 4096))) || mark * 4096 >= size);
            }
            prop_assert!(size <= old || covers(&found, &(old..size)), "{count}");
            // Whoever comes next can finish it, or do something else.
            let bitmap = found.bitmap.as_ref().unwrap();
            let next = Resize {
                superblock: &found.superblock,
                bitmap: Some((&bitmap.header, &bitmap.bits)),
                device: disk.len() as u64,
                size: again * 4096,
                chunk: bitmap.header.chunk,
            };
            let next = next.plan().unwrap();
            next.writes.iter().for_each(|one| write(&mut disk, one));
            let found = look(&disk);
            prop_assert_eq!(found.bitmap.as_ref().unwrap().trust, Trust::Complete);
            prop_assert_eq!(found.superblock.size, again * 8);
            let end = again * 4096;
            prop_assert!(old >= end || covers(&found, &(old.min(size)..end)));
        }
    }
}
