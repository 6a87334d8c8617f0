//! A disk mirrored live over the network: the mirror, its on-disk format, its decisions and its commands.

pub mod control;
pub mod md;
pub mod mirror;
pub mod raid1;
pub mod status;
