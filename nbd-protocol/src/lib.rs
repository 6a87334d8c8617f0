//! The NBD protocol (fixed newstyle) as values and bytes: no sockets, no clock, no randomness.

pub mod command;
