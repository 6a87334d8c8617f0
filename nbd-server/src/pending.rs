//! One command on its way through the server: from the gate, through the device, to its reply.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Completion, Errno, Failure, Outcome};
use nbd_protocol::reply::ReplyTo;

use crate::line::Line;
use crate::range_lock::Ticket;
use crate::reply::Reply;

/// A command that has not started.
pub(crate) struct Pending {
    command: Command,
    answering: Answering,
    /// It keeps overlapping writes out although it changes nothing.
    holds: bool,
}

impl Pending {
    pub(crate) fn new(
        command: Command,
        line: &Arc<Line>,
        to: ReplyTo,
        part: Part,
        charge: u32,
    ) -> Pending {
        let answering = Answering {
            line: Arc::clone(line),
            to,
            ticket: None,
            part,
            charge,
            answered: false,
            vital: line.keeps_order() && (command.changes_data() || command == Command::Flush),
        };
        Pending {
            command,
            answering,
            holds: false,
        }
    }

    /// The command is to keep overlapping writes out.
    pub(crate) fn hold_range(&mut self) {
        self.holds = true;
    }

    /// The range that nobody else may change meanwhile, if there is one. On a connection that keeps order, everything, so
    /// that the gate lets one after the other pass.
    pub(crate) fn held_range(&self) -> Option<(u64, u64)> {
        if self.answering.line.keeps_order() {
            return Some((0, u64::MAX));
        }
        if self.holds || self.command.changes_data() {
            self.command.range()
        } else {
            None
        }
    }

    /// Copies a short payload: it may be a slice of a much larger receive buffer, and has to wait.
    pub(crate) fn detach(&mut self) {
        if let Command::Write { data, .. } = &mut self.command
            && data.len() <= SHORT
        {
            *data = Bytes::copy_from_slice(data);
        }
    }

    /// The gate has let it pass; the ticket is released when it is over, however it ends.
    pub(crate) fn with_ticket(mut self, ticket: Ticket) -> Pending {
        self.answering.ticket = Some(ticket);
        self
    }

    /// Hands the command to the device, unless the connection has died meanwhile.
    pub(crate) fn start(self) {
        let Pending {
            command, answering, ..
        } = self;
        let Some(export) = answering.line.export.get() else {
            return;
        };
        if answering.line.is_dead() {
            return answering.finish(Err(Failure::new(
                Errno::ESHUTDOWN,
                "the connection has ended",
            )));
        }
        let device = Arc::clone(export.device());
        device.submit(
            command,
            Completion::new(move |outcome| answering.finish(outcome)),
        );
    }

    /// Ends the command without having started it.
    pub(crate) fn fail(self, failure: Failure) {
        self.answering.finish(Err(failure));
    }
}

/// Starts commands whose turn has come, one after the other even when they complete at once and make more runnable:
/// a long queue must not become a deep stack.
pub(crate) fn start_in_turn(runnable: Vec<(Ticket, Pending)>) {
    let more = runnable
        .into_iter()
        .map(|(ticket, pending)| pending.with_ticket(ticket));
    let outermost = TURN.with_borrow_mut(|turn| match turn {
        Some(waiting) => {
            waiting.extend(more);
            false
        }
        None => {
            *turn = Some(more.collect());
            true
        }
    });
    if !outermost {
        return;
    }
    while let Some(pending) =
        TURN.with_borrow_mut(|turn| turn.as_mut().and_then(VecDeque::pop_front))
    {
        pending.start();
    }
    TURN.set(None);
}

thread_local! {
    /// Commands that this thread is about to start; `None` when it is not starting any.
    static TURN: RefCell<Option<VecDeque<Pending>>> = const { RefCell::new(None) };
}

/// Which part of the request's answer the command gives.
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// A piece of a READ that begins here.
    Piece { of: Arc<Parts>, offset: u64 },
    /// The extents of the context with this id.
    Context { of: Arc<Parts>, id: u32 },
}

/// What the commands of one request share.
pub(crate) struct Parts {
    state: Mutex<PartsState>,
}

struct PartsState {
    left: usize,
    failure: Option<Failure>,
}

impl Parts {
    /// A request that `count` commands answer together.
    pub(crate) fn new(count: usize) -> Arc<Parts> {
        Arc::new(Parts {
            state: Mutex::new(PartsState {
                left: count,
                failure: None,
            }),
        })
    }
}

/// Knows how to answer; answers for sure: if the device drops it, with EIO.
struct Answering {
    line: Arc<Line>,
    to: ReplyTo,
    ticket: Option<Ticket>,
    part: Part,
    charge: u32,
    answered: bool,
    /// Nothing that came behind it on its connection may be done if it fails.
    vital: bool,
}

impl Answering {
    fn finish(mut self, outcome: Outcome) {
        self.conclude(outcome);
    }

    fn conclude(&mut self, outcome: Outcome) {
        self.answered = true;
        // Whoever declared the line dead has seen to the rest; what is queued does not start in any case.
        let failed = self.vital && outcome.is_err() && !self.line.is_dead();
        let outcome = match failed {
            true => {
                // The reason first, then those that are dropped for it.
                self.line.mark_dead();
                self.answer(outcome);
                self.end_stream();
                None
            }
            false => Some(outcome),
        };
        let runnable = match (self.ticket.take(), self.line.export.get()) {
            (Some(ticket), Some(export)) => export.release(ticket),
            _ => Vec::new(),
        };
        if let Some(outcome) = outcome {
            self.answer(outcome);
        }
        if !runnable.is_empty() {
            start_in_turn(runnable);
        }
    }

    /// Before the ticket is released: nothing behind this may begin.
    fn end_stream(&self) {
        if let Some(export) = self.line.export.get() {
            tracing::warn!(
                connection = self.line.id,
                "a request that keeps order failed"
            );
            export.abandon(&self.line);
            // Its thread may be waiting for a client that has nothing more to ask.
            self.line.socket.shut_down(std::net::Shutdown::Read);
        }
    }

    fn answer(&self, outcome: Outcome) {
        match &self.part {
            Part::Whole => {
                let mut reply = self.whole(outcome);
                reply.charge = self.charge;
                self.line.answer(reply);
            }
            Part::Piece { of, .. } | Part::Context { of, .. } => {
                // Held while the reply is queued: the chunk that ends the answer must be the last one in the queue.
                let mut state = of
                    .state
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                state.left -= 1;
                let last = state.left == 0;
                let mut reply = self.chunk(outcome, last, &mut state.failure);
                if let (None, Some(failure), true) = (&reply, &state.failure, last) {
                    reply = Some(Reply::written(|out| self.to.failure(failure, out)));
                }
                let mut reply = reply.unwrap_or_else(|| Reply::new(|_| {}, Bytes::new()));
                reply.last = last;
                reply.charge = self.charge;
                self.line.answer(reply);
            }
        }
    }

    /// The answer to a request that is one command.
    fn whole(&self, outcome: Outcome) -> Reply {
        match outcome {
            Ok(Answer::Done) => Reply::new(|out| self.to.done(out), Bytes::new()),
            // The protocol bounds a READ to 64 MiB.
            Ok(Answer::Data(data)) if data.len() as u64 == self.to.request.length => Reply::new(
                |out| self.to.data_header(data.len() as u32, out),
                data.clone(),
            ),
            Ok(_) => Reply::written(|out| self.to.failure(&unfit(), out)),
            Err(failure) => Reply::written(|out| self.to.failure(&failure, out)),
        }
    }

    /// One chunk of several; a failure is kept for the end, because an error ends a reply.
    fn chunk(&self, outcome: Outcome, last: bool, failure: &mut Option<Failure>) -> Option<Reply> {
        let done = last && failure.is_none();
        match (outcome, &self.part) {
            (Ok(Answer::Data(data)), Part::Piece { offset, .. }) => {
                let length = data.len() as u32;
                let reply = Reply::new(|out| self.to.data_chunk(*offset, length, done, out), data);
                return self.or_failure(reply, last, failure);
            }
            (Ok(Answer::Extents(extents)), Part::Context { id, .. }) => {
                let mut message = Vec::new();
                match self.to.block_status(*id, &extents, done, &mut message) {
                    Ok(()) => {
                        let reply = Reply::written(|out| *out = message);
                        return self.or_failure(reply, last, failure);
                    }
                    Err(unfit) => failure.get_or_insert(unfit),
                }
            }
            (Ok(_), _) => failure.get_or_insert(unfit()),
            (Err(why), _) => failure.get_or_insert(why),
        };
        None
    }

    /// `reply`; but when it is the last chunk and an earlier part failed, it goes first and the failure ends the reply.
    fn or_failure(&self, reply: Reply, last: bool, failure: &Option<Failure>) -> Option<Reply> {
        if last && failure.is_some() {
            let mut reply = reply;
            reply.last = false;
            self.line.answer(reply);
            return None;
        }
        Some(reply)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if !self.answered {
            self.conclude(Err(Failure::new(
                Errno::EIO,
                "the device gave the command up without an answer",
            )));
        }
    }
}

fn unfit() -> Failure {
    Failure::new(
        Errno::EIO,
        "the device gave an answer that does not fit the command",
    )
}

/// Longer payloads have buffers of their own.
const SHORT: usize = 32 << 10;
