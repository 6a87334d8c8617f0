//! One negotiated connection to one export: requests go in from any thread, completions come out.
//!
//! There is no event loop. The thread that submits a request also sends it (`outgoing.rs`); one thread per connection
//! receives replies and calls the completions (`receiver.rs`); one thread per process watches the deadlines
//! (`deadline.rs`). A request is completed exactly once, whatever happens to the connection: answered, refused, timed
//! out, lost. A connection never comes back; [`Client`](crate::Client) makes new ones.

mod deadline;
mod dial;
mod handshake;
mod in_flight;
mod lost;
mod outgoing;
mod receiver;
mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_protocol::command::{Command, Completion, Failure};
use nbd_protocol::number::{CommandFlags, CommandType};
use nbd_protocol::session::Session;
use nbd_protocol::{HeaderStyle, RequestHeader};
use nix::sys::socket::{Shutdown, shutdown};

pub use handshake::{Context, Export, OpenError};
pub(crate) use handshake::{negotiate, open_bare};
pub use lost::{BUSY, LOST, Lost, NOT_SENT, TIMED_OUT, is_connection_failure};

use crate::target::Target;
use handshake::Opened;
use in_flight::{Admission, Bounds, Entry, InFlight, Refused};
use outgoing::{Frame, Kicked, Outgoing};
use request::{Plan, Request};

/// Wraps the completions of one batch of replies: it must call its argument exactly once, on the same thread. A mirror
/// uses it to gather what the completions cause and start it together.
pub type AroundBatch = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// How to open a connection and what it may hold.
#[derive(Clone)]
pub struct Options {
    /// Time for everything from resolving the name to the end of the handshake.
    pub connect_timeout: Duration,
    /// Time for the answer to each request; when one is late the connection is given up. `None` waits for ever.
    pub request_timeout: Option<Duration>,
    /// Most requests in flight.
    pub max_requests: usize,
    /// Most payload bytes, of reads and writes, in flight; a larger single request is let through alone.
    pub max_bytes: u64,
    /// What a submit does at these bounds.
    pub when_full: WhenFull,
    /// Ablest header style to negotiate; servers that lack it get the next one.
    pub headers: HeaderStyle,
    /// Block-status contexts to ask for, by name.
    pub contexts: Vec<String>,
    /// Present this session, so that a server that knows sessions fences our older connections.
    pub session: Option<Session>,
    /// Ask, with the session, for a connection whose requests are done in order; [`Export::ordered`] tells whether it is.
    pub ordered: bool,
    /// Ask, with the session, for checksums behind all messages; [`Export::integrity`] tells whether there are.
    pub integrity: bool,
    /// Counts connections that end because a message was changed on its way.
    pub damaged: Option<Arc<AtomicU64>>,
    /// Called around each batch of completions.
    pub around_batch: Option<AroundBatch>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Some(Duration::from_secs(30)),
            max_requests: 256,
            max_bytes: 64 << 20,
            when_full: WhenFull::Wait,
            headers: HeaderStyle::Extended,
            contexts: Vec::new(),
            session: None,
            ordered: false,
            integrity: false,
            damaged: None,
            around_batch: None,
        }
    }
}

/// What a submit does when a connection has as much in flight as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait for room. Inside a completion of the same connection, which would wait for itself, it fails instead.
    Wait,
    /// Fail at once with [`BUSY`].
    Fail,
}

/// One connection. All methods may be called from any thread, also from inside a completion.
///
/// Dropping it closes it if nothing is in flight and aborts it otherwise.
pub struct Connection {
    shared: Arc<Shared>,
}

/// What the connection's threads share.
struct Shared {
    socket: OwnedFd,
    export: Export,
    options: Options,
    in_flight: InFlight,
    outgoing: Outgoing,
    receiver: OnceLock<ThreadId>,
    said_goodbye: AtomicBool,
    closing_since: OnceLock<Instant>,
    /// Requests that had ended when one was found late last, where they are done in order.
    ended_before: AtomicU64,
}

impl Connection {
    /// Connects, negotiates and starts the receiving thread. Blocks for at most `options.connect_timeout`.
    pub fn open(target: &Target, options: Options) -> Result<Connection, OpenError> {
        let opened = handshake::open(target, &options)?;
        Ok(Connection::start(opened, options)?)
    }

    fn start(opened: Opened, options: Options) -> io::Result<Connection> {
        let Opened {
            socket,
            export,
            surplus,
        } = opened;
        let bounds = Bounds {
            requests: options.max_requests.max(1),
            bytes: options.max_bytes,
        };
        let shared = Arc::new(Shared {
            socket,
            export,
            options,
            in_flight: InFlight::new(bounds),
            outgoing: Outgoing::new(),
            receiver: OnceLock::new(),
            said_goodbye: AtomicBool::new(false),
            closing_since: OnceLock::new(),
            ended_before: AtomicU64::new(0),
        });
        receiver::spawn(&shared, &surplus)?;
        deadline::watch(&shared).inspect_err(|_| shared.lose(Lost::Aborted))?;
        Ok(Connection { shared })
    }

    /// What was negotiated.
    pub fn export(&self) -> &Export {
        &self.shared.export
    }

    /// Queues one command; it leaves with the next [`Connection::kick`], or on its own once much is gathered.
    ///
    /// The completion is called exactly once, on the connection's receiving thread, or on this thread before the call
    /// returns if the command fails without being sent: it does not fit the export, the server does not offer it
    /// (`ENOTSUP`), the connection is at its bound ([`BUSY`]) or gone ([`NOT_SENT`]). A write with `fua` to a server
    /// that has only flush becomes a write and a flush.
    pub fn submit(&self, command: Command, completion: Completion) {
        self.shared.submit(command, completion, None);
    }

    /// Submits one command and sends it at once.
    pub fn submit_now(&self, command: Command, completion: Completion) {
        self.submit(command, completion);
        self.kick();
    }

    /// Sends what was submitted. Never waits for the socket.
    pub fn kick(&self) {
        self.shared.kick();
    }

    /// Takes no more commands, lets those in flight be answered, then says goodbye (NBD_CMD_DISC).
    pub fn close(&self) {
        self.shared.close(Lost::Closed);
    }

    /// Shuts the socket down at once; everything in flight fails with [`LOST`].
    pub fn abort(&self) {
        self.shared.lose(Lost::Aborted);
    }

    /// Whether commands are taken: neither closed nor lost.
    pub fn is_alive(&self) -> bool {
        self.shared.in_flight.is_open()
    }

    /// Why the connection ended, if it has.
    pub fn lost(&self) -> Option<Lost> {
        self.shared.in_flight.ended()
    }

    /// How many commands are in flight.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.count()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
        if self.shared.in_flight.count() > 0 {
            self.abort();
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("export", &self.shared.export)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Whether a request that is late only waits its turn: where they are done in order, the server is late when it
    /// answers none.
    fn went_on(&self) -> bool {
        let ended = self.in_flight.removed();
        self.export.ordered && self.ended_before.swap(ended, Ordering::Relaxed) != ended
    }

    fn submit(
        self: &Arc<Self>,
        command: Command,
        completion: Completion,
        admission: Option<Admission>,
    ) {
        let (command, completion) = match request::plan(&command, &self.export) {
            Err(failure) => return completion.complete(Err(failure)),
            Ok(Plan::Send) => (command, completion),
            Ok(Plan::ThenFlush) => (request::without_fua(command), self.then_flush(completion)),
        };
        let mut request = match Request::new(&command, &self.export) {
            Ok(request) => request,
            Err(failure) => return completion.complete(Err(failure)),
        };
        let admission = admission.unwrap_or_else(|| self.admission());
        let entry = Entry::new(completion, &mut request);
        let expected = |cookie| request.expected(self.export.style, cookie);
        match self.in_flight.add(entry, expected, admission) {
            Ok(cookie) => self.push(request.header(cookie), request.payload),
            Err(Refused::Full(completion)) => {
                let why = "the connection has as many requests in flight as it may";
                completion.complete(Err(Failure::new(BUSY, why)));
            }
            Err(Refused::Ended(completion, lost)) => completion.complete(Err(lost.failure(false))),
        }
    }

    /// Where waiting is allowed, a full connection makes the submitter wait; the receiving thread would wait for itself.
    fn admission(self: &Arc<Self>) -> Admission {
        let own_thread = self.receiver.get() == Some(&std::thread::current().id());
        if self.options.when_full == WhenFull::Fail || own_thread {
            return Admission::Refuse;
        }
        if !self.in_flight.has_room() {
            // What was gathered must be on its way before anybody waits for the answers to it.
            self.kick();
        }
        Admission::Wait
    }

    /// A completion that flushes after success and only then completes the original.
    fn then_flush(self: &Arc<Self>, completion: Completion) -> Completion {
        let shared = Arc::clone(self);
        // The write was carried out: that its flush was not even sent does not undo it.
        let completion = Completion::new(move |outcome| match outcome {
            Err(failure) if failure.errno == NOT_SENT => {
                let why = format!("written, but perhaps not durable: {}", failure.why);
                completion.complete(Err(Failure::new(LOST, why)));
            }
            outcome => completion.complete(outcome),
        });
        Completion::new(move |outcome| match outcome {
            Ok(_) => shared.submit(Command::Flush, completion, Some(Admission::Always)),
            Err(failure) => completion.complete(Err(failure)),
        })
    }

    fn push(self: &Arc<Self>, header: RequestHeader, payload: Bytes) {
        let frame = match self.export.style {
            HeaderStyle::Extended => Frame::new(header.cookie, &header.extended(), payload),
            HeaderStyle::Simple | HeaderStyle::Structured => match header.compact() {
                Ok(bytes) => Frame::new(header.cookie, &bytes, payload),
                // `request::encode` has checked the length.
                Err(error) => {
                    return self.lose(Lost::Violation {
                        what: error.to_string(),
                    });
                }
            },
        };
        let frame = match self.export.integrity {
            true => frame.sealed(),
            false => frame,
        };
        if self.outgoing.push(frame) {
            self.kick();
        }
    }

    /// Sends what is queued; `true` when all of it has left.
    fn kick(self: &Arc<Self>) -> bool {
        match self.outgoing.kick(self.socket()) {
            Ok(Kicked::Sent) => return true,
            Ok(
                Kicked::Elsewhere
                | Kicked::HandedOver {
                    start_sender: false,
                },
            ) => {}
            Ok(Kicked::HandedOver { start_sender: true }) => self.start_sender(),
            Err(error) => self.lose(Lost::Network {
                error: error.to_string(),
            }),
        }
        false
    }

    fn start_sender(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let body = move || {
            if let Err(error) = shared.outgoing.run_sender(shared.socket()) {
                shared.lose(Lost::Network {
                    error: error.to_string(),
                });
            }
        };
        if let Err(error) = std::thread::Builder::new()
            .name("nbd-send".into())
            .spawn(body)
        {
            self.lose(Lost::Network {
                error: format!("no thread for sending: {error}"),
            });
        }
    }

    fn close(self: &Arc<Self>, why: Lost) {
        self.in_flight.start_closing(why);
        let _ = self.closing_since.set(Instant::now());
        self.say_goodbye();
    }

    /// Sends DISC once, when the connection is closing and everything was answered.
    fn say_goodbye(self: &Arc<Self>) {
        if !self.in_flight.is_closed_and_empty() || self.said_goodbye.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let (flags, kind) = (CommandFlags::NONE, CommandType::DISC);
        self.push(
            RequestHeader {
                flags,
                kind,
                cookie: 0,
                offset: 0,
                length: 0,
            },
            Bytes::new(),
        );
        if self.kick() {
            // A server that waits for the end of the stream sees it at once.
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        }
    }

    /// Ends the connection; the receiving thread notices and fails what is in flight.
    fn lose(&self, lost: Lost) {
        self.in_flight.end(lost);
        // It fails only if the peer was faster, and then the receiving thread notices as well.
        let _ =
            nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
