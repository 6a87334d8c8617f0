//! What a client still expects for one request: whether each reply fits, and when the answer is complete.

use crate::command::Failure;
use crate::limit::MAX_PIECES;
use crate::number::CommandType;
use crate::reply::Reply;
use crate::request::{HeaderStyle, RequestHeader};

/// One request that was sent and not answered completely. Kept by the client under the request's cookie.
#[derive(Clone, Debug)]
pub struct Pending {
    style: HeaderStyle,
    request: RequestHeader,
    /// Pieces of a READ that have arrived: (first, end), sorted, apart.
    pieces: Vec<(u64, u64)>,
    /// Context ids of a BLOCK_STATUS that are still due.
    due: Vec<u32>,
    failure: Option<Failure>,
}

/// What to do with a reply that fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Receive this many bytes next, to this distance from the start of the request's range.
    pub data: Option<Piece>,
    /// Fill this part of the request's range with zeroes.
    pub zeroes: Option<Piece>,
    /// Once that is done the request is answered: ask [`Pending::finish`].
    pub finished: bool,
}

/// A part of a READ's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Distance from the request's offset in bytes.
    pub at: usize,
    /// Bytes.
    pub length: usize,
}

/// A reply that breaks the protocol; the connection must be closed, because nothing on it can be trusted any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A kind of reply that this request can't have.
    #[error("{kind:?} was answered with {with}")]
    Unfitting {
        /// The request's command.
        kind: CommandType,
        /// What came.
        with: &'static str,
    },
    /// The server repeated another offset than that of the request.
    #[error("the reply names offset {found} instead of the request's {expected}")]
    Offset {
        /// The request's.
        expected: u64,
        /// The reply's.
        found: u64,
    },
    /// Data or an error outside the request's range.
    #[error("the reply is about {length} bytes at {offset}, outside of the request")]
    Outside {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// The same bytes twice.
    #[error("the reply has {length} bytes at {offset} twice")]
    Twice {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Success was said, but bytes or contexts are missing.
    #[error("the reply ends without {what}")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// The answer is in so many pieces that keeping count of them would cost too much.
    #[error("the reply is in more than {MAX_PIECES} pieces")]
    Pieces,
    /// Extents of a context that was not selected, or that already had its answer.
    #[error("the reply describes context {0}, which is not due")]
    Context(u32),
    /// Extents behind the end of the range, or more than one under REQ_ONE.
    #[error("the extents of the reply do not fit the request")]
    Extents,
}

impl Pending {
    /// Expects the answer to `request`. `contexts` are the ids that a BLOCK_STATUS will be answered for (those that
    /// were selected in the handshake, or chosen by its payload); `range` is what is asked about, which differs from the
    /// header's length only for a BLOCK_STATUS with payload.
    pub fn new(style: HeaderStyle, request: RequestHeader, contexts: &[u32]) -> Pending {
        let due = match request.kind {
            CommandType::BLOCK_STATUS => contexts.to_vec(),
            _ => Vec::new(),
        };
        Pending {
            style,
            request,
            pieces: Vec::new(),
            due,
            failure: None,
        }
    }

    /// The request.
    pub fn request(&self) -> &RequestHeader {
        &self.request
    }

    /// Checks one reply with this request's cookie.
    pub fn accept(&mut self, reply: &Reply) -> Result<Accepted, Violation> {
        let _ = reply;
        todo!()
    }

    /// How the request went, after [`Accepted::finished`]: the first error that the server named, if any.
    pub fn finish(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }
}
