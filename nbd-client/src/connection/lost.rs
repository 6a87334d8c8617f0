//! Why a connection ended, and what its requests are told about it.

use std::time::Duration;

use nbd_protocol::command::{Errno, Failure};

/// Error number of a request whose connection was lost after it may have been sent: **its outcome is unknown**.
/// (104, `ECONNRESET`; no server can make a request fail with it, see `from_peer`.)
pub const LOST: Errno = Errno(104);

/// Error number of a request that the server did not answer in time: **its outcome is unknown**. (110, `ETIMEDOUT`)
pub const TIMED_OUT: Errno = Errno(110);

/// Error number of a request of which certainly no byte was sent: it had no effect. (107, `ENOTCONN`)
pub const NOT_SENT: Errno = Errno(107);

/// Error number of a request that was refused because the connection has too many in flight. (11, `EAGAIN`)
pub const BUSY: Errno = Errno(11);

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// [`Connection::close`](crate::Connection::close) was called and everything was answered.
    #[error("the connection was closed")]
    Closed,
    /// The server said that it is shutting down (`ESHUTDOWN`), and everything in flight was answered.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// [`Connection::abort`](crate::Connection::abort) was called, or the connection dropped with requests pending.
    #[error("the connection was aborted")]
    Aborted,
    /// The server closed the connection without being asked to.
    #[error("the server closed the connection")]
    ByServer,
    /// A request was not answered within the time set for it.
    #[error("the server did not answer a request within {} ms", after.as_millis())]
    TimedOut {
        /// The time set.
        after: Duration,
    },
    /// The network failed.
    #[error("the connection failed: {error}")]
    Network {
        /// What the system said.
        error: String,
    },
    /// A message was changed on its way; nothing that follows it is believed.
    #[error("a message was damaged on its way: {what}")]
    Damaged {
        /// Which.
        what: String,
    },
    /// The server broke the protocol; nothing it says is believed any more.
    #[error("the server broke the protocol: {what}")]
    Violation {
        /// What it did.
        what: String,
    },
}

impl Lost {
    /// What a pending request is told.
    pub(super) fn failure(&self, may_have_been_sent: bool) -> Failure {
        let errno = match self {
            _ if !may_have_been_sent => NOT_SENT,
            Lost::TimedOut { .. } => TIMED_OUT,
            _ => LOST,
        };
        let known = if may_have_been_sent {
            "outcome unknown"
        } else {
            "not sent"
        };
        Failure::new(errno, format!("{self}; {known}"))
    }
}

/// Whether a failure says that the connection is at fault, not the request: it may succeed on another connection.
pub fn is_connection_failure(failure: &Failure) -> bool {
    [LOST, TIMED_OUT, NOT_SENT].contains(&failure.errno)
}

/// The error number of a server's answer: an unknown one counts as EINVAL ("Error values"), so that no server can send
/// one of the numbers that this crate uses for its own failures.
pub(super) fn from_peer(errno: Errno) -> Errno {
    const KNOWN: [Errno; 8] = [
        Errno::EPERM,
        Errno::EIO,
        Errno::ENOMEM,
        Errno::EINVAL,
        Errno::ENOSPC,
        Errno::EOVERFLOW,
        Errno::ENOTSUP,
        Errno::ESHUTDOWN,
    ];
    if KNOWN.contains(&errno) {
        errno
    } else {
        Errno::EINVAL
    }
}
