//! `bitmap`: DataKeeper's tool for bitmap files. Our bitmap lies on each leg beside the data, so most of what it does to
//! a file has another way here, which it names.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use flags::Tag;

use super::daemon::Connection;
use super::exit::Exit;
use super::show::{plain, size};
use super::{mirror_status, program};
use crate::api::document::Mirror;

/// Shows the write-intent bitmap of a mirror (-X). What DataKeeper's bitmap changes in a file is refused, with the way to do
/// it here: the bitmap lies on each node's disk, and only the mirror itself may change it.
#[derive(Debug, Parser)]
#[command(
    name = "bitmap",
    version,
    after_help = "Exit codes: 0 shown; 1 netraidd does not run or did not tell; 2 wrong command line, or no such mirror; \
        3 refused; 124 no answer in time."
)]
struct Arguments {
    #[command(flatten)]
    order: Which,

    /// The mirror: its tag, or this node's disk of it
    mirror: String,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Examine: print what is marked
    #[arg(short = 'X')]
    examine: bool,

    /// Clean: unmark everything. Refused
    #[arg(short = 'c')]
    clean: bool,

    /// Dirty: mark everything. Refused
    #[arg(short = 'd')]
    dirty: bool,

    /// Set the limit of asynchronous writes. Refused
    #[arg(short = 'a', value_name = "NUMBER")]
    limit: Option<u32>,

    /// Extend to a disk of this size. Refused
    #[arg(short = 'x', value_name = "KIB")]
    extend: Option<u64>,
}

/// The command line, for its manual page.
pub(super) fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    match program::arguments() {
        Ok(arguments) => program::end("bitmap", perform(&arguments)),
        Err(code) => code,
    }
}

fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let mirrors = arguments.connection.open()?.mirrors()?;
    let mirror = mirrors.mirrors.iter().find(|mirror| {
        let own = mirror.nodes.iter().find(|node| node.own);
        mirror.tag == arguments.mirror || own.is_some_and(|own| own.device == arguments.mirror)
    });
    let Some(mirror) = mirror else {
        return Err(match Tag::new(arguments.mirror.as_str()) {
            Ok(tag) => match arguments.connection.open()?.mirror(&tag) {
                Err(exit) => exit,
                Ok(_) => Exit::failed(format!("{tag} has just appeared; try again")),
            },
            Err(_) => Exit::usage(format!(
                "{} is no mirror, and no disk of one on this node",
                plain(&arguments.mirror)
            ))
            .hint("netraid status"),
        });
    };
    let tag = plain(&mirror.tag);
    let Which {
        clean,
        dirty,
        limit,
        extend,
        ..
    } = arguments.order;
    let (why, next) = match () {
        () if clean => (
            "unmarking what differs would make the legs differ unnoticed",
            format!("mirror_action {tag} resume copies what is marked, and unmarks it"),
        ),
        () if dirty => (
            "the bitmap lies on the disk, where only the mirror may change it",
            format!("mirror_action {tag} fullresync, on the source"),
        ),
        () if limit.is_some() => (
            "the limit of asynchronous writes is not kept in the bitmap",
            "LKDR_ASYNC_LIMIT in /etc/default/LifeKeeper".into(),
        ),
        () if extend.is_some() => (
            "the bitmap is as large as the mirror, and grows with it",
            format!("mirror_resize {tag}"),
        ),
        () => return examine(mirror),
    };
    Err(Exit::refused(why).hint(next))
}

fn examine(mirror: &Mirror) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    writeln!(out, "Mirror: {}", plain(&mirror.tag))?;
    if let Some(own) = mirror.nodes.iter().find(|node| node.own) {
        writeln!(out, "Device: {}", plain(&own.device))?;
    }
    if let Some(bytes) = mirror.size {
        writeln!(out, "Size: {}", size(bytes))?;
    }
    if let Some(chunk) = mirror.chunk {
        writeln!(out, "Chunk: {}", size(chunk))?;
    }
    writeln!(out, "Generation: {}", plain(&mirror.generation))?;
    write!(out, "{}", mirror_status::bitmap(mirror))?;
    Ok(out.flush()?)
}
