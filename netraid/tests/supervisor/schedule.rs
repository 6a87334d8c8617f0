//! One random schedule: faults, a clumsy cluster manager and clumsier administrators; then everything is mended, and one
//! source with all others in sync must come of it.

use netraid::mirror::decision::Rules;
use netraid::mirror::event::Event;
use netraid::mirror::explain::explain;
use netraid::mirror::fencing::Fencing;
use netraid::mirror::generation::Generation;
use netraid::mirror::machine::{Settings, Standing, Wait};
use netraid::mirror::node::{NodeId, NodeSet};
use netraid::mirror::policy::{BothInService, NoneInService, OneInService, Policies, RoleConflict};
use netraid::mirror::vote::Quorum;
use netraid::mirror::word::Word;

use crate::array::Until;
use crate::cluster::{Cluster, id};
use crate::disk::BLOCKS;
use crate::random::Random;
use crate::scenario;

/// What happened in one schedule or in many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub steps: u64,
    pub starts: u64,
    pub answers: u64,
    pub crashes: u64,
    pub resyncs: u64,
    pub driver_restarts: u64,
    pub refusals: u64,
    pub splits: u64,
    /// Times that a policy gave up what a node has.
    pub judged: u64,
    /// Starts of mirrors that have a quorum, and writes that were held back for it.
    pub voted: u64,
    pub held: u64,
    /// Nodes that lost what they kept.
    pub lost: u64,
    /// Writes that a source answered because a majority was there.
    pub alive: u64,
    /// Schedules that ended with a mirror that only an administrator's force could start.
    pub forced: u64,
    /// Times that a node was marked as outdated, and fenced.
    pub outdates: u64,
    pub fenced: u64,
    /// Starts of mirrors that fence.
    pub fencing: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.steps += other.steps;
        self.starts += other.starts;
        self.answers += other.answers;
        self.crashes += other.crashes;
        self.resyncs += other.resyncs;
        self.driver_restarts += other.driver_restarts;
        self.refusals += other.refusals;
        self.splits += other.splits;
        self.judged += other.judged;
        self.voted += other.voted;
        self.held += other.held;
        self.alive += other.alive;
        self.lost += other.lost;
        self.forced += other.forced;
        self.outdates += other.outdates;
        self.fenced += other.fenced;
        self.fencing += other.fencing;
    }
}

pub struct Schedule {
    pub cluster: Cluster,
    random: Random,
    pub tally: Tally,
}

/// Runs the schedule named by `seed`; panics when a promise is broken.
pub fn run(seed: u64, trace: bool) -> Tally {
    let mut schedule = Schedule::new(seed, trace);
    let length = 20 + schedule.random.below(180);
    for _ in 0..length {
        schedule.step();
        schedule.check();
    }
    if schedule.random.chance(50) {
        schedule.a_majority_is_enough();
    }
    schedule.mend();
    let mut tally = schedule.tally;
    tally.starts = schedule.cluster.oracle.starts;
    tally.answers = schedule.cluster.oracle.answers;
    tally.resyncs = schedule.cluster.oracle.resyncs;
    tally.fenced = schedule.cluster.oracle.fenced;
    if schedule.cluster.fences() {
        tally.fencing = tally.starts;
    }
    tally.outdates = schedule.cluster.oracle.outdates;
    tally.judged = schedule.cluster.oracle.judged;
    tally.held = schedule.cluster.oracle.held;
    if schedule.cluster.settings[0].quorum.is_some() {
        tally.voted = tally.starts;
    }
    tally
}

/// What becomes of split brains: nothing, in half of the schedules.
fn policies(random: &mut Random, count: usize) -> Policies {
    if random.chance(50) {
        return Policies::default();
    }
    let node = id(random.below(count as u64) as usize);
    let zero = [
        NoneInService::Disconnect,
        NoneInService::DiscardYoungerPrimary,
        NoneInService::DiscardOlderPrimary,
        NoneInService::DiscardZeroChanges,
        NoneInService::DiscardLeastChanges,
        NoneInService::DiscardNode(node),
    ];
    let one = [
        OneInService::Disconnect,
        OneInService::Consensus,
        OneInService::DiscardSecondary,
        OneInService::CallPriLost,
    ];
    Policies {
        none_in_service: zero[random.below(6) as usize],
        one_in_service: one[random.below(4) as usize],
        both_in_service: match random.chance(50) {
            true => BothInService::CallPriLost,
            false => BothInService::Disconnect,
        },
        role_conflict: match random.chance(50) {
            true => RoleConflict::CallPriLost,
            false => RoleConflict::Disconnect,
        },
        always: random.chance(50),
    }
}

impl Schedule {
    fn new(seed: u64, trace: bool) -> Schedule {
        let mut random = Random::new(seed);
        let count = 2 + random.below(3) as usize;
        let settings = Settings {
            wait: match random.below(4) {
                0 => Wait::No,
                1 => Wait::Seconds(60),
                _ => Wait::Forever,
            },
            connect_during_restore: !random.chance(20),
            wait_to_resync: random.chance(20),
            bitmap: !random.chance(10),
            ..scenario::settings(id(0))
        };
        let majority = count / 2 + 1;
        let quorum = random.chance(40).then(|| Quorum {
            need: majority + random.below((count - majority + 1) as u64) as usize,
            nodes: count,
            tie_breakers: match count > 2 && random.chance(40) {
                true => NodeSet::of(id(count - 1)),
                false => NodeSet::NONE,
            },
            fail: random.chance(50),
        });
        let fencing = match random.below(3) {
            _ if quorum.is_some() => Fencing::DontCare,
            0 => Fencing::DontCare,
            1 => Fencing::ResourceOnly,
            _ => Fencing::ResourceAndStonith,
        };
        let policies = policies(&mut random, count);
        // Somebody forgot to change one of the files.
        let forgetful = random
            .chance(5)
            .then(|| id(random.below(count as u64) as usize));
        let each = |own| Settings {
            own,
            quorum,
            fencing,
            rules: Rules {
                policies: match forgetful == Some(own) {
                    true => Policies::default(),
                    false => policies,
                },
                ..settings.rules
            },
            ..settings.clone()
        };
        let mut schedule = Schedule {
            cluster: Cluster::new(count, each, trace),
            random,
            tally: Tally::default(),
        };
        schedule.begin(count);
        schedule
    }

    /// A mirror with all its targets, in sync more often than not.
    fn begin(&mut self, count: usize) {
        for slot in 0..count {
            self.cluster.power_on(id(slot));
        }
        self.cluster.settle();
        self.cluster.ask(id(0), Event::Restore);
        self.cluster.settle();
        for node in self.cluster.with_disk().skip(1) {
            self.cluster.ask(id(0), Event::Extend(node));
            self.cluster.settle();
        }
        if self.random.chance(80) {
            self.finish_resyncs();
        }
    }

    fn any(&mut self) -> NodeId {
        let count = self.cluster.nodes.len() as u64;
        id(self.random.below(count) as usize)
    }

    fn any_set(&mut self) -> NodeSet {
        let count = self.random.below(3);
        (0..count).map(|_| self.any()).collect()
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    pub fn arrays(&self) -> Vec<NodeId> {
        let runs = |node: &NodeId| self.cluster.nodes[node.slot()].array.is_some();
        self.cluster.ids().filter(runs).collect()
    }

    fn any_array(&mut self) -> Option<NodeId> {
        let arrays = self.arrays();
        let index = self.random.below(arrays.len().max(1) as u64) as usize;
        arrays.get(index).copied()
    }

    // --- one step -----------------------------------------------------------------------------------------------

    pub fn step(&mut self) {
        self.tally.steps += 1;
        match self.random.below(100) {
            0..=29 => {
                let (from, to) = (self.any(), self.any());
                self.cluster.deliver(from, to);
            }
            30..=47 => {
                let node = self.any();
                let calls = self.random.chance(50);
                if !calls || !self.cluster.run_handler(node, &mut self.random) {
                    self.cluster.next_event(node);
                }
            }
            48..=63 => self.write(),
            64..=77 => self.copy(),
            78..=81 => self.power(),
            82..=85 => self.link(),
            86..=90 => {
                let node = self.any();
                self.cluster.node(node).fails = self.random.chance(5);
                self.ask(node, Event::Restore);
            }
            91..=94 => self.manage(),
            95..=98 => self.operate(),
            _ => self.flag_by_hand(),
        }
        for node in self.cluster.ids() {
            self.perform(node);
        }
    }

    /// Performs a node's actions, or loses its power between two of them.
    fn perform(&mut self, node: NodeId) {
        while self.cluster.perform_next(node) {
            if self.random.below(400) == 0 {
                self.tally.crashes += 1;
                self.cluster.power_off(node);
            }
        }
    }

    fn ask(&mut self, node: NodeId, event: Event) {
        self.cluster.ask(node, event);
        self.perform(node);
        if self.random.chance(70) {
            self.cluster.gather_votes(node);
            self.perform(node);
        }
        if let Some(Err(refusal)) = self.cluster.nodes[node.slot()].answer {
            self.tally.refusals += 1;
            let names = &self.cluster.names;
            assert!(
                !refusal.reason(node, names).is_empty(),
                "P6: refused without a reason"
            );
        }
    }

    fn write(&mut self) {
        let Some(source) = self.any_array() else {
            return;
        };
        let block = self.random.below(BLOCKS as u64) as usize;
        let until = match self.random.below(60) {
            0 => Until::Marked,
            1 | 2 => Until::Legs(self.random.below(3) as usize),
            3 => Until::Named,
            _ => Until::Answered,
        };
        if until != Until::Answered {
            self.tally.crashes += 1;
        }
        self.cluster.write(source, block, until);
    }

    fn copy(&mut self) {
        let Some(source) = self.any_array() else {
            return;
        };
        let leg = self.any();
        let steps = 1 + self.random.below(5);
        for _ in 0..steps {
            if !self.cluster.copy(source, leg) {
                break;
            }
        }
    }

    fn power(&mut self) {
        let node = self.any();
        if self.random.chance(20) {
            self.tally.driver_restarts += 1;
            return self.cluster.restart_driver(node);
        }
        match self.cluster.is_up(node) {
            false => self.cluster.power_on(node),
            true if self.random.chance(35) => {
                self.tally.crashes += 1;
                self.cluster.power_off(node);
                let votes = self.cluster.settings[node.slot()].quorum.is_some();
                if votes && self.random.chance(5) {
                    self.tally.lost += 1;
                    let data = |other: NodeId| {
                        let disk = &self.cluster.nodes[other.slot()].disk;
                        disk.consistent && disk.generations.current != Generation::NONE
                    };
                    // Somebody has to have something in the end.
                    let others = self.cluster.ids().filter(|other| *other != node);
                    let kept = others.filter(|other| data(*other)).count() > 0;
                    let disk = kept && self.random.chance(50);
                    self.cluster.lose_record(node, disk);
                }
            }
            true => {}
        }
    }

    fn link(&mut self) {
        let (one, other) = (self.any(), self.any());
        let up = self.random.chance(60);
        self.cluster.set_link(one, other, up);
        if let Some(source) = self.any_array()
            && self.random.chance(50)
        {
            for leg in self.cluster.broken_legs(source).iter() {
                self.cluster.expel(source, leg);
            }
        }
    }

    fn manage(&mut self) {
        let node = self.any();
        self.cluster.node(node).fails = self.random.chance(5);
        match self.random.below(12) {
            9..=11 => self.ask(node, Event::FenceNow),
            8 => self.ask(node, Event::VotesOver),
            0..=3 => self.ask(node, Event::QuickCheck),
            4 => self.ask(node, Event::Remove),
            5 => self.ask(node, Event::Parents { up: true }),
            _ => {
                if self.cluster.node(node).timer.take().is_some() {
                    self.ask(node, Event::WaitOver);
                }
            }
        }
    }

    fn operate(&mut self) {
        let (node, other, some) = (self.any(), self.any(), self.any_set());
        let event = match self.random.below(19) {
            18 => Event::ResumeIo,
            0 | 1 => Event::Pause(some),
            2..=4 => Event::Resume(some),
            5..=7 => Event::FullResync(some),
            8 => Event::Force,
            9..=12 => Event::Resolve { discard: other },
            13 => Event::Unextend(other),
            14 | 15 => Event::Outdate(self.random.chance(70).then_some(other)),
            _ => Event::Extend(other),
        };
        self.ask(node, event);
    }

    fn flag_by_hand(&mut self) {
        let (node, other) = (self.any(), self.any());
        let mut flags = self.cluster.nodes[node.slot()].flags;
        match self.random.below(5) {
            0 => flags.0 = !flags.0,
            1 => flags.1 = None,
            2 => flags.1 = Some(other),
            _ => {
                flags.2 = !flags.2;
                if !flags.2 {
                    // That is an order like force, for what is known there.
                    self.cluster.oracle.vouched_for(node);
                }
            }
        }
        let (last_owner, source, data_corrupt) = flags;
        self.cluster.node(node).flags = flags;
        let event = Event::Flags {
            last_owner,
            source,
            data_corrupt,
        };
        self.ask(node, event);
    }

    // --- after each step ----------------------------------------------------------------------------------------

    pub fn check(&mut self) {
        let explaining = self.random.chance(10);
        for source in self.arrays() {
            let array = self.cluster.nodes[source.slot()].array.clone().unwrap();
            // One that was lost is still called in sync until the array notices.
            let reached = |leg: &NodeId| *leg == source || self.cluster.can_write(source, *leg);
            for leg in array.in_sync.iter().filter(reached) {
                self.cluster
                    .check_equal(source, leg, "both were called in sync");
            }
        }
        for node in self.cluster.ids() {
            if explaining && self.cluster.is_up(node) {
                for said in explain(self.cluster.machine(node), &self.cluster.names) {
                    assert!(!said.why.is_empty(), "P6: {said:?}");
                }
            }
        }
    }

    // --- the end ------------------------------------------------------------------------------------------------

    pub fn finish_resyncs(&mut self) {
        loop {
            let mut copied = false;
            for source in self.arrays() {
                for leg in self.cluster.ids() {
                    while self.cluster.copy(source, leg) {
                        copied = true;
                    }
                }
            }
            self.cluster.settle();
            if !copied {
                return;
            }
        }
    }

    /// Everything works again, and somebody reads what the mirror says and does it.
    fn mend(&mut self) {
        self.cluster.say(|| "-- everything is mended".into());
        let nodes: Vec<NodeId> = self.cluster.ids().collect();
        for &node in &nodes {
            self.cluster.power_on(node);
            self.cluster.node(node).fails = false;
            for &other in &nodes {
                self.cluster.set_link(node, other, true);
            }
        }
        for _ in 0..20 {
            self.cluster.settle();
            for &node in &nodes {
                if self.cluster.machine(node).is_seeking() {
                    self.cluster.ask(node, Event::VotesOver);
                }
                self.cluster.fail_handlers(node);
                self.cluster.ask(node, Event::FenceNow);
                self.cluster.settle();
            }
            self.finish_resyncs();
            let running = self.arrays();
            match running.as_slice() {
                [] => self.start_somewhere(&nodes),
                [source] => {
                    if self.is_whole(*source) {
                        return self.compare(*source);
                    }
                    self.do_what_is_said(*source);
                }
                [one, ..] => {
                    self.tally.splits += 1;
                    self.cluster.ask(*one, Event::Remove);
                }
            }
        }
        for &node in &nodes {
            let machine = self.cluster.machine(node);
            let said = explain(machine, &self.cluster.names);
            println!(
                "{}",
                netraid::mirror::explain::text(&said, &self.cluster.names)
            );
        }
        panic!("the mirror does not recover");
    }

    fn start_somewhere(&mut self, nodes: &[NodeId]) {
        for &node in nodes {
            self.cluster.ask(node, Event::Restore);
            self.cluster.settle();
            if self.cluster.nodes[node.slot()].array.is_some() {
                return;
            }
        }
        self.tally.forced += 1;
        let with_data = |node: &&NodeId| {
            let generations = &self.cluster.nodes[node.slot()].disk.generations;
            generations.current != Generation::NONE
        };
        let node = *nodes.iter().find(with_data).expect("somebody has data");
        self.cluster.ask(node, Event::Force);
    }

    fn do_what_is_said(&mut self, source: NodeId) {
        self.cluster.ask(source, Event::Parents { up: true });
        self.cluster.ask(source, Event::QuickCheck);
        self.cluster.settle();
        let others = self.cluster.with_disk().filter(|node| *node != source);
        for node in others {
            let event = match self.cluster.machine(source).standing(node) {
                Standing::Paused => Event::Resume(NodeSet::of(node)),
                Standing::NotATarget => Event::Extend(node),
                Standing::SplitBrain | Standing::Newer | Standing::Unrelated => {
                    self.tally.splits += 1;
                    Event::Resolve { discard: node }
                }
                Standing::WaitsForPrevious(_) if self.random.chance(30) => {
                    Event::FullResync(NodeSet::of(node))
                }
                _ => continue,
            };
            self.cluster.ask(source, event);
            self.cluster.settle();
        }
    }

    fn is_whole(&self, source: NodeId) -> bool {
        let array = self.cluster.nodes[source.slot()].array.as_ref().unwrap();
        array.in_sync.len() == self.cluster.with_disk().count()
    }

    /// P3 for all, and P6: every node says what is true.
    fn compare(&mut self, source: NodeId) {
        for node in self.cluster.with_disk() {
            self.cluster
                .check_equal(source, node, "everything is mended");
            for other in self.cluster.with_disk() {
                let expected = match other == source {
                    true => Word::Source,
                    false => Word::Target,
                };
                let word = self.cluster.machine(node).word(other);
                assert_eq!(word, expected, "P6: what {node:?} says of {other:?}");
            }
        }
        self.cluster.check_nothing_is_lost(source);
    }
}
