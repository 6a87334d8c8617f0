//! A peer's export as a block device of this node's kernel, which the kernel's RAID1 takes as a leg.
//!
//! One socket, and no waiting for another one when it dies: the leg is given up with its link, and taken back with what it
//! missed. The kernel sends requests again that were on a dead link, in any order, and a program that wrote to one place
//! twice would then have another content on that leg than on the others (docs/ARCHITECTURE.md, "Overlapping writes").

use std::path::{Path, PathBuf};
use std::time::Duration;

use nbd_client::Target;
use nbd_client::kernel::{self, AttachOptions, Driver, Tree};

use super::dead_links;
use crate::array::ArrayError;

/// The kernel's devices of one mirror. They are known by what sysfs shows as their backend, so an earlier daemon's are
/// found again.
#[derive(Clone, Debug)]
pub(super) struct Devices {
    tag: String,
}

impl Devices {
    pub(super) fn new(tag: &str) -> Devices {
        // An earlier daemon's devices may be in use already. Without the driver there are none.
        if let Err(error) = dead_links::listen() {
            tracing::debug!("{error}");
        }
        Devices {
            tag: tag.to_owned(),
        }
    }

    /// What sysfs shows; the export's URI would tell everybody the secret in it.
    fn identifier(&self, node: &str) -> String {
        format!("{OURS}{} {node}", self.tag)
    }

    /// Makes a node's export a device; an older one of that node goes first.
    pub(super) fn attach(
        &self,
        node: &str,
        uri: &str,
        own_leg: &Path,
    ) -> Result<PathBuf, ArrayError> {
        self.detach(node)?;
        dead_links::listen().map_err(ArrayError::failed)?;
        let target: Target = uri.parse().map_err(ArrayError::failed)?;
        let mut driver = Driver::open().map_err(ArrayError::failed)?;
        let options = AttachOptions {
            index: None,
            connections: 1,
            block_size: None,
            timeout: TIMEOUT,
            dead_timeout: Duration::ZERO,
            disconnect_on_close: false,
            identifier: Some(self.identifier(node)),
            read_only: false,
            connect_timeout: CONNECT,
            session: None,
            own_leg: Some(own_leg.to_owned()),
            risk_lost_writes: false,
        };
        let attached = kernel::attach(&mut driver, &Tree::system(), &target, options);
        let attached = attached.map_err(ArrayError::failed)?;
        Ok(kernel::path(attached.index).into())
    }

    /// Takes a node's device away, whoever uses it; nothing happens if there is none.
    pub(super) fn detach(&self, node: &str) -> Result<(), ArrayError> {
        let tree = Tree::system();
        for index in self.find(&tree, node) {
            let mut driver = Driver::open().map_err(ArrayError::failed)?;
            match kernel::detach(&mut driver, &tree, index, true) {
                Ok(_) | Err(kernel::DetachError::NotAttached { .. }) => {}
                Err(error) => return Err(ArrayError::failed(error)),
            }
        }
        Ok(())
    }

    fn find(&self, tree: &Tree, node: &str) -> Vec<u32> {
        let wanted = self.identifier(node);
        let names = std::fs::read_dir("/sys/block").into_iter().flatten();
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter_map(|name| kernel::index(&format!("/dev/{name}")))
            .filter(|index| {
                let found = tree.device(*index);
                found.is_some_and(|found| {
                    found.pid.is_some() && found.identifier.as_ref() == Some(&wanted)
                })
            })
            .collect()
    }
}

/// How the identifiers of all devices of netraidd begin.
pub(super) const OURS: &str = "netraid ";
/// How long a request may stay without an answer until the leg is given up: so long an application stalls.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
