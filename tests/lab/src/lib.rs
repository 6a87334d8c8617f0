//! Nodes with real Linux kernels, run as processes, joined by cables that a test can cut.
//!
//! Each node is a User-Mode Linux kernel with its own name, address and disks, and sees the host's files read-only. A
//! test that needs such nodes calls [`scenario`]; people who want to look around run `make lab-shell`.

pub mod acknowledged;
mod available;
mod channel;
pub mod cluster;
mod control;
mod disk;
mod job;
mod journal;
mod lab;
pub mod load;
pub mod mirror;
mod network;
mod node;
pub mod processes;
mod processor;
mod shim;
mod wait;
mod warden;
pub mod wire;

pub use available::{available, programs, skip};
pub use channel::Output;
pub use cluster::Cluster;
pub use control::Failing;
pub use disk::{Cache, Counts, Difference, Disk, first_difference};
pub use job::Job;
pub use lab::{Builder, Lab, scenario};
pub use load::Load;
pub use mirror::Mirror;
pub use node::{COMMAND_DEADLINE, Node, NodeSpec};
pub use wait::wait_until;
