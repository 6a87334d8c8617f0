//! What `/sys` and `/proc` tell about the kernel's NBD devices: size, owner, and who uses them.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel shows itself; a test shows something else.
#[derive(Clone, Debug)]
pub struct Tree {
    sys: PathBuf,
    proc: PathBuf,
}

/// A device as sysfs shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The process that attached it; it may have ended long ago. `None`: not attached.
    pub pid: Option<u32>,
    /// Size in bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Nobody may write.
    pub read_only: bool,
    /// What it was attached with as identifier.
    pub identifier: Option<String>,
}

/// Somebody who uses a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// Another block device is built on it, such as `md0` or `dm-1`.
    Device(String),
    /// A file system on it is mounted here.
    Mount(String),
    /// Memory is swapped to it.
    Swap,
    /// A process has it open.
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
}

impl User {
    /// A word for the kind of use.
    pub fn kind(&self) -> &'static str {
        match self {
            User::Device(_) => "device",
            User::Mount(_) => "mount",
            User::Swap => "swap",
            User::Process { .. } => "process",
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Device(name) => f.write_str(name),
            User::Mount(path) => f.write_str(path),
            User::Swap => f.write_str("swap"),
            User::Process { pid, name } => write!(f, "{name}({pid})"),
        }
    }
}

impl Tree {
    /// That of the running system.
    pub fn system() -> Tree {
        Tree::at("/sys", "/proc")
    }

    /// One that is somewhere else.
    pub fn at(sys: impl Into<PathBuf>, proc: impl Into<PathBuf>) -> Tree {
        Tree {
            sys: sys.into(),
            proc: proc.into(),
        }
    }

    /// The device N; `None` if there is none.
    pub fn device(&self, index: u32) -> Option<Found> {
        let folder = self.folder(index);
        if !folder.is_dir() {
            return None;
        }
        let number =
            |name: &str| line(&folder.join(name)).and_then(|text| text.parse::<u64>().ok());
        Some(Found {
            pid: number("pid").and_then(|pid| u32::try_from(pid).ok()),
            // sysfs counts in units of 512 bytes, whatever the block size.
            size: number("size").unwrap_or(0).saturating_mul(512),
            block_size: number("queue/logical_block_size")
                .and_then(|size| u32::try_from(size).ok())
                .unwrap_or(0),
            read_only: number("ro") == Some(1),
            identifier: line(&folder.join("backend")),
        })
    }

    /// Everybody who uses the device N or a partition of it, as far as this process may see.
    pub fn users(&self, index: u32) -> Vec<User> {
        let disk = format!("nbd{index}");
        let mut parts = vec![(disk.clone(), self.folder(index))];
        for name in names(&self.folder(index)) {
            if name.strip_prefix(&disk).is_some_and(is_partition) {
                let folder = self.folder(index).join(&name);
                parts.push((name, folder));
            }
        }
        let names: Vec<String> = parts.iter().map(|(name, _)| name.clone()).collect();
        let numbers: Vec<String> = parts
            .iter()
            .filter_map(|(_, folder)| line(&folder.join("dev")))
            .collect();
        let mut users = BTreeSet::new();
        for (_, folder) in &parts {
            users.extend(
                self::names(&folder.join("holders"))
                    .into_iter()
                    .map(User::Device),
            );
        }
        users.extend(self.loops(&names));
        users.extend(self.mounts(&names, &numbers));
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        if swaps
            .lines()
            .any(|line| is_one_of(first_word(line), &names))
        {
            users.insert(User::Swap);
        }
        users.extend(self.processes(&names));
        users.into_iter().collect()
    }

    /// The name of a process; `None` if it has ended.
    pub fn process_name(&self, pid: u32) -> Option<String> {
        line(&self.proc.join(pid.to_string()).join("comm"))
    }

    /// Lets the kernel's requests be as long as `bytes` (nbd.c begins with 128 KiB), and in the order in which they come:
    /// a server's disk has a scheduler of its own.
    pub(super) fn size_requests(&self, index: u32, bytes: u32) -> io::Result<()> {
        let queue = self.folder(index).join("queue");
        fs::write(queue.join("max_sectors_kb"), (bytes / 1024).to_string())?;
        // Some kernels have no choice of schedulers: nothing is wrong with theirs.
        let _ = fs::write(queue.join("scheduler"), "none");
        Ok(())
    }

    fn folder(&self, index: u32) -> PathBuf {
        self.sys.join(format!("block/nbd{index}"))
    }

    /// Loop devices over one of the devices.
    fn loops(&self, devices: &[String]) -> Vec<User> {
        let block = self.sys.join("block");
        let over = |name: &String| {
            let file = line(&block.join(name).join("loop/backing_file"));
            file.is_some_and(|file| is_one_of(&file, devices))
        };
        let mut loops = names(&block);
        loops.retain(|name| name.starts_with("loop") && over(name));
        loops.into_iter().map(User::Device).collect()
    }

    /// Mounts of this process's view, proc(5): the third word is the device's number, and behind " - " come the file
    /// system's type and source.
    fn mounts(&self, devices: &[String], numbers: &[String]) -> Vec<User> {
        let table = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        let mounts = table.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let number = words.nth(2)?;
            let place = words.nth(1)?;
            let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
            let ours = numbers.iter().any(|ours| ours == number) || is_one_of(source, devices);
            ours.then(|| User::Mount(unescape(place)))
        });
        mounts.collect()
    }

    fn processes(&self, devices: &[String]) -> Vec<User> {
        let mut users = Vec::new();
        for pid in names(&self.proc)
            .iter()
            .filter_map(|name| name.parse::<u32>().ok())
        {
            if pid == std::process::id() {
                continue;
            }
            let folder = self.proc.join(pid.to_string()).join("fd");
            let open = names(&folder).iter().any(|descriptor| {
                fs::read_link(folder.join(descriptor))
                    .is_ok_and(|file| is_one_of(&file.to_string_lossy(), devices))
            });
            if open {
                let name = self.process_name(pid).unwrap_or_else(|| "?".to_owned());
                users.push(User::Process { pid, name });
            }
        }
        users
    }
}

/// Whether a path is that of one of the devices, `/dev/NAME` in whatever folder.
fn is_one_of(path: &str, devices: &[String]) -> bool {
    path.rsplit_once('/')
        .is_some_and(|(_, name)| devices.iter().any(|device| device == name))
}

fn is_partition(rest: &str) -> bool {
    rest.strip_prefix('p').is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// Undoes what the kernel does to spaces in the tables of mounts.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

/// A file's only line, without the end of it.
fn line(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim_end_matches('\n').to_owned()).filter(|text| !text.is_empty())
}

/// The names in a folder, in order; none if it can't be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree with the files given.
    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let tree = Tree::at(folder.path().join("sys"), folder.path().join("proc"));
        (folder, tree)
    }

    #[test]
    fn an_attached_device_is_described() {
        let (_folder, tree) = tree(&[
            ("sys/block/nbd3/size", "2048\n"),
            ("sys/block/nbd3/ro", "1\n"),
            ("sys/block/nbd3/pid", "77\n"),
            ("sys/block/nbd3/backend", "nbd://server2/disk\n"),
            ("sys/block/nbd3/queue/logical_block_size", "4096\n"),
            ("sys/block/nbd4/size", "0\n"),
        ]);
        let found = Found {
            pid: Some(77),
            size: 1 << 20,
            block_size: 4096,
            read_only: true,
            identifier: Some("nbd://server2/disk".into()),
        };
        assert_eq!(tree.device(3), Some(found));
        assert_eq!(tree.device(4), Some(Found::default()));
        assert_eq!(tree.device(5), None);
    }

    #[test]
    fn everybody_who_uses_a_device_or_a_partition_of_it_is_found() {
        let (folder, tree) = tree(&[
            ("sys/block/nbd1/dev", "43:16\n"),
            ("sys/block/nbd1/holders/md0", ""),
            ("sys/block/nbd1/nbd1p2/dev", "43:18\n"),
            ("sys/block/nbd1/nbd1p2/holders/dm-4", ""),
            ("sys/block/nbd10/dev", "43:160\n"),
            ("sys/block/loop0/loop/backing_file", "/dev/nbd1\n"),
            ("sys/block/loop1/loop/backing_file", "/dev/nbd10\n"),
            (
                "proc/self/mountinfo",
                "1 2 43:18 / /srv\\040x rw - ext4 /dev/nbd1p2 rw\n\
                 1 2 0:40 / /b rw - btrfs /dev/nbd1 rw\n\
                 1 2 43:160 / /c rw - ext4 /dev/nbd10 rw\n",
            ),
            ("proc/swaps", "Filename Type\n/dev/nbd1p2 partition 1 2\n"),
            ("proc/12/comm", "dd\n"),
            ("proc/12/fd/none", ""),
            ("proc/13/comm", "cat\n"),
            ("proc/13/fd/none", ""),
        ]);
        symlink("/dev/nbd1", folder.path().join("proc/12/fd/3")).unwrap();
        symlink("/dev/nbd10", folder.path().join("proc/13/fd/3")).unwrap();
        let users: Vec<String> = tree
            .users(1)
            .iter()
            .map(|user| format!("{} {user}", user.kind()))
            .collect();
        assert_eq!(
            users,
            [
                "device dm-4",
                "device loop0",
                "device md0",
                "mount /b",
                "mount /srv x",
                "swap swap",
                "process dd(12)"
            ]
        );
        assert_eq!(tree.users(2), []);
    }

    #[test]
    fn requests_get_the_length_that_is_asked_for() {
        let (folder, tree) = tree(&[("sys/block/nbd0/queue/max_sectors_kb", "128\n")]);
        let file = folder.path().join("sys/block/nbd0/queue/max_sectors_kb");
        for (bytes, kib) in [(1 << 20, "1024"), (65536, "64")] {
            tree.size_requests(0, bytes).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), kib);
        }
        assert!(tree.size_requests(1, 65536).is_err(), "no such device");
    }
}
