//! The last word of a node's init: runs the lab's commands, several at once, and reaps every orphan of the node.
//!
//! Standard input and output are the serial line to the lab; what goes wrong is said on standard error, the console.

use anyhow::{Context, Result};
use netraid_lab::wire::{Report, Request, from_hex, to_hex};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A command whose background children hold its output open has ended nevertheless: this long after it, at the latest.
const LAST_WORDS: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    let jobs = Arc::new(Jobs::default());
    let reaper = Arc::clone(&jobs);
    thread::spawn(move || reaper.reap());
    say(&Report::Ready)?;
    for line in io::stdin().lock().lines() {
        let line = line.context("reading the serial line")?;
        let done = match serde_json::from_str(&line) {
            Ok(Request::Run { id, command }) => jobs.start(id, &command),
            Ok(Request::Input { id, hex }) => jobs.feed(id, &hex),
            Ok(Request::Signal { id, number }) => jobs.signal(id, number),
            Err(error) => Err(error).with_context(|| format!("a request: {line}")),
        };
        if let Err(error) = done {
            eprintln!("lab-agent: {error:#}");
        }
    }
    Ok(())
}

/// The commands that run.
#[derive(Default)]
struct Jobs {
    running: Mutex<HashMap<i32, Job>>,
    started: Condvar,
}

struct Job {
    id: u64,
    input: Option<Sender<Vec<u8>>>,
    /// Two messages or a hang-up: both outputs are at their end.
    outputs: Receiver<()>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Job>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, id: u64, command: &str) -> Result<()> {
        // Held over the start: the reaper may see the end of the command before it is in the table.
        let mut running = self.lock();
        let spawned = Command::new("sh")
            .args(["-c", command])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let hex = to_hex(format!("lab-agent: sh: {error}\n").as_bytes());
                say(&Report::Output {
                    id,
                    error: true,
                    hex,
                })?;
                return say(&Report::Ended { id, status: 127 });
            }
        };
        let (end, outputs) = channel();
        let error_end = end.clone();
        let stdout = child.stdout.take().context("no output")?;
        let stderr = child.stderr.take().context("no error output")?;
        thread::spawn(move || {
            forward(id, false, stdout);
            let _ = end.send(());
        });
        thread::spawn(move || {
            forward(id, true, stderr);
            let _ = error_end.send(());
        });
        let input = child.stdin.take().map(feeder);
        let pid = i32::try_from(child.id()).context("a process id")?;
        running.insert(pid, Job { id, input, outputs });
        self.started.notify_one();
        Ok(())
    }

    fn feed(&self, id: u64, hex: &str) -> Result<()> {
        let bytes = from_hex(hex).context("input that is not hex")?;
        let mut running = self.lock();
        let Some(job) = running.values_mut().find(|job| job.id == id) else {
            return Ok(());
        };
        match &job.input {
            Some(input) if !bytes.is_empty() => {
                // A command that reads no more has closed its input; its end is reported in any case.
                let _ = input.send(bytes);
            }
            _ => job.input = None,
        }
        Ok(())
    }

    fn signal(&self, id: u64, number: i32) -> Result<()> {
        let signal = Signal::try_from(number).context("a signal")?;
        let running = self.lock();
        let Some((&pid, _)) = running.iter().find(|(_, job)| job.id == id) else {
            return Ok(());
        };
        killpg(Pid::from_raw(pid), signal).with_context(|| format!("{signal} for command {id}"))
    }

    /// Waits for every child, orphans of the node too: nobody else in this process may wait.
    fn reap(&self) {
        loop {
            let (pid, status) = match wait() {
                Ok(WaitStatus::Exited(pid, status)) => (pid, status),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Err(Errno::ECHILD) => {
                    let running = self.lock();
                    if running.is_empty() {
                        // Orphans come from commands: there are none before the next command.
                        let waited = self.started.wait(running);
                        drop(waited.unwrap_or_else(PoisonError::into_inner));
                    }
                    continue;
                }
                _ => continue,
            };
            let Some(job) = self.lock().remove(&pid.as_raw()) else {
                continue;
            };
            thread::spawn(move || {
                for _ in 0..2 {
                    if job.outputs.recv_timeout(LAST_WORDS).is_err() {
                        break;
                    }
                }
                if let Err(error) = say(&Report::Ended { id: job.id, status }) {
                    eprintln!("lab-agent: {error:#}");
                }
            });
        }
    }
}

fn forward(id: u64, error: bool, mut from: impl Read) {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                let hex = to_hex(&buffer[..length]);
                if say(&Report::Output { id, error, hex }).is_err() {
                    return;
                }
            }
            Err(problem) if problem.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A thread of its own for each input: a command that does not read must not keep others from starting.
fn feeder(mut input: ChildStdin) -> Sender<Vec<u8>> {
    let (sender, chunks) = channel::<Vec<u8>>();
    thread::spawn(move || {
        for chunk in chunks {
            if input.write_all(&chunk).is_err() {
                return;
            }
        }
    });
    sender
}

/// One line, whole, whichever threads speak at the same time.
fn say(report: &Report) -> Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line).context("writing the serial line")?;
    out.flush().context("writing the serial line")
}
