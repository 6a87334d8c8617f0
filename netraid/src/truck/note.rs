//! What a source remembers of what it has loaded, for people: a file beside the flags, `.TAG.truck.NODE`. Nothing is decided
//! by it: what a leg misses stands in the bitmap, and which leg it is in its generation.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What was loaded for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The generation of the data, 16 hexadecimal digits.
    pub generation: String,
    /// When it left the mirror, in milliseconds since 1970 by this node's clock.
    pub loaded_ms: u64,
}

/// Where the note of a node is. A leading dot can't be a tag's, so no flag of any mirror has such a name.
pub fn path(state_dir: &Path, tag: &str, node: &str) -> PathBuf {
    state_dir.join(format!(".{tag}.truck.{node}"))
}

impl Note {
    /// Reads it; `None` if there is none, or none that can be read: it is for people alone.
    pub fn read(path: &Path) -> Option<Note> {
        let mut text = Vec::new();
        let file = File::open(path).ok()?;
        file.take(4096).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it; on the disk when this returns.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_vec(self)?)
    }
}

/// Puts `bytes` into a file. Readers see the old one or the new one; when this returns the new one is on the disk.
///
/// # Errors
/// If it can't be written.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = File::create(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&draft);
    }
    written?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
