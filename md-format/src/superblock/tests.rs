//! The superblock's bytes, and every reason to refuse them.

use super::*;
use proptest::prelude::*;

/// A superblock of a two-leg mirror in which everything is as it should be.
pub(crate) fn sample() -> Superblock {
    Superblock {
        features: Features::BITMAP_OFFSET,
        set_uuid: MdUuid([0x11; 16]),
        set_name: *b"server1:data\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        created: Timestamp::from_seconds(1_750_000_000),
        size: 129_024,
        raid_disks: 2,
        bitmap_offset: 8,
        reshape_fields: [0; 28],
        data_offset: 2048,
        data_size: 129_024,
        super_offset: 8,
        recovery_offset: 0,
        dev_number: 1,
        corrected_reads: 0,
        device_uuid: MdUuid([0x22; 16]),
        devflags: WRITE_MOSTLY,
        bblog_shift: 0,
        bblog_size: 0,
        bblog_offset: 0,
        updated: Timestamp {
            seconds: 1_750_000_001,
            micros: 77,
        },
        events: 18,
        resync_offset: IN_SYNC,
        roles: vec![Role::Active(0), Role::Active(1), Role::Faulty],
    }
}

fn resum(bytes: &mut [u8; BLOCK]) {
    let roles = u32::from_le_bytes([bytes[220], bytes[221], bytes[222], bytes[223]]) as usize;
    let mut sum = 0_u64;
    let covered = bytes[..256 + 2 * roles].to_vec();
    for (i, &byte) in covered
        .iter()
        .enumerate()
        .filter(|(i, _)| !(216..220).contains(i))
    {
        sum += u64::from(byte) << (8 * (i % 4));
    }
    let folded = (sum as u32).wrapping_add((sum >> 32) as u32);
    bytes[216..220].copy_from_slice(&folded.to_le_bytes());
}

#[test]
fn bytes_are_where_md_p_h_has_them() {
    let bytes = sample().encode();
    let at = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    assert_eq!(at(0..16), "fc4e2ba9010000000100000000000000");
    assert_eq!(at(16..32), "11".repeat(16));
    assert_eq!(&bytes[32..45], b"server1:data\0");
    assert_eq!(at(64..72), "80e14e6800000000"); // ctime
    assert_eq!(at(72..80), "0100000000000000"); // level, layout
    assert_eq!(at(80..96), "00f80100000000000000000002000000"); // size, chunk, disks
    assert_eq!(at(96..128), format!("08000000{}", "00".repeat(28)));
    assert_eq!(
        at(128..152),
        "000800000000000000f80100000000000800000000000000"
    );
    assert_eq!(at(152..168), "00000000000000000100000000000000");
    assert_eq!(at(168..192), format!("{}0100000000000000", "22".repeat(16)));
    assert_eq!(
        at(192..216),
        "81e14e68004d00001200000000000000ffffffffffffffff"
    );
    assert_eq!(at(220..256), format!("03000000{}", "00".repeat(32)));
    assert_eq!(at(256..262), "00000100feff");
    assert!(bytes[262..].iter().all(|&b| b == 0));
    let mut again = bytes;
    resum(&mut again);
    assert_eq!(again, bytes);
}

#[test]
fn every_reason_to_refuse_is_named() {
    let refused = |at: usize, value: &[u8]| {
        let mut bytes = sample().encode();
        bytes[at..at + value.len()].copy_from_slice(value);
        resum(&mut bytes);
        Superblock::decode(&bytes).unwrap_err()
    };
    assert_eq!(
        Superblock::decode(&[]),
        Err(SuperblockError::Short { have: 0, need: 256 })
    );
    assert_eq!(
        Superblock::decode(&sample().encode()[..260]),
        Err(SuperblockError::Short {
            have: 260,
            need: 262
        })
    );
    assert_eq!(refused(0, &[0; 4]), SuperblockError::NoMagic { found: 0 });
    assert_eq!(refused(4, &[2]), SuperblockError::Version { major: 2 });
    assert_eq!(refused(12, &[1]), SuperblockError::Padding { at: 12 });
    assert_eq!(refused(255, &[1]), SuperblockError::Padding { at: 255 });
    assert_eq!(refused(72, &[5]), SuperblockError::Level { level: 5 });
    assert_eq!(
        refused(72, &[0xfc, 0xff, 0xff, 0xff]),
        SuperblockError::Level { level: -4 }
    );
    assert_eq!(
        refused(76, &[2]),
        SuperblockError::NotZero {
            field: "layout",
            value: 2
        }
    );
    assert_eq!(
        refused(88, &[8]),
        SuperblockError::NotZero {
            field: "chunk size",
            value: 8
        }
    );
    assert_eq!(
        refused(92, &[0]),
        SuperblockError::RaidDisks { raid_disks: 0 }
    );
    for (bit, word) in [
        (4, "reshaped"),
        (8, "bad blocks"),
        (256, "cluster"),
        (512, "journal"),
    ] {
        let error = refused(8, &u32::to_le_bytes(1 | bit));
        assert!(matches!(&error, SuperblockError::Features { features, .. } if features.0 == bit));
        assert!(error.to_string().contains(word), "{error}");
    }
    let sizes = |at, value: u64| match refused(at, &value.to_le_bytes()) {
        SuperblockError::Sizes { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(sizes(80, 129_025), "array is larger than the leg");
    assert_eq!(
        sizes(128, u64::MAX),
        "data offset and size are beyond any disk"
    );
    assert_eq!(
        sizes(136, u64::MAX / 600),
        "data offset and size are beyond any disk"
    );
    assert_eq!(sizes(136, 9), "leg holds almost nothing");
    assert_eq!(sizes(144, u64::MAX), "superblock is beyond any disk");
    assert_eq!(sizes(128, 8), "superblock lies in the data");
    assert_eq!(sizes(128, 16), "bitmap lies in the superblock or the data");
    assert_eq!(sizes(96, 0), "bitmap lies in the superblock or the data");
    let before = refused(96, &(-9_i32).to_le_bytes());
    assert!(
        before.to_string().contains("before the start of the disk"),
        "{before}"
    );

    let mut torn = sample().encode();
    torn[220] = 0xff;
    torn[221] = 0xff;
    assert_eq!(
        Superblock::decode(&torn),
        Err(SuperblockError::MaxDev { max_dev: 0xffff })
    );
}

#[test]
fn a_superblock_belongs_to_its_place_and_a_disk_that_is_large_enough() {
    let superblock = sample();
    assert_eq!(superblock.check_place(8, 131_072), Ok(()));
    assert_eq!(
        superblock.check_place(0, 131_072),
        Err(SuperblockError::Misplaced { found: 0, says: 8 })
    );
    assert!(matches!(
        superblock.check_place(8, 131_071),
        Err(SuperblockError::Sizes { .. })
    ));
}

#[test]
fn each_version_has_its_sector() {
    assert_eq!(Version::V1_0.sector(131_072), Some(131_056));
    assert_eq!(Version::V1_0.sector(131_079), Some(131_056));
    assert_eq!(Version::V1_0.sector(15), None);
    assert_eq!(Version::V1_1.sector(131_072), Some(0));
    assert_eq!(Version::V1_2.sector(131_072), Some(8));
    assert_eq!(Version::V1_2.sector(15), None);
}

#[test]
fn a_leg_knows_its_role_and_the_state_of_all() {
    let mut superblock = sample();
    assert_eq!(
        (superblock.role(), superblock.array_state()),
        (Role::Active(1), "AA".into())
    );
    assert!(superblock.is_in_sync() && superblock.is_clean());
    superblock.features = superblock.features | Features::RECOVERY_OFFSET;
    superblock.recovery_offset = 1000;
    assert!(!superblock.is_in_sync());
    assert_eq!(superblock.recovered_sectors(), 1000);
    superblock.set_role(1, Role::Faulty);
    superblock.set_role(5, Role::Active(0));
    assert_eq!(
        (superblock.role(), superblock.array_state()),
        (Role::Faulty, "R.".into())
    );
    superblock.dev_number = 99;
    assert_eq!(superblock.role(), Role::Spare);
    superblock.mark_active();
    assert!(!superblock.is_clean());
    superblock.mark_clean();
    assert!(superblock.is_clean());
}

proptest! {
    #[test]
    fn any_single_changed_byte_is_noticed(at in 0_usize..262, flip in 1_u8..=255) {
        let mut bytes = sample().encode();
        bytes[at] ^= flip;
        prop_assert!(Superblock::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), BLOCK),
        max_dev in 0_u32..MAX_DEV,
        start in 0_usize..3,
    ) {
        let mut bytes: [u8; BLOCK] = bytes.try_into().unwrap();
        let _ = Superblock::decode(&bytes);
        // Past the first checks, with ever more of it plausible.
        let good = sample().encode();
        let keep = [[0..16, 72..80], [0..80, 88..100], [0..100, 128..152]][start].clone();
        for range in keep {
            bytes[range.clone()].copy_from_slice(&good[range]);
        }
        bytes[224..256].fill(0);
        bytes[220..224].copy_from_slice(&max_dev.to_le_bytes());
        resum(&mut bytes);
        if let Ok(superblock) = Superblock::decode(&bytes) {
            let length = 256 + 2 * superblock.roles.len();
            prop_assert_eq!(&superblock.encode()[..length], &bytes[..length]);
            let _ = (superblock.array_state(), superblock.name(), superblock.bitmap_sector());
        }
    }
}
