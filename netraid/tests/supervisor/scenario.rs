//! Runs the scenarios in `scenarios/*.txt`.
//!
//! One line, one step; `#` begins a comment. After each step everything that is under way arrives, but a resync copies
//! only when told to (`copy` one block, `resync` to the end).
//!
//! ```text
//! cluster 3                            so many nodes, server1 with a new mirror, all powered on
//! set wait 60                          a parameter, before `cluster`: wait, connect, nofullsync, waitresync, async,
//!                                      after-sb-0pri, after-sb-1pri, after-sb-2pri
//! on | off | crash server1             power (crash: in the middle of a write that no target gets)
//! cut | mend server1 server2           the network between two
//! restore | remove | force server1     what the cluster manager or an administrator orders there
//! quickcheck | parents | timer server1
//! pause | resume | fullresync server1 [server2...]
//! extend | unextend server1 server2
//! resolve server1 discard server2
//! outdate server1 [server2]            somebody goes on without server1, or server2 does
//! by hand server1 set|clear last_owner|data_corrupt, or: set source server2, clear source
//! write server1 [BLOCK...]             the application there
//! image server1 server2                somebody copies the one disk's data to the other
//! driver server1                       the driver there is restarted
//! copy | resync server1 server2        a block, or all that is left
//!
//! done                                 the last order was carried out
//! refused TEXT                         it was not; the reason or the next command contains TEXT
//! sees server1: Source, Target, ...    the words that server1 shows, in order; details: names the previous source
//! flags server1: last_owner source=server2 data_corrupt, or: none
//! did server1: LINE                    it did this since the last look (each line once, in any order)
//! never server1: LINE                  it did not
//! explains server1: TEXT               the explanation there contains TEXT
//! equal server1 server2                their disks
//! ```

use netraid::mirror::decision::{Protocol, Rules};
use netraid::mirror::event::Event;
use netraid::mirror::explain::{explain, text};
use netraid::mirror::machine::{Settings, Wait};
use netraid::mirror::node::{NodeId, NodeSet};
use netraid::mirror::policy::{BothInService, NoneInService, OneInService, Policies};

use crate::array::Until;
use crate::cluster::{Cluster, id};

pub fn settings(own: NodeId) -> Settings {
    Settings {
        own,
        rules: Rules {
            protocol: Protocol::Sync,
            policies: Policies::default(),
        },
        wait: Wait::Forever,
        connect_during_restore: true,
        no_full_sync: false,
        wait_to_resync: false,
        bitmap: true,
        quorum: None,
        fencing: Default::default(),
    }
}

fn zero(value: &str) -> NoneInService {
    let all = [
        NoneInService::DiscardYoungerPrimary,
        NoneInService::DiscardOlderPrimary,
        NoneInService::DiscardZeroChanges,
        NoneInService::DiscardLeastChanges,
    ];
    let found = all.into_iter().find(|one| one.as_str() == value);
    found.unwrap_or_else(|| panic!("no value {value}"))
}

struct Run {
    settings: Settings,
    cluster: Option<Cluster>,
    asked: NodeId,
}

impl Run {
    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("`cluster` comes first")
    }

    fn node(&mut self, name: &str) -> NodeId {
        let found = self.cluster().names.find(name);
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    fn ask(&mut self, node: NodeId, event: Event) {
        self.asked = node;
        self.cluster().ask(node, event);
    }

    fn set(&mut self, name: &str, value: &str) {
        let on = value == "1";
        match name {
            "wait" => self.settings.wait = Wait::from_parameter(value.parse().unwrap()).unwrap(),
            "connect" => self.settings.connect_during_restore = on,
            "nofullsync" => self.settings.no_full_sync = on,
            "waitresync" => self.settings.wait_to_resync = on,
            "bitmap" => self.settings.bitmap = on,
            "async" => {
                self.settings.rules.protocol = if on { Protocol::Async } else { Protocol::Sync }
            }
            "after-sb-0pri" => self.settings.rules.policies.none_in_service = zero(value),
            "after-sb-1pri" => {
                self.settings.rules.policies.one_in_service = match value {
                    "consensus" => OneInService::Consensus,
                    "discard-secondary" => OneInService::DiscardSecondary,
                    "call-pri-lost-after-sb" => OneInService::CallPriLost,
                    other => panic!("no value {other}"),
                }
            }
            "after-sb-2pri" => {
                assert_eq!(value, "call-pri-lost-after-sb");
                self.settings.rules.policies.both_in_service = BothInService::CallPriLost;
            }
            other => panic!("no parameter {other}"),
        }
    }

    fn line(&mut self, line: &str) {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        match head {
            "set" => {
                let (name, value) = rest.split_once(' ').unwrap();
                return self.set(name, value);
            }
            "cluster" => {
                let count = rest.parse().unwrap();
                let settings = self.settings.clone();
                let trace = std::env::var_os("NETRAID_TRACE").is_some();
                let mut cluster = Cluster::new(
                    count,
                    |own| Settings {
                        own,
                        ..settings.clone()
                    },
                    trace,
                );
                cluster.logs = true;
                (0..count).for_each(|slot| cluster.power_on(id(slot)));
                cluster.settle();
                self.cluster = Some(cluster);
                return;
            }
            "done" | "refused" | "sees" | "details" | "flags" | "did" | "never" | "explains"
            | "equal" => return self.expect(head, rest),
            _ => {}
        }
        self.step(head, rest);
        self.cluster().settle();
    }

    fn step(&mut self, head: &str, rest: &str) {
        let mut words = rest.split_whitespace();
        let first = words.next().unwrap_or_default();
        if head == "by" {
            return self.by_hand(words);
        }
        let node = self.node(first);
        let others: Vec<&str> = words.collect();
        let set: NodeSet = others
            .iter()
            .filter(|_| head != "write" && head != "resolve")
            .map(|name| self.node(name))
            .collect();
        let other = set.iter().next();
        let pair = || other.expect("two nodes");
        match head {
            "image" => {
                let blocks = self.cluster().node(node).disk.blocks;
                let other = pair();
                self.cluster().node(other).disk.blocks = blocks;
            }
            "driver" => self.cluster().restart_driver(node),
            "on" => self.cluster().power_on(node),
            "off" => self.cluster().power_off(node),
            "crash" => {
                self.cluster().write(node, 7, Until::Legs(1));
            }
            "cut" => self.cluster().set_link(node, pair(), false),
            "mend" => self.cluster().set_link(node, pair(), true),
            "restore" => self.ask(node, Event::Restore),
            "remove" => self.ask(node, Event::Remove),
            "force" => self.ask(node, Event::Force),
            "quickcheck" => self.ask(node, Event::QuickCheck),
            "parents" => self.ask(node, Event::Parents { up: true }),
            "timer" => {
                let timer = self.cluster().node(node).timer.take();
                assert!(timer.is_some(), "no timer runs on {first}");
                self.ask(node, Event::WaitOver);
            }
            "pause" => self.ask(node, Event::Pause(set)),
            "resume" => self.ask(node, Event::Resume(set)),
            "fullresync" => self.ask(node, Event::FullResync(set)),
            "extend" => self.ask(node, Event::Extend(pair())),
            "unextend" => self.ask(node, Event::Unextend(pair())),
            "outdate" => self.ask(node, Event::Outdate(other)),
            "resolve" => {
                let discard = self.node(others[1]);
                self.ask(node, Event::Resolve { discard });
            }
            "write" => {
                let blocks = if others.is_empty() { vec!["0"] } else { others };
                for block in blocks {
                    self.cluster()
                        .write(node, block.parse().unwrap(), Until::Answered);
                }
            }
            "copy" => assert!(self.cluster().copy(node, pair()), "nothing is resynced"),
            "resync" => {
                let mut steps = 0;
                while self.cluster().copy(node, pair()) {
                    self.cluster().settle();
                    steps += 1;
                }
                assert!(steps > 0, "nothing is resynced");
            }
            other => panic!("no step {other}"),
        }
    }

    fn by_hand<'a>(&mut self, mut words: impl Iterator<Item = &'a str>) {
        let mut next = || words.next().expect("a word");
        let node = self.node(next());
        let on = next() == "set";
        let flag = next();
        let named = on && flag == "source";
        let source = named.then(|| self.node(next()));
        let mut flags = self.cluster().node(node).flags;
        match flag {
            "last_owner" => flags.0 = on,
            "source" => flags.1 = source,
            "data_corrupt" => flags.2 = on,
            other => panic!("no flag {other}"),
        }
        self.cluster().node(node).flags = flags;
        let (last_owner, source, data_corrupt) = flags;
        self.ask(
            node,
            Event::Flags {
                last_owner,
                source,
                data_corrupt,
            },
        );
    }

    fn expect(&mut self, head: &str, rest: &str) {
        let asked = self.asked;
        let (name, expected) = rest.split_once(": ").unwrap_or((rest, ""));
        match head {
            "done" => assert_eq!(self.cluster().node(asked).answer, Some(Ok(()))),
            "refused" => {
                let answer = self.cluster().node(asked).answer;
                let Some(Err(refusal)) = answer else {
                    panic!("not refused: {answer:?}")
                };
                let names = &self.cluster().names;
                let reason = refusal.reason(asked, names);
                let next = refusal.next(asked, names).unwrap_or_default();
                let said = format!("{reason}; {next}");
                assert!(said.contains(rest), "it was said: {said}");
            }
            "sees" | "details" => {
                let node = self.node(name);
                let cluster = self.cluster();
                let word = |other| match head {
                    "sees" => cluster.machine(node).word(other),
                    _ => cluster.machine(node).detailed_word(other),
                };
                let words: Vec<String> = cluster.ids().map(|id| word(id).to_string()).collect();
                assert_eq!(words.join(", "), expected);
            }
            "flags" => {
                let node = self.node(name);
                let (last_owner, source, data_corrupt) = self.cluster().node(node).flags;
                let mut said = Vec::new();
                if last_owner {
                    said.push("last_owner".to_owned());
                }
                if let Some(source) = source {
                    said.push(format!("source={}", self.cluster().names.node(source)));
                }
                if data_corrupt {
                    said.push("data_corrupt".to_owned());
                }
                if said.is_empty() {
                    said.push("none".to_owned());
                }
                assert_eq!(said.join(" "), expected);
            }
            "did" => {
                let node = self.node(name);
                let log = &mut self.cluster().node(node).log;
                let at = log.iter().position(|line| line == expected);
                let at = at.unwrap_or_else(|| panic!("it did:\n  {}", log.join("\n  ")));
                log.remove(at);
            }
            "never" => {
                let node = self.node(name);
                let log = &mut self.cluster().node(node).log;
                assert!(!log.iter().any(|line| line.contains(expected)));
                log.clear();
            }
            "explains" => {
                let node = self.node(name);
                let cluster = self.cluster();
                let said = text(
                    &explain(cluster.machine(node), &cluster.names),
                    &cluster.names,
                );
                assert!(said.contains(expected), "it explains:\n{said}");
            }
            _ => {
                let (one, other) = rest.split_once(' ').unwrap();
                let (one, other) = (self.node(one), self.node(other));
                self.cluster().check_equal(one, other, "compared");
            }
        }
    }
}

/// Runs one file; a failure names the line.
fn run(name: &str, script: &str) {
    let mut run = Run {
        settings: settings(id(0)),
        cluster: None,
        asked: id(0),
    };
    for (number, line) in script.lines().enumerate() {
        let step = line.split('#').next().unwrap_or_default().trim();
        if step.is_empty() {
            continue;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.line(step)));
        if outcome.is_err() {
            panic!("{name}:{}: {step}", number + 1);
        }
    }
}

#[test]
fn every_scenario_goes_as_it_is_written() {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/supervisor/scenarios");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    names.sort();
    assert!(!names.is_empty());
    let mut failed = Vec::new();
    for path in names {
        let script = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if std::panic::catch_unwind(|| run(&name, &script)).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
