//! Runs `mdadm` with a deadline and keeps what it says for the error message.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::array::ArrayError;

/// Runs a program to its end.
///
/// # Errors
/// If it can't be started, ends with an error, or does not end in time: with what it said on standard error.
pub fn run(program: &Path, arguments: &[OsString], patience: Duration) -> Result<(), ArrayError> {
    let line = || {
        let words = arguments
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        std::iter::once(program.display().to_string())
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            ArrayError::Failed(format!("{} can't be started: {error}", program.display()))
        })?;
    let pid = Pid::from_raw(child.id() as i32);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("mdadm".into())
        .spawn(move || {
            // mdadm says little; what is too much for the first pipe would not be read in time otherwise.
            let reader = thread::spawn(move || text(out));
            let complaints = text(err);
            let said = reader.join().unwrap_or_default();
            // Nobody listens any more after the deadline.
            let _ = sender.send((child.wait(), complaints, said));
        })
        .map_err(|error| ArrayError::Failed(format!("no thread can be started: {error}")))?;
    match receiver.recv_timeout(patience) {
        Ok((Ok(status), complaints, _)) if status.success() => {
            tracing::debug!(command = line(), said = complaints.trim(), "done");
            Ok(())
        }
        Ok((Ok(status), complaints, said)) => {
            let words = [complaints.trim(), said.trim()].join(" ");
            let words = words.trim().replace('\n', "; ");
            Err(ArrayError::Failed(match words.is_empty() {
                true => format!("{}: {status}", line()),
                false => format!("{}: {words}", line()),
            }))
        }
        Ok((Err(error), _, _)) => Err(ArrayError::Failed(format!("{}: {error}", line()))),
        Err(_) => {
            // It may hang in the kernel, where no signal reaches it. It has not been waited for, so it is still ours.
            let _ = kill(pid, Signal::SIGKILL);
            Err(ArrayError::Late(format!(
                "{} did not end within {} s",
                line(),
                patience.as_secs()
            )))
        }
    }
}

/// At most 64 KiB of what a pipe says.
fn text(pipe: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        // Half a message is better than none.
        let _ = pipe.take(1 << 16).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> Result<(), ArrayError> {
        run(Path::new("sh"), &["-c".into(), script.into()], patience)
    }

    #[test]
    fn what_a_program_complained_of_is_in_the_error() {
        let minute = Duration::from_secs(60);
        shell("echo fine", minute).unwrap();
        let error = shell("echo mdadm: no such leg >&2; exit 2", minute).unwrap_err();
        assert!(error.to_string().ends_with("mdadm: no such leg"), "{error}");
        let error = shell("exit 3", minute).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let error = run(Path::new("/nonexistent"), &[], minute).unwrap_err();
        assert!(error.to_string().contains("can't be started"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_given_up() {
        let error = shell("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ArrayError::Late(_)), "{error}");
    }
}
