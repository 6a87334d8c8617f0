//! The text is read as it was written, and nothing else is.

use proptest::prelude::*;

use super::*;

fn meta() -> Meta {
    let record = StateRecord {
        sequence: 0,
        array: [0xab; 16],
        node_id: 1,
        node: NodeName::new("server2").unwrap(),
        current: GenerationId(7),
        history: vec![GenerationId(6), GenerationId(u64::MAX)],
        flags: RecordFlags::CONSISTENT | RecordFlags::LAST_OWNER,
        discarded: GenerationId(3),
        agreement: 9,
        votes: std::array::from_fn(|at| u8::from(at == 20)),
        peers: vec![PeerState {
            node_id: 0,
            name: NodeName::new("server1").unwrap(),
            bitmap: GenerationId(5),
            flags: PeerFlags::MEMBER | PeerFlags::FULL_RESYNC,
            discarded: GenerationId::NONE,
            agreement: 11,
        }],
    };
    Meta {
        tag: "data".into(),
        node: "server2".into(),
        slot: 1,
        time_ms: 1,
        disk: "/dev/sdb1".into(),
        disk_bytes: 1 << 24,
        flags: crate::api::document::Flags::default(),
        record: Some(Record::of(&record)),
        leg: None,
        problems: vec!["/dev/sdb1: can't be read".into()],
    }
}

fn text(document: &Document) -> Vec<u8> {
    serde_json::to_vec_pretty(document).unwrap()
}

#[test]
fn a_text_is_read_as_it_was_written_and_every_flag_has_a_name() {
    let document = Document::new(meta()).unwrap();
    assert_eq!(Document::parse(&text(&document)), Ok(document));
    let mut record = meta().record.unwrap().state().unwrap();
    assert_eq!(record.history[1], GenerationId(u64::MAX));
    record.flags = RecordFlags((1 << RECORD_FLAGS.len()) - 1);
    record.peers[0].flags = PeerFlags((1 << PEER_FLAGS.len()) - 1);
    let back = Record::of(&record).state().unwrap();
    assert_eq!(back, record);
}

#[test]
fn what_was_changed_or_is_newer_or_something_else_is_refused_by_name() {
    let document = Document::new(meta()).unwrap();
    let good = String::from_utf8(text(&document)).unwrap();
    for (from, to, why) in [
        ("\"agreement\": 9", "\"agreement\": 8", "was changed"),
        ("netraid.meta/1", "netraid.meta/2", "a newer version"),
        (
            "netraid.meta/1",
            "netraid.mirrors/1",
            "\"netraid.mirrors/1\"",
        ),
        ("{", "[", "no text of netraid dump-meta"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = Document::parse(good.replacen(from, to, 1).as_bytes());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let mut strange = meta().record.unwrap();
    strange.flags.push("diskless".into());
    assert!(strange.state().is_err());
    strange.flags.clear();
    strange.current = "+000000000000007".into();
    assert!(strange.state().is_err());
}

#[test]
fn bytes_are_the_same_after_they_were_digits() {
    let mut bytes = vec![0; 100];
    bytes[3] = 0xf1;
    bytes[70] = 1;
    let lines = hex(&bytes);
    assert_eq!(lines.len(), 3);
    assert_eq!(unhex(&lines, 100).unwrap(), bytes);
    assert!(unhex(&lines, 70).is_err(), "cut short");
    assert!(unhex(&["0g".into()], 100).is_err());
    assert!(unhex(&["012".into()], 100).is_err());
    assert_eq!(unhex(&hex(&[]), 2).unwrap(), [0, 0]);
}

proptest! {
    #[test]
    fn fewer_ranges_never_mark_less(marks in proptest::collection::btree_set(0_u64..500, 0..200), most in 0_usize..20) {
        let ranges = marks.iter().map(|mark| *mark..*mark + 1);
        let few = few(ranges.clone(), most);
        prop_assert!(few.len() <= most.max(1));
        for range in ranges {
            prop_assert!(few.iter().any(|[first, end]| *first <= range.start && range.end <= *end));
        }
        prop_assert!(few.iter().all(|[first, _]| marks.contains(first)));
    }
}
