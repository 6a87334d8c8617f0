//! The embedded RAID1: one local leg and up to seven remote ones under one write-intent bitmap.
//!
//! [`engine`] decides and never touches a disk, a socket or a clock: events go in, effects come out. Everything around
//! it performs effects and reports what became of them, so that a simulation can run the very same decisions.

pub mod chunks;
pub mod engine;
pub mod holds;
pub mod intent;
pub mod keeper;
pub mod leg;
pub mod link;
pub mod metadata;
pub mod running;
