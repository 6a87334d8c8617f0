//! Exports block devices over NBD.

pub mod device;
