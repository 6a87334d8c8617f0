//! `netraid truck load`: fills an image on the source, seals it, and writes what is to arrive.
//!
//! The image is served by this process, and taken by the array as the leg of its node. If this ends too early, the leg is lost
//! like any other; the image is not sealed then, and loading begins anew, of which digests spare what is there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use flags::Tag;
use nbd_server::export::Export;
use nbd_server::file::FileDevice;
use nbd_server::listener::Listener;
use nbd_server::server::{Options, Server, ServerHandle};

use super::progress::Progress;
use crate::api::document::{Mirror, Node, Order};
use crate::array::disk::{Access, Disk};
use crate::array::leg::Leg;
use crate::cli::daemon::{Connection, Daemon, tag};
use crate::cli::exit::{Exit, REFUSED};
use crate::cli::orders::CODES;
use crate::cli::run_dir;
use crate::cli::show::{plain, size};
use crate::md::{Layout, SECTOR};
use crate::node::local::truck::socket;
use crate::truck::check::{Data, metadata_digest};
use crate::truck::manifest::{self, Manifest, Shipment};
use crate::truck::seal;

/// Fills an image for a target, on the source, while the mirror is in use; then everything that is written is marked for it.
///
/// IMAGE is a file, which is made if it is not there, or a disk. It becomes what the target's disk is to be, metadata included;
/// holes and zeroes take no room. NODE has to be a target that gets nothing over the network (netraid extend; if it can be
/// reached, netraid pause); it is paused.
///
/// While it is filled, writes of the application are not delayed by it. In the moment in which it is full they go to it as well,
/// until it is taken out. Then it is sealed, so that nobody takes it for a leg before it was checked, read once for its
/// digests, and its manifest is written.
///
/// If this is interrupted, do the same again: digests spare what is there already.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Load {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// The target that it is for
    node: String,

    /// The image: a file or a block device
    image: PathBuf,

    /// Where the manifest is written [default: IMAGE.manifest; of a block device it has to be said]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Overwrite what the image holds
    #[arg(long)]
    force: bool,

    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Load {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let paper = self.paper()?;
        let daemon = self.connection.open()?;
        let mirror = daemon.mirror(&self.tag)?;
        // What the daemon would refuse is refused before a file is made.
        let steps = daemon.order(&self.tag, &self.order(), true)?.steps;
        let need = need(&mirror)?;
        let made = self.look(need)?;
        if self.dry_run {
            let mut out = io::stdout().lock();
            if made {
                writeln!(
                    out,
                    "make {} of {need} bytes",
                    plain(&self.image.to_string_lossy())
                )?;
            }
            for step in steps {
                writeln!(out, "{}", plain(&step))?;
            }
            return Ok(out.flush()?);
        }
        // A paper of what was in it must not be taken for that of what will be.
        match fs::remove_file(&paper) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Exit::failed(format!("{}: {error}", paper.display())));
            }
            _ => {}
        }
        self.prepare(need)?;
        let server = self.serve()?;
        daemon.order(&self.tag, &self.order(), false)?;
        self.wait(&daemon)?;
        self.leave(&daemon)?;
        server.stop(PATIENCE);
        let mirror = daemon.mirror(&self.tag)?;
        let shipment = self.seal(&mirror)?;
        let generation = shipment.generation.clone();
        let manifest = Manifest::new(shipment).map_err(Exit::failed)?;
        manifest
            .write(&paper)
            .map_err(|error| Exit::failed(format!("{}: {error}", paper.display())))?;
        let mut out = io::stdout().lock();
        let (image, paper) = (self.image.to_string_lossy(), paper.to_string_lossy());
        let (image, paper) = (plain(&image), plain(&paper));
        let node = plain(&self.node);
        writeln!(
            out,
            "{image}: {} of {} for {node}, generation {generation}; what is written from now on is marked",
            size(manifest.shipment.mirror_bytes),
            self.tag
        )?;
        writeln!(out, "next: ship {image} and {paper}")?;
        writeln!(
            out,
            "      on {node}, netraidd stopped: netraid truck unload {} IMAGE; then here: netraid truck connect {} {node}",
            self.tag, self.tag
        )?;
        Ok(out.flush()?)
    }

    fn order(&self) -> Order {
        Order::TruckLoad {
            node: self.node.clone(),
            force: self.force,
        }
    }

    fn paper(&self) -> Result<PathBuf, Exit> {
        let about = fs::metadata(&self.image);
        let is_disk = about.is_ok_and(|about| about.file_type().is_block_device());
        match &self.manifest {
            Some(path) => Ok(path.clone()),
            None if is_disk => Err(Exit::usage("a block device has no manifest beside it")
                .hint("--manifest FILE says where it is written; it has to travel as well")),
            None => Ok(manifest::beside(&self.image)),
        }
    }

    /// Whether the image has to be made; else it has to have room, and nobody may use it.
    fn look(&self, need: u64) -> Result<bool, Exit> {
        let image = plain(&self.image.to_string_lossy());
        match fs::metadata(&self.image) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(Exit::usage(format!("{image}: {error}"))),
            // As good as none.
            Ok(about) if about.is_file() && about.len() == 0 => return Ok(true),
            Ok(_) => {}
        }
        let disk = Disk::open(&self.image, Access::Exclusive)
            .map_err(|error| Exit::refused(plain(&error.to_string())))?;
        match disk.size() >= need {
            true => Ok(false),
            false => Err(Exit::refused(format!(
                "{image} has {} bytes, and {need} are needed",
                disk.size()
            ))
            .hint("another disk; a file may be removed, and is made anew")),
        }
    }

    fn prepare(&self, need: u64) -> Result<(), Exit> {
        if self.look(need)? {
            let made = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&self.image);
            made.and_then(|file| file.set_len(need)).map_err(|error| {
                Exit::failed(format!("{}: {error}", plain(&self.image.to_string_lossy())))
            })?;
        }
        let failed = |error: crate::array::disk::DiskError| Exit::failed(plain(&error.to_string()));
        let disk = Disk::open(&self.image, Access::Exclusive).map_err(failed)?;
        // What was loaded before for the same node: nothing in it is missed, and digests spare what is equal.
        let before = seal::is_sealed(&disk).map_err(failed)?;
        let before = before.then(|| seal::read(&disk).ok()).flatten();
        if before.is_some_and(|leg| leg.is_of(self.tag.as_str()) && self.is_for(&leg)) {
            seal::wipe(&disk).map_err(failed)?;
        }
        Ok(())
    }

    fn is_for(&self, leg: &Leg) -> bool {
        let names = leg.names();
        names
            .get(leg.slot)
            .is_some_and(|name| name.as_str() == self.node)
    }

    /// Serves the image to this node's array, which knows it by the socket.
    fn serve(&self) -> Result<ServerHandle, Exit> {
        let run_dir = run_dir::resolve(self.connection.run_dir())?;
        let device = FileDevice::open(&self.image, false)
            .map_err(|error| Exit::refused(plain(&error.to_string())))?;
        let mut server = Server::new(Options::default());
        let export = Export::new(self.tag.as_str(), Arc::new(device));
        server.add_export(export).map_err(Exit::failed)?;
        let listener = Listener::unix(socket(&run_dir, self.tag.as_str()));
        server.add_listener(listener.map_err(Exit::failed)?);
        server.start().map_err(Exit::failed)
    }

    /// Waits until the image has everything. A daemon that is started anew meanwhile is waited for: the array goes on.
    fn wait(&self, daemon: &Daemon) -> Result<(), Exit> {
        let mut progress = Progress::new("loaded", 100);
        let mut silent: Option<Instant> = None;
        loop {
            match daemon.mirror(&self.tag) {
                Ok(mirror) => {
                    silent = None;
                    let truck = self.found(&mirror)?.truck.clone();
                    match truck.as_ref().map(|truck| truck.state.as_str()) {
                        Some("full") => break,
                        Some("loading") => {
                            let percent = truck.and_then(|truck| truck.percent);
                            progress.set(percent.unwrap_or(0).into());
                        }
                        _ => return Err(self.lost(&mirror)),
                    }
                }
                Err(error) => {
                    let since = *silent.get_or_insert_with(Instant::now);
                    if since.elapsed() >= SILENCE {
                        return Err(error);
                    }
                }
            }
            thread::sleep(LOOK);
        }
        progress.set(100);
        progress.end();
        Ok(())
    }

    /// Takes the image out. While it may not leave, it is served on: this node's own disk may have failed meanwhile, and the
    /// application goes on from the image alone.
    fn leave(&self, daemon: &Daemon) -> Result<(), Exit> {
        let order = Order::TruckLeave {
            node: self.node.clone(),
        };
        let mut told = false;
        loop {
            match daemon.order(&self.tag, &order, false) {
                Ok(_) => return Ok(()),
                Err(refused) if refused.code == REFUSED => {
                    if !std::mem::replace(&mut told, true) {
                        refused.tell();
                        eprintln!("the image is served on until it may leave");
                    }
                }
                Err(error) => return Err(error),
            }
            thread::sleep(PAUSE);
            // It may be gone by itself.
            self.wait(daemon)?;
        }
    }

    fn found<'a>(&self, mirror: &'a Mirror) -> Result<&'a Node, Exit> {
        let found = mirror.nodes.iter().find(|node| node.name == self.node);
        found.ok_or_else(|| Exit::failed(format!("{} is no node any more", plain(&self.node))))
    }

    fn lost(&self, mirror: &Mirror) -> Exit {
        let exit = match mirror.service.as_str() {
            "in" => Exit::failed("the array has given the image up: it failed, or was too slow"),
            _ => Exit::failed(format!("{} is not in service here any more", self.tag)),
        };
        exit.hint(format!(
            "{}.log in the run folder says why; the same command again goes on, and spares what is there",
            self.tag
        ))
    }

    /// Seals the image and says what is in it.
    fn seal(&self, mirror: &Mirror) -> Result<Shipment, Exit> {
        let failed = |error: crate::array::disk::DiskError| Exit::failed(plain(&error.to_string()));
        let disk = Disk::open(&self.image, Access::Exclusive).map_err(failed)?;
        let leg = seal::read(&disk).map_err(|error| Exit::failed(plain(&error.to_string())))?;
        let tracked = self.found(mirror)?.truck.as_ref();
        let tracked = tracked.and_then(|truck| truck.generation.clone());
        let generation = leg.record.current.to_string();
        if tracked.as_ref() != Some(&generation) || !leg.is_consistent() {
            return Err(Exit::failed(format!(
                "the image has generation {generation}, and {} is tracked: it left while another leg did",
                tracked.unwrap_or_else(|| "none".into())
            ))
            .hint("the same command again; it spares what is there"));
        }
        seal::put(&disk).map_err(failed)?;
        let data = Data {
            offset: leg.superblock.data_offset.saturating_mul(SECTOR),
            size: leg.size(),
            block: manifest::block_for(leg.size()),
        };
        let mut progress = Progress::new("digests", data.size);
        let mut digests = Vec::with_capacity(data.blocks());
        for number in 0..data.blocks() {
            digests.push(data.digest(&disk, number).map_err(failed)?);
            progress.add(data.place(number).1);
        }
        progress.end();
        let own = mirror.nodes.iter().find(|node| node.own);
        let truck = self.found(mirror)?.truck.as_ref();
        Ok(Shipment {
            tag: self.tag.to_string(),
            array: manifest::array(&leg),
            node: self.node.clone(),
            slot: leg.slot as u8,
            nodes: leg.names().iter().map(ToString::to_string).collect(),
            source: own.map_or_else(String::new, |node| node.name.clone()),
            generation,
            mirror_bytes: data.size,
            image_bytes: data.offset + data.size,
            data_offset: data.offset,
            loaded_ms: truck.and_then(|truck| truck.loaded_ms).unwrap_or(0),
            version: env!("CARGO_PKG_VERSION").into(),
            metadata: metadata_digest(&disk, data.offset).map_err(failed)?,
            block: data.block,
            digests,
        })
    }
}

/// Bytes of an image of the mirror.
fn need(mirror: &Mirror) -> Result<u64, Exit> {
    let (size, chunk) = (mirror.size.unwrap_or(0), mirror.chunk.unwrap_or(0));
    let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
    let layout = Layout::plan(u64::MAX >> 1, chunk, Some(size)).map_err(|error| {
        Exit::failed(format!(
            "an image of {} can't be laid out: {error}",
            mirror.tag
        ))
    })?;
    Ok(layout.data + size)
}

/// How often a look is taken at how far it is: the moment in which it is full is to be short.
const LOOK: Duration = Duration::from_millis(200);
/// Between two attempts to take out an image that may not leave.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a daemon may be silent: an upgrade takes less.
const SILENCE: Duration = Duration::from_secs(120);
/// How long what is under way to the image may take when it is taken out.
const PATIENCE: Duration = Duration::from_secs(10);
