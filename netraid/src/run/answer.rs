//! Answers whoever asks over the control socket: questions, orders, and watchers that stay.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nbd_client::Target;
use nbd_server::server::ServerHandle;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::{lock, unknown_node, watch};
use crate::array::{Added, ArrayStatus, VerifyRequest};
use crate::control::{MAX_LINE, Order, Request, Response, Told};
use crate::raid1::engine::{Hold, Joined, Terms, VerifyOrder};
use crate::raid1::keeper::order::{Addition, OrderError};
use crate::raid1::keeper::{ExtendError, Keepers};
use crate::raid1::leg::{Slot, SlotSet};
use crate::raid1::running::Mirror;
use crate::report;

pub(super) struct Answerer {
    pub(super) tag: String,
    pub(super) disk: String,
    pub(super) uris: Vec<String>,
    pub(super) supervised: bool,
    pub(super) mirror: Arc<Mirror>,
    pub(super) keepers: Arc<Keepers>,
    /// `None` once it is being stopped.
    pub(super) server: Arc<Mutex<Option<ServerHandle>>>,
    /// Callers that are being served.
    pub(super) callers: AtomicUsize,
}

/// Serves callers for ever, each on a thread of its own: adding a leg takes a while, and a watcher stays.
pub(super) fn serve(answerer: &Arc<Answerer>, listener: &UnixListener) {
    for stream in listener.incoming() {
        let served = stream.and_then(|stream| {
            if answerer.callers.fetch_add(1, Ordering::SeqCst) >= MOST_CALLERS {
                answerer.callers.fetch_sub(1, Ordering::SeqCst);
                return Err(io::Error::other("too many callers at once"));
            }
            let caller = Caller(Arc::clone(answerer));
            thread::Builder::new()
                .name("caller".into())
                .spawn(move || {
                    if let Err(error) = caller.0.answer(stream) {
                        tracing::debug!(%error, "a question could not be answered");
                    }
                })
                .map(drop)
        });
        if let Err(error) = served {
            tracing::debug!(%error, "a caller was turned away");
        }
    }
}

/// Counted until it is served.
struct Caller(Arc<Answerer>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Answerer {
    fn answer(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(DAWDLE))?;
        stream.set_write_timeout(Some(DAWDLE))?;
        let mut line = String::new();
        BufReader::new((&stream).take(MAX_LINE)).read_line(&mut line)?;
        if let Ok(order) = serde_json::from_str(&line) {
            return match order {
                Order::Watch => watch::tell(self, &stream),
                other => say(&stream, &self.carry_out(other)),
            };
        }
        let response = match serde_json::from_str(&line) {
            Ok(request) => self.respond(&request),
            Err(error) => Response::Failed {
                why: format!("the question is not understood: {error}"),
                refused: false,
            },
        };
        say(&stream, &response)
    }

    fn respond(&self, request: &Request) -> Response {
        match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::PauseResync { paused } => {
                self.mirror.pause_resync(*paused);
                Response::Done
            }
            Request::Extend { node, uri, force } => match self.extend(node, uri, *force) {
                Ok(()) => Response::Done,
                Err(ExtendError::Refused(why)) => Response::Failed { why, refused: true },
                Err(ExtendError::Failed(why)) => Response::Failed {
                    why,
                    refused: false,
                },
            },
        }
    }

    pub(super) fn status(&self) -> crate::status::Status {
        report::status(
            &self.tag,
            &self.disk,
            &self.uris,
            &self.mirror,
            &self.keepers,
        )
    }

    fn extend(&self, node: &str, uri: &str, force: bool) -> Result<(), ExtendError> {
        if self.supervised {
            return Err(ExtendError::Refused(
                "the mirror is supervised: its supervisor adds legs".into(),
            ));
        }
        let slot = self
            .keepers
            .slot_of(node)
            .ok_or_else(|| ExtendError::Refused(unknown_node(node, &self.keepers).to_string()))?;
        let target = uri
            .parse()
            .map_err(|error| ExtendError::Refused(format!("{error}")))?;
        self.keepers.extend(slot, &target, force)
    }

    fn carry_out(&self, order: Order) -> Told {
        let done = match order {
            Order::Array => return Told::Array(Box::new(self.array())),
            // It is not answered here.
            Order::Watch => Ok(Told::Done),
            Order::Add {
                node,
                uri,
                full,
                discard,
                force,
            } => self.add(&node, &uri, Terms { full, discard }, force),
            Order::Remove { node } => self.remove(&node),
            Order::Part { node } => self
                .slot_of(&node)
                .and_then(|slot| self.keepers.part(slot).map(|()| Told::Done)),
            Order::FullResync { node } => self.slot_of(&node).and_then(|slot| {
                let joined = self.keepers.full_resync(slot)?;
                Ok(Told::Added(added(joined)))
            }),
            Order::Speed {
                most,
                least,
                control,
            } => {
                let bytes = |kib: Option<u32>| kib.map(|kib| u64::from(kib) << 10);
                self.mirror.set_speed(bytes(most), bytes(least), control);
                Ok(Told::Done)
            }
            Order::Guard { nodes, only } => self.guard(&nodes, only),
            Order::Hold { held, fail } => {
                self.mirror.hold(match (held, fail) {
                    (false, _) => Hold::No,
                    (true, false) => Hold::Suspend,
                    (true, true) => Hold::Fail,
                });
                Ok(Told::Done)
            }
            Order::Grow { size } => self.keepers.grow(size).map(|()| Told::Done),
            Order::Verify(request) => self.verify(&request),
            Order::StopVerify => {
                self.mirror.stop_verify("somebody stopped it".into());
                Ok(Told::Done)
            }
            Order::Stop => self.stop(),
        };
        match done {
            Ok(told) => told,
            Err(OrderError::Refused { why, hint }) => Told::Refused {
                why,
                hint: hint.map(str::to_owned),
            },
            Err(OrderError::Failed(why)) => Told::Failed { why },
        }
    }

    fn add(&self, node: &str, uri: &str, terms: Terms, force: bool) -> Result<Told, OrderError> {
        let slot = self.slot_of(node)?;
        let target: Target = uri.parse().map_err(|error| refused(format!("{error}")))?;
        let addition = Addition {
            target: target.clone(),
            terms,
            force,
        };
        let joined = self.keepers.add(slot, &addition)?;
        if !self.supervised {
            self.keepers
                .keep(slot, target)
                .map_err(|error| OrderError::Failed(error.to_string()))?;
        }
        Ok(Told::Added(added(joined)))
    }

    fn remove(&self, node: &str) -> Result<Told, OrderError> {
        let slot = self.slot_of(node)?;
        if !self.supervised {
            return Err(refused(
                "the mirror is not supervised: it would connect the leg again by itself".into(),
            ));
        }
        self.keepers.remove(slot).map(|()| Told::Done)
    }

    fn guard(&self, nodes: &[String], only: bool) -> Result<Told, OrderError> {
        let mut members = SlotSet::EMPTY;
        for node in nodes {
            members.insert(self.slot_of(node)?);
        }
        self.mirror.guard(members, only);
        Ok(Told::Done)
    }

    fn verify(&self, request: &VerifyRequest) -> Result<Told, OrderError> {
        let mut targets = SlotSet::EMPTY;
        for node in &request.nodes {
            targets.insert(self.slot_of(node)?);
        }
        let order = VerifyOrder {
            targets,
            start: request.start,
            stop: request.stop.unwrap_or(u64::MAX),
            rate: request.rate,
            repair: request.repair,
        };
        self.mirror.verify(order).map_err(refused)?;
        Ok(Told::Done)
    }

    fn stop(&self) -> Result<Told, OrderError> {
        match self.connections() {
            0 => {}
            used => return Err(refused(format!("in use by {used} connection(s)"))),
        }
        // The one way to an end, whoever asks for it.
        kill(Pid::this(), Signal::SIGTERM)
            .map(|()| Told::Done)
            .map_err(|error| OrderError::Failed(format!("it can't be stopped: {error}")))
    }

    /// Clients of the mirror's export, which are applications.
    fn connections(&self) -> usize {
        lock(&self.server)
            .as_ref()
            .map_or(0, ServerHandle::connections)
    }

    fn slot_of(&self, node: &str) -> Result<Slot, OrderError> {
        self.keepers
            .slot_of(node)
            .ok_or_else(|| refused(unknown_node(node, &self.keepers).to_string()))
    }

    fn array(&self) -> ArrayStatus {
        let status = self.status();
        let nodes = report::nodes(&status, &self.mirror);
        let (most, least, generations) = self.mirror.view(|view| {
            let (most, least) = view.engine.speed();
            let durable = view.engine.generation_is_durable();
            let generations = durable.then(|| view.engine.generations().into());
            (most, least, generations)
        });
        let kib = |bytes: u64| (bytes > 0).then(|| u32::try_from(bytes >> 10).unwrap_or(u32::MAX));
        ArrayStatus {
            status,
            device: None,
            bitmap: true,
            async_limit: 0,
            speed_limit: kib(most),
            speed_limit_min: kib(least),
            notes: match self.supervised {
                true => Vec::new(),
                false => {
                    vec!["the mirror is not supervised: it connects its legs by itself".into()]
                }
            },
            nodes,
            generations,
            connections: self.connections() as u64,
        }
    }
}

fn added(joined: Joined) -> Added {
    Added {
        full: joined.full,
        rule: joined.rule.to_owned(),
        merged_bytes: joined.merged_bytes,
        dirty_bytes: joined.dirty_bytes,
    }
}

fn refused(why: String) -> OrderError {
    OrderError::Refused { why, hint: None }
}

/// Sends one line.
pub(super) fn say(mut stream: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(what)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

/// Longest wait for a caller, to say what it wants and to take a line of the answer.
const DAWDLE: Duration = Duration::from_secs(2);
/// Most callers at once, watchers included.
const MOST_CALLERS: usize = 64;
