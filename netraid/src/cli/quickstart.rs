//! `netraid quickstart`: a mirror of two nodes on this machine, through a failure and a failover.

use std::path::PathBuf;

use super::exit::Exit;
use super::size;
use crate::quickstart::{self, Problem};

/// Runs two nodes and a mirror on this machine, as real processes and without root, and takes them through a failure, a
/// partial resync and a failover.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --once the mirror stays up at the end, until Ctrl-C.\n\
    Exit codes: 0 every check held; 1 one did not, or something is missing; 2 wrong command line."
)]
pub(super) struct Arguments {
    /// Folder for the disks, sockets and logs; it is made, or used again if an earlier quickstart made it
    #[arg(long, value_name = "DIR", default_value = "netraid-demo")]
    dir: PathBuf,

    /// Size of each node's disk
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::parse)]
    size: u64,

    /// Real data for the file system on the mirror, as far as it fits; repeatable
    /// [default: the current folder if it is a project, and /usr/share/doc]
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    data: Vec<PathBuf>,

    /// An ext4 image to copy onto the mirror instead; the disks are made large enough for it
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,

    /// Runs the story, stops cleanly and exits; everything stays in the folder
    #[arg(long)]
    once: bool,

    /// Prints one JSON object a step, and nothing else, to standard output
    #[arg(long)]
    json: bool,

    /// Waits until standard input ends, and kills what runs for the nodes of these folders
    #[arg(long, hide = true, value_name = "DIR")]
    sweep: Vec<PathBuf>,
}

pub(super) fn perform(arguments: Arguments) -> Result<(), Exit> {
    let Arguments {
        dir,
        size,
        data,
        image,
        once,
        json,
        sweep,
    } = arguments;
    if !sweep.is_empty() {
        return quickstart::sweep::guard(&sweep).map_err(Exit::failed);
    }
    let told = quickstart::run(quickstart::Settings {
        dir,
        size,
        data,
        image,
        once,
        json,
    });
    told.map_err(|problem| match problem {
        Problem::Usage(_) => Exit::usage(problem),
        Problem::Refused(_) => Exit::refused(problem),
        Problem::Failed(_) => Exit::failed(problem),
    })
}
