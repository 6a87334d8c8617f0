//! The status of a mirror that the kernel runs, from sysfs and from what its own leg says.

use std::path::Path;

use super::MdArray;
use super::sysfs::{Member, View};
use crate::array::leg::Leg;
use crate::array::{ArrayError, ArrayStatus, NodeState, bytes_in};
use crate::md::SECTOR;
use crate::mirror::generation::Generation;
use crate::status::{LegStatus, ResyncStatus, SCHEMA, Status, limited_by, word};

impl MdArray {
    pub(super) fn state(&self) -> Result<ArrayStatus, ArrayError> {
        let view = self.view()?;
        let leg = self.any_leg(&view)?;
        let member = view
            .members
            .iter()
            .find(|member| member.path(&self.machine.dev) == self.local);
        let local = match member.and_then(|member| member.slot) {
            Some(slot) => Some(slot),
            // It has failed. Where only one leg is missing, that is it.
            None => the_only_empty_slot(&view),
        };
        let mut document = document(&self.tag, &self.machine.dev, &view, &leg, local);
        let (verify, differing) = self.verify_status();
        document.status.verify = verify;
        for leg in &mut document.status.legs {
            let found = differing.iter().find(|(node, _)| *node == leg.node);
            leg.differing_bytes = found.map_or(0, |(_, bytes)| *bytes);
        }
        Ok(document)
    }
}

fn the_only_empty_slot(view: &View) -> Option<usize> {
    let taken = |slot| view.members.iter().any(|member| member.slot == Some(slot));
    let mut empty = (0..view.raid_disks as usize).filter(|&slot| !taken(slot));
    let first = empty.next();
    first.filter(|_| empty.next().is_none())
}

/// The document, from what the kernel shows (`view`), what one of its legs says, and which is this node's.
fn document(tag: &str, dev: &Path, view: &View, leg: &Leg, local: Option<usize>) -> ArrayStatus {
    let generations = leg.witness().generations();
    let names = leg.names();
    let dirty = leg.dirty();
    let resync = resync(view, bytes_in(&dirty));
    let legs = (0..view.raid_disks as usize).map(|slot| {
        let member = view.members.iter().find(|member| member.slot == Some(slot));
        let name = names
            .get(slot)
            .map_or_else(String::new, ToString::to_string);
        // Bits of what is copied already stay for a while.
        let left = resync.as_ref().map_or(u64::MAX, |resync| resync.left);
        leg_status(
            slot,
            name,
            member,
            view,
            local,
            dev,
            bytes_in(&dirty).min(left),
        )
    });
    let (chunk, chunks, dirty_chunks) = match &leg.bitmap {
        Some(bitmap) => {
            let header = &bitmap.header;
            (
                u64::from(header.chunk),
                header.chunks(),
                bitmap.bits.count(),
            )
        }
        None => (0, 0, 0),
    };
    let clean = matches!(view.state.as_str(), "clean" | "active-idle");
    let status = Status {
        schema: SCHEMA.into(),
        tag: tag.into(),
        node: local
            .and_then(|slot| names.get(slot))
            .map_or_else(String::new, ToString::to_string),
        uris: Vec::new(),
        backend: "md".into(),
        array_uuid: leg.superblock.set_uuid.to_string(),
        size: leg.size(),
        chunk,
        chunks,
        dirty_chunks,
        dirty_bytes: if leg.bitmap.is_some() {
            bytes_in(&dirty)
        } else {
            0
        },
        events: leg.superblock.events,
        array_state: if clean { "clean" } else { "active" }.into(),
        generation: format!("{:?}", generations.current),
        halted: halted(view),
        legs: legs.collect(),
        resync,
        last_resync: None,
        verify: None,
    };
    let percent = status.resync.as_ref().map(|resync| resync.percent as u8);
    let nodes = status.legs.iter().map(|leg| NodeState::of(leg, percent));
    ArrayStatus {
        nodes: nodes.collect(),
        generations: Some((&generations).into()),
        connections: 0,
        device: Some(dev.join(&view.name).display().to_string()),
        bitmap: view.bitmap,
        async_limit: view.backlog,
        speed_limit: view.speed_max,
        speed_limit_min: view.speed_min,
        notes: notes(view, local, generations.current),
        status,
    }
}

fn halted(view: &View) -> Option<String> {
    match view.state.as_str() {
        "readonly" | "read-auto" => Some(format!("the array is {}", view.state)),
        "broken" => Some("the last leg failed".into()),
        "inactive" | "clear" => Some(format!("the array is {}: it was not started", view.state)),
        _ => None,
    }
}

fn notes(view: &View, local: Option<usize>, current: Generation) -> Vec<String> {
    let mut notes = Vec::new();
    if !view.bitmap {
        notes.push(
            "there is no write-intent bitmap: every interruption ends in a full resync".to_owned(),
        );
    }
    if view.backlog > 0 {
        notes.push(format!(
            "asynchronous: up to {} writes may be missing on the targets when this node is lost, and their order there is \
             not kept; when the limit is reached, writes wait for the targets",
            view.backlog
        ));
    }
    if current == Generation::NONE {
        notes.push("the leg has no generation yet: start the mirror with netraid".to_owned());
    }
    let avoided =
        |member: &Member| local.is_some() && member.slot == local && member.is("write_mostly");
    if view.members.iter().any(avoided) {
        notes
            .push("this node's own leg is marked write-mostly: reads cross the network".to_owned());
    }
    notes
}

fn leg_status(
    slot: usize,
    node: String,
    member: Option<&Member>,
    view: &View,
    local: Option<usize>,
    dev: &Path,
    dirty: u64,
) -> LegStatus {
    let is_local = local == Some(slot);
    let (status, disk, reason) = match member {
        Some(member) if member.is("faulty") && !is_local => (
            word::UNKNOWN,
            "DUnknown",
            Some("expelled by the kernel: a write to it failed".to_owned()),
        ),
        Some(member) if is_local && !member.is("faulty") => (word::SOURCE, "UpToDate", None),
        Some(member) if is_recovering(member) && view.action == "frozen" => {
            (word::PAUSED, "Inconsistent", None)
        }
        Some(member) if is_recovering(member) => (word::RESYNCING, "Inconsistent", None),
        Some(_) => (word::TARGET, "UpToDate", None),
        _ if is_local => (
            word::OUT_OF_SYNC,
            "Outdated",
            Some("this node's own leg has failed; reads cross the network".to_owned()),
        ),
        None => {
            let failed = view.members.iter().any(|member| member.is("faulty"));
            let reason = failed.then(|| "expelled by the kernel: a write to it failed".to_owned());
            (word::UNKNOWN, "DUnknown", reason)
        }
    };
    LegStatus {
        slot,
        node,
        local: is_local,
        location: member.map_or_else(String::new, |member| member.path(dev).display().to_string()),
        status: status.into(),
        disk: disk.into(),
        reason,
        no_digests: None,
        behind_bytes: None,
        left_behind: false,
        differing_bytes: 0,
        io_errors: 0,
        repaired_bytes: 0,
        failed_bytes: 0,
        damaged: 0,
        missing_bytes: match member {
            Some(member) if is_recovering(member) => dirty,
            _ => 0,
        },
    }
}

fn is_recovering(member: &Member) -> bool {
    !member.is("in_sync") && !member.is("faulty")
}

/// What keeps the kernel from being faster, as far as its speed in KiB a second tells.
fn limit(view: &View, speed: u64) -> Option<String> {
    let near = |bound: Option<u32>| {
        let bound = u64::from(bound.unwrap_or(0));
        bound > 0 && (bound * 9 / 10..=bound * 11 / 10).contains(&speed)
    };
    match () {
        () if near(view.speed_max) => Some(limited_by::RATE.into()),
        () if near(view.speed_min) => Some(limited_by::APPLICATION.into()),
        () if speed > 0 => Some(limited_by::LEGS.into()),
        () => None,
    }
}

/// How far the kernel is. It counts its position, skipped parts included.
fn resync(view: &View, dirty: u64) -> Option<ResyncStatus> {
    if !matches!(view.action.as_str(), "recover" | "resync" | "frozen") {
        return None;
    }
    let (done, whole) = view.completed.unwrap_or((0, 0));
    if whole == 0 {
        // Held before it began, the kernel does not say how far it was.
        let held = view.action == "frozen" && view.members.iter().any(is_recovering);
        return held.then(|| ResyncStatus {
            left: dirty,
            paused: true,
            ..ResyncStatus::default()
        });
    }
    let (copied, left) = (done * SECTOR, whole.saturating_sub(done) * SECTOR);
    let speed = view.speed.unwrap_or(0) * 1024;
    Some(ResyncStatus {
        copied,
        sent: copied,
        left,
        percent: done as f64 * 100.0 / whole as f64,
        speed,
        time_left_ms: left.saturating_mul(1000).checked_div(speed),
        paused: view.action == "frozen",
        limited_by: limit(view, view.speed.unwrap_or(0)),
        ..ResyncStatus::default()
    })
}
