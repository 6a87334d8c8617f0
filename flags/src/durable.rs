//! Files that are either as before or as after, whatever happens in between, and stay so through a power loss.

use nix::fcntl::OFlag;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Puts `bytes` into the file `name` of `folder`, which is made if it is not there. Readers see the old file or the new
/// one; when this returns the new one is on the disk.
pub(crate) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    make_folder(folder)?;
    // A leading dot can't be a tag's, so no flag of any mirror has such a name; two writers have different ones.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let draft = folder.join(format!(".{name}.{}.{number}", std::process::id()));
    let written = write_new(&draft, bytes).and_then(|()| fs::rename(&draft, folder.join(name)));
    if written.is_err() {
        // The error that matters is the first one; a draft left behind is harmless.
        let _ = fs::remove_file(&draft);
    }
    written?;
    sync_folder(folder)
}

/// Removes the file `name` of `folder`; false if it was not there. When this returns it is gone from the disk, too.
pub(crate) fn remove(folder: &Path, name: &str) -> io::Result<bool> {
    let removed = match fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
        Ok(()) => true,
    };
    // Even if it was gone before: whoever removed it may not have waited for the disk.
    match sync_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(removed),
        other => other.map(|()| removed),
    }
}

/// Whether something called `name` is in `folder`, a dangling link included.
pub(crate) fn exists(folder: &Path, name: &str) -> io::Result<bool> {
    match fs::symlink_metadata(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true),
    }
}

/// The content of a file, at most `most` bytes and one more, so that a longer one is noticed; `None` if there is none.
pub(crate) fn read(folder: &Path, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
    // A pipe that somebody put there must not hold us up.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = match File::options()
        .read(true)
        .custom_flags(flags)
        .open(folder.join(name))
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Waits until the names in `folder` are on the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a folder and those above it, and waits until their names are on the disk.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = folder;
    while !at.is_dir() {
        missing.push(at.into());
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for folder in missing.into_iter().rev() {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(parent) = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            sync_folder(parent)?;
        }
    }
    Ok(())
}
