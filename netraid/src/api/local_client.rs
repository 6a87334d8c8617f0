//! Calls the daemon of this machine over its unix socket: blocking, without a runtime, for commands and hooks that have
//! to start in milliseconds.

mod response;

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use response::Reader;

/// Where the daemon listens.
pub const DEFAULT_SOCKET: &str = "/run/netraid/netraidd.sock";
/// Bytes of an answer that are taken.
pub const MAX_ANSWER: usize = 8 << 20;
/// Bytes of one line of a stream that are taken.
pub const MAX_LINE: usize = 1 << 20;

/// Why the daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Nobody listens.
    #[error("netraidd is not running: nobody listens at {}; start it: systemctl start netraidd", .0.display())]
    NotRunning(PathBuf),
    /// It listens, but not for this user.
    #[error("{} may not be used by this user; be root, or of the socket's group", .0.display())]
    NotAllowed(PathBuf),
    /// Not in time.
    #[error("netraidd did not answer at {} within {within:?}", socket.display())]
    Late {
        /// The socket.
        socket: PathBuf,
        /// The time it had.
        within: Duration,
    },
    /// It is not understood, or too large.
    #[error("netraidd sent what is no answer at {}: {reason}", socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection to netraidd at {} broke: {error}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Such a path can't be asked for.
    #[error("{0:?} cannot be asked for")]
    Path(String),
}

/// A way to the daemon; each request is a connection of its own.
#[derive(Clone, Debug)]
pub struct LocalClient {
    socket: PathBuf,
    deadline: Duration,
}

impl LocalClient {
    /// Asks at `socket`; each answer has to be complete within `deadline`.
    pub fn new(socket: impl Into<PathBuf>, deadline: Duration) -> LocalClient {
        LocalClient {
            socket: socket.into(),
            deadline,
        }
    }

    /// The answer's status and body.
    pub fn get(&self, path: &str) -> Result<(u16, Vec<u8>), LocalError> {
        self.ask("GET", path, &[])
    }

    /// The answer's status and body to a question in JSON.
    pub fn post(&self, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), LocalError> {
        self.ask("POST", path, body)
    }

    /// An answer that goes on, a JSON document a line. The deadline is for its head; see [`Stream::next_line`].
    pub fn stream(&self, path: &str) -> Result<Stream, LocalError> {
        let mut reader = self.send("GET", path, &[])?;
        let status = reader.head().map_err(|error| self.explain(error))?;
        Ok(Stream {
            client: self.clone(),
            status,
            reader,
            line: Vec::new(),
        })
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), LocalError> {
        let mut reader = self.send(method, path, body)?;
        let answer = (|| Ok((reader.head()?, reader.body(MAX_ANSWER)?)))();
        answer.map_err(|error| self.explain(error))
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Reader<Timed>, LocalError> {
        if !path.starts_with('/') || !path.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(LocalError::Path(path.to_owned()));
        }
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let deadline = Instant::now() + self.deadline;
        let sent = (|| {
            let mut stream = Timed {
                stream: dial(&self.socket, deadline)?,
                deadline: Some(deadline),
            };
            match stream.write_all(&request) {
                // It may have said why before it closed.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                sent => sent?,
            }
            Ok(stream)
        })();
        sent.map(Reader::new).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: io::Error) -> LocalError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                LocalError::NotRunning(socket)
            }
            io::ErrorKind::PermissionDenied => LocalError::NotAllowed(socket),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => LocalError::Late {
                socket,
                within: self.deadline,
            },
            io::ErrorKind::InvalidData => LocalError::Garbled {
                socket,
                reason: error.to_string(),
            },
            _ => LocalError::Broken { socket, error },
        }
    }
}

/// An answer of many lines.
#[derive(Debug)]
pub struct Stream {
    client: LocalClient,
    status: u16,
    reader: Reader<Timed>,
    line: Vec<u8>,
}

impl Stream {
    /// The HTTP status. If it is not 200, the lines are the reason.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The next line without its end; `None` after the last. Waits at most `within` (`None`: for ever); a line of which
    /// only a part has come is kept for the next call.
    pub fn next_line(&mut self, within: Option<Duration>) -> Result<Option<Vec<u8>>, LocalError> {
        self.reader.source().deadline = within.map(|within| Instant::now() + within);
        let read = self.reader.line(&mut self.line, MAX_LINE);
        match read {
            Ok(true) => Ok(Some(std::mem::take(&mut self.line))),
            Ok(false) => Ok(None),
            Err(error) => Err(match (self.client.explain(error), within) {
                (LocalError::Late { socket, .. }, Some(within)) => {
                    LocalError::Late { socket, within }
                }
                (error, _) => error,
            }),
        }
    }
}

/// A stream whose every read and write ends by a deadline.
#[derive(Debug)]
struct Timed {
    stream: UnixStream,
    deadline: Option<Instant>,
}

impl Timed {
    /// The time left; an error if none is.
    fn left(&self) -> io::Result<Option<Duration>> {
        self.deadline.map(remaining).transpose()
    }
}

impl io::Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn dial(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let stream = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // A full backlog makes connect(2) wait; the send timeout bounds that (unix(7)).
    let microseconds = remaining(deadline)?.as_micros().max(1);
    let patience = TimeVal::microseconds(i64::try_from(microseconds).unwrap_or(i64::MAX));
    setsockopt(&stream, sockopt::SendTimeout, &patience)?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(stream))
}
