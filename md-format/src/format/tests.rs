//! Fresh mirrors, judged by `mdadm`.

use super::*;
use crate::superblock::MAX_DEV;

const MIB: u64 = 1 << 20;

fn uuid(n: u8) -> MdUuid {
    MdUuid([n, 0xab, 0xcd, 0xef, n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, n])
}

fn leg(device: u64, n: u8) -> Option<NewLeg> {
    Some(NewLeg {
        device,
        uuid: uuid(n),
        write_mostly: n > 1,
        fail_fast: false,
    })
}

fn mirror(legs: Vec<Option<NewLeg>>) -> NewMirror {
    NewMirror {
        uuid: uuid(0xf0),
        name: "server1:datarep-data".into(),
        created: Timestamp::from_seconds(1_750_000_000),
        chunk: 65536,
        daemon_sleep: 5,
        legs,
        start: Start::Unequal,
    }
}

#[test]
fn legs_of_a_fresh_mirror_agree_and_decode_to_themselves() {
    let formatted = mirror(vec![leg(64 * MIB, 1), leg(80 * MIB + 7, 2)])
        .format()
        .unwrap();
    let legs: Vec<_> = formatted.into_iter().flatten().collect();
    assert_eq!(legs.len(), 2);
    assert_eq!(legs[0].superblock.size, 63 * MIB / 512);
    assert_eq!(legs[1].superblock.data_size, 79 * MIB / 512);
    for (number, leg) in legs.iter().enumerate() {
        let superblock = Superblock::decode(&leg.superblock.encode()).unwrap();
        assert_eq!(superblock, leg.superblock);
        superblock
            .check_place(8, 64 * MIB / 512 + number as u64 * 16 * MIB / 512)
            .unwrap();
        assert_eq!(superblock.role(), Role::Active(number as u16));
        assert_eq!(superblock.array_state(), "AA");
        assert_eq!(superblock.size, legs[0].superblock.size);
        assert!(!superblock.is_clean());
        let raw = leg.bits.encode(&leg.bitmap);
        assert_eq!(BitmapSuperblock::decode(&raw).unwrap(), leg.bitmap);
        assert_eq!(leg.bitmap.decode_bits(&raw).unwrap(), leg.bits);
        assert_eq!(leg.bits.count(), 63 * 16);
        let found = Layout::of(&leg.superblock, &leg.bitmap).unwrap();
        assert_eq!(found.records, leg.layout.records);
        assert_eq!(
            (found.data, found.data_size),
            (leg.layout.data, leg.layout.data_size)
        );
        assert_eq!(
            (found.bitmap, found.superblock, found.chunk),
            (8192, 4096, 65536)
        );
    }
}

#[test]
fn a_mirror_with_equal_legs_starts_clean_and_without_one_leg_it_starts_dirty() {
    let equal = |legs| {
        NewMirror {
            start: Start::Equal,
            ..mirror(legs)
        }
        .format()
        .unwrap()
    };
    let both = equal(vec![leg(64 * MIB, 1), leg(64 * MIB, 2)]);
    for leg in both.iter().flatten() {
        assert!(leg.superblock.is_clean());
        assert_eq!(leg.bits.count(), 0);
    }
    let alone = equal(vec![leg(64 * MIB, 1), None]);
    assert!(alone[1].is_none());
    let first = alone[0].as_ref().unwrap();
    assert!(first.superblock.is_clean());
    assert_eq!(first.superblock.array_state(), "A.");
    assert_eq!(first.bits.count(), first.bits.chunks());
}

#[test]
fn a_joining_leg_holds_nothing_and_has_its_place() {
    let first = mirror(vec![leg(64 * MIB, 1), None])
        .format()
        .unwrap()
        .remove(0)
        .unwrap();
    let new = leg(3 << 30, 2).unwrap();
    let joined = FormattedLeg::join(&first.superblock, &first.bitmap, 1, 1, &new).unwrap();
    let superblock = Superblock::decode(&joined.superblock.encode()).unwrap();
    assert_eq!(superblock.role(), Role::Active(1));
    assert_eq!(superblock.array_state(), "AA");
    assert!(!superblock.is_in_sync());
    assert_eq!(superblock.recovered_sectors(), 0);
    assert_eq!(superblock.size, first.superblock.size);
    assert_eq!(superblock.device_uuid, new.uuid);
    assert_eq!(joined.bits.count(), first.bits.chunks());

    let small = leg(32 * MIB, 3).unwrap();
    let refused = FormattedLeg::join(&first.superblock, &first.bitmap, 1, 1, &small);
    assert!(matches!(
        refused,
        Err(FormatError::Layout { leg: 1, error: LayoutError::DiskTooSmall { need, .. } })
            if need == 64 * MIB
    ));
}

#[test]
fn what_cannot_be_a_mirror_is_refused_by_name() {
    let two = || vec![leg(64 * MIB, 1), leg(64 * MIB, 2)];
    let refused = |change: &dyn Fn(&mut NewMirror)| {
        let mut wanted = mirror(two());
        change(&mut wanted);
        wanted.format().unwrap_err().to_string()
    };
    assert_eq!(
        refused(&|m| m.legs.clear()),
        "a mirror has 1 to 8 legs, not 0"
    );
    assert_eq!(
        refused(&|m| m.legs = vec![None; 9]),
        "a mirror has 1 to 8 legs, not 9"
    );
    assert_eq!(
        refused(&|m| m.legs = vec![None; 2]),
        "a mirror needs at least one leg that is there"
    );
    assert!(refused(&|m| m.name = "x".repeat(32)).contains("1 to 31 printable bytes"));
    assert!(refused(&|m| m.name = "a\nb".into()).contains("printable"));
    assert!(refused(&|m| m.name.clear()).contains("1 to 31"));
    assert!(refused(&|m| m.uuid = uuid(2)).contains("used twice"));
    assert!(refused(&|m| m.daemon_sleep = 0).contains("every 0 s"));
    assert!(refused(&|m| m.chunk = 3000).starts_with("leg 0: bitmap chunk of 3000 bytes"));
    assert!(
        refused(&|m| m.legs[1] = leg(MIB, 2))
            .starts_with("leg 1: disk of 1048576 bytes is too small")
    );
}

#[test]
fn a_role_far_down_the_table_makes_it_grow_and_one_beyond_it_is_ignored() {
    let mut superblock = mirror(vec![leg(64 * MIB, 1)])
        .format()
        .unwrap()
        .remove(0)
        .unwrap()
        .superblock;
    superblock.set_role(MAX_DEV, Role::Faulty);
    assert_eq!(superblock.roles.len(), 128);
    superblock.set_role(MAX_DEV - 1, Role::Faulty);
    assert_eq!(superblock.roles.len(), MAX_DEV as usize);
    assert_eq!(superblock.encoded_len(), 4096);
    assert_eq!(
        Superblock::decode(&superblock.encode()).unwrap(),
        superblock
    );
}
