//! One mirror on one node: events in, actions out.
//!
//! [`Machine::handle`] takes an [`Event`] and returns [`Action`]s, which whoever drives the machine performs in their
//! order. What becomes durable comes first (flag files, then the memory), then what it describes, then the news to the
//! peers. Nothing is remembered of how a state was reached: each time, [`Standing`] says of each target what it is and
//! what it waits for, and what is ready is begun; the status words and the explanation come from the same place.
//!
//! - `service`: going into service and out of it, and what forbids it.
//! - `fencing`: who has to know that a source goes on without it.
//! - `hear`: what other nodes tell, and whose writes the own leg takes.
//! - `targets`: the legs of a source, and the previous source whose bitmap comes first.
//! - `operator`: what administrators order.
//! - `outdate`: this node's data marked as outdated on somebody else's word.
//! - `quorum`: whether enough nodes are there, and their votes.
//!
//! [`crate::node`] drives it; so do the scenarios and the simulation in the tests.

mod fencing;
mod hear;
mod operator;
mod outdate;
mod quorum;
mod service;
mod targets;

use super::action::{Action, Flag, Hold, Note};
use super::decision::{Decision, Outcome, Rules, compare};
use super::event::{Boot, Event};
use super::fencing::Fencing;
use super::generation::{Generation, Generations, SLOTS};
use super::node::{NodeId, NodeSet};
use super::policy::Judgement;
use super::record::{Memory, Record};
use super::vote::{Quorum, Vote};
use fencing::Fence;
pub use fencing::FenceState;
use quorum::Seeking;
pub use quorum::{QuorumState, Shortage};
pub use targets::Standing;

/// The rule by which everything is copied although something was known of what differs.
pub const ORDERED: &str = "ordered, or the previous source was not waited for";

/// How a mirror is to behave; from its configuration and `/etc/default/LifeKeeper`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node.
    pub own: NodeId,
    /// How writes are acknowledged, and what becomes of a split brain.
    pub rules: Rules,
    /// `LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT`
    pub wait: Wait,
    /// `LKDR_CONNECT_NBD_DURING_RESTORE`: if not, targets are connected at the first quickCheck.
    pub connect_during_restore: bool,
    /// `LKDR_NO_FULL_SYNC`: what a newly added target holds is believed to be equal.
    pub no_full_sync: bool,
    /// `LKDR_WAIT_TO_RESYNC` names a parent: no resync before it is in service.
    pub wait_to_resync: bool,
    /// There is a write-intent bitmap. Without it every resync is a full one.
    pub bitmap: bool,
    /// How many nodes have to be there (`quorum`); `None`: nobody votes.
    pub quorum: Option<Quorum>,
    /// What is done about nodes that may not know that a source goes on without them (`fencing`).
    pub fencing: Fencing,
}

/// How long targets wait for the previous source's bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// 0: not at all.
    No,
    /// Seconds, 1 and more.
    Seconds(u32),
    /// -1, and the default.
    Forever,
}

impl Wait {
    /// From the number in `/etc/default/LifeKeeper`; `None` below -1.
    pub fn from_parameter(seconds: i64) -> Option<Wait> {
        match seconds {
            -1 => Some(Wait::Forever),
            0 => Some(Wait::No),
            1.. => Some(Wait::Seconds(u32::try_from(seconds).unwrap_or(u32::MAX))),
            _ => None,
        }
    }
}

/// Whether the mirror can be used on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// It can't.
    Out,
    /// The array is being started.
    Starting,
    /// It can.
    In,
    /// The array is being stopped.
    Stopping,
}

/// A peer's leg in this node's array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Leg {
    /// It is not in it.
    #[default]
    Out,
    /// It is being connected, merged and added.
    Adding,
    /// It is being resynced, so many percent.
    Resyncing(u8),
    /// It is equal.
    InSync,
}

/// What is known of a peer now.
#[derive(Clone, Debug, Default)]
struct Peer {
    /// What it last told; `None` when it can't be reached.
    record: Option<Record>,
    leg: Leg,
    /// Its leg failed; it is tried again at the next quickCheck.
    failed: bool,
}

/// One mirror on one node.
#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    memory: Memory,
    service: Service,
    peers: [Peer; SLOTS],
    /// The source whose writes the own leg takes.
    accepted: Option<NodeId>,
    /// Another source with newer data, while this node is in service.
    superseded: Option<NodeId>,
    /// The previous source, while its resync goes before that of the others.
    first: Option<NodeId>,
    own_leg_failed: bool,
    /// A quickCheck has come since the start, or need not be waited for.
    may_connect: bool,
    parents_up: bool,
    timer: bool,
    /// Conflicts with others that were told already.
    noted: [Option<Note>; SLOTS],
    /// What the policies say of them, as far as it was told.
    judged: [Option<Judgement>; SLOTS],
    /// See [`Record::changes`].
    changes: Option<u64>,
    /// Nodes that said that they go into service, and not yet what became of it.
    claims: NodeSet,
    /// The memory before a start that may still fail.
    before_start: Option<Box<Memory>>,
    /// It waits for votes before it goes into service.
    seeking: Option<Seeking>,
    /// The legs without which the array answers nothing, if that is known.
    guard: Option<NodeSet>,
    /// Those for which it may wait at most.
    guarded: NodeSet,
    /// What the array was told of the application's requests.
    hold: Option<Hold>,
    /// Why, if they wait or fail.
    shortage: Option<Shortage>,
    /// The peers had time to be met since the machine was begun.
    peers_had_time: bool,
    /// Who was fenced, or has to be.
    fence: Fence,
}

impl Machine {
    /// A mirror as it was left. [`Event::Boot`] has to come first.
    pub fn new(settings: Settings, memory: Memory) -> Machine {
        Machine {
            settings,
            memory,
            service: Service::Out,
            peers: Default::default(),
            accepted: None,
            superseded: None,
            first: None,
            own_leg_failed: false,
            may_connect: true,
            parents_up: false,
            timer: false,
            noted: Default::default(),
            judged: Default::default(),
            changes: None,
            claims: NodeSet::NONE,
            before_start: None,
            seeking: None,
            guard: None,
            guarded: NodeSet::NONE,
            hold: None,
            shortage: None,
            peers_had_time: false,
            fence: Fence::default(),
        }
    }

    /// Takes up what happened, and says what to do.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        let known = self.memory.clone();
        let told = self.record();
        let met = self.reachable();
        if let Event::Flags {
            last_owner,
            source,
            data_corrupt,
        } = event
        {
            self.flags_found(last_owner, source, data_corrupt, &mut out);
        }
        // What a hand has done need not be done again.
        let on_disk = self.flags();
        self.dispatch(event, &mut out);
        self.obey_policies(&mut out);
        self.note_conflicts(&mut out);
        self.advance(&mut out);
        self.accept(&mut out);
        let mut guards = self.keep_quorum(&mut out);
        guards.extend(self.keep_fencing(&mut out));
        // A crash in between leaves a flag too many rather than one too few.
        let (set, cleared): (Vec<Action>, Vec<Action>) = self
            .flag_changes(on_disk)
            .into_iter()
            .partition(|action| matches!(action, Action::SetFlag(_)));
        let mut first = guards;
        first.extend(set);
        if self.memory != known {
            first.push(Action::Persist);
        }
        first.extend(cleared);
        first.append(&mut out);
        let reachable = self.reachable();
        // Who has just appeared may have been told something older when the connection was made.
        let tell = match self.record() == told {
            true => reachable.minus(met),
            false => reachable,
        };
        if !tell.is_empty() {
            first.push(Action::Tell(tell));
        }
        first
    }

    /// What is to be durable.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether the mirror can be used here.
    pub fn service(&self) -> Service {
        self.service
    }

    /// What was configured.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A peer's leg in this node's array.
    pub fn leg(&self, node: NodeId) -> Leg {
        self.peers[node.slot()].leg
    }

    /// What a peer last told, while it can be reached.
    pub fn peer(&self, node: NodeId) -> Option<&Record> {
        self.peers[node.slot()].record.as_ref()
    }

    /// What this node tells the others.
    pub fn record(&self) -> Record {
        let memory = &self.memory;
        let running = matches!(self.service, Service::In | Service::Stopping);
        Record {
            node: self.settings.own,
            generations: memory.generations.clone(),
            consistent: memory.consistent,
            outdated: memory.outdated,
            fresh: memory.fresh,
            running,
            starting: self.service == Service::Starting,
            crashed: memory.was_source && self.service == Service::Out,
            members: self.members(),
            resyncing: self.with_leg(|leg| matches!(leg, Leg::Resyncing(_))),
            nodes: memory.nodes,
            in_sync: memory.in_sync,
            settled: match running || memory.was_source {
                true => NodeSet::NONE,
                false => memory.settled,
            },
            accepts: self.accepted,
            follows: self.follows(),
            agreement: memory.agreement,
            agreements: memory.agreements,
            discarded: memory.discarded,
            lost_quorum: memory.lost_quorum,
            changing: false,
            policies: self.settings.rules.policies.to_string(),
            changes: self.changes,
            source: memory.source,
            vote: match self.settings.quorum {
                Some(_) => memory.vote,
                None => Vote {
                    unvoted: memory.vote.unvoted,
                    ..Vote::default()
                },
            },
        }
    }

    /// Whether what was written here without a peer has to be counted: both were written without the other.
    pub fn counts_changes(&self) -> bool {
        let split = |node: &NodeId| {
            self.decision(*node).is_some_and(|decision| {
                matches!(decision.outcome, Outcome::SplitBrain(_)) || decision.row == "d"
            })
        };
        self.reachable().iter().any(|node| split(&node))
    }

    /// What was counted last.
    pub fn changes(&self) -> Option<u64> {
        self.changes
    }

    /// The nodes whose legs are in sync in this node's array, its own included; nobody while it is out of service.
    pub fn members(&self) -> NodeSet {
        match self.service {
            Service::Out | Service::Starting => NodeSet::NONE,
            Service::In | Service::Stopping => self
                .with_leg(|leg| leg == Leg::InSync)
                .with(self.settings.own),
        }
    }

    /// The source whose writes the own leg takes.
    pub fn accepts(&self) -> Option<NodeId> {
        self.accepted
    }

    /// Whether the own leg serves the application, or failed.
    pub fn has_own_leg(&self) -> bool {
        !self.own_leg_failed
    }

    /// Another source that took over, while this node is still in service.
    pub fn superseded(&self) -> Option<NodeId> {
        self.superseded
    }

    /// What this node and a peer that can be reached are to each other.
    pub fn decision(&self, node: NodeId) -> Option<Decision> {
        let peer = self.peer(node)?;
        Some(compare(&self.record(), peer, &self.settings.rules))
    }

    /// The nodes that can be reached.
    pub fn reachable(&self) -> NodeSet {
        NodeId::all()
            .filter(|node| self.peer(*node).is_some())
            .collect()
    }

    /// Those of so many nodes that can't be reached.
    pub fn unreachable(&self, nodes: usize) -> NodeSet {
        let all: NodeSet = NodeId::all().take(nodes).collect();
        all.minus(self.reachable()).without(self.own())
    }

    fn own(&self) -> NodeId {
        self.settings.own
    }

    /// Every node that could be but this one.
    fn others(&self) -> NodeSet {
        NodeId::all().filter(|node| *node != self.own()).collect()
    }

    /// Whoever was away while a generation was named, and still is, is older from then on. A leg that is being resynced
    /// may be complete, and say so, before this node has heard of it.
    fn minted(&mut self, named: &Generations) {
        let away = |node: &NodeId| {
            let both = [named, &self.memory.generations];
            both.iter()
                .all(|known| known.away[node.slot()] != Generation::NONE)
        };
        let out = self.with_leg(|leg| leg == Leg::Out).without(self.own());
        let older: NodeSet = out.iter().filter(away).collect();
        self.memory.in_sync = self.memory.in_sync.minus(older);
    }

    fn with_leg(&self, wanted: impl Fn(Leg) -> bool) -> NodeSet {
        NodeId::all()
            .filter(|node| wanted(self.leg(*node)))
            .collect()
    }

    fn dispatch(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Boot(boot) => self.boot(&boot, out),
            Event::OwnLeg {
                generations,
                consistent,
            } => {
                self.memory.generations = generations;
                self.memory.consistent = consistent;
                if !consistent {
                    // Whoever resyncs it will say when that has ended.
                    self.memory.fresh = false;
                }
            }
            Event::Flags { .. } => {}
            Event::Changes(changes) => self.changes = changes,
            Event::Restore => self.start(false, out),
            Event::Force => self.start(true, out),
            Event::Remove => self.stop(out),
            Event::QuickCheck => self.quick_check(out),
            Event::Parents { up } => self.parents_up = up,
            Event::Peer(record) => self.hear(*record, out),
            Event::PeerLost(node) => self.peers[node.slot()].record = None,
            Event::Assembled => self.assembled(out),
            Event::AssembleFailed => self.assemble_failed(out),
            Event::Stopped => self.stopped(out),
            Event::StopFailed => self.stop_failed(out),
            Event::Added(node) => self.added(node, out),
            Event::LegFailed(node) => self.leg_failed(node, out),
            Event::OwnLegFailed => self.own_leg_failed(out),
            Event::Progress(node, percent) => self.progress(node, percent, out),
            Event::ResyncEnded(node) => self.resync_ended(node, out),
            Event::Minted(generations) => self.minted(&generations),
            Event::VotesOver => self.votes_over(out),
            Event::WaitOver => self.wait_over(out),
            Event::Pause(targets) => self.pause(targets, out),
            Event::Resume(targets) => self.resume(targets, out),
            Event::FullResync(targets) => self.full_resync(targets, out),
            Event::Resolve { discard } => self.resolve(discard, out),
            Event::Extend(node) => self.extend(node, out),
            Event::Unextend(node) => self.unextend(node, out),
            Event::Outdate(asker) => self.outdate(asker, out),
            Event::Fenced(node, answer) => self.fenced(node, answer, out),
            Event::FenceNow => self.fence_now(),
            Event::ResumeIo => self.resume_io(out),
        }
    }

    fn boot(&mut self, boot: &Boot, out: &mut Vec<Action>) {
        *self = Machine::new(self.settings.clone(), self.memory.clone());
        if self.settings.quorum.is_none() && self.memory.vote != Vote::default() {
            // What was voted for says nothing of what is answered from now on.
            self.memory.vote = Vote {
                unvoted: true,
                ..Vote::default()
            };
        }
        // Nothing came of an attempt that ended with whoever made it.
        self.withdraw();
        match boot {
            Boot::Idle => self.memory.fresh = false,
            Boot::Serving { source } => {
                // It may have been left meanwhile; whoever writes to it will tell.
                self.memory.fresh = false;
                self.accepted = Some(*source);
            }
            Boot::Running { members, resyncing } => {
                self.service = Service::In;
                self.own_leg_failed = !members.contains(self.own());
                self.guarded = self.memory.vote.view.map_or(*members, |view| view.members);
                self.parents_up = true;
                for node in resyncing.without(self.own()).iter() {
                    self.peers[node.slot()].leg = Leg::Resyncing(0);
                }
                // The end of a resync may have come while nobody listened.
                for node in members.without(self.own()).iter() {
                    self.leg_is_in_sync(node);
                }
                self.begin_waiting(out);
            }
        }
    }

    // --- flag files ---------------------------------------------------------------------------------------------

    fn flags(&self) -> (bool, Option<NodeId>, bool) {
        let memory = &self.memory;
        (memory.last_owner, memory.source, memory.data_corrupt)
    }

    fn flags_found(
        &mut self,
        last_owner: bool,
        source: Option<NodeId>,
        data_corrupt: bool,
        out: &mut Vec<Action>,
    ) {
        let before = self.flags();
        self.memory.last_owner = last_owner;
        self.memory.source = source;
        self.memory.data_corrupt = data_corrupt;
        if before.2 && !data_corrupt {
            // Whoever removes it by hand says that this node's data is good, as `force` does.
            self.memory.fresh = true;
        }
        out.extend(
            self.flag_changes(before)
                .into_iter()
                .map(|change| match change {
                    Action::ClearFlag(flag) => Action::Note(Note::ClearedByHand(flag)),
                    Action::SetFlag(flag) => Action::Note(Note::SetByHand(flag)),
                    other => other,
                }),
        );
    }

    fn flag_changes(&self, before: (bool, Option<NodeId>, bool)) -> Vec<Action> {
        let switch = |flag, before, now| match (before, now) {
            (false, true) => Some(Action::SetFlag(flag)),
            (true, false) => Some(Action::ClearFlag(flag)),
            _ => None,
        };
        let source = match (before.1, self.memory.source) {
            (was, now) if was == now => None,
            (_, Some(now)) => Some(Action::SetFlag(Flag::Source(now))),
            (Some(was), None) => Some(Action::ClearFlag(Flag::Source(was))),
            (None, None) => None,
        };
        [
            switch(Flag::LastOwner, before.0, self.memory.last_owner),
            source,
            switch(Flag::DataCorrupt, before.2, self.memory.data_corrupt),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn out_of_turn(out: &mut Vec<Action>) {
    out.push(Action::Note(Note::OutOfTurn));
}
