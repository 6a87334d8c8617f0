//! The daemon: drives [`crate::mirror::machine::Machine`] with real arrays, peers and timers.

pub mod local;
pub mod memory;
