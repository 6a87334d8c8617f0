//! Headers at their edges; bits against a plain model.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn header(sync_size: u64, chunk: u32) -> BitmapSuperblock {
    BitmapSuperblock {
        uuid: MdUuid([7; 16]),
        events: 10,
        events_cleared: 9,
        sync_size,
        state: 0,
        chunk,
        daemon_sleep: 5,
        write_behind: 256,
        sectors_reserved: 8,
        cluster_name: [0; 64],
    }
}

#[test]
fn a_header_is_laid_out_as_the_kernel_has_it() {
    let bytes = header(0x0102_0304, 65536).encode();
    let hex: String = bytes[..72].iter().map(|b| format!("{b:02x}")).collect();
    let expected = [
        "6269746d",                         // "bitm"
        "04000000",                         // version
        "07070707070707070707070707070707", // uuid
        "0a00000000000000",                 // events
        "0900000000000000",                 // events_cleared
        "0403020100000000",                 // sync_size
        "00000000",                         // state
        "00000100",                         // chunksize
        "05000000",                         // daemon_sleep
        "00010000",                         // write_behind
        "08000000",                         // sectors_reserved
        "00000000",                         // nodes
    ];
    assert_eq!(hex, expected.concat());
    assert!(bytes[72..].iter().all(|&b| b == 0));
}

#[test]
fn every_wrong_header_is_refused_by_name() {
    let refused = |at: usize, value: &[u8]| {
        let mut bytes = header(1 << 20, 65536).encode();
        bytes[at..at + value.len()].copy_from_slice(value);
        BitmapSuperblock::decode(&bytes).unwrap_err()
    };
    assert_eq!(
        BitmapSuperblock::decode(&[0; 255]),
        Err(BitmapError::Short {
            have: 255,
            need: 256
        })
    );
    assert_eq!(refused(0, &[0; 4]), BitmapError::NoMagic { found: 0 });
    assert_eq!(refused(4, &[3]), BitmapError::Version { version: 3 });
    assert_eq!(refused(4, &[5]), BitmapError::Version { version: 5 });
    assert_eq!(
        refused(49, &[0x80]),
        BitmapError::Field {
            field: "state",
            value: 0x8000
        }
    );
    assert_eq!(refused(52, &[0, 0, 0]), BitmapError::Chunk { chunk: 0 });
    assert_eq!(refused(52, &[0, 1, 0]), BitmapError::Chunk { chunk: 256 });
    assert_eq!(refused(52, &[1]), BitmapError::Chunk { chunk: 65537 });
    assert_eq!(
        refused(56, &[0]),
        BitmapError::Field {
            field: "daemon sleep",
            value: 0
        }
    );
    assert_eq!(
        refused(60, &[0, 64]),
        BitmapError::Field {
            field: "write behind",
            value: 16384
        }
    );
    assert_eq!(
        refused(68, &[1]),
        BitmapError::Field {
            field: "cluster nodes",
            value: 1
        }
    );
    assert_eq!(refused(255, &[1]), BitmapError::Padding { at: 255 });
    assert!(matches!(
        refused(46, &[1]),
        BitmapError::TooManyChunks { chunk: 65536, .. }
    ));
}

#[test]
fn a_header_of_another_array_size_or_time_is_not_trusted() {
    let mut superblock = crate::superblock::tests::sample();
    superblock.set_uuid = MdUuid([7; 16]);
    superblock.size = 4096;
    superblock.events = 10;
    let bitmap = header(4096, 65536);
    assert_eq!(bitmap.trust(&superblock), Ok(Trust::Complete));
    let with = |change: &dyn Fn(&mut BitmapSuperblock)| {
        let mut changed = bitmap.clone();
        change(&mut changed);
        changed.trust(&superblock)
    };
    assert_eq!(with(&|b| b.events = 11), Ok(Trust::Complete));
    assert_eq!(
        with(&|b| b.events = 9),
        Ok(Trust::OutOfDate {
            bitmap: 9,
            superblock: 10
        })
    );
    assert_eq!(with(&|b| b.state = STATE_STALE), Ok(Trust::MarkedStale));
    assert_eq!(
        with(&|b| b.state = STATE_WRITE_ERROR),
        Ok(Trust::WriteFailed)
    );
    assert!(matches!(
        with(&|b| b.uuid = MdUuid([8; 16])),
        Err(BitmapError::Foreign { .. })
    ));
    assert_eq!(
        with(&|b| b.sync_size = 4095),
        Ok(Trust::TooShort {
            bitmap: 4095,
            superblock: 4096
        })
    );
    // It was written before a larger size, which never came.
    assert_eq!(with(&|b| b.sync_size = 5000), Ok(Trust::Complete));
}

#[test]
fn chunks_are_rounded_up_and_bytes_to_whole_pages() {
    assert_eq!(chunk_count(0, 4096), Some(0));
    assert_eq!(chunk_count(8, 4096), Some(1));
    assert_eq!(chunk_count(9, 4096), Some(2));
    assert_eq!(chunk_count(9, 511), None);
    assert_eq!(bitmap_bytes(0), 4096);
    assert_eq!(bitmap_bytes(3840 * 8), 4096);
    assert_eq!(bitmap_bytes(3840 * 8 + 1), 8192);
}

#[test]
fn the_first_bit_follows_the_header_and_bits_fill_a_byte_from_the_least() {
    let mut bits = DirtyBits::all_clean(30_721);
    for chunk in [0, 9, 30_719, 30_720] {
        assert!(bits.set(chunk));
        assert!(!bits.set(chunk));
    }
    let raw = bits.encode(&header(30_721 * 8, 4096));
    assert_eq!(raw.len(), 8192);
    assert_eq!(raw[256..258], [0x01, 0x02]);
    assert_eq!(raw[4095], 0x80);
    // One bit of the second page is a chunk's, the rest is beyond the last chunk.
    assert_eq!(raw[4096], 0xff);
    assert_eq!((bits.page_of(30_719), bits.page_of(30_720)), (0, 1));
    assert_eq!(bits.chunks_of_page(0), 0..30_720);
    assert_eq!(bits.chunks_of_page(1), 30_720..30_721);
    assert_eq!(bits.chunks_of_page(2), 30_721..30_721);
    bits.clear(30_720);
    assert_eq!(bits.encode(&header(30_721 * 8, 4096))[4096], 0xfe);
}

#[test]
fn bits_beyond_the_last_chunk_are_kept_and_never_counted() {
    let mut raw = DirtyBits::all_clean(10).encode(&header(80, 4096));
    raw[256..260].copy_from_slice(&[0x01, 0xfc | 0x02, 0x55, 0xaa]);
    let bits = DirtyBits::decode(10, &raw).unwrap();
    assert_eq!(bits.count(), 2);
    assert_eq!(bits.ranges().collect::<Vec<_>>(), [0..1, 9..10]);
    assert_eq!(bits.encode(&header(80, 4096)), raw);
    assert_eq!(bits.next_clean(9), None);
    let mut bits = bits;
    assert!(!bits.set(10) && !bits.clear(10) && bits.test(10));
    assert_eq!(bits.set_range(5..1000), 4);
    assert_eq!(bits.clear_range(0..u64::MAX), 6);
    assert_eq!(bits.encode(&header(80, 4096))[257..260], [0xfc, 0x55, 0xaa]);
}

#[test]
fn a_bitmap_cut_short_is_refused_and_a_sector_of_its_last_page_is_enough() {
    assert_eq!(
        DirtyBits::decode(17, &[0; 258]),
        Err(BitmapError::Short {
            have: 258,
            need: 259
        })
    );
    let bits = DirtyBits::decode(17, &[0; 259]).unwrap();
    assert_eq!(bits.count(), 0);
    assert_eq!(bits.encode(&header(17 * 8, 4096))[259], 0xff);
    assert_eq!(
        DirtyBits::decode(1, &[]),
        Err(BitmapError::Short { have: 0, need: 257 })
    );
}

#[test]
fn a_page_beyond_the_last_is_left_alone() {
    let mut page = [0x77; PAGE];
    DirtyBits::all_dirty(5).encode_page(1, &header(40, 4096), &mut page);
    assert_eq!(page, [0x77; PAGE]);
}

proptest! {
    #[test]
    fn bits_behave_like_a_set_of_numbers(
        chunks in 1_u64..70_000,
        steps in proptest::collection::vec((any::<bool>(), 0_u64..70_000, 0_u64..400), 0..40),
    ) {
        let mut bits = DirtyBits::all_clean(chunks);
        let mut model = BTreeSet::new();
        for (set, start, length) in steps {
            let range = start..start + length;
            let before = model.len();
            if set {
                model.extend(range.clone().filter(|&c| c < chunks));
                prop_assert_eq!(bits.set_range(range), (model.len() - before) as u64);
            } else {
                model.retain(|c| !range.contains(c));
                prop_assert_eq!(bits.clear_range(range), (before - model.len()) as u64);
            }
            prop_assert_eq!(bits.test(start), start >= chunks || model.contains(&start));
        }
        prop_assert_eq!(bits.count(), model.len() as u64);
        let listed: Vec<u64> = bits.ranges().flatten().collect();
        prop_assert_eq!(&listed, &model.iter().copied().collect::<Vec<_>>());
        let raw = bits.encode(&header(chunks * 8, 4096));
        prop_assert_eq!(&DirtyBits::decode(chunks, &raw).unwrap(), &bits);
        let mut union = DirtyBits::all_clean(chunks);
        union.set(0);
        union.union_with(&bits);
        model.insert(0);
        prop_assert_eq!(union.count(), model.len() as u64);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = BitmapSuperblock::decode(&bytes);
        if bytes.len() > 8 {
            bytes[..8].copy_from_slice(&[0x62, 0x69, 0x74, 0x6d, 4, 0, 0, 0]);
            if bytes.len() > 256 {
                bytes[68..256].fill(0);
            }
        }
        if let Ok(found) = BitmapSuperblock::decode(&bytes) {
            prop_assert!(found.chunks() <= MAX_CHUNKS);
            let _ = found.decode_bits(&bytes);
        }
    }
}
