//! The folder of a quickstart: recognised by a marker file, locked while in use, started over by name only.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;

use super::Problem;

/// An open demo folder. Nobody else can open it as one meanwhile.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    run: PathBuf,
    /// Whether an earlier quickstart's files were removed.
    pub again: bool,
    _lock: Flock<File>,
}

impl Folder {
    /// Makes the folder, or takes one that an earlier quickstart made and removes what that one left.
    ///
    /// # Errors
    /// [`Problem::Refused`] if something else is in it, or another quickstart uses it.
    pub fn open(path: &Path) -> Result<Folder, Problem> {
        let marker = path.join(MARKER);
        let again = marker.is_file();
        if !again && !is_empty_or_missing(path)? {
            return Err(Problem::Refused(format!(
                "{} was not made by netraid quickstart, and is not touched; name another folder with --dir",
                path.display()
            )));
        }
        let make = || -> Result<(PathBuf, File)> {
            fs::create_dir_all(path)?;
            let mut options = OpenOptions::new();
            let mut file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&marker)?;
            if !again {
                file.write_all(MARKER_TEXT.as_bytes())?;
            }
            Ok((path.canonicalize()?, file))
        };
        let (path, file) = make().with_context(|| format!("folder {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| {
            Problem::Refused(format!(
                "another quickstart is running in {}",
                path.display()
            ))
        })?;
        clear(&path).with_context(|| format!("starting over in {}", path.display()))?;
        let run = make_run_folder(&path)?;
        Ok(Folder {
            path,
            run,
            again,
            _lock: lock,
        })
    }

    /// The folder itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it. Only names that [`clear`] knows.
    pub fn file(&self, name: &str) -> PathBuf {
        debug_assert!(
            NAMES.contains(&name),
            "{name} would be left when starting over"
        );
        self.path.join(name)
    }

    /// The folder for sockets.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Bytes that may still be written here.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn free(&self) -> Result<u64> {
        let found = statvfs(&self.path)?;
        Ok(found
            .blocks_available()
            .saturating_mul(found.fragment_size()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.run.starts_with(&self.path) {
            // A folder of our own in the system's temporary folder, with nothing but sockets of processes now gone.
            let _ = fs::remove_dir_all(&self.run);
        }
    }
}

/// Whether a folder was made by a quickstart.
pub fn is_demo(path: &Path) -> bool {
    path.join(MARKER).is_file()
}

fn is_empty_or_missing(path: &Path) -> Result<bool, Problem> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Problem::Usage(format!("{}: {error}", path.display()))),
    }
}

/// Removes what a quickstart makes, and nothing else.
fn clear(path: &Path) -> Result<()> {
    for name in NAMES {
        let victim = path.join(name);
        let removed = match fs::symlink_metadata(&victim) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&victim),
            Ok(_) => fs::remove_file(&victim),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| victim.display().to_string());
            }
            _ => {}
        }
    }
    Ok(())
}

/// The folder for sockets: in the demo folder, unless its path is longer than the address of a socket can be.
fn make_run_folder(path: &Path) -> Result<PathBuf> {
    let inside = path.join("run");
    let fits = inside.as_os_str().len() + LONGEST_SOCKET.len() < nbd_client::uri::MAX_SOCKET_PATH;
    let run = match fits {
        true => inside,
        false => std::env::temp_dir().join(format!("netraid-demo-{}", std::process::id())),
    };
    fs::create_dir(&run).with_context(|| format!("folder {}", run.display()))?;
    Ok(run)
}

const MARKER: &str = ".netraid-demo";
const MARKER_TEXT: &str =
    "This folder was made by `netraid quickstart`, which may start over in it at any time.\n";
const LONGEST_SOCKET: &str = "/server1/netraidd.sock";

/// Everything that a quickstart makes in its folder.
const NAMES: [&str; 14] = [
    "run",
    "server1.img",
    "server2.img",
    "filesystem.img",
    "files",
    "after-failover.img",
    "after-failover",
    "server1.log",
    "server2.log",
    "server1",
    "server2",
    "server2.bundle",
    "tools.log",
    "writes.log",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_somebody_else_is_refused_and_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("server1.img"), "mine").unwrap();
        assert!(matches!(
            Folder::open(scratch.path()),
            Err(Problem::Refused(_))
        ));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_earlier_demo_is_started_over_and_strangers_in_it_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("demo");
        let folder = Folder::open(&path).unwrap();
        assert!(!folder.again && is_demo(&path));
        fs::write(folder.file("server1.img"), "old").unwrap();
        fs::create_dir(folder.file("files")).unwrap();
        fs::write(path.join("notes"), "mine").unwrap();
        assert!(
            matches!(Folder::open(&path), Err(Problem::Refused(_))),
            "in use"
        );
        drop(folder);
        let folder = Folder::open(&path).unwrap();
        assert!(folder.again && path.join("notes").is_file());
        assert!(!folder.file("server1.img").exists() && !folder.file("files").exists());
    }

    #[test]
    fn sockets_move_out_of_a_folder_with_a_long_path() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(&scratch.path().join("d".repeat(120))).unwrap();
        let run = folder.run().to_owned();
        assert!(run.is_dir() && run.as_os_str().len() < 80);
        drop(folder);
        assert!(!run.exists());
    }
}
