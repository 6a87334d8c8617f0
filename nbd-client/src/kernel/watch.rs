//! Stays behind after an attach: hears of dead sockets and puts new ones in their place, within the time that the
//! kernel lets requests wait.
//!
//! What a dead connection left behind must not reach the disk after newer writes. So a dead socket is reset at once
//! (nothing of it is retransmitted), and to a server that knows sessions every reconnection is a new generation, which
//! ends all older connections, also those that still work. To other servers only dead sockets are replaced.
//!
//! A server that may have lost what it had answered but not flushed is not gone on with: the kernel can't say whether
//! there was any such thing, and no flush on a new link would tell. The device is disconnected, so that its users learn
//! of it at once. That is so for every server that can't prove the contrary (`plan.rs`).
//!
//! The time that requests wait is counted over all reconnections (`patience.rs`), so that a server that can be reached
//! but does not answer can't make them wait for ever.

mod link;
mod patience;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nbd_protocol::negotiate::client::ClientHandshakeError;
use nbd_protocol::number::Rep;
use nbd_protocol::session::Session;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::attach::{AttachError, AttachOptions, Attached, dial};
use super::driver::{Driver, DriverError, Events};
use super::plan::Changed;
use super::sysfs::Tree;
use crate::connection::{Export, OpenError, Options};
use crate::query;
use crate::target::Target;
use link::{bury, cut, dead, put_in_place, watched};
use patience::Patience;

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
    /// The kernel has stopped waiting: requests fail until there is a link again.
    GaveUpWaiting {
        /// Time since the first link died.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was told to; the device is still attached.
    Told,
    /// The device was detached, or attached by somebody else.
    Detached,
    /// The device was disconnected, because writes that were answered may be lost.
    GivenUp(Changed),
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
    let AttachOptions {
        timeout,
        dead_timeout,
        ..
    } = attached.options;
    let patience = Patience::new(timeout, dead_timeout);
    let mut watcher = Watcher {
        driver,
        tree,
        target,
        attached,
        events,
        report,
        patience,
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
    patience: Patience,
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
    Never(Changed),
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
            if self.notice(announced)? == Noticed::Gone
                || self.notice_good_links()? == Noticed::Gone
            {
                return Ok(Left::Detached);
            }
            self.notice_the_end_of_patience()?;
            if self
                .outage
                .as_ref()
                .is_some_and(|outage| outage.next <= Instant::now())
            {
                match self.reconnect()? {
                    Attempt::Done => {}
                    Attempt::Detached => return Ok(Left::Detached),
                    Attempt::Later(event) => self.put_off(event),
                    Attempt::Never(changed) => return self.give_up(changed),
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
        let mut until = self.outage.as_ref().map(|outage| outage.next);
        if self.outage.is_none() {
            until = self.patience.next();
            // Dead sockets would wake us without end; the next attempt looks at them.
            waited.extend(self.attached.sockets.iter().map(watched));
        }
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
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
        if self.outage.is_some() || !dead(&self.attached.sockets)?.contains(&true) {
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
        let dead = dead(&self.attached.sockets)?;
        let count = dead.iter().filter(|dead| **dead).count();
        let now = Instant::now();
        self.patience.lost(now);
        let mut next = now;
        if self.patience.fails_at_once() {
            next += TIME_TO_FAIL;
            if !self.attached.options.dead_timeout.is_zero() {
                // It is enough: without this the kernel would try one connection after the other.
                self.attached.sockets.iter().for_each(cut);
            }
        }
        self.outage = Some(Outage {
            since: now,
            next,
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

    fn notice_the_end_of_patience(&mut self) -> Result<(), WatchError> {
        let alive = dead(&self.attached.sockets)?.contains(&false);
        let now = Instant::now();
        if let Some(outage) = self.outage.as_mut()
            && let Some(since) = self
                .patience
                .over(now)
                .filter(|_| !alive && !outage.gave_up)
        {
            outage.gave_up = true;
            let after = now.saturating_duration_since(since);
            (self.report)(&Event::GaveUpWaiting { after });
        }
        Ok(())
    }

    /// Gives all of the time again once the new links have proved good.
    fn notice_good_links(&mut self) -> Result<Noticed, WatchError> {
        if self.outage.is_some() {
            return Ok(Noticed::Here);
        }
        let Some(seconds) = self.patience.proved(Instant::now()) else {
            return Ok(Noticed::Here);
        };
        let (index, identifier) = (self.attached.index, &self.attached.identifier);
        match self
            .driver
            .reconfigure(index, identifier, None, Some(seconds))
        {
            Ok(()) => Ok(Noticed::Here),
            Err(error) if is_detached(&error) => Ok(Noticed::Gone),
            Err(error) => Err(error.into()),
        }
    }

    fn reconnect(&mut self) -> Result<Attempt, WatchError> {
        let dead = dead(&self.attached.sockets)?;
        // Nothing that was left behind may be sent any more.
        let sockets = self.attached.sockets.iter().zip(&dead);
        sockets
            .filter(|(_, dead)| **dead)
            .for_each(|(socket, _)| bury(socket));
        if !self.attached.options.risk_lost_writes
            && let Err(changed) = self.attached.plan.provable()
        {
            // While a link lives, the server lives; the kernel sends everything on that one.
            return Ok(match dead.contains(&false) {
                true => Attempt::Later(refused(&changed)),
                false => Attempt::Never(changed),
            });
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
            Err(attempt) => return Ok(attempt),
        };
        let mut replaced = 0;
        let mut news = self.patience.regained(Instant::now());
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
                news.take(),
            ) {
                Ok(true) => *old = socket,
                Ok(false) => {
                    return Ok(self.not_taken("the kernel did not take a new socket".to_owned()));
                }
                Err(error) if is_detached(&error) => return Ok(Attempt::Detached),
                // Out of memory, say. The next attempt may do better; without a watcher the leg would be lost.
                Err(error) => return Ok(self.not_taken(error.to_string())),
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

    /// A new socket is not in place: the time goes on running.
    fn not_taken(&mut self, reason: String) -> Attempt {
        self.patience.lost(Instant::now());
        Attempt::Later(Event::Unreachable {
            reason,
            again_in: Duration::ZERO,
        })
    }

    /// New sockets of a new generation that lead to the same disk.
    fn dial(&mut self, count: usize) -> Result<Vec<OwnedFd>, Attempt> {
        let session = &mut self.attached.session;
        session.generation = session.generation.saturating_add(1);
        let mut fresh = Vec::with_capacity(count);
        while fresh.len() < count {
            let mut options = self.attached.options.clone();
            options.connect_timeout = options.connect_timeout.min(LONGEST_ATTEMPT);
            let (socket, export) = dial(self.target, &options, self.attached.session)
                .map_err(|error| Attempt::Later(unreachable(&error)))?;
            self.same(&export)?;
            fresh.push(socket);
        }
        Ok(fresh)
    }

    fn same(&self, export: &Export) -> Result<(), Attempt> {
        let checked = self.attached.plan.check(export);
        checked.map_err(|changed| match changed.is_final() {
            true => Attempt::Never(changed),
            false => Attempt::Later(refused(&changed)),
        })
    }

    /// Ends the device: whoever waits for it fails now, not after the time that requests may wait.
    fn give_up(&mut self, changed: Changed) -> Result<Left, WatchError> {
        match self.driver.disconnect(self.attached.index) {
            Ok(()) => {}
            Err(error) if is_detached(&error) => return Ok(Left::Detached),
            Err(error) => return Err(error.into()),
        }
        // The kernel's sockets must not be kept alive by ours.
        self.attached.sockets.clear();
        Ok(Left::GivenUp(changed))
    }

    fn connection_options(&self) -> Options {
        Options {
            connect_timeout: self.attached.options.connect_timeout.min(LONGEST_ATTEMPT),
            ..Options::default()
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

/// EINVAL: the device is being detached, or it is somebody else's; ENODEV: it was destroyed.
fn is_detached(error: &DriverError) -> bool {
    matches!(error.errno(), Some(nix::libc::EINVAL | nix::libc::ENODEV))
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
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time for one attempt to connect: a server that hangs is tried again, since it may be another one then.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(5);
/// What requests need to fail when the kernel does not wait for a new socket.
const TIME_TO_FAIL: Duration = Duration::from_millis(500);
