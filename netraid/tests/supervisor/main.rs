//! The supervisor's state machines, alone and as clusters over simulated disks, links and power.
//!
//! - `scenario`: the text files in `scenarios/`, which say step by step what people see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "nothing here is used from outside"
)]

mod array;
mod cluster;
mod disk;
mod oracle;
mod random;
mod scenario;
mod show;
