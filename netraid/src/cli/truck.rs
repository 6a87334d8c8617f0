//! `netraid truck`: a leg that is shipped by road instead of being copied over the network, in four steps of which each checks
//! the one before.

mod check;
mod connect;
mod load;
mod progress;
mod status;
mod unload;

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::exit::Exit;
use super::show::plain;
use crate::array::disk::{Access, Disk};
use crate::truck::check::CheckError;
use crate::truck::manifest::{Manifest, ManifestError, beside};

/// Ships a target's leg by road: a disk or an image, where the network would take too long.
///
/// Four steps, each of which checks the one before:
///
/// 1. On the source, "netraid truck load TAG NODE IMAGE" fills an image (a file, or a disk) while the mirror is in use, and writes
///    what is to arrive to IMAGE.manifest. From the moment at which it ends, what is written is marked: also over restarts, and on
///    a target that takes over.
///
/// 2. Ship the image and its manifest. Anywhere, "netraid truck check IMAGE" tells whether it is what was loaded, block by block,
///    without a daemon.
///
/// 3. On NODE, with netraidd stopped, "netraid truck unload TAG IMAGE" checks it, copies it to the disk of TAG there, and reads
///    that back. If the disk itself travelled and is the disk of TAG now, it is checked, and nothing is copied.
///
/// 4. On the source, "netraid truck connect TAG NODE" looks at what NODE has, and copies over the network what was marked since,
///    and nothing else.
///
/// "netraid truck status TAG" tells where a shipment stands. An image that is older than the last one, of another mirror, damaged
/// or not complete is refused with the reason; where it can't be told before, everything is copied over the network, and
/// connect says so first.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Load(load::Load),
    Check(check::Check),
    Unload(unload::Unload),
    Connect(connect::Connect),
    Status(status::Status),
}

impl Arguments {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        match &self.command {
            Command::Load(load) => load.perform(),
            Command::Check(check) => check.perform(),
            Command::Unload(unload) => unload.perform(),
            Command::Connect(connect) => connect.perform(),
            Command::Status(status) => status.perform(),
        }
    }
}

/// The paper of an image: the one that was named, else the one beside it.
fn manifest(image: &Path, named: Option<&PathBuf>) -> Result<Manifest, Exit> {
    let path = named.cloned().unwrap_or_else(|| beside(image));
    Manifest::read(&path).map_err(|error| {
        let why = plain(&error.to_string());
        match error {
            ManifestError::Io { .. } => {
                Exit::usage(why).hint("--manifest FILE says where the manifest of the image is")
            }
            ManifestError::Syntax { .. } => Exit::usage(why),
            ManifestError::Changed { .. } => {
                Exit::refused(why).hint("copy it from the source again")
            }
            ManifestError::Newer { .. } => Exit::refused(why),
        }
    })
}

fn open(image: &Path) -> Result<Disk, Exit> {
    Disk::open(image, Access::Read).map_err(|error| Exit::usage(plain(&error.to_string())))
}

fn not_good(image: &Path, error: &CheckError) -> Exit {
    let why = plain(&format!("{}: {error}", image.display()));
    match error {
        CheckError::Disk(_) => Exit::failed(why),
        CheckError::Wrong(_) | CheckError::Damaged(_) => Exit::refused(why)
            .hint("copy or ship it again; netraid truck load on the source makes a new one"),
    }
}
