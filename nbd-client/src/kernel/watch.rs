//! Stays behind after an attach: hears of dead sockets and puts new ones in their place, within the time that the
//! kernel lets requests wait.
//!
//! What a dead connection left behind must not reach the disk after newer writes. So a dead socket is reset at once
//! (nothing of it is retransmitted), and to a server that knows sessions every reconnection is a new generation, which
//! ends all older connections, also those that still work. To other servers only dead sockets are replaced.
//!
//! The kernel drops a new socket silently if it does not hold an old one for dead yet. Whether it took one is seen in
//! the socket itself: the kernel sets its send timeout.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use linux_sys::socket::abort;
use nbd_protocol::negotiate::client::ClientHandshakeError;
use nbd_protocol::number::Rep;
use nbd_protocol::session::Session;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt};
use nix::sys::time::TimeValLike;

use super::attach::{AttachError, Attached, dial};
use super::driver::{Driver, DriverError, Events};
use super::plan::Changed;
use super::sysfs::Tree;
use crate::connection::{Export, OpenError};
use crate::query;
use crate::target::Target;

/// Something that happened to the device's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Sockets died.
    LinkDead {
        /// How many.
        dead: usize,
        /// How many are left.
        alive: usize,
        /// The kernel itself announced it; if not, the server closed.
        announced: bool,
    },
    /// The server can't be reached; it will be tried again.
    Unreachable {
        /// What is wrong.
        reason: String,
        /// When it is tried again.
        again_in: Duration,
    },
    /// The server is there, but must not be used: it will be looked at again.
    Refused {
        /// Why.
        reason: String,
        /// When it is looked at again.
        again_in: Duration,
    },
    /// The kernel has stopped waiting: requests fail until the server is back.
    GaveUpWaiting {
        /// How long it waited.
        after: Duration,
    },
    /// New sockets are in place.
    Reconnected {
        /// How many.
        replaced: usize,
        /// Time since the first of them died.
        after: Duration,
        /// The session that the server knows now.
        session: Session,
    },
}

/// Why the watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was told to; the device is still attached.
    Told,
    /// The device was detached, or attached by somebody else.
    Detached,
}

/// The watch can't go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Waiting.
    #[error("can't wait for news of the device: {0}")]
    Wait(#[from] io::Error),
}

/// Watches over a device until it is gone or `stop` becomes readable. `events` has to be older than the device, so that
/// nothing is missed.
pub fn watch(
    driver: &mut Driver,
    tree: &Tree,
    target: &Target,
    attached: &mut Attached,
    events: &mut Events,
    stop: BorrowedFd<'_>,
    report: &mut dyn FnMut(&Event),
) -> Result<Left, WatchError> {
    let mut watcher = Watcher {
        driver,
        tree,
        target,
        attached,
        events,
        report,
        outage: None,
    };
    watcher.run(stop)
}

struct Watcher<'a> {
    driver: &'a mut Driver,
    tree: &'a Tree,
    target: &'a Target,
    attached: &'a mut Attached,
    events: &'a mut Events,
    report: &'a mut dyn FnMut(&Event),
    outage: Option<Outage>,
}

/// The time from the first dead socket until all are alive again.
struct Outage {
    since: Instant,
    /// When to try next.
    next: Instant,
    pause: Duration,
    /// What was said last, so that it is not said again and again.
    said: Option<String>,
    gave_up: bool,
}

/// How an attempt to reconnect ended.
enum Attempt {
    Done,
    Detached,
    Later(Event),
}

/// Whether the device is still there after a look at its sockets.
#[derive(PartialEq, Eq)]
enum Noticed {
    Here,
    Gone,
}

impl Watcher<'_> {
    fn run(&mut self, stop: BorrowedFd<'_>) -> Result<Left, WatchError> {
        loop {
            if self.wait(stop)? {
                return Ok(Left::Told);
            }
            let announced = self.events.dead_links(self.attached.index)? > 0;
            if self.is_gone() {
                return Ok(Left::Detached);
            }
            if self.notice(announced)? == Noticed::Gone {
                return Ok(Left::Detached);
            }
            self.notice_the_end_of_patience();
            if self
                .outage
                .as_ref()
                .is_some_and(|outage| outage.next <= Instant::now())
            {
                match self.reconnect()? {
                    Attempt::Done => {}
                    Attempt::Detached => return Ok(Left::Detached),
                    Attempt::Later(event) => self.put_off(event),
                }
            }
        }
    }

    /// Waits for anything to do; true if that is to stop.
    fn wait(&self, stop: BorrowedFd<'_>) -> Result<bool, WatchError> {
        let mut waited = vec![
            PollFd::new(stop, PollFlags::POLLIN),
            PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = match &self.outage {
            // Dead sockets would wake us without end; the next attempt looks at them.
            Some(outage) => {
                let left = outage.next.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => {
                let sockets = &self.attached.sockets;
                waited.extend(sockets.iter().map(|socket| watched(socket)));
                PollTimeout::NONE
            }
        };
        match poll(&mut waited, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        Ok(waited[0].any().unwrap_or(true))
    }

    /// Whether the device is no longer the one that we attached.
    fn is_gone(&self) -> bool {
        let found = self.tree.device(self.attached.index).unwrap_or_default();
        found.pid.is_none() || found.pid != self.attached.owner
    }

    /// Looks for sockets that died since the last look.
    fn notice(&mut self, mut announced: bool) -> Result<Noticed, WatchError> {
        if self.outage.is_some() || !self.dead()?.contains(&true) {
            return Ok(Noticed::Here);
        }
        // A detach ends the sockets, too; but then the device goes, and the kernel announces nothing.
        let begun = Instant::now();
        while !announced && begun.elapsed() < ANNOUNCEMENT {
            announced = self.events.dead_links(self.attached.index)? > 0;
            if self.is_gone() {
                return Ok(Noticed::Gone);
            }
        }
        let dead = self.dead()?;
        let count = dead.iter().filter(|dead| **dead).count();
        let now = Instant::now();
        self.outage = Some(Outage {
            since: now,
            next: now,
            pause: FIRST_PAUSE,
            said: None,
            gave_up: false,
        });
        (self.report)(&Event::LinkDead {
            dead: count,
            alive: dead.len() - count,
            announced,
        });
        Ok(Noticed::Here)
    }

    fn notice_the_end_of_patience(&mut self) {
        let patience = self.attached.options.dead_timeout;
        let alive = self.dead().is_ok_and(|dead| dead.contains(&false));
        let Some(outage) = self.outage.as_mut() else {
            return;
        };
        if !outage.gave_up && !alive && outage.since.elapsed() >= patience {
            outage.gave_up = true;
            (self.report)(&Event::GaveUpWaiting { after: patience });
        }
    }

    /// Which of the sockets are dead: closed by the server, or by the kernel, which closes both directions of a socket
    /// that it gives up.
    fn dead(&self) -> Result<Vec<bool>, WatchError> {
        let sockets = &self.attached.sockets;
        let mut waited: Vec<PollFd<'_>> = sockets.iter().map(|socket| watched(socket)).collect();
        poll(&mut waited, PollTimeout::ZERO).map_err(io::Error::from)?;
        let dead = waited.iter().map(|socket| socket.any().unwrap_or(true));
        Ok(dead.collect())
    }

    fn reconnect(&mut self) -> Result<Attempt, WatchError> {
        let dead = self.dead()?;
        // Nothing that was left behind may be sent any more.
        for (socket, dead) in self.attached.sockets.iter().zip(&dead) {
            if *dead {
                let_go(socket)?;
                cut(socket);
            }
        }
        let fenced = self.attached.plan.fenced;
        if fenced && dead.contains(&false) {
            // The new generation ends the sockets that still work, so first see whether the server can be used.
            let options = self.connection_options();
            match query::describe(self.target, &options) {
                Err(error) => return Ok(Attempt::Later(unreachable(&AttachError::Open(error)))),
                Ok(now) if now.export.size != self.attached.plan.size => {
                    let (was, is) = (self.attached.plan.size, now.export.size);
                    return Ok(Attempt::Later(refused(&Changed::Size { was, is })));
                }
                Ok(_) => {}
            }
        }
        let places: Vec<usize> = dead
            .iter()
            .enumerate()
            .filter_map(|(place, dead)| (*dead || fenced).then_some(place))
            .collect();
        let fresh = match self.dial(places.len()) {
            Ok(fresh) => fresh,
            Err(event) => return Ok(Attempt::Later(event)),
        };
        let mut replaced = 0;
        for (place, socket) in places.into_iter().zip(fresh) {
            let Some(old) = self.attached.sockets.get_mut(place) else {
                continue;
            };
            cut(old);
            match put_in_place(
                self.driver,
                self.attached.index,
                &self.attached.identifier,
                &socket,
            ) {
                Ok(true) => *old = socket,
                Ok(false) => {
                    let reason = "the kernel did not take a new socket".to_owned();
                    return Ok(Attempt::Later(Event::Unreachable {
                        reason,
                        again_in: Duration::ZERO,
                    }));
                }
                // EINVAL: it is being detached; ENODEV: it was destroyed.
                Err(error)
                    if matches!(error.errno(), Some(nix::libc::EINVAL | nix::libc::ENODEV)) =>
                {
                    return Ok(Attempt::Detached);
                }
                Err(error) => return Err(error.into()),
            }
            replaced += 1;
        }
        let since = self
            .outage
            .take()
            .map_or_else(Instant::now, |outage| outage.since);
        (self.report)(&Event::Reconnected {
            replaced,
            after: since.elapsed(),
            session: self.attached.session,
        });
        Ok(Attempt::Done)
    }

    /// New sockets of a new generation that lead to the same disk.
    fn dial(&mut self, count: usize) -> Result<Vec<OwnedFd>, Event> {
        let session = &mut self.attached.session;
        session.generation = session.generation.saturating_add(1);
        let mut fresh = Vec::with_capacity(count);
        while fresh.len() < count {
            let mut options = self.attached.options.clone();
            options.connect_timeout = options.connect_timeout.min(LONGEST_ATTEMPT);
            let (socket, export) = dial(self.target, &options, self.attached.session)
                .map_err(|error| unreachable(&error))?;
            self.same(&export)?;
            fresh.push(socket);
        }
        Ok(fresh)
    }

    fn same(&self, export: &Export) -> Result<(), Event> {
        self.attached
            .plan
            .check(export)
            .map_err(|changed| refused(&changed))
    }

    fn connection_options(&self) -> crate::connection::Options {
        crate::connection::Options {
            connect_timeout: self.attached.options.connect_timeout.min(LONGEST_ATTEMPT),
            ..crate::connection::Options::default()
        }
    }

    /// Tries again later, and says why unless that was said already.
    fn put_off(&mut self, mut event: Event) {
        let Some(outage) = self.outage.as_mut() else {
            return;
        };
        let (text, again_in) = match &mut event {
            Event::Refused { reason, again_in } => {
                *again_in = LONGEST_PAUSE;
                (reason.clone(), LONGEST_PAUSE)
            }
            Event::Unreachable { reason, again_in } => {
                *again_in = outage.pause;
                outage.pause = (outage.pause * 2).min(LONGEST_PAUSE);
                (reason.clone(), *again_in)
            }
            _ => return,
        };
        outage.next = Instant::now() + again_in;
        if outage.said.as_ref() != Some(&text) {
            outage.said = Some(text);
            (self.report)(&event);
        }
    }
}

/// Offers a socket to the kernel until it takes it, which it does once it holds the old one for dead; false if it does
/// not in time.
fn put_in_place(
    driver: &mut Driver,
    index: u32,
    identifier: &str,
    socket: &OwnedFd,
) -> Result<bool, DriverError> {
    let begun = Instant::now();
    while begun.elapsed() < HAND_OVER {
        driver.reconfigure(index, identifier, socket.as_fd())?;
        let taken = getsockopt(socket, sockopt::SendTimeout)
            .is_ok_and(|timeout| timeout.num_microseconds() != 0);
        if taken {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(false)
}

/// Gives the kernel time to read the last answers of a socket that the server closed.
fn let_go(socket: &OwnedFd) -> Result<(), WatchError> {
    let mut waited = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    match poll(&mut waited, LAST_WORDS) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// Ends a socket for the kernel and for the server, whether TCP or not.
fn cut(socket: &OwnedFd) {
    // Fails on sockets that are gone already.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
    // Fails on unix sockets, which lose and retransmit nothing. Busy until the kernel's reader has noticed the above.
    let busy = |result: &io::Result<()>| matches!(result, Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY));
    for _ in 0..50 {
        if !busy(&abort(socket.as_fd())) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn watched(socket: &OwnedFd) -> PollFd<'_> {
    // Hang-ups and errors are always told, a peer's half-close only when asked for. `PollFlags` has no name for it, so
    // `PollFd::any` answers None when it is told.
    let half_closed = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    PollFd::new(socket.as_fd(), half_closed)
}

fn refused(changed: &Changed) -> Event {
    Event::Refused {
        reason: changed.to_string(),
        again_in: Duration::ZERO,
    }
}

/// A server that can't be used now; one that says no is asked less often.
fn unreachable(error: &AttachError) -> Event {
    let (reason, again_in) = (error.to_string(), Duration::ZERO);
    let says_no = matches!(
        error,
        AttachError::Open(OpenError::Handshake {
            source: ClientHandshakeError::Refused {
                reply: Rep::ERR_POLICY | Rep::ERR_UNKNOWN | Rep::ERR_TLS_REQD,
                ..
            },
            ..
        })
    );
    match says_no {
        true => Event::Refused { reason, again_in },
        false => Event::Unreachable { reason, again_in },
    }
}

/// How long to wait for the kernel to say that a socket is dead; it can be lost.
const ANNOUNCEMENT: Duration = Duration::from_millis(250);
/// In milliseconds; the kernel needs microseconds.
const LAST_WORDS: u8 = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time for one attempt to connect: a server that hangs is tried again, since it may be another one then.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(5);
/// The kernel notices a closed socket in microseconds; a loaded one may take longer.
const HAND_OVER: Duration = Duration::from_secs(2);
