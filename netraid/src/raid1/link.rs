//! The way to one leg: the local disk, or an NBD connection; commands in, completions out.
//!
//! Offsets here are those of the leg's disk, metadata included. What a server does not offer is done another way, so
//! that every leg can take every command that the engine sends.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nbd_client::Connection;
use nbd_protocol::command::{Answer, Command, Completion, Errno, Extent, Failure, Outcome};
use nbd_protocol::number::TransmissionFlags;
use nbd_server::device::SharedDevice;
use nbd_server::file::digest;

use crate::raid1::engine::DIGESTS;

/// A connected leg.
#[derive(Clone)]
pub enum Link {
    /// A disk of this node.
    Local(SharedDevice),
    /// A disk behind an NBD server.
    Remote(Arc<Connection>),
}

impl Link {
    /// Size of the leg's disk in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Link::Local(device) => device.geometry().size,
            Link::Remote(connection) => connection.export().size,
        }
    }

    /// Smallest unit of offsets and lengths in bytes.
    pub fn minimum_block(&self) -> u32 {
        match self {
            Link::Local(device) => device.geometry().minimum_block,
            Link::Remote(connection) => connection.export().minimum_block,
        }
    }

    /// Whether it refuses writes.
    pub fn is_read_only(&self) -> bool {
        match self {
            Link::Local(device) => device.geometry().read_only,
            Link::Remote(connection) => connection.export().offers(TransmissionFlags::READ_ONLY),
        }
    }

    /// Starts one command; a remote one leaves with the next [`Link::kick`].
    pub fn submit(&self, command: Command, completion: Completion) {
        match self {
            Link::Local(device) => submit_local(device, command, completion),
            Link::Remote(connection) => submit_remote(connection, command, completion),
        }
    }

    /// Sends what was submitted.
    pub fn kick(&self) {
        match self {
            Link::Local(device) => device.kick(),
            Link::Remote(connection) => connection.kick(),
        }
    }

    /// Cuts a remote leg off: nothing more is sent, and what is in flight fails.
    pub fn abort(&self) {
        if let Link::Remote(connection) = self {
            connection.abort();
        }
    }

    /// Says goodbye to a remote leg once everything in flight is answered.
    pub fn close(&self) {
        if let Link::Remote(connection) = self {
            connection.close();
        }
    }

    /// Why the connection is gone, if it is.
    pub fn lost(&self) -> Option<String> {
        match self {
            Link::Local(_) => None,
            Link::Remote(connection) if connection.is_alive() => None,
            Link::Remote(connection) => Some(
                connection
                    .lost()
                    .map_or_else(|| "closed".into(), |lost| lost.to_string()),
            ),
        }
    }

    /// Sends a remote leg with nothing in flight a small read whose answer nobody needs: a server that has vanished without
    /// a word is noticed by its silence only if it is asked, and then ends the connection (`request_timeout`).
    pub fn ask_for_life(&self) {
        if let Link::Remote(connection) = self
            && connection.in_flight() == 0
        {
            let length = self.minimum_block();
            let read = Command::Read { offset: 0, length };
            connection.submit_now(read, Completion::new(drop));
        }
    }

    /// Runs one command and waits for its end, at most `patience`.
    pub fn run(&self, command: Command, patience: Duration) -> Outcome {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(
            command,
            Completion::new(move |outcome| drop(sender.send(outcome))),
        );
        self.kick();
        receiver
            .recv_timeout(patience)
            .unwrap_or_else(|_| Err(Failure::new(Errno::EIO, "no answer in time")))
    }

    /// Reads `length` bytes at `offset` and waits for them.
    pub fn read(&self, offset: u64, length: usize, patience: Duration) -> Result<Bytes, Failure> {
        let short =
            u32::try_from(length).map_err(|_| Failure::new(Errno::EINVAL, "too much at once"))?;
        match self.run(
            Command::Read {
                offset,
                length: short,
            },
            patience,
        )? {
            Answer::Data(data) if data.len() == length => Ok(data),
            _ => Err(Failure::new(
                Errno::EIO,
                "a read was answered with the wrong length",
            )),
        }
    }

    /// Writes `data` durably at `offset` and waits for it.
    pub fn write(&self, offset: u64, data: Bytes, patience: Duration) -> Result<(), Failure> {
        self.run(
            Command::Write {
                offset,
                data,
                fua: true,
            },
            patience,
        )
        .map(|_| ())
    }
}

/// Whether `command` asks for digests.
fn asks_for_digests(command: &Command) -> bool {
    matches!(
        command,
        Command::BlockStatus {
            context: DIGESTS,
            ..
        }
    )
}

fn no_digests(completion: Completion) {
    let why = "its server does not offer x-netraid:blake3";
    completion.complete(Err(Failure::new(Errno::ENOTSUP, why)));
}

fn submit_local(device: &SharedDevice, mut command: Command, completion: Completion) {
    if asks_for_digests(&command)
        && let Command::BlockStatus { context, .. } = &mut command
    {
        let contexts = device.geometry().contexts;
        match contexts.iter().position(|name| name == digest::CONTEXT) {
            Some(position) => *context = position,
            None => return no_digests(completion),
        }
    }
    device.submit(command, completion);
}

fn submit_remote(connection: &Arc<Connection>, command: Command, completion: Completion) {
    let export = connection.export();
    let most = u64::from(export.maximum_payload.min(LONGEST));
    match command {
        Command::WriteZeroes {
            offset,
            length,
            fua,
            no_hole,
            ..
        } => {
            let offered = export.offers(TransmissionFlags::SEND_WRITE_ZEROES);
            let (piece, make): (u64, Box<dyn Fn(u64, u64) -> Command>) = if offered {
                let zeroes = move |offset, length| Command::WriteZeroes {
                    offset,
                    length,
                    fua,
                    no_hole,
                    fast: false,
                };
                (LONGEST_ZEROES, Box::new(zeroes))
            } else {
                let zeroes = Bytes::from(vec![0; ZEROES.min(length) as usize]);
                let write = move |offset, length: u64| Command::Write {
                    offset,
                    data: zeroes.slice(..length as usize),
                    fua,
                };
                (ZEROES.min(most), Box::new(write))
            };
            in_pieces(connection, (offset, length), piece, make, completion);
        }
        Command::Read { offset, length } if u64::from(length) > most => {
            let read = |offset, length| Command::Read {
                offset,
                length: length as u32,
            };
            in_pieces(connection, (offset, length.into()), most, read, completion);
        }
        Command::Write { offset, data, fua } if data.len() as u64 > most => {
            let begin = offset;
            let write = |offset: u64, length: u64| {
                let from = (offset - begin) as usize;
                Command::Write {
                    offset,
                    data: data.slice(from..from + length as usize),
                    fua,
                }
            };
            in_pieces(
                connection,
                (offset, data.len() as u64),
                most,
                write,
                completion,
            );
        }
        Command::Flush if !export.offers(TransmissionFlags::SEND_FLUSH) => {
            // The server promises that what it answered is stable already, as far as it can tell.
            completion.complete(Ok(Answer::Done));
        }
        Command::Cache { .. } if !export.offers(TransmissionFlags::SEND_CACHE) => {
            completion.complete(Ok(Answer::Done));
        }
        ref digests if asks_for_digests(digests) => {
            let Some(position) = export.context(digest::CONTEXT) else {
                return no_digests(completion);
            };
            let mut command = command;
            if let Command::BlockStatus { context, .. } = &mut command {
                *context = position;
            }
            connection.submit(command, completion);
        }
        Command::BlockStatus {
            offset,
            length,
            one,
            ..
        } => match export.context("base:allocation") {
            Some(context) => connection.submit(
                Command::BlockStatus {
                    offset,
                    length,
                    one,
                    context,
                },
                completion,
            ),
            // Nothing is known: all of it is data.
            None => completion.complete(Ok(Answer::Extents(vec![Extent { length, status: 0 }]))),
        },
        other => connection.submit(other, completion),
    }
}

/// Longest read or write sent in one request, in bytes: every server takes it.
const LONGEST: u32 = 32 << 20;
/// Longest zeroing sent in one request, in bytes: fits the 32-bit length of compact headers.
const LONGEST_ZEROES: u64 = 1 << 30;
/// Longest write of zeroes to a server that can't zero by itself.
const ZEROES: u64 = 1 << 20;

/// The parts of one command under way.
struct Parts {
    left: usize,
    answers: Vec<Option<Bytes>>,
    failure: Option<Failure>,
    completion: Option<Completion>,
}

fn in_pieces(
    connection: &Arc<Connection>,
    (offset, length): (u64, u64),
    piece: u64,
    make: impl Fn(u64, u64) -> Command,
    completion: Completion,
) {
    let count = length.div_ceil(piece.max(1)) as usize;
    if count <= 1 {
        connection.submit(make(offset, length), completion);
        return;
    }
    let parts = Parts {
        left: count,
        answers: vec![None; count],
        failure: None,
        completion: Some(completion),
    };
    let parts = Arc::new(Mutex::new(parts));
    for index in 0..count {
        let from = offset + index as u64 * piece;
        let length = piece.min(offset + length - from);
        let parts = Arc::clone(&parts);
        let done = Completion::new(move |outcome| part_done(&parts, index, outcome));
        connection.submit(make(from, length), done);
    }
}

fn part_done(parts: &Mutex<Parts>, index: usize, outcome: Outcome) {
    let mut parts = parts
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    match outcome {
        Ok(Answer::Data(data)) => parts.answers[index] = Some(data),
        Ok(_) => {}
        Err(failure) => parts.failure = Some(failure),
    }
    parts.left -= 1;
    if parts.left > 0 {
        return;
    }
    let Some(completion) = parts.completion.take() else {
        return;
    };
    let answers = std::mem::take(&mut parts.answers);
    let failure = parts.failure.take();
    drop(parts);
    completion.complete(match failure {
        Some(failure) => Err(failure),
        None if answers.iter().all(Option::is_some) => {
            let mut whole = BytesMut::new();
            answers
                .iter()
                .flatten()
                .for_each(|part| whole.extend_from_slice(part));
            Ok(Answer::Data(whole.freeze()))
        }
        None => Ok(Answer::Done),
    });
}
