//! `install`: lays the scripts out below `$LKROOT`, as links to one program.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::script::Script;

/// Runs it.
pub(crate) fn main(words: &[String]) -> ExitCode {
    let (mut root, mut dry_run, mut force) = (None, false, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--lkroot" => root = words.next().map(PathBuf::from),
            "--dry-run" => dry_run = true,
            "--force" => force = true,
            other => return usage(&format!("{other:?} is not known")),
        }
    }
    let Some(root) = root else {
        return usage("--lkroot DIR is needed");
    };
    if !root.is_dir() {
        return usage(&format!(
            "{} is no folder; is LifeKeeper there?",
            root.display()
        ));
    }
    let foreign: Vec<PathBuf> = links()
        .map(|(link, to)| (root.join(link), to))
        .filter(|(link, to)| is_foreign(link, to))
        .map(|(link, _)| link)
        .collect();
    if let (Some(first), false) = (foreign.first(), force) {
        eprintln!(
            "lifekeeper-hooks: {} belongs to another kit; nothing was changed",
            first.display()
        );
        eprintln!("hint: --force replaces it");
        return ExitCode::from(3);
    }
    match lay_out(&root, dry_run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lifekeeper-hooks: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("lifekeeper-hooks: install: {why}");
    eprintln!("hint: lifekeeper-hooks install --lkroot /opt/LifeKeeper");
    ExitCode::from(crate::USAGE)
}

/// Each script's place below `$LKROOT`, and what its link says.
fn links() -> impl Iterator<Item = (PathBuf, String)> {
    Script::ALL.into_iter().map(|script| {
        let folder = match script {
            Script::Restore | Script::Remove | Script::QuickCheck | Script::Delete => ACTIONS,
            // The event netraid,recover: class and name.
            Script::Recover => EVENTS,
            _ => BIN,
        };
        let up = "../".repeat(Path::new(folder).components().count());
        let to = match folder {
            BIN => PROGRAM.to_owned(),
            _ => format!("{up}{BIN}/{PROGRAM}"),
        };
        (Path::new(folder).join(script.name()), to)
    })
}

fn is_foreign(link: &Path, to: &str) -> bool {
    match fs::read_link(link) {
        Ok(there) => there != Path::new(to),
        Err(_) => link.exists(),
    }
}

fn lay_out(root: &Path, dry_run: bool) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = root.join(BIN).join(PROGRAM);
    let explain = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    for folder in [ACTIONS, EVENTS, BIN] {
        let folder = root.join(folder);
        if folder.is_dir() {
            continue;
        }
        println!("mkdir -p {}", folder.display());
        if !dry_run {
            fs::create_dir_all(&folder).map_err(|error| explain(&folder, error))?;
        }
    }
    if !same(&own, &program) {
        println!("install -m 755 {} {}", own.display(), program.display());
        if !dry_run {
            copy(&own, &program).map_err(|error| explain(&program, error))?;
        }
    }
    for (link, to) in links() {
        let link = root.join(link);
        if fs::read_link(&link).is_ok_and(|there| there == Path::new(&to)) {
            continue;
        }
        println!("ln -sfn {to} {}", link.display());
        if !dry_run {
            // Beside it first, so that the script is there at every moment.
            let new = link.with_extension("new");
            let _ = fs::remove_file(&new);
            symlink(&to, &new)
                .and_then(|()| fs::rename(&new, &link))
                .map_err(|error| explain(&link, error))?;
        }
    }
    Ok(())
}

/// Whether two files are one, or hold the same. Piece by piece: a program with all that a debugger wants is large.
fn same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| fs::canonicalize(path).ok();
    if place(one).is_some() && place(one) == place(other) {
        return true;
    }
    equal(one, other).unwrap_or(false)
}

fn equal(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if other.metadata()?.len() != left {
        return Ok(false);
    }
    let (mut here, mut there) = (vec![0; PIECE], vec![0; PIECE]);
    while left > 0 {
        let length = left.min(PIECE as u64) as usize;
        one.read_exact(&mut here[..length])?;
        other.read_exact(&mut there[..length])?;
        if here[..length] != there[..length] {
            return Ok(false);
        }
        left -= length as u64;
    }
    Ok(true)
}

/// Replaces the program in one step: it may run just now.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let new = to.with_extension("new");
    fs::copy(from, &new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, to)
}

/// Bytes that are compared at a time.
const PIECE: usize = 64 << 10;
const PROGRAM: &str = "lifekeeper-hooks";
const BIN: &str = "lkadm/subsys/scsi/netraid/bin";
const ACTIONS: &str = "subsys/scsi/resources/netraid/actions";
const EVENTS: &str = "subsys/scsi/resources/netraid/netraid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_only_to_the_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let mut bytes = vec![7; 2 * PIECE + 1];
        let (one, two) = (file("one", &bytes), file("two", &bytes));
        bytes[2 * PIECE] = 8;
        let other = file("other", &bytes);
        let shorter = file("shorter", &bytes[..2 * PIECE]);
        let link = folder.path().join("link");
        symlink(&one, &link).unwrap();
        assert!(same(&one, &two) && same(&one, &link));
        assert!(!same(&one, &other) && !same(&other, &shorter));
        assert!(!same(&one, &folder.path().join("none")));
    }
}
