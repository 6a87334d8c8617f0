//! The feature bits of a superblock: which we understand, and why we refuse the others.

use std::fmt;
use std::ops::BitOr;

/// `feature_map` of a superblock (md_p.h, `MD_FEATURE_*`). Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Features(pub u32);

impl Features {
    /// `bitmap_offset` is meaningful: the array has an internal bitmap.
    pub const BITMAP_OFFSET: Features = Features(1);
    /// `recovery_offset` must be honoured: this leg is in sync only up to there.
    pub const RECOVERY_OFFSET: Features = Features(2);
    /// The array is being reshaped.
    pub const RESHAPE_ACTIVE: Features = Features(4);
    /// The list of bad blocks is not empty.
    pub const BAD_BLOCKS: Features = Features(8);
    /// This device is replacing an active one of the same role.
    pub const REPLACEMENT: Features = Features(16);
    /// The reshape goes backwards.
    pub const RESHAPE_BACKWARDS: Features = Features(32);
    /// `new_offset` must be honoured.
    pub const NEW_OFFSET: Features = Features(64);
    /// The recovery of this leg is guided by the bitmap.
    pub const RECOVERY_BITMAP: Features = Features(128);
    /// Clustered md: several bitmaps, one a node.
    pub const CLUSTERED: Features = Features(256);
    /// A write journal device belongs to the array.
    pub const JOURNAL: Features = Features(512);
    /// A partial parity log is in use.
    pub const PPL: Features = Features(1024);
    /// Several partial parity logs are in use.
    pub const MULTIPLE_PPLS: Features = Features(2048);
    /// `layout` is meaningful for RAID0.
    pub const RAID0_LAYOUT: Features = Features(4096);

    /// What this crate understands and honours.
    ///
    /// A bad-block log that is merely *reserved* (`bblog_size` and `bblog_offset` set, [`Features::BAD_BLOCKS`] not) is
    /// fine: it is empty. Once the kernel has put blocks into it the bit is set, and the leg is refused: we would read
    /// blocks that it holds for unreadable or stale.
    pub const UNDERSTOOD: Features = Features(1 | 2 | 128);

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without the bits of `other`.
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// What is set here and not understood, with the reason in words for the first such bit; `None` when all is well.
    pub fn refusal(self) -> Option<(Features, &'static str)> {
        let unknown = self.without(Features::UNDERSTOOD);
        let first = 1_u32.checked_shl(unknown.0.trailing_zeros())?;
        let reason = match Features(first) {
            Features::RESHAPE_ACTIVE | Features::RESHAPE_BACKWARDS | Features::NEW_OFFSET => {
                "the array is being reshaped; let the kernel's md finish that first"
            }
            Features::BAD_BLOCKS => "the leg has a list of bad blocks that are not to be read",
            Features::REPLACEMENT => "the leg is being built as the replacement of another",
            Features::CLUSTERED => "the array belongs to a cluster of hosts that share its disks",
            Features::JOURNAL => "the array has a write journal on another device",
            Features::PPL | Features::MULTIPLE_PPLS => "the array keeps a partial parity log",
            Features::RAID0_LAYOUT => "the array is a RAID0",
            _ => "the feature is newer than this program",
        };
        Some((unknown, reason))
    }
}

impl BitOr for Features {
    type Output = Features;

    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut join = "";
        for (bit, name) in NAMES {
            if rest & bit.0 != 0 {
                write!(f, "{join}{name}")?;
                rest &= !bit.0;
                join = "|";
            }
        }
        if rest != 0 || join.is_empty() {
            write!(f, "{join}{rest:#x}")?;
        }
        Ok(())
    }
}

const NAMES: [(Features, &str); 13] = [
    (Features::BITMAP_OFFSET, "BITMAP_OFFSET"),
    (Features::RECOVERY_OFFSET, "RECOVERY_OFFSET"),
    (Features::RESHAPE_ACTIVE, "RESHAPE_ACTIVE"),
    (Features::BAD_BLOCKS, "BAD_BLOCKS"),
    (Features::REPLACEMENT, "REPLACEMENT"),
    (Features::RESHAPE_BACKWARDS, "RESHAPE_BACKWARDS"),
    (Features::NEW_OFFSET, "NEW_OFFSET"),
    (Features::RECOVERY_BITMAP, "RECOVERY_BITMAP"),
    (Features::CLUSTERED, "CLUSTERED"),
    (Features::JOURNAL, "JOURNAL"),
    (Features::PPL, "PPL"),
    (Features::MULTIPLE_PPLS, "MULTIPLE_PPLS"),
    (Features::RAID0_LAYOUT, "RAID0_LAYOUT"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understood_bits_are_not_refused_and_every_other_bit_is() {
        assert_eq!(Features::UNDERSTOOD.refusal(), None);
        assert_eq!(Features(0).refusal(), None);
        for bit in (0..32).map(|n| Features(1 << n)) {
            assert_eq!(
                bit.refusal().is_none(),
                Features::UNDERSTOOD.contains(bit),
                "{bit:?}"
            );
        }
    }

    #[test]
    fn debug_names_known_bits_and_shows_unknown_ones_in_hex() {
        assert_eq!(
            format!("{:?}", Features(0x8000_0003)),
            "BITMAP_OFFSET|RECOVERY_OFFSET|0x80000000"
        );
        assert_eq!(format!("{:?}", Features(0)), "0x0");
    }
}
