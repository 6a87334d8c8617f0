//! `mirror_resize`: another size for a mirror, as DataKeeper's command of that name.

use std::process::ExitCode;

use clap::Parser;
use flags::Tag;

use super::daemon::{Connection, tag};
use super::exit::Exit;
use super::{orders, program};
use crate::api::document::Order;

/// Gives a mirror another size, on its source, after the disks of all nodes have been enlarged.
///
/// Without -s it gets what the smallest disk holds. In service it only grows; what is new is copied to the targets. A file
/// system on it is resized by its own tool.
#[derive(Debug, Parser)]
#[command(
    name = "mirror_resize",
    version,
    after_help = "Exit codes: 0 done, or already so; 1 failed; 2 wrong command line, or no such mirror; 3 the state forbids \
        it, nothing was changed; 124 no answer in time."
)]
struct Arguments {
    /// Make it smaller without asking, out of service: what is behind the new size is lost
    #[arg(short)]
    force: bool,

    /// The new size in KiB
    #[arg(short, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..=MOST))]
    size: Option<u64>,

    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: Connection,
}

/// The command line, for its manual page.
pub(super) fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    match program::arguments() {
        Ok(arguments) => program::end("mirror_resize", perform(&arguments)),
        Err(code) => code,
    }
}

fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let order = Order::Resize {
        size: arguments.size.map(|kib| kib << 10),
        force: arguments.force,
    };
    let daemon = arguments.connection.open()?;
    orders::resize(&daemon, &arguments.tag, &order, arguments.dry_run)
}

/// More KiB are no number of bytes.
const MOST: u64 = u64::MAX >> 10;
