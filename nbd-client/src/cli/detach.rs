//! `nbd-client detach`: takes a device away from the kernel again.

use nbd_client::kernel::{self, DetachError, Tree};

use super::arguments::Detach;
use super::devices::{failed, open_driver};
use super::exit::Exit;

pub(crate) fn run(arguments: &Detach) -> Result<(), Exit> {
    let mut driver = open_driver()?;
    let users = kernel::detach(
        &mut driver,
        &Tree::system(),
        arguments.device,
        arguments.force,
    )
    .map_err(|error| exit(&error))?;
    if !users.is_empty() {
        let names: Vec<String> = users.iter().map(ToString::to_string).collect();
        eprintln!(
            "nbd-client: {} is disconnected, and stays until it is closed by {}",
            kernel::path(arguments.device),
            names.join(", ")
        );
    }
    Ok(())
}

/// Why a device was not detached.
pub(super) fn exit(error: &DetachError) -> Exit {
    match error {
        DetachError::NotAttached { .. } => Exit::refused(error),
        DetachError::InUse { .. } => Exit::refused(error)
            .hint("stop its users first; --force detaches all the same, and their requests fail"),
        DetachError::StillThere { .. } => Exit::late(error),
        DetachError::Driver(error) => failed(error),
    }
}
