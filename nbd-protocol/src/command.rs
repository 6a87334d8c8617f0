//! One block-device command and its answer: the vocabulary that servers, clients and mirrors share.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

/// What is asked of a block device. Offsets and lengths are in bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// Read `length` bytes at `offset`; answered with [`Answer::Data`] of exactly that length.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
    /// Write `data` at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// What to write.
        data: Bytes,
        /// Answer only when the data is on stable storage.
        fua: bool,
    },
    /// Everything answered before this command is on stable storage before its answer.
    Flush,
    /// The range is no longer needed. Here it is deterministic: the range reads as zeroes afterwards, or it fails.
    Trim {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Answer only when the effect is on stable storage.
        fua: bool,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Answer only when the zeroes are on stable storage.
        fua: bool,
        /// Keep the range allocated.
        no_hole: bool,
        /// Fail with [`Errno::ENOTSUP`] at once unless this is faster than writing zeroes.
        fast: bool,
    },
    /// Describe the range in one context; answered with [`Answer::Extents`].
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// One extent only, not reaching beyond the range.
        one: bool,
        /// Which context: an index into the device's own list of contexts (0 is `base:allocation`).
        context: usize,
    },
    /// The range is about to be read.
    Cache {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

impl Command {
    /// The bytes that the command touches, as (offset, length); `None` for [`Command::Flush`].
    pub fn range(&self) -> Option<(u64, u64)> {
        match self {
            Command::Read { offset, length } => Some((*offset, u64::from(*length))),
            Command::Write { offset, data, .. } => Some((*offset, data.len() as u64)),
            Command::Flush => None,
            Command::Trim { offset, length, .. }
            | Command::WriteZeroes { offset, length, .. }
            | Command::BlockStatus { offset, length, .. }
            | Command::Cache { offset, length } => Some((*offset, *length)),
        }
    }

    /// Whether the command changes what a later read returns.
    pub fn changes_data(&self) -> bool {
        matches!(
            self,
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
        )
    }
}

/// Payloads are shown by their length only.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Read { offset, length } => write!(f, "Read({offset}+{length})"),
            Command::Write { offset, data, fua } => {
                write!(f, "Write({offset}+{}, fua {fua})", data.len())
            }
            Command::Flush => write!(f, "Flush"),
            Command::Trim {
                offset,
                length,
                fua,
            } => write!(f, "Trim({offset}+{length}, fua {fua})"),
            Command::WriteZeroes {
                offset,
                length,
                fua,
                no_hole,
                fast,
            } => {
                write!(
                    f,
                    "WriteZeroes({offset}+{length}, fua {fua}, no_hole {no_hole}, fast {fast})"
                )
            }
            Command::BlockStatus {
                offset,
                length,
                one,
                context,
            } => {
                write!(
                    f,
                    "BlockStatus({offset}+{length}, one {one}, context {context})"
                )
            }
            Command::Cache { offset, length } => write!(f, "Cache({offset}+{length})"),
        }
    }
}

/// One run of a block-status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes that the extent covers; never 0.
    pub length: u64,
    /// The context's status of all of them (for `base:allocation`: bit 0 hole, bit 1 reads as zeroes).
    pub status: u64,
}

/// What a command that succeeded gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but success.
    Done,
    /// The bytes read.
    Data(Bytes),
    /// At least one extent; together they begin at the command's offset. The last may reach beyond the range.
    Extents(Vec<Extent>),
}

/// An error number of the protocol ("Error values"); unknown numbers are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u32);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Errno = Errno(1);
    /// Input/output error.
    pub const EIO: Errno = Errno(5);
    /// Cannot allocate memory.
    pub const ENOMEM: Errno = Errno(12);
    /// Invalid argument.
    pub const EINVAL: Errno = Errno(22);
    /// No space left on device.
    pub const ENOSPC: Errno = Errno(28);
    /// Value too large.
    pub const EOVERFLOW: Errno = Errno(75);
    /// Operation not supported.
    pub const ENOTSUP: Errno = Errno(95);
    /// Server is in the process of being shut down.
    pub const ESHUTDOWN: Errno = Errno(108);
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Errno::EPERM => f.write_str("EPERM"),
            Errno::EIO => f.write_str("EIO"),
            Errno::ENOMEM => f.write_str("ENOMEM"),
            Errno::EINVAL => f.write_str("EINVAL"),
            Errno::ENOSPC => f.write_str("ENOSPC"),
            Errno::EOVERFLOW => f.write_str("EOVERFLOW"),
            Errno::ENOTSUP => f.write_str("ENOTSUP"),
            Errno::ESHUTDOWN => f.write_str("ESHUTDOWN"),
            Errno(other) => write!(f, "error {other}"),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a command failed: the number for the wire and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} ({errno})")]
pub struct Failure {
    /// The protocol's error number.
    pub errno: Errno,
    /// What went wrong, in lower case and without a final stop.
    pub why: Cow<'static, str>,
}

impl Failure {
    /// A failure with a fixed or a made-up sentence.
    pub fn new(errno: Errno, why: impl Into<Cow<'static, str>>) -> Failure {
        Failure {
            errno,
            why: why.into(),
        }
    }
}

/// What becomes of a command.
pub type Outcome = Result<Answer, Failure>;

/// Called exactly once with the outcome of one command, on whichever thread learns of it; must not block.
pub struct Completion(Box<dyn FnOnce(Outcome) + Send>);

impl Completion {
    /// A completion that calls `then`.
    pub fn new(then: impl FnOnce(Outcome) + Send + 'static) -> Completion {
        Completion(Box::new(then))
    }

    /// Hands over the outcome.
    pub fn complete(self, outcome: Outcome) {
        (self.0)(outcome);
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completion")
    }
}
