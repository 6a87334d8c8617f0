//! What it takes to write a text of `netraid dump-meta` back, decided before anything is written; and the writing.
//!
//! The disk's data is newer than the text, or of another moment: the text may know less of it than is true. So:
//!
//! - A leg that can be read, and is of the text's generations: the text's marks are added to its own. Nothing else changes.
//! - A leg that can be read and is of other generations is left alone. By force it gets the text's generations.
//! - A leg that can't be read gets the text's superblock and generations by force: what it knew of newer data is lost.
//! - A state record that can be read stays; one that is lost or damaged comes from the text. What it says of the others may
//!   have changed since: each of them may have newer data.
//!
//! Wherever generations come from the text, all of the mirror is marked as different; wherever they or the record do,
//! `TAG_data_corrupt` is set before anything else: the mirror goes in service here only by force, until this node's leg is in
//! sync with a source.

use std::time::Duration;

use flags::{NodeName, PeerFlags, RecordFlags, StateRecord};

use super::document::{self, DocumentError, LegMeta, Meta};
use super::dump::{self, Place};
use crate::array::ArrayError;
use crate::array::disk::Disk;
use crate::array::leg::{Leg, LegError, Write, encode_record};
use crate::md::bitmap::{HEADER, STATE_STALE, STATE_WRITE_ERROR};
use crate::md::layout::records_without_bitmap;
use crate::md::superblock::BLOCK;
use crate::md::{BitmapSuperblock, DirtyBits, Layout, SECTOR, Superblock};
use crate::raid1::holds::holds;
use crate::raid1::link::Link;
use crate::raid1::metadata::now;

/// What is there now.
#[derive(Debug)]
pub struct Present {
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// The leg, or why there is none that can be used.
    pub leg: Result<Leg, LegError>,
    /// What else the disk holds, where it is no leg.
    pub holds: Option<String>,
    /// The node's record, or why it can't be used.
    pub record: Result<Option<StateRecord>, String>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Plan {
    /// For people, in the order of the writing.
    pub steps: Vec<String>,
    /// Writes to the disk, each durable before the next.
    leg: Vec<Write>,
    /// The node's record; the one that is there has to make room first.
    record: Option<(StateRecord, bool)>,
    /// The flag files, which go with it: last owner, and source.
    flags: Option<(bool, Option<NodeName>)>,
    /// `TAG_data_corrupt` first of all.
    guard: bool,
}

/// Why nothing is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub why: String,
    /// What could help.
    pub next: Option<String>,
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Refusal {
        refusal(format!("the text can't be used: {error}"))
    }
}

fn refusal(why: impl Into<String>) -> Refusal {
    Refusal {
        why: why.into(),
        next: None,
    }
}

impl Present {
    /// Reads it.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn read(place: &Place, disk: &std::sync::Arc<Disk>) -> Result<Present, ArrayError> {
        let leg = Leg::read(disk);
        let holds = match &leg {
            Err(LegError::Disk(error)) => return Err(ArrayError::failed(error)),
            Err(LegError::Blank) => holds(&Link::Local(disk.clone()), PATIENCE)
                .map_err(ArrayError::failed)?
                .map(|found| found.to_string()),
            _ => None,
        };
        let record = place.record().load();
        Ok(Present {
            disk_bytes: disk.size(),
            leg,
            holds,
            record: match record {
                Ok(record) => Ok(record.map(|chosen| chosen.record)),
                Err(error) => Err(error.to_string()),
            },
        })
    }
}

/// Decides what is to be written. `agreement` is a number from which agreements are counted, that none before had.
///
/// # Errors
/// The text is of something else, or of another moment and `force` is not given.
pub fn plan(
    place: &Place,
    meta: &Meta,
    present: &Present,
    force: bool,
    agreement: u32,
) -> Result<Plan, Refusal> {
    fits(place, meta, present)?;
    let mut plan = Plan::default();
    let renewed = match (&meta.leg, &present.leg) {
        (None, _) if meta.record.is_none() => {
            return Err(refusal(
                "the text has neither a leg nor a state record: there was none",
            ));
        }
        (None, _) => {
            plan.steps
                .push("leave the disk as it is: the text has no leg".into());
            false
        }
        (Some(saved), Ok(leg)) if of_one_moment(saved, leg)? => {
            plan.mark(place, saved, leg);
            false
        }
        (Some(saved), Ok(leg)) => {
            let there = dump::named(leg).current;
            if !force {
                return Err(Refusal {
                    why: format!(
                        "the leg on {} is of generation {there} ({}), the text's of {} ({}): it is of another moment",
                        place.disk.display(),
                        consistent(leg.is_consistent()),
                        saved.record.current,
                        consistent(saved.consistent),
                    ),
                    next: Some(
                        "leave it: what is there knows better; --force takes the text's, with everything marked"
                            .into(),
                    ),
                });
            }
            plan.renew(place, saved, Some(leg), present.disk_bytes)?;
            true
        }
        (Some(saved), Err(error)) => {
            let known = present.record.as_ref().ok().and_then(Option::as_ref);
            let other = known.filter(|known| known.current.to_string() != saved.record.current);
            let why = match (&present.holds, other) {
                _ if force => None,
                (_, Some(known)) => Some(format!(
                    "this node's state record is of generation {}, the text of {}: it is of another moment",
                    known.current, saved.record.current
                )),
                (Some(holds), _) => Some(format!("{} holds {holds}", place.disk.display())),
                // A disk that was replaced looks like that, and has none of the data.
                _ if matches!(error, LegError::Blank) => Some(format!(
                    "{} holds no metadata at all: is it still the disk of {}?",
                    place.disk.display(),
                    meta.tag
                )),
                // What it knew of newer data is lost with it.
                _ => Some(format!("{}: {error}", place.disk.display())),
            };
            if let Some(why) = why {
                return Err(Refusal {
                    why,
                    next: Some("--force takes the text's metadata, with everything marked".into()),
                });
            }
            plan.steps
                .push(format!("{}: {error}", place.disk.display()));
            plan.renew(place, saved, None, present.disk_bytes)?;
            true
        }
    };
    plan.remember(place, meta, present, renewed, (force, agreement))?;
    if plan.guard {
        let guard = format!(
            "write {}_data_corrupt: the mirror goes in service here by force alone, until this leg is in sync with a source",
            meta.tag
        );
        plan.steps.insert(0, guard);
    }
    Ok(plan)
}

/// Whether the text is of this mirror, this node, this disk and these nodes.
fn fits(place: &Place, meta: &Meta, present: &Present) -> Result<(), Refusal> {
    let tag = place.flags.tag().as_str();
    if meta.tag != tag {
        return Err(refusal(format!(
            "the text is of mirror {}, not of {tag}",
            meta.tag
        )));
    }
    if meta.node != place.node() || usize::from(meta.slot) != place.slot {
        return Err(refusal(format!(
            "the text is of node {} ({}), this is {} ({})",
            meta.node,
            meta.slot,
            place.node(),
            place.slot
        )));
    }
    if meta.leg.is_some() && meta.disk_bytes != present.disk_bytes {
        return Err(refusal(format!(
            "the text is of a disk of {} bytes, {} has {}",
            meta.disk_bytes,
            place.disk.display(),
            present.disk_bytes
        )));
    }
    if let Some(record) = &meta.record {
        if usize::from(record.slot) != place.slot || record.node != place.node() {
            return Err(refusal(format!(
                "the text has the state record of {}",
                record.node
            )));
        }
        let member = |peer: &&document::Peer| peer.flags.iter().any(|flag| flag == "member");
        for peer in record.peers.iter().filter(member) {
            let known = place.names.get(usize::from(peer.slot));
            if known.is_none_or(|known| known.as_str() != peer.node) {
                return Err(refusal(format!(
                    "node {} of the text is {}, which it is not in the configuration",
                    peer.slot, peer.node
                )));
            }
        }
    }
    let Some(saved) = &meta.leg else {
        return Ok(());
    };
    if usize::from(saved.record.slot) != place.slot {
        return Err(refusal(format!("the text has leg {}", saved.record.slot)));
    }
    let array = document::array(&saved.array)?;
    if let Ok(Some(record)) = &present.record
        && record.array != [0; 16]
        && record.array != array.0
    {
        return Err(refusal(format!(
            "the text is of array {array}, this node's state record of {}: another mirror of that name",
            crate::md::MdUuid(record.array)
        )));
    }
    let Ok(leg) = &present.leg else {
        return Ok(());
    };
    let disk = place.disk.display();
    if !leg.is_of(tag) || leg.slot != place.slot {
        return Err(refusal(format!(
            "disk {disk} is leg {} of mirror {}",
            leg.slot,
            leg.tag()
        )));
    }
    if leg.superblock.set_uuid != array {
        return Err(refusal(format!(
            "the text is of array {array}, the leg on {disk} of {}: another mirror of that name",
            leg.superblock.set_uuid
        )));
    }
    if leg.size() != saved.mirror_bytes {
        return Err(refusal(format!(
            "the text is of a mirror of {} bytes, the leg on {disk} has {}: it was resized since",
            saved.mirror_bytes,
            leg.size()
        )));
    }
    Ok(())
}

/// Whether what the leg says of its data is what the text says. Marks may differ.
fn of_one_moment(saved: &LegMeta, leg: &Leg) -> Result<bool, Refusal> {
    let (then, now) = (saved.record.state()?, dump::named(leg));
    let away = |record: &StateRecord| {
        let away = record.peers.iter().map(|peer| (peer.node_id, peer.bitmap));
        let mut away: Vec<_> = away.collect();
        away.sort_unstable();
        away
    };
    Ok(then.current == now.current
        && away(&then) == away(&now)
        && then.history == now.history
        && saved.consistent == leg.is_consistent())
}

fn consistent(is: bool) -> &'static str {
    match is {
        true => "consistent",
        false => "not consistent",
    }
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.leg.is_empty() && self.record.is_none() && !self.guard
    }

    /// Adds the text's marks to a leg's own. A clean superblock makes the kernel drop marks, so it goes first.
    fn mark(&mut self, place: &Place, saved: &LegMeta, leg: &Leg) {
        let disk = place.disk.display();
        let (Some(bitmap), Some(marks)) = (&leg.bitmap, &saved.bitmap) else {
            return self.steps.push(format!(
                "{disk}: there is no bitmap, so all counts as marked"
            ));
        };
        let chunk = u64::from(bitmap.header.chunk);
        let mut bits = bitmap.bits.clone();
        let mut added = 0;
        for range in marks.dirty_ranges() {
            added += bits.set_range(range.start / chunk..range.end.div_ceil(chunk));
        }
        if added == 0 {
            return self
                .steps
                .push(format!("{disk}: what the text has marked is marked"));
        }
        self.steps.push(format!(
            "{disk}: mark {added} chunks of {chunk} bytes more, {} of {} in all",
            bits.count(),
            bits.chunks()
        ));
        let mut superblock = leg.superblock.clone();
        superblock.mark_active();
        self.leg.push(superblock_write(&superblock));
        let mut bytes = bits.encode(&bitmap.header);
        bytes.truncate(usize::try_from(bitmap.header.used()).unwrap_or(usize::MAX));
        self.leg.push((bitmap.start, bytes));
    }

    /// Gives a leg the text's superblock and generations, with everything marked: bitmap and record first, and the
    /// superblock last, without which a lost leg stays lost.
    fn renew(
        &mut self,
        place: &Place,
        saved: &LegMeta,
        there: Option<&Leg>,
        device: u64,
    ) -> Result<(), Refusal> {
        let wrong = |error: &dyn std::fmt::Display| {
            refusal(format!("the text's metadata can't be used: {error}"))
        };
        let bytes = document::unhex(&saved.superblock, BLOCK)?;
        let mut superblock = Superblock::decode(&bytes).map_err(|error| wrong(&error))?;
        superblock
            .check_place(superblock.super_offset, device / SECTOR)
            .map_err(|error| wrong(&error))?;
        if superblock.set_uuid != document::array(&saved.array)?
            || superblock.size.saturating_mul(SECTOR) != saved.mirror_bytes
        {
            return Err(wrong(&"its superblock is of another array"));
        }
        let events = there.map_or(0, |leg| leg.superblock.events);
        superblock.events = superblock.events.max(events).saturating_add(1);
        // Not the kernel's any more: the departures that it left unnamed have a name in the record.
        superblock.updated = now();
        superblock.mark_active();
        if let Some(leg) = there.filter(|leg| leg.superblock.is_clean()) {
            let mut superblock = leg.superblock.clone();
            superblock.mark_active();
            self.leg.push(superblock_write(&superblock));
        }
        let records = match &saved.bitmap {
            None => records_without_bitmap(&superblock),
            Some(bitmap) => {
                let bytes = document::unhex(&bitmap.header, HEADER)?;
                let header = BitmapSuperblock::decode(&bytes).map_err(|error| wrong(&error))?;
                let header = header
                    .of_size(superblock.size)
                    .map_err(|error| wrong(&error))?;
                let header = BitmapSuperblock {
                    events: superblock.events,
                    state: header.state & !(STATE_STALE | STATE_WRITE_ERROR),
                    ..header
                };
                header.trust(&superblock).map_err(|error| wrong(&error))?;
                let layout = Layout::of(&superblock, &header).map_err(|error| wrong(&error))?;
                let mut bytes = DirtyBits::all_dirty(header.chunks()).encode(&header);
                bytes.truncate(usize::try_from(header.used()).unwrap_or(usize::MAX));
                self.leg.push((layout.bitmap, bytes));
                layout.records
            }
        };
        let mut record = saved.record.state()?;
        record.array = superblock.set_uuid.0;
        // A source that has not forgotten how this leg went would else take one of that generation for what went, marks or
        // not: what is not consistent is never that, and is not put in service but by force.
        record.flags = record.flags.with(RecordFlags::CONSISTENT, false);
        record.sequence = there.map_or(0, |leg| leg.record.sequence).saturating_add(1);
        let records = records.ok_or_else(|| wrong(&LegError::NoRoom))?;
        let records = encode_record(&record, records).map_err(|error| wrong(&error))?;
        self.leg.extend(records);
        self.leg.push(superblock_write(&superblock));
        self.guard = true;
        self.steps.push(format!(
            "{}: write the superblock of array {}, generation {}, not consistent, and mark all of it",
            place.disk.display(),
            saved.array,
            saved.record.current,
        ));
        Ok(())
    }

    /// What becomes of the node's record and flags.
    fn remember(
        &mut self,
        place: &Place,
        meta: &Meta,
        present: &Present,
        renewed: bool,
        (force, agreement): (bool, u32),
    ) -> Result<(), Refusal> {
        let Some(saved) = &meta.record else {
            return Ok(());
        };
        let saved = saved.state()?;
        let (sequence, aside, why) = match &present.record {
            Ok(Some(there)) if !renewed || there.current == saved.current => {
                self.steps
                    .push(format!("leave {}_record as it is", meta.tag));
                return Ok(());
            }
            Ok(Some(there)) => (there.sequence, false, "it is of another moment".to_owned()),
            Ok(None) => (0, false, "there is none".to_owned()),
            Err(why) => (0, true, why.clone()),
        };
        // What this node promised after the text was written is gone.
        if !matches!(present.record, Ok(Some(_))) && saved.votes != [0; 32] && !force {
            return Err(Refusal {
                why: "with the state record this node's votes are lost, and the text's are older: it could help a second \
                      source into service"
                    .into(),
                next: Some(
                    "--force takes them; safe while the other nodes agree on one source, and it is in service".into(),
                ),
            });
        }
        let source = match &meta.flags.source {
            Some(name) => place.names.iter().find(|known| known.as_str() == name),
            None => None,
        };
        self.steps.push(format!(
            "write {0}_record, {0}_last_owner and {0}_source: {why}",
            meta.tag
        ));
        self.guard = true;
        self.flags = Some((meta.flags.last_owner, source.cloned()));
        let mut record = careful(saved, sequence, agreement);
        if let Ok(Some(there)) = &present.record {
            // What it has promised since the text was written still binds it.
            record.votes = there.votes;
        }
        self.record = Some((record, aside));
        Ok(())
    }

    /// Writes it all, each step durable before the next.
    ///
    /// # Errors
    /// If something can't be written; what was written before stays, and doing it again is right.
    pub fn perform(self, place: &Place, disk: &Disk) -> Result<(), ArrayError> {
        let files = &place.flags;
        if self.guard {
            files.set_data_corrupt(true).map_err(ArrayError::failed)?;
        }
        for (at, bytes) in &self.leg {
            disk.write(*at, bytes).map_err(ArrayError::failed)?;
        }
        if let Some((last_owner, source)) = &self.flags {
            files
                .set_last_owner(*last_owner)
                .and_then(|_| files.set_source(source.as_ref()))
                .map_err(ArrayError::failed)?;
        }
        if let Some((mut record, aside)) = self.record {
            let file = place.record();
            if aside {
                file.set_aside().map_err(ArrayError::failed)?;
            }
            file.store(&mut record).map_err(ArrayError::failed)?;
        }
        Ok(())
    }
}

/// A record from a text: each node may have become the source since, and be in sync with who is not known.
fn careful(mut record: StateRecord, sequence: u64, agreement: u32) -> StateRecord {
    record.sequence = sequence;
    record.agreement = agreement;
    record.flags = record
        .flags
        .with(RecordFlags::DATA_CORRUPT, true)
        .with(RecordFlags::IN_SYNC, true)
        .with(RecordFlags::UP_TO_DATE | RecordFlags::SETTLED, false);
    for peer in &mut record.peers {
        let member = peer.flags.contains(PeerFlags::MEMBER);
        peer.flags = peer
            .flags
            .with(PeerFlags::IN_SYNC, member)
            // Who was fenced then may have been in sync with another since.
            .with(PeerFlags::OUTDATED | PeerFlags::UNFENCED, false)
            .with(PeerFlags::SETTLED, false);
    }
    record
}

fn superblock_write(superblock: &Superblock) -> Write {
    let length = superblock.encoded_len();
    let at = superblock.super_offset.saturating_mul(SECTOR);
    (at, superblock.encode()[..length].to_vec())
}

/// Longest wait for a look at what a disk holds.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
