//! Asking a running mirror: one JSON object a line over a unix socket in the run folder.
//!
//! `FOLDER/TAG.sock` belongs to the process that runs mirror TAG; only its own user can open it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// Bound of one line of either side.
pub const MAX_LINE: u64 = 1 << 20;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The status.
    Status,
    /// Give the mirror a leg: full resync to a disk that holds nothing (or anything, with `force`).
    Extend {
        /// The node whose disk it is.
        node: String,
        /// NBD URI of the disk.
        uri: String,
        /// Overwrite what the disk holds.
        force: bool,
    },
    /// Stop (`true`) or continue copying.
    PauseResync {
        /// Whether to stop.
        paused: bool,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// Done, or begun.
    Done,
    /// The status.
    Status(Box<Status>),
    /// Not done.
    Failed {
        /// Why, in words.
        why: String,
        /// Whether the state of the mirror forbids it (exit code 3), rather than a failure.
        refused: bool,
    },
}

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No process runs the mirror.
    #[error("mirror {tag} is not running here: {path} can't be opened: {error}")]
    NotRunning {
        /// The mirror.
        tag: String,
        /// Its socket.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// It stopped answering.
    #[error("mirror {tag} did not answer: {error}")]
    NoAnswer {
        /// The mirror.
        tag: String,
        /// The system's reason.
        error: io::Error,
    },
    /// It answered with something else.
    #[error("mirror {tag} answered something that is not understood: {error}")]
    Garbled {
        /// The mirror.
        tag: String,
        /// The parser's reason.
        error: serde_json::Error,
    },
}

/// The socket of mirror `tag`.
pub fn socket_path(folder: &Path, tag: &str) -> PathBuf {
    folder.join(format!("{tag}.sock"))
}

/// Asks the process that runs mirror `tag` and waits up to ten seconds for its answer.
pub fn ask(folder: &Path, tag: &str, request: &Request) -> Result<Response, ControlError> {
    let path = socket_path(folder, tag);
    let mut stream = UnixStream::connect(&path).map_err(|error| ControlError::NotRunning {
        tag: tag.into(),
        path,
        error,
    })?;
    let line = exchange(&mut stream, request).map_err(|error| ControlError::NoAnswer {
        tag: tag.into(),
        error,
    })?;
    serde_json::from_str(&line).map_err(|error| ControlError::Garbled {
        tag: tag.into(),
        error,
    })
}

fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer)?;
    if answer.ends_with('\n') {
        Ok(answer)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
