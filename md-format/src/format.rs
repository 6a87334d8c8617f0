//! A fresh mirror: the superblock and the bitmap that each of its legs starts with.

use super::bitmap::{BitmapSuperblock, DirtyBits};
use super::layout::{Layout, LayoutError};
use super::superblock::{FAIL_FAST, Features, IN_SYNC, Role, Superblock, Timestamp, WRITE_MOSTLY};
use super::{MdUuid, SECTOR};

/// Legs that one mirror can have: a local one and seven remote ones.
pub const MAX_LEGS: usize = 8;

/// What a mirror is to look like.
#[derive(Clone, Debug)]
pub struct NewMirror {
    /// Identity of the array; random, chosen by the caller.
    pub uuid: MdUuid,
    /// Name shown by `mdadm`, at most 31 bytes: customarily `HOST:TAG`, or the tag.
    pub name: String,
    /// Shown to people as the time of creation.
    pub created: Timestamp,
    /// Bytes for which one bit of the bitmap speaks.
    pub chunk: u32,
    /// Seconds that a bit stays set after the last write, for who clears bits by the clock. The kernel's and `mdadm`'s
    /// usual value is 5.
    pub daemon_sleep: u32,
    /// The places of the mirror in order; `None` is a leg that is to be added later.
    pub legs: Vec<Option<NewLeg>>,
    /// Whether the legs hold the same data already.
    pub start: Start,
}

/// One disk that is to become a leg.
#[derive(Clone, Debug)]
pub struct NewLeg {
    /// Its size in bytes.
    pub device: u64,
    /// Identity of the leg; random, chosen by the caller.
    pub uuid: MdUuid,
    /// Read it only when no other leg is left: a leg at the other end of a network.
    pub write_mostly: bool,
    /// No retries on this leg: it fails at the first error.
    pub fail_fast: bool,
}

/// What is known of the legs' data when the mirror starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All legs are equal (both blank, or copied): no bit is set. With a leg missing, that one is dirty all the same,
    /// see [`Start::Unequal`].
    Equal,
    /// Nothing is known: every bit is set, and the first leg's data is the truth.
    Unequal,
}

/// What to write to one leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormattedLeg {
    /// Where to write it.
    pub layout: Layout,
    /// The superblock of this leg.
    pub superblock: Superblock,
    /// The bitmap's header.
    pub bitmap: BitmapSuperblock,
    /// The bitmap's bits.
    pub bits: DirtyBits,
}

/// Why a mirror cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// One to eight legs.
    #[error("a mirror has 1 to {MAX_LEGS} legs, not {legs}")]
    Legs {
        /// Places asked for.
        legs: usize,
    },
    /// Every place is empty.
    #[error("a mirror needs at least one leg that is there")]
    NoLeg,
    /// It would not fit into the superblock, or could not be shown.
    #[error("name {name:?} of the array: 1 to 31 printable bytes are needed")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// Two legs, or a leg and the array, with one identity.
    #[error("UUID {uuid} is used twice")]
    Uuid {
        /// The one.
        uuid: MdUuid,
    },
    /// Out of the range that the kernel accepts.
    #[error("bitmap is to be swept every {seconds} s: 1 to 86400 are possible")]
    DaemonSleep {
        /// What was asked for.
        seconds: u32,
    },
    /// A disk is too small, or the chunk does not suit.
    #[error("leg {leg}: {error}")]
    Layout {
        /// Place of the leg, from 0.
        leg: usize,
        /// What is wrong.
        error: LayoutError,
    },
}

impl NewMirror {
    /// What to write to each leg that is there, in order, with `None` in the empty places. Writes nothing itself.
    ///
    /// Write the bitmap first and the superblock last: without a superblock the leg is blank.
    pub fn format(&self) -> Result<Vec<Option<FormattedLeg>>, FormatError> {
        self.lay_out(Layout::plan)
    }

    /// The same for legs whose data starts at the first byte of the disk, where a file system may be already: metadata
    /// version 1.0 ([`Layout::plan_in_place`]).
    pub fn format_in_place(&self) -> Result<Vec<Option<FormattedLeg>>, FormatError> {
        self.lay_out(Layout::plan_in_place)
    }

    fn lay_out(&self, plan: Plan) -> Result<Vec<Option<FormattedLeg>>, FormatError> {
        self.check()?;
        let (array, layouts) = self.layouts(plan)?;
        let missing = self.legs.iter().any(Option::is_none);
        let equal = self.start == Start::Equal;
        let legs = self.legs.iter().zip(layouts).enumerate();
        Ok(legs
            .map(|(number, (leg, layout))| {
                let (leg, layout) = (leg.as_ref()?, layout?);
                let superblock = self.superblock(number, leg, &layout, array);
                let bitmap = self.bitmap(&layout, array, superblock.events);
                let bits = match equal && !missing {
                    true => DirtyBits::all_clean(bitmap.chunks()),
                    false => DirtyBits::all_dirty(bitmap.chunks()),
                };
                Some(FormattedLeg {
                    layout,
                    superblock,
                    bitmap,
                    bits,
                })
            })
            .collect())
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.legs.is_empty() || self.legs.len() > MAX_LEGS {
            return Err(FormatError::Legs {
                legs: self.legs.len(),
            });
        }
        if self.legs.iter().all(Option::is_none) {
            return Err(FormatError::NoLeg);
        }
        set_name(&self.name)?;
        if !(1..=86_400).contains(&self.daemon_sleep) {
            return Err(FormatError::DaemonSleep {
                seconds: self.daemon_sleep,
            });
        }
        let mut seen = vec![self.uuid];
        for leg in self.legs.iter().flatten() {
            if seen.contains(&leg.uuid) {
                return Err(FormatError::Uuid { uuid: leg.uuid });
            }
            seen.push(leg.uuid);
        }
        Ok(())
    }

    /// Bytes of the array, and the layout of each leg: the smallest disk decides how large the array is, and the others
    /// need room for the bitmap of no more than that.
    fn layouts(&self, plan: Plan) -> Result<(u64, Vec<Option<Layout>>), FormatError> {
        let legs = || {
            self.legs
                .iter()
                .enumerate()
                .filter_map(|(number, leg)| Some((number, leg.as_ref()?)))
        };
        let (smallest, device) = legs()
            .map(|(n, leg)| (n, leg.device))
            .min_by_key(|s| s.1)
            .ok_or(FormatError::NoLeg)?;
        let failed = |leg| move |error| FormatError::Layout { leg, error };
        let smallest = plan(device, self.chunk, None).map_err(failed(smallest))?;
        let array = Layout::array_size([&smallest]);
        let mut layouts = vec![None; self.legs.len()];
        for (number, leg) in legs() {
            layouts[number] =
                Some(plan(leg.device, self.chunk, Some(array)).map_err(failed(number))?);
        }
        Ok((array, layouts))
    }

    fn superblock(&self, number: usize, leg: &NewLeg, layout: &Layout, array: u64) -> Superblock {
        let mut roles = vec![Role::Spare; ROLES];
        for (place, leg) in self.legs.iter().enumerate() {
            if leg.is_some() {
                roles[place] = Role::Active(place as u16);
            }
        }
        // check() limits the name, the layout limits every size, so nothing is cut off below.
        let mut superblock = Superblock {
            features: Features::BITMAP_OFFSET,
            set_uuid: self.uuid,
            set_name: set_name(&self.name).unwrap_or_default(),
            created: self.created,
            size: array / SECTOR,
            raid_disks: self.legs.len() as u32,
            bitmap_offset: 0,
            reshape_fields: [0; 28],
            data_offset: 0,
            data_size: 0,
            super_offset: 0,
            recovery_offset: 0,
            dev_number: number as u32,
            corrected_reads: 0,
            device_uuid: leg.uuid,
            devflags: 0,
            // No bad-block log: with one, the kernel would keep a leg that fails writes instead of expelling it.
            bblog_shift: 0,
            bblog_size: 0,
            bblog_offset: 0,
            updated: self.created,
            events: 1,
            // With all legs there and not equal, the kernel resyncs what has bits only when told so; with a leg missing
            // there is nothing to resync until it is added.
            resync_offset: match self.start {
                Start::Unequal if self.legs.iter().flatten().count() > 1 => 0,
                _ => IN_SYNC,
            },
            roles,
        };
        place_leg(&mut superblock, leg, layout);
        superblock
    }

    fn bitmap(&self, layout: &Layout, array: u64, events: u64) -> BitmapSuperblock {
        BitmapSuperblock {
            uuid: self.uuid,
            events,
            events_cleared: events,
            sync_size: array / SECTOR,
            state: 0,
            chunk: self.chunk,
            daemon_sleep: self.daemon_sleep,
            write_behind: 0,
            sectors_reserved: (layout.bitmap_room / SECTOR) as u32,
            cluster_name: [0; 64],
        }
    }
}

impl FormattedLeg {
    /// What to write to a disk that becomes a leg of a mirror that exists, described by the superblock and the bitmap of
    /// any of its legs: the new leg holds nothing yet, and every bit is set.
    ///
    /// `number` is the leg's index in the role table, `place` its place in the mirror. The other legs' tables need the
    /// same entry ([`Superblock::set_role`]).
    pub fn join(
        array: &Superblock,
        bitmap: &BitmapSuperblock,
        number: u32,
        place: u16,
        leg: &NewLeg,
    ) -> Result<FormattedLeg, FormatError> {
        let failed = |error| FormatError::Layout {
            leg: place.into(),
            error,
        };
        // decode() bounds the size of an array well below an overflow.
        let size = array.size.saturating_mul(SECTOR);
        // All legs of an array have one version of the metadata.
        let plan = match array.super_offset > array.data_offset {
            true => Layout::plan_in_place,
            false => Layout::plan,
        };
        let layout = plan(leg.device, bitmap.chunk, Some(size)).map_err(failed)?;
        let mut superblock = Superblock {
            features: Features::BITMAP_OFFSET | Features::RECOVERY_OFFSET,
            recovery_offset: 0,
            dev_number: number,
            corrected_reads: 0,
            bblog_shift: 0,
            bblog_size: 0,
            bblog_offset: 0,
            ..array.clone()
        };
        place_leg(&mut superblock, leg, &layout);
        superblock.set_role(number, Role::Active(place));
        let sectors_reserved = (layout.bitmap_room / SECTOR) as u32;
        let bitmap = BitmapSuperblock {
            sectors_reserved,
            ..bitmap.clone()
        };
        let bits = DirtyBits::all_dirty(bitmap.chunks());
        Ok(FormattedLeg {
            layout,
            superblock,
            bitmap,
            bits,
        })
    }
}

/// How a leg is laid out: bytes of the disk, bytes of a chunk, bytes of the array if known.
type Plan = fn(u64, u32, Option<u64>) -> Result<Layout, LayoutError>;

/// The fields of a superblock that belong to one leg alone.
fn place_leg(superblock: &mut Superblock, leg: &NewLeg, layout: &Layout) {
    // A layout keeps the bitmap beside the superblock, so the distance is small.
    let distance = layout.bitmap as i64 - layout.superblock as i64;
    superblock.bitmap_offset = (distance / SECTOR as i64) as i32;
    superblock.data_offset = layout.data / SECTOR;
    superblock.data_size = layout.data_size / SECTOR;
    superblock.super_offset = layout.superblock / SECTOR;
    superblock.device_uuid = leg.uuid;
    superblock.devflags =
        if leg.write_mostly { WRITE_MOSTLY } else { 0 } | if leg.fail_fast { FAIL_FAST } else { 0 };
}

fn set_name(name: &str) -> Result<[u8; 32], FormatError> {
    let fits = (1..=31).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        return Err(FormatError::Name {
            name: name.chars().take(80).collect(),
        });
    }
    let mut out = [0; 32];
    out[..name.len()].copy_from_slice(name.as_bytes());
    Ok(out)
}

/// Entries of the role table: what fits into the superblock's first 512 bytes, as `mdadm` does it.
const ROLES: usize = 128;

#[cfg(test)]
mod tests;
