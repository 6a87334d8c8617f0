//! Legs that a real kernel and mdadm made (`tests/golden/make.sh`), opened by the embedded engine.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nbd_server::file::FileDevice;
use netraid::raid1::engine::{Engine, IdSource, Refusal, Settings};
use netraid::raid1::leg::LegImage;
use netraid::raid1::link::Link;
use netraid::raid1::metadata::{Metadata, MetadataError};

/// Lays out a golden leg as a sparse disk and reads its metadata.
fn open(name: &str) -> Result<(Metadata, LegImage), MetadataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    restore(name, &path);
    Metadata::read(&link(&path), Duration::from_secs(10))
}

fn link(path: &Path) -> Link {
    Link::Local(Arc::new(FileDevice::open(path, false).unwrap()))
}

/// The format is that of `od`, see `make.sh`: a line of zeroes before `*` stands for all up to the next offset.
fn restore(name: &str, path: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.od"));
    let text = std::fs::read_to_string(golden).unwrap();
    let mut lines = text.lines();
    let size = lines
        .next()
        .unwrap()
        .strip_prefix("# device ")
        .unwrap()
        .parse()
        .unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let (mut last, mut at, mut repeated) = (Vec::new(), 0, false);
    for line in lines {
        if line == "*" {
            repeated = true;
            continue;
        }
        let mut words = line.split_whitespace();
        let offset = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
        while std::mem::take(&mut repeated) && at < offset {
            file.write_all_at(&last, at).unwrap();
            at += last.len() as u64;
            repeated = true;
            if at >= offset {
                repeated = false;
            }
        }
        last = words
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        file.write_all_at(&last, offset).unwrap();
        at = offset + last.len() as u64;
    }
}

fn assemble(metadata: &Metadata, image: LegImage) -> Result<Engine, Refusal> {
    let shape = metadata.shape();
    Engine::assemble(
        shape,
        Settings::default(),
        metadata.slot(),
        image,
        IdSource::new(1),
        false,
    )
}

#[test]
fn clean_legs_of_a_kernel_belong_together_and_nothing_is_resynced() {
    let (a, b) = (open("clean-a").unwrap(), open("clean-b").unwrap());
    assert_eq!(a.0.array(), b.0.array());
    assert!(a.1.dirty.is_empty() && a.1.superblock.clean);
    let slot = b.0.slot();
    let engine = assemble(&a.0, a.1).unwrap();
    assert_eq!(engine.consider(slot, &b.1).unwrap().0, "same generation");
}

#[test]
fn a_leg_that_the_kernel_went_on_without_is_not_taken_for_current() {
    let (a, b) = (open("degraded-a").unwrap(), open("degraded-b").unwrap());
    assert!(a.1.superblock.events != b.1.superblock.events);
    let slot = b.0.slot();
    let engine = assemble(&a.0, a.1).unwrap();
    let considered = engine.consider(slot, &b.1);
    assert!(
        considered.is_err(),
        "without generations nobody can tell what it misses: {considered:?}"
    );
}

#[test]
fn a_leg_in_the_middle_of_the_kernels_recovery_is_not_started() {
    let recovering = [open("recovering-a").unwrap(), open("recovering-b").unwrap()]
        .into_iter()
        .find(|(_, image)| image.superblock.recovering)
        .expect("one of the two legs is being recovered");
    let slot = recovering.0.slot();
    assert_eq!(
        assemble(&recovering.0, recovering.1).unwrap_err(),
        Refusal::Inconsistent(slot)
    );
}

#[test]
fn metadata_in_another_place_is_named_and_not_called_clean() {
    for name in ["v10-a", "v11-a"] {
        let error = open(name).unwrap_err();
        assert!(matches!(error, MetadataError::Blank), "{name}: {error}");
    }
}

#[test]
fn a_torn_superblock_or_bitmap_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torn");
    restore("clean-a", &path);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 16], 4096 + 0x90).unwrap();
    let error = Metadata::read(&link(&path), Duration::from_secs(10)).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    restore("clean-a", &path);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 512], 8192).unwrap();
    let error = Metadata::read(&link(&path), Duration::from_secs(10)).unwrap_err();
    assert!(error.to_string().contains("bitmap"), "{error}");
}
