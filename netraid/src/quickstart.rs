//! The story behind `netraid quickstart`.

use std::path::PathBuf;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything goes.
    pub dir: PathBuf,
    /// Bytes of each disk.
    pub size: u64,
    /// Folders to fill the file system from.
    pub data: Vec<PathBuf>,
    /// An image instead.
    pub image: Option<PathBuf>,
    /// Stop at the end of the story.
    pub once: bool,
    /// One JSON object a step.
    pub json: bool,
}

/// Runs the story.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("not built yet: {settings:?}")
}
