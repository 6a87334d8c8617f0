//! From received bytes to commands: as many as are complete and belong together.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use nbd_protocol::check::{Checked, check, check_status_payload};
use nbd_protocol::command::{Command, Errno, Failure};
use nbd_protocol::error::DecodeError;
use nbd_protocol::integrity::{TRAILER, trailer};
use nbd_protocol::number::CommandFlags;
use nbd_protocol::reply::ReplyTo;
use nbd_protocol::request::{HeaderStyle, RequestHeader, StatusPayload};

use crate::connection::{Connection, End};
use crate::file::digest::MOST;
use crate::pending::{Part, Parts, Pending};
use crate::reply::Reply;

/// Requests that are run together. They are taken in by the gate at once, and nothing waits for the client until all of
/// them have started: a write that has passed the gate must not be held up by a client that does not read.
#[derive(Default)]
pub(super) struct Segment {
    pub(super) pending: Vec<Option<Pending>>,
    pub(super) refusals: Vec<Reply>,
    /// One of them would have changed data, or flushed it.
    pub(super) refused_change: bool,
    pub(super) requests: usize,
    /// Payload bytes in both directions.
    pub(super) bytes: u64,
    pub(super) changes: bool,
    /// Some request can't be answered before a disk has done something.
    pub(super) durable: bool,
    /// Some request may have to wait for a disk to read.
    pub(super) reads: bool,
    /// The pieces of one long READ, each sent as soon as it is there.
    pub(super) streaming: bool,
}

impl Segment {
    pub(super) fn reset(&mut self) {
        self.requests = 0;
        self.bytes = 0;
        self.changes = false;
        self.refused_change = false;
        self.durable = false;
        self.reads = false;
        self.streaming = false;
    }

    fn is_full(&self) -> bool {
        self.requests >= MOST_REQUESTS || self.bytes >= MOST_BYTES || self.streaming
    }
}

/// What the connection has to do next.
pub(super) enum Next {
    /// The segment is complete.
    Run,
    /// Receive until so many bytes are there.
    More(usize),
    /// The segment is empty, and this request has a long payload that is not there in full.
    Payload(RequestHeader),
    /// The segment is empty, and this request is refused but its payload is not there in full.
    Discard(RequestHeader, Failure),
    /// The client says goodbye; everything before has been started.
    Disconnect,
    /// The client's bytes make no sense from here on; everything before has been started.
    Broken(DecodeError),
    /// The checksum of the next message is wrong; everything before has been started.
    Damaged,
}

impl Connection {
    /// Turns the input into a segment.
    pub(super) fn collect(&mut self) -> Next {
        loop {
            let next = match self.collect_one() {
                Ok(()) if self.segment.is_full() => return Next::Run,
                Ok(()) => continue,
                Err(next) => next,
            };
            // What was collected is run before anything is waited for.
            return if self.segment.requests > 0 {
                Next::Run
            } else {
                next
            };
        }
    }

    fn collect_one(&mut self) -> Result<(), Next> {
        let style = self.shape.style;
        let head = RequestHeader::size(style);
        let header = match RequestHeader::decode(style, &self.input.buffer) {
            Ok(Some(header)) => header,
            Ok(None) => return Err(Next::More(head)),
            // Its checksum would be wrong as well.
            Err(_) if self.tail() > 0 => return Err(Next::Damaged),
            Err(error) => return Err(Next::Broken(error)),
        };
        let payload = match header.payload_length(style) {
            Ok(payload) => payload as usize,
            Err(_) if self.tail() > 0 => return Err(Next::Damaged),
            Err(error) => return Err(Next::Broken(error)),
        };
        let whole = head + payload + self.tail();
        let is_here = self.input.buffer.len() >= whole;
        if self.tail() > 0 {
            // Nothing is believed before its checksum is there.
            match self.input.buffer.get(..whole) {
                Some(message) if is_sound(message) => {}
                Some(_) => return Err(Next::Damaged),
                None if payload > SHORT => return Err(Next::Payload(header)),
                None => return Err(Next::More(whole)),
            }
        }
        let checked = match check(&header, &self.shape) {
            Ok(checked) => checked,
            Err(failure) if is_here => {
                self.input.buffer.advance(whole);
                self.refuse(header, failure);
                return Ok(());
            }
            Err(failure) => return Err(Next::Discard(header, failure)),
        };
        if checked == Checked::Disconnect {
            return Err(Next::Disconnect);
        }
        if !is_here {
            return Err(if payload > SHORT {
                Next::Payload(header)
            } else {
                Next::More(whole)
            });
        }
        if self.segment.requests > 0 && self.is_split(&header) {
            return Err(Next::Run);
        }
        self.input.buffer.advance(head);
        let data = self.input.buffer.split_to(payload).freeze();
        self.input.buffer.advance(self.tail());
        self.add(header, checked, data);
        Ok(())
    }

    /// Bytes of the checksum behind each message.
    pub(super) fn tail(&self) -> usize {
        if self.line.is_sealed() { TRAILER } else { 0 }
    }

    /// Adds a request whose payload has been received apart.
    pub(super) fn add_payload(&mut self, header: RequestHeader, data: Bytes) -> Result<(), End> {
        match check(&header, &self.shape) {
            Ok(checked) => self.add(header, checked, data),
            Err(failure) => self.refuse(header, failure),
        }
        Ok(())
    }

    fn add(&mut self, header: RequestHeader, checked: Checked, data: Bytes) {
        match checked {
            Checked::Command(Command::Read { offset, length }) if self.is_split(&header) => {
                self.add_pieces(header, offset, length);
            }
            Checked::BlockStatus {
                offset,
                length,
                one,
            } => {
                let all: Vec<usize> = (0..self.contexts.len()).collect();
                self.add_status(header, offset, length, one, &all);
            }
            Checked::BlockStatusPayload { offset, one, .. } => {
                let ids: Vec<u32> = self.contexts.iter().map(|(id, _)| *id).collect();
                let chosen = StatusPayload::decode(&data)
                    .map_err(|error| Failure::new(Errno::EINVAL, error.to_string()))
                    .and_then(|payload| check_status_payload(offset, &payload, &ids, &self.shape));
                match chosen {
                    Ok((length, chosen)) => {
                        // Its own length is that of the payload; the answer is about the range.
                        let asked = RequestHeader { length, ..header };
                        self.add_status(asked, offset, length, one, &chosen);
                    }
                    Err(failure) => self.refuse(header, failure),
                }
            }
            other => {
                let Some(command) = other.with_data(data) else {
                    return;
                };
                let charge = match &command {
                    Command::Read { length, .. } => *length,
                    // At most MAX_PAYLOAD.
                    Command::Write { data, .. } => data.len() as u32,
                    _ => 0,
                };
                self.push(header, command, Part::Whole, charge);
                self.segment.requests += 1;
            }
        }
    }

    /// A long READ is done in pieces where the protocol has a way to answer so: each is sent while it is still in the
    /// processor's cache, and while the client takes in the one before.
    fn is_split(&self, header: &RequestHeader) -> bool {
        header.kind == nbd_protocol::number::CommandType::READ
            && self.shape.style >= HeaderStyle::Structured
            && header.length > u64::from(PIECE)
            && !header.flags.contains(CommandFlags::DF)
    }

    fn add_pieces(&mut self, header: RequestHeader, offset: u64, length: u32) {
        let of = Parts::new(length.div_ceil(PIECE) as usize);
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(PIECE);
            let offset = offset + u64::from(done);
            let part = Part::Piece {
                of: Arc::clone(&of),
                offset,
            };
            self.push(
                header,
                Command::Read {
                    offset,
                    length: piece,
                },
                part,
                piece,
            );
            done += piece;
        }
        self.segment.requests += 1;
        self.segment.streaming = true;
    }

    fn add_status(
        &mut self,
        header: RequestHeader,
        offset: u64,
        length: u64,
        one: bool,
        chosen: &[usize],
    ) {
        let of = Parts::new(chosen.len());
        for position in chosen {
            let Some((id, context)) = self.contexts.get(*position).copied() else {
                continue;
            };
            let part = Part::Context {
                of: Arc::clone(&of),
                id,
            };
            let digests = self.export.has_digests_at(context);
            let command = Command::BlockStatus {
                offset,
                // The range is held as long as the answer takes.
                length: if digests { length.min(MOST) } else { length },
                one,
                context,
            };
            self.push(header, command, part, 0);
            if digests {
                self.hold_last();
            }
        }
        self.segment.requests += 1;
    }

    fn push(&mut self, header: RequestHeader, command: Command, part: Part, charge: u32) {
        self.segment.changes |= command.changes_data() || self.line.keeps_order();
        match &command {
            Command::Write { fua, .. } => self.segment.durable |= fua,
            Command::Read { .. } => self.segment.reads = true,
            _ => self.segment.durable = true,
        }
        self.segment.bytes += u64::from(charge);
        let to = ReplyTo::new(self.shape.style, header);
        self.segment
            .pending
            .push(Some(Pending::new(command, &self.line, to, part, charge)));
    }

    /// What was pushed last passes the gate like a write: what it describes is of one moment.
    fn hold_last(&mut self) {
        if let Some(Some(pending)) = self.segment.pending.last_mut() {
            pending.hold_range();
            self.segment.changes = true;
        }
    }

    /// Adds the answer to a request that is not run.
    pub(super) fn refuse(&mut self, header: RequestHeader, failure: Failure) {
        tracing::debug!(connection = self.line.id, ?header, %failure, "request refused");
        use nbd_protocol::number::CommandType as Kind;
        self.segment.refused_change |= matches!(
            header.kind,
            Kind::WRITE | Kind::WRITE_ZEROES | Kind::TRIM | Kind::FLUSH
        );
        let to = ReplyTo::new(self.shape.style, header);
        self.segment
            .refusals
            .push(Reply::written(|out| to.failure(&failure, out)));
        self.segment.requests += 1;
    }
}

/// Whether a message with its checksum is as it was sent.
fn is_sound(message: &[u8]) -> bool {
    let sealed = message.split_last_chunk::<TRAILER>();
    sealed.is_some_and(|(message, tail)| trailer(&[message]) == *tail)
}

/// As many replies as one call sends.
const MOST_REQUESTS: usize = 64;
const MOST_BYTES: u64 = 256 << 10;
/// Of a READ; a quarter of a common processor's second-level cache.
const PIECE: u32 = 256 << 10;
/// Payloads up to this many bytes are received with what is around them.
const SHORT: usize = 32 << 10;
