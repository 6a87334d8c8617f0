//! Why bytes are not a superblock that we can use.

use super::{Features, MAX_DEV};

/// Why bytes are not a superblock that we can use. Any of these means: do not touch the leg.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Fewer bytes than a superblock has.
    #[error("md superblock is cut short: {have} bytes, {need} needed")]
    Short {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Something else is there, or nothing.
    #[error("no md superblock: magic is {found:#010x}, not 0xa92b4efc")]
    NoMagic {
        /// What is in its place.
        found: u32,
    },
    /// Not version 1.
    #[error("md superblock has version {major}, only version 1 is known")]
    Version {
        /// `major_version` as found.
        major: u32,
    },
    /// The role table would not fit.
    #[error("md superblock says that it has {max_dev} roles, at most {MAX_DEV} fit")]
    MaxDev {
        /// `max_dev` as found.
        max_dev: u32,
    },
    /// The bytes were changed or only partly written.
    #[error("md superblock is damaged: checksum {found:#010x}, its bytes give {expected:#010x}")]
    Checksum {
        /// Checksum in the superblock.
        found: u32,
        /// Checksum of its bytes.
        expected: u32,
    },
    /// Bytes that must be zero are not: a format newer than ours.
    #[error(
        "md superblock has non-zero padding at byte {at}: the format is newer than this program"
    )]
    Padding {
        /// Offset in the superblock.
        at: usize,
    },
    /// Uses a feature that we do not honour.
    #[error("md superblock uses features {features:?}: {reason}")]
    Features {
        /// The features that are not understood.
        features: Features,
        /// Why the first of them stands in the way.
        reason: &'static str,
    },
    /// Not a mirror.
    #[error("md superblock belongs to an array of level {level}, not a mirror (level 1)")]
    Level {
        /// `level` as found, signed.
        level: i32,
    },
    /// A mirror has neither chunks nor a layout.
    #[error("md superblock of a mirror has {field} {value}, not 0")]
    NotZero {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A count that makes no sense.
    #[error(
        "md superblock says that the mirror has {raid_disks} legs, 1 to {MAX_DEV} are possible"
    )]
    RaidDisks {
        /// `raid_disks` as found.
        raid_disks: u32,
    },
    /// Offsets and sizes that do not fit in a disk.
    #[error("md superblock has impossible sizes: {what} ({a} and {b} sectors)")]
    Sizes {
        /// What does not fit, in words.
        what: &'static str,
        /// First number of the comparison.
        a: u64,
        /// Second number of the comparison.
        b: u64,
    },
    /// It is a copy of a superblock from another place, for example of the whole disk that this partition is on.
    #[error("md superblock found at sector {found} says that it belongs at sector {says}")]
    Misplaced {
        /// Where it was read.
        found: u64,
        /// `super_offset`.
        says: u64,
    },
}
