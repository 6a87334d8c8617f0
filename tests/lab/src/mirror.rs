//! A mirror in a lab: the orders that an administrator (or a supervisor) gives on the nodes, as one word each.
//!
//! Every node keeps its leg on its first disk. The source attaches its targets with `nbd-client` and runs the array with
//! `netraid array`; the targets export their disks with `nbd-server`. Device `/dev/nbdN` belongs to node N.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use md_format::Superblock;
use serde_json::Value;

use crate::disk::Disk;
use crate::job::Job;
use crate::lab::Lab;
use crate::node::Node;
use crate::wait::wait_until;

/// How long a resync of a small disk may take on a busy machine.
pub const RESYNC: Duration = Duration::from_secs(120);
/// How long things take that do not copy a disk.
pub const SOON: Duration = Duration::from_secs(40);
/// The device that the application uses.
pub const DEVICE: &str = "/dev/md/data";

/// A mirror called `data` over some nodes of a lab.
#[derive(Debug)]
pub struct Mirror<'a> {
    /// Where it is.
    pub lab: &'a Lab,
    /// The number of the node that the application runs on.
    pub source: usize,
    /// The numbers of the other nodes.
    pub targets: Vec<usize>,
    /// The number of the disk that a node keeps its leg on, where it is not the first. It is exported on port 10808 and
    /// so many.
    pub disks: BTreeMap<usize, usize>,
    /// Words for `netraid array create`.
    pub create_words: String,
    /// Words for `netraid array start`.
    pub start_words: String,
    /// Words for `nbd-client attach`: how long a leg may be silent.
    pub attach_words: String,
    /// How often the kernel drops the bits of finished writes, in seconds; `None` leaves it as the product has it.
    pub sweeps: Option<u32>,
}

impl<'a> Mirror<'a> {
    /// A mirror over all nodes, the first one its source. Nothing is done yet.
    pub fn of(lab: &'a Lab) -> Mirror<'a> {
        Mirror {
            lab,
            source: 1,
            targets: (2..=lab.nodes().len()).collect(),
            disks: BTreeMap::new(),
            create_words: "--chunk 64".to_owned(),
            start_words: String::new(),
            attach_words: "--timeout 3 --dead-timeout 3".to_owned(),
            sweeps: Some(1),
        }
    }

    /// Creates it, starts it, adds all targets, and waits until every leg is in sync.
    ///
    /// # Errors
    /// A command failed, or the resync took too long.
    pub fn make(&self) -> Result<()> {
        self.create()?;
        self.start()?;
        for target in &self.targets {
            self.export(*target)?;
            self.attach(*target)?;
            self.add(*target)?;
        }
        self.wait_whole()
    }

    /// The same, with a watch over each target's device. Their processes, in the order of the targets.
    ///
    /// # Errors
    /// As [`Mirror::make`].
    pub fn make_watched(&self) -> Result<Vec<Job>> {
        self.create()?;
        self.start()?;
        let mut watches = Vec::new();
        for target in &self.targets {
            self.export(*target)?;
            watches.push(self.attach_watched(*target)?);
            self.add(*target)?;
        }
        self.wait_whole()?;
        Ok(watches)
    }

    /// Makes the source's disk its first leg.
    ///
    /// # Errors
    /// The command failed.
    pub fn create(&self) -> Result<()> {
        let mut nodes: Vec<usize> = self.targets.clone();
        nodes.push(self.source);
        nodes.sort_unstable();
        let names: Vec<String> = nodes.iter().map(|node| format!("node{node}")).collect();
        self.source_node().must(&format!(
            "netraid array create --tag data --disk {} --nodes {} --node node{} {}",
            self.disk(self.source).device(),
            names.join(","),
            self.source,
            self.create_words
        ))?;
        Ok(())
    }

    /// Starts it on the source, from the source's leg alone.
    ///
    /// # Errors
    /// The command failed.
    pub fn start(&self) -> Result<()> {
        self.source_node().must(&format!(
            "netraid array start --tag data --disk {} {}",
            self.disk(self.source).device(),
            self.start_words
        ))?;
        if let Some(seconds) = self.sweeps {
            self.source_node().must(&format!(
                "f=/sys/block/$(basename $(readlink -f {DEVICE}))/md/bitmap/time_base; [ ! -e $f ] || echo {seconds} >$f || true"
            ))?;
        }
        Ok(())
    }

    /// Exports a target's disk, on port 10809 if it is the first.
    ///
    /// # Errors
    /// The server does not listen.
    pub fn export(&self, target: usize) -> Result<Job> {
        let node = self.lab.node(target);
        let server = node.spawn(&format!(
            "exec nbd-server --export data={} --listen {}:{} --print-ready",
            self.disk(target).device(),
            node.ip(),
            self.port(target)
        ))?;
        server.wait_for("listening", SOON)?;
        Ok(server)
    }

    /// Makes a target's export the device `/dev/nbdN` of the source.
    ///
    /// # Errors
    /// The command failed.
    pub fn attach(&self, target: usize) -> Result<()> {
        self.source_node().must(&format!(
            "nbd-client attach --own-leg {} {} nbd://{}:{}/data /dev/nbd{target}",
            self.disk(self.source).device(),
            self.attach_words,
            self.lab.node(target).ip(),
            self.port(target)
        ))?;
        Ok(())
    }

    /// The same, with a process that stays and reconnects.
    ///
    /// # Errors
    /// The device is not attached.
    pub fn attach_watched(&self, target: usize) -> Result<Job> {
        let watcher = self.source_node().spawn(&format!(
            "exec nbd-client attach --watch --json --own-leg {} {} nbd://{}:{}/data /dev/nbd{target}",
            self.disk(self.source).device(),
            self.attach_words,
            self.lab.node(target).ip(),
            self.port(target)
        ))?;
        watcher.wait_for("\"attached\"", SOON)?;
        Ok(watcher)
    }

    /// Adds a target's leg, or takes it back: its bitmap is merged, what differs is copied. What adding began.
    ///
    /// # Errors
    /// The command failed, or was refused.
    pub fn add(&self, target: usize) -> Result<Value> {
        self.add_with(target, "")
    }

    /// [`Mirror::add`] with more words.
    ///
    /// # Errors
    /// The command failed, or was refused.
    pub fn add_with(&self, target: usize, words: &str) -> Result<Value> {
        let text = self.source_node().must(&format!(
            "netraid array add --tag data --node node{target} --leg /dev/nbd{target} --json {words}"
        ))?;
        serde_json::from_str(&text).with_context(|| format!("what add said: {text}"))
    }

    /// Gives up a leg that has failed (or not) and its device.
    ///
    /// # Errors
    /// The device can't be detached.
    pub fn drop_leg(&self, target: usize) -> Result<()> {
        // Refused where md has removed it already.
        self.source_node().run(&format!(
            "netraid array remove --tag data --node node{target}"
        ))?;
        // A device whose server may have lost writes is given up by its watch, perhaps at this moment.
        self.source_node().must(&format!(
            "nbd-client detach /dev/nbd{target} || [ ! -e /sys/block/nbd{target}/pid ]"
        ))?;
        Ok(())
    }

    /// A target is there again, and exports its disk: gives up its old device, attaches it anew, and adds its leg.
    ///
    /// # Errors
    /// A command failed, or was refused.
    pub fn take_back(&self, target: usize) -> Result<Value> {
        self.drop_leg(target)?;
        self.attach(target)?;
        self.add(target)
    }

    /// Another node becomes the source, from its own leg; the mirror is stopped or lost where it was. The nodes in
    /// `targets` are those that are to be added, by the caller.
    ///
    /// # Errors
    /// The new source does not start.
    pub fn move_to(&mut self, source: usize, targets: &[usize]) -> Result<()> {
        // A disk is exported or used, not both.
        self.lab
            .node(source)
            .run("pkill -x nbd-server && while pgrep -x nbd-server; do sleep 0.05; done")?;
        self.source = source;
        self.targets = targets.to_vec();
        self.start()
    }

    /// Stops it on the source and detaches all targets.
    ///
    /// # Errors
    /// It is in use, or a device can't be detached.
    pub fn stop(&self) -> Result<()> {
        self.source_node().must("netraid array stop --tag data")?;
        for target in &self.targets {
            // One that was lost before may be detached already.
            self.source_node()
                .run(&format!("nbd-client detach /dev/nbd{target}"))?;
        }
        Ok(())
    }

    /// `netraid array status --json`.
    ///
    /// # Errors
    /// The command failed or is not understood.
    pub fn status(&self) -> Result<Value> {
        let text = self
            .source_node()
            .must("netraid array status --tag data --json")?;
        serde_json::from_str(&text).with_context(|| format!("the status: {text}"))
    }

    /// The status word of a node's leg, e.g. `Target`.
    ///
    /// # Errors
    /// As [`Mirror::status`], or there is no such leg.
    pub fn leg(&self, node: usize) -> Result<String> {
        let status = self.status()?;
        let name = format!("node{node}");
        let legs = status["legs"].as_array().context("no legs")?;
        let leg = legs.iter().find(|leg| leg["node"] == name.as_str());
        let word = leg.and_then(|leg| leg["status"].as_str());
        Ok(word
            .with_context(|| format!("no leg of {name}: {status}"))?
            .to_owned())
    }

    /// Waits until the legs of all targets are in sync.
    ///
    /// # Errors
    /// They are not within [`RESYNC`].
    pub fn wait_whole(&self) -> Result<()> {
        for target in &self.targets {
            let what = format!("the leg of node{target} is in sync");
            wait_until(RESYNC, &what, || {
                Ok((self.leg(*target)? == "Target").then_some(()))
            })?;
        }
        Ok(())
    }

    /// Waits until a node's leg has been given up.
    ///
    /// # Errors
    /// It has not been within the deadline.
    pub fn wait_lost(&self, target: usize, deadline: Duration) -> Result<()> {
        let what = format!("the leg of node{target} is given up");
        wait_until(deadline, &what, || {
            let word = self.leg(target)?;
            Ok((word != "Target" && word != "Resyncing").then_some(()))
        })
    }

    /// Waits until no bit is set.
    ///
    /// # Errors
    /// One still is after [`SOON`].
    pub fn wait_clean(&self) -> Result<()> {
        wait_until(SOON, "no bit is set any more", || {
            Ok((self.status()?["dirty_chunks"] == 0).then_some(()))
        })
    }

    /// Bytes written to a node's disk while `work` was done.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn written_to(&self, node: usize, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let disk = self.disk(node);
        let before = disk.counts()?.written_bytes;
        work()?;
        Ok(disk.counts()?.written_bytes - before)
    }

    /// The mirror is stopped, and all its legs hold the same, byte by byte.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_equal(&self) -> Result<()> {
        let (first, length) = data_of(self.disk(self.source))?;
        for target in &self.targets {
            let disk = self.disk(*target);
            let (offset, size) = data_of(disk)?;
            ensure!(size == length, "node{target}'s leg has another size");
            let left = (self.disk(self.source), first);
            self.lab
                .legs_equal(left, (disk, offset), length)
                .with_context(|| format!("legs of node{} and node{target}", self.source))?;
        }
        Ok(())
    }

    /// What a node's leg holds; the mirror is out of service.
    ///
    /// # Errors
    /// There is no leg on the disk, or it can't be read.
    pub fn data(&self, node: usize) -> Result<Vec<u8>> {
        let disk = self.disk(node);
        let (offset, length) = data_of(disk)?;
        disk.read(offset, usize::try_from(length)?)
    }

    /// Where the data of a node's leg begins on its disk, and how long it is, in bytes.
    ///
    /// # Errors
    /// There is no leg on the disk.
    pub fn place_of_data(&self, node: usize) -> Result<(u64, u64)> {
        data_of(self.disk(node))
    }

    /// [`Mirror::stop`], then [`Mirror::check_equal`].
    ///
    /// # Errors
    /// Those of both.
    pub fn stop_and_compare(&self) -> Result<()> {
        self.stop()?;
        self.check_equal()
    }

    /// Where the application runs.
    pub fn source_node(&self) -> &'a Node {
        self.lab.node(self.source)
    }

    /// Where a node keeps its leg.
    pub fn disk(&self, node: usize) -> &'a Disk {
        let number = self.disks.get(&node).copied().unwrap_or(1);
        self.lab.node(node).disk(number)
    }

    fn port(&self, node: usize) -> usize {
        10808 + self.disks.get(&node).copied().unwrap_or(1)
    }
}

/// Where the data of a node's leg begins on its disk, and how long it is, in bytes.
fn data_of(disk: &Disk) -> Result<(u64, u64)> {
    // Version 1.2 has its superblock at 4 KiB; version 1.0 at least 8 KiB before the end, at a multiple of 4 KiB.
    let behind = (disk.size() / 512 - 16) & !7;
    for at in [4096, behind * 512] {
        if let Ok(superblock) = Superblock::decode(&disk.read(at, 4096)?) {
            return Ok((superblock.data_offset * 512, superblock.size * 512));
        }
    }
    bail!("no leg of a mirror on {}", disk.image().display())
}
