//! A device under a name, and the gate that every command which changes its data passes (and those that must see one
//! state of it).
//!
//! The gate decides under one lock, so that nothing can slip between the decisions: is the connection alive and not
//! fenced, and does an older command overlap? What passes first is done first, whichever connection it came by; so a
//! write that a client left behind on a dead connection can never land after one that the client sent later.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nbd_protocol::command::{Errno, Failure};
use nbd_protocol::session::Session;

use crate::device::{Geometry, SharedDevice};
use crate::line::Line;
use crate::pending::{Pending, start_in_turn};
use crate::range_lock::{Admission, RangeLock, Ticket};

/// A device that clients can open by a name.
pub struct Export {
    name: String,
    description: String,
    secret: bool,
    device: SharedDevice,
    geometry: Geometry,
    memory: String,
    gate: Mutex<Gate>,
}

/// What the lock guards.
#[derive(Default)]
struct Gate {
    ranges: RangeLock<u64, Pending>,
    sessions: HashMap<u128, Newest>,
    /// Counts sessions as they come, to know the oldest.
    arrivals: u64,
    lines: Vec<Weak<Line>>,
    closed: bool,
}

/// The newest generation of one client and the connections that presented it.
struct Newest {
    generation: u64,
    arrival: u64,
    lines: Vec<Weak<Line>>,
}

/// Why a connection may not join an export.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum JoinError {
    /// A newer session of the same client is known.
    Fenced {
        /// Its generation.
        newest: u64,
    },
    /// The export was removed meanwhile.
    Removed,
}

impl Export {
    /// Exports `device` as `name`.
    pub fn new(name: impl Into<String>, device: SharedDevice) -> Export {
        let geometry = device.geometry();
        // Of a device whose memory ends with it, no two have the same name.
        let memory = device
            .memory()
            .unwrap_or_else(|| format!("{:x}", RandomState::new().build_hasher().finish()));
        Export {
            name: name.into(),
            description: String::new(),
            secret: false,
            device,
            geometry,
            memory,
            gate: Mutex::default(),
        }
    }

    /// Adds a sentence for people, shown in lists.
    pub fn with_description(mut self, description: impl Into<String>) -> Export {
        self.description = description.into();
        self
    }

    /// Makes the name a secret: it is in no list, and the empty name does not stand for it.
    pub fn with_secret_name(mut self, secret: bool) -> Export {
        self.secret = secret;
        self
    }

    /// Whether only those who know the name are to find it.
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// The name that clients ask for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A sentence for people; may be empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The device behind the name.
    pub fn device(&self) -> &SharedDevice {
        &self.device
    }

    /// Alignment and abilities, as they were when the export was made, and the size as it is now. A connection keeps the
    /// size that it was told in its handshake.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            size: self.device.geometry().size,
            ..self.geometry.clone()
        }
    }

    /// Whether the block-status context at this position of the device's list is one of digests.
    pub(crate) fn has_digests_at(&self, context: usize) -> bool {
        let name = self.geometry.contexts.get(context);
        name.is_some_and(|name| name == crate::file::digest::CONTEXT)
    }

    /// What names the memory of the device, on this machine until it is started anew ([`BlockDevice::memory`]).
    ///
    /// [`BlockDevice::memory`]: crate::device::BlockDevice::memory
    pub(crate) fn memory(&self) -> &str {
        &self.memory
    }

    /// The generation that fences `session`, if there is one.
    pub(crate) fn fenced_by(&self, session: &Session) -> Option<u64> {
        let gate = self.lock();
        let newest = gate.sessions.get(&session.client)?.generation;
        (newest > session.generation).then_some(newest)
    }

    /// Lets a connection begin transmission; fences older sessions of the same client: their sockets are shut down,
    /// what they had queued is dropped, and nothing of them starts any more.
    pub(crate) fn join(&self, line: &Arc<Line>, session: Option<Session>) -> Result<(), JoinError> {
        let mut gate = self.lock();
        if gate.closed {
            return Err(JoinError::Removed);
        }
        let fenced = match session {
            Some(session) => gate.remember(session, line)?,
            None => Vec::new(),
        };
        gate.lines.retain(|known| known.strong_count() > 0);
        gate.lines.push(Arc::downgrade(line));
        // Here, where nobody can be told that he is fenced before his socket is shut down: he would be sent an error.
        fenced.iter().for_each(|old| old.cut());
        let dropped = gate
            .ranges
            .drop_queued(|owner| fenced.iter().any(|old| old.id == *owner));
        drop(gate);
        for old in &fenced {
            tracing::info!(
                connection = old.id,
                by = line.id,
                export = self.name,
                "fenced by a newer session"
            );
        }
        self.settle(dropped);
        Ok(())
    }

    /// Drops everything of a connection that has not started; called when it ended without a goodbye.
    pub(crate) fn abandon(&self, line: &Line) {
        let mut gate = self.lock();
        line.mark_dead();
        let dropped = gate.ranges.drop_queued(|owner| *owner == line.id);
        drop(gate);
        self.settle(dropped);
    }

    /// Forgets a connection that has ended.
    pub(crate) fn leave(&self, line: &Arc<Line>) {
        let mut gate = self.lock();
        let gone = Arc::as_ptr(line);
        gate.lines.retain(|known| known.as_ptr() != gone);
        for newest in gate.sessions.values_mut() {
            newest.lines.retain(|known| known.as_ptr() != gone);
        }
    }

    /// Ends every connection and lets none begin: the export is being removed.
    pub(crate) fn close(&self) {
        let mut gate = self.lock();
        gate.closed = true;
        let lines: Vec<Arc<Line>> = gate
            .lines
            .drain(..)
            .filter_map(|line| line.upgrade())
            .collect();
        lines.iter().for_each(|line| line.cut());
        let dropped = gate.ranges.drop_queued(|_| true);
        drop(gate);
        self.settle(dropped);
    }

    /// Takes in the commands among `batch` that change data or hold a range (all, if the connection keeps order), in this
    /// order and all at once. Those that have to wait are
    /// kept and start by themselves; the rest get their tickets and are left for the caller to start.
    ///
    /// Fails, having taken in nothing, if the connection may start nothing more. `check_peer` makes that depend on
    /// whether the client has closed its side: a client that has may already have sent newer writes on another
    /// connection. That is asked under the lock, because a newer write has to pass here before it can be answered.
    pub(crate) fn admit(
        &self,
        line: &Line,
        batch: &mut [Option<Pending>],
        check_peer: bool,
    ) -> Result<(), Closed> {
        let mut gate = self.lock();
        if line.is_dead() || gate.closed {
            return Err(Closed::Fenced);
        }
        if check_peer && line.socket.peer_has_closed() {
            return Err(Closed::ByPeer);
        }
        for slot in batch {
            let Some((offset, length)) = slot.as_ref().and_then(Pending::held_range) else {
                continue;
            };
            let Some(pending) = slot.take() else { continue };
            match gate.ranges.admit(line.id, offset, length, pending) {
                Admission::Start(ticket, pending) => *slot = Some(pending.with_ticket(ticket)),
                Admission::Queued(ticket) => {
                    if let Some(pending) = gate.ranges.waiting_mut(ticket) {
                        pending.detach();
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends a command that was admitted; returns those whose turn has come.
    pub(crate) fn release(&self, ticket: Ticket) -> Vec<(Ticket, Pending)> {
        self.lock().ranges.release(ticket)
    }

    fn settle(&self, result: crate::range_lock::Dropped<Pending>) {
        for pending in result.dropped {
            pending.fail(Failure::new(
                Errno::ESHUTDOWN,
                "the connection ended before the command began",
            ));
        }
        start_in_turn(result.runnable);
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

/// Why [`Export::admit`] took nothing in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The connection was fenced or cut by this server.
    Fenced,
    /// The client has closed its side; what it sent before may or may not end in a goodbye.
    ByPeer,
}

impl Gate {
    /// Notes the session; returns the connections that it fences.
    fn remember(
        &mut self,
        session: Session,
        line: &Arc<Line>,
    ) -> Result<Vec<Arc<Line>>, JoinError> {
        self.arrivals += 1;
        let arrival = self.arrivals;
        if !self.sessions.contains_key(&session.client) && self.sessions.len() >= MAX_CLIENTS {
            self.forget_one();
        }
        let newest = self
            .sessions
            .entry(session.client)
            .or_insert_with(|| Newest {
                generation: session.generation,
                arrival,
                lines: Vec::new(),
            });
        if newest.generation > session.generation {
            return Err(JoinError::Fenced {
                newest: newest.generation,
            });
        }
        let fenced = match newest.generation < session.generation {
            true => std::mem::take(&mut newest.lines),
            false => Vec::new(),
        };
        newest.generation = session.generation;
        newest.arrival = arrival;
        newest.lines.retain(|known| known.strong_count() > 0);
        newest.lines.push(Arc::downgrade(line));
        Ok(fenced.into_iter().filter_map(|old| old.upgrade()).collect())
    }

    /// Forgets the client that came longest ago, one without a connection if there is any.
    fn forget_one(&mut self) {
        let alive = |newest: &Newest| newest.lines.iter().any(|line| line.strong_count() > 0);
        let oldest = self
            .sessions
            .iter()
            .min_by_key(|(_, newest)| (alive(newest), newest.arrival))
            .map(|(client, _)| *client);
        if let Some(client) = oldest {
            self.sessions.remove(&client);
        }
    }
}

/// Clients whose generations are remembered for each export; strangers may make them up.
const MAX_CLIENTS: usize = 1024;
