//! The embedded backend as a supervisor drives it: the mirror is a process, its legs are files behind NBD servers.
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

#[path = "../mirror/disk.rs"]
#[allow(dead_code, reason = "shared with the tests of the mirror")]
mod disk;
mod orders;
mod rig;
mod speed;
mod trouble;
