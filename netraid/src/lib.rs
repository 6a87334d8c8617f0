//! A disk mirrored live over the network: the mirror, its on-disk format, its decisions and its commands.

pub mod api;
pub mod array;
pub mod cli;
pub mod config;
pub mod control;
pub mod meta;
pub mod mirror;
pub mod node;
pub mod quickstart;
pub mod raid1;
pub mod report;
pub mod run;
pub mod status;
pub mod truck;

pub use md_format as md;
