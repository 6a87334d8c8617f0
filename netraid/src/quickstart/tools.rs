//! Finding the programs that take part: ours beside this one, and those of e2fsprogs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// This program.
    pub netraid: PathBuf,
    /// Looks after a node's mirrors.
    pub netraidd: PathBuf,
    /// Makes file systems.
    pub mkfs: PathBuf,
    /// Checks them.
    pub e2fsck: PathBuf,
    /// Takes files out of them without mounting.
    pub debugfs: PathBuf,
    /// Looks at legs; only used where it is installed.
    pub mdadm: Option<PathBuf>,
}

impl Tools {
    /// Finds all of them.
    ///
    /// # Errors
    /// One line that names what is missing and where it comes from.
    pub fn find() -> Result<Tools> {
        let netraid = std::env::current_exe().context("can't tell which program this is")?;
        let folder = netraid.parent().unwrap_or(Path::new(".")).to_owned();
        // netraidd starts nbd-server, from the same folder.
        for program in ["netraidd", "nbd-server"] {
            if !folder.join(program).is_file() {
                bail!(
                    "{program} is missing beside this program, in {}; `cargo build --workspace --bins` makes all",
                    folder.display()
                );
            }
        }
        Ok(Tools {
            netraid,
            netraidd: folder.join("netraidd"),
            mkfs: needed("mkfs.ext4")?,
            e2fsck: needed("e2fsck")?,
            debugfs: needed("debugfs")?,
            mdadm: find("mdadm"),
        })
    }
}

fn needed(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| {
        format!("{name} is missing; it is in the package e2fsprogs (Debian, Ubuntu: apt-get install e2fsprogs)")
    })
}

/// A program on the search path, or in one of the folders that only root has on it.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|candidate| {
        let executable = nix::unistd::AccessFlags::X_OK;
        candidate.is_file() && nix::unistd::access(candidate, executable).is_ok()
    })
}
