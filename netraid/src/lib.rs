//! placeholder
pub mod md;
