//! Decisions about a mirror as pure functions: no I/O, no clock, no randomness.
//!
//! [`machine::Machine`] is one mirror on one node: events go in, actions come out, and somebody else performs them. It is
//! complete and tested by itself; the daemon that will drive it (`netraidd`) is not written yet.

pub mod action;
pub mod decision;
pub mod departure;
pub mod event;
pub mod explain;
pub mod generation;
pub mod machine;
pub mod node;
pub mod record;
pub mod refusal;
pub mod word;
