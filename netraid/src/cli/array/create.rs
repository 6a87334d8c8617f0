//! `netraid array create`: makes a disk the first leg of a mirror.

use std::path::PathBuf;

use flags::{NodeName, Tag};
use serde_json::json;

use super::super::{exit::Exit, show};
use super::tunable;
use crate::array::create::{Creation, create};
use crate::array::tunable::{DEFAULT_CHUNK, chunk_size};

/// Makes a disk the first leg of a mirror. Nothing runs yet; either the kernel or netraid run can start it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    netraid array create --tag data --disk /dev/sdb1 --nodes server1,server2 --node server1\n  \
    netraid array create --tag home --disk /dev/sdc1 --nodes server1,server2 --node server1 --keep")]
pub(super) struct Create {
    /// Name of the mirror
    #[arg(long)]
    tag: String,

    /// The disk, partition or file
    #[arg(long, value_name = "PATH")]
    disk: PathBuf,

    /// The nodes that have a leg, 2 to 8, in the order of the legs. While one of them has none, every write stays marked
    #[arg(long, value_delimiter = ',', value_name = "NODE,NODE,...")]
    nodes: Vec<String>,

    /// This node: one of --nodes
    #[arg(long)]
    node: String,

    /// KiB under one bit of the write-intent bitmap, a power of two [default: $LKDR_CHUNK_SIZE, else 256]; none: no
    /// bitmap, and every interruption ends in a full resync
    #[arg(long, value_name = "KIB")]
    chunk: Option<String>,

    /// Keep the file system that the disk holds where it is: metadata version 1.0, behind it. Refused if there is no room
    #[arg(long, conflicts_with = "force")]
    keep: bool,

    /// Overwrite what the disk holds
    #[arg(long)]
    force: bool,

    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(order: &Create) -> Result<(), Exit> {
    let chunk = match order.chunk.as_deref() {
        Some("none") => None,
        text => Some(tunable(text, "LKDR_CHUNK_SIZE", chunk_size)?.unwrap_or(DEFAULT_CHUNK)),
    };
    let names = order.nodes.iter().map(|node| NodeName::new(node.as_str()));
    let creation = Creation {
        tag: Tag::new(order.tag.as_str()).map_err(Exit::usage)?,
        disk: order.disk.clone(),
        nodes: names.collect::<Result<_, _>>().map_err(Exit::usage)?,
        node: NodeName::new(order.node.as_str()).map_err(Exit::usage)?,
        chunk,
        keep: order.keep,
        force: order.force,
        dry_run: order.dry_run,
    };
    let made = create(&creation)?;
    let (tag, disk) = (&order.tag, order.disk.display());
    if order.json {
        let object = json!({
            "tag": tag,
            "disk": order.disk,
            "size": made.size,
            "array_uuid": made.uuid.to_string(),
            "chunk": chunk.unwrap_or(0),
            "kept": made.kept.as_ref().map(|kept| kept.kind),
            "written": !order.dry_run,
        });
        println!("{object}");
        return Ok(());
    }
    let size = show::size(made.size);
    match (order.dry_run, &made.kept) {
        (true, _) => {
            println!("{disk} can be made a leg of mirror {tag}: {size} for the application")
        }
        (false, Some(kept)) => println!(
            "mirror {tag} made on {disk} around its {} file system: {size} for the application",
            kept.kind
        ),
        (false, None) => println!("mirror {tag} made on {disk}: {size} for the application"),
    }
    Ok(())
}
