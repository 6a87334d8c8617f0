//! `mirror_resize`: another size for the mirror, on its source.
//!
//! In service the mirror grows with the source's own leg alone: its targets are taken out for that moment, and each is
//! brought to the new size when it is taken back, at once. So there is one place that says which size the mirror has, and a
//! crash anywhere leaves the old size or the new one; a leg with another size is brought along by whoever takes it, and what
//! it did not have before is copied. Out of service the same is done to the leg at rest.

use super::{Broken, Driver};
use crate::api::document::{Answer, Outcome};
use crate::array::ArrayError;
use crate::array::resize::LegRoom;
use crate::md;
use crate::mirror::event::Event;
use crate::mirror::machine::{Leg, Service};
use crate::mirror::node::NodeId;
use crate::mirror::size::{Disk, Refused, Room, Wish, size};

/// What is about to be done.
#[derive(Debug)]
struct Resizing {
    before: u64,
    size: u64,
    /// Bytes of a chunk of the bitmap, if there is one.
    chunk: Option<u32>,
    larger_chunk: bool,
    targets: Vec<NodeId>,
}

impl Driver {
    pub(super) fn resize(
        &mut self,
        wanted: Option<u64>,
        force: bool,
        dry_run: bool,
    ) -> Result<(), Broken> {
        // Every disk may have been enlarged since it was looked at.
        self.ask_peers()?;
        self.look_at_own_leg()?;
        let resizing = match self.plan_resize(wanted, force) {
            Ok(resizing) => resizing,
            Err((why, next)) => {
                self.answer(Answer::not(Outcome::Refused, why, next));
                return Ok(());
            }
        };
        let steps = self.resize_steps(&resizing);
        if dry_run || resizing.size == resizing.before {
            self.answer(Answer {
                steps,
                ..Answer::done()
            });
            return Ok(());
        }
        let done = match self.machine.service() {
            Service::In => self.grow_in_service(&resizing)?,
            _ => self.local.resize(resizing.size, resizing.chunk),
        };
        self.look_at_own_leg()?;
        match done {
            Ok(()) => {
                self.tell(
                    "resized",
                    format!(
                        "{} has {} bytes now, {} before",
                        self.names.tag, resizing.size, resizing.before
                    ),
                );
                self.answer(Answer {
                    steps,
                    ..Answer::done()
                });
            }
            Err(error) => self.answer(super::perform::answer(&error)),
        }
        // What was taken out comes back, whatever became of it.
        match self.machine.service() {
            Service::In => self.happen(Event::QuickCheck),
            _ => Ok(()),
        }
    }

    fn grow_in_service(&mut self, resizing: &Resizing) -> Result<Result<(), ArrayError>, Broken> {
        for node in &resizing.targets {
            self.local.drop_leg(*node)?;
            self.leg_failed(*node, &"it is brought to the mirror's new size");
            while let Some(event) = self.follow.pop_front() {
                self.happen(event)?;
            }
        }
        // What is written from now on may have a name of its own.
        self.look_at_own_leg()?;
        Ok(self.local.grow(resizing.size))
    }

    fn plan_resize(&self, wanted: Option<u64>, force: bool) -> Result<Resizing, Refused> {
        let (own, tag) = (self.settings.own, &self.names.tag);
        let in_service = self.machine.service() == Service::In;
        self.may_resize(in_service)?;
        let Some(before) = self.own_leg.size else {
            let why = format!("{} has no leg of {tag}", self.names.node(own));
            return Err((why, Some(format!("netraid explain {tag}"))));
        };
        let members: Vec<NodeId> = self.memory().nodes.iter().collect();
        let rooms: Vec<(NodeId, Option<&LegRoom>)> = members
            .iter()
            .map(|node| match *node == own {
                true => (own, self.own_leg.room.as_ref()),
                false => (*node, self.rooms[node.slot()].as_ref()),
            })
            .collect();
        let disks: Vec<Disk> = rooms
            .iter()
            .map(|(node, room)| Disk {
                node: *node,
                room: match room {
                    _ if *node != own && self.machine.peer(*node).is_none() => Room::Away,
                    Some(LegRoom {
                        problem: Some(why), ..
                    }) => Room::Never(why.clone()),
                    Some(room) => Room::Bytes(room.data),
                    None => Room::Unknown,
                },
            })
            .collect();
        let wish = Wish {
            now: before,
            wanted,
            in_service,
            force,
        };
        let size = size(&wish, &disks, &self.names)?;
        if size > before && in_service && !self.local.grows_in_service() {
            let why =
                format!("{tag} runs on the kernel's RAID1, and becomes larger only out of service");
            return Err((why, Some(format!("netraid stop {tag}"))));
        }
        let mut chunk = self.own_leg.chunk;
        if let Some(now) = chunk.filter(|_| size > before) {
            let mut needed = now;
            for (node, room) in rooms
                .iter()
                .filter_map(|(node, room)| Some((node, (*room)?)))
            {
                let room = md::Room {
                    data: room.data,
                    bitmap: room.bitmap,
                };
                let fits = room.chunk_for(size, now).map_err(|error| {
                    let name = self.names.node(*node);
                    (format!("the leg of {name} can't be resized: {error}"), None)
                })?;
                needed = needed.max(fits);
            }
            if needed > now && in_service {
                let why = format!(
                    "the write-intent bitmap has room for {size} bytes only with chunks of {needed} bytes instead of {now}, \
                     and they become larger only out of service"
                );
                return Err((why, Some(format!("netraid stop {tag}"))));
            }
            chunk = Some(needed);
        }
        if size < before {
            self.check_file_system(size)?;
        }
        let out = |node: &NodeId| *node != own && self.machine.leg(*node) != Leg::Out;
        Ok(Resizing {
            before,
            size,
            chunk,
            larger_chunk: chunk != self.own_leg.chunk,
            targets: members.into_iter().filter(out).collect(),
        })
    }

    /// Whether this node is the one to do it.
    fn may_resize(&self, in_service: bool) -> Result<(), Refused> {
        let (own, tag) = (self.settings.own, &self.names.tag);
        let status = Some(format!("netraid status {tag}"));
        if let Some(problem) = &self.problems.own_leg {
            return Err((problem.clone(), status));
        }
        let mut reachable = self.machine.reachable().iter();
        let running = |node: &NodeId| self.machine.peer(*node).is_some_and(|peer| peer.running);
        if let Some(source) = reachable.find(running) {
            let name = self.names.node(source);
            let why = format!("{tag} is in service on {name}, and resized there");
            return Err((why, Some(format!("on {name}: mirror_resize {tag}"))));
        }
        match self.machine.service() {
            Service::In if !self.machine.has_own_leg() => {
                let why = format!("the own leg of {} failed", self.names.node(own));
                Err((why, Some(format!("netraid explain {tag}"))))
            }
            Service::In if self.machine.previous().is_some() => {
                Err((format!("{tag} waits for the previous source"), status))
            }
            Service::In => Ok(()),
            _ if in_service || self.machine.service() != Service::Out => {
                Err((format!("{tag} is just being started or stopped"), status))
            }
            _ => match self.machine.refusal() {
                Some(refusal) => Err((
                    refusal.reason(own, &self.names),
                    refusal.next(own, &self.names),
                )),
                None if self.local.accepts().is_some() => {
                    let why = "this node's disk is exported to the source".to_owned();
                    Err((why, status))
                }
                None => Ok(()),
            },
        }
    }

    /// A file system that would lose its end.
    fn check_file_system(&self, size: u64) -> Result<(), Refused> {
        let found = crate::array::resize::file_system(&self.local.plan().disk);
        let found = found.map_err(|error| (error.to_string(), None))?;
        match found.filter(|found| found.size > size) {
            Some(found) => Err((
                format!(
                    "the {} file system on {} has {} bytes, and would lose its end: make it smaller first",
                    found.kind, self.names.tag, found.size
                ),
                found.shrink.map(str::to_owned),
            )),
            None => Ok(()),
        }
    }

    /// What is done, for people.
    fn resize_steps(&self, resizing: &Resizing) -> Vec<String> {
        let (size, before) = (resizing.size, resizing.before);
        if size == before {
            return vec![format!(
                "{} has {size} bytes already, as many as the disks hold or were asked for",
                self.names.tag
            )];
        }
        let mut steps = Vec::new();
        for node in &resizing.targets {
            let name = self.names.node(*node);
            steps.push(format!("go on without {name} for a moment"));
        }
        if let (true, Some(chunk)) = (resizing.larger_chunk, resizing.chunk) {
            steps.push(format!("make the bitmap's chunks larger: {chunk} bytes"));
        }
        let what = match size > before {
            true => format!("grow the mirror from {before} to {size} bytes, and mark what is new"),
            false => format!(
                "make the mirror smaller, from {before} to {size} bytes: what is behind them is lost"
            ),
        };
        steps.push(what);
        for node in &resizing.targets {
            let name = self.names.node(*node);
            steps.push(format!("take {name} back, and copy to it what is marked"));
        }
        match self.machine.service() {
            Service::In => steps
                .push("applications see the new size when they connect to the mirror again".into()),
            _ => steps.push("targets get the size when they are taken back".into()),
        }
        if size > before {
            steps.push("a file system on it is enlarged by its own tool".into());
        }
        steps
    }

    /// Whether the own disk has grown, while nobody else asks.
    pub(super) fn look_at_room(&mut self) {
        if let Ok(found) = self.local.own_leg() {
            self.own_leg.room = found.room;
            self.own_leg.size = found.size;
        }
    }

    /// What to tell people if the disks hold more than the mirror.
    pub(super) fn room_to_grow(&self) -> Option<String> {
        let (own, now) = (self.settings.own, self.own_leg.size?);
        let mut least = self.own_leg.room.as_ref()?.data;
        for node in self.memory().nodes.iter().filter(|node| *node != own) {
            self.machine.peer(node)?;
            least = least.min(self.rooms[node.slot()].as_ref()?.data);
        }
        (least >= now + WORTH_TELLING).then(|| {
            format!(
                "the disks hold {} bytes more than the mirror: mirror_resize {} uses them",
                least - now,
                self.names.tag
            )
        })
    }
}

/// What may be left over when disks are made legs is not worth telling.
const WORTH_TELLING: u64 = 1 << 20;
