//! What a device is in its array: the two-byte entries of the superblock's role table.

use std::fmt;

/// A device's role, an entry of `dev_roles` (md_p.h, `MD_DISK_ROLE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A leg of the mirror, with its place in the array (0 for the first).
    Active(u16),
    /// In no place: a spare, or an empty entry of the table.
    Spare,
    /// Failed, expelled from the array.
    Faulty,
    /// A write journal.
    Journal,
}

impl Role {
    /// The role that a two-byte entry stands for.
    pub const fn from_raw(raw: u16) -> Role {
        match raw {
            0xffff => Role::Spare,
            0xfffe => Role::Faulty,
            0xfffd => Role::Journal,
            place => Role::Active(place),
        }
    }

    /// The two-byte entry of the role.
    pub const fn to_raw(self) -> u16 {
        match self {
            Role::Spare => 0xffff,
            Role::Faulty => 0xfffe,
            Role::Journal => 0xfffd,
            Role::Active(place) => place,
        }
    }
}

impl fmt::Display for Role {
    /// The words of `mdadm --examine` ("Device Role"), which calls a failed device a spare; we say faulty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Active(place) => write!(f, "Active device {place}"),
            Role::Spare => f.write_str("spare"),
            Role::Faulty => f.write_str("faulty"),
            Role::Journal => f.write_str("Journal"),
        }
    }
}
