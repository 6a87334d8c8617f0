//! The embedded engine as a way to run mirrors: each in a process of its own (`netraid run`), asked over its socket.
//!
//! The process outlives whoever started it, and is found again by its socket. It is started with `--supervised`: it
//! connects a leg on order only, and one that is lost stays out until it is added again.

mod watch;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::disk::{Access, Disk};
use super::leg::Leg;
use super::{
    Added, Array, ArrayError, ArrayStatus, Backend, NewLeg, Speed, Start, VerifyRequest, Watch,
};
use crate::control::{self, ControlError, Order, Request, Response, Told};
use crate::raid1::engine::OnCongestion;
use watch::EmbeddedWatch;

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
}

impl Backend for Embedded {
    fn start(&self, start: &Start) -> Result<Box<dyn Array>, ArrayError> {
        if let Some(limit) = start.async_limit {
            return Err(ArrayError::refused(format!(
                "the embedded engine has no limit of {limit} writes on the way: name the asynchronous targets \
                 and the size of their send buffers"
            )));
        }
        if let Some(running) = self.find(&start.tag)? {
            check_disk(&*running, start)?;
            return bounded(running, start.speed);
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
            .arg("--supervised")
            .arg("--run-dir")
            .arg(&self.run_dir);
        if start.force {
            command.arg("--force");
        }
        if start.new_generation {
            command.arg("--new-generation");
        }
        if !start.compare {
            command.args(["--csums-alg", "none"]);
        }
        for target in start.streams.nodes.iter().filter(|name| **name != node) {
            command.args(["--asynchronous", target]);
        }
        if let Some(bytes) = start.streams.send_buffer {
            command.arg("--sndbuf-size").arg(bytes.to_string());
        }
        let congestion = match start.streams.on_congestion {
            OnCongestion::Block => None,
            OnCongestion::Disconnect(bytes) => Some(("disconnect", bytes)),
            OnCongestion::PullAhead(bytes) => Some(("pull-ahead", bytes)),
        };
        if let Some((policy, bytes)) = congestion {
            command.args(["--on-congestion", policy]);
            command.arg("--congestion-fill").arg(bytes.to_string());
        }
        if start.care.integrity {
            command.args(["--data-integrity-alg", "crc32"]);
        }
        if start.care.held {
            command.arg("--held");
        }
        if start.care.pass_through {
            command.args(["--on-io-error", "pass-through"]);
        }
        if let Some(limit) = start.care.error_limit {
            command.arg("--io-error-limit").arg(limit.to_string());
        }
        std::fs::create_dir_all(&self.run_dir).map_err(ArrayError::failed)?;
        self.launch(command, &self.run_dir.join(format!("{}.log", start.tag)))?;
        let running = self.find(&start.tag)?.ok_or_else(|| {
            ArrayError::Failed(format!(
                "mirror {} ended as soon as it had begun",
                start.tag
            ))
        })?;
        bounded(running, start.speed)
    }

    fn find(&self, tag: &str) -> Result<Option<Box<dyn Array>>, ArrayError> {
        let deadline = Instant::now() + ENDING;
        loop {
            match control::ask(&self.run_dir, tag, &Request::Status) {
                Ok(_) => {
                    return Ok(Some(Box::new(EmbeddedArray {
                        backend: self.clone(),
                        tag: tag.to_owned(),
                    })));
                }
                Err(ControlError::NotRunning { .. }) => return Ok(None),
                // It is just ending, and soon nobody listens any more.
                Err(ControlError::NoAnswer { error, .. })
                    if hung_up(&error) && Instant::now() < deadline =>
                {
                    thread::sleep(LOOK);
                }
                Err(error) => return Err(ArrayError::failed(error)),
            }
        }
    }
}

/// What was answered; an order that was not done is an error.
fn told(answer: Result<Told, ControlError>) -> Result<Told, ArrayError> {
    match answer {
        Ok(Told::Refused { why, hint }) => Err(ArrayError::Refused { why, hint }),
        Ok(Told::Failed { why }) => Err(ArrayError::Failed(why)),
        Ok(told) => Ok(told),
        Err(error) => Err(ArrayError::failed(error)),
    }
}

fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl Embedded {
    /// Starts a process that goes on, and waits until it is ready.
    ///
    /// What it has to say goes to `log`: a pipe would break when we end, and it goes on.
    fn launch(&self, mut command: Command, log: &Path) -> Result<(), ArrayError> {
        use std::os::unix::process::CommandExt as _;
        let errors = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            // It may name exports, and who knows their names gets in.
            .mode(0o600)
            .open(log)
            .map_err(|error| {
                ArrayError::Failed(format!("{} can't be written: {error}", log.display()))
            })?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Whoever interrupts us does not mean the mirror.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                ArrayError::Failed(format!(
                    "{} can't be started: {error}",
                    self.program.display()
                ))
            })?;
        let out = child.stdout.take();
        let (sender, receiver) = mpsc::channel();
        let spawned = thread::Builder::new().name("mirror".into()).spawn(move || {
            let mut line = String::new();
            let _ = out.map(|out| BufReader::new(out).read_line(&mut line));
            let _ = sender.send(line);
        });
        spawned.map_err(ArrayError::failed)?;
        match receiver.recv_timeout(self.patience) {
            Ok(line) if line.starts_with("ready ") => {
                // Whoever goes on for long collects what ends before it.
                let reaper = thread::Builder::new().name("reaper".into());
                let waiting = reaper.spawn(move || drop(child.wait()));
                waiting.map(drop).map_err(ArrayError::failed)
            }
            Ok(_) => {
                let mut why = String::new();
                let code = child.wait().ok().and_then(|status| status.code());
                // Without it, the code is all there is to tell.
                let _ = File::open(log).and_then(|log| log.take(1 << 16).read_to_string(&mut why));
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

/// A mirror that runs already may not be another one than is meant.
fn check_disk(running: &dyn Array, start: &Start) -> Result<(), ArrayError> {
    let status = running.status()?.status;
    let own = status.legs.iter().find(|leg| leg.local);
    let place = own.map_or("", |leg| leg.location.as_str());
    let same = |path: &Path| std::fs::canonicalize(path).ok();
    match same(Path::new(place)) {
        Some(path) if same(&start.disk) == Some(path.clone()) => Ok(()),
        _ => Err(ArrayError::refused(format!(
            "mirror {} runs already, on disk {place}",
            start.tag
        ))),
    }
}

fn bounded(running: Box<dyn Array>, speed: Speed) -> Result<Box<dyn Array>, ArrayError> {
    if speed != Speed::default() {
        running.set_speed(speed)?;
    }
    Ok(running)
}

struct EmbeddedArray {
    backend: Embedded,
    tag: String,
}

impl EmbeddedArray {
    /// Gives an order; what it refuses is told with its reason.
    fn order(&self, order: &Order, patience: Duration) -> Result<Told, ArrayError> {
        told(control::order(
            &self.backend.run_dir,
            &self.tag,
            order,
            patience,
        ))
    }

    fn add_or_fill(&self, order: &Order) -> Result<Added, ArrayError> {
        match self.order(order, TAKE)? {
            Told::Added(added) => Ok(added),
            other => Err(self.unexpected(&other)),
        }
    }

    fn unexpected(&self, told: &Told) -> ArrayError {
        ArrayError::Failed(format!(
            "mirror {} answered something else than was asked: {told:?}",
            self.tag
        ))
    }
}

impl Array for EmbeddedArray {
    fn status(&self) -> Result<ArrayStatus, ArrayError> {
        match self.order(&Order::Array, ANSWER)? {
            Told::Array(status) => Ok(*status),
            other => Err(self.unexpected(&other)),
        }
    }

    fn add(&self, leg: &NewLeg) -> Result<Added, ArrayError> {
        self.add_or_fill(&Order::Add {
            node: leg.node.clone(),
            uri: leg.location.clone(),
            full: leg.full,
            discard: leg.discard,
            force: leg.force,
        })
    }

    fn remove(&self, node: &str) -> Result<(), ArrayError> {
        let node = node.to_owned();
        self.order(&Order::Remove { node }, TAKE).map(drop)
    }

    fn part(&self, node: &str) -> Result<(), ArrayError> {
        let node = node.to_owned();
        self.order(&Order::Part { node }, TAKE).map(drop)
    }

    fn full_resync(&self, node: &str) -> Result<Added, ArrayError> {
        let node = node.to_owned();
        self.add_or_fill(&Order::FullResync { node })
    }

    fn set_speed(&self, speed: Speed) -> Result<(), ArrayError> {
        let Speed {
            most,
            least,
            control,
        } = speed;
        let order = Order::Speed {
            most,
            least,
            control,
        };
        self.order(&order, ANSWER).map(drop)
    }

    fn hold_resync(&self, held: bool) -> Result<(), ArrayError> {
        let request = Request::PauseResync { paused: held };
        match control::ask(&self.backend.run_dir, &self.tag, &request) {
            Ok(Response::Done) => Ok(()),
            Ok(other) => Err(ArrayError::Failed(format!(
                "mirror {} answered something else than was asked: {other:?}",
                self.tag
            ))),
            Err(error) => Err(ArrayError::failed(error)),
        }
    }

    fn guard(&self, nodes: &[String], only: bool) -> Result<(), ArrayError> {
        let nodes = nodes.to_vec();
        self.order(&Order::Guard { nodes, only }, ANSWER).map(drop)
    }

    fn hold(&self, fail: Option<bool>) -> Result<(), ArrayError> {
        let (held, fail) = (fail.is_some(), fail.unwrap_or(false));
        self.order(&Order::Hold { held, fail }, ANSWER).map(drop)
    }

    /// The engine has ways of its own.
    fn verify(&self, request: &VerifyRequest, _: &[(String, String)]) -> Result<(), ArrayError> {
        let order = Order::Verify(request.clone());
        self.order(&order, ANSWER).map(drop)
    }

    fn stop_verify(&self) -> Result<(), ArrayError> {
        self.order(&Order::StopVerify, ANSWER).map(drop)
    }

    fn grow(&self, size: u64) -> Result<(), ArrayError> {
        self.order(&Order::Grow { size }, TAKE).map(drop)
    }

    fn grows_in_service(&self) -> bool {
        true
    }

    fn watch(&self) -> Result<Box<dyn Watch>, ArrayError> {
        Ok(Box::new(EmbeddedWatch::new(&self.backend, &self.tag)?))
    }

    fn stop(&self) -> Result<(), ArrayError> {
        let path = control::socket_path(&self.backend.run_dir, &self.tag);
        let ended = match control::order(&self.backend.run_dir, &self.tag, &Order::Stop, ANSWER) {
            // It may have ended before its answer was sent. Whether it has stopped cleanly, the socket says.
            Err(ControlError::NoAnswer { error, .. }) if hung_up(&error) => Some(Instant::now()),
            answer => {
                told(answer)?;
                None
            }
        };
        let deadline = Instant::now() + self.backend.patience;
        // The socket is removed last.
        while path.exists() {
            if ended.is_some_and(|at| at.elapsed() >= ENDING)
                && self.backend.find(&self.tag)?.is_none()
            {
                return Err(ArrayError::Failed(format!(
                    "mirror {} ended without having stopped cleanly",
                    self.tag
                )));
            }
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

/// How often the end of a process is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Longest time that a process that hangs up is taken for one that is ending.
const ENDING: Duration = Duration::from_secs(5);
/// Longest wait for an answer that takes no time.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a leg to be added or removed: longer than what the process itself allows for it.
const TAKE: Duration = Duration::from_secs(90);

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
            new_generation: false,
            speed: Speed::default(),
            async_limit: None,
            compare: true,
            streams: crate::array::Streams::default(),
            care: crate::array::Care::default(),
        };
        let error = backend.start(&start).err().unwrap();
        assert!(error.to_string().contains("holds no mirror"), "{error}");
    }
}
