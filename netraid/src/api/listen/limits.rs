//! What one caller, and all of them together, may take of the daemon; and the count of those who wanted more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of a listener (promise P8). The defaults are for peers; tests shorten the times.
///
/// Memory at worst, with the defaults: 32 served connections of 64 KiB buffers and one body of 1 MiB each.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From accept(2) to a finished TLS handshake; also all that a refused peer gets. 5 s.
    pub handshake: Duration,
    /// From the end of one request to the complete head of the next: a slow head, and a rest between requests. 30 s; who
    /// keeps a connection calls more often than that.
    pub head: Duration,
    /// From a request's head to its answer's head, the request's body included. 30 s.
    pub request: Duration,
    /// How long a caller may leave its answer unread; `None`: as long as it wants (a pager on a stream of events). 15 s.
    pub stall: Option<Duration>,
    /// Bytes of a request's body. 1 MiB.
    pub body: u64,
    /// Bytes of a request's head. 16 KiB; at least 8 KiB.
    pub head_bytes: usize,
    /// Header lines of a request. 64.
    pub header_lines: usize,
    /// Connections being served at a time. 32: eight nodes, each with a connection or two, and half as spare.
    pub connections: usize,
    /// TLS handshakes at a time, apart from `connections`, so that strangers can't take the places of peers. 32.
    pub handshakes: usize,
    /// Connections of one address, handshakes included (IPv6: one /64). 8.
    pub per_address: usize,
    /// How long requests under way have when the daemon ends. 2 s.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(30),
            request: Duration::from_secs(30),
            stall: Some(Duration::from_secs(15)),
            body: 1 << 20,
            head_bytes: 16 << 10,
            header_lines: 64,
            connections: 32,
            handshakes: 32,
            per_address: 8,
            grace: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// For commands on this machine, which permissions let in: 128 at a time, they may take their time to read (a pager),
    /// and an answer may take ten minutes (a command that waits).
    pub fn local() -> Limits {
        Limits {
            connections: 128,
            per_address: 128,
            stall: None,
            request: Duration::from_secs(600),
            ..Limits::default()
        }
    }
}

/// Who was sent away, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    too_many: AtomicU64,
    handshake_failed: AtomicU64,
    not_configured: AtomicU64,
    broken: AtomicU64,
}

impl Counters {
    /// Connections taken from the system.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections closed at once because there were too many.
    pub fn too_many(&self) -> u64 {
        self.too_many.load(Ordering::Relaxed)
    }

    /// No TLS, no certificate, one of another CA, or too slow.
    pub fn handshake_failed(&self) -> u64 {
        self.handshake_failed.load(Ordering::Relaxed)
    }

    /// A certificate of our CA, of a node that is not configured.
    pub fn not_configured(&self) -> u64 {
        self.not_configured.load(Ordering::Relaxed)
    }

    /// Connections that ended in an error: a head that is no HTTP, too large or too slow; a caller that vanished.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_too_many(&self) {
        self.too_many.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_handshake_failed(&self) {
        self.handshake_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_not_configured(&self) {
        self.not_configured.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_broken(&self) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }
}

/// On which terms a listener serves.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The bounds.
    pub limits: Limits,
    /// The count of those who were sent away.
    pub counters: Arc<Counters>,
}

impl Terms {
    /// With these bounds and a count of its own.
    pub fn new(limits: Limits) -> Terms {
        Terms {
            limits,
            counters: Arc::default(),
        }
    }
}
