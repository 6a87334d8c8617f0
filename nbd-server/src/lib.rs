//! Exports block devices over NBD.
//!
//! [`server::Server`] is put together from [`export::Export`]s and [`listener::Listener`]s and started. What is exported
//! is anything that implements [`device::BlockDevice`]; [`file::FileDevice`] is a file or a disk.
//!
//! The path of one request: `listener` accepts, `server` gives the connection a thread, `connection` receives and parses,
//! `export` lets what changes data pass its gate in order, the device does it, `pending` turns the outcome into a reply,
//! and `line` sends it.

pub mod batch;
mod budget;
pub mod cli;
pub mod config;
mod connection;
pub mod device;
mod directory;
pub mod export;
pub mod file;
mod line;
pub mod listener;
mod memory;
mod pending;
pub mod range_lock;
mod reply;
pub mod server;
mod socket;
mod workers;

pub use batch::batch;
