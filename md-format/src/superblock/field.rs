//! Where each field of a version-1 superblock is: byte ranges of `struct mdp_superblock_1` (md_p.h).

use std::ops::Range;

pub(super) const MAGIC: Range<usize> = 0..4;
pub(super) const MAJOR_VERSION: Range<usize> = 4..8;
pub(super) const FEATURE_MAP: Range<usize> = 8..12;
pub(super) const PAD0: Range<usize> = 12..16;
pub(super) const SET_UUID: Range<usize> = 16..32;
pub(super) const SET_NAME: Range<usize> = 32..64;
pub(super) const CTIME: Range<usize> = 64..72;
pub(super) const LEVEL: Range<usize> = 72..76;
pub(super) const LAYOUT: Range<usize> = 76..80;
pub(super) const SIZE: Range<usize> = 80..88;
pub(super) const CHUNKSIZE: Range<usize> = 88..92;
pub(super) const RAID_DISKS: Range<usize> = 92..96;
pub(super) const BITMAP_OFFSET: Range<usize> = 96..100;
/// `new_level` to `new_offset`: meaningful only while an array is reshaped.
pub(super) const RESHAPE: Range<usize> = 100..128;
pub(super) const DATA_OFFSET: Range<usize> = 128..136;
pub(super) const DATA_SIZE: Range<usize> = 136..144;
pub(super) const SUPER_OFFSET: Range<usize> = 144..152;
pub(super) const RECOVERY_OFFSET: Range<usize> = 152..160;
pub(super) const DEV_NUMBER: Range<usize> = 160..164;
pub(super) const CNT_CORRECTED_READ: Range<usize> = 164..168;
pub(super) const DEVICE_UUID: Range<usize> = 168..184;
pub(super) const DEVFLAGS: usize = 184;
pub(super) const BBLOG_SHIFT: usize = 185;
pub(super) const BBLOG_SIZE: Range<usize> = 186..188;
pub(super) const BBLOG_OFFSET: Range<usize> = 188..192;
pub(super) const UTIME: Range<usize> = 192..200;
pub(super) const EVENTS: Range<usize> = 200..208;
pub(super) const RESYNC_OFFSET: Range<usize> = 208..216;
pub(super) const SB_CSUM: Range<usize> = 216..220;
pub(super) const MAX_DEV: Range<usize> = 220..224;
pub(super) const PAD3: Range<usize> = 224..256;
/// `dev_roles[max_dev]`, two bytes each, starts here.
pub(super) const DEV_ROLES: usize = 256;
