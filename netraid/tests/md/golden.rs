//! Images that a real kernel and mdadm wrote (`tests/golden/make.sh`): we read what mdadm read, and write the same bytes.

use crate::report;
use netraid::md::bitmap::{HEADER, Trust};
use netraid::md::superblock::{Features, Version};
use netraid::md::{BitmapSuperblock, DirtyBits, Layout, Role, Superblock};
use std::fs;
use std::path::PathBuf;

/// One leg of one scenario: the metadata of its disk, and what mdadm said of it.
struct Golden {
    name: String,
    device: u64,
    /// Where `bytes` start on the disk.
    start: u64,
    bytes: Vec<u8>,
}

impl Golden {
    fn load(name: &str) -> Golden {
        let text = read(name, "od");
        let mut lines = text.lines();
        let device = lines
            .next()
            .unwrap()
            .strip_prefix("# device ")
            .unwrap()
            .parse()
            .unwrap();
        let (mut start, mut bytes) = (None, Vec::new());
        for line in lines.filter(|line| *line != "*") {
            let mut words = line.split_whitespace();
            let at = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
            let start = *start.get_or_insert(at);
            // After a `*` the line before it is repeated up to here; without one there is nothing to repeat.
            while start + (bytes.len() as u64) < at {
                bytes.extend_from_within(bytes.len() - 32..);
            }
            bytes.extend(words.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        }
        Golden {
            name: name.into(),
            device,
            start: start.unwrap(),
            bytes,
        }
    }

    fn at(&self, offset: u64) -> &[u8] {
        &self.bytes[(offset - self.start) as usize..]
    }

    fn superblock(&self) -> Superblock {
        let version = match self.name.split('-').next().unwrap() {
            "v10" => Version::V1_0,
            "v11" => Version::V1_1,
            _ => Version::V1_2,
        };
        let sector = version.sector(self.device / 512).unwrap();
        let superblock = Superblock::decode(self.at(sector * 512)).unwrap();
        superblock.check_place(sector, self.device / 512).unwrap();
        superblock
    }

    fn bitmap(&self) -> (Layout, BitmapSuperblock, DirtyBits) {
        let superblock = self.superblock();
        let start = superblock.bitmap_sector().unwrap() * 512;
        let bitmap = BitmapSuperblock::decode(self.at(start)).unwrap();
        let bits = bitmap
            .decode_bits(&self.at(start)[..bitmap.bytes() as usize])
            .unwrap();
        (Layout::of(&superblock, &bitmap).unwrap(), bitmap, bits)
    }
}

fn read(name: &str, kind: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    fs::read_to_string(folder.join(format!("{name}.{kind}"))).unwrap()
}

const ALL: [&str; 16] = [
    "active-a",
    "active-b",
    "clean-a",
    "clean-b",
    "degraded-a",
    "degraded-b",
    "pages-a",
    "pages-b",
    "readded-a",
    "readded-b",
    "recovering-a",
    "recovering-b",
    "v10-a",
    "v10-b",
    "v11-a",
    "v11-b",
];

#[test]
fn we_read_in_every_image_what_mdadm_read() {
    for name in ALL {
        let golden = Golden::load(name);
        let said = report::parse(&read(name, "examine"));
        assert_eq!(report::of_superblock(&golden.superblock()), said, "{name}");
        let (_, bitmap, bits) = golden.bitmap();
        let said = report::parse(&read(name, "bitmap"));
        assert_eq!(report::of_bitmap(&bitmap, &bits), said, "{name}");
    }
}

#[test]
fn every_image_is_written_again_byte_for_byte() {
    for name in ALL {
        let golden = Golden::load(name);
        let superblock = golden.superblock();
        let length = superblock.encoded_len();
        let found = &golden.at(superblock.super_offset * 512)[..length];
        assert_eq!(&superblock.encode()[..length], found, "{name}: superblock");
        let (layout, bitmap, bits) = golden.bitmap();
        let found = &golden.at(layout.bitmap)[..bitmap.bytes() as usize];
        assert_eq!(bitmap.encode(), found[..HEADER], "{name}: bitmap header");
        assert!(bits.encode(&bitmap) == found, "{name}: bitmap");
        assert!(layout.bitmap_room >= bitmap.bytes(), "{name}: {layout:?}");
    }
}

#[test]
fn a_clean_mirror_has_nothing_to_resync() {
    for name in ["clean-a", "clean-b", "v10-a", "v11-b"] {
        let golden = Golden::load(name);
        let superblock = golden.superblock();
        let (layout, bitmap, bits) = golden.bitmap();
        assert!(superblock.is_clean() && superblock.is_in_sync(), "{name}");
        assert_eq!(superblock.array_state(), "AA");
        assert_eq!(bitmap.trust(&superblock), Ok(Trust::Complete));
        assert!(bits.is_clean());
        let records = layout.records;
        assert_eq!(
            records.is_some(),
            !name.starts_with("v10"),
            "{name}: {records:?}"
        );
    }
}

#[test]
fn an_active_mirror_has_the_bits_of_the_blocks_that_were_written() {
    for name in ["active-a", "active-b"] {
        let golden = Golden::load(name);
        let (_, _, bits) = golden.bitmap();
        assert!(!golden.superblock().is_clean());
        let written = [1, 20, 62].map(|mib| mib * 16);
        assert_eq!(
            bits.ranges().collect::<Vec<_>>(),
            written.map(|chunk| chunk..chunk + 1)
        );
    }
}

#[test]
fn a_leg_that_was_alone_has_the_bits_and_the_other_is_older() {
    let (alone, absent) = (Golden::load("degraded-a"), Golden::load("degraded-b"));
    let (superblock, (_, bitmap, bits)) = (alone.superblock(), alone.bitmap());
    assert_eq!(superblock.array_state(), "A.");
    let written = [0, 31, 32, 50].map(|mib| mib * 16);
    assert_eq!(
        bits.ranges().collect::<Vec<_>>(),
        written.map(|chunk| chunk..chunk + 1)
    );
    let old = absent.superblock();
    assert!(old.events < superblock.events);
    assert!(
        old.events >= bitmap.events_cleared,
        "the bitmap speaks for what it missed"
    );
    assert_eq!(absent.bitmap().2.count(), 0);
    assert!(
        old.is_in_sync(),
        "on its own it looks as if it had missed nothing"
    );
}

#[test]
fn a_recovering_leg_says_how_far_it_came_and_whether_the_bitmap_guides_it() {
    let source = Golden::load("recovering-a").superblock();
    let target = Golden::load("recovering-b").superblock();
    assert_eq!(target.role(), Role::Active(1));
    assert!(source.is_in_sync() && !target.is_in_sync());
    assert!((1..target.size).contains(&target.recovered_sectors()));
    assert!(!target.features.contains(Features::RECOVERY_BITMAP));

    let target = Golden::load("readded-b");
    let superblock = target.superblock();
    assert!(
        superblock
            .features
            .contains(Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP)
    );
    let (_, bitmap, bits) = target.bitmap();
    assert_eq!(bitmap.trust(&superblock), Ok(Trust::Complete));
    // What is dirty is within what was written, from 10 to 50 MiB in chunks of 256 KiB.
    let dirty: Vec<_> = bits.ranges().collect();
    assert!(
        !dirty.is_empty() && dirty.iter().all(|r| r.start >= 40 && r.end <= 200),
        "{dirty:?}"
    );
}

#[test]
fn bits_of_a_bitmap_of_several_pages_are_found_on_each() {
    let (layout, bitmap, bits) = Golden::load("pages-a").bitmap();
    assert_eq!((layout.chunk, bits.pages()), (32768, 10));
    let mut written: Vec<_> = [0, 600].map(|mib| mib * 32..mib * 32 + 1).into();
    written.push(950 * 32..970 * 32);
    written.extend([1199, 1200, 7000, 9000].map(|mib| mib * 32..mib * 32 + 1));
    assert_eq!(bits.ranges().collect::<Vec<_>>(), written);
    assert_eq!(bitmap.bytes(), 40960);
}
