//! The record's bytes: pinned, and no damage to them goes unnoticed.

use super::pair::{OtherCopy, PairError, decode_pair};
use super::*;
use proptest::prelude::*;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn sample() -> StateRecord {
    StateRecord {
        sequence: 0x0102_0304,
        array: [0xaa; 16],
        node_id: 2,
        node: node("server1"),
        current: GenerationId(0x1111_2222_3333_4444),
        history: vec![GenerationId(0x55), GenerationId(0x66)],
        flags: RecordFlags::WAS_SOURCE | RecordFlags::CONSISTENT,
        discarded: GenerationId(0x99),
        agreement: 0x0a0b_0c0d,
        votes: [0; 32],
        peers: vec![PeerState {
            node_id: 3,
            name: node("server2"),
            bitmap: GenerationId(0x77),
            flags: PeerFlags::FULL_RESYNC,
            discarded: GenerationId(0x88),
            agreement: 0x0102,
        }],
    }
}

#[test]
fn bytes_of_a_record_are_where_the_table_says() {
    let bytes = sample().encode().unwrap();
    let expected = [
        (0, "4e52414944524543 01000000 00100000 0403020100000000"), // magic, version, length, sequence
        (24, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 03000000 02 01 02 00"), // array, flags, counts
        (48, "4444333322221111 9900000000000000 73657276657231"),   // current, given up, node
        (128, "5500000000000000 6600000000000000"),                 // history
        (384, "03000000 02000000 7700000000000000"),                // peer: number, flags, bitmap
        (400, "8800000000000000 02010000"),                         // peer: given up, agreement
        (448, "73657276657232"),                                    // peer: name
        (1408, "0d0c0b0a"),                                         // agreement
        (4084, "0403020100000000 782d023e"),                        // sequence, checksum
    ];
    let mut built = [0_u8; RECORD_BYTES];
    for (at, hex) in expected {
        let digits: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
        for (n, pair) in digits.chunks(2).enumerate() {
            let text = std::str::from_utf8(pair).unwrap();
            built[at + n] = u8::from_str_radix(text, 16).unwrap();
        }
    }
    let differ: Vec<usize> = (0..RECORD_BYTES)
        .filter(|&n| built[n] != bytes[n])
        .collect();
    assert_eq!(differ, [] as [usize; 0], "{:02x?}", &bytes[4080..]);
}

/// The sample with `change` done to its bytes and the checksum put right again.
fn altered(change: impl Fn(&mut [u8; RECORD_BYTES])) -> RecordError {
    let mut bytes = sample().encode().unwrap();
    change(&mut bytes);
    let sum = crc32fast::hash(&bytes[..4092]);
    bytes[4092..].copy_from_slice(&sum.to_le_bytes());
    StateRecord::decode(&bytes).unwrap_err()
}

#[test]
fn every_reason_to_refuse_is_named() {
    let good = sample().encode().unwrap();
    assert_eq!(
        StateRecord::decode(&[0; RECORD_BYTES]),
        Err(RecordError::Blank)
    );
    assert_eq!(
        StateRecord::decode(&good[..100]),
        Err(RecordError::Length { have: 100 })
    );
    let found = *b"xRAIDREC";
    assert_eq!(altered(|b| b[0] = b'x'), RecordError::Magic { found });
    assert_eq!(altered(|b| b[8] = 2), RecordError::Version { version: 2 });
    for (at, value, reason) in [
        (12, 1, "length 4097"),
        (4084, 9, "writes"),
        (45, 9, "9 peers"),
        (46, 33, "33 former generations"),
        (41, 0x80, "unknown flags"),
        (389, 0x01, "unknown flags"),
        (384, 2, "there twice"),
        (64, b'/', "'/'"),
        (64, 0, "node name is empty"),
        (448, 0, "node name is empty"),
        (128, 0, "empty generation"),
        (2000, 1, "no meaning"),
        (1444, 1, "no meaning"),
        (47, 1, "no meaning"),
        (412, 1, "no meaning"),
        (72, 1, "no meaning"),
        (600, 1, "no meaning"),
    ] {
        let error = altered(|b| b[at] = value).to_string();
        assert!(error.contains(reason), "byte {at}: {error}");
    }
    let mut bytes = good;
    bytes[100] ^= 1;
    assert!(matches!(
        StateRecord::decode(&bytes),
        Err(RecordError::Checksum { .. })
    ));
}

#[test]
fn a_record_that_is_torn_at_any_sector_says_so() {
    let old = sample().encode().unwrap();
    let mut new = sample();
    new.sequence += 1;
    new.current = GenerationId(9);
    let new = new.encode().unwrap();
    for cut in (512..RECORD_BYTES).step_by(512) {
        let torn = [&new[..cut], &old[cut..]].concat();
        let (head, tail) = (0x0102_0305, 0x0102_0304);
        assert_eq!(
            StateRecord::decode(&torn),
            Err(RecordError::Torn { head, tail })
        );
        let chosen = decode_pair(&torn, &old).unwrap();
        assert_eq!((chosen.record, chosen.copy), (sample(), 1));
        assert_eq!(
            chosen.other,
            OtherCopy::Bad(RecordError::Torn { head, tail })
        );
    }
}

#[test]
fn of_two_copies_the_newest_that_can_be_read_counts() {
    let older = sample();
    let newer = StateRecord {
        sequence: older.sequence + 1,
        current: GenerationId(8),
        ..sample()
    };
    let bytes = |record: &StateRecord| record.encode().unwrap();
    let behind = OtherCopy::Behind {
        sequence: older.sequence,
    };
    for (first, second, copy) in [(&newer, &older, 0), (&older, &newer, 1)] {
        let chosen = decode_pair(&bytes(first), &bytes(second)).unwrap();
        assert_eq!(
            (chosen.record, chosen.copy, chosen.other),
            (newer.clone(), copy, behind.clone())
        );
    }
    let chosen = decode_pair(&bytes(&older), &bytes(&older)).unwrap();
    assert_eq!(
        (chosen.record, chosen.other),
        (older.clone(), OtherCopy::Equal)
    );
    let blank = [0; RECORD_BYTES];
    let chosen = decode_pair(&blank, &bytes(&older)).unwrap();
    assert_eq!(
        (chosen.copy, chosen.other),
        (1, OtherCopy::Bad(RecordError::Blank))
    );
}

#[test]
fn copies_that_cannot_both_be_true_are_refused() {
    let one = sample();
    let bytes = |record: &StateRecord| record.encode().unwrap();
    let blank = [0; RECORD_BYTES];
    assert_eq!(decode_pair(&blank, &blank), Err(PairError::Blank));
    assert!(matches!(
        decode_pair(&blank, &[1; 4096]),
        Err(PairError::BothBad { .. })
    ));
    let refused = |other: StateRecord| decode_pair(&bytes(&one), &bytes(&other)).unwrap_err();
    let what = "one write, two contents";
    assert_eq!(
        refused(StateRecord {
            current: GenerationId(1),
            ..sample()
        }),
        PairError::Contradiction { what }
    );
    let what = "they are of two arrays";
    assert_eq!(
        refused(StateRecord {
            array: [1; 16],
            ..sample()
        }),
        PairError::Contradiction { what }
    );
    let what = "they are of two nodes";
    assert_eq!(
        refused(StateRecord {
            node: node("x"),
            ..sample()
        }),
        PairError::Contradiction { what }
    );

    let mut newer = bytes(&one);
    newer[8] = 2;
    let sum = crc32fast::hash(&newer[..4092]);
    newer[4092..].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(
        decode_pair(&bytes(&one), &newer),
        Err(PairError::Newer {
            copy: 1,
            version: 2
        })
    );
}

#[test]
fn history_remembers_each_generation_once_and_forgets_the_oldest() {
    let mut record = sample();
    record.remember(GenerationId::NONE);
    record.remember(GenerationId(0x66));
    assert_eq!(record.history, [GenerationId(0x66), GenerationId(0x55)]);
    (100..140).for_each(|n| record.remember(GenerationId(n)));
    assert_eq!(record.history.len(), MAX_HISTORY);
    assert_eq!(record.history[0], GenerationId(139));
    record.encode().unwrap();
}

#[test]
fn flags_are_printed_by_name() {
    let flags = RecordFlags::WAS_SOURCE | RecordFlags::OUTDATED;
    assert_eq!(format!("{flags:?}"), "WAS_SOURCE|OUTDATED");
    assert_eq!(format!("{:?}", RecordFlags(0)), "0x0");
    assert_eq!(format!("{:?}", PeerFlags(0x101)), "IN_SYNC|0x100");
    assert_eq!(
        flags.with(RecordFlags::OUTDATED, false),
        RecordFlags::WAS_SOURCE
    );
    assert_eq!(format!("{}", GenerationId(0xab)), "00000000000000ab");
}

prop_compose! {
    fn any_record()(
        sequence: u64,
        array: [u8; 16],
        node_id in 0_u8..4,
        name in "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}",
        current: u64,
        history in proptest::collection::vec(1_u64.., 0..=MAX_HISTORY),
        flags in 0_u32..128,
        discarded: u64,
        agreement: u32,
        votes: [u8; 32],
        peers in proptest::collection::vec((any::<u64>(), 0_u32..64), 0..=MAX_PEERS),
    ) -> StateRecord {
        let peer = |(n, (bitmap, flags)): (usize, (u64, u32))| PeerState {
            node_id: 4 + n as u8,
            name: node(&format!("peer.{n}.{}", "x".repeat(n * 8).chars().take(50).collect::<String>())),
            bitmap: GenerationId(bitmap),
            flags: PeerFlags(flags),
            discarded: GenerationId(bitmap.rotate_left(7)),
            agreement: bitmap as u32,
        };
        StateRecord {
            sequence,
            array,
            node_id,
            node: node(&name),
            current: GenerationId(current),
            history: history.into_iter().map(GenerationId).collect(),
            flags: RecordFlags(flags),
            discarded: GenerationId(discarded),
            agreement,
            votes,
            peers: peers.into_iter().enumerate().map(peer).collect(),
        }
    }
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(record in any_record()) {
        let bytes = record.encode().unwrap();
        prop_assert_eq!(StateRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn any_single_damaged_byte_is_noticed_and_the_other_copy_counts(
        record in any_record(),
        at in 0..RECORD_BYTES,
        flip in 1_u8..=255,
    ) {
        let good = record.encode().unwrap();
        let mut bad = good;
        bad[at] ^= flip;
        prop_assert!(StateRecord::decode(&bad).is_err());
        prop_assert_eq!(&decode_pair(&bad, &good).unwrap().record, &record);
        prop_assert_eq!(&decode_pair(&good, &bad).unwrap().record, &record);
    }

    #[test]
    fn any_bytes_with_a_right_checksum_are_read_or_refused_without_a_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), RECORD_BYTES),
        peers in 0_u8..10,
        history in 0_u8..40,
    ) {
        bytes[..16].copy_from_slice(b"NRAIDREC\x01\0\0\0\0\x10\0\0");
        bytes[45] = peers;
        bytes[46] = history;
        bytes.copy_within(16..24, 4084);
        let sum = crc32fast::hash(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&sum.to_le_bytes());
        if let Ok(record) = StateRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode().unwrap()[..], &bytes[..]);
        }
    }
}
