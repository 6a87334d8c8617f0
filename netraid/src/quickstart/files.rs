//! The real data of the story: gathering files, putting them into an ext4 image, and getting them out again to compare.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::folder;
use super::interrupt::Interrupt;
use super::process;
use super::tools::Tools;

/// What was gathered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Regular files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Whether something was left out because there was no room for it.
    pub cut: bool,
    /// Files that can't be read, and devices, sockets and the like.
    pub skipped: u64,
}

/// Copies folders as far as they fit.
#[derive(Debug)]
pub struct Gatherer<'a> {
    /// Bytes that may still be added, each file counted in whole blocks.
    pub room: u64,
    /// Entries that may still be added.
    pub entries: u64,
    /// Asked before each file.
    pub interrupt: &'a Interrupt,
    /// What was gathered so far.
    pub gathered: Gathered,
}

impl Gatherer<'_> {
    /// Copies a folder with everything below it. Left out: `.git`, build folders (those with a `CACHEDIR.TAG`), folders
    /// that a quickstart made, `hidden`, and what can't be read.
    ///
    /// # Errors
    /// If the folder itself can't be read or a copy can't be written.
    pub fn add(&mut self, from: &Path, to: &Path, hidden: &Path) -> Result<()> {
        fs::create_dir_all(to).with_context(|| to.display().to_string())?;
        let entries = fs::read_dir(from).with_context(|| from.display().to_string())?;
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        // The same files each time, whatever the order of the folder on its disk.
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            self.interrupt.check()?;
            let (source, copy) = (entry.path(), to.join(entry.file_name()));
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                if !is_left_out(&source, hidden) && self.fits(BLOCK) {
                    match fs::read_dir(&source) {
                        Ok(_) => self.add(&source, &copy, hidden)?,
                        Err(_) => self.gathered.skipped += 1,
                    }
                }
            } else if kind.is_symlink() {
                if self.fits(BLOCK) {
                    let target = fs::read_link(&source)?;
                    std::os::unix::fs::symlink(target, &copy)
                        .with_context(|| copy.display().to_string())?;
                }
            } else if kind.is_file() {
                self.add_file(&source, &copy)?;
            } else {
                self.gathered.skipped += 1;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, source: &Path, copy: &Path) -> Result<()> {
        let Ok(mut from) = File::open(source) else {
            self.gathered.skipped += 1;
            return Ok(());
        };
        let length = from.metadata()?.len();
        if !self.fits(length.next_multiple_of(BLOCK)) {
            return Ok(());
        }
        let mut to = File::create(copy).with_context(|| copy.display().to_string())?;
        // No more than was counted: a log may be growing.
        let copied = std::io::copy(&mut from.by_ref().take(length), &mut to);
        self.gathered.bytes += copied.with_context(|| copy.display().to_string())?;
        self.gathered.files += 1;
        Ok(())
    }

    fn fits(&mut self, bytes: u64) -> bool {
        if bytes > self.room || self.entries == 0 {
            self.gathered.cut = true;
            return false;
        }
        self.room -= bytes;
        self.entries -= 1;
        true
    }
}

fn is_left_out(path: &Path, hidden: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".git")
        || path.join("CACHEDIR.TAG").is_file()
        || folder::is_demo(path)
        || path.canonicalize().is_ok_and(|path| path == hidden)
}

/// The folders to take when none are named: the current one if it is a project, and the system's documentation.
pub fn usual_folders() -> Vec<PathBuf> {
    let current = std::env::current_dir()
        .ok()
        .filter(|path| path.join("Cargo.toml").is_file());
    let system = Some(PathBuf::from("/usr/share/doc")).filter(|path| path.is_dir());
    current.into_iter().chain(system).collect()
}

/// Room for the data of files in a file system of `size` bytes, and for entries: what ext4 needs itself is left out with
/// a good margin.
pub fn room(size: u64) -> (u64, u64) {
    (size / 10 * 6, size / 20_000)
}

/// Makes an ext4 image of `size` bytes with the files below `from`.
///
/// # Errors
/// With what `mkfs.ext4` said.
pub fn make_file_system(
    tools: &Tools,
    from: &Path,
    image: &Path,
    size: u64,
    log: &Path,
    interrupt: &Interrupt,
) -> Result<()> {
    File::create(image)
        .and_then(|file| file.set_len(size))
        .with_context(|| image.display().to_string())?;
    let mut command = Command::new(&tools.mkfs);
    // No room is kept for root, and no more inodes are made than the data needs.
    command.args([
        "-q",
        "-F",
        "-b",
        "4096",
        "-m",
        "0",
        "-i",
        "16384",
        "-L",
        "netraid-demo",
        "-d",
    ]);
    command.arg(from).arg(image);
    tool(&command, log, interrupt).map(drop)
}

/// Checks a file system without changing it. Returns what the checker says of it in one line.
///
/// # Errors
/// If anything is wrong with it: with what `e2fsck` said.
pub fn check_file_system(
    tools: &Tools,
    image: &Path,
    log: &Path,
    interrupt: &Interrupt,
) -> Result<String> {
    let mut command = Command::new(&tools.e2fsck);
    command.arg("-fn").arg(image);
    let said = tool(&command, log, interrupt)?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

/// Takes all files out of an ext4 image, into a new folder.
///
/// # Errors
/// With what `debugfs` said. It does not notice what it can't read: compare afterwards.
pub fn extract(
    tools: &Tools,
    image: &Path,
    to: &Path,
    log: &Path,
    interrupt: &Interrupt,
) -> Result<()> {
    fs::create_dir(to).with_context(|| to.display().to_string())?;
    let mut command = Command::new(&tools.debugfs);
    // Its command line has no escapes but double quotes.
    let path = to.to_str().filter(|path| !path.contains(['"', '\n']));
    let path =
        path.with_context(|| format!("{} has a name that debugfs can't take", to.display()))?;
    command
        .arg("-R")
        .arg(format!("rdump / \"{path}\""))
        .arg(image);
    tool(&command, log, interrupt).map(drop)
}

fn tool(command: &Command, log: &Path, interrupt: &Interrupt) -> Result<String> {
    let (status, said) = process::run(command, log, PATIENCE, interrupt)?;
    if !status.success() {
        let name = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .display()
            .to_string();
        let last: Vec<&str> = said.lines().rev().take(8).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("{name} failed ({status}): {}", last.join("; "));
    }
    Ok(said)
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Regular files, each byte by byte.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Symbolic links, by where they point.
    pub links: u64,
}

/// Makes sure that `copy` has everything that `original` has, with the same contents, and nothing more except for the
/// file system's own `lost+found`.
///
/// # Errors
/// Names the first entry that is missing, additional or different.
pub fn compare(original: &Path, copy: &Path, interrupt: &Interrupt) -> Result<Compared> {
    let mut compared = Compared::default();
    compare_folders(original, copy, interrupt, &mut compared)?;
    Ok(compared)
}

fn compare_folders(
    original: &Path,
    copy: &Path,
    interrupt: &Interrupt,
    compared: &mut Compared,
) -> Result<()> {
    interrupt.check()?;
    let (ours, theirs) = (names(original)?, names(copy)?);
    if let Some(extra) = theirs
        .iter()
        .find(|name| ours.binary_search(name).is_err() && *name != "lost+found")
    {
        bail!(
            "{} is on the disk, but not in the original",
            copy.join(extra).display()
        );
    }
    for name in ours {
        let (one, other) = (original.join(&name), copy.join(&name));
        let kind = fs::symlink_metadata(&one)?.file_type();
        let found = match fs::symlink_metadata(&other) {
            Ok(found) => found.file_type(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{} is missing on the disk", one.display())
            }
            Err(error) => return Err(error).with_context(|| other.display().to_string()),
        };
        if kind != found {
            bail!(
                "{} is something else on the disk than in the original",
                one.display()
            );
        }
        if kind.is_dir() {
            compare_folders(&one, &other, interrupt, compared)?;
        } else if kind.is_symlink() {
            if fs::read_link(&one)? != fs::read_link(&other)? {
                bail!(
                    "{} points elsewhere on the disk than in the original",
                    one.display()
                );
            }
            compared.links += 1;
        } else {
            compared.bytes += compare_files(&one, &other)?;
            compared.files += 1;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let read = || -> std::io::Result<Vec<_>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    let mut names = read().with_context(|| folder.display().to_string())?;
    names.sort();
    Ok(names)
}

/// Bytes of both, which are equal.
fn compare_files(one: &Path, other: &Path) -> Result<u64> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (mut here, mut there) = (open(one)?, open(other)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    loop {
        left.clear();
        right.clear();
        here.by_ref().take(STEP).read_to_end(&mut left)?;
        there.by_ref().take(STEP).read_to_end(&mut right)?;
        if left != right {
            bail!(
                "{} has other contents on the disk than in the original",
                one.display()
            );
        }
        if left.is_empty() {
            return Ok(bytes);
        }
        bytes += left.len() as u64;
    }
}

/// The block of the file system.
const BLOCK: u64 = 4096;
/// Bytes compared at once.
const STEP: u64 = 1 << 20;
/// For one run of one tool.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(folder: &Path) -> PathBuf {
        let root = folder.join("tree");
        for name in ["a", "a/b", ".git", "target", "old-demo"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("a/one"), "1").unwrap();
        fs::write(root.join("a/b/two"), vec![2; 5000]).unwrap();
        fs::write(root.join(".git/HEAD"), "x").unwrap();
        fs::write(root.join("target/CACHEDIR.TAG"), "x").unwrap();
        fs::write(root.join("old-demo/.netraid-demo"), "x").unwrap();
        std::os::unix::fs::symlink("a/one", root.join("link")).unwrap();
        root
    }

    fn gather(from: &Path, to: &Path, room: u64) -> Gathered {
        let interrupt = Interrupt::default();
        let gathered = Gathered::default();
        let mut gatherer = Gatherer {
            room,
            entries: 100,
            interrupt: &interrupt,
            gathered,
        };
        gatherer.add(from, to, Path::new("/nowhere")).unwrap();
        gatherer.gathered
    }

    #[test]
    fn what_is_real_is_gathered_and_what_is_made_is_left_out() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, copy) = (tree(scratch.path()), scratch.path().join("copy"));
        let gathered = gather(&root, &copy, 1 << 20);
        assert_eq!(
            gathered,
            Gathered {
                files: 2,
                bytes: 5001,
                cut: false,
                skipped: 0
            }
        );
        assert_eq!(names(&copy).unwrap(), ["a", "link"]);
        fs::create_dir(copy.join("lost+found")).unwrap();
        for name in [".git", "target", "old-demo"] {
            fs::remove_dir_all(root.join(name)).unwrap();
        }
        let compared = compare(&root, &copy, &Interrupt::default()).unwrap();
        assert_eq!(
            compared,
            Compared {
                files: 2,
                bytes: 5001,
                links: 1
            }
        );
    }

    #[test]
    fn gathering_stops_where_the_room_ends() {
        let scratch = tempfile::tempdir().unwrap();
        let gathered = gather(
            &tree(scratch.path()),
            &scratch.path().join("copy"),
            4 * BLOCK,
        );
        // Two folders and two blocks for the file in the inner one.
        assert_eq!(
            gathered,
            Gathered {
                files: 1,
                bytes: 5000,
                cut: true,
                skipped: 0
            }
        );
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, copy) = (tree(scratch.path()), scratch.path().join("copy"));
        let check = |part: &str| {
            let error = compare(&copy, &root, &Interrupt::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        };
        gather(&root, &copy, 1 << 20);
        check(".git is on the disk, but not in the original");
        fs::remove_dir_all(root.join(".git")).unwrap();
        fs::remove_dir_all(root.join("target")).unwrap();
        fs::remove_dir_all(root.join("old-demo")).unwrap();
        fs::write(root.join("a/b/two"), vec![2; 4999]).unwrap();
        check("a/b/two has other contents");
        fs::remove_file(root.join("a/b/two")).unwrap();
        check("a/b/two is missing");
        fs::create_dir(root.join("a/b/two")).unwrap();
        check("a/b/two is something else");
        fs::remove_dir(root.join("a/b/two")).unwrap();
        fs::write(root.join("a/b/two"), vec![2; 5000]).unwrap();
        fs::remove_file(root.join("link")).unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        check("link points elsewhere");
    }
}
