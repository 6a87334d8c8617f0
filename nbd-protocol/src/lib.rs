//! The NBD protocol (fixed newstyle) as values and bytes: no sockets, no clock, no randomness.
//!
//! Bytes go in, values and bytes come out; the caller owns every socket and every buffer. Read in this order:
//! [`number`] and [`limit`] (the protocol's constants), [`negotiate`] (what happens before the first command),
//! [`request`], [`mod@check`] and [`reply`] (what happens afterwards), [`session`] (how NetRAID fences old
//! connections).

pub mod check;
pub mod command;
pub mod error;
pub mod integrity;
pub mod limit;
pub mod negotiate;
pub mod number;
pub mod option;
pub mod pending;
pub mod reply;
pub mod request;
pub mod session;
#[cfg(test)]
mod testing;
pub mod text;
mod wire;

pub use error::DecodeError;
pub use request::{HeaderStyle, RequestHeader};
