//! Writing replies.

use bytes::BufMut;

use crate::command::{Errno, Extent, Failure};
use crate::limit::MAX_EXTENTS;
use crate::number::{
    ChunkFlags, ChunkType, CommandFlags, EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
};
use crate::request::{HeaderStyle, RequestHeader};
use crate::text;

/// A simple reply ("Simple reply message").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleHeader {
    /// 0 for success.
    pub errno: Errno,
    /// Of the request.
    pub cookie: u64,
}

impl SimpleHeader {
    /// Bytes on the wire.
    pub const SIZE: usize = 16;

    /// Writes it.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(SIMPLE_REPLY_MAGIC);
        out.put_u32(self.errno.0);
        out.put_u64(self.cookie);
    }
}

/// The header of a structured or extended reply chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Whether it is the last.
    pub flags: ChunkFlags,
    /// What the payload is.
    pub kind: ChunkType,
    /// Of the request.
    pub cookie: u64,
    /// Extended headers only: of the request.
    pub offset: u64,
    /// Bytes of payload.
    pub length: u32,
}

impl ChunkHeader {
    /// Bytes of a structured chunk's header.
    pub const STRUCTURED_SIZE: usize = 20;
    /// Bytes of an extended chunk's header.
    pub const EXTENDED_SIZE: usize = 32;

    /// Writes it in the extended form if `extended`, else in the structured form.
    pub fn encode(&self, extended: bool, out: &mut impl BufMut) {
        out.put_u32(if extended {
            EXTENDED_REPLY_MAGIC
        } else {
            STRUCTURED_REPLY_MAGIC
        });
        out.put_u16(self.flags.0);
        out.put_u16(self.kind.0);
        out.put_u64(self.cookie);
        if extended {
            out.put_u64(self.offset);
            out.put_u64(u64::from(self.length));
        } else {
            out.put_u32(self.length);
        }
    }
}

/// Writes the answers to one request in the style that was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// What was negotiated.
    pub style: HeaderStyle,
    /// The request.
    pub request: RequestHeader,
}

impl ReplyTo {
    /// Answers `request`.
    pub const fn new(style: HeaderStyle, request: RequestHeader) -> ReplyTo {
        ReplyTo { style, request }
    }

    /// Most bytes that [`ReplyTo::done`], [`ReplyTo::data_header`], [`ReplyTo::hole`] write.
    pub const MAX_HEADER: usize = ChunkHeader::EXTENDED_SIZE + 12;

    /// Success without payload, or the end of a reply in chunks.
    pub fn done(&self, out: &mut impl BufMut) {
        match self.style {
            HeaderStyle::Simple => self.simple(Errno(0), out),
            // A reply without content may be simple, and is shorter so; nbdkit and qemu do the same. A READ's may not.
            HeaderStyle::Structured if self.may_be_simple() => self.simple(Errno(0), out),
            _ => self.chunk(ChunkFlags::DONE, ChunkType::NONE, 0, out),
        }
    }

    /// The header of a READ's whole and only answer: exactly `length` bytes of data (those of the request) must follow.
    /// Only for data that is already in memory: once the header is out, the read can't fail any more.
    pub fn data_header(&self, length: u32, out: &mut impl BufMut) {
        match self.style {
            HeaderStyle::Simple => self.simple(Errno(0), out),
            _ => self.data_chunk(self.request.offset, length, true, out),
        }
    }

    /// Structured or extended: the header of one piece of a READ's answer; `length` bytes must follow. Pieces do not
    /// overlap and together cover the request; `done` with the last.
    pub fn data_chunk(&self, offset: u64, length: u32, done: bool, out: &mut impl BufMut) {
        debug_assert!(self.style != HeaderStyle::Simple);
        // The sum can't overflow: `length` is at most MAX_PAYLOAD.
        self.chunk(
            flags(done),
            ChunkType::OFFSET_DATA,
            length.saturating_add(8),
            out,
        );
        out.put_u64(offset);
    }

    /// Structured or extended: one piece of a READ's answer that is all zeroes.
    pub fn hole(&self, offset: u64, length: u32, done: bool, out: &mut impl BufMut) {
        debug_assert!(self.style != HeaderStyle::Simple);
        self.chunk(flags(done), ChunkType::OFFSET_HOLE, 12, out);
        out.put_u64(offset);
        out.put_u32(length);
    }

    /// Structured or extended: the extents of one context, which begin at the request's offset; `done` with the last
    /// context. What the protocol does not allow is cut off: extents that begin behind the range, all but the first
    /// (clipped to the range) under REQ_ONE, extents above [`MAX_EXTENTS`], and without extended headers what does not
    /// fit 32 bits. Fails, writing nothing, if no extent is left.
    pub fn block_status(
        &self,
        context: u32,
        extents: &[Extent],
        done: bool,
        out: &mut impl BufMut,
    ) -> Result<(), Failure> {
        debug_assert!(self.style != HeaderStyle::Simple);
        let extended = self.style == HeaderStyle::Extended;
        let fitting = self.fitting(extents, extended);
        if fitting.is_empty() {
            return Err(Failure::new(
                Errno::EIO,
                "the device gave no extent that can be sent",
            ));
        }
        // At most 2^20 * 16 + 8 bytes.
        let count = fitting.len() as u32;
        if extended {
            self.chunk(
                flags(done),
                ChunkType::BLOCK_STATUS_EXT,
                8 + 16 * count,
                out,
            );
            out.put_u32(context);
            out.put_u32(count);
        } else {
            self.chunk(flags(done), ChunkType::BLOCK_STATUS, 4 + 8 * count, out);
            out.put_u32(context);
        }
        for extent in fitting {
            if extended {
                out.put_u64(extent.length);
                out.put_u64(extent.status);
            } else {
                // `fitting` has left only what fits.
                out.put_u32(extent.length as u32);
                out.put_u32(extent.status as u32);
            }
        }
        Ok(())
    }

    /// Failure: with a text where the style has room for one.
    pub fn failure(&self, failure: &Failure, out: &mut impl BufMut) {
        // 0 would mean success to a client; an outcome that says so is a defect of the device.
        let errno = if failure.errno.0 == 0 {
            Errno::EIO
        } else {
            failure.errno
        };
        if self.style == HeaderStyle::Simple {
            return self.simple(errno, out);
        }
        let text = text::sendable(&failure.why);
        self.chunk(
            ChunkFlags::DONE,
            ChunkType::ERROR,
            6 + text.len() as u32,
            out,
        );
        out.put_u32(errno.0);
        out.put_u16(text.len() as u16);
        out.put_slice(text.as_bytes());
    }

    /// Structured or extended: failure at one place of the range, after or instead of its content.
    pub fn failure_at(&self, failure: &Failure, offset: u64, done: bool, out: &mut impl BufMut) {
        debug_assert!(self.style != HeaderStyle::Simple);
        let errno = if failure.errno.0 == 0 {
            Errno::EIO
        } else {
            failure.errno
        };
        let text = text::sendable(&failure.why);
        self.chunk(
            flags(done),
            ChunkType::ERROR_OFFSET,
            14 + text.len() as u32,
            out,
        );
        out.put_u32(errno.0);
        out.put_u16(text.len() as u16);
        out.put_slice(text.as_bytes());
        out.put_u64(offset);
    }

    fn may_be_simple(&self) -> bool {
        use crate::number::CommandType;
        !matches!(
            self.request.kind,
            CommandType::READ | CommandType::BLOCK_STATUS
        )
    }

    fn simple(&self, errno: Errno, out: &mut impl BufMut) {
        SimpleHeader {
            errno,
            cookie: self.request.cookie,
        }
        .encode(out);
    }

    fn chunk(&self, flags: ChunkFlags, kind: ChunkType, length: u32, out: &mut impl BufMut) {
        let RequestHeader { cookie, offset, .. } = self.request;
        let header = ChunkHeader {
            flags,
            kind,
            cookie,
            offset,
            length,
        };
        header.encode(self.style == HeaderStyle::Extended, out);
    }

    /// The extents that may be sent, from the front.
    fn fitting(&self, extents: &[Extent], extended: bool) -> Vec<Extent> {
        /// Longest extent of a compact answer that every block size divides.
        const LONGEST: u64 = 0xffff_0000;
        let one = self.request.flags.contains(CommandFlags::REQ_ONE);
        let mut left = self.request.length;
        let mut fitting = Vec::with_capacity(extents.len().min(MAX_EXTENTS));
        for extent in extents.iter().take(if one { 1 } else { MAX_EXTENTS }) {
            let mut extent = *extent;
            if one {
                extent.length = extent.length.min(left);
            }
            if left == 0 || extent.length == 0 {
                break;
            }
            let mut last = one;
            if !extended {
                if extent.status > u64::from(u32::MAX) {
                    break;
                }
                if extent.length > LONGEST {
                    extent.length = LONGEST;
                    last = true;
                }
            }
            fitting.push(extent);
            left = left.saturating_sub(extent.length);
            if last {
                break;
            }
        }
        fitting
    }
}

fn flags(done: bool) -> ChunkFlags {
    if done {
        ChunkFlags::DONE
    } else {
        ChunkFlags::NONE
    }
}
