//! `mirror_resize`: known by name and arguments; it says that it can't do it yet.

use std::process::ExitCode;

use clap::Parser;
use flags::Tag;

use super::daemon::{Connection, tag};
use super::exit::Exit;
use super::{program, show};

/// Would give a mirror another size. Not built yet: it looks at the mirror, changes nothing and ends with 3.
#[derive(Debug, Parser)]
#[command(
    name = "mirror_resize",
    version,
    after_help = "Exit codes: 3 refused, as always; 1 netraidd does not run or did not tell; 2 wrong command line, or no \
        such mirror; 124 no answer in time."
)]
struct Arguments {
    /// Ask nothing
    #[arg(short)]
    force: bool,

    /// The new size in KiB
    #[arg(short, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..))]
    size: Option<u64>,

    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    #[command(flatten)]
    connection: Connection,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match program::arguments() {
        Ok(arguments) => program::end("mirror_resize", perform(&arguments)),
        Err(code) => code,
    }
}

fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let mirror = arguments.connection.open()?.mirror(&arguments.tag)?;
    let tag = &arguments.tag;
    let keeps = mirror.size.map_or_else(String::new, |bytes| {
        format!("; {tag} keeps its {}", show::size(bytes))
    });
    Err(Exit::refused(format!(
        "resizing a mirror is not built yet, nothing was changed{keeps}"
    ))
    .hint("make a new mirror on disks of the new size, and copy the data to it"))
}
