//! Every policy in every situation, from both sides, and pinned in `table.txt`.

use std::fmt::Write;
use std::path::Path;

use super::*;
use crate::mirror::decision::{self, Outcome, Protocol, Rules, compare};
use crate::mirror::generation::Generation;

const TEXT: [&str; 3] = ["low", "high", "third"];

fn node(slot: u8) -> NodeId {
    NodeId::new(slot).unwrap()
}

fn record(slot: u8) -> Record {
    decision::tests::record(slot, 1)
}

/// Both wrote without the other; with what each marked unknown to the other, if only an ancestor is left.
fn split(ancestor_only: bool) -> [Record; 2] {
    let [mut low, mut high] = [record(0), record(1)];
    low.generations.mint(Generation(2), [1].into_iter());
    high.generations.mint(Generation(3), [0].into_iter());
    if ancestor_only {
        (low.generations.away, high.generations.away) = Default::default();
    }
    [low, high]
}

fn zeros() -> Vec<NoneInService> {
    vec![
        NoneInService::Disconnect,
        NoneInService::DiscardYoungerPrimary,
        NoneInService::DiscardOlderPrimary,
        NoneInService::DiscardZeroChanges,
        NoneInService::DiscardLeastChanges,
        NoneInService::DiscardNode(node(0)),
        NoneInService::DiscardNode(node(1)),
        NoneInService::DiscardNode(node(2)),
    ]
}

fn all_policies() -> Vec<Policies> {
    let mut all = Vec::new();
    for none_in_service in zeros() {
        for one_in_service in [
            OneInService::Disconnect,
            OneInService::Consensus,
            OneInService::DiscardSecondary,
            OneInService::CallPriLost,
        ] {
            for both_in_service in [BothInService::Disconnect, BothInService::CallPriLost] {
                for role_conflict in [RoleConflict::Disconnect, RoleConflict::CallPriLost] {
                    for always in [false, true] {
                        all.push(Policies {
                            none_in_service,
                            one_in_service,
                            both_in_service,
                            role_conflict,
                            always,
                        });
                    }
                }
            }
        }
    }
    all
}

/// What can be different about two nodes that have split, with a name.
fn situations() -> Vec<(String, [Record; 2])> {
    let mut all = Vec::new();
    let counts = [
        ("low wrote less", Some(1), Some(2)),
        ("high wrote less", Some(2), Some(1)),
        ("both wrote as much", Some(2), Some(2)),
        ("low wrote nothing", Some(0), Some(2)),
        ("high wrote nothing", Some(2), Some(0)),
        ("neither wrote", Some(0), Some(0)),
        (
            "what low wrote can't be told",
            Some(Record::UNKNOWN_CHANGES),
            Some(2),
        ),
        ("high has not counted yet", Some(1), None),
    ];
    let firsts = [
        ("low was source before", Some(0), Some(0)),
        ("high was source before", Some(1), Some(1)),
        ("both say that they were source before", Some(0), Some(1)),
    ];
    for ancestor_only in [false, true] {
        for (low_in, high_in) in [(false, false), (true, false), (false, true), (true, true)] {
            for (wrote, by_low, by_high) in counts {
                for (before, for_low, for_high) in firsts {
                    let [mut low, mut high] = split(ancestor_only);
                    (low.running, high.running) = (low_in, high_in);
                    (low.changes, high.changes) = (by_low, by_high);
                    (low.source, high.source) = (for_low.map(node), for_high.map(node));
                    let service = match (low_in, high_in) {
                        (false, false) => "none in service",
                        (true, false) => "low in service",
                        (false, true) => "high in service",
                        (true, true) => "both in service",
                    };
                    let known = if ancestor_only {
                        ", only an ancestor"
                    } else {
                        ""
                    };
                    all.push((format!("{service}, {wrote}, {before}{known}"), [low, high]));
                }
            }
        }
    }
    all
}

fn with(mut records: [Record; 2], policies: &Policies) -> ([Record; 2], Rules) {
    for record in &mut records {
        record.policies = policies.to_string();
    }
    let rules = Rules {
        protocol: Protocol::Sync,
        policies: *policies,
    };
    (records, rules)
}

fn compared(records: &[Record; 2], rules: &Rules) -> crate::mirror::decision::Decision {
    let [low, high] = records;
    let here = compare(low, high, rules);
    let there = compare(high, low, rules);
    assert_eq!(here.outcome, there.outcome.reversed());
    assert_eq!((here.rule, here.judgement), (there.rule, there.judgement));
    here
}

#[test]
fn both_sides_judge_alike_in_every_situation_and_whoever_is_in_service_is_never_overwritten() {
    let mut decided = 0;
    for policies in all_policies() {
        for (name, records) in situations() {
            let (records, rules) = with(records, &policies);
            let found = compared(&records, &rules);
            let judgement = found.judgement.expect("a judgement");
            let [low, high] = &records;
            match found.outcome {
                Outcome::SplitBrain(_) => assert!(
                    judgement.loser.is_none() || judgement.must_stop,
                    "{name}: {judgement:?}"
                ),
                Outcome::FromPeer(_) => {
                    assert!(!low.running && judgement.loser == Some(low.node), "{name}");
                    decided += 1;
                }
                Outcome::ToPeer(_) => {
                    assert!(
                        !high.running && judgement.loser == Some(high.node),
                        "{name}"
                    );
                    decided += 1;
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    assert!(decided > 1000, "{decided}");
}

#[test]
fn every_row_is_as_it_was_reviewed() {
    let mut out = String::from(
        "What the policies say of a split brain; written by the test every_row_is_as_it_was_reviewed.\n",
    );
    let base = Policies::default();
    let mut part = |title: &str, policies: &[Policies], wanted: &dyn Fn(&str) -> bool| {
        for policies in policies {
            writeln!(out, "\n== {title}: {policies}").unwrap();
            for (name, records) in situations() {
                if !wanted(&name) {
                    continue;
                }
                let (records, rules) = with(records, policies);
                let found = compared(&records, &rules);
                let judgement = found.judgement.expect("a judgement");
                let loser = judgement.loser.map_or("nobody", |loser| TEXT[loser.slot()]);
                let then = match (judgement.must_stop, found.outcome) {
                    (true, _) => ", once it is out of service".into(),
                    (_, Outcome::ToPeer(extent) | Outcome::FromPeer(extent)) => {
                        format!(", {extent:?}").to_lowercase()
                    }
                    _ => String::new(),
                };
                let (policy, why) = (judgement.policy, judgement.why);
                writeln!(out, "{name:86} {loser} ({policy}: {why}){then}").unwrap();
            }
        }
    };
    let known = |name: &str| !name.contains("ancestor");
    let of = |none_in_service| Policies {
        none_in_service,
        ..base
    };
    let zero: Vec<Policies> = zeros().into_iter().skip(1).map(of).collect();
    part("nobody in service", &zero, &|name| {
        known(name) && name.starts_with("none")
    });
    let mut one = Vec::new();
    let mut both = Vec::new();
    for slot in [0, 1] {
        let base = of(NoneInService::DiscardNode(node(slot)));
        for one_in_service in [
            OneInService::Consensus,
            OneInService::DiscardSecondary,
            OneInService::CallPriLost,
        ] {
            one.push(Policies {
                one_in_service,
                ..base
            });
        }
        both.push(Policies {
            both_in_service: BothInService::CallPriLost,
            ..base
        });
    }
    let plain = |name: &str| known(name) && name.contains("low wrote less, low was");
    part("one in service", &one, &|name| {
        plain(name) && !name.starts_with("none") && !name.starts_with("both")
    });
    part("both in service", &both, &|name| {
        plain(name) && name.starts_with("both in")
    });
    let always = Policies {
        always: true,
        ..of(NoneInService::DiscardLeastChanges)
    };
    let ancestor = |name: &str| !known(name) && name.contains("less, low was");
    let without = of(NoneInService::DiscardLeastChanges);
    part("only an ancestor is known", &[always, without], &ancestor);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mirror/policy/table.txt");
    if std::env::var_os("NETRAID_UPDATE").is_some() {
        std::fs::write(&path, &out).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (now, reviewed)) in out.lines().zip(reviewed.lines()).enumerate() {
        let line = number + 1;
        assert_eq!(
            now, reviewed,
            "table.txt:{line}; NETRAID_UPDATE=1 writes it anew"
        );
    }
    assert_eq!(out.lines().count(), reviewed.lines().count(), "table.txt");
}

#[test]
fn two_that_are_configured_differently_are_left_alone() {
    let policies = Policies {
        none_in_service: NoneInService::DiscardLeastChanges,
        ..Policies::default()
    };
    let (mut records, rules) = with(split(false), &policies);
    records[0].changes = Some(1);
    records[1].changes = Some(2);
    assert!(matches!(
        compared(&records, &rules).outcome,
        Outcome::FromPeer(_)
    ));
    records[1].policies = String::new();
    let found = compared(&records, &rules);
    assert!(matches!(found.outcome, Outcome::SplitBrain(_)));
    assert_eq!(
        found.judgement.unwrap().why,
        "the two are configured differently"
    );
}

#[test]
fn what_a_third_node_writes_to_is_not_judged_and_nothing_is_kept_that_was_being_resynced() {
    let policies = Policies {
        none_in_service: NoneInService::DiscardNode(node(1)),
        ..Policies::default()
    };
    let (mut records, rules) = with(split(false), &policies);
    (records[0].changes, records[1].changes) = (Some(1), Some(1));
    let mut following = records.clone();
    following[1].follows = Some(node(2));
    let found = compared(&following, &rules);
    assert_eq!(found.judgement.unwrap().loser, None);
    records[0].consistent = false;
    let found = compared(&records, &rules);
    assert_eq!(found.judgement.unwrap().loser, None);
}

#[test]
fn the_one_in_service_with_older_data_is_told_by_the_policy_for_roles() {
    let policies = Policies {
        role_conflict: RoleConflict::CallPriLost,
        ..Policies::default()
    };
    let [mut low, mut high] = [record(0), record(1)];
    high.generations.mint(Generation(2), [0].into_iter());
    (low.running, high.running) = (true, true);
    let (records, rules) = with([low, high], &policies);
    let found = compared(&records, &rules);
    assert!(matches!(found.outcome, Outcome::FromPeer(_)));
    let judgement = found.judgement.unwrap();
    assert_eq!(judgement.policy, "rr-conflict call-pri-lost");
    assert_eq!(
        (judgement.loser, judgement.must_stop),
        (Some(node(0)), true)
    );
}

#[test]
fn an_order_of_an_administrator_counts_more_than_a_policy() {
    let policies = Policies {
        none_in_service: NoneInService::DiscardNode(node(1)),
        ..Policies::default()
    };
    let (mut records, rules) = with(split(false), &policies);
    (records[0].changes, records[1].changes) = (Some(1), Some(1));
    let found = compared(&records, &rules);
    assert_eq!((found.row, found.rule), ("d", "after-sb-0pri discard-node"));
    records[1].discarded[0] = records[0].generations.current;
    let found = compared(&records, &rules);
    assert_eq!((found.row, found.judgement), ("e", None));
    assert!(matches!(found.outcome, Outcome::FromPeer(_)));
}
