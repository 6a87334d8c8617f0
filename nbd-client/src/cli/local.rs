//! A local file or block device as one end of a copy or comparison.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use linux_sys::buffer::Buffer;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::unistd::{Whence, lseek};
use tokio::sync::Mutex;

use super::exit::Exit;
use super::place::Run;
use super::writeback::Writeback;

/// An open file or device of a fixed size.
#[derive(Debug)]
pub(crate) struct Local {
    file: File,
    path: PathBuf,
    size: u64,
    block_device: bool,
    /// The kernel lets one writer at a time at a file, and others spin; here they wait without keeping a processor.
    turn: Mutex<Writeback>,
    /// Made or emptied by us: reads as zeroes wherever nothing was written.
    pub(crate) empty: bool,
}

impl Local {
    /// Opens what is there for reading.
    pub(crate) fn source(path: &Path) -> Result<Local, Exit> {
        let file = File::open(path).map_err(|error| cannot("open", path, &error))?;
        Local::of(file, path)
    }

    /// Opens or makes what `size` bytes are to be written to. What can't take them is refused unchanged.
    pub(crate) fn destination(
        path: &Path,
        size: u64,
        source: Option<&Local>,
    ) -> Result<Local, Exit> {
        match std::fs::metadata(path) {
            Ok(there) if there.file_type().is_block_device() => Local::device(path, size, source),
            Ok(there) if there.is_file() => {
                let file = OpenOptions::new().read(true).write(true).open(path);
                let local = Local::of(file.map_err(|error| cannot("open", path, &error))?, path)?;
                local.refuse_itself(source)?;
                local.emptied(size)
            }
            Ok(_) => Err(neither(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(path);
                Local::of(file.map_err(|error| cannot("make", path, &error))?, path)?.emptied(size)
            }
            Err(error) => Err(cannot("look at", path, &error)),
        }
    }

    fn device(path: &Path, size: u64, source: Option<&Local>) -> Result<Local, Exit> {
        // O_EXCL on a block device fails while it is mounted or part of an array (open(2)).
        let flags = OFlag::O_EXCL.bits();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(code) if code == Errno::EBUSY as i32 => Exit::refused(format!(
                    "{} is in use (mounted, or part of an array)",
                    path.display()
                )),
                _ => cannot("open", path, &error),
            })?;
        let local = Local::of(file, path)?;
        local.refuse_itself(source)?;
        if local.size < size {
            return Err(too_small(&path.display().to_string(), local.size, size));
        }
        Ok(local)
    }

    fn of(file: File, path: &Path) -> Result<Local, Exit> {
        let there = file
            .metadata()
            .map_err(|error| cannot("look at", path, &error))?;
        let block_device = there.file_type().is_block_device();
        let size = if block_device {
            linux_sys::file::block_device_size(file.as_fd())
                .map_err(|error| cannot("measure", path, &error))?
        } else if there.is_file() {
            there.len()
        } else {
            return Err(neither(path));
        };
        Ok(Local {
            file,
            path: path.to_owned(),
            size,
            block_device,
            empty: false,
            turn: Mutex::default(),
        })
    }

    fn emptied(mut self, size: u64) -> Result<Local, Exit> {
        let resized = self.file.set_len(0).and_then(|()| self.file.set_len(size));
        resized.map_err(|error| cannot("resize", &self.path, &error))?;
        self.size = size;
        self.empty = true;
        Ok(self)
    }

    fn refuse_itself(&self, source: Option<&Local>) -> Result<(), Exit> {
        let Some(source) = source else { return Ok(()) };
        let (Ok(from), Ok(to)) = (source.file.metadata(), self.file.metadata()) else {
            return Ok(());
        };
        let same = if self.block_device && source.block_device {
            from.rdev() == to.rdev()
        } else {
            (from.dev(), from.ino()) == (to.dev(), to.ino())
        };
        if same {
            return Err(Exit::refused(format!(
                "{} is the source itself",
                self.path.display()
            )));
        }
        Ok(())
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut buffer = Buffer::take(length);
        self.file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.freeze())
    }

    pub(crate) async fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut turn = self.turn.lock().await;
        self.file.write_all_at(data, offset)?;
        turn.wrote(&self.file, offset);
        Ok(())
    }

    /// Makes a range read as zeroes, by a hole unless `allocated`.
    pub(crate) fn zero(&self, offset: u64, length: u64, allocated: bool) -> io::Result<()> {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let ways: &[FallocateFlags] = if allocated {
            &[FallocateFlags::FALLOC_FL_ZERO_RANGE]
        } else {
            &[hole, FallocateFlags::FALLOC_FL_ZERO_RANGE]
        };
        let large = || io::Error::from(io::ErrorKind::InvalidInput);
        let (at, count) = (
            i64::try_from(offset).map_err(|_| large())?,
            i64::try_from(length).map_err(|_| large())?,
        );
        for way in ways {
            match fallocate(&self.file, *way, at, count) {
                Ok(()) => return Ok(()),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL | Errno::ENODEV) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let zeroes = vec![0; length.min(ZERO_STEP) as usize];
        let mut written = 0;
        while written < length {
            let step = ZERO_STEP.min(length - written);
            self.file
                .write_all_at(&zeroes[..step as usize], offset + written)?;
            written += step;
        }
        Ok(())
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The run that begins at `offset`, before the end: a hole of a file is zero; all else is data.
    pub(crate) fn run_at(&self, offset: u64) -> io::Result<Run> {
        let rest = Run {
            length: self.size - offset,
            zero: false,
        };
        let Ok(at) = i64::try_from(offset) else {
            return Ok(rest);
        };
        if self.block_device {
            return Ok(rest);
        }
        let data = match lseek(&self.file, at, Whence::SeekData) {
            Ok(data) => u64::try_from(data).unwrap_or(offset),
            Err(Errno::ENXIO) => return Ok(Run { zero: true, ..rest }),
            // A file system that can't tell.
            Err(_) => return Ok(rest),
        };
        if data > offset {
            return Ok(Run {
                length: data.min(self.size) - offset,
                zero: true,
            });
        }
        let hole = lseek(&self.file, at, Whence::SeekHole)?;
        let hole = u64::try_from(hole).unwrap_or(self.size).min(self.size);
        if hole <= offset {
            Ok(rest)
        } else {
            Ok(Run {
                length: hole - offset,
                zero: false,
            })
        }
    }
}

/// The one sentence for every destination that is too small.
pub(crate) fn too_small(what: &str, has: u64, needs: u64) -> Exit {
    Exit::refused(format!(
        "{what} has {has} bytes, but {needs} are to be copied; nothing was written"
    ))
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Exit {
    let message = format!("can't {verb} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Exit::usage(message),
        _ => Exit::failed(message),
    }
}

fn neither(path: &Path) -> Exit {
    Exit::usage(format!(
        "{} is neither a file nor a block device",
        path.display()
    ))
}

/// Piece in which zeroes are written where the file system knows no better way, in bytes.
const ZERO_STEP: u64 = 1 << 20;
