//! What a disk holds already, by the signatures of common formats: asked before anything is overwritten.

use std::time::Duration;

use nbd_protocol::command::Failure;

use crate::raid1::link::Link;

/// One signature: where it is, what it is, and what it means.
struct Signature {
    offset: u64,
    bytes: &'static [u8],
    meaning: &'static str,
}

/// What a leg that travels has in the place of the first bytes of its superblock (`netraid truck`): nobody takes it for one.
pub const SEAL: &[u8; 4] = b"NRTK";

const fn signature(offset: u64, bytes: &'static [u8], meaning: &'static str) -> Signature {
    Signature {
        offset,
        bytes,
        meaning,
    }
}

/// Offsets are those of the formats' own documents: ext4 (`s_magic`), xfs (`XFS_SB_MAGIC`), btrfs (`BTRFS_MAGIC`),
/// LVM2 (label), LUKS (`luks_phdr`), swap (`swap_header`), GPT and MBR, md (`mdp_superblock_1`), DRBD is at the end.
const SIGNATURES: [Signature; 14] = [
    signature(
        1024 + 0x38,
        &[0x53, 0xef],
        "an ext2, ext3 or ext4 file system",
    ),
    signature(0, b"XFSB", "an XFS file system"),
    signature(0x10040, b"_BHRfS_M", "a btrfs file system"),
    signature(512, b"LABELONE", "an LVM physical volume"),
    signature(0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    signature(4086, b"SWAPSPACE2", "swap space"),
    signature(512, b"EFI PART", "a partition table (GPT)"),
    signature(510, &[0x55, 0xaa], "a partition table or boot sector"),
    signature(
        4096,
        &[0xfc, 0x4e, 0x2b, 0xa9],
        "an md array or a mirror (metadata 1.2)",
    ),
    signature(
        4096,
        SEAL,
        "a leg that was shipped and not unloaded (netraid truck unload TAG DISK puts it in use)",
    ),
    signature(0, &[0xfc, 0x4e, 0x2b, 0xa9], "an md array (metadata 1.1)"),
    signature(3, b"NTFS    ", "an NTFS file system"),
    signature(0x36, b"FAT1", "a FAT file system"),
    signature(0x52, b"FAT3", "a FAT file system"),
];

/// What the disk holds, in words; `None` if nothing was recognised.
pub fn holds(link: &Link, patience: Duration) -> Result<Option<&'static str>, Failure> {
    let length = link.size().min(BEGINNING);
    // BEGINNING fits a usize everywhere.
    let bytes = link.read(0, length as usize, patience)?;
    if let Some(found) = SIGNATURES.iter().find(|signature| is_at(&bytes, signature)) {
        return Ok(Some(found.meaning));
    }
    // Metadata 1.0 is 8 KiB to 12 KiB before the end, on a 4 KiB boundary.
    let Some(end) = link.size().checked_sub(8192) else {
        return Ok(None);
    };
    let at = end & !4095;
    let old = link.read(at, 4, patience)?;
    Ok((old[..] == [0xfc, 0x4e, 0x2b, 0xa9]).then_some("an md array (metadata 1.0)"))
}

fn is_at(bytes: &[u8], signature: &Signature) -> bool {
    let from = signature.offset as usize;
    bytes.get(from..from + signature.bytes.len()) == Some(signature.bytes)
}

/// How much of the disk is looked at, in bytes.
const BEGINNING: u64 = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_server::file::FileDevice;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    #[test]
    fn every_signature_is_found_where_it_is() {
        for signature in &SIGNATURES {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(1 << 20).unwrap();
            let link = || Link::Local(Arc::new(FileDevice::open(file.path(), true).unwrap()));
            assert_eq!(holds(&link(), Duration::from_secs(5)).unwrap(), None);
            file.as_file()
                .write_all_at(signature.bytes, signature.offset)
                .unwrap();
            assert_eq!(
                holds(&link(), Duration::from_secs(5)).unwrap(),
                Some(signature.meaning)
            );
        }
    }
}
