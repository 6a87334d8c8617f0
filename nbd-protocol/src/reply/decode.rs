//! Reading replies.

use crate::command::{Errno, Extent};
use crate::error::DecodeError;
use crate::limit::{MAX_ERROR_CHUNK, MAX_EXTENTS, MAX_PAYLOAD};
use crate::number::{
    ChunkFlags, ChunkType, EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use crate::reply::{ChunkHeader, Reply, ReplyBody, SimpleHeader};
use crate::request::HeaderStyle;
use crate::text;
use crate::wire::Reader;

impl Reply {
    /// The longest message in bytes that [`Reply::decode`] can ask to be complete: the most extents in extended form.
    pub const MAX_SIZE: usize = ChunkHeader::EXTENDED_SIZE + 8 + 16 * MAX_EXTENTS;

    /// The message at the front of `bytes` and how many bytes it takes, or `None` while it is incomplete. The bytes of
    /// data that a [`ReplyBody::Data`], or a [`ReplyBody::Simple`] to a READ, announces are not counted: they are for
    /// the caller to receive.
    ///
    /// Lengths are checked as soon as the header is there, and nothing is allocated before the message is. Whether the
    /// message fits the request is checked by [`Pending`](crate::pending::Pending).
    pub fn decode(style: HeaderStyle, bytes: &[u8]) -> Result<Option<(Reply, usize)>, DecodeError> {
        let Some(magic) = bytes
            .first_chunk::<4>()
            .map(|head| u32::from_be_bytes(*head))
        else {
            return Ok(None);
        };
        match (magic, style) {
            (SIMPLE_REPLY_MAGIC, HeaderStyle::Simple | HeaderStyle::Structured) => simple(bytes),
            (STRUCTURED_REPLY_MAGIC, HeaderStyle::Structured) => chunk(bytes, false),
            (EXTENDED_REPLY_MAGIC, HeaderStyle::Extended) => chunk(bytes, true),
            _ => Err(DecodeError::Magic {
                what: "a reply",
                found: u64::from(magic),
            }),
        }
    }
}

fn simple(bytes: &[u8]) -> Result<Option<(Reply, usize)>, DecodeError> {
    let Some(header) = bytes.get(4..SimpleHeader::SIZE) else {
        return Ok(None);
    };
    let mut reader = Reader::new(header, "a simple reply");
    let errno = Errno(reader.u32()?);
    let cookie = reader.u64()?;
    let body = ReplyBody::Simple { errno };
    Ok(Some((
        Reply {
            cookie,
            done: true,
            request_offset: None,
            body,
        },
        SimpleHeader::SIZE,
    )))
}

fn chunk(bytes: &[u8], extended: bool) -> Result<Option<(Reply, usize)>, DecodeError> {
    let size = if extended {
        ChunkHeader::EXTENDED_SIZE
    } else {
        ChunkHeader::STRUCTURED_SIZE
    };
    let Some(header) = bytes.get(4..size) else {
        return Ok(None);
    };
    let mut reader = Reader::new(header, "a reply chunk");
    let flags = ChunkFlags(reader.u16()?);
    let kind = ChunkType(reader.u16()?);
    let cookie = reader.u64()?;
    let request_offset = if extended { Some(reader.u64()?) } else { None };
    let length = if extended {
        reader.u64()?
    } else {
        u64::from(reader.u32()?)
    };
    let head = head_length(kind, length)?;
    let Some(payload) = bytes.get(size..size + head) else {
        return Ok(None);
    };
    let body = body(kind, length, payload)?;
    let done = flags.contains(ChunkFlags::DONE);
    if body == ReplyBody::Nothing && !done {
        return Err(DecodeError::Value {
            what: "the flags of an empty chunk",
            value: flags.0.into(),
        });
    }
    Ok(Some((
        Reply {
            cookie,
            done,
            request_offset,
            body,
        },
        size + head,
    )))
}

/// How much of the payload must be there to be understood: all of it, but of data only the offset.
fn head_length(kind: ChunkType, length: u64) -> Result<usize, DecodeError> {
    let extents = MAX_EXTENTS as u64;
    let (what, least, most) = match kind {
        ChunkType::NONE => ("an empty chunk", 0, 0),
        ChunkType::OFFSET_DATA => ("a data chunk", 9, 8 + u64::from(MAX_PAYLOAD)),
        ChunkType::OFFSET_HOLE => ("a hole chunk", 12, 12),
        ChunkType::BLOCK_STATUS => ("a block-status chunk", 12, 4 + 8 * extents),
        ChunkType::BLOCK_STATUS_EXT => ("an extended block-status chunk", 24, 8 + 16 * extents),
        ChunkType::ERROR_OFFSET => ("an error chunk", 14, u64::from(MAX_ERROR_CHUNK)),
        kind if kind.is_error() => ("an error chunk", 6, u64::from(MAX_ERROR_CHUNK)),
        kind => return Err(DecodeError::UnknownChunk(kind)),
    };
    if length < least {
        return Err(DecodeError::Truncated { what });
    }
    if length > most {
        return Err(DecodeError::TooLong {
            what,
            length,
            limit: most,
        });
    }
    // At most 16 MiB and some bytes.
    Ok(if kind == ChunkType::OFFSET_DATA {
        8
    } else {
        length as usize
    })
}

/// The payload's meaning; `length` is within the bounds of [`head_length`].
fn body(kind: ChunkType, length: u64, payload: &[u8]) -> Result<ReplyBody, DecodeError> {
    let mut reader = Reader::new(payload, "a reply chunk");
    let body = match kind {
        ChunkType::NONE => ReplyBody::Nothing,
        // At most MAX_PAYLOAD.
        ChunkType::OFFSET_DATA => ReplyBody::Data {
            offset: reader.u64()?,
            length: (length - 8) as u32,
        },
        ChunkType::OFFSET_HOLE => {
            let offset = reader.u64()?;
            let length = reader.u32()?;
            if length == 0 {
                return Err(DecodeError::Value {
                    what: "a hole's length",
                    value: 0,
                });
            }
            ReplyBody::Hole { offset, length }
        }
        ChunkType::BLOCK_STATUS => {
            let context = reader.u32()?;
            let mut extents = Vec::with_capacity(reader.rest().len() / 8);
            while !reader.rest().is_empty() {
                let length = u64::from(reader.u32()?);
                extents.push(extent(length, u64::from(reader.u32()?))?);
            }
            ReplyBody::Status { context, extents }
        }
        ChunkType::BLOCK_STATUS_EXT => {
            let context = reader.u32()?;
            let count = reader.u32()?;
            let found = reader.rest().len() as u64;
            // "0, or the length of the array": the chunk's length tells in any case.
            let matches = count == 0 || found == u64::from(count) * 16;
            if !matches || !found.is_multiple_of(16) {
                let value = u64::from(count);
                return Err(DecodeError::Value {
                    what: "the count of extents",
                    value,
                });
            }
            let mut extents = Vec::with_capacity(reader.rest().len() / 16);
            while !reader.rest().is_empty() {
                let length = reader.u64()?;
                extents.push(extent(length, reader.u64()?)?);
            }
            ReplyBody::Status { context, extents }
        }
        _ => {
            let errno = match reader.u32()? {
                0 => Errno::EINVAL,
                number => Errno(number),
            };
            let length = usize::from(reader.u16()?);
            let text = text::printable(reader.bytes(length)?);
            let offset = match kind {
                ChunkType::ERROR_OFFSET => Some(reader.u64()?),
                _ => None,
            };
            if kind != ChunkType::ERROR && kind != ChunkType::ERROR_OFFSET {
                // An error type of a later protocol may carry more.
                reader = Reader::new(&[], "");
            }
            ReplyBody::Error {
                errno,
                text,
                offset,
            }
        }
    };
    reader.end()?;
    Ok(body)
}

fn extent(length: u64, status: u64) -> Result<Extent, DecodeError> {
    if length == 0 {
        return Err(DecodeError::Value {
            what: "an extent's length",
            value: 0,
        });
    }
    Ok(Extent { length, status })
}
