//! The daemon: drives [`crate::mirror::machine::Machine`] with real arrays, peers and timers.
//!
//! - [`daemon`]: starts everything, and ends it.
//! - `adjust`: makes what runs match a configuration that has changed.
//! - [`driver`]: one mirror, in a thread of its own.
//! - [`local`]: what the mirror has on this node: disk, array, export.
//! - [`memory`]: what the node remembers of it: flag files and state record.
//! - [`shared`]: what all mirrors have in common: what each published, the events, the peers.
//! - [`links`]: the way to each peer.
//! - [`routes`]: what commands and pages may ask.

mod adjust;
pub mod daemon;
mod disks;
pub mod driver;
pub mod links;
pub mod local;
pub mod memory;
pub mod routes;
pub mod shared;
