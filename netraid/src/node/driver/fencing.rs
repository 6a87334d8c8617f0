//! Fencing as the daemon does it: the programs `fence-peer` and `unfence-peer`, and when they are called again.
//!
//! `fence-peer` runs in a thread and a process group of its own, for [`LONGEST`](super::handlers::LONGEST) at most; what it
//! answers comes back as [`Input::Fenced`]. A start that waits for it is answered when it has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::handlers::run_to_end;
use super::{Broken, Driver, Input};
use crate::api::document::{self, Answer, Outcome};
use crate::mirror::event::Event;
use crate::mirror::fencing::{FenceAnswer, Fencing};
use crate::mirror::generation::SLOTS;
use crate::mirror::machine::Service;
use crate::mirror::node::NodeId;
use crate::mirror::refusal::Refusal;
use crate::node::links::uneven;

/// The programs that run, and what they said.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// The call whose answer counts, for each node.
    calls: [Option<u64>; SLOTS],
    /// When the last answer came, by the clock that people read, and why it was none.
    answered: [Option<(u64, Option<String>)>; SLOTS],
    /// When whoever is waited for has had time, or a call that failed is tried again.
    now: Option<Instant>,
    /// Whoever ordered the start that waits for answers.
    asker: Option<tokio::sync::oneshot::Sender<Answer>>,
}

/// What `fence-peer` has come to.
#[derive(Debug)]
pub struct Fenced {
    node: NodeId,
    call: u64,
    /// Its exit code, or why there is none.
    ended: Result<Option<i32>, String>,
}

/// Counts the calls of all mirrors: an answer to an earlier driver is not taken for one to this one.
static CALLS: AtomicU64 = AtomicU64::new(1);

impl Driver {
    /// Calls `fence-peer` for a node.
    pub(super) fn fence_peer(&mut self, node: NodeId) {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        self.fences.calls[node.slot()] = Some(call);
        let fenced = |ended| Input::Fenced(Fenced { node, call, ended });
        let inputs = self.bell.inputs();
        let Some(line) = self.about.handlers.fence_peer.clone() else {
            let why = "handlers.fence-peer is not configured".to_owned();
            let _ = inputs.try_send(fenced(Err(why)));
            return;
        };
        let mut command = self.command(&line, node);
        let name = self.names.node(node);
        self.tell(
            "fencing",
            format!("handlers.fence-peer is called for {name}: {line}"),
        );
        let sender = inputs.clone();
        let thread = thread::Builder::new()
            .name("handler-fence-peer".into())
            .stack_size(super::STACK)
            .spawn(move || {
                let ended = run_to_end(&mut command).map(|status| status.code());
                let _ = sender.send(Input::Fenced(Fenced { node, call, ended }));
            });
        if let Err(error) = thread {
            let _ = inputs.try_send(fenced(Err(error.to_string())));
        }
    }

    /// Calls `unfence-peer` for a node that is in sync again.
    pub(super) fn unfence_peer(&mut self, node: NodeId) {
        self.fences.answered[node.slot()] = None;
        if let Some(line) = self.about.handlers.unfence_peer.clone() {
            self.begin_program("unfence-peer", &line, node);
        }
    }

    /// Takes up what `fence-peer` has come to, and answers whoever waits for that.
    pub(super) fn fence_ended(&mut self, fenced: Fenced) -> Result<(), Broken> {
        let Fenced { node, call, ended } = fenced;
        if self.fences.calls[node.slot()] != Some(call) {
            return Ok(());
        }
        self.fences.calls[node.slot()] = None;
        let (code, why) = match ended {
            Ok(code) => (code, None),
            Err(why) => (None, Some(why)),
        };
        let answer = FenceAnswer::from_code(code);
        let why = why.or_else(|| match (answer, code) {
            (FenceAnswer::Broken, Some(code)) => Some(format!("it ended with exit code {code}")),
            (FenceAnswer::Broken, None) => Some("it was ended by a signal".into()),
            _ => None,
        });
        if answer == FenceAnswer::Stonithed && self.settings.fencing != Fencing::ResourceAndStonith
        {
            self.tell(
                "fencing",
                "handlers.fence-peer ended with 7 (shot), which belongs to fencing = \"resource-and-stonith\"".into(),
            );
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.fences.answered[node.slot()] = Some((now, why));
        (self.ordered, self.reply) = (self.fences.asker.is_some(), None);
        self.happen(Event::Fenced(node, answer))?;
        if self.ordered && self.machine.service() == Service::In {
            self.tell_parents()?;
        }
        self.ordered = false;
        self.answer_start();
        Ok(())
    }

    /// Keeps whoever ordered a start that waits for answers; back if this order was no such thing.
    pub(super) fn starts_later(
        &mut self,
        asker: tokio::sync::oneshot::Sender<Answer>,
    ) -> Option<tokio::sync::oneshot::Sender<Answer>> {
        let waits = self.machine.is_fencing() && self.reply.is_none();
        if !waits || self.fences.asker.is_some() {
            return Some(asker);
        }
        self.fences.asker = Some(asker);
        None
    }

    /// Answers whoever ordered a start, if it has come to something.
    pub(super) fn answer_start(&mut self) {
        if self.machine.is_fencing() {
            return;
        }
        let Some(asker) = self.fences.asker.take() else {
            return;
        };
        self.publish();
        let nothing = || Answer::not(Outcome::Failed, "nothing came of it", None);
        let _ = asker.send(self.reply.take().unwrap_or_else(nothing));
    }

    /// A start that waited is given up.
    pub(super) fn gave_up_start(&mut self, refusal: Refusal) {
        let own = self.settings.own;
        let why = refusal.reason(own, &self.names);
        let next = refusal.next(own, &self.names);
        self.tell("refused", why.clone());
        let answer = Answer::not(Outcome::Refused, why, next);
        match self.fences.asker.take() {
            Some(asker) => {
                let _ = asker.send(answer);
            }
            None => self.answer(answer),
        }
    }

    /// When the machine has to be asked again.
    pub(super) fn plan_fencing(&mut self) {
        let pause = match (self.machine.awaits_word(), self.machine.fencing_failed()) {
            (true, _) => WORD,
            (false, true) => AGAIN,
            (false, false) => {
                self.fences.now = None;
                return;
            }
        };
        if self.fences.now.is_none() {
            self.fences.now = Some(Instant::now() + uneven(pause));
        }
    }

    pub(super) fn fence_deadline(&self) -> Option<Instant> {
        self.fences.now
    }

    /// Asks it again, if it is time.
    pub(super) fn fence_now(&mut self) -> Result<(), Broken> {
        if self.fences.now.is_some_and(|at| at <= Instant::now()) {
            self.fences.now = None;
            self.happen(Event::FenceNow)?;
        }
        Ok(())
    }

    /// What the status shows; `None` without `fencing`.
    pub(super) fn fencing_shown(&self) -> Option<document::Fencing> {
        let policy = self.settings.fencing;
        let nodes = self.machine.fencing().into_iter().map(|state| {
            let answered = self.fences.answered[state.node.slot()].clone();
            document::FencedNode {
                name: self.names.node(state.node),
                state: match (state.waits, state.asked) {
                    (false, _) => "fenced",
                    (true, true) => "asked",
                    (true, false) => "unfenced",
                }
                .into(),
                answer: state.answer.map(|answer| answer.word().into()),
                time_ms: answered.as_ref().map(|(at, _)| *at),
                failure: answered.and_then(|(_, why)| why),
            }
        });
        (policy != Fencing::DontCare).then(|| document::Fencing {
            policy: policy.as_str().into(),
            requests: match self.machine.is_frozen() {
                true => "suspended",
                false => "served",
            }
            .into(),
            nodes: nodes.collect(),
        })
    }
}

/// How long a node that can be reached has to say that it knows that the source goes on without it.
const WORD: Duration = Duration::from_secs(5);
/// Pause before a program that has failed is called again.
const AGAIN: Duration = Duration::from_secs(20);
