//! The write-intent bitmap of an exported leg as nbdinfo shows it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use md_format::superblock::Timestamp;
use md_format::{MdUuid, NewLeg, NewMirror, Start};
use nbd_server::file::FileDevice;

use crate::interop::has;
use crate::setup::TestServer;

const MIB: u64 = 1 << 20;

/// A leg of 16 MiB whose chunks of 64 KiB in `dirty` are marked.
fn leg(path: &Path, in_place: bool, dirty: std::ops::Range<u64>) {
    let mirror = NewMirror {
        uuid: MdUuid([1; 16]),
        name: "data".into(),
        created: Timestamp::default(),
        chunk: 65536,
        daemon_sleep: 5,
        legs: vec![Some(NewLeg {
            device: 16 * MIB,
            uuid: MdUuid([2; 16]),
            write_mostly: false,
            fail_fast: false,
        })],
        start: Start::Equal,
    };
    let legs = match in_place {
        true => mirror.format_in_place(),
        false => mirror.format(),
    };
    let mut leg = legs.unwrap().remove(0).unwrap();
    leg.bits.set_range(dirty);
    let file = File::create(path).unwrap();
    file.set_len(16 * MIB).unwrap();
    let bitmap = leg.bits.encode(&leg.bitmap);
    file.write_all_at(&bitmap, leg.layout.bitmap).unwrap();
    file.write_all_at(&leg.superblock.encode(), leg.layout.superblock)
        .unwrap();
}

/// Offset, length and flags of each extent, as nbdinfo prints them.
fn map(path: &Path) -> Vec<(u64, u64, u64)> {
    let device = Arc::new(FileDevice::open(path, true).unwrap());
    let server = TestServer::of(device);
    let uri = format!("nbd+unix:///disk?socket={}", server.socket.display());
    let told = Command::new("nbdinfo")
        .args(["--map=x-netraid:dirty", &uri])
        .output()
        .unwrap();
    assert!(told.status.success(), "{told:?}");
    let text = String::from_utf8(told.stdout).unwrap();
    text.lines()
        .map(|line| {
            let mut words = line
                .split_whitespace()
                .map(|word| word.parse().unwrap_or(99));
            let mut next = || words.next().unwrap();
            (next(), next(), next())
        })
        .collect()
}

#[test]
fn nbdinfo_maps_what_is_dirty_on_a_leg_where_its_data_is() {
    if !has("nbdinfo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("leg");
    leg(&path, false, 2..5);
    let (start, length) = (MIB + 2 * 65536, 3 * 65536);
    let rest = 16 * MIB - start - length;
    assert_eq!(
        map(&path),
        [(0, start, 0), (start, length, 1), (start + length, rest, 0)]
    );
    leg(&path, true, 0..1);
    assert_eq!(map(&path), [(0, 65536, 1), (65536, 16 * MIB - 65536, 0)]);
}

#[test]
fn of_a_disk_that_is_no_leg_everything_is_dirty_and_unknown() {
    if !has("nbdinfo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(MIB).unwrap();
    assert_eq!(map(&path), [(0, MIB, 3)]);
    // A bitmap that is older than its superblock can't be believed; the metadata is still not dirty.
    leg(&path, false, 0..0);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut raw = [0; 4096];
    file.read_exact_at(&mut raw, 4096).unwrap();
    let mut superblock = md_format::Superblock::decode(&raw).unwrap();
    superblock.events += 1;
    file.write_all_at(&superblock.encode(), 4096).unwrap();
    assert_eq!(map(&path), [(0, MIB, 0), (MIB, 15 * MIB, 3)]);
}
