//! One mirror on this node: a thread that hears what happens, asks the machine, and performs what it says.
//!
//! - `perform`: the machine's actions, in their order.
//! - `array`: what the array has to tell, compared with what the machine believes.
//! - `order`: what commands ask for.
//! - `fencing`: the programs that make sure that nobody goes on, or into service, who should not.
//! - `handlers`: the administrator's programs that are told of split brains.
//! - `resize`: another size for the mirror.
//! - `resyncs`: how fast resyncs are, and whose turn it is.
//! - `thread`: the thread itself, which begins anew when it has to.
//! - `questions`: what would become of a connection to each peer, and what is kept of the mirror.
//! - `truck`: legs that travel by road.
//! - `show`: what people and scripts are shown.
//!
//! The thread is the only one that touches the mirror's files and processes. What others see of it (status, record) is
//! published when everything that it describes has been done.

mod array;
mod boot;
mod fencing;
mod handlers;
mod order;
mod perform;
mod questions;
mod resize;
mod resyncs;
mod show;
mod thread;
mod truck;
mod verify;

use array::Bell;
pub(in crate::node) use array::STACK;
pub use fencing::Fenced;
use fencing::Fences;
use handlers::Calls;
use resyncs::Resyncs;
use thread::Ended;
pub use thread::run;
use truck::Trucks;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::links::uneven;
use super::local::{Local, OwnLeg};
use super::memory::{Store, StoreError};
use super::shared::{Envelope, Shared, Told};
use crate::api::document::{Answer, Decided, Order};
use crate::array::resize::LegRoom;
use crate::array::{ArrayError, Backend};
use crate::mirror::event::Event;
use crate::mirror::generation::{Generation, SLOTS};
use crate::mirror::machine::{Leg, Machine, Service, Settings, Standing};
use crate::mirror::node::{Names, NodeId, NodeSet};
use crate::mirror::record::Memory;

/// What the thread hears.
#[derive(Debug)]
pub enum Input {
    /// Somebody orders something, and waits for the answer.
    Order {
        /// What.
        order: Order,
        /// Only tell what would be done.
        dry_run: bool,
        /// Where the answer goes. Nobody may be waiting for it any more.
        answer: oneshot::Sender<Answer>,
    },
    /// A peer's daemon was reached, or told something new.
    Peer(Box<Told>),
    /// It can't be reached any more, since the meeting of that number.
    PeerLost(NodeId, u64),
    /// A peer asks how it is now.
    Ask(oneshot::Sender<Envelope>),
    /// `fence-peer` has ended.
    Fenced(Fenced),
    /// Something happened to the array.
    ArrayChanged,
    /// The configuration has changed: begin anew with it. What runs goes on. Dropped when that is done.
    Anew(SyncSender<()>),
    /// The daemon ends; what runs goes on.
    End,
}

/// Makes a way to run arrays; each thread has its own.
pub type MakeBackend = Arc<dyn Fn() -> Box<dyn Backend> + Send + Sync>;

/// What a driver is made of.
pub struct Parts {
    /// What was configured.
    pub settings: Settings,
    /// For sentences.
    pub names: Names,
    /// What people are shown of the configuration.
    pub about: show::About,
    /// The disk and the processes.
    pub plan: super::local::Plan,
    /// The files.
    pub store: Store,
    /// The backend.
    pub backend: MakeBackend,
    /// What all mirrors of this node have in common.
    pub shared: Arc<Shared>,
}

pub use show::About;

/// The thread's state.
pub struct Driver {
    settings: Settings,
    names: Names,
    about: About,
    shared: Arc<Shared>,
    store: Store,
    backend: MakeBackend,
    local: Local,
    machine: Machine,
    own_leg: OwnLeg,
    /// Events that the performing of actions led to.
    follow: VecDeque<Event>,
    /// An order is being carried out, and somebody waits for its answer.
    ordered: bool,
    /// When the time for the previous source is over.
    wait_over: Option<Instant>,
    /// When legs that failed are tried again, and how long after that.
    retry: Option<Instant>,
    pause: Duration,
    /// The secret that lets this node into a peer's export.
    tickets: [Option<String>; SLOTS],
    /// The newest that was heard of each peer.
    heard: [Option<(u64, u64)>; SLOTS],
    /// What the peers' disks could hold, as they told last.
    rooms: [Option<LegRoom>; SLOTS],
    decided: [Option<Decided>; SLOTS],
    failures: [Option<String>; SLOTS],
    /// Targets that the mirror was pulled ahead of, when the array was looked at last.
    left_behind: NodeSet,
    /// Legs that travel.
    trucks: Trucks,
    /// Targets whose disk may be overwritten, as their `extend` said.
    overwrite: NodeSet,
    /// Nobody said that the parent resource is out of service.
    parents_up: bool,
    /// What could not be done, and is tried again: shown until it works.
    problems: Problems,
    /// This node asks the others whether it may go into service.
    claims: bool,
    /// The answer to the order that is being carried out.
    reply: Option<Answer>,
    /// Looks since the last time that an array was sought which nobody ordered.
    looks: u32,
    /// Ends the thread that listens to the array.
    listening: Option<Arc<AtomicBool>>,
    /// Rung when something happens to the array.
    bell: Bell,
    /// Programs that were called.
    calls: Calls,
    /// What was done about resyncs.
    resyncs: Resyncs,
    /// When the peers have had time to be met again.
    votes_over: Option<Instant>,
    /// Who is being fenced.
    fences: Fences,
}

/// What is wrong, by what it is about.
#[derive(Debug, Default)]
struct Problems {
    flags: Option<String>,
    own_leg: Option<String>,
    array: Option<String>,
}

/// Something that keeps the driver from going on; it begins anew, as after a restart of the daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Array(#[from] ArrayError),
    #[error("an array runs that was not ordered")]
    NotOrdered,
}

impl Driver {
    fn begin(parts: Parts, inputs: SyncSender<Input>) -> Result<Driver, Broken> {
        let Parts {
            settings,
            names,
            about,
            plan,
            mut store,
            backend,
            shared,
        } = parts;
        let local = Local::open(plan, backend())?;
        let memory = match store.load()? {
            Some(memory) => memory,
            None => boot::unremembered(&local, &names),
        };
        let machine = Machine::new(settings.clone(), memory);
        let mut driver = Driver {
            settings,
            names,
            about,
            shared,
            store,
            backend,
            local,
            machine,
            own_leg: OwnLeg::default(),
            follow: VecDeque::new(),
            ordered: false,
            wait_over: None,
            retry: None,
            pause: RETRY,
            tickets: Default::default(),
            heard: Default::default(),
            rooms: Default::default(),
            decided: Default::default(),
            failures: Default::default(),
            left_behind: NodeSet::NONE,
            trucks: Trucks::default(),
            overwrite: NodeSet::NONE,
            parents_up: true,
            problems: Problems::default(),
            claims: false,
            reply: None,
            looks: 0,
            listening: None,
            bell: Bell::new(inputs),
            calls: Calls::default(),
            resyncs: Resyncs::default(),
            votes_over: Some(Instant::now() + MEETING),
            fences: Fences::default(),
        };
        driver.find_trucks();
        driver.boot()?;
        Ok(driver)
    }

    /// Hears until the daemon ends, or the configuration has changed.
    fn listen(&mut self, heard: &Receiver<Input>) -> Result<Ended, Broken> {
        let mut look = Instant::now() + LOOK;
        loop {
            let now = Instant::now();
            let fences = self.fence_deadline();
            let deadlines = [
                self.wait_over,
                self.retry,
                self.votes_over,
                fences,
                Some(look),
            ];
            let next = deadlines.into_iter().flatten().min().unwrap_or(look);
            match heard.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Input::End) | Err(RecvTimeoutError::Disconnected) => {
                    self.stop_listening();
                    return Ok(Ended::Stopped);
                }
                Ok(Input::Anew(done)) => {
                    self.stop_listening();
                    return Ok(Ended::Changed(done));
                }
                Ok(input) => self.hear(input)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if self.wait_over.is_some_and(|at| at <= now) {
                self.wait_over = None;
                self.happen(Event::WaitOver)?;
            }
            if self.votes_over.is_some_and(|at| at <= now) {
                self.votes_over = None;
                self.happen(Event::VotesOver)?;
            }
            if self.retry.is_some_and(|at| at <= now) {
                self.retry = None;
                self.happen(Event::QuickCheck)?;
            }
            self.fence_now()?;
            if look <= now {
                look = now + LOOK;
                self.look_around()?;
            }
            self.plan_retry();
            self.plan_fencing();
            self.answer_start();
            self.publish();
        }
    }

    fn hear(&mut self, input: Input) -> Result<(), Broken> {
        match input {
            Input::Order {
                order,
                dry_run,
                answer,
            } => return self.order(&order, dry_run, answer),
            Input::Peer(told) => return self.hear_peer(*told),
            Input::PeerLost(node, epoch) => {
                // It may have been met again before this was read.
                let newer = self.heard[node.slot()].is_some_and(|(heard, _)| heard > epoch);
                if self.machine.peer(node).is_some() && !newer {
                    self.shared.tell(
                        Some(&self.names.tag),
                        "peer-lost",
                        format!("{} can't be reached", self.names.node(node)),
                    );
                    self.happen(Event::PeerLost(node))?;
                }
            }
            Input::Ask(answer) => {
                self.look_at_own_leg()?;
                self.publish();
                if let Some(envelope) = self.shared.envelope(&self.names.tag) {
                    let _ = answer.send(envelope);
                }
            }
            Input::ArrayChanged => {
                self.bell.heard();
                self.look_at_array()?;
            }
            Input::Fenced(fenced) => self.fence_ended(fenced)?,
            Input::End | Input::Anew(_) => {}
        }
        Ok(())
    }

    fn hear_peer(&mut self, told: Told) -> Result<(), Broken> {
        let node = told.record.node;
        if node == self.settings.own || node.slot() >= self.names.nodes.len() {
            return Ok(());
        }
        // An answer to a question can overtake what was told before it. The same may be told again, to whoever has counted
        // the node as lost meanwhile.
        let told_at = Some((told.epoch, told.sequence));
        let known = self.machine.peer(node).is_some();
        if told_at < self.heard[node.slot()] || (known && told_at == self.heard[node.slot()]) {
            return Ok(());
        }
        self.heard[node.slot()] = told_at;
        if told.nodes != self.names.nodes {
            let name = self.names.node(node);
            let why = format!(
                "{name} has other nodes in its configuration ({}), so it is not heard: make the files equal",
                told.nodes.join(", ")
            );
            if self.failures[node.slot()].as_deref() != Some(&why) {
                self.shared
                    .tell(Some(&self.names.tag), "other-configuration", why.clone());
            }
            self.failures[node.slot()] = Some(why);
            return self.happen(Event::PeerLost(node));
        }
        if self.machine.peer(node).is_none() {
            self.shared.tell(
                Some(&self.names.tag),
                "peer-met",
                format!("{} can be reached", self.names.node(node)),
            );
        }
        self.tickets[node.slot()] = told.ticket;
        self.rooms[node.slot()] = told.room;
        self.happen(Event::Peer(Box::new(told.record)))
    }

    /// What is not told by anybody: flags changed by hand, an array or an export whose process died.
    fn look_around(&mut self) -> Result<(), Broken> {
        self.look_at_flags()?;
        for node in self.machine.reachable().iter() {
            if !self.shared.tells(&self.names.node(node), &self.names.tag) {
                self.happen(Event::PeerLost(node))?;
            }
        }
        if let Some(why) = self.local.look_after_export()? {
            self.tell("export-restarted", why.into());
        }
        self.count_changes(true)?;
        self.look_at_turns()?;
        if self.machine.service() == Service::In {
            self.look_at_own_leg()?;
            return self.look_at_array();
        }
        self.looks += 1;
        if !self.looks.is_multiple_of(SELDOM_LOOKS) {
            return Ok(());
        }
        self.look_at_room();
        if self.local.finds_array()? {
            // It was slow to begin, and whoever began it is gone. It is taken up as after a restart of the daemon.
            return Err(Broken::NotOrdered);
        }
        Ok(())
    }

    /// Something happened: what it depends on is read first, then the machine is asked and obeyed, and so on for all that
    /// follows from it.
    pub(super) fn happen(&mut self, event: Event) -> Result<(), Broken> {
        self.follow.push_back(event);
        while let Some(event) = self.follow.pop_front() {
            if !matches!(event, Event::Boot(_)) {
                self.look_at_flags()?;
            }
            if reads_own_leg(&event) {
                self.look_at_own_leg()?;
            }
            let actions = self.machine.handle(event);
            self.perform(actions)?;
            self.count_changes(false)?;
        }
        Ok(())
    }

    fn look_at_flags(&mut self) -> Result<(), Broken> {
        let (last_owner, source, data_corrupt) = match self.store.flags() {
            Ok(found) => found,
            Err(error) => {
                // What was known before counts until somebody mends it.
                self.problems.flags = Some(error.to_string());
                return Ok(());
            }
        };
        self.problems.flags = None;
        let memory = self.machine.memory();
        if (memory.last_owner, memory.source, memory.data_corrupt)
            != (last_owner, source, data_corrupt)
        {
            let actions = self.machine.handle(Event::Flags {
                last_owner,
                source,
                data_corrupt,
            });
            self.perform(actions)?;
        }
        Ok(())
    }

    /// What the own leg says now; a leg that can't be read says what it said before.
    pub(super) fn look_at_own_leg(&mut self) -> Result<(), Broken> {
        match self.local.own_leg() {
            Ok(found) => {
                self.own_leg = found;
                self.problems.own_leg = None;
            }
            Err(error) => {
                self.problems.own_leg = Some(error.to_string());
                return Ok(());
            }
        }
        let memory = self.machine.memory();
        let known = (&memory.generations, memory.consistent);
        if known != (&self.own_leg.generations, self.own_leg.consistent) {
            let actions = self.machine.handle(Event::OwnLeg {
                generations: self.own_leg.generations.clone(),
                consistent: self.own_leg.consistent,
            });
            self.perform(actions)?;
        }
        self.tell_minted()
    }

    /// Tells the machine of a generation that the array has named without a leg, once it knows that the leg is out: who
    /// was away then is older, and need not be asked after a crash.
    fn tell_minted(&mut self) -> Result<(), Broken> {
        let older = |node: &NodeId| {
            self.machine.leg(*node) == Leg::Out
                && self.memory().in_sync.contains(*node)
                && self.own_leg.generations.away[node.slot()] != Generation::NONE
        };
        let own = self.settings.own;
        let some = NodeId::all()
            .filter(|node| *node != own)
            .any(|node| older(&node));
        if self.machine.service() == Service::In && some {
            let named = Event::Minted(self.own_leg.generations.clone());
            let actions = self.machine.handle(named);
            self.perform(actions)?;
        }
        Ok(())
    }

    /// Legs that failed are tried again, less and less often.
    fn plan_retry(&mut self) {
        let standing = |wanted: Standing| {
            // Who was pulled ahead of is not taken back before it was let go.
            let mut nodes = NodeId::all().filter(|node| !self.left_behind.contains(*node));
            nodes.any(|node| self.machine.standing(node) == wanted)
        };
        let failed = standing(Standing::Failed) && !standing(Standing::WaitsForQuickCheck);
        match (failed, self.retry) {
            (true, None) => {
                self.retry = Some(Instant::now() + uneven(self.pause));
                self.pause = (self.pause * 2).min(SELDOM);
            }
            (false, _) => {
                self.retry = None;
                if self.machine.service() != Service::In
                    || self.machine.members().len() == self.machine.memory().nodes.len()
                {
                    self.pause = RETRY;
                }
            }
            (true, Some(_)) => {}
        }
    }

    /// Everything that this node remembers of the mirror.
    pub(super) fn memory(&self) -> &Memory {
        self.machine.memory()
    }
}

/// Whether the event is judged by what the own leg says now.
fn reads_own_leg(event: &Event) -> bool {
    matches!(
        event,
        Event::Boot(_)
            | Event::Restore
            | Event::Force
            | Event::Resolve { .. }
            | Event::Outdate(_)
            | Event::Fenced(..)
            | Event::Peer(_)
            | Event::PeerLost(_)
            | Event::Assembled
            | Event::Stopped
            | Event::ResyncEnded(_)
    )
}

/// How often is looked for what nobody tells.
const LOOK: Duration = Duration::from_secs(1);
/// Every how many looks an array is sought that nobody ordered, and whether the disk has grown is looked at.
const SELDOM_LOOKS: u32 = 5;
/// Peers that are not met so long after the beginning are counted as not there.
const MEETING: Duration = Duration::from_secs(5);
/// First pause before a leg that failed is tried again; doubled each time.
const RETRY: Duration = Duration::from_secs(2);
/// The longest; made uneven it is still less than the 30 s within which all is to be well again after a cut.
const SELDOM: Duration = Duration::from_secs(20);
