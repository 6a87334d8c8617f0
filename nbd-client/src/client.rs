//! An asynchronous client of one export: any number of requests at once, several connections, and reconnection.
//!
//! Its futures need no particular runtime. Requests are split to what the server takes, spread over the connections,
//! and sent again after a lost connection was replaced, where that is safe:
//!
//! - **Reads, flushes and status requests** are always sent again.
//! - **Writes, zeroes and trims** whose outcome is unknown are sent again only if the server fences our older
//!   connections ([`Export::fenced`]) or [`ClientOptions::replay_writes`] says so. Without fencing a server may still be
//!   holding the first copy: it would then overwrite whatever was written there since, also what was acknowledged since.
//!   Every foreign server known to us does this; so without fencing such a write fails with [`Error::Lost`].
//!
//! A server whose *machine* restarted may have lost what it had acknowledged and not flushed, and no later flush would
//! tell. Our servers prove that they have not ([`Export::memory`]). With one that has, or that proves nothing, the client
//! goes on only if nothing was written since the last flush; otherwise everything fails with [`Error::Changed`].
//!
//! Dropping a future does not take its request back.

mod error;
mod pieces;
mod pool;
mod unflushed;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use linux_sys::buffer::Buffer;
use nbd_protocol::command::{Answer, Command, Errno, Extent, Failure};
use nbd_protocol::number::TransmissionFlags;
use nbd_protocol::session::Session;
use tokio::sync::Semaphore;

pub use error::Error;

use crate::connection::{Export, OpenError, Options};
use crate::target::Target;
use pieces::{Pieces, Window};
use pool::Pool;
pub(crate) use pool::random_identity;

/// How a [`Client`] behaves.
#[derive(Clone)]
pub struct ClientOptions {
    /// For each connection. `max_requests` and `max_bytes` bound the client as a whole.
    pub connection: Options,
    /// Connections to use, if the server promises that a flush on one covers all (CAN_MULTI_CONN); otherwise one.
    pub connections: usize,
    /// Who this client is, so that a server of ours fences the connections that it lost. Must be unique to this client;
    /// the generation grows by one with each reconnection. `None` makes up an identity.
    pub session: Option<Session>,
    /// Send writes again whose outcome is unknown, even to a server that does not fence. **Dangerous**: see the
    /// module's text.
    pub replay_writes: bool,
    /// First pause between attempts to reconnect; it doubles up to `longest_pause`.
    pub first_pause: Duration,
    /// Longest pause between attempts.
    pub longest_pause: Duration,
    /// Time after which reconnection is given up and everything fails. Zero: never reconnect.
    pub give_up_after: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connection: Options::default(),
            connections: 1,
            session: None,
            replay_writes: false,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            give_up_after: Duration::from_secs(60),
        }
    }
}

/// A client of one export; clones share it. Dropping the last clone closes the connections once all is answered.
#[derive(Clone)]
pub struct Client {
    owned: Arc<Owned>,
}

struct Owned {
    pool: Arc<Pool>,
    requests: Semaphore,
    /// In units of [`BYTE_UNIT`].
    bytes: Semaphore,
    byte_units: u32,
    no_flush_told: OnceLock<()>,
}

/// How zeroes are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zeroing {
    /// Keep the range allocated.
    pub no_hole: bool,
    /// Fail with ENOTSUP unless that is faster than writing zeroes.
    pub fast: bool,
    /// Return when the zeroes are on stable storage.
    pub fua: bool,
}

impl Client {
    /// Connects. The work is done on a thread of its own: nothing blocks the caller's executor.
    pub async fn connect(target: Target, options: ClientOptions) -> Result<Client, OpenError> {
        let (done, result) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("nbd-connect".into())
            .spawn(move || {
                // Nobody waits any more if the future was dropped; the client is then closed again.
                let _ = done.send(Client::open(&target, options));
            })?;
        result.await.unwrap_or_else(|_| {
            Err(OpenError::Thread(std::io::Error::other(
                "the connecting thread ended",
            )))
        })
    }

    /// Connects, blocking the thread.
    pub fn open(target: &Target, mut options: ClientOptions) -> Result<Client, OpenError> {
        let requests = options
            .connection
            .max_requests
            .clamp(1, Semaphore::MAX_PERMITS);
        let units = options.connection.max_bytes.div_ceil(BYTE_UNIT);
        let byte_units = u32::try_from(units)
            .unwrap_or(u32::MAX >> 4)
            .clamp(1, u32::MAX >> 4);
        // The semaphores keep the bounds: no connection ever has to.
        options.connection.max_bytes = u64::MAX;
        let pool = Pool::open(target, options)?;
        let owned = Owned {
            pool,
            requests: Semaphore::new(requests),
            bytes: Semaphore::new(byte_units as usize),
            byte_units,
            no_flush_told: OnceLock::new(),
        };
        Ok(Client {
            owned: Arc::new(owned),
        })
    }

    /// Reads `length` bytes at `offset`.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let mut window = Window::new(PIECES_AT_ONCE);
        let mut whole: Option<(Buffer, usize)> = None;
        for (offset, piece) in Pieces::new(offset, length as u64, self.payload_step()) {
            let command = Command::Read {
                offset,
                length: piece as u32,
            };
            if piece == length as u64 {
                return data(self.run(command).await?);
            }
            let earlier = window.add(self.start(command).await).await;
            collect(&mut whole, length, earlier)?;
        }
        while let Some(answer) = window.next().await {
            collect(&mut whole, length, Some(answer))?;
        }
        Ok(whole.map_or_else(Bytes::new, |(buffer, _)| buffer.freeze()))
    }

    /// Writes `data` at `offset`; with `fua` it is on stable storage when this returns. After an error any part of the
    /// range may hold old or new bytes, but nothing of it is still under way, unless the error is [`Error::Lost`].
    pub async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), Error> {
        let mut start = 0;
        let commands =
            Pieces::new(offset, data.len() as u64, self.payload_step()).map(|(offset, length)| {
                let end = start + length as usize;
                let piece = data.slice(start..end);
                start = end;
                Command::Write {
                    offset,
                    data: piece,
                    fua,
                }
            });
        self.run_all(commands).await
    }

    /// Makes everything that was acknowledged before durable. A server that offers no flush is taken to write through,
    /// as the Linux kernel does; that is said once in the log.
    pub async fn flush(&self) -> Result<(), Error> {
        if !self.export().offers(TransmissionFlags::SEND_FLUSH) {
            self.owned.no_flush_told.get_or_init(|| {
                tracing::warn!(
                    "the server offers no flush: what it acknowledged counts as durable"
                );
            });
            return Ok(());
        }
        self.run(Command::Flush).await.map(drop)
    }

    /// Drops a range; what it reads as afterwards is the server's choice. Fails with ENOTSUP if that is not offered.
    pub async fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        let commands =
            Pieces::new(offset, length, self.range_step()).map(|(offset, length)| Command::Trim {
                offset,
                length,
                fua,
            });
        self.run_all(commands).await
    }

    /// Makes a range read as zeroes. A server that does not offer that gets the zeroes written to it, unless
    /// [`Zeroing::fast`] is asked for.
    pub async fn write_zeroes(&self, offset: u64, length: u64, how: Zeroing) -> Result<(), Error> {
        let Zeroing { no_hole, fast, fua } = how;
        if self.export().offers(TransmissionFlags::SEND_WRITE_ZEROES) {
            let commands =
                Pieces::new(offset, length, self.range_step()).map(|(offset, length)| {
                    Command::WriteZeroes {
                        offset,
                        length,
                        fua,
                        no_hole,
                        fast,
                    }
                });
            return self.run_all(commands).await;
        }
        if fast {
            let why = "the server offers no fast zeroes";
            return Err(Error::Failed {
                failure: Failure::new(Errno::ENOTSUP, why),
            });
        }
        static ZEROES: OnceLock<Bytes> = OnceLock::new();
        let zeroes = ZEROES.get_or_init(|| Bytes::from(vec![0; ZERO_STEP as usize]));
        let step = ZERO_STEP.min(self.payload_step());
        let commands = Pieces::new(offset, length, step).map(|(offset, length)| Command::Write {
            offset,
            data: zeroes.slice(..length as usize),
            fua,
        });
        self.run_all(commands).await
    }

    /// Extents of a context (a position in [`Export::contexts`]) from `offset` on. They may end before the range does,
    /// or reach beyond it; at least one is returned.
    pub async fn block_status(
        &self,
        offset: u64,
        length: u64,
        context: usize,
    ) -> Result<Vec<Extent>, Error> {
        let (_, length) = Pieces::new(offset, length, self.range_step())
            .next()
            .unwrap_or((offset, 0));
        match self
            .run(Command::BlockStatus {
                offset,
                length,
                one: false,
                context,
            })
            .await?
        {
            Answer::Extents(extents) => Ok(extents),
            _ => Err(unfitting()),
        }
    }

    /// Tells the server that a range is about to be read, if it wants to know.
    pub async fn cache(&self, offset: u64, length: u64) -> Result<(), Error> {
        if !self.export().offers(TransmissionFlags::SEND_CACHE) {
            return Ok(());
        }
        let commands = Pieces::new(offset, length, self.range_step())
            .map(|(offset, length)| Command::Cache { offset, length });
        self.run_all(commands).await
    }

    /// Takes no more requests, and says goodbye once those in flight are answered.
    pub fn close(&self) {
        self.owned.pool.close();
    }

    /// What was negotiated. It stays the same over reconnections: a server that comes back different is an error.
    pub fn export(&self) -> &Export {
        self.owned.pool.export()
    }

    /// How many connections are in use.
    pub fn connections(&self) -> usize {
        self.owned.pool.connections()
    }

    /// How often lost connections were replaced.
    pub fn reconnections(&self) -> u64 {
        self.owned.pool.reconnections()
    }

    /// Longest read or write that is one request on the wire, in bytes: larger ones are split.
    pub fn payload_step(&self) -> u64 {
        let export = self.export();
        aligned_step(u64::from(export.maximum_payload), export)
    }

    /// Longest range of a request without payload.
    fn range_step(&self) -> u64 {
        aligned_step(RANGE_STEP, self.export())
    }

    /// Runs all commands, a few at once. Waits for all that were started even if one fails: after an error nothing may
    /// still be under way.
    async fn run_all(&self, commands: impl Iterator<Item = Command>) -> Result<(), Error> {
        let mut window = Window::new(PIECES_AT_ONCE);
        let mut result = Ok(());
        for command in commands {
            let earlier = window.add(self.start(command).await).await;
            if let Some(Err(error)) = earlier {
                result = Err(error);
                break;
            }
        }
        while let Some(outcome) = window.next().await {
            result = result.and(outcome.map(drop));
        }
        result
    }

    async fn run(&self, command: Command) -> Result<Answer, Error> {
        self.start(command).await.outcome().await
    }

    /// Submits one command once the bounds allow it.
    async fn start(&self, command: Command) -> pool::Started {
        let owned = &self.owned;
        let payload = match &command {
            Command::Read { length, .. } => u64::from(*length),
            Command::Write { data, .. } => data.len() as u64,
            _ => 0,
        };
        let units = u32::try_from(payload.div_ceil(BYTE_UNIT))
            .unwrap_or(u32::MAX)
            .min(owned.byte_units);
        // The semaphores are never closed, so both acquisitions succeed. Both are kept until neither has to be waited
        // for: a future that is dropped in between gives back what it has.
        let request = owned.requests.acquire().await;
        let bytes = owned.bytes.acquire_many(units).await;
        for permit in [request, bytes].into_iter().flatten() {
            permit.forget();
        }
        let owned = Arc::clone(owned);
        let release = move || {
            owned.requests.add_permits(1);
            owned.bytes.add_permits(units as usize);
        };
        self.owned.pool.start(command, Box::new(release))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("export", self.export())
            .finish_non_exhaustive()
    }
}

fn data(answer: Answer) -> Result<Bytes, Error> {
    match answer {
        Answer::Data(bytes) => Ok(bytes),
        _ => Err(unfitting()),
    }
}

/// Puts the next piece of a long read where it belongs; the buffer is made when the first comes.
fn collect(
    whole: &mut Option<(Buffer, usize)>,
    length: usize,
    piece: Option<Result<Answer, Error>>,
) -> Result<(), Error> {
    let Some(answer) = piece else { return Ok(()) };
    let bytes = data(answer?)?;
    let (buffer, filled) = whole.get_or_insert_with(|| (Buffer::take(length), 0));
    let end = *filled + bytes.len();
    buffer[*filled..end].copy_from_slice(&bytes);
    *filled = end;
    Ok(())
}

fn unfitting() -> Error {
    Error::Failed {
        failure: Failure::new(Errno::EIO, "an answer that does not fit the command"),
    }
}

fn aligned_step(most: u64, export: &Export) -> u64 {
    let block = u64::from(export.preferred_block.max(export.minimum_block).max(1));
    let block = if block <= most {
        block
    } else {
        u64::from(export.minimum_block.max(1))
    };
    (most / block * block).max(block)
}

/// Pieces of one split request in flight at once.
const PIECES_AT_ONCE: usize = 8;

/// Longest range that one request without payload names: a server needs a while for each even where it has to write
/// zeroes itself, and must answer within the request timeout.
const RANGE_STEP: u64 = 128 << 20;

/// Piece in which zeroes are written where the server cannot do it itself.
const ZERO_STEP: u64 = 1 << 20;

/// Unit in which payload bytes in flight are counted.
const BYTE_UNIT: u64 = 4096;
