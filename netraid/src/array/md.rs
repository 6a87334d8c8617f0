//! The kernel's md: a RAID1 of a local disk and NBD devices, run through `mdadm` and sysfs.
//!
//! # Who has the good data
//!
//! The kernel expels a leg, goes on, and answers writes without asking anybody. Generations are kept all the same: what
//! the kernel made durable before it answered the first such write is read as a new generation
//! ([`crate::mirror::departure`]), so there is no moment in which a leg that was written alone could be taken for one
//! that was not.
//!
//! # How a leg is added
//!
//! `mdadm --re-add` alone would resync what *this* side wrote, and leave what the returning leg wrote while it was
//! alone: legs that differ, called in sync. So, each durable before the next:
//!
//! 1. The legs of the array get a record that names their generation.
//! 2. What the returning leg's own bitmap marks is marked in the array (`bitmap_set_bits`); for a new leg, everything.
//! 3. The returning leg gets that bitmap, and a superblock that says "being recovered by the bitmap": from now on nobody
//!    starts it. Then it gets the array's generation.
//! 4. The array's records forget that it was away. (If it leaves once more, the superblocks say so.)
//! 5. The kernel gets it, and recovers what is marked and nothing else.
//!
//! A new leg takes the same way: its disk is laid out first, without a bad-block log.

pub mod add;
pub mod command;
mod grow;
pub mod runner;
pub mod start;
mod state;
pub mod step;
pub mod sysfs;
mod verify;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::{Access, Disk};
use super::leg::Leg;
use super::{
    Added, Array, ArrayError, ArrayStatus, Backend, NewLeg, Speed, Start, VerifyRequest, Watch,
};
use command::Order;
use step::Step;
use sysfs::{Member, View};

/// Where a machine has what is needed here.
#[derive(Clone)]
pub struct Machine {
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// The program `mdadm`.
    pub mdadm: PathBuf,
    /// Folder for locks.
    pub run_dir: PathBuf,
    /// How long `mdadm` may take.
    pub patience: Duration,
    /// Plan only.
    pub dry_run: bool,
    /// Hears of each step before it is done.
    pub tell: Arc<dyn Fn(&Step) + Send + Sync>,
}

impl Machine {
    /// This machine.
    pub fn real(run_dir: PathBuf) -> Machine {
        Machine {
            sysfs: "/sys".into(),
            dev: "/dev".into(),
            mdadm: mdadm(),
            run_dir,
            patience: Duration::from_secs(60),
            dry_run: false,
            tell: Arc::new(|step| tracing::info!(%step)),
        }
    }

    fn perform(&self, step: &Step) -> Result<(), ArrayError> {
        (self.tell)(step);
        match self.dry_run {
            true => Ok(()),
            false => step::perform(step, &self.mdadm, self.patience),
        }
    }

    fn perform_all(&self, steps: &[Step]) -> Result<(), ArrayError> {
        steps.iter().try_for_each(|step| self.perform(step))
    }

    fn arrays(&self) -> Result<Vec<View>, ArrayError> {
        sysfs::arrays(&self.sysfs).map_err(|error| {
            ArrayError::Failed(format!(
                "the arrays can't be read from {}: {error}",
                self.sysfs.display()
            ))
        })
    }

    /// One order a mirror at a time, also of other processes.
    fn lock(&self, tag: &str) -> Result<std::fs::File, ArrayError> {
        let path = self.run_dir.join(format!("array-{tag}.lock"));
        let failed = |error: std::io::Error| {
            ArrayError::Failed(format!("{} can't be locked: {error}", path.display()))
        };
        std::fs::create_dir_all(&self.run_dir).map_err(failed)?;
        let file = std::fs::File::create(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(ArrayError::refused(format!(
                "mirror {tag} is being changed by another command"
            ))),
            Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Programs for administrators are not always on everybody's path.
fn mdadm() -> PathBuf {
    let places = ["/usr/sbin/mdadm", "/sbin/mdadm"].map(PathBuf::from);
    let found = places.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| "mdadm".into())
}

/// The kernel of a machine as a way to run mirrors.
pub struct Kernel {
    machine: Machine,
}

impl Kernel {
    /// The backend that works on `machine`.
    pub fn new(machine: Machine) -> Kernel {
        Kernel { machine }
    }

    /// Every array of the kernel that has a leg of ours, by tag.
    ///
    /// # Errors
    /// If sysfs can't be read.
    pub fn all(&self) -> Result<Vec<MdArray>, ArrayError> {
        let views = self.machine.arrays()?;
        let raid1 = views.iter().filter(|view| view.level == "raid1");
        Ok(raid1.filter_map(|view| self.known(view)).collect())
    }

    fn known(&self, view: &View) -> Option<MdArray> {
        let member = local_member(view).or(view.members.first())?;
        let mut array = MdArray {
            machine: self.machine.clone(),
            tag: String::new(),
            name: view.name.clone(),
            local: member.path(&self.machine.dev),
        };
        let leg = array.any_leg(view).ok()?;
        array.tag = leg.tag();
        Some(array)
    }

    /// The array that runs a mirror.
    ///
    /// # Errors
    /// If sysfs can't be read.
    pub fn running(&self, tag: &str) -> Result<Option<MdArray>, ArrayError> {
        let all = self.all()?.into_iter();
        // A long tag is cut in the superblock.
        let mut named = all.filter(|array| {
            array.tag == tag || array.tag.len() == 31 && tag.starts_with(&array.tag)
        });
        Ok(named.next())
    }
}

impl Backend for Kernel {
    fn start(&self, start: &Start) -> Result<Box<dyn Array>, ArrayError> {
        Ok(Box::new(self.start_array(start)?))
    }

    fn find(&self, tag: &str) -> Result<Option<Box<dyn Array>>, ArrayError> {
        Ok(self
            .running(tag)?
            .map(|array| Box::new(array) as Box<dyn Array>))
    }
}

/// The leg of this node: the one that is not at the other end of a network.
fn local_member(view: &View) -> Option<&Member> {
    let mut local = view.members.iter().filter(|member| !member.is_remote());
    // With plain mdadm, a former target's own leg is written mostly.
    local.next().or_else(|| {
        view.members
            .iter()
            .find(|member| !member.name.starts_with("nbd"))
    })
}

/// What the kernel does while its resyncs are held.
const FROZEN: &str = "frozen";

/// Of a queue: the longest discard.
const DISCARD: &str = "discard_max_bytes";

/// A mirror that the kernel runs.
#[derive(Clone)]
pub struct MdArray {
    machine: Machine,
    tag: String,
    /// The kernel's name, such as `md127`.
    name: String,
    /// The device of the local leg.
    local: PathBuf,
}

impl MdArray {
    /// The block device.
    pub fn device(&self) -> PathBuf {
        self.machine.dev.join(&self.name)
    }

    /// Whether every leg is there and in sync; asks the kernel alone, and so never waits for a disk.
    ///
    /// # Errors
    /// If it does not run any more.
    pub fn is_whole(&self) -> Result<bool, ArrayError> {
        let view = self.view()?;
        let there = view.members.iter();
        let whole = there.filter(|member| member.slot.is_some() && member.is("in_sync"));
        Ok(view.degraded == 0 && whole.count() == view.raid_disks as usize)
    }

    /// The mirror.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    fn attribute(&self, name: &str) -> PathBuf {
        sysfs::folder(&self.machine.sysfs, &self.name).join(name)
    }

    fn view(&self) -> Result<View, ArrayError> {
        sysfs::view(&self.machine.sysfs, &self.name).map_err(|error| {
            ArrayError::Failed(format!("array {} can't be read: {error}", self.name))
        })
    }

    fn local_leg(&self) -> Result<Leg, ArrayError> {
        read_leg(&self.local)
    }

    /// What a leg says: this node's, or if that has failed, another's.
    fn any_leg(&self, view: &View) -> Result<Leg, ArrayError> {
        let own = read_leg(&self.local);
        let others = view.members.iter().filter(|member| !member.is("faulty"));
        let others = others.map(|member| member.path(&self.machine.dev));
        own.or_else(|error| {
            others
                .filter(|path| *path != self.local)
                .find_map(|path| read_leg(&path).ok())
                .ok_or(error)
        })
    }

    /// What keeps legs from becoming different with nothing marked; to be set before anything is mounted.
    ///
    /// - A file system must not change a page while it is being written: one leg would get the page as it was, another as
    ///   it is. Both writes end well, the bits are dropped, and a power loss before the page is written again leaves legs
    ///   that differ. (Kernels before 5.9 have no such attribute.)
    /// - Discards are not passed on: what a discarded range reads as is up to each disk, and md leaves out disks that
    ///   can't discard.
    fn queue_steps(&self) -> Vec<Step> {
        let steps = [("stable_writes", "1"), (DISCARD, "0")];
        steps
            .iter()
            .filter_map(|(name, value)| self.queue_step(&self.name, name, value))
            .collect()
    }

    /// Sets an attribute of a block device's queue, if it has it.
    fn queue_step(&self, device: &str, attribute: &str, value: &str) -> Option<Step> {
        let block = self.machine.sysfs.join("block").join(device);
        let file = block.join("queue").join(attribute);
        let known = self.machine.dry_run || file.exists();
        let value = value.to_owned();
        known.then_some(Step::Attribute { file, value })
    }

    fn speed_steps(&self, speed: Speed) -> Vec<Step> {
        let limits = [
            ("sync_speed_max", speed.most),
            ("sync_speed_min", speed.least),
        ];
        let known = limits.into_iter();
        known
            .filter_map(|(name, limit)| {
                Some(Step::Attribute {
                    file: self.attribute(name),
                    value: limit?.to_string(),
                })
            })
            .collect()
    }

    /// The member that is node `node`'s leg, if the array has it.
    fn member_of(&self, node: &str) -> Result<(usize, Option<Member>), ArrayError> {
        let slot = slot_of(&self.any_leg(&self.view()?)?, node)?;
        let member = self.member_in(slot)?;
        if let Some(member) = &member
            && member.path(&self.machine.dev) == self.local
        {
            return Err(ArrayError::Usage(format!(
                "{node} is this node: its leg is the mirror's source"
            )));
        }
        Ok((slot, member))
    }

    /// The member in a slot. A failed leg has lost its slot in sysfs; its own superblock may still be readable, but its
    /// device may not even answer. It is known by having no other place.
    fn member_in(&self, slot: usize) -> Result<Option<Member>, ArrayError> {
        let view = self.view()?;
        let found = view.members.iter().find(|member| member.slot == Some(slot));
        Ok(found.cloned())
    }

    /// Members that have failed and lost their slots, this node's own leg excepted.
    fn failed_legs(&self) -> Result<Vec<Member>, ArrayError> {
        let mut failed = self.view()?.members;
        failed.retain(|member| {
            member.slot.is_none()
                && member.is("faulty")
                && member.path(&self.machine.dev) != self.local
        });
        Ok(failed)
    }

    /// Fails a member if need be, waits until the kernel has let go of it, and removes it.
    fn drop_member(&self, member: &Member) -> Result<(), ArrayError> {
        let (array, leg) = (self.device(), member.path(&self.machine.dev));
        if !member.is("faulty") {
            self.machine.perform(&Step::Mdadm(Order::Fail {
                array: array.clone(),
                leg: leg.clone(),
            }))?;
        }
        if !self.machine.dry_run {
            self.wait_until_out(member)?;
        }
        self.machine
            .perform(&Step::Mdadm(Order::Remove { array, leg }))
    }

    /// A leg keeps its place while requests to it are under way.
    fn wait_until_out(&self, member: &Member) -> Result<(), ArrayError> {
        let mut watch = watch::MdWatch::new(&self.machine.sysfs, &self.name)?;
        let deadline = Instant::now() + self.machine.patience;
        loop {
            let view = self.view()?;
            let now = view.members.iter().find(|known| known.name == member.name);
            if now.is_none_or(|member| member.slot.is_none()) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ArrayError::Late(format!(
                    "the kernel still has requests under way to {} after {} s",
                    member.name,
                    self.machine.patience.as_secs()
                )));
            }
            // The place itself is not notified; the state is, and the rest is soon over.
            watch.next(left.min(Duration::from_millis(50)))?;
        }
    }
}

impl MdArray {
    fn no_hold(&self) -> ArrayError {
        ArrayError::refused_with(
            format!(
                "mirror {} is the kernel's, which can't hold requests back",
                self.tag
            ),
            "use backend = \"embedded\"",
        )
    }
}

impl Array for MdArray {
    fn status(&self) -> Result<ArrayStatus, ArrayError> {
        self.state()
    }

    fn add(&self, leg: &NewLeg) -> Result<Added, ArrayError> {
        let _lock = self.machine.lock(&self.tag)?;
        self.add_leg(leg)
    }

    fn remove(&self, node: &str) -> Result<(), ArrayError> {
        let _lock = self.machine.lock(&self.tag)?;
        let (_, member) = self.member_of(node)?;
        if let Some(member) = member {
            return self.drop_member(&member);
        }
        // A failed leg has lost its place, and with it whose it is; but it is of no use, and keeps its device in use.
        let failed = self.failed_legs()?;
        if failed.is_empty() {
            return Err(ArrayError::refused(format!(
                "{node} has no leg in mirror {} now",
                self.tag
            )));
        }
        failed
            .iter()
            .try_for_each(|member| self.drop_member(member))
    }

    fn full_resync(&self, node: &str) -> Result<Added, ArrayError> {
        let _lock = self.machine.lock(&self.tag)?;
        let (_, member) = self.member_of(node)?;
        let Some(member) = member else {
            return Err(ArrayError::refused_with(
                format!("{node} has no leg in mirror {} now", self.tag),
                "netraid array add --full copies everything when it is added",
            ));
        };
        // Before a leg is given up for it.
        self.check_local()?;
        self.drop_member(&member)?;
        self.add_leg(&NewLeg {
            node: node.to_owned(),
            location: member.path(&self.machine.dev).display().to_string(),
            full: true,
            discard: false,
            force: false,
        })
    }

    fn set_speed(&self, speed: Speed) -> Result<(), ArrayError> {
        self.machine.perform_all(&self.speed_steps(speed))
    }

    /// The kernel keeps how far it was, and goes on from there.
    fn hold_resync(&self, held: bool) -> Result<(), ArrayError> {
        let frozen = self.view()?.action == FROZEN;
        if frozen == held {
            return Ok(());
        }
        self.machine.perform(&Step::Attribute {
            file: self.attribute("sync_action"),
            value: if held { FROZEN } else { "idle" }.into(),
        })
    }

    fn guard(&self, nodes: &[String], only: bool) -> Result<(), ArrayError> {
        match nodes.is_empty() && only {
            true => Ok(()),
            false => Err(self.no_hold()),
        }
    }

    fn hold(&self, fail: Option<bool>) -> Result<(), ArrayError> {
        match fail {
            None => Ok(()),
            Some(_) => Err(self.no_hold()),
        }
    }

    fn verify(&self, request: &VerifyRequest, ways: &[(String, String)]) -> Result<(), ArrayError> {
        self.begin_verify(request, ways)
    }

    fn stop_verify(&self) -> Result<(), ArrayError> {
        self.end_verify("somebody stopped it");
        Ok(())
    }

    fn adopt(&self) -> Result<(), ArrayError> {
        self.let_go()
    }

    /// It could, but a file system on it that was enlarged afterwards has been seen to hang (Linux 6.1, ext4).
    fn grow(&self, _: u64) -> Result<(), ArrayError> {
        Err(ArrayError::refused_with(
            format!(
                "mirror {} is the kernel's, and becomes larger only out of service",
                self.tag
            ),
            "stop the mirror first",
        ))
    }

    fn grows_in_service(&self) -> bool {
        false
    }

    fn watch(&self) -> Result<Box<dyn Watch>, ArrayError> {
        Ok(Box::new(watch::MdWatch::new(
            &self.machine.sysfs,
            &self.name,
        )?))
    }

    fn stop(&self) -> Result<(), ArrayError> {
        let _lock = self.machine.lock(&self.tag)?;
        self.end_verify("the mirror is being stopped");
        let array = self.device();
        self.machine.perform(&Step::Mdadm(Order::Stop { array }))?;
        self.forget_verify();
        Ok(())
    }
}

fn read_leg(path: &Path) -> Result<Leg, ArrayError> {
    let disk = Disk::open(path, Access::Read).map_err(ArrayError::failed)?;
    Leg::read(&disk).map_err(|error| ArrayError::Failed(format!("{}: {error}", path.display())))
}

fn slot_of(leg: &Leg, node: &str) -> Result<usize, ArrayError> {
    let names = leg.names();
    let slot = names.iter().position(|name| name.as_str() == node);
    slot.ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        ArrayError::Usage(format!(
            "node {node:?} is not one of the mirror's: {}",
            known.join(", ")
        ))
    })
}
