//! Why a request of the asynchronous client failed.

use std::sync::Arc;
use std::time::Duration;

use nbd_protocol::command::Failure;

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server, or a check before sending, refused the request. It had no effect beyond what the server says.
    #[error("{failure}")]
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The connection was lost while the request was under way, and sending it again is not safe or not wanted: **its
    /// outcome is unknown**, and the server may even carry it out later.
    #[error("{why}; it was not sent again")]
    Lost {
        /// What happened to the connection.
        why: Arc<str>,
        /// The server did not answer in time.
        timed_out: bool,
    },
    /// No connection could be made again in the time allowed.
    #[error("no connection again within {} s: {last}", after.as_secs_f32())]
    GaveUp {
        /// The time allowed.
        after: Duration,
        /// The latest attempt's error.
        last: Arc<str>,
    },
    /// The export came back different after a reconnection, so it is not the same disk; or it may have lost what was
    /// written and not flushed.
    #[error("after a reconnection {what}")]
    Changed {
        /// What is different.
        what: Arc<str>,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}
