//! Ending what netraidd leaves: arrays and exports are processes of their own, which go on when it ends or is killed.
//!
//! In the story they may not. [`kill_all`] is a node that loses power; a [`Guard`] does the same should the story itself
//! be killed.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every process of ours that has one of these paths, or something in it, among its arguments, and waits until
/// none is left. netraidd first: it would start what has ended anew.
///
/// # Errors
/// If one can't be killed, or does not end within [`ENDING`].
pub fn kill_all(paths: &[PathBuf]) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut found = processes(paths)?;
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by_key(|(_, program)| program.as_slice() != b"netraidd");
        for (pid, _) in &found {
            match kill(*pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => bail!("process {pid} can't be killed: {error}"),
            }
        }
        if started.elapsed() > ENDING {
            bail!(
                "process {} does not end; what it waits for is not known",
                found[0].0
            );
        }
        thread::sleep(LOOK);
    }
}

/// The processes of these paths, and the names of their programs: `netraidd`, `netraid run`, and `nbd-server`.
fn processes(paths: &[PathBuf]) -> Result<Vec<(Pid, Vec<u8>)>> {
    let entries = fs::read_dir("/proc").context("/proc")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // One that has just ended has no arguments any more.
    let lines =
        numbers.filter_map(|pid| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?)));
    let found = lines.filter_map(|(pid, line)| {
        let program = program_of(&line, paths)?;
        Some((Pid::from_raw(pid), program))
    });
    Ok(found.collect())
}

/// The name of the program in this command line, if it is one of ours with an argument in one of the paths.
fn program_of(line: &[u8], paths: &[PathBuf]) -> Option<Vec<u8>> {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next()?.rsplit(|byte| *byte == b'/').next()?.to_vec();
    let words: Vec<&[u8]> = words.collect();
    let ours = match program.as_slice() {
        b"netraidd" | b"nbd-server" => true,
        // Not the commands that people give meanwhile, nor the guard.
        b"netraid" => words.first() == Some(&&b"run"[..]),
        _ => false,
    };
    let inside = |word: &&[u8]| {
        // Also in a word like `demo=/folder/disk`.
        let path = word.iter().position(|byte| *byte == b'/');
        let path = path.map(|at| Path::new(std::ffi::OsStr::from_bytes(&word[at..])));
        path.is_some_and(|path| paths.iter().any(|of| path.starts_with(of)))
    };
    (ours && words.iter().any(inside)).then_some(program)
}

/// A process that kills the nodes' processes when it is dropped, or its starter has ended in whatever way.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
}

impl Guard {
    /// Starts it, from this program.
    ///
    /// # Errors
    /// If that can't be done.
    pub(super) fn start(netraid: &Path, paths: &[PathBuf]) -> Result<Guard> {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(netraid);
        command.arg("quickstart");
        for path in paths {
            command.arg("--sweep").arg(path);
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C in a terminal is for the story, which ends it in its turn.
            .process_group(0)
            .spawn()
            .context("a guard of the processes can't be started")?;
        Ok(Guard { child })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The end of its input is its sign. It ends by itself, within ENDING.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the guard does: waits until its standard input ends, then kills all of these paths.
///
/// # Errors
/// As [`kill_all`].
pub fn guard(paths: &[PathBuf]) -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut byte = [0; 64];
    // Whatever comes, an error too, is the end of the story.
    while matches!(input.read(&mut byte), Ok(read) if read > 0) {}
    kill_all(paths)
}

/// Longest for killed processes to end.
const ENDING: Duration = Duration::from_secs(20);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_a_node_are_found() {
        let paths = [PathBuf::from("/demo/server1")];
        let of = |words: &str| program_of(words.replace(' ', "\0").as_bytes(), &paths);
        let found = |words: &str| of(words).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(
            found("/bin/netraidd --config-dir /demo/server1/etc").as_deref(),
            Some("netraidd")
        );
        assert_eq!(
            found("nbd-server --export x=/demo/server1/disk").as_deref(),
            Some("nbd-server")
        );
        assert_eq!(
            found("netraid run --run-dir /demo/server1").as_deref(),
            Some("netraid")
        );
        for other in [
            "netraid quickstart --sweep /demo/server1",
            "netraid status --run-dir /demo/server1",
            "netraidd --config-dir /demo/server10/etc",
            "vi /demo/server1/etc/demo.toml",
            "",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
