//! The server as its clients see it: raw bytes over unix sockets, and the program itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod client;
mod commands;
mod concurrency;
mod devices;
mod digest;
mod dirty;
mod handshake;
mod hostile;
mod interop;
mod order;
mod program;
mod setup;
mod stale;
