//! What a node knows of a mirror as a text that people can read and keep: `netraid dump-meta` and `netraid restore-meta`.
//!
//! The text holds no data of the mirror, and the disk's data may be of another moment than the text. So it is never believed
//! more than what is there: marks are only ever added, and generation ids that have to be taken from a text leave everything
//! marked, and the mirror out of service on this node until somebody forces it or another source has brought it up to date.

pub mod document;
pub mod dump;
pub mod restore;
