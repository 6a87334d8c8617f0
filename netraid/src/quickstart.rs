//! `netraid quickstart`: the main job on one machine. Two nodes as real processes, a mirror between them, real files on
//! it, and everything that can happen to it told step by step, with checks that can fail.
//!
//! [`story`] is the plot; the other modules are its props: the folder, the programs, the processes, the disks.

pub mod disk;
pub mod files;
pub mod folder;
pub mod interrupt;
pub mod ledger;
pub mod leg;
mod node;
pub mod process;
mod scene;
mod story;
pub mod sweep;
mod tell;
pub mod tools;
pub mod writer;

use std::path::PathBuf;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything goes.
    pub dir: PathBuf,
    /// Bytes of each node's disk.
    pub size: u64,
    /// Folders to fill the file system from; empty for the usual ones.
    pub data: Vec<PathBuf>,
    /// An ext4 image to use instead.
    pub image: Option<PathBuf>,
    /// Stop at the end of the story.
    pub once: bool,
    /// Print one JSON object a step instead of telling it.
    pub json: bool,
}

/// Why it did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Something that was asked for can't be.
    #[error("{0}")]
    Usage(String),
    /// What is there forbids it; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// A check did not hold, or something could not be done.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Runs the story; returns at its end, or after Ctrl-C where it stays up. No process that it started is left behind.
///
/// # Errors
/// A check that did not hold, something that is missing, Ctrl-C before the end.
pub fn run(settings: Settings) -> Result<(), Problem> {
    story::tell(settings)
}

/// Smallest disk that the story fits on.
pub const MIN_SIZE: u64 = 32 << 20;
