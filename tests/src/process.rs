//! Runs other programs: to their end with a deadline, or as servers that live as long as their guard.
//!
//! Only what was started here is ever stopped, by its process id or the process group that it leads.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
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
        write!(
            f,
            "{}\n{}\n-- stdout\n{}-- stderr\n{}",
            self.command, self.status, self.stdout, self.stderr
        )
    }
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
    let text = |thread: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().expect("the reading thread")).into_owned()
    };
    let finished = Finished {
        command: shown,
        status,
        stdout: text(stdout),
        stderr: text(stderr),
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
        let child = dying_with_me(command)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of a log file"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let mut daemon = Daemon {
            child,
            name: name.to_owned(),
            log,
        };
        let start = Instant::now();
        while !ready() {
            if let Some(status) = daemon
                .child
                .try_wait()
                .expect("ask for the state of a program that I started")
            {
                return Err(format!(
                    "{name} ended at once ({status}), started as {command:?}; it said:\n{}",
                    daemon.said()
                ));
            }
            if start.elapsed() > Duration::from_secs(20) {
                return Err(format!(
                    "{name} is not ready, started as {command:?}; it said:\n{}",
                    daemon.said()
                ));
            }
            thread::sleep(Duration::from_millis(3));
        }
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
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
        self.child
            .try_wait()
            .expect("ask for the state of a program that I started")
            .is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it is still running after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        assert!(
            wait_for_end(&self.child, deadline),
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
        if self.is_running() {
            // The group exists as long as its leader was not reaped, so this cannot hit a stranger.
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
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
    wrapped
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
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
