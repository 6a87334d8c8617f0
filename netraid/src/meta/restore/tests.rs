//! Texts written back to files: what is there is never believed to be more equal than it was.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use flags::{FlagFiles, GenerationId, Tag};
use proptest::prelude::*;

use super::*;
use crate::array::create::{Creation, create};
use crate::array::disk::Access;
use crate::meta::document::Document;

const DISK: u64 = 8 << 20;
const CHUNK: u64 = 64 << 10;

struct Rig {
    place: Place,
    _folder: tempfile::TempDir,
}

/// The leg of `server1` in a mirror of two, with a record.
fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let names = ["server1", "server2"].map(|name| NodeName::new(name).unwrap());
    let disk: PathBuf = folder.path().join("disk");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(DISK).unwrap();
    create(&Creation {
        tag: Tag::new("data").unwrap(),
        disk: disk.clone(),
        nodes: names.to_vec(),
        node: names[0].clone(),
        chunk: Some(CHUNK as u32),
        keep: false,
        force: false,
        dry_run: false,
    })
    .unwrap();
    let place = Place {
        flags: FlagFiles::new(folder.path(), Tag::new("data").unwrap()),
        disk,
        names: names.to_vec(),
        slot: 0,
    };
    let rig = Rig {
        place,
        _folder: folder,
    };
    let mut record = rig.leg().record;
    record.flags = record.flags
        | RecordFlags::MEMBER
        | RecordFlags::UP_TO_DATE
        | RecordFlags::LAST_OWNER
        | RecordFlags::SETTLED;
    record.peers[0].flags = PeerFlags::MEMBER | PeerFlags::SETTLED;
    record.agreement = 4;
    rig.place.record().store(&mut record).unwrap();
    rig.place.flags.set_last_owner(true).unwrap();
    rig
}

impl Rig {
    fn open(&self) -> Arc<Disk> {
        Arc::new(Disk::open(&self.place.disk, Access::Exclusive).unwrap())
    }

    fn leg(&self) -> Leg {
        Leg::read(&self.open()).unwrap()
    }

    fn dump(&self) -> Meta {
        let meta = dump::dump(&self.place).unwrap();
        // As it is after it was kept as a text.
        let text = serde_json::to_vec_pretty(&Document::new(meta).unwrap()).unwrap();
        Document::parse(&text).unwrap().meta
    }

    fn restore(&self, meta: &Meta, force: bool) -> Result<Vec<String>, String> {
        let disk = self.open();
        let present = Present::read(&self.place, &disk).unwrap();
        let plan = plan(&self.place, meta, &present, force, 1000).map_err(|error| error.why)?;
        let steps = plan.steps.clone();
        plan.perform(&self.place, &disk).unwrap();
        Ok(steps)
    }

    fn refused(&self, meta: &Meta, why: &str) {
        for force in [false, true] {
            let error = self.restore(meta, force).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    fn overwrite(&self, at: u64, bytes: &[u8]) {
        let file = std::fs::File::options().write(true).open(&self.place.disk);
        file.unwrap().write_all_at(bytes, at).unwrap();
    }

    /// Gives the leg another generation, as if it had gone on alone.
    fn goes_on(&self) {
        let (disk, mut record) = (self.open(), self.leg_record());
        record.peers[0].bitmap = record.current;
        record.current = GenerationId(record.current.0 ^ 1);
        record.sequence += 1;
        let leg = Leg::read(&disk).unwrap();
        for (at, bytes) in encode_record(&record, leg.records).unwrap() {
            disk.write(at, &bytes).unwrap();
        }
    }

    fn leg_record(&self) -> StateRecord {
        let disk = Disk::open(&self.place.disk, Access::Read).unwrap();
        Leg::read(&disk).unwrap().record
    }

    fn mark(&self, chunks: &[u64]) {
        let disk = self.open();
        let leg = Leg::read(&disk).unwrap();
        let mut bitmap = leg.bitmap.unwrap();
        for chunk in chunks {
            bitmap.bits.set(*chunk);
        }
        let mut bytes = bitmap.bits.encode(&bitmap.header);
        bytes.truncate(bitmap.header.used() as usize);
        disk.write(bitmap.start, &bytes).unwrap();
    }

    fn marked(&self) -> Vec<u64> {
        let bits = self.leg().bitmap.unwrap().bits;
        (0..bits.chunks())
            .filter(|chunk| bits.test(*chunk))
            .collect()
    }

    fn all(&self) -> Vec<u64> {
        (0..self.leg().bitmap.unwrap().bits.chunks()).collect()
    }

    fn guarded(&self) -> bool {
        self.place.flags.data_corrupt().unwrap()
    }
}

#[test]
fn marks_are_added_to_a_leg_of_the_same_generations_and_nothing_else_changes() {
    let rig = rig();
    rig.mark(&[3, 4, 60]);
    let meta = rig.dump();
    let marks = meta.leg.as_ref().unwrap().bitmap.as_ref().unwrap();
    assert_eq!(marks.dirty, [[3, 5], [60, 61]]);
    assert_eq!(marks.dirty_bytes, 3 * CHUNK);
    // The same again is nothing.
    rig.restore(&meta, false).unwrap();
    let (record, clean) = (rig.leg().record, rig.leg().superblock.is_clean());
    assert!(clean, "the test begins with a clean leg");
    // What was cleaned comes back, what is marked stays.
    let mut bitmap = rig.leg().bitmap.unwrap();
    bitmap.bits = DirtyBits::all_clean(bitmap.bits.chunks());
    bitmap.bits.set(7);
    let mut bytes = bitmap.bits.encode(&bitmap.header);
    bytes.truncate(bitmap.header.used() as usize);
    rig.overwrite(bitmap.start, &bytes);
    rig.restore(&meta, false).unwrap();
    assert_eq!(rig.marked(), [3, 4, 7, 60]);
    let leg = rig.leg();
    // The kernel drops the bits of a clean array.
    assert!(!leg.superblock.is_clean());
    assert_eq!(leg.record, record);
    assert_eq!(
        leg.bitmap.unwrap().trust,
        crate::md::bitmap::Trust::Complete
    );
    assert!(!rig.guarded());
}

#[test]
fn a_leg_that_has_gone_on_is_left_alone_or_all_of_it_is_marked() {
    let rig = rig();
    let meta = rig.dump();
    rig.goes_on();
    rig.mark(&[1]);
    let (before, events) = (rig.leg_record(), rig.leg().superblock.events);
    let why = rig.restore(&meta, false).unwrap_err();
    assert!(why.contains("another moment"), "{why}");
    assert_eq!((rig.leg_record(), rig.marked()), (before.clone(), vec![1]));
    assert!(!rig.guarded());
    rig.restore(&meta, true).unwrap();
    let leg = rig.leg();
    assert_eq!(
        leg.record.current.to_string(),
        meta.leg.unwrap().record.current
    );
    assert!(leg.record.sequence > before.sequence && leg.superblock.events > events);
    assert!(!leg.superblock.is_clean());
    assert!(
        !leg.is_consistent(),
        "or a source that remembers how it went would believe it"
    );
    assert_eq!(rig.marked(), rig.all());
    assert!(rig.guarded());
}

#[test]
fn a_leg_that_was_resynced_meanwhile_is_of_another_moment() {
    let rig = rig();
    let meta = rig.dump();
    let disk = rig.open();
    let mut superblock = Leg::read(&disk).unwrap().superblock;
    superblock.features = superblock.features | crate::md::superblock::Features::RECOVERY_OFFSET;
    let (at, bytes) = superblock_write(&superblock);
    disk.write(at, &bytes).unwrap();
    drop(disk);
    let why = rig.restore(&meta, false).unwrap_err();
    assert!(why.contains("not consistent"), "{why}");
}

#[test]
fn lost_metadata_comes_back_with_everything_marked_and_guarded() {
    let rig = rig();
    rig.mark(&[3]);
    let meta = rig.dump();
    let before = rig.leg();
    // Damaged, and then gone altogether, which another disk's would be, too.
    for (at, wiped, blank) in [(4096 + 8, 4, false), (4096, 4096, true)] {
        rig.overwrite(at, &vec![0x55; wiped]);
        if !blank {
            let why = rig.restore(&meta, false).unwrap_err();
            assert!(why.contains("superblock can't be used"), "{why}");
        } else {
            rig.overwrite(at, &vec![0; wiped]);
            let why = rig.restore(&meta, false).unwrap_err();
            assert!(why.contains("still the disk of data"), "{why}");
            // Whose state record has gone on, the text is not of its moment.
            let file = rig.place.record();
            let mut record = file.load().unwrap().unwrap().record;
            record.current.0 ^= 2;
            record.votes[20] = 7;
            file.store(&mut record).unwrap();
            let why = rig.restore(&meta, false).unwrap_err();
            assert!(why.contains("state record is of generation"), "{why}");
        }
        rig.place.flags.set_data_corrupt(false).unwrap();
        let steps = rig.restore(&meta, true).unwrap();
        assert!(steps[0].contains("data_data_corrupt"), "{steps:?}");
        let leg = rig.leg();
        assert_eq!(
            (leg.superblock.set_uuid, leg.superblock.data_offset),
            (before.superblock.set_uuid, before.superblock.data_offset)
        );
        assert_eq!(leg.record.current, before.record.current);
        assert!(!leg.is_consistent() && !leg.superblock.is_clean());
        assert_eq!(rig.marked(), rig.all());
        assert!(rig.guarded());
    }
    let record = rig.place.record().load().unwrap().unwrap().record;
    assert_eq!(record.current, before.record.current, "by force");
    assert_eq!(
        record.votes[20], 7,
        "what it promised binds it all the same"
    );
}

#[test]
fn a_record_from_a_text_knows_that_it_may_be_old() {
    let rig = rig();
    let meta = rig.dump();
    let file = rig.place.record();
    for damaged in [false, true] {
        for path in file.paths() {
            match damaged {
                false => std::fs::remove_file(path).unwrap(),
                true => std::fs::write(path, b"nonsense").unwrap(),
            }
        }
        rig.place.flags.set_last_owner(false).unwrap();
        rig.place.flags.set_data_corrupt(false).unwrap();
        rig.restore(&meta, false).unwrap();
        let record = file.load().unwrap().unwrap().record;
        assert_eq!(
            record.current.to_string(),
            meta.record.clone().unwrap().current
        );
        // Whoever may have been the source since is asked before this node goes in service.
        assert!(
            record.peers[0]
                .flags
                .contains(PeerFlags::IN_SYNC | PeerFlags::MEMBER)
        );
        assert!(!record.peers[0].flags.contains(PeerFlags::SETTLED));
        assert!(!record.flags.contains(RecordFlags::UP_TO_DATE));
        // An agreement of before must not look like one of now.
        assert_eq!(record.agreement, 1000);
        assert!(rig.place.flags.last_owner().unwrap() && rig.guarded());
    }
    // What can be read stays.
    rig.place.flags.set_data_corrupt(false).unwrap();
    rig.restore(&meta, false).unwrap();
    assert!(!rig.guarded());
}

#[test]
fn votes_that_are_older_than_the_lost_ones_come_back_by_force_alone() {
    let rig = rig();
    let file = rig.place.record();
    let mut record = file.load().unwrap().unwrap().record;
    record.votes[20] = 7;
    file.store(&mut record).unwrap();
    let meta = rig.dump();
    for path in file.paths() {
        std::fs::remove_file(path).unwrap();
    }
    let why = rig.restore(&meta, false).unwrap_err();
    assert!(why.contains("votes are lost"), "{why}");
    assert!(!rig.guarded() && file.load().unwrap().is_none());
    rig.restore(&meta, true).unwrap();
    assert_eq!(file.load().unwrap().unwrap().record.votes[20], 7);
}

#[test]
fn what_is_of_something_else_is_refused_by_name_and_by_force_too() {
    let rig = rig();
    let good = rig.dump();
    let change = |how: &dyn Fn(&mut Meta)| {
        let mut meta = good.clone();
        how(&mut meta);
        meta
    };
    rig.refused(
        &change(&|meta| meta.tag = "more".into()),
        "mirror more, not of data",
    );
    rig.refused(
        &change(&|meta| meta.node = "server2".into()),
        "of node server2",
    );
    rig.refused(&change(&|meta| meta.disk_bytes += 4096), "of a disk of");
    rig.refused(
        &change(&|meta| meta.leg.as_mut().unwrap().array = "00".repeat(16)),
        "of array 00000000:00000000",
    );
    rig.refused(
        &change(&|meta| meta.leg.as_mut().unwrap().mirror_bytes -= 4096),
        "it was resized since",
    );
    rig.refused(
        &change(&|meta| meta.record.as_mut().unwrap().peers[0].node = "server9".into()),
        "node 1 of the text is server9",
    );
    rig.refused(
        &change(&|meta| {
            meta.leg = None;
            meta.record = None;
        }),
        "neither a leg nor a state record",
    );
    assert!(!rig.guarded());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_restored_nothing_is_marked_less(
        then in proptest::collection::vec(0_u64..100, 0..9),
        now in proptest::collection::vec(0_u64..100, 0..9),
        moved in any::<bool>(),
        force in any::<bool>(),
    ) {
        let rig = rig();
        rig.mark(&then);
        let meta = rig.dump();
        rig.mark(&now);
        if moved {
            rig.goes_on();
        }
        let before = rig.marked();
        let restored = rig.restore(&meta, force);
        prop_assert_eq!(restored.is_err(), moved && !force);
        let after = rig.marked();
        prop_assert!(before.iter().all(|chunk| after.contains(chunk)));
        prop_assert!(!moved || !force || after == rig.all() && rig.guarded());
    }
}
