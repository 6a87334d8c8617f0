//! The mirror at work in one process: real files, real NBD servers on unix sockets, and disks that fail on demand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "nothing here is used from outside"
)]

mod asynchronous;
mod digests;
mod disk;
mod disk_errors;
mod faults;
mod foreign;
mod integrity;
mod rig;
