//! Puts a leg of this node into service: what its metadata has to say before the kernel gets it.

use std::path::PathBuf;

use super::command::Order;
use super::step::Step;
use super::{Kernel, MdArray};
use crate::array::disk::{Access, Disk};
use crate::array::leg::{Leg, Write};
use crate::array::{ArrayError, Start};
use crate::md::superblock::{Features, Role, Timestamp, WRITE_MOSTLY};
use crate::md::{DirtyBits, PAGE, SECTOR};
use crate::mirror::generation::{Generation, Generations};
use crate::raid1::metadata::now;

impl Kernel {
    pub(super) fn start_array(&self, start: &Start) -> Result<MdArray, ArrayError> {
        if start.new_generation {
            return Err(ArrayError::refused(
                "the kernel's RAID1 names a generation with the first write that a leg misses, not before",
            ));
        }
        let _lock = self.machine.lock(&start.tag)?;
        if let Some(running) = self.running(&start.tag)? {
            return already(running, start);
        }
        let disk = Disk::open(&start.disk, Access::Exclusive).map_err(ArrayError::failed)?;
        let leg = Leg::read(&disk).map_err(|error| {
            ArrayError::Failed(format!("disk {}: {error}", start.disk.display()))
        })?;
        if !leg.is_of(&start.tag) {
            return Err(ArrayError::Usage(format!(
                "disk {} is a leg of mirror {}, not of {}",
                start.disk.display(),
                leg.tag(),
                start.tag
            )));
        }
        if !leg.is_consistent() && !start.force {
            return Err(ArrayError::refused_with(
                format!(
                    "mirror {} is not started: its leg {} was being resynced, and its data is of different times",
                    start.tag,
                    start.disk.display()
                ),
                "start the mirror on another node; --force starts it here and gives up what the others have",
            ));
        }
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        let writes = prepare(&leg, start, Generation((high ^ low).max(1)), now())
            .map_err(ArrayError::failed)?;
        for (what, writes) in writes {
            self.machine.perform(&Step::Write {
                disk: start.disk.clone(),
                what: what.to_owned(),
                writes,
            })?;
        }
        // The kernel wants it for itself.
        drop(disk);
        let array: PathBuf = self.machine.dev.join("md").join(&start.tag);
        self.machine.perform(&Step::Mdadm(Order::Assemble {
            array: array.clone(),
            leg: start.disk.clone(),
        }))?;
        let running = match self.machine.dry_run {
            true => MdArray {
                machine: self.machine.clone(),
                tag: start.tag.clone(),
                name: format!("md/{}", start.tag),
                local: start.disk.clone(),
            },
            false => self.running(&start.tag)?.ok_or_else(|| {
                ArrayError::Failed(format!(
                    "mdadm assembled {}, but the kernel does not show it",
                    array.display()
                ))
            })?,
        };
        self.machine.perform_all(&running.queue_steps())?;
        self.machine
            .perform_all(&running.speed_steps(start.speed))?;
        Ok(running)
    }
}

fn already(running: MdArray, start: &Start) -> Result<MdArray, ArrayError> {
    let same = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    match same(&running.local) == same(&start.disk) {
        true => Ok(running),
        false => Err(ArrayError::refused(format!(
            "mirror {} runs already, on {}",
            start.tag,
            running.local.display()
        ))),
    }
}

/// What to write to a leg before the kernel starts it, in order.
///
/// - The record names departures that only the superblock knew of.
/// - The superblock: never write-mostly (the leg is local now, whatever it was), no bad-block log, and not clean if
///   there are bits: beside a clean superblock the kernel may drop them.
/// - The bitmap's header: how many writes may be on the way to asynchronous legs.
pub fn prepare(
    leg: &Leg,
    start: &Start,
    fresh: Generation,
    now: Timestamp,
) -> Result<Vec<(&'static str, Vec<Write>)>, crate::array::leg::LegError> {
    let mut all = Vec::new();
    let forced = !leg.is_consistent();
    let mut generations = leg.witness().generations();
    if forced || generations.current == Generation::NONE {
        // What was forced is like nobody else's data: no other leg is older, or newer, or taken back without being told.
        generations = Generations {
            current: fresh,
            ..Generations::default()
        };
    }
    generations.away[leg.slot] = Generation::NONE;
    if generations != crate::array::leg::generations(&leg.record)
        || forced && !leg.record_is_consistent()
    {
        all.push((
            "the record names its generation",
            leg.record_writes(&generations)?,
        ));
    }
    let mut superblock = leg.superblock.clone();
    superblock.devflags &= !WRITE_MOSTLY;
    (
        superblock.bblog_size,
        superblock.bblog_offset,
        superblock.bblog_shift,
    ) = (0, 0, 0);
    if forced {
        let recovering = Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP;
        superblock.features = superblock.features.without(recovering);
        superblock.recovery_offset = 0;
        // The kernel may have left it before it had its place.
        superblock.set_role(superblock.dev_number, Role::Active(leg.slot as u16));
    }
    if let Some(bitmap) = &leg.bitmap {
        let mut header = bitmap.header.clone();
        header.write_behind = start.async_limit.unwrap_or(0).into();
        if forced {
            header.events = header.events.max(superblock.events);
            header.state = 0;
            let bits = DirtyBits::all_dirty(header.chunks());
            all.push((
                "everything is marked",
                vec![(bitmap.start, bits.encode(&header))],
            ));
        } else if header != bitmap.header {
            let mut page = [0; PAGE];
            bitmap.bits.encode_page(0, &header, &mut page);
            let length = bitmap.header.used().min(PAGE as u64) as usize;
            all.push((
                "the limit of asynchronous writes",
                vec![(bitmap.start, page[..length].to_vec())],
            ));
        }
        if forced || !bitmap.bits.is_clean() {
            superblock.mark_active();
        }
    }
    if superblock != leg.superblock {
        superblock.updated = now;
        let at = superblock.super_offset * SECTOR;
        let bytes = superblock.encode()[..superblock.encoded_len()].to_vec();
        all.push(("the superblock of a leg of this node", vec![(at, bytes)]));
    }
    Ok(all)
}
