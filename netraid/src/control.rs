//! Asking a running mirror: one JSON object a line over a unix socket in the run folder.
//!
//! [`Request`] is for people's commands, [`Order`] for whoever supervises the mirror; both go over the same socket.
//! `FOLDER/TAG.sock` belongs to the process that runs mirror TAG; only its own user can open it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::array::{Added, ArrayStatus, VerifyRequest};
use crate::raid1::engine::Control;
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

/// What a supervisor can order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// The status with what only arrays have.
    Array,
    /// Add a leg, or take one back ([`crate::array::Array::add`]).
    Add {
        /// The node whose disk it is.
        node: String,
        /// NBD URI of the disk.
        uri: String,
        /// Copy everything.
        full: bool,
        /// Give up what the leg wrote alone, or has newer.
        discard: bool,
        /// Overwrite what the disk holds if it is no leg of this mirror.
        force: bool,
    },
    /// Go on without a leg.
    Remove {
        /// The node whose leg it is.
        node: String,
    },
    /// Go on without a leg in sync, for good: what follows has a generation of its own at once.
    Part {
        /// The node whose leg it is.
        node: String,
    },
    /// Copy everything to a leg.
    FullResync {
        /// The node whose leg it is.
        node: String,
    },
    /// Bound the speed of resyncs, in KiB a second; what is absent stays.
    Speed {
        /// Never faster.
        most: Option<u32>,
        /// Not slower for the sake of the application.
        least: Option<u32>,
        /// How much is on its way at once.
        #[serde(default)]
        control: Option<Control>,
    },
    /// Answer nothing that one of these legs has not ([`crate::array::Array::guard`]).
    Guard {
        /// The nodes whose legs they are.
        nodes: Vec<String>,
        /// Only these from now on; else those before as well.
        only: bool,
    },
    /// Hold the application's requests back, or do so no more.
    Hold {
        /// Whether.
        held: bool,
        /// They fail. Else they wait.
        fail: bool,
    },
    /// Compare legs in sync with the source's.
    Verify(VerifyRequest),
    /// Stop the verify that is under way.
    StopVerify,
    /// Become larger, with the own leg alone.
    Grow {
        /// Bytes of the mirror.
        size: u64,
    },
    /// Tell what happens: one [`crate::array::Event`] a line, until either side closes.
    Watch,
    /// Stop cleanly, unless somebody uses the mirror's export.
    Stop,
}

/// What an order is answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "kebab-case")]
pub enum Told {
    /// Done, or begun.
    Done,
    /// How the array is.
    Array(Box<ArrayStatus>),
    /// A leg was added.
    Added(Added),
    /// The state forbids it; nothing was changed.
    Refused {
        /// Why, in words.
        why: String,
        /// What could help.
        hint: Option<String>,
    },
    /// It did not work.
    Failed {
        /// Why, in words.
        why: String,
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
    talk(folder, tag, request, Duration::from_secs(10))
}

/// Gives an order to the process that runs mirror `tag` and waits up to `patience` for its answer.
pub fn order(
    folder: &Path,
    tag: &str,
    order: &Order,
    patience: Duration,
) -> Result<Told, ControlError> {
    talk(folder, tag, order, patience)
}

/// Opens a connection on which `order` was sent and nothing was read yet.
pub fn open(folder: &Path, tag: &str, order: &Order) -> Result<UnixStream, ControlError> {
    let mut stream = connect(folder, tag)?;
    say(&mut stream, order).map_err(no_answer(tag))?;
    Ok(stream)
}

fn connect(folder: &Path, tag: &str) -> Result<UnixStream, ControlError> {
    let path = socket_path(folder, tag);
    UnixStream::connect(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning {
            tag: tag.into(),
            path,
            error,
        },
        // It may well run: too many open files, for example, say nothing of it.
        _ => ControlError::NoAnswer {
            tag: tag.into(),
            error,
        },
    })
}

fn talk<R: DeserializeOwned>(
    folder: &Path,
    tag: &str,
    question: &impl Serialize,
    patience: Duration,
) -> Result<R, ControlError> {
    let mut stream = connect(folder, tag)?;
    say(&mut stream, question).map_err(no_answer(tag))?;
    let line = hear(&mut stream, patience).map_err(no_answer(tag))?;
    serde_json::from_str(&line).map_err(|error| ControlError::Garbled {
        tag: tag.into(),
        error,
    })
}

fn no_answer(tag: &str) -> impl Fn(io::Error) -> ControlError {
    move |error| ControlError::NoAnswer {
        tag: tag.into(),
        error,
    }
}

fn say(stream: &mut UnixStream, question: &impl Serialize) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut line = serde_json::to_string(question)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

fn hear(stream: &mut UnixStream, patience: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer)?;
    if answer.ends_with('\n') {
        Ok(answer)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
