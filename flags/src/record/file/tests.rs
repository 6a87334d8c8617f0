//! Records in real files: replaced, interrupted, damaged.

use super::*;
use crate::record::pair::OtherCopy;
use crate::record::tests::sample;
use crate::{GenerationId, Tag};
use std::fs;

fn fixture() -> (tempfile::TempDir, RecordFile) {
    let root = tempfile::tempdir().unwrap();
    let flags = FlagFiles::new(root.path(), Tag::new("data").unwrap());
    (root, RecordFile::beside(&flags))
}

#[test]
fn a_record_is_stored_twice_and_loaded() {
    let (root, file) = fixture();
    assert_eq!(file.load().unwrap(), None);
    let mut record = sample();
    let before = record.sequence;
    file.store(&mut record).unwrap();
    assert_eq!(record.sequence, before + 1);
    let folder = root.path().join("subsys/scsi/resources/netraid");
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["data_record.0", "data_record.1"]);
    let chosen = file.load().unwrap().unwrap();
    assert_eq!((chosen.record, chosen.other), (record, OtherCopy::Equal));
    assert!(file.remove().unwrap());
    assert!(!file.remove().unwrap());
    assert_eq!(file.load().unwrap(), None);
}

#[test]
fn either_copy_alone_is_enough_and_the_loss_is_told() {
    for lost in [0, 1] {
        for damage in [None, Some(&b""[..]), Some(&[0; 4096]), Some(&[7; 9000])] {
            let (_root, file) = fixture();
            let mut record = sample();
            file.store(&mut record).unwrap();
            match damage {
                None => fs::remove_file(&file.paths()[lost]).unwrap(),
                Some(bytes) => fs::write(&file.paths()[lost], bytes).unwrap(),
            }
            let chosen = file.load().unwrap().unwrap();
            assert_eq!((&chosen.record, chosen.copy), (&record, 1 - lost));
            assert!(matches!(chosen.other, OtherCopy::Bad(_)));
            let mut again = chosen.record;
            file.store(&mut again).unwrap();
            assert_eq!(file.load().unwrap().unwrap().other, OtherCopy::Equal);
        }
    }
}

#[test]
fn a_write_interrupted_between_the_copies_leaves_the_newer_one() {
    let (_root, file) = fixture();
    let mut record = sample();
    file.store(&mut record).unwrap();
    let old = fs::read(&file.paths()[1]).unwrap();
    let sequence = record.sequence;
    record.current = GenerationId(77);
    file.store(&mut record).unwrap();
    fs::write(&file.paths()[1], old).unwrap();
    let chosen = file.load().unwrap().unwrap();
    assert_eq!(chosen.record.current, GenerationId(77));
    assert_eq!(chosen.other, OtherCopy::Behind { sequence });
}

#[test]
fn bad_copies_are_refused_by_name_kept_aside_and_never_overwritten() {
    let (_root, file) = fixture();
    for round in 1..=2 {
        file.store(&mut sample()).unwrap();
        for path in file.paths() {
            fs::write(path, b"garbage").unwrap();
        }
        let error = file.load().unwrap_err().to_string();
        assert!(
            error.contains("data_record.0: both copies") && error.contains("7 bytes"),
            "{error}"
        );
        let aside = file.set_aside().unwrap();
        assert_eq!(aside.len(), 2);
        for path in aside {
            assert!(path.to_str().unwrap().ends_with(&format!(".bad.{round}")));
            assert_eq!(fs::read(path).unwrap(), b"garbage");
        }
        assert_eq!(file.load().unwrap(), None);
        assert_eq!(file.set_aside().unwrap(), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_record_that_could_not_be_read_again_is_not_written() {
    let (_root, file) = fixture();
    let mut record = sample();
    record.history = vec![GenerationId(1); 33];
    let error = file.store(&mut record).unwrap_err().to_string();
    assert!(error.contains("33 former generations"), "{error}");
    record = sample();
    record.sequence = u64::MAX;
    assert!(matches!(
        file.store(&mut record),
        Err(RecordFileError::Invalid { .. })
    ));
    assert_eq!(file.load().unwrap(), None);
}
