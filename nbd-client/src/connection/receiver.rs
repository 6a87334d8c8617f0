//! The thread that receives one connection's replies and completes its requests.
//!
//! Many replies are parsed from one receive and their completions called together. The bytes of large reads are received
//! straight into the buffer that the reader gets.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use linux_sys::buffer::Buffer;
use linux_sys::eager::Eager;
use nbd_protocol::command::{Answer, Completion, Errno, Failure, Outcome};
use nbd_protocol::integrity::{Crc32, NOBODY, TRAILER};
use nbd_protocol::pending::{Accepted, Piece};
use nbd_protocol::reply::{Reply, ReplyBody};
use nix::sys::socket::{MsgFlags, recvmsg};

use super::Shared;
use super::in_flight::{Entry, Received};
use super::lost::{self, Lost};

/// Starts the thread; it begins with what the handshake received beyond its own end.
pub(super) fn spawn(shared: &Arc<Shared>, surplus: &[u8]) -> io::Result<()> {
    let mut staging = vec![0; STAGING.max(surplus.len())];
    staging[..surplus.len()].copy_from_slice(surplus);
    let mut receiver = Receiver {
        shared: Arc::clone(shared),
        staging,
        filled: 0..surplus.len(),
        large_reads: false,
        batch: VecDeque::new(),
        eager: Eager::default(),
    };
    std::thread::Builder::new()
        .name("nbd-receive".into())
        .spawn(move || {
            let _ = receiver.shared.receiver.set(std::thread::current().id());
            let why = receiver.run();
            if let (Lost::Damaged { .. }, Some(count)) = (&why, &receiver.shared.options.damaged) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            receiver.shared.in_flight.end(why);
            // Dropping the receiver fails what is still in flight.
        })?;
    Ok(())
}

struct Receiver {
    shared: Arc<Shared>,
    /// What was received and not understood yet stands at `filled`.
    staging: Vec<u8>,
    filled: Range<usize>,
    /// The latest reply was a large read: receive little, so that the next one's bytes go where they belong.
    large_reads: bool,
    batch: VecDeque<(Completion, Outcome)>,
    /// Whether the next reply is likely to come at once.
    eager: Eager,
}

impl Receiver {
    /// Runs until the connection ends and says why.
    fn run(&mut self) -> Lost {
        loop {
            loop {
                match self.parse_one() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(lost) => return lost,
                }
            }
            self.deliver();
            if let Err(lost) = self.receive() {
                return lost;
            }
        }
    }

    /// Understands one reply and receives its bytes; `false` when it has not come completely.
    fn parse_one(&mut self) -> Result<bool, Lost> {
        let style = self.shared.export.style;
        let decoded =
            Reply::decode(style, &self.staging[self.filled.clone()]).map_err(|error| match self
                .shared
                .export
                .integrity
            {
                true => damaged(&error.to_string()),
                false => violation(error),
            })?;
        let Some((reply, used)) = decoded else {
            return Ok(false);
        };
        let sealed = self.shared.export.integrity;
        let mut crc = Crc32::default();
        if sealed {
            let message = self.filled.start..self.filled.start + used;
            crc.update(&self.staging[message.clone()]);
            let announces = self
                .shared
                .in_flight
                .with(reply.cookie, |entry| announces_bytes(entry, &reply));
            // What announces bytes has its checksum behind them.
            if announces != Some(true) {
                let end = message.end + TRAILER;
                if self.filled.end < end {
                    return Ok(false);
                }
                if self.staging[message.end..end] != crc.trailer() {
                    return Err(damaged("a reply came with a wrong checksum"));
                }
                self.filled.start += TRAILER;
            }
            if reply.cookie == NOBODY {
                return Err(damaged(
                    "the server received a request with a wrong checksum",
                ));
            }
        }
        self.filled.start += used;
        let cookie = reply.cookie;
        let stranger = || violation(format!("a reply to no request of ours ({cookie:#x})"));
        let step = self
            .shared
            .in_flight
            .with(cookie, |entry| accept(entry, reply))
            .ok_or_else(stranger)??;
        let Some((mut buffer, accepted)) = step.content else {
            if step.finished {
                let entry = self.shared.in_flight.remove(cookie).ok_or_else(stranger)?;
                self.finish(entry);
            }
            return Ok(true);
        };
        if let Some(Piece { at, length }) = accepted.zeroes {
            part(&mut buffer, at, length)?.fill(0);
        }
        if let Some(Piece { at, length }) = accepted.data {
            self.receive_data(part(&mut buffer, at, length)?)?;
            if sealed {
                crc.update(part(&mut buffer, at, length)?);
                let mut trailer = [0; TRAILER];
                let large_reads = self.large_reads;
                self.receive_data(&mut trailer)?;
                self.large_reads = large_reads;
                if trailer != crc.trailer() {
                    return Err(damaged("the bytes of a read came with a wrong checksum"));
                }
            }
        }
        if accepted.finished {
            let mut entry = self.shared.in_flight.remove(cookie).ok_or_else(stranger)?;
            entry.put(buffer);
            self.finish(entry);
        } else {
            self.shared
                .in_flight
                .with(cookie, |entry| entry.put(buffer))
                .ok_or_else(stranger)?;
        }
        Ok(true)
    }

    /// Notes the outcome of an answered request for the next delivery.
    fn finish(&mut self, entry: Entry) {
        let outcome = match entry.expected.map_or(Ok(()), |expected| expected.finish()) {
            Ok(()) => match entry.received {
                Received::Nothing => Ok(Answer::Done),
                Received::Data(_, Some(buffer)) => Ok(Answer::Data(buffer.freeze())),
                // `Pending` has seen every byte come, so there is a buffer.
                Received::Data(_, None) => Err(Failure::new(Errno::EIO, "a read without bytes")),
                Received::Extents(_, extents) => Ok(Answer::Extents(extents)),
            },
            Err(failure) => Err(from_server(failure)),
        };
        if matches!(&outcome, Err(failure) if failure.errno == Errno::ESHUTDOWN) {
            // "Error values": the client should then disconnect softly.
            self.shared.close(Lost::ShuttingDown);
        }
        self.batch.push_back((entry.completion, outcome));
    }

    /// Calls the completions that were gathered, and sends what they submitted.
    fn deliver(&mut self) {
        if !self.batch.is_empty() {
            let batch = &mut self.batch;
            let mut complete_all = || {
                // Taken out one by one: those behind a completion that panics are still completed.
                while let Some((completion, outcome)) = batch.pop_front() {
                    completion.complete(outcome);
                }
            };
            match &self.shared.options.around_batch {
                Some(around) => around(&mut complete_all),
                None => complete_all(),
            }
            self.shared.kick();
        }
        if self.shared.closing_since.get().is_some() {
            self.shared.say_goodbye();
        }
    }

    /// Receives some of the next reply.
    fn receive(&mut self) -> Result<(), Lost> {
        if self.filled.is_empty() {
            self.filled = 0..0;
            if self.staging.len() > STAGING {
                self.staging = vec![0; STAGING];
            }
        } else if self.filled.start > 0 {
            // Only the beginning of one message is left: shorter than a header, unless it is a long list of extents.
            self.staging.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        if self.filled.end == self.staging.len() {
            // Only as many bytes as have really come are doubled, and decoding refuses messages beyond its own limit.
            self.staging.resize(self.staging.len() * 2, 0);
        }
        // What is longer than a few headers is no read's: a list of extents, of which as much as possible is wanted.
        let few = self.large_reads && self.filled.len() < FEW;
        let most = if few {
            self.filled.end + FEW
        } else {
            self.staging.len()
        };
        let most = most.min(self.staging.len());
        let got = self.read_into(&mut [], self.filled.end, most)?;
        self.filled.end += got;
        Ok(())
    }

    /// Receives exactly the bytes of `data`, first from what is staged; what comes behind them is staged.
    fn receive_data(&mut self, data: &mut [u8]) -> Result<(), Lost> {
        let staged = self.filled.len().min(data.len());
        data[..staged]
            .copy_from_slice(&self.staging[self.filled.start..self.filled.start + staged]);
        self.filled.start += staged;
        self.large_reads = data.len() >= LARGE;
        let mut done = staged;
        if done < data.len() {
            // Nothing is staged any more, and this will wait: others need not wait for it.
            self.deliver();
        }
        while done < data.len() {
            let rest = &mut data[done..];
            let behind = if rest.len() >= LARGE { FEW } else { STAGING };
            let wanted = rest.len();
            let got = self.read_into(rest, 0, behind)?;
            done += got.min(wanted);
            self.filled = 0..got.saturating_sub(wanted);
        }
        Ok(())
    }

    /// One receive into `direct` and then into the staging area from `from` to `to`.
    fn read_into(&mut self, direct: &mut [u8], from: usize, to: usize) -> Result<usize, Lost> {
        let mut pieces = [
            IoSliceMut::new(direct),
            IoSliceMut::new(&mut self.staging[from..to]),
        ];
        let socket = self.shared.socket.as_raw_fd();
        let mut read = |flags| recvmsg::<()>(socket, &mut pieces, None, flags).map(|got| got.bytes);
        let mut received = self.eager.look(|| match read(MsgFlags::MSG_DONTWAIT) {
            Err(nix::errno::Errno::EAGAIN) => None,
            other => Some(other),
        });
        let got = loop {
            let received = received
                .take()
                .unwrap_or_else(|| self.eager.sleep(|| read(MsgFlags::empty())));
            match received {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(got) => break got,
                Err(error) => {
                    return Err(Lost::Network {
                        error: io::Error::from(error).to_string(),
                    });
                }
            }
        };
        if let Some(lost) = self.shared.in_flight.ended() {
            return Err(lost);
        }
        if got == 0 {
            return Err(Lost::ByServer);
        }
        Ok(got)
    }
}

/// However the thread ends, even by a panic in a completion, every request is completed.
impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.lose(Lost::Aborted);
        let lost = self.shared.in_flight.ended().unwrap_or(Lost::Aborted);
        let mut never_sent = self.shared.outgoing.close();
        never_sent.sort_unstable();
        for (cookie, entry) in self.shared.in_flight.drain() {
            let may_have_been_sent = never_sent.binary_search(&cookie).is_err();
            self.batch
                .push_back((entry.completion, Err(lost.failure(may_have_been_sent))));
        }
        self.deliver();
    }
}

/// What an accepted reply asks for.
struct Step {
    /// The request is answered.
    finished: bool,
    /// Bytes or zeroes belong into the request's buffer, which was taken out.
    content: Option<(Buffer, Accepted)>,
}

/// Checks a reply against its request and takes from it what is short.
fn accept(entry: &mut Entry, reply: Reply) -> Result<Step, Lost> {
    let Some(expected) = entry.expected.as_mut() else {
        return Err(violation("a reply to a request that was not sent yet"));
    };
    let accepted = expected.accept(&reply).map_err(violation)?;
    let content = match &mut entry.received {
        Received::Data(length, buffer) if accepted.data.is_some() || accepted.zeroes.is_some() => {
            let buffer = buffer
                .take()
                .unwrap_or_else(|| Buffer::take(*length as usize));
            Some((buffer, accepted))
        }
        Received::Extents(wanted, kept) => {
            if let ReplyBody::Status { context, extents } = reply.body
                && context == *wanted
            {
                *kept = extents;
            }
            None
        }
        _ => None,
    };
    Ok(Step {
        finished: accepted.finished,
        content,
    })
}

impl Entry {
    fn put(&mut self, filled: Buffer) {
        if let Received::Data(_, buffer) = &mut self.received {
            *buffer = Some(filled);
        }
    }
}

/// A part of a read's buffer; `Pending` has checked that it lies inside.
fn part(buffer: &mut Buffer, at: usize, length: usize) -> Result<&mut [u8], Lost> {
    let end = at.checked_add(length).filter(|end| *end <= buffer.len());
    end.map(|end| &mut buffer[at..end])
        .ok_or_else(|| violation("bytes outside of the read"))
}

fn from_server(failure: Failure) -> Failure {
    let why = if failure.why.is_empty() {
        "the server failed the request".into()
    } else {
        format!("the server failed the request: {}", failure.why).into()
    };
    Failure {
        errno: lost::from_peer(failure.errno),
        why,
    }
}

/// Whether bytes of a read follow the reply, which its checksum covers.
fn announces_bytes(entry: &Entry, reply: &Reply) -> bool {
    match reply.body {
        ReplyBody::Data { .. } => true,
        ReplyBody::Simple { errno } => errno.0 == 0 && matches!(entry.received, Received::Data(..)),
        _ => false,
    }
}

fn damaged(what: &str) -> Lost {
    Lost::Damaged { what: what.into() }
}

fn violation(what: impl ToString) -> Lost {
    Lost::Violation {
        what: what.to_string(),
    }
}

/// Bytes received at once, and staged between replies.
const STAGING: usize = 256 << 10;

/// A read from this size on gets its bytes directly.
const LARGE: usize = 64 << 10;

/// Bytes received beyond those of a large read: a few headers, little to copy.
const FEW: usize = 512;
