//! A program that runs as long as its guard lives, and what it says in a log.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::interrupt::Interrupt;
use super::tools;

/// A running program. Dropped, it is killed and waited for, by its process id.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    /// Where in the log this run of the program begins.
    log_start: u64,
}

impl Process {
    /// Starts a program; all that it says is added to `log`. It gets a process group of its own, so that Ctrl-C in a
    /// terminal does not reach it, and dies with the thread that starts it where `setpriv` (util-linux) can see to that.
    ///
    /// # Errors
    /// If it can't be started or the log can't be written.
    pub fn start(name: &str, log: &Path, command: &Command) -> Result<Process> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("log {}", log.display()))?;
        let log_start = file.metadata()?.len();
        let child = dying_with_me(command)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} can't be started", command.get_program().display()))?;
        Ok(Process {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
            log_start,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// An error if it has ended, with the last that it said.
    ///
    /// # Errors
    /// See above.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!(
                "{} ended unexpectedly ({status}); {}",
                self.name,
                self.last_words()
            ),
            None => Ok(()),
        }
    }

    /// Waits until it has said a line that begins with `word`, and returns the rest of that line.
    ///
    /// # Errors
    /// If it ends, or has not said so within the time.
    pub fn wait_for_line(
        &mut self,
        word: &str,
        within: Duration,
        interrupt: &Interrupt,
    ) -> Result<String> {
        let what = format!("{} to say {word:?}", self.name);
        let found = interrupt.poll(&what, within, || {
            let said = self.said();
            // Only whole lines: the last may still be growing.
            let lines = said
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'));
            let rest = lines.filter_map(|line| line.strip_prefix(word)).next();
            match rest {
                Some(rest) => Ok(Some(rest.trim().to_owned())),
                None => self.must_run().map(|()| None),
            }
        });
        found.with_context(|| self.last_words())
    }

    /// Kills it, as a power loss would, and waits for its end.
    ///
    /// # Errors
    /// If it has ended before: what was to be killed was not there.
    pub fn kill(mut self) -> Result<()> {
        self.must_run()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// If it does not end within the time, or with an exit code other than 0. It is killed then.
    pub fn stop(mut self, within: Duration) -> Result<()> {
        self.must_run()?;
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        // Not to be cut short by Ctrl-C: this is how things end after it.
        let what = format!("{} to stop", self.name);
        let ended = Interrupt::default().poll(&what, within, || self.ended());
        let status = ended.with_context(|| self.last_words())?;
        match status.success() {
            true => Ok(()),
            false => bail!(
                "{} did not stop cleanly ({status}); {}",
                self.name,
                self.last_words()
            ),
        }
    }

    /// The last lines of its log, for messages.
    pub fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
        match last.is_empty() {
            true => format!("it said nothing in {}", self.log.display()),
            false => format!("the end of {}:\n  {last}", self.log.display()),
        }
    }

    /// What it has said since it was started, at most the last [`MAX_SAID`] bytes.
    fn said(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let start = self
                .log_start
                .max(file.metadata()?.len().saturating_sub(MAX_SAID));
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(MAX_SAID).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same command, run so that the kernel kills the program should its starter be killed, if that can be had.
fn dying_with_me(command: &Command) -> Command {
    let mut wrapped = match tools::find("setpriv") {
        Some(setpriv) => {
            let mut wrapped = Command::new(setpriv);
            wrapped
                .args(["--pdeathsig", "KILL", "--"])
                .arg(command.get_program());
            wrapped
        }
        None => Command::new(command.get_program()),
    };
    wrapped.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped
}

/// Runs a program to its end and returns what it said, both outputs together, and how it ended. The output goes
/// through a file beside the logs, so that nothing can block on a full pipe.
///
/// # Errors
/// If it can't be started, is still running after `within` (it is killed then), or Ctrl-C.
pub fn run(
    command: &Command,
    output: &Path,
    within: Duration,
    interrupt: &Interrupt,
) -> Result<(ExitStatus, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut process = Process::start(&name, output, command)?;
    let what = format!("{name} to end");
    let status = interrupt
        .poll(&what, within, || process.ended())
        .with_context(|| process.last_words())?;
    let said = fs::read(output).unwrap_or_default();
    let said = said.get(process.log_start as usize..).unwrap_or_default();
    Ok((status, String::from_utf8_lossy(said).into_owned()))
}

/// Most of a log that is searched.
const MAX_SAID: u64 = 256 * 1024;
/// Lines of a log that are shown.
const LAST_LINES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_line_is_waited_for_and_the_end_of_the_program_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let interrupt = Interrupt::default();
        let command = shell("echo not ready; echo ready nbd://h/; exec sleep 60");
        let mut process = Process::start("sleeper", &log, &command).unwrap();
        let within = Duration::from_secs(20);
        assert_eq!(
            process.wait_for_line("ready ", within, &interrupt).unwrap(),
            "nbd://h/"
        );
        process.kill().unwrap();
        // A second run does not see the first one's line.
        let mut process = Process::start("quitter", &log, &shell("echo no; exit 3")).unwrap();
        let error = format!(
            "{:#}",
            process
                .wait_for_line("ready ", within, &interrupt)
                .unwrap_err()
        );
        assert!(
            error.contains("quitter ended unexpectedly (exit status: 3)") && error.contains("no"),
            "{error}"
        );
    }

    #[test]
    fn a_dropped_guard_leaves_no_process_behind() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(
            "sleeper",
            &folder.path().join("log"),
            &shell("exec sleep 60"),
        )
        .unwrap();
        let pid = Pid::from_raw(process.pid() as i32);
        assert!(kill(pid, None).is_ok());
        drop(process);
        assert!(kill(pid, None).is_err());
    }
}
