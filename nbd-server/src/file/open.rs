//! Opening a file or block device for export: what is refused, and the words for it.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use linux_sys::file::block_device_size;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;

use crate::device::Geometry;
use crate::file::FileDevice;
use crate::file::digest;
use crate::file::dirty::CONTEXT;

/// Why a path can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there.
    #[error("{} does not exist: create it first, for example with truncate -s 1G {}", path.display(), path.display())]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// It is a directory, a pipe, a character device or the like.
    #[error("{} is {kind}: only regular files and block devices can be exported", path.display())]
    WrongKind {
        /// What was asked for.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Another export or another process has it.
    #[error("{} is in use: {by}", path.display())]
    InUse {
        /// What was asked for.
        path: PathBuf,
        /// By whom, as far as is known, and what to do.
        by: &'static str,
    },
    /// The permissions do not allow it.
    #[error("{} may not be opened for {access}: {source}", path.display())]
    Denied {
        /// What was asked for.
        path: PathBuf,
        /// Reading, or reading and writing.
        access: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Something else went wrong.
    #[error("{} can't be opened: {source}", path.display())]
    Failed {
        /// What was asked for.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl FileDevice {
    /// Opens a regular file or block device; never changes it. A writable one is locked (flock(2)) against other
    /// exports and a block device also against being mounted; a read-only one may be shared with other readers.
    ///
    /// # Errors
    /// Says what is wrong with the path, in one line.
    pub fn open(path: impl AsRef<Path>, read_only: bool) -> Result<FileDevice, OpenError> {
        let path = path.as_ref();
        let failed = |source: io::Error| refused(path, read_only, source);
        // Asked before opening: opening a pipe would wait, opening a tape would move it.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::WrongKind {
                path: path.to_owned(),
                kind: words_for(kind),
            });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only);
        if kind.is_block_device() && !read_only {
            options.custom_flags(libc::O_EXCL);
        }
        let file = options.open(path).map_err(failed)?;
        lock(&file, path, read_only)?;
        if kind.is_block_device() {
            // Whoever used it before (a kernel's md, past the page cache) may have left old pages behind, and whoever
            // else has it open keeps them there. What can't be dropped is in use by a writer, and that is refused above.
            file.sync_all().map_err(failed)?;
            let _ = posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        let direct = if kind.is_block_device() && !read_only {
            // Without O_EXCL: the claim above is this process's. Where it can't be had, the page cache does.
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_DIRECT);
            options.open(path).ok()
        } else {
            None
        };
        let metadata = file.metadata().map_err(failed)?;
        let size = size(&file).map_err(failed)?;
        let device_number = if metadata.file_type().is_block_device() {
            metadata.rdev()
        } else {
            metadata.dev()
        };
        let geometry = Geometry {
            size,
            // The page cache takes any offset; a part of a block is read, changed and written by the kernel.
            minimum_block: 1,
            preferred_block: 4096,
            read_only,
            rotational: is_rotational(device_number),
            fast_zero: true,
            // One file for all connections: fdatasync(2) covers whatever was written through any of them.
            multi_connection: true,
            contexts: vec![
                "base:allocation".to_owned(),
                CONTEXT.to_owned(),
                digest::CONTEXT.to_owned(),
            ],
        };
        let memory = memory(&metadata);
        Ok(FileDevice::new(file, direct, geometry, memory))
    }

    /// Reads only what is asked for, nothing beyond it (`POSIX_FADV_RANDOM`).
    ///
    /// For a device whose readers read ahead themselves. Linux's own reading ahead leaves large folios in the page
    /// cache, to which small writes are slow on file systems with buffer heads (ext4).
    pub fn without_reading_ahead(self) -> FileDevice {
        // A hint: nothing goes wrong where it is not taken.
        let _ = posix_fadvise(
            self.inner.file.as_fd(),
            0,
            0,
            PosixFadviseAdvice::POSIX_FADV_RANDOM,
        );
        self
    }
}

/// Bytes of a file or block device, as they are now.
pub(super) fn size(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    match metadata.file_type().is_block_device() {
        true => block_device_size(file.as_fd()),
        false => Ok(metadata.len()),
    }
}

/// What names a file or disk, and no other one on this machine until it is started anew: numbers of files and of disks
/// are used again, so with the time at which the file was made, or with the kernel's count of disks.
fn memory(metadata: &Metadata) -> Option<String> {
    if !metadata.file_type().is_block_device() {
        let born = metadata.created().ok()?;
        let born = born.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        return Some(format!("file:{}:{}:{born}", metadata.dev(), metadata.ino()));
    }
    let number = metadata.rdev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    let disk = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has none of its own. Kernels before 5.15 do not count.
    let counts = ["diskseq", "../diskseq"].map(|name| std::fs::read_to_string(disk.join(name)));
    let count = counts.into_iter().find_map(Result::ok)?;
    Some(format!("disk:{major}:{minor}:{}", count.trim_end()))
}

fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), OpenError> {
    let locked = if read_only {
        file.try_lock_shared()
    } else {
        file.try_lock()
    };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.to_owned(),
            by: "another export or program holds its lock (flock); a path can be exported once, or several times read-only",
        }),
        // A file system without locks; there is nothing that could be checked.
        Err(TryLockError::Error(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        Err(TryLockError::Error(source)) => Err(OpenError::Failed {
            path: path.to_owned(),
            source,
        }),
    }
}

fn refused(path: &Path, read_only: bool, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => OpenError::Missing { path },
        Some(libc::EBUSY) => OpenError::InUse {
            path,
            by: "the device is mounted or part of another device; unmount or stop that first",
        },
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            let access = if read_only {
                "reading"
            } else {
                "reading and writing (append ,ro to export it read-only)"
            };
            OpenError::Denied {
                path,
                access,
                source,
            }
        }
        _ => OpenError::Failed { path, source },
    }
}

fn words_for(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "something else"
    }
}

/// What the kernel says of the disk, or of the disk that a partition is on; false when it does not say.
fn is_rotational(device: u64) -> bool {
    let (major, minor) = (libc::major(device), libc::minor(device));
    ["queue/rotational", "../queue/rotational"]
        .iter()
        .any(|attribute| {
            std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{attribute}"))
                .is_ok_and(|value| value.trim() == "1")
        })
}
