//! An image in the array that will travel (`netraid truck`): it is known by where it is served, so that a daemon that comes after
//! this one knows it, too.

use std::path::{Path, PathBuf};

use nbd_client::Target;

use super::{LegState, Local, Plan};
use crate::array::{Added, ArrayError, ArrayStatus, NewLeg, NodeState};
use crate::mirror::node::NodeId;

/// Where an image of the mirror is served while it is being loaded: the socket.
pub fn socket(run_dir: &Path, tag: &str) -> PathBuf {
    run_dir.join(format!("{tag}.truck-image"))
}

fn location(plan: &Plan) -> Target {
    Target::unix(socket(&plan.run_dir, &plan.tag), plan.tag.clone())
}

/// Whether a leg of the array is an image.
pub(super) fn is_loaded(plan: &Plan, status: &ArrayStatus, leg: &NodeState) -> bool {
    let legs = status.status.legs.iter();
    let mut places = legs.filter(|known| known.node == leg.node);
    places.any(|known| known.location.parse() == Ok(location(plan)))
}

impl Local {
    /// Takes the image that is served here as the leg of a node, and copies everything to it.
    ///
    /// # Errors
    /// See [`crate::array::Array::add`].
    pub fn load(&self, node: NodeId, force: bool) -> Result<Added, ArrayError> {
        let leg = NewLeg {
            node: self.name(node),
            location: location(&self.plan).to_string(),
            full: true,
            discard: false,
            force,
        };
        self.running()?.add(&leg)
    }

    /// Goes on without the image, which has everything; returns when what follows has a generation of its own.
    ///
    /// # Errors
    /// See [`crate::array::Array::part`].
    pub fn part(&self, node: NodeId) -> Result<(), ArrayError> {
        self.running()?.part(&self.name(node))
    }

    /// An array that copies to an image could not stop cleanly; loading begins anew later.
    pub(super) fn interrupt_loading(&mut self) -> Result<(), ArrayError> {
        let truck = self.view()?.and_then(|view| view.truck);
        match truck {
            Some((node, LegState::Resyncing(_))) => self.running()?.remove(&self.name(node)),
            _ => Ok(()),
        }
    }
}
