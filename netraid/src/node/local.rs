//! What one mirror has on this node: the disk, the array while it is in service here, the export while it is a target.
//!
//! Everything here blocks, each call within a bound: an array's start and stop 60 s, adding a leg about 10 s. The processes
//! outlive the daemon, and are found again by it.

mod dead_links;
mod device;
mod export;
pub mod truck;

use std::path::PathBuf;
use std::time::Duration;

use flags::NodeName;

use device::Devices;
use export::Exported;
pub use export::Ticket;

use crate::array::create::{self, Creation};
use crate::array::disk::{Access, Disk};
use crate::array::leg::{Leg, LegError, generations};
use crate::array::resize::{self, LegRoom};
use crate::array::{
    Added, Array, ArrayError, ArrayStatus, Backend, NewLeg, Part, Speed, Start, VerifyRequest,
    Watch,
};
use crate::mirror::action::Hold;
use crate::mirror::generation::{Extent, Generations};
use crate::mirror::node::{NodeId, NodeSet};

/// Where things are, from the configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The mirror.
    pub tag: String,
    /// This node.
    pub own: NodeId,
    /// The nodes, by slot.
    pub names: Vec<NodeName>,
    /// So many of them have a disk; they are the first ones.
    pub legs: usize,
    /// This node's leg; nothing if it is a tie-breaker.
    pub disk: PathBuf,
    /// It has no disk, and only votes.
    pub tie_breaker: bool,
    /// The array is the kernel's: a peer's export has to become a block device.
    pub kernel: bool,
    /// Where this node's leg is exported while it is a target: address and port.
    pub listen: std::net::SocketAddr,
    /// For files of running processes.
    pub run_dir: PathBuf,
    /// The program `nbd-server`.
    pub nbd_server: PathBuf,
    /// Bounds of the resync's speed.
    pub speed: Speed,
    /// The mirror whose resync comes first.
    pub after: Option<String>,
    /// Writes that may be on the way to the other legs; `None` to wait for all.
    pub async_limit: Option<u16>,
    /// Resyncs compare by digests first.
    pub compare: bool,
    /// Legs that are written in order without being waited for.
    pub streams: crate::array::Streams,
    /// What becomes of legs that fail.
    pub care: crate::array::Care,
    /// Most bytes a second that a verify reads of each leg; 0 for no bound.
    pub verify_rate: u64,
    /// Bytes under one bit of the bitmap; `None` for no bitmap.
    pub chunk: Option<u32>,
}

/// What the own leg says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnLeg {
    /// Whose data it has; nobody's if the disk holds no leg of the mirror.
    pub generations: Generations,
    /// It is not in the middle of a resync.
    pub consistent: bool,
    /// Nothing was written that may be on some legs and not on others, or the bitmap says so.
    pub clean: bool,
    /// Identity of the array.
    pub array: Option<[u8; 16]>,
    /// Bytes of the mirror.
    pub size: Option<u64>,
    /// Bytes of a chunk of the bitmap.
    pub chunk: Option<u32>,
    /// What the disk could hold.
    pub room: Option<LegRoom>,
    /// Bytes that the bitmap has marked; `None` if there is no bitmap, or it says nothing.
    pub marked: Option<u64>,
}

/// A leg as the array has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegState {
    /// Equal.
    InSync,
    /// Being resynced, so many percent.
    Resyncing(u8),
    /// Not in the array.
    Out,
}

/// The array as it is now.
#[derive(Clone, Debug)]
pub struct View {
    /// The legs of the others, by slot.
    pub legs: Vec<(NodeId, LegState, Option<String>)>,
    /// Of those that are out, the ones that the mirror was pulled ahead of.
    pub left_behind: NodeSet,
    /// The node for whom an image is in the array; its leg counts as out.
    pub truck: Option<(NodeId, LegState)>,
    /// This node's own leg failed.
    pub own_leg_failed: bool,
    /// What people are shown.
    pub status: ArrayStatus,
}

impl View {
    /// Nodes whose legs are in that state.
    pub fn with(&self, wanted: impl Fn(LegState) -> bool) -> NodeSet {
        let legs = self.legs.iter().filter(|(_, state, _)| wanted(*state));
        legs.map(|(node, ..)| *node).collect()
    }

    /// A node's leg, and why it is out.
    pub fn leg(&self, node: NodeId) -> (LegState, Option<&str>) {
        let found = self.legs.iter().find(|(known, ..)| *known == node);
        found.map_or((LegState::Out, None), |(_, state, why)| {
            (*state, why.as_deref())
        })
    }
}

/// One mirror's disk and processes on this node.
pub struct Local {
    plan: Plan,
    backend: Box<dyn Backend>,
    array: Option<Box<dyn Array>>,
    /// For arrays of the kernel.
    devices: Option<Devices>,
    exported: Option<Exported>,
}

impl Local {
    /// Finds what an earlier daemon left running.
    ///
    /// # Errors
    /// If it can't be told whether something runs.
    pub fn open(plan: Plan, backend: Box<dyn Backend>) -> Result<Local, ArrayError> {
        let array = backend.find(&plan.tag)?;
        if let Some(Err(error)) = array.as_ref().map(|array| array.adopt()) {
            tracing::error!(tag = plan.tag, "{error}");
        }
        let exported = Exported::find(&plan).map_err(ArrayError::failed)?;
        Ok(Local {
            devices: plan.kernel.then(|| Devices::new(&plan.tag)),
            plan,
            backend,
            array,
            exported,
        })
    }

    /// Where things are.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the own leg says. A disk that holds nothing of this mirror is a leg without data.
    ///
    /// # Errors
    /// If the disk can't be read, or its metadata is damaged.
    pub fn own_leg(&self) -> Result<OwnLeg, ArrayError> {
        if self.plan.tie_breaker {
            return Ok(OwnLeg::default());
        }
        let disk = Disk::open(&self.plan.disk, Access::Read).map_err(ArrayError::failed)?;
        let leg = match Leg::read(&disk) {
            Ok(leg) => leg,
            Err(LegError::Blank) => return Ok(OwnLeg::default()),
            Err(error) => {
                let disk = self.plan.disk.display();
                return Err(ArrayError::Failed(format!("disk {disk}: {error}")));
            }
        };
        if !leg.is_of(&self.plan.tag) || leg.slot != self.plan.own.slot() {
            return Err(ArrayError::refused(format!(
                "disk {} is leg {} of mirror {}, not leg {} of {}",
                self.plan.disk.display(),
                leg.slot,
                leg.tag(),
                self.plan.own.slot(),
                self.plan.tag
            )));
        }
        Ok(OwnLeg {
            generations: match leg.witness() {
                // The embedded engine names each departure itself.
                witness if witness.kernel => witness.generations(),
                _ => generations(&leg.record),
            },
            consistent: leg.is_consistent(),
            clean: leg.superblock.is_clean(),
            array: Some(leg.superblock.set_uuid.0),
            size: Some(leg.size()),
            chunk: leg.bitmap.as_ref().map(|bitmap| bitmap.header.chunk),
            room: Some(LegRoom::of(&leg, disk.size())),
            marked: leg.bitmap.as_ref().map(|_| {
                let dirty = leg.dirty();
                dirty.iter().map(|range| range.end - range.start).sum()
            }),
        })
    }

    /// Makes the disk the first leg of the mirror.
    ///
    /// # Errors
    /// [`ArrayError::Refused`] if it holds something that is not to be overwritten.
    pub fn create(&self, force: bool, keep: bool, dry_run: bool) -> Result<(), ArrayError> {
        let node = self.plan.names.get(self.plan.own.slot()).cloned();
        create::create(&Creation {
            tag: flags::Tag::new(self.plan.tag.as_str()).map_err(ArrayError::failed)?,
            disk: self.plan.disk.clone(),
            nodes: self.plan.names[..self.plan.legs].to_vec(),
            node: node.ok_or_else(|| ArrayError::Failed("this node has no name".into()))?,
            chunk: self.plan.chunk,
            keep,
            force,
            dry_run,
        })?;
        Ok(())
    }

    /// The array as it is; `None` while it is not in service here.
    ///
    /// # Errors
    /// If it runs and can't be asked.
    pub fn view(&mut self) -> Result<Option<View>, ArrayError> {
        let Some(array) = &self.array else {
            return Ok(None);
        };
        match array.status() {
            Ok(status) => Ok(Some(view(status, &self.plan))),
            Err(error) => match self.backend.find(&self.plan.tag)? {
                Some(_) => Err(error),
                None => {
                    self.array = None;
                    Ok(None)
                }
            },
        }
    }

    /// Whether the array ran when it was last looked at.
    pub fn is_running(&self) -> bool {
        self.array.is_some()
    }

    /// Begins to verify the array's legs, with the ways to the targets' exports, or stops that (`None`).
    ///
    /// # Errors
    /// See [`Array::verify`].
    pub fn verify(
        &mut self,
        request: Option<VerifyRequest>,
        ways: &[(String, String)],
    ) -> Result<(), ArrayError> {
        let not_running = || ArrayError::refused("the array is not running");
        let array = self.array.as_ref().ok_or_else(not_running)?;
        match request {
            Some(request) => array.verify(&request, ways),
            None => array.stop_verify(),
        }
    }

    /// Has the array answer nothing that one of these legs has not. An array that is gone answers nothing at all.
    ///
    /// # Errors
    /// See [`Array::guard`].
    pub fn guard(&self, members: NodeSet, only: bool) -> Result<(), ArrayError> {
        let nodes: Vec<String> = members.iter().map(|node| self.name(node)).collect();
        self.unless_gone(self.running().and_then(|array| array.guard(&nodes, only)))
    }

    /// Holds the application's requests back, or lets them go.
    ///
    /// # Errors
    /// See [`Array::hold`].
    pub fn hold(&self, hold: Hold) -> Result<(), ArrayError> {
        let fail = match hold {
            Hold::No => None,
            Hold::Suspend => Some(false),
            Hold::Fail => Some(true),
        };
        self.unless_gone(self.running().and_then(|array| array.hold(fail)))
    }

    fn unless_gone(&self, done: Result<(), ArrayError>) -> Result<(), ArrayError> {
        match done {
            Err(_) if matches!(self.backend.find(&self.plan.tag), Ok(None)) => Ok(()),
            done => done,
        }
    }

    /// Starts the array from the own leg alone.
    ///
    /// # Errors
    /// See [`Backend::start`].
    pub fn assemble(&mut self, force: bool, new_generation: bool) -> Result<(), ArrayError> {
        let started = self.backend.start(&Start {
            tag: self.plan.tag.clone(),
            disk: self.plan.disk.clone(),
            force,
            new_generation,
            speed: self.plan.speed,
            async_limit: self.plan.async_limit,
            compare: self.plan.compare,
            streams: self.plan.streams.clone(),
            care: self.plan.care.clone(),
        });
        self.array = match started {
            Ok(array) => Some(array),
            Err(error) => match self.backend.find(&self.plan.tag)? {
                // It runs all the same, so the application can use it: only something about it could not be set.
                Some(array) => {
                    tracing::warn!(tag = self.plan.tag, "the array runs, but {error}");
                    Some(array)
                }
                None => return Err(error),
            },
        };
        Ok(())
    }

    /// Whether an array runs, whoever started it.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn finds_array(&self) -> Result<bool, ArrayError> {
        Ok(self.backend.find(&self.plan.tag)?.is_some())
    }

    /// Stops the array cleanly.
    ///
    /// # Errors
    /// If it is in use.
    pub fn stop(&mut self) -> Result<(), ArrayError> {
        self.interrupt_loading()?;
        self.running()?.stop()?;
        self.array = None;
        if let Some(devices) = &self.devices {
            for name in &self.plan.names {
                devices.detach(name.as_str())?;
            }
        }
        Ok(())
    }

    /// Connects a peer's leg, merges its bitmap and begins its resync.
    ///
    /// # Errors
    /// Why it was not added.
    pub fn add(
        &self,
        node: NodeId,
        location: &str,
        extent: Extent,
        discard: bool,
        force: bool,
    ) -> Result<Added, ArrayError> {
        let array = self.running()?;
        let name = self.name(node);
        let leg = |location: String| NewLeg {
            node: name.clone(),
            location,
            full: extent == Extent::Full,
            discard,
            force,
        };
        let Some(devices) = &self.devices else {
            return array.add(&leg(location.to_owned()));
        };
        // What failed is in the array still, with its device; one that is not has been removed by md itself.
        let _ = array.remove(&name);
        let device = devices.attach(&name, location, &self.plan.disk)?;
        let added = array.add(&leg(device.display().to_string()));
        if added.is_err() {
            // What adding has begun must not be written on behind anybody's back.
            let _ = array.remove(&name);
            devices.detach(&name)?;
        }
        added
    }

    /// Copies everything to a leg that is in the array.
    ///
    /// # Errors
    /// If it is not.
    pub fn copy_all(&self, node: NodeId) -> Result<Added, ArrayError> {
        self.running()?.full_resync(&self.name(node))
    }

    /// Goes on without a leg. One that is out already needs nothing.
    ///
    /// # Errors
    /// If it is still in afterwards.
    pub fn drop_leg(&mut self, node: NodeId) -> Result<(), ArrayError> {
        let name = self.name(node);
        if let Err(error) = self.running()?.remove(&name) {
            match self.view()? {
                Some(view) if view.leg(node).0 != LegState::Out => return Err(error),
                _ => {}
            }
        }
        match &self.devices {
            Some(devices) => devices.detach(&name),
            None => Ok(()),
        }
    }

    /// Makes the array larger while it is in service, with the own leg alone.
    ///
    /// # Errors
    /// See [`Array::grow`].
    pub fn grow(&self, size: u64) -> Result<(), ArrayError> {
        self.running()?.grow(size)
    }

    /// Whether the array can do that.
    pub fn grows_in_service(&self) -> bool {
        let array = self.array.as_ref();
        array.is_some_and(|array| array.grows_in_service())
    }

    /// Gives the leg another size while the mirror is out of service.
    ///
    /// # Errors
    /// If the disk is in use, or has no room.
    pub fn resize(&self, size: u64, chunk: Option<u32>) -> Result<(), ArrayError> {
        resize::resize(&self.plan.disk, size, chunk)
    }

    /// Gives an array that runs bounds of the resync's speed.
    ///
    /// # Errors
    /// If the array does not take them.
    pub fn set_speed(&self, speed: Speed) -> Result<(), ArrayError> {
        match &self.array {
            Some(array) => array.set_speed(speed),
            None => Ok(()),
        }
    }

    /// Has an array's resyncs wait, or go on.
    ///
    /// # Errors
    /// If the array does not take it.
    pub fn hold_resync(&self, held: bool) -> Result<(), ArrayError> {
        match &self.array {
            Some(array) => array.hold_resync(held),
            None => Ok(()),
        }
    }

    /// Begins to listen to the array.
    ///
    /// # Errors
    /// If it does not run, or can't be watched.
    pub fn watch(&self) -> Result<Box<dyn Watch>, ArrayError> {
        self.running()?.watch()
    }

    /// The source whose writes the own leg takes.
    pub fn accepts(&self) -> Option<&Ticket> {
        self.exported.as_ref().map(Exported::ticket)
    }

    /// Takes writes to the own leg from this source only, and from nobody if `None`. When it returns, nothing that another
    /// source had on its way can land any more: the process that took it is gone.
    ///
    /// # Errors
    /// If the old process can't be ended, or no new one started.
    pub fn accept(&mut self, source: Option<NodeId>) -> Result<(), ArrayError> {
        if let Some(old) = &self.exported {
            old.end(&self.plan).map_err(ArrayError::failed)?;
            self.exported = None;
        }
        if let Some(source) = source {
            let ticket = Ticket::new(source);
            self.exported = Some(Exported::start(&self.plan, ticket).map_err(ArrayError::failed)?);
        }
        Ok(())
    }

    /// Starts the export again if its process has ended, or can't flush any more; why it was.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn look_after_export(&mut self) -> Result<Option<&'static str>, ArrayError> {
        let Some(exported) = &self.exported else {
            return Ok(None);
        };
        if Exported::has_lost_writes(&self.plan) {
            // Under another name, so that the source gives the leg up and takes it back with what its bitmap says: what
            // was written since the last flush that succeeded is marked there. Nobody may go on as if nothing were lost.
            let source = exported.ticket().source;
            self.accept(Some(source))?;
            return Ok(Some(
                "a flush of this node's disk failed; its export begins anew, for a leg that is taken back",
            ));
        }
        if exported.lives() {
            return Ok(None);
        }
        // What it had answered is in the page cache, which outlives it; so the agreement stays.
        let ticket = exported.ticket().clone();
        self.exported = Some(Exported::start(&self.plan, ticket).map_err(ArrayError::failed)?);
        Ok(Some(
            "the process that exported this node's leg had ended; it was started again",
        ))
    }

    fn running(&self) -> Result<&dyn Array, ArrayError> {
        let array = self.array.as_deref();
        array.ok_or_else(|| ArrayError::Failed(format!("mirror {} does not run", self.plan.tag)))
    }

    fn name(&self, node: NodeId) -> String {
        let name = self.plan.names.get(node.slot());
        name.map_or_else(|| format!("node {}", node.slot()), ToString::to_string)
    }
}

fn view(status: ArrayStatus, plan: &Plan) -> View {
    let mut legs = Vec::new();
    let (mut own_leg_failed, mut left_behind, mut truck) = (false, NodeSet::NONE, None);
    for leg in &status.nodes {
        let slot = plan.names.iter().position(|name| name.as_str() == leg.node);
        let Some(node) = slot.and_then(|slot| NodeId::new(u8::try_from(slot).ok()?)) else {
            continue;
        };
        let state = match leg.state {
            Part::InSync => LegState::InSync,
            // Who is at 100 is in sync, and says so.
            Part::Resyncing => LegState::Resyncing(leg.percent.unwrap_or(0).min(99)),
            Part::Out => LegState::Out,
        };
        if leg.left_behind {
            left_behind = left_behind.with(node);
        }
        // Nobody but who loads it has to know of it: that node can't take over with it, and does not answer for it.
        let state = match state {
            LegState::InSync | LegState::Resyncing(_) if truck::is_loaded(plan, &status, leg) => {
                truck = Some((node, state));
                LegState::Out
            }
            state => state,
        };
        match node == plan.own {
            true => own_leg_failed = state == LegState::Out,
            false => legs.push((node, state, leg.reason.clone())),
        }
    }
    View {
        legs,
        left_behind,
        truck,
        own_leg_failed,
        status,
    }
}

/// Longest wait for the end of an export's process.
const END: Duration = Duration::from_secs(10);
