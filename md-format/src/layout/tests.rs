//! Sizes at their edges.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_small_disk_gives_up_one_mebibyte() {
    let layout = Layout::plan(64 * MIB, 65536, None).unwrap();
    assert_eq!(layout.superblock, 4096);
    assert_eq!(layout.bitmap, 8192);
    assert_eq!(layout.bitmap_room, 4096);
    assert_eq!(layout.data, MIB);
    assert_eq!(layout.data_size, 63 * MIB);
    assert_eq!(layout.records, Some([MIB - 16384, MIB - 8192]));
}

#[test]
fn a_terabyte_with_small_chunks_gets_a_large_bitmap_and_room_for_eight_more() {
    let layout = Layout::plan(1 << 40, 65536, None).unwrap();
    assert_eq!(layout.bitmap_room, 2 * MIB + 4096);
    assert_eq!(layout.data, 19 * MIB);
}

#[test]
fn the_smallest_disk_fits_and_one_sector_less_does_not() {
    assert_eq!(
        Layout::plan(MIN_DEVICE, 4096, None).unwrap().data_size,
        MIN_DATA
    );
    assert_eq!(
        Layout::plan(MIN_DEVICE - 1, 4096, None),
        Err(LayoutError::DiskTooSmall {
            device: MIN_DEVICE - 512,
            need: MIN_DEVICE
        })
    );
    assert!(matches!(
        Layout::plan(0, 4096, None),
        Err(LayoutError::DiskTooSmall { device: 0, .. })
    ));
}

#[test]
fn a_chunk_must_be_a_power_of_two_in_range_and_not_too_small_for_the_disk() {
    for chunk in [0, 1, 2048, 4097, 3 << 12, 1 << 31] {
        assert_eq!(
            Layout::plan(1 << 30, chunk, None),
            Err(LayoutError::Chunk { chunk })
        );
    }
    assert_eq!(
        Layout::plan(3 << 40, 4096, None),
        Err(LayoutError::TooManyChunks {
            chunk: 4096,
            bytes: 3 << 40,
            least: 16384
        })
    );
    assert!(Layout::plan(3 << 40, 16384, None).is_ok());
    assert!(matches!(
        Layout::plan(u64::MAX, MAX_CHUNK, None),
        Err(LayoutError::TooManyChunks { .. })
    ));
}

#[test]
fn the_default_chunk_keeps_the_bitmap_small() {
    assert_eq!(Layout::default_chunk(0), 65536);
    assert_eq!(Layout::default_chunk(64 << 30), 65536);
    assert_eq!(Layout::default_chunk((64 << 30) + 1), 131_072);
    assert_eq!(Layout::default_chunk(1 << 40), 1 << 20);
    assert_eq!(Layout::default_chunk(u64::MAX), MAX_CHUNK);
}

proptest! {
    #[test]
    fn areas_never_overlap_and_end_within_the_disk(
        device in 0_u64..(1 << 50),
        shift in 12_u32..31,
        array in proptest::option::of(0_u64..(1 << 50)),
    ) {
        if let Ok(layout) = Layout::plan(device, 1 << shift, array) {
            let records = layout.records.unwrap();
            let bitmaps_end = layout.bitmap + layout.bitmap_room * (1 + PEER_BITMAPS);
            prop_assert!(layout.superblock + BLOCK as u64 <= layout.bitmap);
            prop_assert!(bitmaps_end + ACTIVITY_LOG <= records[0]);
            prop_assert!(records[0] + RECORD <= records[1] && records[1] + RECORD <= layout.data);
            prop_assert_eq!(layout.data % DATA_ALIGN, 0);
            prop_assert!(layout.data + layout.data_size <= device);
            let size = array.unwrap_or(layout.data_size);
            prop_assert!(size <= layout.data_size);
            prop_assert!(bitmap_bytes(layout.chunks(size)) <= layout.bitmap_room);
        }
    }
}
