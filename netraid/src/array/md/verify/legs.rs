//! The legs of a running array as a verify sees them: this node's disk past the page cache, the targets through read-only
//! connections of our own to their exports, which take digests.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nbd_client::connection::Options;
use nbd_client::{Connection, Target};
use nbd_protocol::command::{Answer, Command, Completion, Errno, Extent, Outcome};
use nbd_server::file::digest;

use super::super::sysfs::{self, Member};
use super::super::{MdArray, read_leg};
use super::hold::Hold;
use super::walk::Sight;
use crate::array::disk::{Access, Disk};
use crate::array::leg::Leg;
use crate::md::SECTOR;
use crate::md::bitmap::HEADER;
use crate::raid1::engine::{DIGESTS, differences, unequal};
use crate::raid1::link::Link;

/// Says to a walk that it is to end, and why.
#[derive(Debug, Default)]
pub(super) struct Ending {
    why: Mutex<Option<String>>,
    said: Condvar,
}

impl Ending {
    /// End it; the first reason counts.
    pub(super) fn say(&self, why: &str) {
        let mut said = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        said.get_or_insert_with(|| why.to_owned());
        self.said.notify_all();
    }

    /// Waits for so long, or until it is said.
    ///
    /// # Errors
    /// Why it is to end.
    pub(super) fn wait(&self, time: Duration) -> Result<(), String> {
        let said = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .said
            .wait_timeout_while(said, time, |why| why.is_none());
        let (said, _) = waited.unwrap_or_else(PoisonError::into_inner);
        said.clone().map_or(Ok(()), Err)
    }
}

/// One target, before its export is entered.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The node.
    pub node: String,
    /// Its slot.
    pub slot: usize,
    /// The kernel's name of its device.
    pub member: String,
    /// Its export.
    pub uri: String,
}

struct TargetLeg {
    way: Way,
    link: Link,
    /// First byte of the mirror's data on its disk.
    data: u64,
    digests: bool,
}

/// All of them.
pub(super) struct Legs {
    array: MdArray,
    disk: Disk,
    /// First byte of the mirror's data on this node's disk.
    data: u64,
    /// First byte of the bits on it, and bytes of a chunk.
    bitmap: Option<(u64, u64)>,
    targets: Vec<TargetLeg>,
    hold: Hold,
    ending: Arc<Ending>,
    began: Instant,
}

impl Legs {
    /// Opens this node's disk and enters the targets' exports.
    ///
    /// # Errors
    /// Why one of them can't be read.
    pub(super) fn open(
        array: MdArray,
        local: &Leg,
        ways: Vec<Way>,
        ending: Arc<Ending>,
    ) -> Result<Legs, String> {
        let disk = Disk::open(&array.local, Access::Read).map_err(|error| error.to_string())?;
        let targets = ways.into_iter().map(|way| enter(&array, local, way));
        let bits = |bitmap: &crate::array::leg::Bitmap| {
            (
                bitmap.start + HEADER as u64,
                u64::from(bitmap.header.chunk).max(1),
            )
        };
        Ok(Legs {
            hold: Hold::new(&sysfs::folder(&array.machine.sysfs, &array.name)),
            disk,
            data: local.superblock.data_offset * SECTOR,
            bitmap: local.bitmap.as_ref().map(bits),
            targets: targets.collect::<Result<_, _>>()?,
            array,
            ending,
            began: Instant::now(),
        })
    }

    fn ours(&self, range: &Range<u64>) -> Result<Vec<u8>, String> {
        let length = (range.end - range.start) as usize;
        let read = self.disk.read(self.data + range.start, length);
        read.map_err(|error| format!("this node's leg: {error}"))
    }

    fn target(&self, target: usize) -> Result<&TargetLeg, String> {
        self.targets
            .get(target)
            .ok_or_else(|| "there is no such target".into())
    }
}

/// Connects to a target's export, and makes sure that it is that leg.
fn enter(array: &MdArray, local: &Leg, way: Way) -> Result<TargetLeg, String> {
    let device: PathBuf = array.machine.dev.join(&way.member);
    let leg = read_leg(&device).map_err(|error| format!("{}: {error}", way.node))?;
    // The way in is a secret.
    let secret = way.uri.rsplit('/').next().unwrap_or_default();
    let told = |error: String| {
        let error = match secret {
            "" => error,
            secret => error.replace(secret, "..."),
        };
        format!("{}: its export can't be read: {error}", way.node)
    };
    let target: Target = way
        .uri
        .parse()
        .map_err(|error: nbd_client::uri::UriError| told(error.to_string()))?;
    let options = Options {
        connect_timeout: PATIENCE,
        request_timeout: Some(PATIENCE),
        contexts: vec![digest::CONTEXT.into()],
        // Without a session: it must not cut off the connection over which the kernel writes.
        session: None,
        ..Options::default()
    };
    let connection = Connection::open(&target, options).map_err(|error| told(error.to_string()))?;
    let link = Link::Remote(Arc::new(connection));
    let superblock = link
        .read(
            leg.superblock.super_offset * SECTOR,
            SECTOR as usize,
            PATIENCE,
        )
        .map_err(|failure| told(failure.to_string()))?;
    let set = superblock.get(SET_UUID).unwrap_or_default();
    if set != local.superblock.set_uuid.0 || leg.superblock.set_uuid != local.superblock.set_uuid {
        return Err(told("it is not a leg of this mirror".into()));
    }
    Ok(TargetLeg {
        way,
        link,
        data: leg.superblock.data_offset * SECTOR,
        digests: true,
    })
}

/// A request on its way.
fn ask(link: &Link, command: Command) -> Receiver<Outcome> {
    let (sender, receiver) = mpsc::sync_channel(1);
    link.submit(
        command,
        Completion::new(move |outcome| drop(sender.send(outcome))),
    );
    link.kick();
    receiver
}

fn ranges(runs: Vec<(u64, u64)>) -> Vec<Range<u64>> {
    runs.into_iter()
        .map(|(offset, length)| offset..offset + length)
        .collect()
}

impl Sight for Legs {
    fn suspects(&mut self, target: usize, range: &Range<u64>) -> Result<Vec<Range<u64>>, String> {
        let length = range.end - range.start;
        let leg = self.target(target)?;
        if !leg.digests {
            return self.differences(target, range);
        }
        let answer = ask(
            &leg.link,
            Command::BlockStatus {
                offset: leg.data + range.start,
                length,
                one: false,
                context: DIGESTS,
            },
        );
        let ours = digest::extents_of(&self.ours(range)?);
        let theirs: Vec<Extent> = match answer.recv_timeout(PATIENCE * 2) {
            Ok(Ok(Answer::Extents(extents))) => extents,
            Ok(Err(failure)) if matches!(failure.errno, Errno::ENOTSUP | Errno::EINVAL) => {
                if let Some(leg) = self.targets.get_mut(target) {
                    leg.digests = false;
                }
                return self.differences(target, range);
            }
            Ok(Err(failure)) => return Err(format!("{}: {failure}", leg.way.node)),
            Ok(Ok(_)) => return Err(format!("{}: an answer without digests", leg.way.node)),
            Err(_) => return Err(format!("{}: no answer in time", leg.way.node)),
        };
        Ok(ranges(differences((range.start, length), &ours, &theirs)))
    }

    fn hold(&mut self, range: &Range<u64>) -> Result<(), String> {
        let held = self.hold.hold(&sectors(range));
        held.map_err(|error| format!("md does not keep writes out of a range: {error}"))
    }

    fn release(&mut self) -> Result<(), String> {
        self.hold.release().map_err(|error| {
            format!("md does not let writes in again (write 0 to its suspend_hi): {error}")
        })
    }

    /// A bit stays on the disk as long as a leg does not have a write: what is held, and has none, all legs have.
    fn is_settled(&mut self, range: &Range<u64>) -> Result<bool, String> {
        if self
            .array
            .view()
            .map_err(|error| error.to_string())?
            .backlog
            == 0
        {
            return Ok(true);
        }
        let Some((start, chunk)) = self.bitmap else {
            return Ok(false);
        };
        let (first, last) = (range.start / chunk, (range.end - 1) / chunk);
        let (from, to) = (first / 8, last / 8);
        let bytes = self.disk.read(start + from, (to - from + 1) as usize);
        let bytes = bytes.map_err(|error| format!("this node's bitmap: {error}"))?;
        let is_set = |bit: u64| {
            let byte = bytes.get((bit / 8 - from) as usize);
            byte.is_none_or(|byte| byte & (1 << (bit % 8)) != 0)
        };
        Ok(!(first..=last).any(is_set))
    }

    fn differences(
        &mut self,
        target: usize,
        range: &Range<u64>,
    ) -> Result<Vec<Range<u64>>, String> {
        let leg = self.target(target)?;
        let length = range.end - range.start;
        let answer = ask(
            &leg.link,
            Command::Read {
                offset: leg.data + range.start,
                // Not longer than a piece of a walk.
                length: length as u32,
            },
        );
        let ours = self.ours(range)?;
        let theirs = match answer.recv_timeout(PATIENCE * 2) {
            Ok(Ok(Answer::Data(data))) if data.len() == ours.len() => data,
            Ok(Err(failure)) => return Err(format!("{}: {failure}", leg.way.node)),
            Ok(Ok(_)) => return Err(format!("{}: an answer of another length", leg.way.node)),
            Err(_) => return Err(format!("{}: no answer in time", leg.way.node)),
        };
        Ok(ranges(unequal(range.start, &ours, &theirs)))
    }

    fn counts(&mut self, target: usize, held: Option<&Range<u64>>) -> Result<(), String> {
        let view = self.array.view().map_err(|error| error.to_string())?;
        let good = |member: &Member| member.is("in_sync") && !member.is("faulty");
        let local = |member: &Member| member.path(&self.array.machine.dev) == self.array.local;
        if !view
            .members
            .iter()
            .any(|member| local(member) && good(member))
        {
            return Err("this node's own leg has failed".into());
        }
        let way = &self.target(target)?.way;
        let there = |member: &Member| member.name == way.member && member.slot == Some(way.slot);
        if !view
            .members
            .iter()
            .any(|member| there(member) && good(member))
        {
            return Err(format!("{} is not in sync any more", way.node));
        }
        match held.map(|range| self.hold.holds(&sectors(range))) {
            None | Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => {
                Err("somebody else has written to md's suspend_lo or suspend_hi".into())
            }
            Some(Err(error)) => Err(format!("md does not tell what is held: {error}")),
        }
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn pause(&mut self, time: Duration) -> Result<(), String> {
        self.ending.wait(time)
    }
}

/// The sectors that bytes of the mirror are in.
fn sectors(range: &Range<u64>) -> Range<u64> {
    range.start / SECTOR..range.end.div_ceil(SECTOR)
}

/// Where a superblock of version 1 has the array's id (`mdp_superblock_1.set_uuid`).
const SET_UUID: Range<usize> = 16..32;
/// Longest wait for one answer of a target: while something is held, an application may wait so long.
const PATIENCE: Duration = Duration::from_secs(5);
