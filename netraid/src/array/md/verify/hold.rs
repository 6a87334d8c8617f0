//! Keeping writes out of a part of a running array: md's `suspend_lo` and `suspend_hi`, sectors between which writes wait.
//!
//! Setting either waits until md has nothing under way. An array that nobody lets go on would be worse than any difference,
//! so there are three who do: whoever holds it, whatever goes wrong; a process that outlives this one and waits for its end;
//! and the next daemon, which finds the array.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::super::sysfs;

/// The part of one array that is held.
#[derive(Debug)]
pub(super) struct Hold {
    low: PathBuf,
    high: PathBuf,
    guard: Option<Child>,
    held: bool,
}

impl Hold {
    /// For the array with this md folder; nothing is held yet.
    pub(super) fn new(folder: &Path) -> Hold {
        Hold {
            low: folder.join("suspend_lo"),
            high: folder.join("suspend_hi"),
            guard: None,
            held: false,
        }
    }

    /// Has writes to these sectors wait; returns when what was under way is done.
    ///
    /// # Errors
    /// If there is nobody to let go of it when this process dies, or md does not take it.
    pub(super) fn hold(&mut self, sectors: &Range<u64>) -> io::Result<()> {
        if self.guard.is_none() {
            self.guard = Some(self.start_guard()?);
        }
        self.held = true;
        let held = sysfs::write(&self.low, &sectors.start.to_string())
            .and_then(|()| sysfs::write(&self.high, &sectors.end.to_string()));
        held.inspect_err(|_| drop(self.release()))
    }

    /// Whether these sectors are held still: somebody else may have let go of them.
    ///
    /// # Errors
    /// If md does not say.
    pub(super) fn holds(&self, sectors: &Range<u64>) -> io::Result<bool> {
        let value = |file: &Path| sysfs::read(file).map(|text| sysfs::number::<u64>(&text));
        Ok(value(&self.low)? == Some(sectors.start) && value(&self.high)? == Some(sectors.end))
    }

    /// Lets all writes in again.
    ///
    /// # Errors
    /// If md does not take it. Who waits for the end of this process tries again then.
    pub(super) fn release(&mut self) -> io::Result<()> {
        if self.held {
            // The upper end first: nothing is between them then.
            sysfs::write(&self.high, "0")?;
            sysfs::write(&self.low, "0")?;
            self.held = false;
        }
        Ok(())
    }

    /// A shell that lets go when its input ends, as it does when this process dies in whatever way.
    fn start_guard(&self) -> io::Result<Child> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "netraid-verify-guard"]);
        command.args([&self.high, &self.low]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        // Whoever interrupts the daemon means the guard least of all.
        command.process_group(0);
        command.spawn()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::error!("{} can't be set to 0: {error}", self.high.display());
        }
        // It sets them once more, and must have done so before anybody holds the array again.
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            if let Err(error) = guard.wait() {
                tracing::warn!("the guard of {}: {error}", self.high.display());
            }
        }
    }
}

/// Lets go of what a daemon that died held, if its guard was killed too; true if there was something.
///
/// # Errors
/// If md does not take it.
pub(super) fn let_go(folder: &Path) -> io::Result<bool> {
    let high = folder.join("suspend_hi");
    if File::open(&high).is_err() {
        return Ok(false);
    }
    let held = sysfs::number::<u64>(&sysfs::read(&high)?).unwrap_or(0) > 0;
    if held {
        sysfs::write(&high, "0")?;
        sysfs::write(&folder.join("suspend_lo"), "0")?;
    }
    Ok(held)
}

/// Signals that are meant for all of a session do not reach it.
const GUARD: &str =
    "trap '' HUP INT TERM; while read -r line; do :; done; echo 0 >\"$1\"; echo 0 >\"$2\"";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder() -> (tempfile::TempDir, impl Fn() -> (String, String)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let files = ["suspend_lo", "suspend_hi"].map(|name| path.join(name));
        for file in &files {
            fs::write(file, "0\n").unwrap();
        }
        // A file is not sysfs: what is longer stays behind what is written over it.
        let text = move |file: &PathBuf| fs::read_to_string(file).unwrap().trim().to_owned();
        (folder, move || (text(&files[0]), text(&files[1])))
    }

    #[test]
    fn what_is_held_is_let_go_of_and_by_the_guard_when_nobody_else_can() {
        let (folder, values) = folder();
        let mut hold = Hold::new(folder.path());
        hold.hold(&(8..9)).unwrap();
        assert_eq!(values(), ("8".into(), "9".into()));
        assert!(hold.holds(&(8..9)).unwrap() && !hold.holds(&(7..9)).unwrap());
        hold.release().unwrap();
        assert_eq!(values(), ("0".into(), "0".into()));
        hold.hold(&(3..4)).unwrap();
        // As if the process had died: its end of the pipe closes, and no more.
        let mut guard = hold.guard.take().unwrap();
        hold.held = false;
        drop(guard.stdin.take());
        guard.wait().unwrap();
        assert_eq!(values(), ("0".into(), "0".into()));
    }

    #[test]
    fn who_ends_without_a_word_holds_nothing_and_the_next_daemon_lets_go_too() {
        let (folder, values) = folder();
        let mut hold = Hold::new(folder.path());
        hold.hold(&(5..6)).unwrap();
        drop(hold);
        assert_eq!(values(), ("0".into(), "0".into()));
        assert!(!let_go(folder.path()).unwrap());
        fs::write(folder.path().join("suspend_hi"), "7\n").unwrap();
        assert!(let_go(folder.path()).unwrap());
        assert_eq!(values().1, "0");
        assert!(!let_go(&folder.path().join("none")).unwrap());
    }
}
