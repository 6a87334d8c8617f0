//! What the tests and benchmarks of the whole workspace share: finding programs, running and stopping them, scratch
//! files, and a bare NBD connection for saying wrong things to a server.
//!
//! Everything in this library speaks as a foreign program would: it uses the programs of this workspace, never their
//! libraries, so that a mistake in a library cannot hide itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, with what happened"
)]

pub mod bench;
pub mod daemons;
pub mod mirror;
pub mod peers;
pub mod process;
pub mod raw;
pub mod scratch;
pub mod servers;
