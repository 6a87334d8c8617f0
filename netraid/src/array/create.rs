//! Makes a disk the first leg of a mirror, for either backend: metadata version 1.2 in front of the data, or 1.0 behind
//! a file system that stays where it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flags::{NodeName, Tag};

use super::ArrayError;
use super::disk::{Access, Disk};
use super::filesystem::{self, FileSystem};
use super::leg::{Write, encode_record, record};
use crate::md::format::{FormattedLeg, NewLeg, NewMirror, Start};
use crate::md::superblock::{Features, Timestamp};
use crate::md::{Layout, MdUuid, SECTOR};
use crate::mirror::generation::{Generation, Generations, SLOTS};
use crate::raid1::holds::holds;
use crate::raid1::link::Link;
use crate::raid1::metadata::now;

/// What to make.
#[derive(Clone, Debug)]
pub struct Creation {
    /// The mirror.
    pub tag: Tag,
    /// The disk that becomes the leg of this node.
    pub disk: PathBuf,
    /// All nodes that have a leg, in the order of their legs.
    pub nodes: Vec<NodeName>,
    /// This node, one of them.
    pub node: NodeName,
    /// Bytes under one bit of the write-intent bitmap; `None` for no bitmap at all.
    pub chunk: Option<u32>,
    /// Keep the file system that the disk holds, where it is.
    pub keep: bool,
    /// Overwrite what the disk holds.
    pub force: bool,
    /// Only check.
    pub dry_run: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Bytes of the mirror.
    pub size: u64,
    /// Identity of the array.
    pub uuid: MdUuid,
    /// The file system that was kept.
    pub kept: Option<FileSystem>,
}

/// Makes it.
///
/// # Errors
/// [`ArrayError::Refused`] if the disk holds something that is not to be overwritten, or a file system that does not leave
/// enough room.
pub fn create(creation: &Creation) -> Result<Created, ArrayError> {
    let disk = Disk::open(&creation.disk, Access::Exclusive).map_err(ArrayError::failed)?;
    let disk = Arc::new(disk);
    let (slot, formatted) = format(creation, disk.size())?;
    let kept = match creation.keep {
        true => Some(check_room(&disk, &formatted.layout)?),
        false => None,
    };
    let place = creation.disk.display();
    if !creation.force && !creation.keep {
        let found = holds(&Link::Local(disk.clone()), PATIENCE)
            .map_err(|failure| ArrayError::Failed(format!("{place}: {failure}")))?;
        if let Some(found) = found {
            return Err(ArrayError::refused_with(
                format!("{place} holds {found}; nothing was written"),
                "--force overwrites it; --keep keeps a file system where it is",
            ));
        }
    }
    let created = Created {
        size: formatted.superblock.size * SECTOR,
        uuid: formatted.superblock.set_uuid,
        kept,
    };
    if !creation.dry_run {
        for (offset, data) in writes(creation, slot, formatted)? {
            disk.write(offset, &data).map_err(ArrayError::failed)?;
        }
    }
    Ok(created)
}

fn format(creation: &Creation, device: u64) -> Result<(usize, FormattedLeg), ArrayError> {
    let usage = |why: String| ArrayError::Usage(why);
    let nodes = &creation.nodes;
    if !(2..=SLOTS).contains(&nodes.len()) {
        return Err(usage(format!(
            "a mirror has 2 to {SLOTS} nodes, {} were named",
            nodes.len()
        )));
    }
    if let Some(twice) = (1..nodes.len()).find(|&n| nodes[..n].contains(&nodes[n])) {
        return Err(usage(format!("node {} is named twice", nodes[twice])));
    }
    let slot = nodes.iter().position(|node| *node == creation.node);
    let slot = slot.ok_or_else(|| {
        usage(format!(
            "this node, {}, is not one of the mirror's",
            creation.node
        ))
    })?;
    let leg = NewLeg {
        device,
        uuid: random_uuid(),
        write_mostly: false,
        fail_fast: false,
    };
    let mirror = NewMirror {
        uuid: random_uuid(),
        name: array_name(creation.tag.as_str()),
        // mdadm --detail reads no more than seconds.
        created: Timestamp::from_seconds(now().seconds),
        chunk: creation
            .chunk
            .unwrap_or_else(|| Layout::default_chunk(device)),
        daemon_sleep: 5,
        legs: (0..nodes.len())
            .map(|place| (place == slot).then(|| leg.clone()))
            .collect(),
        start: Start::Equal,
    };
    let legs = match creation.keep {
        true => mirror.format_in_place(),
        false => mirror.format(),
    };
    let legs = legs.map_err(|error| usage(format!("{}: {error}", creation.disk.display())))?;
    let formatted = legs.into_iter().flatten().next();
    let mut formatted = formatted.ok_or_else(|| ArrayError::failed("no leg was laid out"))?;
    formatted.superblock.updated = now();
    // Whoever joins is filled completely, so nothing needs a mark now.
    let chunks = formatted.bits.chunks();
    formatted.bits.clear_range(0..chunks);
    if creation.chunk.is_none() {
        let features = formatted.superblock.features;
        formatted.superblock.features = features.without(Features::BITMAP_OFFSET);
        formatted.superblock.bitmap_offset = 0;
    }
    Ok((slot, formatted))
}

/// The bitmap and the record first, the superblock last: without a superblock the disk is as it was.
fn writes(
    creation: &Creation,
    slot: usize,
    formatted: FormattedLeg,
) -> Result<Vec<Write>, ArrayError> {
    let FormattedLeg {
        layout,
        superblock,
        bitmap,
        bits,
    } = formatted;
    let mut writes = Vec::new();
    if creation.chunk.is_some() {
        let used = bitmap.used();
        let mut bytes = bits.encode(&bitmap);
        bytes.truncate(used as usize);
        writes.push((layout.bitmap, bytes));
    }
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    let generations = Generations {
        current: Generation((high ^ low).max(1)),
        ..Generations::default()
    };
    let record = record(&superblock, slot, &creation.nodes, &generations, 1);
    let at = layout
        .records
        .ok_or_else(|| ArrayError::failed(super::leg::LegError::NoRoom))?;
    let record = record.and_then(|record| encode_record(&record, at));
    writes.extend(record.map_err(ArrayError::failed)?);
    let length = superblock.encoded_len();
    writes.push((layout.superblock, superblock.encode()[..length].to_vec()));
    Ok(writes)
}

/// The array's name: as if a host called netraid had made it. By that, the shipped rules keep udev and mdadm from
/// assembling it. Where that is too long, as much of the tag as fits.
pub fn array_name(tag: &str) -> String {
    let name = format!("netraid:{tag}");
    match name.len() <= LONGEST_NAME {
        true => name,
        false => tag.chars().take(LONGEST_NAME).collect(),
    }
}

fn check_room(disk: &Disk, layout: &Layout) -> Result<FileSystem, ArrayError> {
    let place = disk.path().display();
    let found = filesystem::find(disk).map_err(ArrayError::failed)?;
    let Some(found) = found else {
        return Err(ArrayError::refused_with(
            format!(
                "{place} holds no file system whose size can be told (ext2, ext3, ext4, XFS, btrfs); nothing was written"
            ),
            "without --keep, the metadata stands in front of the data",
        ));
    };
    if found.size <= layout.data_size {
        return Ok(found);
    }
    let over = found.size - layout.data_size;
    Err(ArrayError::refused_with(
        format!(
            "the {} file system on {place} leaves no room for the mirror's metadata: shrink it by at least {over} bytes, \
             to {} bytes; nothing was written",
            found.kind, layout.data_size
        ),
        match found.shrink {
            Some(tool) => format!("{tool} shrinks it; or enlarge the disk by {over} bytes"),
            None => format!("it can't be shrunk; enlarge the disk by {over} bytes instead"),
        },
    ))
}

fn random_uuid() -> MdUuid {
    MdUuid(*uuid::Uuid::new_v4().as_bytes())
}

/// Bytes that a superblock has for a name, less the zero behind it.
const LONGEST_NAME: usize = 31;
/// Longest wait for a look at what a disk holds.
const PATIENCE: Duration = Duration::from_secs(60);
