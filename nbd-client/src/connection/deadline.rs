//! One thread per process that gives up connections whose server answers too late.
//!
//! All requests of a connection have the same time, so only its oldest matters, and a request submitted after a look
//! can't be late before that time has passed once: the thread sleeps until the earliest moment at which anything can be
//! late, and no submit ever has to wake it.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::lost::Lost;
use super::{Arc, Shared};

/// Watches a connection until it is gone.
pub(super) fn watch(shared: &Arc<Shared>) -> io::Result<()> {
    let mut watched = lock();
    if !watched.running {
        std::thread::Builder::new()
            .name("nbd-deadlines".into())
            .spawn(run)?;
        watched.running = true;
    }
    watched.connections.push(Arc::downgrade(shared));
    ADDED.notify_one();
    Ok(())
}

/// Gives up the connection if its oldest request, or its farewell, is late; otherwise says when to look again.
/// `None`: never, it has ended.
fn check(shared: &Shared, now: Instant) -> Option<Instant> {
    if shared.in_flight.ended().is_some() {
        return None;
    }
    let farewell = shared.closing_since.get().map(|since| *since + FAREWELL);
    if farewell.is_some_and(|late| late <= now) && shared.in_flight.count() == 0 {
        shared.lose(Lost::Closed);
        return None;
    }
    let after = shared.options.request_timeout.unwrap_or(FAREWELL);
    let oldest = shared
        .in_flight
        .oldest()
        .filter(|_| shared.options.request_timeout.is_some());
    let late = oldest.map_or(now, |submitted| submitted) + after;
    if late <= now && shared.went_on() {
        return Some(now + after);
    }
    if late <= now {
        shared.lose(Lost::TimedOut { after });
        return None;
    }
    Some(
        farewell
            .filter(|at| *at > now)
            .map_or(late, |at| at.min(late)),
    )
}

fn run() {
    let mut watched = lock();
    loop {
        let connections = std::mem::take(&mut watched.connections);
        drop(watched);
        let now = Instant::now();
        let mut next = None;
        let mut kept = Vec::with_capacity(connections.len());
        for weak in connections {
            let Some(shared) = weak.upgrade() else {
                continue;
            };
            if let Some(again) = check(&shared, now) {
                next = Some(next.map_or(again, |next: Instant| next.min(again)));
                kept.push(weak);
            }
        }
        watched = lock();
        let added_meanwhile = !watched.connections.is_empty();
        watched.connections.append(&mut kept);
        if added_meanwhile {
            continue;
        }
        let wait = next.map_or(IDLE, |next| next.saturating_duration_since(now));
        watched = match ADDED.wait_timeout(watched, wait) {
            Ok((watched, _)) => watched,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
}

struct Watched {
    running: bool,
    connections: Vec<Weak<Shared>>,
}

fn lock() -> MutexGuard<'static, Watched> {
    WATCHED
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

static WATCHED: Mutex<Watched> = Mutex::new(Watched {
    running: false,
    connections: Vec::new(),
});
static ADDED: Condvar = Condvar::new();

/// How long a server may take to close after the goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long to sleep with nothing to watch.
const IDLE: Duration = Duration::from_secs(3600);
