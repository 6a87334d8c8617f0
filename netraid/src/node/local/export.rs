//! A target's export: an `nbd-server` process for the own leg, which only the source that was agreed to can enter.
//!
//! The export's name is a secret, a new one for each agreement, and told to that source alone over the peers' connection.
//! A new agreement ends the process of the old one before it begins its own: whatever a former source had on its way has
//! landed by then, or never will.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{END, Plan};
use crate::array::disk::{Access, Disk};
use crate::mirror::node::NodeId;

/// What lets a source in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// For whom.
    pub source: NodeId,
    /// The export's name: 128 random bits in hexadecimal.
    pub secret: String,
}

impl Ticket {
    /// A new one.
    pub fn new(source: NodeId) -> Ticket {
        Ticket {
            source,
            secret: uuid::Uuid::new_v4().simple().to_string(),
        }
    }
}

/// A process that exports the own leg.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exported {
    ticket: Ticket,
    pid: i32,
    /// When the kernel started it, which tells it from another process of the same number.
    started: u64,
    /// It can be entered. One that was left before that is ended.
    ready: bool,
}

impl Exported {
    /// The process that an earlier daemon left, if it lives.
    pub(super) fn find(plan: &Plan) -> io::Result<Option<Exported>> {
        let text = match fs::read(note(plan)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A note that can't be read is one of a machine that lost power: nothing of it lives.
        let found: Option<Exported> = serde_json::from_slice(&text).ok();
        match found.filter(Exported::lives) {
            Some(found) if !found.ready => found.end(plan).map(|()| None),
            found => Ok(found),
        }
    }

    /// Starts it; returns when it can be entered.
    pub(super) fn start(plan: &Plan, ticket: Ticket) -> io::Result<Exported> {
        fs::create_dir_all(&plan.run_dir)?;
        let config = plan.run_dir.join(format!("{}.export.toml", plan.tag));
        let text = format!(
            "listen = [{listen:?}]\n\n[[export]]\nname = {name:?}\nsecret = true\npath = {path:?}\nlost_writes_note = {lost:?}\n\
             description = {about:?}\n",
            listen = plan.listen.to_string(),
            name = ticket.secret,
            path = plan.disk.display().to_string(),
            lost = lost_writes(plan).display().to_string(),
            about = format!("leg of mirror {}", plan.tag),
        );
        write_privately(&config, text.as_bytes())?;
        // Of an earlier process: this one opens the disk anew.
        match fs::remove_file(lost_writes(plan)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut command = Command::new(&plan.nbd_server);
        command.arg("--config").arg(&config);
        command.args(["--print-ready", "--log-level", "warn"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // Whoever interrupts the daemon does not mean the mirror.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| {
            let program = plan.nbd_server.display();
            io::Error::new(error.kind(), format!("{program} can't be started: {error}"))
        })?;
        let pid = child.id() as i32;
        let mut exported = Exported {
            ticket,
            pid,
            started: started(pid).unwrap_or(0),
            ready: false,
        };
        // Noted before anything else, so that a daemon that comes after this one does not miss it.
        let noted = serde_json::to_vec(&exported).map_err(io::Error::from);
        let noted = noted.and_then(|text| write_privately(&note(plan), &text));
        if let Err(error) = noted {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        let out = child.stdout.take();
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("export".into())
            .spawn(move || {
                let mut line = String::new();
                let _ = out.map(|out| BufReader::new(out).read_line(&mut line));
                let _ = sender.send(line);
                // Its end is taken note of here, as long as this daemon lives.
                let _ = child.wait();
            })?;
        let ready = receiver.recv_timeout(END).unwrap_or_default();
        if !ready.starts_with("listening ") || !exported.lives() {
            exported.end(plan)?;
            return Err(io::Error::other(format!(
                "the export of {} on {} did not begin: is the port in use? its log says why",
                plan.disk.display(),
                plan.listen
            )));
        }
        exported.ready = true;
        if let Err(error) = write_privately(&note(plan), &serde_json::to_vec(&exported)?) {
            exported.end(plan)?;
            return Err(error);
        }
        Ok(exported)
    }

    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Whether a flush of the disk has failed: it fails every later one as well, until another process begins.
    pub(super) fn has_lost_writes(plan: &Plan) -> bool {
        lost_writes(plan).exists()
    }

    pub(super) fn lives(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Ends it; returns when it is gone, and nothing that it had taken can be written any more.
    pub(super) fn end(&self, plan: &Plan) -> io::Result<()> {
        let begun = Instant::now();
        let mut signal = Signal::SIGTERM;
        while self.lives() {
            match kill(Pid::from_raw(self.pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
            if begun.elapsed() > END {
                return Err(io::Error::other(format!(
                    "nbd-server (process {}) of {} does not end",
                    self.pid, plan.tag
                )));
            }
            if begun.elapsed() > END / 5 {
                signal = Signal::SIGKILL;
            }
            thread::sleep(LOOK);
        }
        // The kernel may let go of the disk a moment later.
        while is_in_use(&plan.disk) {
            if begun.elapsed() > END {
                return Err(io::Error::other(format!(
                    "{} is in use although the export of {} has ended",
                    plan.disk.display(),
                    plan.tag
                )));
            }
            thread::sleep(LOOK);
        }
        match fs::remove_file(note(plan)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether somebody has a block device for himself.
fn is_in_use(disk: &Path) -> bool {
    let opened = Disk::open(disk, Access::Exclusive);
    opened.is_err_and(|error| error.error.kind() == io::ErrorKind::ResourceBusy)
}

/// Made by the process when a flush has failed.
fn lost_writes(plan: &Plan) -> PathBuf {
    plan.run_dir.join(format!("{}.export.lost", plan.tag))
}

fn note(plan: &Plan) -> PathBuf {
    plan.run_dir.join(format!("{}.export.json", plan.tag))
}

/// When the kernel started a process, in ticks since its own start; `None` if there is none, or all of it has ended and nobody
/// has taken note of that yet. The first thread ends before the others, which may still be writing.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    if matches!(state, "Z" | "X") && threads() <= 1 {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whole or not at all, for this user only. Not durable: what it describes does not outlive the machine either.
fn write_privately(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

/// How often is looked whether a process has ended.
const LOOK: std::time::Duration = std::time::Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_not_by_its_number_alone() {
        let own = std::process::id() as i32;
        let begun = started(own).unwrap();
        let exported = |started| Exported {
            ticket: Ticket::new(NodeId::new(1).unwrap()),
            pid: own,
            started,
            ready: true,
        };
        assert!(exported(begun).lives());
        assert!(!exported(begun + 1).lives());
        assert_eq!(started(i32::MAX), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_process_whose_first_thread_has_ended_lives_as_long_as_another_may_write() {
        // System call 60 ends the calling thread alone.
        let script = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); \
                      ctypes.CDLL(None).syscall(60, 0)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('Z')
        };
        let begun = Instant::now();
        while !state() {
            assert!(begun.elapsed() < END, "the first thread goes on");
            thread::yield_now();
        }
        assert!(started(pid).is_some(), "another thread may still write");
        child.kill().unwrap();
        let begun = Instant::now();
        while started(pid).is_some() {
            assert!(
                begun.elapsed() < END,
                "it is not noticed that all have ended"
            );
            thread::yield_now();
        }
        child.wait().unwrap();
    }
}
