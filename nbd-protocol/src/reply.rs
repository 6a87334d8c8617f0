//! Replies: what a server writes in front of the data, and what a client reads.
//!
//! A server builds a [`ReplyTo`] per request and calls one method of it per outcome; only headers and small payloads
//! are written, so that the bytes of a READ can be sent from where they are. A client calls [`Reply::decode`] on what it
//! has received; the bytes of a READ are left to the caller as well.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use encode::{ChunkHeader, ReplyTo, SimpleHeader};

use crate::command::{Errno, Extent};

/// One message of a server: a simple reply, or a chunk of a structured or extended reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Of the request that it answers.
    pub cookie: u64,
    /// Nothing more comes for this request (but the bytes announced by this message).
    pub done: bool,
    /// Extended headers only: the offset of the request, repeated by the server.
    pub request_offset: Option<u64>,
    /// What it says.
    pub body: ReplyBody,
}

/// What one message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// A simple reply. With errno 0 to a READ the bytes of the whole range follow at once.
    Simple {
        /// 0 for success.
        errno: Errno,
    },
    /// A chunk without payload (NBD_REPLY_TYPE_NONE).
    Nothing,
    /// Bytes of a READ; `length` of them follow at once.
    Data {
        /// Where they belong on the export.
        offset: u64,
        /// How many; at least 1, at most [`MAX_PAYLOAD`](crate::limit::MAX_PAYLOAD).
        length: u32,
    },
    /// Zeroes of a READ.
    Hole {
        /// Where they belong on the export.
        offset: u64,
        /// How many; at least 1.
        length: u32,
    },
    /// Extents of one context.
    Status {
        /// Id from the handshake.
        context: u32,
        /// At least one, at most [`MAX_EXTENTS`](crate::limit::MAX_EXTENTS); no length is 0.
        extents: Vec<Extent>,
    },
    /// The command failed.
    Error {
        /// Why; never 0 (a server that says 0 is taken to mean EINVAL).
        errno: Errno,
        /// The server's words, fit to be shown; may be empty.
        text: String,
        /// Where on the export, if the server said so.
        offset: Option<u64>,
    },
}
