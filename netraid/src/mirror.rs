//! Decisions about a mirror as pure functions: no I/O, no clock, no randomness.

pub mod departure;
pub mod generation;
