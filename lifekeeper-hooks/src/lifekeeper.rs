//! LifeKeeper's own commands in `$LKROOT/bin`, each within a bound.
//!
//! What is left behind must not hold our standard error: who started us reads it until everybody has closed it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::script::lkroot;

/// How one of them ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With this code, and this on standard output.
    Code(i32, String),
    /// Not within its time; it was ended.
    Late,
    /// It could not be started.
    Absent(String),
}

/// Raises an event. What LifeKeeper does about it may take long, and goes on without us.
pub(crate) fn raise(words: &[&str], until: Instant) -> Ended {
    let mut command = Command::new(lkroot().join("bin/sendevent"));
    command.args(words).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ended::Absent(format!("sendevent: {error}")),
    };
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ended::Code(status.code().unwrap_or(-1), String::new()),
            Ok(None) if Instant::now() < until => thread::sleep(POLL),
            Ok(None) => return Ended::Late,
            Err(error) => return Ended::Absent(error.to_string()),
        }
    }
}

/// Runs one of LifeKeeper's commands until `until` at most.
pub(crate) fn run(name: &str, words: &[&str], until: Instant) -> Ended {
    let path = lkroot().join("bin").join(name);
    let started = Command::new(&path)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return Ended::Absent(format!("{}: {error}", path.display())),
    };
    let output = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        if let Some(output) = output {
            // What is no text is nothing that we look for.
            let _ = output.take(MOST).read_to_string(&mut text);
        }
        text
    });
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                // A process that it left behind may hold the pipe.
                while !reader.is_finished() && Instant::now() < until {
                    thread::sleep(POLL);
                }
                let text = match reader.is_finished() {
                    true => reader.join().unwrap_or_default(),
                    false => String::new(),
                };
                return Ended::Code(status.code().unwrap_or(-1), text);
            }
            Ok(None) if Instant::now() < until => thread::sleep(POLL),
            Ok(None) => {
                end(&mut child);
                return Ended::Late;
            }
            Err(error) => return Ended::Absent(error.to_string()),
        }
    }
}

/// Ends a command and all that it started.
fn end(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // It may have ended just now.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _ = child.wait();
    }
}

/// Bytes of output that are taken.
const MOST: u64 = 1 << 20;
/// Between two looks at a process.
const POLL: Duration = Duration::from_millis(5);
