//! A cluster of the real state machines over simulated disks, links and power.
//!
//! Events of a node and news between nodes are queued; whoever tests decides when each arrives. Power can be lost between
//! any two actions, and at any moment of a write.

use std::collections::{BTreeMap, VecDeque};

use netraid::mirror::action::{Action, Note};
use netraid::mirror::event::{Boot, Event};
use netraid::mirror::fencing::FenceAnswer;
use netraid::mirror::generation::{Generation, SLOTS};
use netraid::mirror::machine::{Machine, Service, Settings};
use netraid::mirror::node::{Names, NodeId, NodeSet};
use netraid::mirror::record::{Memory, Record};
use netraid::mirror::refusal::Refusal;

use crate::disk::{Disk, Writes};
use crate::oracle::Oracle;

/// What travels from one node to another.
#[derive(Clone, Debug)]
pub enum News {
    /// What a node says of itself; what its leg held when it said so, and whether the other's was equal to it.
    Record(Box<Record>, Writes, bool),
    /// The connection is gone.
    Lost,
}

/// A running array; the node whose it is has its own leg in it.
#[derive(Clone, Debug, Default)]
pub struct Array {
    /// Legs in sync, the own one included.
    pub in_sync: NodeSet,
    /// Legs being resynced, with the bits that are left.
    pub resyncing: BTreeMap<NodeId, u8>,
    /// A leg has left since the generation was named.
    pub needs_name: bool,
    /// Nothing is answered that one of these has not.
    pub guard: NodeSet,
    /// Nothing is answered at all.
    pub held: bool,
    /// Counts the starts of arrays.
    pub started: u64,
}

pub struct Node {
    pub machine: Option<Machine>,
    pub memory: Memory,
    /// The flag files: last owner, source, data corrupt.
    pub flags: (bool, Option<NodeId>, bool),
    pub disk: Disk,
    pub array: Option<Array>,
    /// Who was in sync when the array was stopped.
    pub stopped_with: NodeSet,
    /// What its nbd-server lets write.
    pub accepts: Option<NodeId>,
    pub timer: Option<u32>,
    pub events: VecDeque<Event>,
    /// What has not been performed yet.
    pub actions: VecDeque<Action>,
    /// Its leg could not be connected: the steps that follow are left out.
    pub skip: Option<NodeId>,
    /// The last answer to whoever asked.
    pub answer: Option<Result<(), Refusal>>,
    /// What was done since somebody looked, for scenarios.
    pub log: Vec<String>,
    /// The start that is under way was forced.
    pub forced: bool,
    /// The same of one that waits for votes.
    pub forces: bool,
    /// The next start or stop of the array fails.
    pub fails: bool,
    /// Calls of `fence-peer` that have not come to anything yet.
    pub fences: VecDeque<NodeId>,
}

pub struct Cluster {
    pub settings: Vec<Settings>,
    pub names: Names,
    pub nodes: Vec<Node>,
    pub links: [[bool; SLOTS]; SLOTS],
    pub wire: BTreeMap<(NodeId, NodeId), VecDeque<News>>,
    pub oracle: Oracle,
    pub trace: bool,
    /// Keep what each node does, for scenarios.
    pub logs: bool,
    next_generation: u64,
    next_write: u32,
}

pub fn id(slot: usize) -> NodeId {
    NodeId::new(slot as u8).unwrap()
}

impl Cluster {
    /// `count` machines without power, with blank disks but the first one's, which was just created there.
    pub fn new(count: usize, settings: impl Fn(NodeId) -> Settings, trace: bool) -> Cluster {
        let names = (1..=count).map(|number| format!("server{number}"));
        let mut cluster = Cluster {
            settings: (0..count).map(|slot| settings(id(slot))).collect(),
            names: Names {
                tag: "data".into(),
                nodes: names.collect(),
            },
            nodes: (0..count).map(|_| Node::new()).collect(),
            links: [[true; SLOTS]; SLOTS],
            wire: BTreeMap::new(),
            oracle: Oracle::new(count),
            trace,
            logs: false,
            next_generation: 100,
            next_write: 1,
        };
        let first = &mut cluster.nodes[0];
        first.disk.generations.current = Generation(1);
        first.disk.consistent = true;
        // It held something before it became a mirror, of which no bit knows.
        first.disk.blocks = [1; crate::disk::BLOCKS];
        first.memory.nodes = NodeSet::of(id(0));
        cluster
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(id)
    }

    /// Those that are no tie-breakers.
    pub fn with_disk(&self) -> impl Iterator<Item = NodeId> + use<> {
        let quorum = self.settings[0].quorum;
        let without = quorum.map_or(NodeSet::NONE, |quorum| quorum.tie_breakers);
        self.ids().filter(move |node| !without.contains(*node))
    }

    pub fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.slot()]
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes[node.slot()].machine.is_some()
    }

    pub fn machine(&self, node: NodeId) -> &Machine {
        self.nodes[node.slot()].machine.as_ref().unwrap()
    }

    /// Whether one can talk to the other.
    pub fn connected(&self, one: NodeId, other: NodeId) -> bool {
        self.is_up(one) && self.is_up(other) && self.links[one.slot()][other.slot()]
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{}", text());
        }
    }

    // --- power and links ----------------------------------------------------------------------------------------

    pub fn power_on(&mut self, node: NodeId) {
        if self.is_up(node) {
            return;
        }
        self.say(|| format!("-- power on {node:?}"));
        let settings = self.settings[node.slot()].clone();
        let state = self.node(node);
        let machine = Machine::new(settings, state.memory.clone());
        state.machine = Some(machine);
        state.events.push_back(Event::Boot(Boot::Idle));
        let (last_owner, source, data_corrupt) = state.flags;
        state.events.push_back(Event::Flags {
            last_owner,
            source,
            data_corrupt,
        });
        // Nothing is told before the boot was taken up.
        while let Some(event) = self.node(node).events.pop_front() {
            self.handle(node, event);
        }
        self.read_own_leg(node);
        for other in self.ids() {
            if self.connected(node, other) {
                self.meet(node, other);
            }
        }
    }

    pub fn power_off(&mut self, node: NodeId) {
        if !self.is_up(node) {
            return;
        }
        self.say(|| format!("-- power off {node:?}"));
        for other in self.ids() {
            if other != node && self.connected(node, other) {
                self.part(node, other);
            }
        }
        let state = self.node(node);
        state.machine = None;
        state.array = None;
        state.stopped_with = NodeSet::NONE;
        state.accepts = None;
        state.timer = None;
        state.skip = None;
        state.events.clear();
        state.actions.clear();
        state.fences.clear();
        self.wire.retain(|(_, to), _| *to != node);
        self.oracle.restarted(node);
    }

    /// A node without power loses what it kept of the mirror, and its disk if that is what broke. What only that disk had is
    /// lost, whatever anybody does.
    pub fn lose_record(&mut self, node: NodeId, disk: bool) {
        self.say(|| {
            format!(
                "-- {node:?} loses its record{}",
                if disk { " and its disk" } else { "" }
            )
        });
        // Its server's sessions ended with its power; whoever wrote to it does not find them again.
        for source in self.ids() {
            if self.nodes[source.slot()].array.is_some() && self.broken_legs(source).contains(node)
            {
                self.expel(source, node);
            }
        }
        self.oracle.forgot(node);
        let nodes = self.nodes[node.slot()].memory.nodes;
        // What is told without a memory is never taken for what was agreed before.
        let agreement = self.new_write() << 8;
        let state = self.node(node);
        state.memory = Memory {
            nodes,
            agreement,
            ..Memory::default()
        };
        state.flags = (false, None, false);
        if disk {
            let holds = std::mem::take(&mut state.disk).holds;
            let others = self.ids().filter(|other| *other != node);
            let kept: Vec<_> = others
                .map(|other| &self.nodes[other.slot()].disk.holds)
                .collect();
            let mut gone = holds;
            for kept in &kept {
                gone.remove(kept);
            }
            self.oracle.give_up_own(gone);
        }
    }

    /// The driver is killed and started again; what it drives goes on.
    pub fn restart_driver(&mut self, node: NodeId) {
        if !self.is_up(node) {
            return;
        }
        self.say(|| format!("-- driver of {node:?} restarts"));
        for other in self.ids() {
            if other != node && self.connected(node, other) {
                self.part(node, other);
                self.wire.remove(&(other, node));
            }
        }
        let settings = self.settings[node.slot()].clone();
        let state = self.node(node);
        let boot = match (&state.array, state.accepts) {
            (Some(array), _) => Boot::Running {
                members: array.in_sync,
                resyncing: array.resyncing.keys().copied().collect(),
            },
            (None, Some(source)) => Boot::Serving { source },
            (None, None) => Boot::Idle,
        };
        state.machine = Some(Machine::new(settings, state.memory.clone()));
        state.events.clear();
        state.actions.clear();
        (state.timer, state.skip) = (None, None);
        state.fences.clear();
        let (last_owner, source, data_corrupt) = state.flags;
        self.handle(
            node,
            Event::Flags {
                last_owner,
                source,
                data_corrupt,
            },
        );
        self.handle(node, Event::Boot(boot));
        self.read_own_leg(node);
        self.oracle.told_nothing(node);
        for other in self.ids() {
            if self.connected(node, other) {
                self.meet(node, other);
            }
        }
    }

    pub fn set_link(&mut self, one: NodeId, other: NodeId, up: bool) {
        if one == other || self.links[one.slot()][other.slot()] == up {
            return;
        }
        self.say(|| format!("-- link {one:?} {other:?} {up}"));
        if !up && self.connected(one, other) {
            self.part(one, other);
        }
        self.links[one.slot()][other.slot()] = up;
        self.links[other.slot()][one.slot()] = up;
        if up && self.connected(one, other) {
            self.meet(one, other);
        }
    }

    fn meet(&mut self, one: NodeId, other: NodeId) {
        if one != other {
            self.send(one, other);
            self.send(other, one);
        }
    }

    /// What was on its way is lost, and both notice.
    fn part(&mut self, one: NodeId, other: NodeId) {
        for pair in [(one, other), (other, one)] {
            self.wire.insert(pair, VecDeque::from([News::Lost]));
        }
    }

    pub fn send(&mut self, from: NodeId, to: NodeId) {
        if from != to && self.connected(from, to) {
            let record = Box::new(self.machine(from).record());
            let holds = self.nodes[from.slot()].disk.holds.clone();
            let state = &self.nodes[from.slot()];
            let in_sync = match &state.array {
                Some(array) => array.in_sync,
                None => state.stopped_with,
            };
            let equal = in_sync.contains(to);
            let queue = self.wire.entry((from, to)).or_default();
            queue.push_back(News::Record(record, holds, equal));
        }
    }

    // --- events -------------------------------------------------------------------------------------------------

    /// Takes up the next news between two nodes; false if there is none.
    pub fn deliver(&mut self, from: NodeId, to: NodeId) -> bool {
        let queue = self.wire.get_mut(&(from, to));
        let Some(news) = queue.and_then(VecDeque::pop_front) else {
            return false;
        };
        if self.is_up(to) {
            match news {
                News::Lost => {
                    self.read_own_leg(to);
                    self.handle(to, Event::PeerLost(from));
                }
                News::Record(record, holds, equal) => {
                    let own = &self.nodes[to.slot()].disk.holds;
                    self.oracle.heard(to, &record, holds, own, equal);
                    self.read_own_leg(to);
                    self.handle(to, Event::Peer(record));
                }
            }
        }
        true
    }

    /// Takes up the next event of a node; false if there is none.
    pub fn next_event(&mut self, node: NodeId) -> bool {
        match self.node(node).events.pop_front() {
            Some(event) => {
                if matches!(event, Event::Minted(_)) {
                    self.read_own_leg(node);
                }
                self.handle(node, event);
                true
            }
            None => false,
        }
    }

    /// Everything that is under way arrives.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for node in self.ids() {
                moved |= self.perform_all(node) | self.next_event(node);
                // What was decided is done before anything else is heard, as a driver does it.
                moved |= self.perform_all(node);
                for other in self.ids() {
                    moved |= self.deliver(other, node);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// What somebody asks of a node; the answer comes when the node has one.
    pub fn ask(&mut self, node: NodeId, event: Event) {
        if !self.is_up(node) {
            return;
        }
        self.node(node).answer = None;
        if matches!(event, Event::Restore | Event::Force | Event::Resolve { .. }) {
            self.ask_peers(node);
        }
        self.read_own_leg(node);
        self.handle(node, event);
    }

    /// Asks for votes, as a call that takes this node's news along and brings the answer back.
    pub fn gather_votes(&mut self, node: NodeId) {
        for _ in 0..3 {
            if !self.is_up(node) || !self.machine(node).is_seeking() {
                return;
            }
            self.perform_all(node);
            for other in self.ids().filter(|other| *other != node) {
                while self.connected(node, other) && self.deliver(node, other) {
                    self.perform_all(other);
                }
            }
            self.ask_peers(node);
        }
        self.read_own_leg(node);
        self.handle(node, Event::VotesOver);
    }

    /// Hears at once what every peer has to say, as by a call that is answered.
    fn ask_peers(&mut self, node: NodeId) {
        for other in self.ids().filter(|other| *other != node) {
            if self.connected(node, other) {
                self.read_own_leg(other);
                self.wire.remove(&(other, node));
                self.send(other, node);
            }
            while self.deliver(other, node) {
                self.perform_all(node);
            }
        }
    }

    pub fn read_own_leg(&mut self, node: NodeId) {
        let disk = &self.nodes[node.slot()].disk;
        let event = Event::OwnLeg {
            generations: disk.generations.clone(),
            consistent: disk.consistent,
        };
        self.handle(node, event);
        self.perform_all(node);
    }

    pub fn handle(&mut self, node: NodeId, event: Event) {
        let forced = matches!(event, Event::Force);
        let asked = matches!(event, Event::Restore | Event::Force);
        let unextended = match event {
            Event::Unextend(node) => Some(node),
            _ => None,
        };
        let outdates = matches!(event, Event::Outdate(_));
        let resumes = match (&event, self.node(node).machine.as_ref()) {
            (Event::ResumeIo, Some(machine)) => machine.fencing(),
            _ => Vec::new(),
        };
        let resolved = match event {
            Event::Resolve { discard } => Some(discard),
            _ => None,
        };
        let trace = self.trace;
        let Some(machine) = self.node(node).machine.as_mut() else {
            return;
        };
        let shown = if trace {
            format!("{event:?}")
        } else {
            String::new()
        };
        let mut actions = machine.handle(event);
        if machine.service() == Service::In {
            // A source asks for the votes anew without an attempt to become one.
            let view = machine.memory().vote.view;
            self.oracle.voted.extend(view.map(|view| view.term));
        }
        // While there is a split brain, what was written is counted.
        let bits = self.nodes[node.slot()].disk.bits;
        if let Some(machine) = self.node(node).machine.as_mut() {
            let bitmap = machine.settings().bitmap;
            let counted = match bitmap {
                true => u64::from(bits.count_ones()),
                false => Record::UNKNOWN_CHANGES,
            };
            let changes = machine.counts_changes().then_some(counted);
            if changes != machine.changes() {
                actions.extend(machine.handle(Event::Changes(changes)));
            }
        }
        self.say(|| format!("{node:?} <- {shown}\n     -> {actions:?}"));
        for action in &actions {
            if let Action::Note(Note::Fenced(_, answer)) = action
                && !matches!(answer, FenceAnswer::Primary | FenceAnswer::Broken)
            {
                self.oracle.fenced += 1;
            }
            if let Action::Note(Note::Judged {
                node: peer,
                judgement,
                ..
            }) = action
                && judgement.loser.is_some()
                && !judgement.must_stop
            {
                self.given_up_by_policy(node, *peer, judgement);
            }
        }
        let guarded = |action: &Action| matches!(action, Action::Guard { .. } | Action::Hold(_));
        let guards = actions.iter().take_while(|action| guarded(action)).count();
        assert_eq!(
            guards,
            actions.iter().filter(|action| guarded(action)).count(),
            "quorum: the array hears of it after others: {actions:?}"
        );
        let accepted = !actions
            .iter()
            .any(|action| matches!(action, Action::Refuse(_)));
        if actions
            .iter()
            .any(|action| matches!(action, Action::Assemble { .. }))
        {
            let view = self.machine(node).memory().vote.view;
            self.oracle.voted.extend(view.map(|view| view.term));
            let force = std::mem::take(&mut self.node(node).forces);
            self.node(node).forced = forced || force;
        }
        if asked && self.machine(node).is_seeking() && accepted {
            self.node(node).forces = forced;
        }
        if accepted && forced {
            self.oracle.chosen(node);
            let heard = self.machine(node).reachable();
            for other in heard.iter() {
                self.oracle.give_up(node, other);
            }
        }
        for left in resumes.iter().filter(|left| accepted && left.waits) {
            self.oracle.resumed_without(left.node);
        }
        if outdates && accepted {
            self.oracle.outdated(node);
        }
        if let Some(gone) = unextended.filter(|_| accepted) {
            self.oracle.unextended(gone);
        }
        if let Some(loser) = resolved.filter(|_| accepted) {
            match loser == node {
                true => {
                    let holds = self.nodes[node.slot()].disk.holds.clone();
                    self.oracle.give_up_own(holds);
                }
                false => self.oracle.give_up(node, loser),
            }
        }
        self.node(node).actions.extend(actions);
    }

    pub fn new_generation(&mut self) -> Generation {
        self.next_generation += 1;
        Generation(self.next_generation)
    }

    pub fn new_write(&mut self) -> u32 {
        self.next_write += 1;
        self.next_write
    }
}

impl Node {
    fn new() -> Node {
        Node {
            machine: None,
            memory: Memory::default(),
            flags: (false, None, false),
            disk: Disk::default(),
            array: None,
            stopped_with: NodeSet::NONE,
            accepts: None,
            timer: None,
            events: VecDeque::new(),
            actions: VecDeque::new(),
            skip: None,
            answer: None,
            log: Vec::new(),
            forced: false,
            forces: false,
            fails: false,
            fences: VecDeque::new(),
        }
    }
}
