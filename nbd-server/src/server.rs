//! A set of exports and listeners, started and stopped together. Several may run in one process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nbd_protocol::command::{Command, Completion};
use nbd_protocol::limit::MAX_STRING;
use nbd_protocol::negotiate::server::ServerPolicy;

use crate::budget::Budget;
use crate::export::Export;
use crate::line::{Limits, Line};
use crate::listener::{Host, Listener, Waker, accept_all};
use crate::socket::Socket;
use crate::{connection, listener, memory};

/// Bounds on what clients can take.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at once; more are closed as soon as they come. Each takes a thread and, idle, about 30 KiB.
    pub max_connections: usize,
    /// How long a client may take until it has chosen an export.
    pub handshake_timeout: Duration,
    /// Requests of one connection that may be in flight; above, nothing more is received from it.
    pub max_requests: usize,
    /// Payload bytes of one connection that may be in flight; a single request may exceed it.
    pub max_bytes: u64,
    /// Payload bytes of all connections together, above the first MiB of each.
    pub max_memory: u64,
    /// What is agreed to in the handshake.
    pub policy: ServerPolicy,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_connections: 1100,
            handshake_timeout: Duration::from_secs(10),
            max_requests: 256,
            max_bytes: 64 << 20,
            max_memory: 512 << 20,
            policy: ServerPolicy::default(),
        }
    }
}

/// Why an export or a server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Two exports have one name.
    #[error("an export named {0:?} exists already: each needs a name of its own")]
    Duplicate(String),
    /// The protocol limits names to 4096 bytes without NUL.
    #[error("{0:?} is no name for an export: it must have at most {MAX_STRING} bytes and no NUL")]
    Name(String),
    /// There is no listener.
    #[error("the server listens nowhere")]
    NoListener,
    /// The system gives no thread or descriptor.
    #[error("the server can't be started: {0}")]
    Start(#[source] std::io::Error),
}

/// A server that is being put together.
#[derive(Debug, Default)]
pub struct Server {
    options: Options,
    exports: Vec<Arc<Export>>,
    listeners: Vec<Listener>,
}

impl Server {
    /// A server without exports and listeners.
    pub fn new(options: Options) -> Server {
        Server {
            options,
            exports: Vec::new(),
            listeners: Vec::new(),
        }
    }

    /// Adds an export. A client that asks for the empty name gets the export of that name or, if there is just one
    /// export, that one.
    ///
    /// # Errors
    /// The name is taken or not allowed.
    pub fn add_export(&mut self, export: Export) -> Result<(), ServerError> {
        check_name(&self.exports, export.name())?;
        self.exports.push(Arc::new(export));
        Ok(())
    }

    /// Adds a listener.
    pub fn add_listener(&mut self, listener: Listener) {
        self.listeners.push(listener);
    }

    /// Begins to accept clients.
    ///
    /// # Errors
    /// There is no listener, or no thread for them.
    pub fn start(self) -> Result<ServerHandle, ServerError> {
        if self.listeners.is_empty() {
            return Err(ServerError::NoListener);
        }
        let addresses = self.listeners.iter().map(Listener::address).collect();
        let waker = Waker::new().map_err(ServerError::Start)?;
        let shared = Arc::new(Shared {
            budget: Arc::new(Budget::new(self.options.max_memory)),
            options: self.options,
            exports: RwLock::new(self.exports),
            lines: Mutex::default(),
            nobody: Condvar::new(),
            next_line: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            waker: waker.clone(),
        });
        let accepting = {
            let (shared, waker) = (Arc::clone(&shared), waker.clone());
            let listeners = self.listeners;
            std::thread::Builder::new()
                .name("nbd-accept".to_owned())
                .stack_size(STACK)
                .spawn(move || accept_all(&listeners, &waker, &shared))
                .map_err(ServerError::Start)?
        };
        Ok(ServerHandle {
            shared,
            waker,
            accepting: Some(accepting),
            addresses,
        })
    }
}

/// A running server. Dropping it stops it without patience.
#[derive(Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    waker: Waker,
    accepting: Option<JoinHandle<()>>,
    addresses: Vec<listener::Address>,
}

/// How a server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that had to be cut because they did not finish in time.
    pub cut: usize,
    /// Exports whose device could not be flushed in time, or at all.
    pub unflushed: usize,
}

impl ServerHandle {
    /// Where the server listens; a port of 0 has been replaced by the real one.
    pub fn addresses(&self) -> &[listener::Address] {
        &self.addresses
    }

    /// The first TCP address, if there is one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|address| match address {
            listener::Address::Tcp(address) => Some(*address),
            listener::Address::Unix(_) => None,
        })
    }

    /// Number of connections, those in the handshake included.
    pub fn connections(&self) -> usize {
        self.shared.lines().len()
    }

    /// Adds an export while the server runs.
    ///
    /// # Errors
    /// The name is taken or not allowed.
    pub fn add_export(&self, export: Export) -> Result<(), ServerError> {
        let mut exports = self
            .shared
            .exports
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        check_name(&exports, export.name())?;
        exports.push(Arc::new(export));
        Ok(())
    }

    /// Removes an export and cuts its connections; false if there is none of that name.
    pub fn remove_export(&self, name: &str) -> bool {
        let removed = {
            let mut exports = self
                .shared
                .exports
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let position = exports.iter().position(|export| export.name() == name);
            position.map(|position| exports.remove(position))
        };
        removed.is_some_and(|export| {
            export.close();
            true
        })
    }

    /// Stops: accepts nobody, lets every connection finish what was received from it, flushes the devices. What takes
    /// longer than `patience` is cut.
    pub fn stop(mut self, patience: Duration) -> Stopped {
        self.stop_within(patience)
    }

    fn stop_within(&mut self, patience: Duration) -> Stopped {
        let Some(accepting) = self.accepting.take() else {
            return Stopped {
                cut: 0,
                unflushed: 0,
            };
        };
        let deadline = Instant::now() + patience;
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.waker.wake();
        // It only waits for the waker and for clients; a panic in it was reported when it happened.
        let _ = accepting.join();
        self.shared.lines().values().for_each(|line| line.stop());
        let cut = self.shared.wait_for_nobody(deadline);
        let exports = self
            .shared
            .exports
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let unflushed = exports
            .iter()
            .filter(|export| !flush(export, deadline))
            .count();
        Stopped { cut, unflushed }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO);
    }
}

/// What the threads of one server share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) exports: RwLock<Vec<Arc<Export>>>,
    lines: Mutex<HashMap<u64, Arc<Line>>>,
    /// Signalled when the last connection has ended.
    nobody: Condvar,
    next_line: AtomicU64,
    stopping: AtomicBool,
    waker: Waker,
    budget: Arc<Budget>,
}

impl Host for Arc<Shared> {
    /// Gives a new connection its thread.
    fn welcome(&self, socket: Socket) {
        let id = self.next_line.fetch_add(1, Ordering::Relaxed);
        let limits = Limits {
            requests: self.options.max_requests,
            bytes: self.options.max_bytes,
            budget: Arc::clone(&self.budget),
        };
        let line = Arc::new(Line::new(id, socket, limits));
        {
            let mut lines = self.lines();
            if lines.len() >= self.options.max_connections {
                drop(lines);
                tracing::warn!(
                    limit = self.options.max_connections,
                    "too many connections, closing a new one"
                );
                return;
            }
            lines.insert(id, Arc::clone(&line));
        }
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name(format!("nbd-{id}"))
            .stack_size(STACK);
        let spawned = thread.spawn(move || {
            // Runs even if serving panics.
            let _leaving = Leaving {
                shared: &shared,
                line: &line,
            };
            connection::serve(&shared, &line);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a new connection, closing it");
            self.lines().remove(&id);
        }
    }

    fn is_closing(&self) -> bool {
        self.is_stopping()
    }

    fn tidy_up(&self) {
        if self.lines().is_empty() {
            memory::give_back();
        }
    }
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The export that a client means by `name`.
    pub(crate) fn find_export(&self, name: &str) -> Option<Arc<Export>> {
        let exports = self
            .exports
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let named = exports.iter().find(|export| export.name() == name);
        match (named, exports.as_slice()) {
            (Some(export), _) => Some(Arc::clone(export)),
            (None, [only]) if name.is_empty() && !only.is_secret() => Some(Arc::clone(only)),
            _ => None,
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<u64, Arc<Line>>> {
        self.lines
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until all connections have ended, cuts those that have not at the deadline; returns how many.
    fn wait_for_nobody(&self, deadline: Instant) -> usize {
        let wait = |until: Instant| {
            let mut lines = self.lines();
            while !lines.is_empty() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let waited = self.nobody.wait_timeout(lines, left);
                lines = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
            lines.values().map(Arc::clone).collect::<Vec<_>>()
        };
        let late = wait(deadline);
        late.iter().for_each(|line| line.cut());
        if !late.is_empty() {
            // Threads that wait for their client end at once; those that wait for a disk can't be helped.
            wait(Instant::now() + Duration::from_secs(1));
        }
        late.len()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Takes a connection out of the books when its thread ends.
struct Leaving<'a> {
    shared: &'a Shared,
    line: &'a Arc<Line>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.line.cut();
        if let Some(export) = self.line.export.get() {
            if std::thread::panicking() {
                export.abandon(self.line);
            }
            export.leave(self.line);
        }
        let mut lines = self.shared.lines();
        lines.remove(&self.line.id);
        if lines.is_empty() {
            self.shared.nobody.notify_all();
            drop(lines);
            self.shared.waker.wake();
        }
    }
}

fn check_name(exports: &[Arc<Export>], name: &str) -> Result<(), ServerError> {
    if name.len() > MAX_STRING || name.contains('\0') {
        return Err(ServerError::Name(name.to_owned()));
    }
    if exports.iter().any(|export| export.name() == name) {
        return Err(ServerError::Duplicate(name.to_owned()));
    }
    Ok(())
}

/// Flushes a device; false if that failed or takes until after the deadline (and a moment at least).
fn flush(export: &Export, deadline: Instant) -> bool {
    if export.geometry().read_only {
        return true;
    }
    let (report, reports) = mpsc::channel();
    export.device().submit(
        Command::Flush,
        Completion::new(move |outcome| {
            // Nobody listens any more when it came too late.
            let _ = report.send(outcome);
        }),
    );
    export.device().kick();
    let patience = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(100));
    match reports.recv_timeout(patience) {
        Ok(Ok(_)) => true,
        Ok(Err(failure)) => {
            tracing::error!(export = export.name(), %failure, "flushing at the end failed");
            false
        }
        Err(_) => {
            tracing::error!(
                export = export.name(),
                "flushing at the end takes too long, going without"
            );
            false
        }
    }
}

/// Of each thread; only what is touched takes memory. (The C library keeps 40 MiB of the stacks of threads that have
/// ended: smaller ones would be more, each with a few touched pages.)
const STACK: usize = 512 << 10;
