//! System calls that the standard library and `nix` do not wrap safely: the only crate of the workspace with `unsafe`.
//!
//! Each block wraps one call and says what makes it sound. What all callers do around a call (reusing buffers, looking
//! before sleeping) is here too; nothing else is decided.

pub mod buffer;
pub mod eager;
pub mod file;
pub mod heap;
pub mod netlink;
pub mod passed;
pub mod pressure;
pub mod socket;
