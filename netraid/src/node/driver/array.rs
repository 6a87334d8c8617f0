//! What the array has to tell. Its state is read, and compared with what the machine believes: so nothing old is taken for
//! news, whatever became of the messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use super::{Broken, Driver, Input};
use crate::api::document::Answer;
use crate::mirror::event::{Boot, Event};
use crate::mirror::machine::{Leg, Service};
use crate::mirror::node::{NodeId, NodeSet};
use crate::node::local::LegState;

/// Has the array looked at soon; however often it is rung meanwhile, that is one look.
#[derive(Clone)]
pub(super) struct Bell {
    inputs: SyncSender<Input>,
    rung: Arc<AtomicBool>,
}

impl Bell {
    pub(super) fn new(inputs: SyncSender<Input>) -> Bell {
        let rung = Arc::default();
        Bell { inputs, rung }
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && self.inputs.try_send(Input::ArrayChanged).is_err()
        {
            self.rung.store(false, Ordering::Release);
        }
    }

    /// What the mirror's thread hears.
    pub(super) fn inputs(&self) -> SyncSender<Input> {
        self.inputs.clone()
    }

    /// From here on another ring is another look.
    pub(super) fn heard(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

impl Driver {
    /// Reads the array's state and tells the machine what is new.
    pub(super) fn look_at_array(&mut self) -> Result<(), Broken> {
        if self.machine.service() != Service::In {
            self.left_behind = NodeSet::NONE;
            return Ok(());
        }
        let view = match self.local.view() {
            Ok(Some(view)) => {
                self.problems.array = None;
                view
            }
            Ok(None) => return self.array_died(),
            Err(error) => {
                self.problems.array = Some(error.to_string());
                return Ok(());
            }
        };
        self.note_left_behind(view.left_behind);
        if view.own_leg_failed && self.machine.has_own_leg() {
            self.tell("own-leg-failed", "this node's own leg failed".into());
            self.happen(Event::OwnLegFailed)?;
            self.call_local_io_error();
        }
        let own = self.settings.own;
        for node in NodeId::all().filter(|node| *node != own) {
            let (state, why) = view.leg(node);
            match (self.machine.leg(node), state) {
                (Leg::Resyncing(_), LegState::InSync) => {
                    self.tell("in-sync", format!("{} is in sync", self.names.node(node)));
                    self.happen(Event::ResyncEnded(node))?;
                    self.truck_arrived(node);
                }
                (Leg::Resyncing(known), LegState::Resyncing(percent)) if known != percent => {
                    self.happen(Event::Progress(node, percent))?;
                }
                (Leg::InSync | Leg::Resyncing(_), LegState::Out) => {
                    let why = why.unwrap_or("the array has given it up").to_owned();
                    self.leg_failed(node, &why);
                    self.drain()?;
                    // What is written without it may have a name of its own by now.
                    self.look_at_own_leg()?;
                }
                // Nobody ordered that: the machine has it dropped.
                (Leg::Out, LegState::InSync | LegState::Resyncing(_)) => {
                    self.happen(Event::Progress(node, 0))?;
                }
                (Leg::InSync, LegState::Resyncing(_)) => {
                    let why = "it is being resynced though it was in sync";
                    self.leg_failed(node, &why);
                    self.drain()?;
                }
                _ => continue,
            }
            // What that led to may have changed other legs: what was read of them is old now.
            self.bell.ring();
            return Ok(());
        }
        Ok(())
    }

    /// Tells of targets that the mirror was pulled ahead of, and of those that are to catch up.
    fn note_left_behind(&mut self, now: NodeSet) {
        let before = std::mem::replace(&mut self.left_behind, now);
        for node in NodeId::all() {
            let name = self.names.node(node);
            match (before.contains(node), now.contains(node)) {
                (false, true) => {
                    let what = format!(
                        "the mirror pulls ahead of {name}, which gets what is on its way and is of one moment then"
                    );
                    self.tell("ahead", what);
                }
                (true, false) => {
                    self.tell("behind", format!("{name} is to get what it missed"));
                    self.pause = super::RETRY;
                    self.retry = None;
                }
                _ => {}
            }
        }
    }

    /// Handles what waits.
    fn drain(&mut self) -> Result<(), Broken> {
        match self.follow.pop_front() {
            Some(event) => self.happen(event),
            None => Ok(()),
        }
    }

    /// The array's process died while the mirror was in service. The application hangs or gets errors, so it is put in
    /// service again at once, if it may: as after a crash of this node, the peers are asked first.
    fn array_died(&mut self) -> Result<(), Broken> {
        // Nobody is to be shown the way into what is gone.
        self.show();
        self.tell("array-died", "the array's process has ended".into());
        self.stop_listening();
        self.happen(Event::Boot(Boot::Idle))?;
        self.heard = Default::default();
        if self.claim()? {
            self.happen(Event::Restore)?;
            self.gather_votes()?;
            self.tell_parents()?;
        }
        self.claims = false;
        Ok(())
    }

    /// Begins to listen, in a thread of its own that does nothing but say that there is something to hear.
    pub(super) fn listen_to_array(&mut self) {
        self.stop_listening();
        let over = Arc::new(AtomicBool::new(false));
        self.listening = Some(Arc::clone(&over));
        let (make, tag) = (Arc::clone(&self.backend), self.names.tag.clone());
        let bell = self.bell.clone();
        let listen = move || {
            let backend = make();
            let array = backend.find(&tag).ok().flatten();
            let watch = array.and_then(|array| array.watch().ok());
            let Some(mut watch) = watch else {
                return bell.ring();
            };
            while !over.load(Ordering::Relaxed) {
                match watch.next(PATIENCE) {
                    Ok(events) if events.is_empty() => {}
                    Ok(_) => bell.ring(),
                    // It ended; whether it should have, the driver knows.
                    Err(_) => return bell.ring(),
                }
            }
        };
        let begun = thread::Builder::new()
            .name(format!("watch-{}", self.names.tag))
            .stack_size(STACK)
            .spawn(listen);
        if begun.is_err() {
            // It is looked at each second all the same.
            self.tell("no-thread", "the array can't be listened to".into());
        }
    }

    pub(super) fn stop_listening(&mut self) {
        if let Some(over) = self.listening.take() {
            over.store(true, Ordering::Relaxed);
        }
    }

    /// An order that can't be meant.
    pub(super) fn usage(&mut self, why: impl std::fmt::Display) {
        self.answer(Answer::not(
            crate::api::document::Outcome::Usage,
            why,
            Some(format!("netraid status {}", self.names.tag)),
        ));
    }
}

/// How long the listener waits before it looks whether it is still wanted.
const PATIENCE: Duration = Duration::from_secs(1);
/// Stack of threads that do little.
pub(in crate::node) const STACK: usize = 512 * 1024;
