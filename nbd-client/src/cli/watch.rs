//! `nbd-client attach --watch`: stays behind, says what happens to the links, and reconnects.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;

use linux_sys::pressure;
use nbd_client::Target;
use nbd_client::kernel::{
    self, Attached, Changed, DetachError, Driver, Event, Events, Left, Tree, WatchError,
};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;

use super::arguments::Attach;
use super::attach::{Line, SCHEMA, SessionLine};
use super::devices::{NamedUser, failed};
use super::exit::Exit;
use super::{detach, show};

/// What has to be there before the device.
pub(super) struct Prepared {
    events: Events,
    signals: SignalFd,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum EventLine<'a> {
    LinkDead {
        dead: usize,
        alive: usize,
        announced: bool,
    },
    Unreachable {
        reason: &'a str,
        again_in_ms: u128,
    },
    Refused {
        reason: &'a str,
        again_in_ms: u128,
    },
    GaveUpWaiting {
        after_ms: u128,
    },
    Reconnected {
        replaced: usize,
        after_ms: u128,
        session: Option<SessionLine>,
    },
    Left,
    Detached,
    GivenUp {
        reason: &'a str,
    },
    InUse {
        users: Vec<NamedUser>,
    },
}

/// Hears of dead links and signals from now on, and makes this process one that does not wait for memory: the memory
/// that it would wait for may have to be written to the very device that it reconnects.
pub(super) fn prepare(driver: &Driver) -> Result<Prepared, Exit> {
    let mut told = SigSet::empty();
    told.add(Signal::SIGTERM);
    told.add(Signal::SIGINT);
    told.thread_block().map_err(io::Error::from)?;
    let signals = SignalFd::with_flags(&told, SfdFlags::SFD_CLOEXEC).map_err(io::Error::from)?;
    let events = driver.events().map_err(|error| failed(&error))?;
    let warn = |what: &str, error: &dyn Display| {
        eprintln!(
            "nbd-client: {what}: {error}; under memory pressure a reconnection may come too late"
        );
    };
    if let Err(error) = pressure::lock_memory() {
        warn("can't stay in memory (CAP_IPC_LOCK)", &error);
    }
    if let Err(error) = pressure::set_io_flusher() {
        warn("can't be an I/O flusher (CAP_SYS_RESOURCE)", &error);
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        warn(
            "can't be spared when memory runs out (CAP_SYS_RESOURCE)",
            &error,
        );
    }
    Ok(Prepared { events, signals })
}

pub(super) fn run(
    arguments: &Attach,
    target: &Target,
    tree: &Tree,
    mut driver: Driver,
    mut attached: Attached,
    prepared: Prepared,
) -> Result<(), Exit> {
    let Prepared {
        mut events,
        signals,
    } = prepared;
    let index = attached.index;
    let device = kernel::path(index);
    let fenced = attached.plan.fenced;
    let json = arguments.json;
    let mut report = |event: &Event| match json {
        true => write_line(&device, event_line(event, fenced)),
        false => eprintln!("nbd-client: {device}: {}", words(event)),
    };
    let left = kernel::watch(
        &mut driver,
        tree,
        target,
        &mut attached,
        &mut events,
        signals.as_fd(),
        &mut report,
    );
    match left {
        Ok(Left::Detached) => {
            say(
                json,
                &device,
                EventLine::Detached,
                "was detached; nothing is left to watch",
            );
            Ok(())
        }
        Ok(Left::GivenUp(changed)) => {
            let reason = changed.to_string();
            if json {
                let reason = &reason;
                write_line(&device, EventLine::GivenUp { reason });
            }
            let exit = Exit::refused(format!("{device} is given up, its requests fail: {reason}"));
            Err(match changed {
                Changed::Unproven => exit.hint(
                    "attach it again (a mirror's leg is then added again); --risk-lost-writes would go on as if nothing \
                     had happened",
                ),
                _ => exit.hint("attach it again; a mirror's leg is then added again"),
            })
        }
        Ok(Left::Told) if arguments.detach_on_exit => {
            // The kernel's sockets must not be kept alive by ours.
            attached.sockets.clear();
            finish(json, &mut driver, tree, index)
        }
        Ok(Left::Told) => {
            say(
                json,
                &device,
                EventLine::Left,
                "stays attached; nobody reconnects it from now on",
            );
            Ok(())
        }
        Err(WatchError::Driver(error)) => Err(failed(&error)),
        Err(error @ WatchError::Wait(_)) => Err(Exit::failed(error)),
    }
}

fn finish(json: bool, driver: &mut Driver, tree: &Tree, index: u32) -> Result<(), Exit> {
    let device = kernel::path(index);
    match kernel::detach(driver, tree, index, false) {
        Ok(_) | Err(DetachError::NotAttached { .. }) => {
            say(json, &device, EventLine::Detached, "is detached");
            Ok(())
        }
        Err(error) => {
            if let (DetachError::InUse { users, .. }, true) = (&error, json) {
                let users = users.iter().map(NamedUser::from).collect();
                write_line(&device, EventLine::InUse { users });
            }
            Err(detach::exit(&error))
        }
    }
}

fn say(json: bool, device: &str, line: EventLine<'_>, words: &str) {
    match json {
        true => write_line(device, line),
        false => eprintln!("nbd-client: {device} {words}"),
    }
}

/// Writes a line; nobody reading it is no reason to stop watching.
fn write_line(device: &str, event: EventLine<'_>) {
    let line = Line {
        schema: SCHEMA,
        device,
        event,
    };
    if let Ok(text) = serde_json::to_string(&line) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}

fn event_line(event: &Event, fenced: bool) -> EventLine<'_> {
    match event {
        Event::LinkDead {
            dead,
            alive,
            announced,
        } => EventLine::LinkDead {
            dead: *dead,
            alive: *alive,
            announced: *announced,
        },
        Event::Unreachable { reason, again_in } => EventLine::Unreachable {
            reason,
            again_in_ms: again_in.as_millis(),
        },
        Event::Refused { reason, again_in } => EventLine::Refused {
            reason,
            again_in_ms: again_in.as_millis(),
        },
        Event::GaveUpWaiting { after } => EventLine::GaveUpWaiting {
            after_ms: after.as_millis(),
        },
        Event::Reconnected {
            replaced,
            after,
            session,
        } => EventLine::Reconnected {
            replaced: *replaced,
            after_ms: after.as_millis(),
            session: fenced.then(|| SessionLine::new(session)),
        },
    }
}

fn words(event: &Event) -> String {
    let sockets = |count: usize| match count {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    };
    match event {
        Event::LinkDead { dead, alive, .. } => {
            format!("lost {}, {} left; reconnecting", sockets(*dead), alive)
        }
        Event::Unreachable { reason, again_in } => {
            let reason = show::line(reason);
            format!(
                "{reason}; trying again, first in {} ms",
                again_in.as_millis()
            )
        }
        Event::Refused { reason, .. } => {
            format!("not reconnected: {}; looking again", show::line(reason))
        }
        Event::GaveUpWaiting { after } => format!(
            "no answers for {} s: requests fail until the server is back",
            after.as_secs()
        ),
        Event::Reconnected {
            replaced, after, ..
        } => format!(
            "reconnected after {} ms: {} replaced",
            after.as_millis(),
            sockets(*replaced)
        ),
    }
}
