//! mdadm looks at legs that we wrote, and has to say exactly what we meant.

use crate::{peer, report};
use netraid::md::format::FormattedLeg;
use netraid::md::superblock::{Features, Role, Timestamp};
use netraid::md::{MdUuid, NewLeg, NewMirror, Start};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One image a test, under the build folder: mdadm reads with O_DIRECT, which /tmp may not know.
struct Images {
    folder: tempfile::TempDir,
}

impl Images {
    fn new() -> Images {
        Images {
            folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a leg to a sparse file, and its bitmap to another: of a file, unlike of a disk, mdadm takes the start for
    /// the bitmap.
    fn write(&self, leg: &FormattedLeg) -> (PathBuf, PathBuf) {
        let (image, bitmap) = (self.path("leg"), self.path("bitmap"));
        write_leg(&image, leg);
        let bytes = leg.bits.encode(&leg.bitmap);
        assert_eq!(bytes.len() as u64, leg.bitmap.bytes());
        std::fs::write(&bitmap, bytes).unwrap();
        (image, bitmap)
    }
}

/// Writes a leg to a sparse file of its size.
pub(crate) fn write_leg(path: &Path, leg: &FormattedLeg) {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    file.set_len(leg.layout.data + leg.layout.data_size)
        .unwrap();
    file.write_all_at(&leg.bits.encode(&leg.bitmap), leg.layout.bitmap)
        .unwrap();
    file.write_all_at(&leg.superblock.encode(), leg.layout.superblock)
        .unwrap();
}

pub(crate) fn mirror(sizes: &[u64], chunk: u32) -> NewMirror {
    let leg = |(n, &device): (usize, &u64)| {
        let uuid = MdUuid([n as u8; 16]);
        (device != 0).then_some(NewLeg {
            device,
            uuid,
            write_mostly: n > 0,
            fail_fast: n == 2,
        })
    };
    NewMirror {
        uuid: "deadbeef:00112233:44556677:8899aabb".parse().unwrap(),
        name: "server1:datarep-data".into(),
        created: Timestamp::from_seconds(1_750_000_000),
        chunk,
        daemon_sleep: 5,
        legs: sizes.iter().enumerate().map(leg).collect(),
        start: Start::Equal,
    }
}

fn check(leg: &FormattedLeg) {
    let Some(mdadm) = peer::mdadm() else { return };
    let images = Images::new();
    let (image, bitmap) = images.write(leg);
    let said = peer::ask_mdadm(&mdadm, "--examine", &image);
    assert_eq!(
        report::parse(&said),
        report::of_superblock(&leg.superblock),
        "{said}"
    );
    let said = peer::ask_mdadm(&mdadm, "--examine-bitmap", &bitmap);
    assert_eq!(
        report::parse(&said),
        report::of_bitmap(&leg.bitmap, &leg.bits),
        "{said}"
    );
}

const MIB: u64 = 1 << 20;

#[test]
fn mdadm_agrees_on_fresh_legs_of_every_size_and_chunk() {
    for (sizes, chunk) in [
        (&[64 * MIB, 64 * MIB][..], 65536),
        (&[64 * MIB + 512, 100 * MIB][..], 4096),
        (&[MIB + 65536; 8][..], 4096),
        (&[1 << 40, 0, 3 << 40][..], 1 << 20),
        (&[20 << 30, 20 << 30][..], 64 << 20),
        (&[300 << 30, 300 << 30][..], 65536),
    ] {
        for leg in mirror(sizes, chunk).format().unwrap().iter().flatten() {
            check(leg);
        }
    }
}

#[test]
fn mdadm_counts_the_dirty_chunks_that_we_set() {
    let mut leg = mirror(&[128 * MIB, 128 * MIB], 4096)
        .format()
        .unwrap()
        .remove(0)
        .unwrap();
    check(&leg);
    leg.bits.set_range(0..1);
    leg.bits.set_range(30_719..30_721);
    leg.bits.set(leg.bits.chunks() - 1);
    leg.superblock.mark_active();
    leg.superblock.events = 77;
    leg.bitmap.events = 77;
    leg.bitmap.events_cleared = 70;
    assert_eq!(leg.bits.count(), 4);
    check(&leg);
    leg.bits.set_range(0..u64::MAX);
    check(&leg);
}

#[test]
fn mdadm_sees_a_missing_a_faulty_and_a_recovering_leg() {
    let new = mirror(&[64 * MIB, 64 * MIB], 65536);
    let mut first = new.format().unwrap().remove(0).unwrap();
    first.superblock.set_role(1, Role::Faulty);
    first.superblock.updated = Timestamp {
        seconds: 1_750_000_123,
        micros: 5,
    };
    assert_eq!(first.superblock.array_state(), "A.");
    check(&first);

    let returning = NewLeg {
        device: 70 * MIB,
        uuid: MdUuid([9; 16]),
        write_mostly: true,
        fail_fast: true,
    };
    let mut joined =
        FormattedLeg::join(&first.superblock, &first.bitmap, 2, 1, &returning).unwrap();
    joined.superblock.recovery_offset = 4096;
    assert_eq!(joined.superblock.array_state(), "AA");
    check(&joined);
    joined.superblock.features = joined.superblock.features | Features::RECOVERY_BITMAP;
    joined.bitmap.write_behind = 256;
    joined.bitmap.state = 2;
    check(&joined);
    joined.superblock.set_role(2, Role::Spare);
    check(&joined);
}
