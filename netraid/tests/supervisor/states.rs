//! States in which a mirror can be on a node, each reached by events, and the events that can happen to it.

use netraid::mirror::event::{Boot, Event};
use netraid::mirror::generation::{Generation, Generations, SLOTS};
use netraid::mirror::machine::{Machine, Settings, Wait};
use netraid::mirror::node::{NodeId, NodeSet};
use netraid::mirror::record::{Memory, Record};

use crate::cluster::id;
use crate::scenario;

/// The node whose machine it is; the others are `two` and `three`.
pub fn one() -> NodeId {
    id(0)
}

pub fn two() -> NodeId {
    id(1)
}

pub fn three() -> NodeId {
    id(2)
}

fn set(nodes: &[NodeId]) -> NodeSet {
    nodes.iter().copied().collect()
}

fn generations(current: u64, away: Option<(NodeId, u64)>) -> Generations {
    let mut generations = Generations {
        current: Generation(current),
        history: (1..current).rev().map(Generation).collect(),
        ..Generations::default()
    };
    if let Some((node, since)) = away {
        generations.away[node.slot()] = Generation(since);
    }
    generations
}

/// What another node tells that is at rest, in generation 2 as this one.
pub fn record(node: NodeId) -> Record {
    Record {
        node,
        generations: generations(2, None),
        consistent: true,
        outdated: false,
        fresh: false,
        running: false,
        starting: false,
        crashed: false,
        members: NodeSet::NONE,
        resyncing: NodeSet::NONE,
        nodes: set(&[one(), two(), three()]),
        in_sync: set(&[one(), two()]),
        settled: NodeSet::NONE,
        accepts: Some(one()),
        follows: None,
        agreement: 1,
        agreements: [0; SLOTS],
        discarded: [Generation::NONE; SLOTS],
        lost_quorum: false,
        changing: false,
        policies: String::new(),
        changes: None,
        source: None,
        vote: Default::default(),
    }
}

/// Another node in service, which has these in sync.
fn source(node: NodeId, members: &[NodeId]) -> Record {
    Record {
        running: true,
        fresh: true,
        accepts: None,
        members: set(members).with(node),
        in_sync: set(members).with(node),
        agreements: [1; SLOTS],
        ..record(node)
    }
}

fn older(record: Record) -> Record {
    Record {
        generations: generations(1, None),
        ..record
    }
}

fn newer(record: Record) -> Record {
    Record {
        generations: generations(3, Some((one(), 2))),
        accepts: None,
        ..record
    }
}

fn split(record: Record) -> Record {
    let mut generations = generations(9, Some((one(), 1)));
    generations.history = vec![Generation(1)];
    Record {
        generations,
        accepts: None,
        ..record
    }
}

fn blank(node: NodeId) -> Record {
    Record {
        generations: Generations::default(),
        consistent: false,
        ..record(node)
    }
}

fn peer(record: Record) -> Event {
    Event::Peer(Box::new(record))
}

fn minted() -> Event {
    Event::Minted(generations(4, Some((two(), 2))))
}

/// A memory of a node with data, which knows of two others.
fn memory() -> Memory {
    Memory {
        generations: generations(2, None),
        consistent: true,
        nodes: set(&[one(), two(), three()]),
        in_sync: set(&[one(), two()]),
        ..Memory::default()
    }
}

fn machine(settings: Settings, memory: Memory, events: Vec<Event>) -> Machine {
    let mut machine = Machine::new(settings, memory);
    machine.handle(Event::Boot(Boot::Idle));
    for event in events {
        machine.handle(event);
    }
    machine
}

/// Every state, by name.
pub fn states() -> Vec<(&'static str, Machine)> {
    let settings = || scenario::settings(one());
    let at = |memory, events| machine(settings(), memory, events);
    let was_source = || Memory {
        was_source: true,
        last_owner: true,
        source: Some(one()),
        ..memory()
    };
    let was_target = || Memory {
        source: Some(two()),
        ..memory()
    };
    let alone = || Memory {
        in_sync: set(&[one()]),
        source: Some(one()),
        ..memory()
    };
    let started = |more: Vec<Event>| {
        let mut events = vec![Event::Restore, Event::Assembled];
        events.extend(more);
        at(alone(), events)
    };
    let with_target = |more: Vec<Event>| {
        let mut events = vec![peer(record(two())), Event::Added(two())];
        events.extend(more);
        started(events)
    };
    let took_over = |settings: Settings, more: Vec<Event>| {
        let mut events = vec![
            peer(source(two(), &[one()])),
            peer(source(two(), &[one()])),
            Event::PeerLost(two()),
            peer(record(three())),
            Event::Restore,
            Event::Assembled,
        ];
        events.extend(more);
        machine(settings, was_target(), events)
    };
    let target = |more: Vec<Event>| {
        let mut events = vec![peer(source(two(), &[one()])), peer(source(two(), &[one()]))];
        events.extend(more);
        at(was_target(), events)
    };
    let being_resynced = || Memory {
        consistent: false,
        ..was_target()
    };
    let resyncing = || Record {
        resyncing: set(&[one()]),
        ..newer(source(two(), &[]))
    };
    vec![
        ("blank, nobody heard", at(Memory::default(), vec![])),
        ("target in sync", target(vec![])),
        (
            "target in sync, source lost",
            target(vec![Event::PeerLost(two())]),
        ),
        ("target, restarted, alone", at(was_target(), vec![])),
        (
            "target left by its source",
            target(vec![peer(newer(source(two(), &[])))]),
        ),
        (
            "target being resynced",
            at(being_resynced(), vec![peer(resyncing()), peer(resyncing())]),
        ),
        ("target half resynced, alone", at(being_resynced(), vec![])),
        ("crashed source, alone", at(was_source(), vec![])),
        (
            "crashed source, refused, data_corrupt set",
            at(was_source(), vec![Event::Restore]),
        ),
        (
            "crashed source, its target heard",
            at(was_source(), vec![peer(record(two()))]),
        ),
        (
            "crashed source, another took over",
            at(was_source(), vec![peer(newer(source(two(), &[])))]),
        ),
        (
            "out of service, split brain",
            at(was_source(), vec![peer(split(record(two())))]),
        ),
        ("starting", at(alone(), vec![Event::Restore])),
        ("source, no target heard", started(vec![])),
        (
            "source, target being added",
            started(vec![peer(record(two()))]),
        ),
        ("source, target being resynced", with_target(vec![])),
        (
            "source, target in sync",
            with_target(vec![Event::ResyncEnded(two())]),
        ),
        (
            "source, target in sync, not heard any more",
            with_target(vec![Event::ResyncEnded(two()), Event::PeerLost(two())]),
        ),
        (
            "source, target paused",
            with_target(vec![Event::Pause(set(&[two()]))]),
        ),
        (
            "source, target failed",
            with_target(vec![Event::LegFailed(two())]),
        ),
        (
            "source, target in split brain",
            started(vec![peer(split(record(two())))]),
        ),
        (
            "source, target with newer data",
            started(vec![peer(newer(record(two())))]),
        ),
        (
            "source, another in service with newer data",
            with_target(vec![
                Event::ResyncEnded(two()),
                peer(newer(source(three(), &[]))),
            ]),
        ),
        (
            "source, own leg failed",
            with_target(vec![Event::ResyncEnded(two()), Event::OwnLegFailed]),
        ),
        (
            "source, targets wait for the previous source",
            took_over(settings(), vec![]),
        ),
        (
            "source, targets wait 60 s for the previous source",
            took_over(
                Settings {
                    wait: Wait::Seconds(60),
                    ..settings()
                },
                vec![],
            ),
        ),
        (
            "source, did not wait for the previous source",
            took_over(
                Settings {
                    wait: Wait::No,
                    ..settings()
                },
                vec![],
            ),
        ),
        (
            "source, previous source merged and being resynced",
            took_over(
                settings(),
                vec![
                    peer(Record {
                        agreement: 2,
                        ..record(two())
                    }),
                    Event::Added(two()),
                ],
            ),
        ),
        (
            "source, waits for the first quickCheck",
            machine(
                Settings {
                    connect_during_restore: false,
                    ..settings()
                },
                alone(),
                vec![Event::Restore, Event::Assembled, peer(record(two()))],
            ),
        ),
        (
            "source, waits for the parents",
            machine(
                Settings {
                    wait_to_resync: true,
                    ..settings()
                },
                alone(),
                vec![Event::Restore, Event::Assembled, peer(record(two()))],
            ),
        ),
        (
            "stopping",
            with_target(vec![Event::ResyncEnded(two()), Event::Remove]),
        ),
        (
            "stopped cleanly, all in sync",
            with_target(vec![
                Event::ResyncEnded(two()),
                Event::Remove,
                Event::Stopped,
            ]),
        ),
    ]
}

/// Every kind of event, by name; of news of a peer, each kind that matters.
pub fn events() -> Vec<(&'static str, Event)> {
    let all = NodeSet::NONE;
    vec![
        ("boot", Event::Boot(Boot::Idle)),
        (
            "boot, the array runs",
            Event::Boot(Boot::Running {
                members: set(&[one(), two()]),
                resyncing: NodeSet::NONE,
            }),
        ),
        (
            "own leg: complete",
            Event::OwnLeg {
                generations: generations(2, None),
                consistent: true,
            },
        ),
        (
            "own leg: half resynced",
            Event::OwnLeg {
                generations: generations(2, None),
                consistent: false,
            },
        ),
        (
            "no flag is set",
            Event::Flags {
                last_owner: false,
                source: None,
                data_corrupt: false,
            },
        ),
        (
            "all flags are set",
            Event::Flags {
                last_owner: true,
                source: Some(three()),
                data_corrupt: true,
            },
        ),
        ("restore", Event::Restore),
        ("remove", Event::Remove),
        ("quickCheck", Event::QuickCheck),
        ("parents in service", Event::Parents { up: true }),
        ("parents out of service", Event::Parents { up: false }),
        ("peer: same data", peer(record(two()))),
        ("peer: blank", peer(blank(two()))),
        ("peer: older data", peer(older(record(two())))),
        ("peer: newer data", peer(newer(record(two())))),
        ("peer: split brain", peer(split(record(two())))),
        (
            "peer: starting",
            peer(Record {
                starting: true,
                ..record(two())
            }),
        ),
        (
            "peer: in service, has us in sync",
            peer(source(two(), &[one()])),
        ),
        ("peer: in service without us", peer(source(two(), &[]))),
        (
            "peer: in service with newer data",
            peer(newer(source(two(), &[]))),
        ),
        (
            "peer: in service, split brain",
            peer(split(source(two(), &[]))),
        ),
        ("peer lost", Event::PeerLost(two())),
        ("assembled", Event::Assembled),
        ("assemble failed", Event::AssembleFailed),
        ("stopped", Event::Stopped),
        ("stop failed", Event::StopFailed),
        ("added", Event::Added(two())),
        ("leg failed", Event::LegFailed(two())),
        ("own leg failed", Event::OwnLegFailed),
        ("progress 50 %", Event::Progress(two(), 50)),
        ("resync ended", Event::ResyncEnded(two())),
        ("minted", minted()),
        ("wait over", Event::WaitOver),
        ("pause", Event::Pause(all)),
        ("resume", Event::Resume(all)),
        ("fullresync", Event::FullResync(all)),
        ("fullresync of itself", Event::FullResync(set(&[one()]))),
        ("force", Event::Force),
        ("resolve, discard two", Event::Resolve { discard: two() }),
        ("resolve, discard one", Event::Resolve { discard: one() }),
        ("extend to four", Event::Extend(id(3))),
        ("extend to two", Event::Extend(two())),
        ("unextend two", Event::Unextend(two())),
        ("outdate", Event::Outdate(None)),
        ("outdate for two", Event::Outdate(Some(two()))),
    ]
}
