//! Decisions about a mirror as pure functions: no I/O, no clock, no randomness.
//!
//! [`machine::Machine`] is one mirror on one node: events go in, actions come out, and somebody else performs them: the
//! daemon ([`crate::node`]), or a test.

pub mod action;
pub mod decision;
pub mod departure;
pub mod event;
pub mod explain;
pub mod fencing;
pub mod generation;
pub mod machine;
pub mod node;
pub mod policy;
pub mod prose;
pub mod record;
pub mod refusal;
pub mod size;
pub mod vote;
pub mod word;
