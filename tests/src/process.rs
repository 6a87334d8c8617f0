//! Runs other programs: to their end with a deadline, or as servers that live as long as their guard.
//!
//! Only what was started here is ever stopped, by its process id or the process group that it leads.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// How long a program may run unless a test says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A program that ended, and all that it said.
#[derive(Debug)]
pub struct Finished {
    /// The command as it was given, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard output as it came.
    pub stdout_bytes: Vec<u8>,
    /// Its standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

impl Finished {
    /// The same, after making sure that the exit status was 0.
    pub fn ok(self) -> Finished {
        assert!(self.status.success(), "{self}");
        self
    }

    /// The same, after making sure that the exit status was `code`.
    pub fn code(self, code: i32) -> Finished {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Its standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}) from {self}"))
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stdout, stderr) = (shortened(&self.stdout), shortened(&self.stderr));
        write!(
            f,
            "{}\n{}\n-- stdout\n{stdout}-- stderr\n{stderr}",
            self.command, self.status
        )
    }
}

/// The first and the last lines of what a program said.
fn shortened(text: &str) -> String {
    const KEPT: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 2 * KEPT {
        return text.to_owned();
    }
    let (first, last) = (
        lines[..KEPT].join("\n"),
        lines[lines.len() - KEPT..].join("\n"),
    );
    format!(
        "{first}\n-- {} lines left out\n{last}\n",
        lines.len() - 2 * KEPT
    )
}

/// Runs a program to its end, at most [`DEADLINE`].
pub fn run(command: &mut Command) -> Finished {
    run_within(command, DEADLINE)
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started or is still running after `deadline` (it is killed then).
pub fn run_within(command: &mut Command, deadline: Duration) -> Finished {
    run_with_input(command, Vec::new(), deadline)
}

/// Like [`run_within`], with bytes for its standard input. It may stop reading early.
pub fn run_with_input(command: &mut Command, input: Vec<u8>, deadline: Duration) -> Finished {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    let feeder = thread::spawn(move || {
        // A program that ends or closes its input before it has read everything is its own affair.
        let _ = stdin.write_all(&input);
    });
    let stdout = collect(child.stdout.take().expect("a pipe was asked for"));
    let stderr = collect(child.stderr.take().expect("a pipe was asked for"));
    let in_time = wait_for_end(&child, deadline);
    if !in_time {
        child.kill().expect("kill a program that I started");
    }
    let status = child.wait().expect("wait for a program that I started");
    feeder.join().expect("the feeding thread");
    let stdout_bytes = stdout.join().expect("the reading thread");
    let stderr_bytes = stderr.join().expect("the reading thread");
    let finished = Finished {
        command: shown,
        status,
        stdout: String::from_utf8_lossy(&stdout_bytes).into_owned(),
        stdout_bytes,
        stderr: String::from_utf8_lossy(&stderr_bytes).into_owned(),
    };
    assert!(in_time, "still running after {deadline:?}: {finished}");
    finished
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits until a child has ended, without reaping it (so its process id stays its own). False after the deadline.
fn wait_for_end(child: &Child, deadline: Duration) -> bool {
    let pid = Pid::from_raw(child.id() as i32);
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let result = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = ended.send(result.is_ok());
    });
    end.recv_timeout(deadline).is_ok()
}

/// Calls `condition` again and again until it gives something.
///
/// # Panics
/// After `deadline`, naming `what` was waited for.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            start.elapsed() < deadline,
            "still waiting after {deadline:?}: {what}"
        );
        // The pace of asking; what is waited for is the condition.
        thread::sleep(Duration::from_millis(3));
    }
}

/// A program that runs until its guard is dropped: it is killed then, with the processes that it started.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
    /// Leader of the processes that do the work, if that is not the child.
    worker: Option<Pid>,
    /// The child's standard input; a keeper (see [`Daemon::start_detaching`]) ends when it is closed.
    leash: Option<ChildStdin>,
}

impl Daemon {
    /// Starts a program in a process group of its own; what it says goes to `NAME.log` in `folder`.
    ///
    /// `ready` is asked again and again until it says yes.
    ///
    /// # Panics
    /// If the program cannot be started, ends, or is not ready within 20 seconds.
    pub fn start(
        name: &str,
        folder: &Path,
        command: &Command,
        ready: impl FnMut() -> bool,
    ) -> Daemon {
        Daemon::try_start(name, folder, command, ready).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Like [`Daemon::start`].
    ///
    /// # Errors
    /// A text that says why it is not running, and what it said itself.
    pub fn try_start(
        name: &str,
        folder: &Path,
        command: &Command,
        mut ready: impl FnMut() -> bool,
    ) -> Result<Daemon, String> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("create a log file");
        let mut child = dying_with_me(command)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("a second handle of a log file"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let leash = child.stdin.take();
        let mut daemon = Daemon {
            child,
            name: name.to_owned(),
            log,
            worker: None,
            leash,
        };
        let start = Instant::now();
        while !ready() {
            if let Some(status) = daemon.ended() {
                let said = daemon.said();
                return Err(format!(
                    "{command:?} ended at once ({status}); it said:\n{said}"
                ));
            }
            if start.elapsed() > Duration::from_secs(20) {
                let said = daemon.said();
                return Err(format!("{command:?} is not ready; it said:\n{said}"));
            }
            thread::sleep(Duration::from_millis(3));
        }
        Ok(daemon)
    }

    /// Starts a program that detaches itself (leaves its process group, and its parent) and writes its process id to
    /// `pid_file`. A keeper kills it when the guard, or this whole process, is gone.
    pub fn start_detaching(
        name: &str,
        folder: &Path,
        command: &Command,
        pid_file: &Path,
        mut ready: impl FnMut() -> bool,
    ) -> Daemon {
        const KEEPER: &str = r#"pid_file=$1; shift; "$@" || exit; read -r end; kill -s KILL -- "-$(cat "$pid_file")""#;
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(pid_file);
        keeper.arg(command.get_program()).args(command.get_args());
        let mut worker = None;
        let mut daemon = Daemon::start(name, folder, &keeper, || {
            let text = fs::read_to_string(pid_file).unwrap_or_default();
            worker = text.trim().parse().ok().map(Pid::from_raw);
            worker.is_some() && ready()
        });
        daemon.worker = worker;
        daemon
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.worker.unwrap_or_else(|| self.child_pid())
    }

    fn child_pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// All that it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("ask for the state of a program that I started")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it is still running after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let ended = wait_for_end(&self.child, deadline);
        assert!(
            ended,
            "{} does not end; it said:\n{}",
            self.name,
            self.said()
        );
        self.child
            .wait()
            .expect("wait for a program that I started")
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(Duration::from_secs(20))
    }

    /// Kills it and the processes that it started, as a power loss would, and waits for its end.
    pub fn kill(&mut self) {
        drop(self.leash.take());
        if self.worker.is_some() {
            wait_for_end(&self.child, Duration::from_secs(5));
        }
        if self.is_running() {
            // The group exists as long as its leader was not reaped, so this cannot hit a stranger.
            let _ = killpg(self.child_pid(), Signal::SIGKILL);
            if wait_for_end(&self.child, Duration::from_secs(10)) {
                let _ = self.child.wait();
            } else {
                eprintln!(
                    "{} was killed but does not end (it waits for a disk)",
                    self.name
                );
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("-- {} said:\n{}", self.name, self.said());
        }
    }
}

/// The same command, run so that the kernel kills the program should the thread that starts it die: a test that a
/// runner kills runs no destructors.
fn dying_with_me(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]);
    // A keeper has to outlive its starter for as long as it takes to kill what it keeps; its standard input tells it.
    if command.get_program() == "sh" {
        wrapped = Command::new("sh");
    } else {
        wrapped.arg(command.get_program());
    }
    wrapped.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}
