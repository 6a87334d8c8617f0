//! The daemon: drives [`crate::mirror::machine::Machine`] with real arrays, peers and timers.

pub mod driver;
pub mod local;
pub mod memory;
pub mod shared;
