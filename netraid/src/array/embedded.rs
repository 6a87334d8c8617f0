//! The embedded engine as a way to run mirrors: each in a process of its own (`netraid run`), asked over its socket.
//!
//! The process outlives whoever started it, and is found again by its socket. What it can't do on order yet (go on
//! without a leg, copy everything, bound the speed) is refused in these words.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;

use super::disk::{Access, Disk};
use super::leg::Leg;
use super::{Added, Array, ArrayError, ArrayStatus, Backend, Event, NewLeg, Speed, Start, Watch};
use crate::control::{self, ControlError, Request, Response};
use crate::status::Status;

/// The embedded engine on this machine.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// The program `netraid`.
    pub program: PathBuf,
    /// Folder of the sockets.
    pub run_dir: PathBuf,
    /// How long a start or a stop may take.
    pub patience: Duration,
}

impl Embedded {
    /// The engine of the program that is running now.
    ///
    /// # Errors
    /// If its path can't be told.
    pub fn new(run_dir: PathBuf) -> Result<Embedded, ArrayError> {
        let program = std::env::current_exe().map_err(ArrayError::failed)?;
        Ok(Embedded {
            program,
            run_dir,
            patience: Duration::from_secs(60),
        })
    }

    fn ask(&self, tag: &str, request: &Request) -> Result<Response, ArrayError> {
        match control::ask(&self.run_dir, tag, request) {
            Ok(Response::Failed { why, refused: true }) => Err(ArrayError::refused(why)),
            Ok(Response::Failed {
                why,
                refused: false,
            }) => Err(ArrayError::Failed(why)),
            Ok(response) => Ok(response),
            Err(error) => Err(ArrayError::failed(error)),
        }
    }

    fn status(&self, tag: &str) -> Result<Status, ArrayError> {
        match self.ask(tag, &Request::Status)? {
            Response::Status(status) => Ok(*status),
            _ => Err(ArrayError::Failed(format!(
                "mirror {tag} did not tell its status"
            ))),
        }
    }
}

impl Backend for Embedded {
    fn start(&self, start: &Start) -> Result<Box<dyn Array>, ArrayError> {
        if let Some(running) = self.find(&start.tag)? {
            return Ok(running);
        }
        if start.async_limit.is_some() || start.speed != Speed::default() {
            return Err(cant("bound its speed or be asynchronous"));
        }
        let node = {
            let disk = Disk::open(&start.disk, Access::Read).map_err(ArrayError::failed)?;
            let leg = Leg::read(&disk).map_err(|error| {
                ArrayError::Failed(format!("disk {}: {error}", start.disk.display()))
            })?;
            leg.record.node.to_string()
        };
        let mut command = Command::new(&self.program);
        command
            .args(["run", "--tag", &start.tag, "--node", &node])
            .arg("--disk")
            .arg(&start.disk)
            .arg("--unix")
            .arg(self.run_dir.join(format!("{}.nbd", start.tag)))
            .arg("--run-dir")
            .arg(&self.run_dir);
        if start.force {
            command.arg("--force");
        }
        std::fs::create_dir_all(&self.run_dir).map_err(ArrayError::failed)?;
        self.launch(command)?;
        self.find(&start.tag)?.ok_or_else(|| {
            ArrayError::Failed(format!(
                "mirror {} ended as soon as it had begun",
                start.tag
            ))
        })
    }

    fn find(&self, tag: &str) -> Result<Option<Box<dyn Array>>, ArrayError> {
        match control::ask(&self.run_dir, tag, &Request::Status) {
            Ok(_) => Ok(Some(Box::new(EmbeddedArray {
                backend: self.clone(),
                tag: tag.to_owned(),
            }))),
            Err(ControlError::NotRunning { .. }) => Ok(None),
            Err(error) => Err(ArrayError::failed(error)),
        }
    }
}

impl Embedded {
    /// Starts a process that goes on, and waits until it is ready.
    fn launch(&self, mut command: Command) -> Result<(), ArrayError> {
        use std::os::unix::process::CommandExt as _;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Whoever interrupts us does not mean the mirror.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                ArrayError::Failed(format!(
                    "{} can't be started: {error}",
                    self.program.display()
                ))
            })?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (sender, receiver) = mpsc::channel();
        let spawned = thread::Builder::new().name("mirror".into()).spawn(move || {
            let mut line = String::new();
            let _ = out.map(|out| BufReader::new(out).read_line(&mut line));
            let _ = sender.send(line);
        });
        spawned.map_err(ArrayError::failed)?;
        match receiver.recv_timeout(self.patience) {
            Ok(line) if line.starts_with("ready ") => Ok(()),
            Ok(_) => {
                let mut why = String::new();
                let _ = err.map(|err| {
                    std::io::Read::read_to_string(&mut std::io::Read::take(err, 1 << 16), &mut why)
                });
                let code = child.wait().ok().and_then(|status| status.code());
                let why = why.trim().trim_start_matches("netraid: ").to_owned();
                match code {
                    Some(3) => Err(ArrayError::refused(why)),
                    _ => Err(ArrayError::Failed(why)),
                }
            }
            Err(_) => {
                // It has not been waited for, so it is still ours.
                let _ = child.kill();
                Err(ArrayError::Late(format!(
                    "the mirror was not ready within {} s",
                    self.patience.as_secs()
                )))
            }
        }
    }
}

struct EmbeddedArray {
    backend: Embedded,
    tag: String,
}

impl Array for EmbeddedArray {
    fn status(&self) -> Result<ArrayStatus, ArrayError> {
        Ok(ArrayStatus {
            status: self.backend.status(&self.tag)?,
            device: None,
            bitmap: true,
            async_limit: 0,
            speed_limit: None,
            speed_limit_min: None,
            notes: Vec::new(),
        })
    }

    fn add(&self, leg: &NewLeg) -> Result<Added, ArrayError> {
        if leg.discard {
            return Err(cant("discard what a leg wrote"));
        }
        let request = Request::Extend {
            node: leg.node.clone(),
            uri: leg.location.clone(),
            force: leg.force,
        };
        self.backend.ask(&self.tag, &request)?;
        let status = self.backend.status(&self.tag)?;
        Ok(Added {
            full: true,
            rule: "new leg".into(),
            merged_bytes: 0,
            dirty_bytes: status.dirty_bytes,
        })
    }

    fn remove(&self, _: &str) -> Result<(), ArrayError> {
        Err(cant("go on without a leg on order"))
    }

    fn full_resync(&self, _: &str) -> Result<Added, ArrayError> {
        Err(cant("copy everything to a leg that it has"))
    }

    fn set_speed(&self, _: Speed) -> Result<(), ArrayError> {
        Err(cant("bound its speed"))
    }

    fn watch(&self) -> Result<Box<dyn Watch>, ArrayError> {
        Ok(Box::new(EmbeddedWatch {
            backend: self.backend.clone(),
            tag: self.tag.clone(),
            before: self.backend.status(&self.tag)?,
        }))
    }

    fn stop(&self) -> Result<(), ArrayError> {
        let path = control::socket_path(&self.backend.run_dir, &self.tag);
        let stream = UnixStream::connect(&path).map_err(ArrayError::failed)?;
        let peer = getsockopt(&stream, PeerCredentials).map_err(ArrayError::failed)?;
        kill(Pid::from_raw(peer.pid()), Signal::SIGTERM).map_err(ArrayError::failed)?;
        drop(stream);
        let deadline = Instant::now() + self.backend.patience;
        // The socket is removed last.
        while path.exists() {
            if Instant::now() >= deadline {
                return Err(ArrayError::Late(format!(
                    "mirror {} did not stop within {} s",
                    self.tag,
                    self.backend.patience.as_secs()
                )));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// The process tells nobody what happens; it is asked.
struct EmbeddedWatch {
    backend: Embedded,
    tag: String,
    before: Status,
}

impl Watch for EmbeddedWatch {
    fn next(&mut self, patience: Duration) -> Result<Vec<Event>, ArrayError> {
        let deadline = Instant::now() + patience;
        loop {
            let now = self.backend.status(&self.tag)?;
            let events = changes(&self.before, &now);
            self.before = now;
            let left = deadline.saturating_duration_since(Instant::now());
            if !events.is_empty() || left.is_zero() {
                return Ok(events);
            }
            thread::sleep(left.min(LOOK));
        }
    }
}

fn changes(before: &Status, now: &Status) -> Vec<Event> {
    let mut events = Vec::new();
    let missing = |status: &Status| {
        let whole = status.legs.iter().filter(|leg| leg.disk == "UpToDate");
        (status.legs.len() - whole.count()) as u32
    };
    if missing(before) != missing(now) {
        events.push(Event::Degraded { legs: missing(now) });
    }
    let action = |status: &Status| match &status.resync {
        Some(resync) if resync.paused => "frozen",
        Some(_) => "recover",
        None => "idle",
    };
    if action(before) != action(now) {
        events.push(Event::Sync {
            action: action(now).to_owned(),
        });
    }
    for leg in &now.legs {
        let known = before.legs.iter().find(|known| known.slot == leg.slot);
        if known.is_none_or(|known| known.status != leg.status) {
            events.push(Event::Leg {
                device: leg.location.clone(),
                flags: vec![leg.status.clone()],
            });
        }
    }
    if before.array_state != now.array_state {
        events.push(Event::State {
            state: now.array_state.clone(),
        });
    }
    events
}

fn cant(what: &str) -> ArrayError {
    ArrayError::refused(format!("the embedded engine can't {what} yet"))
}

/// How often a process is asked.
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_does_not_run_is_not_found_and_a_blank_disk_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Embedded {
            program: "/nonexistent".into(),
            run_dir: folder.path().to_owned(),
            patience: Duration::from_secs(5),
        };
        assert!(backend.find("data").unwrap().is_none());
        let disk = folder.path().join("disk");
        std::fs::File::create(&disk)
            .unwrap()
            .set_len(1 << 22)
            .unwrap();
        let start = Start {
            tag: "data".into(),
            disk,
            force: false,
            speed: Speed::default(),
            async_limit: None,
        };
        let error = backend.start(&start).err().unwrap();
        assert!(error.to_string().contains("holds no mirror"), "{error}");
    }
}
