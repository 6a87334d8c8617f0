//! What a client still expects for one request: whether each reply fits, and when the answer is complete.

use crate::command::{Errno, Extent, Failure};
use crate::limit::MAX_PIECES;
use crate::number::{CommandFlags, CommandType};
use crate::reply::{Reply, ReplyBody};
use crate::request::{HeaderStyle, RequestHeader};

/// One request that was sent and not answered completely. Kept by the client under the request's cookie.
#[derive(Clone, Debug)]
pub struct Pending {
    style: HeaderStyle,
    request: RequestHeader,
    /// Pieces of a READ that have arrived: (first, end) from the start of the range; sorted, with gaps in between.
    pieces: Vec<(u64, u64)>,
    /// The whole range of a READ arrived at once: the usual case, for which nothing is allocated.
    whole: bool,
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
    /// Expects the answer to `request`. `contexts` are the ids that a BLOCK_STATUS will be answered for: those that
    /// were selected in the handshake, or chosen by its payload. For a BLOCK_STATUS with payload give the header with
    /// the length that is asked about, not that of the payload.
    pub fn new(style: HeaderStyle, request: RequestHeader, contexts: &[u32]) -> Pending {
        let due = match request.kind {
            CommandType::BLOCK_STATUS => contexts.to_vec(),
            _ => Vec::new(),
        };
        Pending {
            style,
            request,
            pieces: Vec::new(),
            whole: false,
            due,
            failure: None,
        }
    }

    /// The request.
    pub fn request(&self) -> &RequestHeader {
        &self.request
    }

    /// Checks one reply with this request's cookie.
    ///
    /// # Errors
    /// The server broke the protocol: close the connection and fail, or send again elsewhere, all that is pending.
    pub fn accept(&mut self, reply: &Reply) -> Result<Accepted, Violation> {
        let expected = self.request.offset;
        if let Some(found) = reply.request_offset
            && found != expected
        {
            return Err(Violation::Offset { expected, found });
        }
        let mut accepted = Accepted {
            finished: reply.done,
            ..Accepted::default()
        };
        match &reply.body {
            ReplyBody::Simple { errno } => accepted.data = self.simple(*errno)?,
            ReplyBody::Nothing => {}
            ReplyBody::Data { offset, length } => {
                accepted.data = Some(self.piece("data", *offset, *length)?);
            }
            ReplyBody::Hole { offset, length } => {
                accepted.zeroes = Some(self.piece("a hole", *offset, *length)?);
            }
            ReplyBody::Status { context, extents } => self.status(*context, extents)?,
            ReplyBody::Error {
                errno,
                text,
                offset,
            } => self.error(*errno, text, *offset)?,
        }
        if accepted.finished && self.failure.is_none() {
            self.check_complete()?;
        }
        Ok(accepted)
    }

    /// How the request went, after [`Accepted::finished`]: the first error that the server named, if any.
    ///
    /// # Errors
    /// The server's error number and words.
    pub fn finish(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }

    fn simple(&mut self, errno: Errno) -> Result<Option<Piece>, Violation> {
        let reads = self.request.kind == CommandType::READ;
        if reads && self.style != HeaderStyle::Simple {
            // "Structured replies": a server MUST NOT answer READ with a simple reply once they are negotiated; not
            // even with an error, because the client could not tell whether data follow.
            return Err(self.unfitting("a simple reply"));
        }
        if errno.0 != 0 {
            self.failure = Some(Failure::new(errno, "the server gave no reason"));
            return Ok(None);
        }
        if !reads {
            return Ok(None);
        }
        // A compact request's length fits, and was chosen by this side.
        let length = u32::try_from(self.request.length).map_err(|_| Violation::Pieces)?;
        self.piece("data", self.request.offset, length).map(Some)
    }

    /// Takes note of one piece of a READ's range.
    fn piece(&mut self, with: &'static str, offset: u64, length: u32) -> Result<Piece, Violation> {
        if self.request.kind != CommandType::READ {
            return Err(self.unfitting(with));
        }
        let begun = self.whole || !self.pieces.is_empty();
        if self.request.flags.contains(CommandFlags::DF) && begun {
            return Err(self.unfitting("more than one piece in spite of DF"));
        }
        let length = u64::from(length);
        let at = offset.checked_sub(self.request.offset);
        let Some(at) = at.filter(|at| length <= self.request.length.saturating_sub(*at)) else {
            return Err(Violation::Outside { offset, length });
        };
        if at == 0 && length == self.request.length && !begun {
            self.whole = true;
        } else if self.whole {
            return Err(Violation::Twice { offset, length });
        } else {
            // Within the request, whose length fits.
            self.remember(at, at + length)
                .ok_or(Violation::Twice { offset, length })?;
        }
        if self.pieces.len() > MAX_PIECES {
            return Err(Violation::Pieces);
        }
        let too_large = |_| Violation::Outside { offset, length };
        Ok(Piece {
            at: usize::try_from(at).map_err(too_large)?,
            length: usize::try_from(length).map_err(too_large)?,
        })
    }

    /// Adds a piece, joined to its neighbours; `None` if it overlaps one.
    fn remember(&mut self, first: u64, end: u64) -> Option<()> {
        let next = self
            .pieces
            .partition_point(|(_, other_end)| *other_end <= first);
        let joins_next = match self.pieces.get(next) {
            Some((other_first, _)) if *other_first < end => return None,
            Some((other_first, _)) => *other_first == end,
            None => false,
        };
        let previous = next.checked_sub(1);
        let joins_previous = previous.filter(|i| {
            self.pieces
                .get(*i)
                .is_some_and(|(_, other_end)| *other_end == first)
        });
        match (joins_previous, joins_next) {
            (Some(previous), true) => {
                self.pieces[previous].1 = self.pieces[next].1;
                self.pieces.remove(next);
            }
            (Some(previous), false) => self.pieces[previous].1 = end,
            (None, true) => self.pieces[next].0 = first,
            (None, false) => self.pieces.insert(next, (first, end)),
        }
        Some(())
    }

    /// Takes note of the extents of one context. The last extent may reach beyond the range, even under REQ_ONE: some
    /// servers do that, and it does no harm.
    fn status(&mut self, context: u32, extents: &[Extent]) -> Result<(), Violation> {
        if self.request.kind != CommandType::BLOCK_STATUS {
            return Err(self.unfitting("extents"));
        }
        let position = self.due.iter().position(|id| *id == context);
        self.due
            .swap_remove(position.ok_or(Violation::Context(context))?);
        let (_, all_but_last) = extents.split_last().ok_or(Violation::Extents)?;
        if self.request.flags.contains(CommandFlags::REQ_ONE) && !all_but_last.is_empty() {
            return Err(Violation::Extents);
        }
        let mut left = self.request.length;
        for extent in all_but_last {
            left = left
                .checked_sub(extent.length)
                .filter(|left| *left > 0)
                .ok_or(Violation::Extents)?;
        }
        Ok(())
    }

    /// Takes note of an error; the first one counts.
    fn error(&mut self, errno: Errno, text: &str, offset: Option<u64>) -> Result<(), Violation> {
        if let Some(offset) = offset {
            let at = offset.checked_sub(self.request.offset);
            if at.is_none_or(|at| at >= self.request.length) {
                return Err(Violation::Outside { offset, length: 1 });
            }
        }
        if self.failure.is_none() {
            let reason = if text.is_empty() {
                "the server gave no reason"
            } else {
                text
            };
            let why = match offset {
                Some(offset) => format!("{reason} (at {offset})"),
                None => reason.to_owned(),
            };
            self.failure = Some(Failure::new(errno, why));
        }
        Ok(())
    }

    /// A success must have brought everything that was asked for.
    fn check_complete(&self) -> Result<(), Violation> {
        let RequestHeader { kind, length, .. } = self.request;
        let covered = self.whole || self.pieces == [(0, length)];
        if kind == CommandType::READ && !covered {
            return Err(Violation::Missing {
                what: "all of the data",
            });
        }
        if !self.due.is_empty() {
            return Err(Violation::Missing {
                what: "the extents of every context",
            });
        }
        Ok(())
    }

    fn unfitting(&self, with: &'static str) -> Violation {
        Violation::Unfitting {
            kind: self.request.kind,
            with,
        }
    }
}

#[cfg(test)]
mod tests;
