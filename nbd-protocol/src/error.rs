//! Why bytes from a peer could not be understood.

use crate::number::ChunkType;

/// What is wrong with bytes from a peer. On a stream that carries replies or requests every one of them is final:
/// the next message can't be found any more, so the connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A message does not begin with its magic number.
    #[error("{what} begins with {found:#x} instead of its magic number")]
    Magic {
        /// Which message was due.
        what: &'static str,
        /// What was found.
        found: u64,
    },
    /// A claimed length is above the limit; nothing was allocated for it.
    #[error("{what} claims {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// Which message or part.
        what: &'static str,
        /// The claimed length in bytes (or entries).
        length: u64,
        /// The limit in the same unit.
        limit: u64,
    },
    /// A part reaches beyond the message that holds it.
    #[error("{what} ends too early")]
    Truncated {
        /// Which part.
        what: &'static str,
    },
    /// A message is longer than what it holds.
    #[error("{what} has {extra} bytes too many")]
    Trailing {
        /// Which message.
        what: &'static str,
        /// How many bytes were left over.
        extra: usize,
    },
    /// A string is not UTF-8 or holds a NUL.
    #[error("{what} is not a string of UTF-8 without NUL")]
    Text {
        /// Which string.
        what: &'static str,
    },
    /// A value is out of its range.
    #[error("{what} is {value}, which is not allowed")]
    Value {
        /// Which value.
        what: &'static str,
        /// What was found.
        value: u64,
    },
    /// "Structured reply types": a client must disconnect on a non-error chunk type that it does not know.
    #[error("unknown chunk type {0:?}")]
    UnknownChunk(ChunkType),
}
