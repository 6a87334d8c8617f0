//! Adds a leg to a running array: decides, merges its bitmap, prepares its metadata, and gives it to the kernel.
//!
//! [`plan`] is the pure part: from what both legs say to the steps. The module's parent says why they are in this order.

mod prepared;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::command::Order;
use super::grow::bring_along;
use super::step::Step;
use super::{MdArray, slot_of, sysfs};
use crate::array::disk::{Access, Disk};
use crate::array::leg::{self, Leg, LegError};
use crate::array::{Added, ArrayError, NewLeg, bytes_in};
use crate::md::MdUuid;
use crate::md::superblock::Timestamp;
use crate::mirror::generation::{Extent, Generation, Generations, Verdict};
use crate::raid1::engine::permitted;
use crate::raid1::holds::holds;
use crate::raid1::link::Link;
use prepared::Prepared;

/// What is known before a leg is added.
pub struct Situation<'a> {
    /// The array's device.
    pub array: &'a Path,
    /// The array's `bitmap_set_bits`.
    pub set_bits: &'a Path,
    /// The legs that the array has, this node's first: where they are and what they say.
    pub present: &'a [(PathBuf, Leg)],
    /// The slot of the leg to add.
    pub slot: usize,
    /// Its disk.
    pub disk: &'a Path,
    /// Bytes of its disk.
    pub size: u64,
    /// What it says; `None` if it is no leg of this mirror, and may be overwritten.
    pub found: Option<&'a Leg>,
    /// Identity of the leg if it is made now.
    pub uuid: MdUuid,
    /// The time of day.
    pub now: Timestamp,
}

/// The steps that add a leg, and what they come to.
#[derive(Debug)]
pub struct Plan {
    /// To be performed in this order; after an error, none of the rest.
    pub steps: Vec<Step>,
    /// What is copied.
    pub added: Added,
}

impl MdArray {
    pub(super) fn add_leg(&self, request: &NewLeg) -> Result<Added, ArrayError> {
        let location = PathBuf::from(&request.location);
        self.check_local()?;
        self.thaw()?;
        let local = self.local_leg()?;
        let slot = slot_of(&local, &request.node)?;
        if slot == local.slot {
            return Err(ArrayError::Usage(format!(
                "{} is this node: its leg is the mirror's source",
                request.node
            )));
        }
        if let Some(member) = self.member_in(slot)?
            && !member.is("faulty")
        {
            return Err(ArrayError::refused(format!(
                "{} has a leg in mirror {} already: {}",
                request.node, self.tag, member.name
            )));
        }
        // What was failed is of no use to the kernel any more, and keeps its number and its device from being used.
        for member in self.view()?.members {
            if member.is("faulty") {
                self.drop_member(&member)?;
            }
        }
        let disk = Disk::open(&location, Access::Exclusive).map_err(ArrayError::failed)?;
        let disk = Arc::new(disk);
        let found = self.look_at(&disk, &local, slot, request)?;
        let found = found.map(|leg| bring_along(leg, &local, disk.size(), &location));
        let (found, along) = found.transpose()?.unzip();
        let present = self.present(local)?;
        let situation = Situation {
            array: &self.device(),
            set_bits: &self.attribute("bitmap_set_bits"),
            present: &present,
            slot,
            disk: &location,
            size: disk.size(),
            found: found.as_ref(),
            uuid: MdUuid(*uuid::Uuid::new_v4().as_bytes()),
            now: crate::raid1::metadata::now(),
        };
        let plan = plan(&situation, request)?;
        for step in along.iter().flatten().chain(&plan.steps) {
            if let Step::Mdadm(Order::ReAdd { .. }) = step {
                break;
            }
            self.machine.perform(step)?;
        }
        // The array would discard again if its new leg could.
        let name = std::fs::canonicalize(&location).unwrap_or_default();
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("nbd") {
            let step = self.queue_step(&name, super::DISCARD, "0");
            step.map_or(Ok(()), |step| self.machine.perform(&step))?;
        }
        // The kernel wants it for itself.
        drop(disk);
        let serialises = self.serialises();
        if serialises {
            self.serialise("0")?;
        }
        let last = plan.steps.last();
        let given = last.map_or(Ok(()), |step| self.machine.perform(step));
        if let Err(ArrayError::Late(_)) = &given {
            // If this fails, the first error is still the one to tell.
            let _ = self.thaw();
        }
        if serialises {
            self.serialise("1")?;
        }
        given?;
        match self.machine.dry_run {
            true => Ok(plan.added),
            false => {
                if plan.added.full {
                    self.forget_differences(&request.node);
                }
                self.check_added(slot).map(|()| plan.added)
            }
        }
    }

    /// Whether the array still has the leg of this node that it had when it was looked up. What a leg says that the
    /// kernel has expelled is old; and a kernel's name may have gone to another mirror meanwhile.
    pub(super) fn check_local(&self) -> Result<(), ArrayError> {
        let view = self.view()?;
        let mut members = view.members.iter();
        let member = members.find(|member| member.path(&self.machine.dev) == self.local);
        match member {
            Some(member) if !member.is("faulty") => Ok(()),
            Some(_) => Err(ArrayError::refused_with(
                format!(
                    "this node's own leg of mirror {} has failed: it does not know any more what others miss",
                    self.tag
                ),
                "stop the mirror and start it on a node whose leg is in sync; add the others there",
            )),
            None => Err(ArrayError::refused(format!(
                "{} is not mirror {}'s any more; nothing was written",
                self.name, self.tag
            ))),
        }
    }

    /// mdadm freezes the array while it adds a leg. One that was killed meanwhile leaves it so, and then nothing is ever
    /// resynced; the next mdadm leaves it as it found it.
    fn thaw(&self) -> Result<(), ArrayError> {
        match self.view()?.action.as_str() {
            "frozen" => self.machine.perform(&Step::Attribute {
                file: self.attribute("sync_action"),
                value: "idle".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether somebody has told the array to let overlapping writes wait for each other. NetRAID does not: before Linux
    /// 7.1 those that wait do not go on in their order, so that legs differ more often than without (`docs/ARCHITECTURE.md`).
    fn serialises(&self) -> bool {
        sysfs::read(&self.attribute(SERIALIZE)).is_ok_and(|value| value == "1")
    }

    /// An array that serialises has no memory for a leg that is added to it, and the kernel (6.1) dies of the next write.
    fn serialise(&self, value: &str) -> Result<(), ArrayError> {
        self.machine.perform(&Step::Attribute {
            file: self.attribute(SERIALIZE),
            value: value.to_owned(),
        })
    }

    /// What the kernel did with the leg: it has its place, and is not read from.
    fn check_added(&self, slot: usize) -> Result<(), ArrayError> {
        let view = self.view()?;
        let Some(member) = view.members.iter().find(|member| {
            member.slot == Some(slot) || member.slot.is_none() && !member.is("faulty")
        }) else {
            return Err(ArrayError::Failed(
                "the kernel took the leg and expelled it at once; its log says why".into(),
            ));
        };
        if !member.is("write_mostly") {
            let file = self.attribute(&format!("dev-{}/state", member.name));
            self.machine.perform(&Step::Attribute {
                file,
                value: "writemostly".into(),
            })?;
        }
        self.machine.perform_all(&self.queue_steps())
    }

    /// The leg of this mirror that the disk is, `None` if it is not one and may be overwritten.
    fn look_at(
        &self,
        disk: &Arc<Disk>,
        local: &Leg,
        slot: usize,
        request: &NewLeg,
    ) -> Result<Option<Leg>, ArrayError> {
        let place = request.location.as_str();
        let overwrite = |holds: String| match request.force {
            true => Ok(None),
            false => Err(ArrayError::refused_with(
                format!("{place} holds {holds}; nothing was written"),
                "--force overwrites it",
            )),
        };
        match Leg::read(disk) {
            Ok(leg) if leg.superblock.set_uuid != local.superblock.set_uuid => overwrite(format!(
                "a leg of another mirror, {}",
                leg.superblock.name()
            )),
            Ok(leg) if leg.slot != slot => Err(ArrayError::refused(format!(
                "{place} is leg {} of this mirror, that of {}; {} has leg {slot}",
                leg.slot, leg.record.node, request.node
            ))),
            Ok(leg) => Ok(Some(leg)),
            Err(LegError::Disk(error)) => Err(ArrayError::failed(error)),
            Err(LegError::Blank) => {
                let found = holds(&Link::Local(disk.clone()), PATIENCE)
                    .map_err(|failure| ArrayError::Failed(format!("{place}: {failure}")))?;
                found.map_or(Ok(None), |what| overwrite(what.into()))
            }
            Err(error) => overwrite(format!("a leg that can't be used ({error})")),
        }
    }

    /// The array's own legs with what they say, this node's first.
    fn present(&self, local: Leg) -> Result<Vec<(PathBuf, Leg)>, ArrayError> {
        let mut present = vec![(self.local.clone(), local)];
        for member in self.view()?.members {
            let path = member.path(&self.machine.dev);
            if path != self.local && !member.is("faulty") && member.slot.is_some() {
                let leg = super::read_leg(&path)?;
                if leg.superblock.set_uuid != present[0].1.superblock.set_uuid {
                    return Err(ArrayError::refused(format!(
                        "{} is a leg of another mirror, {}; nothing was written",
                        path.display(),
                        leg.tag()
                    )));
                }
                present.push((path, leg));
            }
        }
        Ok(present)
    }
}

/// Decides and plans.
///
/// # Errors
/// [`ArrayError::Refused`] if the leg has newer data, was written alone, or is too small.
pub fn plan(situation: &Situation<'_>, request: &NewLeg) -> Result<Plan, ArrayError> {
    let (local_disk, local) = situation
        .present
        .first()
        .ok_or_else(|| ArrayError::Failed("the array has no leg of this node".into()))?;
    let (extent, rule) = decide(local, situation, request)?;
    let full = extent == Extent::Full || request.full;
    let named = local.witness().generations();
    let mut back = named.clone();
    back.returned(situation.slot);

    let mut steps = Vec::new();
    // 1. Names, on every leg that is there: what follows is said relative to them.
    steps.extend(records(
        situation,
        None,
        &named,
        "the record names its generation",
    )?);
    // 2. Marks.
    let size = local.size();
    let theirs = situation.found.map_or_else(Vec::new, Leg::dirty);
    let all = 0..size;
    let marked = if full {
        std::slice::from_ref(&all)
    } else {
        &theirs[..]
    };
    let mut whole = None;
    if let Some(bitmap) = &local.bitmap {
        let chunks = in_chunks(marked, bitmap.header.chunk.into(), bitmap.header.chunks());
        let mut union = bitmap.bits.clone();
        for run in &chunks {
            union.set_range(run.clone());
        }
        whole = Some((bitmap.header.clone(), union));
        if !chunks.is_empty() {
            steps.push(Step::Mark {
                file: situation.set_bits.to_owned(),
                leg: local_disk.clone(),
                chunks,
            });
        }
    }
    // 3. The leg itself.
    let prepared = Prepared::new(local, situation, whole.as_ref())?;
    steps.push(prepared.step(
        situation,
        whole.as_ref().map(|(_, bits)| bits),
        local,
        &back,
    )?);
    // 4. It is not away any more.
    steps.extend(records(
        situation,
        Some(&named),
        &back,
        "no leg is away that is there",
    )?);
    // 5.
    steps.push(Step::Mdadm(Order::ReAdd {
        array: situation.array.to_owned(),
        leg: situation.disk.to_owned(),
    }));
    let dirty = match &whole {
        None => size,
        Some((header, bits)) => {
            let chunk = u64::from(header.chunk);
            let runs: Vec<Range<u64>> = bits.ranges().collect();
            let bytes = runs
                .iter()
                .map(|run| run.start * chunk..(run.end * chunk).min(size));
            bytes_in(&bytes.collect::<Vec<_>>())
        }
    };
    Ok(Plan {
        steps,
        added: Added {
            full: full || whole.is_none(),
            rule: rule.to_owned(),
            merged_bytes: bytes_in(&theirs),
            dirty_bytes: dirty,
        },
    })
}

/// How much must be copied, and by which rule; or why nothing may be.
fn decide(
    local: &Leg,
    situation: &Situation<'_>,
    request: &NewLeg,
) -> Result<(Extent, &'static str), ArrayError> {
    let Some(found) = situation.found else {
        return Ok((Extent::Full, "new leg"));
    };
    let decision = local.witness().decide(&found.witness());
    let (node, rule) = (&request.node, decision.rule);
    if let Some(extent) = permitted(decision, request.discard) {
        return Ok((extent, rule));
    }
    match decision.verdict {
        Verdict::FromPeer(_) => Err(ArrayError::refused_with(
            format!("{node} has newer data than this node ({rule}); nothing was written"),
            "stop the mirror here and start it there; --discard gives up what is there",
        )),
        Verdict::SplitBrain => Err(ArrayError::refused_with(
            format!(
                "split brain with {node} ({rule}): both were written without the other; nothing was written"
            ),
            "choose whose data is discarded: --discard gives up what was written there",
        )),
        _ => Err(ArrayError::refused_with(
            format!(
                "the leg of {node} has other data than this mirror ({rule}); nothing was written"
            ),
            "--discard overwrites it",
        )),
    }
}

/// Records that make all legs that are there say `after`, if they do not; `before` is what they say by then.
fn records(
    situation: &Situation<'_>,
    before: Option<&Generations>,
    after: &Generations,
    what: &str,
) -> Result<Vec<Step>, ArrayError> {
    let mut steps = Vec::new();
    for (disk, leg) in situation.present {
        let own = |generations: &Generations| {
            let mut own = generations.clone();
            own.away[leg.slot] = Generation::NONE;
            own
        };
        let mut leg = leg.clone();
        let now = match before {
            Some(before) => {
                // Written once already, perhaps.
                leg.record.sequence += 1;
                own(before)
            }
            None => leg::generations(&leg.record),
        };
        let same = now == own(after) && (before.is_some() || leg.record_is_consistent());
        if !same {
            steps.push(Step::Write {
                disk: disk.clone(),
                what: what.to_owned(),
                writes: leg.record_writes(&own(after)).map_err(ArrayError::failed)?,
            });
        }
    }
    Ok(steps)
}

/// Chunks that hold these bytes, cut to those that exist.
fn in_chunks(bytes: &[Range<u64>], chunk: u64, chunks: u64) -> Vec<Range<u64>> {
    let runs = bytes.iter().filter(|range| range.start < range.end);
    runs.map(|range| (range.start / chunk).min(chunks)..range.end.div_ceil(chunk).min(chunks))
        .filter(|run| run.start < run.end)
        .collect()
}

/// Of an array: overlapping writes wait for each other.
const SERIALIZE: &str = "serialize_policy";
/// Longest wait for a look at what a disk holds.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
