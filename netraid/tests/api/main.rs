//! How others reach the daemon: real sockets on loopback and in temporary folders, certificates made for each test.
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

mod certificates;
mod hostile;
mod local;
mod loopback;
mod peers;
mod rig;
