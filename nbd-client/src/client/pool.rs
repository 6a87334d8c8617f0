//! The connections of one client: spreading requests over them, and replacing them together when one is lost.
//!
//! All connections share a session generation, so losing one ends all: the new ones have the next generation, and a
//! server that knows sessions drops what it still holds of the old.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nbd_protocol::command::{Answer, Command, Completion, Errno, Failure, Outcome};
use nbd_protocol::number::TransmissionFlags;
use nbd_protocol::session::Session;
use tokio::sync::oneshot;

use super::unflushed::{Unflushed, is_volatile};
use super::{ClientOptions, Error};
use crate::connection::{
    Connection, Export, NOT_SENT, OpenError, Options, TIMED_OUT, WhenFull, is_connection_failure,
};
use crate::target::Target;

/// Connections and the requests that wait for new ones.
pub(super) struct Pool {
    target: Target,
    options: ClientOptions,
    session: Session,
    export: Export,
    reconnections: AtomicU64,
    turn: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Empty while reconnecting and after the end.
    connections: Vec<Arc<Connection>>,
    /// Counts the sets of connections: a loss is acted upon once per set.
    epoch: u64,
    generation: u64,
    connected: Instant,
    /// How many sets of connections in a row were lost soon after they were made.
    short_lived: u32,
    /// Bounded by the client's bound on requests.
    waiting: VecDeque<Request>,
    ended: Option<Error>,
    unflushed: Unflushed,
    /// What names the memory of the server that the last connections led to.
    memory: Option<String>,
    /// What connections of earlier epochs answered may be lost, unless it was made durable.
    sure_since: u64,
}

/// One request until its outcome is known.
struct Request {
    command: Command,
    reply: oneshot::Sender<Result<Answer, Error>>,
    /// When its first connection was lost.
    lost: Option<Instant>,
    /// Of [`Unflushed`], when it was sent.
    mark: u64,
    release: Box<dyn FnOnce() + Send>,
}

/// A request under way.
pub(super) struct Started(oneshot::Receiver<Result<Answer, Error>>);

impl Started {
    pub(super) async fn outcome(self) -> Result<Answer, Error> {
        // Every request is completed; a dropped sender would be a mistake here, and must not count as success.
        self.0.await.unwrap_or(Err(Error::Closed))
    }
}

impl Pool {
    pub(super) fn open(target: &Target, options: ClientOptions) -> Result<Arc<Pool>, OpenError> {
        let session = match options.session {
            Some(session) => session,
            None => Session {
                client: random_identity()?,
                generation: 1,
            },
        };
        let connections = open_set(target, &options, session)?;
        let export = connections[0].export().clone();
        let state = State {
            connections,
            epoch: 0,
            generation: session.generation,
            connected: Instant::now(),
            short_lived: 0,
            waiting: VecDeque::new(),
            ended: None,
            unflushed: Unflushed::default(),
            memory: export.memory.clone(),
            sure_since: 0,
        };
        Ok(Arc::new(Pool {
            target: target.clone(),
            options,
            session,
            export,
            reconnections: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }))
    }

    /// Starts one request; `release` is called when it is over.
    pub(super) fn start(
        self: &Arc<Self>,
        command: Command,
        release: Box<dyn FnOnce() + Send>,
    ) -> Started {
        let (reply, outcome) = oneshot::channel();
        self.submit(Request {
            command,
            reply,
            lost: None,
            mark: 0,
            release,
        });
        Started(outcome)
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections.len()
    }

    pub(super) fn reconnections(&self) -> u64 {
        self.reconnections.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        let connections = std::mem::take(&mut state.connections);
        state.ended.get_or_insert(Error::Closed);
        let waiting = std::mem::take(&mut state.waiting);
        self.changed.notify_all();
        drop(state);
        for request in waiting {
            request.finish(Err(Error::Closed));
        }
        for connection in connections {
            // The connection lives until its requests are answered: each of them holds it.
            connection.close();
        }
    }

    /// Sends a request on the next connection, or lets it wait for one.
    fn submit(self: &Arc<Self>, mut request: Request) {
        let mut state = self.lock();
        if let Some(error) = &state.ended {
            let error = error.clone();
            drop(state);
            return request.finish(Err(error));
        }
        if state.connections.is_empty() {
            state.waiting.push_back(request);
            return;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % state.connections.len();
        let connection = Arc::clone(&state.connections[turn]);
        let epoch = state.epoch;
        request.mark = state.unflushed.mark();
        drop(state);
        let pool = Arc::clone(self);
        let held = Arc::clone(&connection);
        let command = request.command.clone();
        let completion = Completion::new(move |outcome| {
            pool.completed(request, epoch, outcome);
            drop(held);
        });
        connection.submit_now(command, completion);
    }

    /// Takes the outcome of a request on a connection of `epoch`; not called with the state locked.
    fn completed(self: &Arc<Self>, mut request: Request, epoch: u64, outcome: Outcome) {
        let failure = match outcome {
            Ok(answer) => {
                let outcome = self.answered(&request, epoch).map(|()| answer);
                return request.finish(outcome);
            }
            Err(failure) => failure,
        };
        let shutting_down =
            failure.errno == Errno::ESHUTDOWN && !self.options.give_up_after.is_zero();
        if !is_connection_failure(&failure) && !shutting_down {
            return request.finish(Err(Error::Failed { failure }));
        }
        self.connection_lost(epoch, &failure);
        // A server that says ESHUTDOWN has not carried the request out.
        let had_no_effect = failure.errno == NOT_SENT || shutting_down;
        let replay = had_no_effect
            || !request.command.changes_data()
            || self.export.fenced
            || self.options.replay_writes;
        // A server that is there and loses every connection must not be asked the same for ever.
        let since = *request.lost.get_or_insert_with(Instant::now);
        let after = self.options.give_up_after;
        if !replay {
            request.finish(Err(lost(&failure)));
        } else if since.elapsed() > after && !after.is_zero() {
            request.finish(Err(Error::GaveUp {
                after,
                last: failure.why.as_ref().into(),
            }));
        } else {
            self.submit(request);
        }
    }

    /// Notes that a request was answered on a connection of `epoch`.
    fn answered(&self, request: &Request, epoch: u64) -> Result<(), Error> {
        let (command, offers) = (&request.command, self.export.flags);
        if !command.changes_data() && !matches!(command, Command::Flush) {
            return Ok(());
        }
        let mut state = self.lock();
        if epoch < state.sure_since && is_volatile(command, offers) {
            return Err(Error::Lost {
                why: "the server answered, and may have lost it since".into(),
                timed_out: false,
            });
        }
        state.unflushed.answered(command, offers, request.mark);
        Ok(())
    }

    /// Ends the connections of `epoch` and starts to make new ones; once per epoch.
    fn connection_lost(self: &Arc<Self>, epoch: u64, failure: &Failure) {
        let mut state = self.lock();
        if state.epoch != epoch || state.connections.is_empty() {
            return;
        }
        let connections = std::mem::take(&mut state.connections);
        if self.options.give_up_after.is_zero() {
            state.ended.get_or_insert(lost(failure));
        }
        let reconnect = state.ended.is_none();
        drop(state);
        tracing::warn!(target = %self.target, why = %failure.why, reconnect, "connection lost");
        for connection in connections {
            connection.abort();
        }
        if !reconnect {
            return;
        }
        let pool = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("nbd-reconnect".into())
            .spawn(move || pool.reconnect());
        if let Err(error) = spawned {
            self.end(Error::GaveUp {
                after: self.options.give_up_after,
                last: error.to_string().into(),
            });
        }
    }

    /// Makes new connections, or gives up.
    fn reconnect(self: &Arc<Self>) {
        let give_up = Instant::now() + self.options.give_up_after;
        let mut pause = self.options.first_pause;
        if let Some(rest) = self.rest_first() {
            self.wait(rest);
        }
        loop {
            let Some(session) = self.next_session() else {
                return;
            };
            let last = match open_set(&self.target, &self.options, session) {
                Ok(connections) => match self.difference(connections[0].export()) {
                    Some(what) => return self.end(Error::Changed { what: what.into() }),
                    None => match self.resume(connections) {
                        Ok(()) => return,
                        Err(error) => return self.end(error),
                    },
                },
                Err(error) => error.to_string(),
            };
            tracing::debug!(target = %self.target, error = %last, "no connection yet");
            if Instant::now() + pause >= give_up {
                return self.end(Error::GaveUp {
                    after: self.options.give_up_after,
                    last: last.into(),
                });
            }
            self.wait(pause);
            pause = (pause * 2).min(self.options.longest_pause);
        }
    }

    /// How long to leave a server alone that loses its connections as soon as they are made.
    fn rest_first(&self) -> Option<Duration> {
        let mut state = self.lock();
        if state.connected.elapsed() > self.options.longest_pause {
            state.short_lived = 0;
            return None;
        }
        let doublings = state.short_lived.min(16);
        state.short_lived = doublings + 1;
        (doublings > 0).then(|| {
            (self.options.first_pause * (1 << (doublings - 1))).min(self.options.longest_pause)
        })
    }

    /// Waits; cut short only by the end, which [`Pool::next_session`] sees.
    fn wait(&self, pause: Duration) {
        let state = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(state, pause, |state| state.ended.is_none());
        drop(waited.unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// The session of the next attempt, of a generation never used before; `None` after the end.
    fn next_session(&self) -> Option<Session> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return None;
        }
        state.generation = state.generation.saturating_add(1);
        Some(Session {
            generation: state.generation,
            ..self.session
        })
    }

    /// What makes an export another one than that which the client was opened for.
    fn difference(&self, now: &Export) -> Option<String> {
        let before = &self.export;
        let names = |export: &Export| {
            export
                .contexts
                .iter()
                .map(|context| context.name.clone())
                .collect::<Vec<_>>()
        };
        if now.size != before.size {
            return Some(format!(
                "the export has {} bytes instead of {}",
                now.size, before.size
            ));
        }
        if now.flags != before.flags {
            return Some(format!(
                "the export offers {:?} instead of {:?}",
                now.flags, before.flags
            ));
        }
        if (now.minimum_block, now.maximum_payload)
            != (before.minimum_block, before.maximum_payload)
        {
            return Some("the export has other block sizes".to_owned());
        }
        if names(now) != names(before) || now.style != before.style {
            return Some("the server grants other block-status contexts or headers".to_owned());
        }
        if before.fenced && !now.fenced {
            return Some("the server no longer fences old connections".to_owned());
        }
        None
    }

    /// Goes on with new connections, unless something may be lost that was answered.
    fn resume(self: &Arc<Self>, connections: Vec<Arc<Connection>>) -> Result<(), Error> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Ok(());
        }
        let memory = connections[0].export().memory.clone();
        let remembers = memory.is_some() && memory == state.memory;
        if !remembers && state.unflushed.any() {
            let what = match state.memory {
                Some(_) => {
                    "the server's machine has been restarted, or it is another disk: it may have lost writes that it \
                     had answered and that were not flushed"
                }
                None => {
                    "the server can't prove that it still has the writes that it had answered and that were not flushed"
                }
            };
            return Err(Error::Changed { what: what.into() });
        }
        state.epoch += 1;
        if !remembers {
            state.sure_since = state.epoch;
            state.memory = memory;
        }
        state.connections = connections;
        state.connected = Instant::now();
        self.reconnections.fetch_add(1, Ordering::Relaxed);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        tracing::info!(target = %self.target, again = waiting.len(), "connected again");
        for request in waiting {
            self.submit(request);
        }
        Ok(())
    }

    fn end(&self, error: Error) {
        let mut state = self.lock();
        let error = state.ended.get_or_insert(error).clone();
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        tracing::warn!(target = %self.target, %error, "giving up");
        for request in waiting {
            request.finish(Err(error.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Request {
    fn finish(self, outcome: Result<Answer, Error>) {
        // Freed before the reply: who gets it may start the next at once.
        (self.release)();
        // Nobody listens if the future was dropped.
        let _ = self.reply.send(outcome);
    }
}

fn lost(failure: &Failure) -> Error {
    Error::Lost {
        why: failure.why.as_ref().into(),
        timed_out: failure.errno == TIMED_OUT,
    }
}

/// Opens all connections of one generation; at least one.
fn open_set(
    target: &Target,
    options: &ClientOptions,
    session: Session,
) -> Result<Vec<Arc<Connection>>, OpenError> {
    let each = Options {
        session: Some(session),
        when_full: WhenFull::Fail,
        ..options.connection.clone()
    };
    let first = Connection::open(target, each.clone())?;
    let several = first.export().offers(TransmissionFlags::CAN_MULTI_CONN);
    let export = first.export().clone();
    let mut connections = vec![Arc::new(first)];
    while several && connections.len() < options.connections {
        match Connection::open(target, each.clone()) {
            Ok(next) if *next.export() == export => connections.push(Arc::new(next)),
            Ok(_) => break,
            Err(error) => {
                tracing::info!(%target, %error, "fewer connections than asked for");
                break;
            }
        }
    }
    Ok(connections)
}

/// An identity that no other client has.
pub(crate) fn random_identity() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}
