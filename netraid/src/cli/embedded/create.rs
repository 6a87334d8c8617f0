//! `netraid embedded create`: makes a disk the first leg of a mirror.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flags::{NodeName, Tag};
use nbd_server::file::FileDevice;

use crate::cli::exit::Exit;
use crate::cli::size;
use crate::md::format::{NewLeg, NewMirror, Start};
use crate::md::{Layout, MdUuid};
use crate::raid1::engine::{Engine, IdSource, Shape, Update};
use crate::raid1::holds::holds;
use crate::raid1::intent::{page_bytes, page_of};
use crate::raid1::leg::Slot;
use crate::raid1::link::Link;
use crate::raid1::metadata::{self, Metadata};

/// Makes a disk the first leg of a mirror. The others are given with `netraid embedded extend` while it runs.
///
/// The mirror is a little smaller than the disk: md's metadata stands in front of the data.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    netraid embedded create --tag data --disk /dev/sdb1 --nodes server1,server2 --node server1")]
pub(super) struct Arguments {
    /// Name of the mirror
    #[arg(long)]
    tag: String,

    /// The disk, partition or file
    #[arg(long, value_name = "PATH")]
    disk: PathBuf,

    /// All nodes that will ever have a leg, 2 to 8, in the order of the legs
    #[arg(long, value_delimiter = ',', value_name = "NODE,NODE,...")]
    nodes: Vec<String>,

    /// This node: one of --nodes
    #[arg(long)]
    node: String,

    /// Bytes under one bit of the write-intent bitmap: a power of two
    #[arg(long, default_value = "256KiB", value_name = "SIZE", value_parser = size::parse)]
    chunk: u64,

    /// Overwrite what the disk holds
    #[arg(long)]
    force: bool,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let tag = Tag::new(arguments.tag.as_str()).map_err(Exit::usage)?;
    let names = names(arguments)?;
    let slot = arguments
        .nodes
        .iter()
        .position(|node| *node == arguments.node)
        .and_then(Slot::new);
    let slot = slot.ok_or_else(|| {
        Exit::usage(format!(
            "--node {} is not one of --nodes {}",
            arguments.node,
            arguments.nodes.join(",")
        ))
    })?;
    let disk = arguments.disk.display();
    let chunk = u32::try_from(arguments.chunk).map_err(|_| Exit::usage("--chunk: at most 1GiB"))?;
    let device = FileDevice::open(&arguments.disk, false).map_err(Exit::usage)?;
    let link = Link::Local(Arc::new(device));
    if !arguments.force
        && let Some(found) = holds(&link, PATIENCE).map_err(Exit::failed)?
    {
        return Err(
            Exit::refused(format!("{disk} holds {found}; nothing was written"))
                .hint("--force overwrites it"),
        );
    }
    let size = write(&link, &tag, &names, slot, chunk)?;
    println!(
        "mirror {tag} made on {disk}: {} for the application, degraded until a second leg is added",
        crate::cli::show::size(size)
    );
    Ok(())
}

fn names(arguments: &Arguments) -> Result<Vec<NodeName>, Exit> {
    if !(2..=8).contains(&arguments.nodes.len()) {
        return Err(Exit::usage(format!(
            "--nodes: 2 to 8 are needed, {} were given",
            arguments.nodes.len()
        )));
    }
    let mut names = Vec::new();
    for node in &arguments.nodes {
        let name = NodeName::new(node.as_str()).map_err(Exit::usage)?;
        if names.contains(&name) {
            return Err(Exit::usage(format!("--nodes: {node} is named twice")));
        }
        names.push(name);
    }
    Ok(names)
}

fn write(link: &Link, tag: &Tag, names: &[NodeName], slot: Slot, chunk: u32) -> Result<u64, Exit> {
    let leg = NewLeg {
        device: link.size(),
        uuid: random_uuid(),
        write_mostly: false,
        fail_fast: false,
    };
    let mirror = NewMirror {
        uuid: random_uuid(),
        name: tag.as_str().chars().take(31).collect(),
        created: metadata::now(),
        chunk,
        daemon_sleep: 5,
        legs: Slot::first(names.len())
            .map(|other| (other == slot).then(|| leg.clone()))
            .collect(),
        start: Start::Equal,
    };
    let formatted = mirror
        .format()
        .map_err(Exit::usage)?
        .into_iter()
        .flatten()
        .next();
    let formatted = formatted.ok_or_else(|| Exit::failed("no leg was laid out"))?;
    let size = Layout::array_size([&formatted.layout]);
    let shape = Shape {
        size,
        chunk: u64::from(chunk),
        slots: names.len(),
    };
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    let image = Engine::create(shape, slot, &mut IdSource::new(high ^ low));
    let pages = (0..=page_of(shape.chunks() - 1)).map(|page| {
        let (first, length) = page_bytes(page);
        (page, Bytes::from(image.dirty.bytes(first, length)))
    });
    let update = Update {
        events: image.superblock.events,
        events_cleared: image.superblock.events,
        size,
        pages: pages.collect(),
        superblock: Some((image.record, image.superblock)),
    };
    let mut metadata = Metadata::new(formatted, names, slot).map_err(Exit::failed)?;
    // Bitmap first, superblock last, each durable: a disk with a superblock is whole.
    for (offset, data) in metadata.writes(&update, slot).map_err(Exit::failed)? {
        link.write(offset, data, PATIENCE).map_err(Exit::failed)?;
    }
    Ok(size)
}

fn random_uuid() -> MdUuid {
    MdUuid(*uuid::Uuid::new_v4().as_bytes())
}

/// Longest wait for one access of the disk.
const PATIENCE: Duration = Duration::from_secs(60);
