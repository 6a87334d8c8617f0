//! How many bytes of a disk its file system uses: asked before metadata is put behind it.

use super::disk::{Disk, DiskError};

/// A file system that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name.
    pub kind: &'static str,
    /// Bytes from the start of the disk to its end.
    pub size: u64,
    /// How it is made smaller; `None` if it can't be.
    pub shrink: Option<&'static str>,
}

/// Reads the size of ext2, ext3, ext4, XFS and btrfs from their own superblocks; `None` for everything else.
///
/// # Errors
/// If the disk can't be read.
pub fn find(disk: &Disk) -> Result<Option<FileSystem>, DiskError> {
    find_at(disk, 0)
}

/// The same, of a file system that begins at byte `start` of the disk.
///
/// # Errors
/// If the disk can't be read.
pub fn find_at(disk: &Disk, start: u64) -> Result<Option<FileSystem>, DiskError> {
    let length = disk.size().saturating_sub(start).min(BEGINNING) as usize;
    Ok(recognise(&disk.read(start, length)?))
}

fn recognise(bytes: &[u8]) -> Option<FileSystem> {
    ext(bytes).or_else(|| xfs(bytes)).or_else(|| btrfs(bytes))
}

/// ext2, ext3 and ext4: superblock at byte 1024, little-endian (Documentation/filesystems/ext4/super.rst).
fn ext(bytes: &[u8]) -> Option<FileSystem> {
    let word = |at: usize| u32_at(bytes, 1024 + at).map(u32::from_le_bytes);
    if bytes.get(1024 + 0x38..1024 + 0x3a)? != [0x53, 0xef] {
        return None;
    }
    // s_feature_incompat: 64BIT says that the high half of the count is used.
    let high = match word(0x60)? & 0x80 {
        0 => 0,
        _ => u64::from(word(0x150)?),
    };
    let blocks = high << 32 | u64::from(word(0x4)?);
    let shift = word(0x18)?;
    let size = blocks.checked_mul(1024_u64.checked_shl(shift).filter(|_| shift <= 6)?)?;
    Some(FileSystem {
        kind: "ext2, ext3 or ext4",
        size,
        shrink: Some("resize2fs"),
    })
}

/// XFS: superblock at byte 0, big-endian (`sb_blocksize`, `sb_dblocks`).
fn xfs(bytes: &[u8]) -> Option<FileSystem> {
    if bytes.get(..4)? != b"XFSB" {
        return None;
    }
    let block = u32::from_be_bytes(u32_at(bytes, 4)?);
    let blocks = u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
    Some(FileSystem {
        kind: "XFS",
        size: blocks.checked_mul(block.into())?,
        shrink: None,
    })
}

/// btrfs: superblock at 64 KiB, little-endian; `dev_item.total_bytes` is what it uses of this disk.
fn btrfs(bytes: &[u8]) -> Option<FileSystem> {
    let own = bytes.get(0x10000..)?;
    if own.get(0x40..0x48)? != b"_BHRfS_M" {
        return None;
    }
    let size = u64::from_le_bytes(own.get(0xc9 + 8..0xc9 + 16)?.try_into().ok()?);
    Some(FileSystem {
        kind: "btrfs",
        size,
        shrink: Some("btrfs filesystem resize"),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}

/// How much of the disk is looked at, in bytes.
const BEGINNING: u64 = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn noise_is_no_file_system() {
        assert_eq!(recognise(&[]), None);
        assert_eq!(recognise(&[0; 200_000]), None);
        assert_eq!(recognise(&[0xff; 200_000]), None);
        let mut short = vec![0; 1024 + 0x3a];
        short[1024 + 0x38..].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(recognise(&short), None, "cut short");
    }

    #[test]
    fn an_ext4_made_by_mkfs_has_the_size_that_it_was_given() {
        let program = "/usr/sbin/mkfs.ext4";
        if !std::path::Path::new(program).exists() {
            eprintln!("SKIPPED: mkfs.ext4 is not installed (Debian package e2fsprogs)");
            return;
        }
        for (block, blocks) in [("1024", 20_000_u64), ("4096", 9_000)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(64 << 20).unwrap();
            let made = Command::new(program)
                .args(["-q", "-F", "-b", block])
                .arg(file.path())
                .arg(blocks.to_string())
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
            let disk = Disk::open(file.path(), super::super::disk::Access::Read).unwrap();
            let found = find(&disk).unwrap().unwrap();
            assert_eq!(found.size, blocks * block.parse::<u64>().unwrap());
        }
    }
}
