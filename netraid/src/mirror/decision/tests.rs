//! Every row of the table, from both sides.

use proptest::prelude::*;

use super::*;
use crate::mirror::generation::{Generations, SLOTS};
use crate::mirror::node::{NodeId, NodeSet};

/// What a node tells that is out of service, complete, and of that generation.
pub(in crate::mirror) fn record(slot: u8, current: u64) -> Record {
    Record {
        node: NodeId::new(slot).unwrap(),
        generations: Generations {
            current: Generation(current),
            ..Generations::default()
        },
        consistent: true,
        outdated: false,
        fresh: false,
        running: false,
        starting: false,
        crashed: false,
        members: NodeSet::NONE,
        resyncing: NodeSet::NONE,
        nodes: NodeSet::NONE,
        in_sync: NodeSet::NONE,
        settled: NodeSet::NONE,
        accepts: None,
        follows: None,
        agreement: 0,
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

fn two() -> (Record, Record) {
    (record(0, 1), record(1, 1))
}

/// Checks what `own` is told, and that `peer` is told the reverse under `other_row` with the same rule.
fn check(
    (own, peer): (Record, Record),
    rules: Rules,
    rows: (&str, &str),
    rule: &str,
    outcome: Outcome,
) {
    let here = compare(&own, &peer, &rules);
    assert_eq!((here.row, here.rule, here.outcome), (rows.0, rule, outcome));
    let there = compare(&peer, &own, &rules);
    let expected = (rows.1, rule, outcome.reversed());
    assert_eq!((there.row, there.rule, there.outcome), expected);
}

const fn rules(protocol: Protocol) -> Rules {
    Rules {
        protocol,
        policies: Policies {
            none_in_service: policy::NoneInService::Disconnect,
            one_in_service: policy::OneInService::Disconnect,
            both_in_service: policy::BothInService::Disconnect,
            role_conflict: policy::RoleConflict::Disconnect,
            always: false,
        },
    }
}

const C: Rules = rules(Protocol::Sync);
const A: Rules = rules(Protocol::Async);
const PART: Extent = Extent::Partial;
const TO: Outcome = Outcome::ToPeer(PART);

#[test]
fn row_0_what_is_about_to_change_is_compared_again() {
    let (mut own, peer) = two();
    own.changing = true;
    let rule = "changed while comparing";
    check((own, peer), C, ("0", "0"), rule, Outcome::Again);
}

#[test]
fn row_1_to_3_blank_legs_are_filled() {
    let blank = || record(1, 0);
    let rule = "both just created";
    check(
        (record(0, 0), blank()),
        C,
        ("1", "1"),
        rule,
        Outcome::Nothing,
    );
    let outcome = Outcome::ToPeer(Extent::Full);
    check(
        (record(0, 1), blank()),
        C,
        ("3", "2"),
        "one just created",
        outcome,
    );
}

#[test]
fn row_4_and_5_the_source_that_did_not_see_the_end_of_a_resync_is_source() {
    let (mut own, peer) = two();
    own.generations.away[1] = Generation(7);
    check((own, peer), C, ("4", "5"), "end of the resync not seen", TO);
}

#[test]
fn row_6_after_a_flap_nothing_is_copied() {
    let (mut own, mut peer) = two();
    (own.fresh, peer.fresh) = (true, true);
    let rule = "neither was restarted";
    check((own, peer), C, ("6", "6"), rule, Outcome::Nothing);
}

#[test]
fn row_7_an_asynchronous_source_that_crashed_may_have_acknowledged_more() {
    let (mut own, mut peer) = two();
    (own.crashed, peer.fresh) = (true, true);
    let rule = "crashed source may have acknowledged more";
    check((own.clone(), peer.clone()), A, ("7", "7"), rule, TO);
    // Not any more when the survivor went into service.
    peer.running = true;
    let outcome = Outcome::FromPeer(PART);
    check((own, peer), A, ("a", "a"), "one is in service", outcome);
}

#[test]
fn row_8_and_9_who_lost_its_quorum_as_source_is_source() {
    let (mut own, mut peer) = two();
    own.lost_quorum = true;
    let rule = "one lost its quorum as source";
    check((own.clone(), peer.clone()), C, ("8", "8"), rule, TO);
    peer.lost_quorum = true;
    let rule = "both lost their quorum as source";
    check((own, peer), C, ("9", "9"), rule, TO);
}

#[test]
fn row_10_the_survivor_of_a_crash_is_source() {
    let (mut own, mut peer) = two();
    (own.fresh, peer.crashed) = (true, true);
    let rule = "one crashed, the other survived";
    check((own, peer), C, ("10", "10"), rule, TO);
}

#[test]
fn row_11_one_that_was_restarted_without_a_crash_needs_nothing() {
    let (mut own, peer) = two();
    own.fresh = true;
    let rule = "one was restarted";
    check((own, peer), C, ("11", "11"), rule, Outcome::Nothing);
}

#[test]
fn row_12_and_13_when_both_were_off_the_crashed_source_is_source() {
    let (mut own, mut peer) = two();
    let rule = "both were off, none crashed";
    check(
        (own.clone(), peer.clone()),
        C,
        ("13", "13"),
        rule,
        Outcome::Nothing,
    );
    own.crashed = true;
    let rule = "one crashed as source";
    check((own.clone(), peer.clone()), C, ("12", "12"), rule, TO);
    peer.crashed = true;
    let rule = "both crashed as source";
    check((own, peer), C, ("12", "12"), rule, TO);
}

#[test]
fn row_14_and_16_who_was_away_gets_what_is_marked() {
    let (mut own, peer) = two();
    own.generations.mint(Generation(2), [1].into_iter());
    check((own, peer), C, ("16", "14"), "was away", TO);
}

#[test]
fn row_15_and_17_who_is_as_old_as_a_third_gets_what_is_marked() {
    let (mut own, peer) = two();
    own.generations.mint(Generation(2), [2].into_iter());
    own.generations.away[1] = Generation::NONE;
    let rule = "away as another leg";
    check((own, peer), C, ("17", "15"), rule, TO);
}

#[test]
fn row_18_and_19_who_is_long_away_gets_everything() {
    let (mut own, peer) = two();
    own.generations.current = Generation(3);
    own.generations.history = vec![Generation(2), Generation(1)];
    let outcome = Outcome::ToPeer(Extent::Full);
    check((own, peer), C, ("19", "18"), "long away", outcome);
}

#[test]
fn row_20_and_21_two_that_wrote_alone_are_left_alone() {
    let (mut own, mut peer) = two();
    own.generations.mint(Generation(2), [1].into_iter());
    peer.generations.mint(Generation(3), [0].into_iter());
    let outcome = Outcome::SplitBrain(PART);
    check(
        (own.clone(), peer.clone()),
        C,
        ("20", "20"),
        "both written alone",
        outcome,
    );
    (own.generations.away, peer.generations.away) = Default::default();
    let outcome = Outcome::SplitBrain(Extent::Full);
    check((own, peer), C, ("21", "21"), "common ancestor", outcome);
}

#[test]
fn row_22_strangers_are_left_alone() {
    let (own, peer) = (record(0, 1), record(1, 2));
    let rule = "nothing in common";
    check((own, peer), C, ("22", "22"), rule, Outcome::Unrelated);
}

#[test]
fn step_a_better_data_and_a_running_source_count_more_than_old_roles() {
    let (mut own, mut peer) = two();
    (own.crashed, own.consistent) = (true, false);
    let outcome = Outcome::FromPeer(PART);
    let rule = "one was being resynced";
    check((own.clone(), peer.clone()), C, ("a", "a"), rule, outcome);
    (own.consistent, peer.running) = (true, true);
    check((own, peer), C, ("a", "a"), "one is in service", outcome);
}

#[test]
fn step_e_a_split_brain_ends_when_one_side_is_given_up_by_either() {
    let (mut own, mut peer) = two();
    own.generations.mint(Generation(2), [1].into_iter());
    peer.generations.mint(Generation(3), [0].into_iter());
    let rule = "split brain, one side given up";
    let (mut here, mut there) = (own.clone(), peer.clone());
    here.discarded[1] = Generation(3);
    check((here.clone(), peer.clone()), C, ("e", "e"), rule, TO);
    there.discarded[1] = Generation(3);
    check((own.clone(), there.clone()), C, ("e", "e"), rule, TO);
    // What the peer has written since is not what was given up.
    here.discarded[1] = Generation(9);
    let still = compare(&here, &peer, &C);
    assert_eq!(still.row, "20");
    // Opposite orders are none, unless one of the two is in service.
    there.discarded[1] = Generation(3);
    there.discarded[0] = Generation(2);
    assert_eq!(compare(&own, &there, &C).row, "20");
    let running = Record {
        running: true,
        ..own.clone()
    };
    check((running, there), C, ("e", "e"), rule, TO);
    let (mut mine, theirs) = (record(0, 1), record(1, 2));
    mine.discarded[1] = Generation(2);
    let rule = "unrelated data, one side given up";
    let outcome = Outcome::ToPeer(Extent::Full);
    check((mine, theirs), C, ("e", "e"), rule, outcome);
}

#[test]
fn step_f_newer_data_that_is_given_up_is_reverted_but_not_to_what_was_being_resynced() {
    let (mut own, mut peer) = two();
    peer.generations.mint(Generation(2), [0].into_iter());
    own.discarded[1] = Generation(2);
    let rule = "reverting to older data";
    check((own.clone(), peer.clone()), C, ("f", "f"), rule, TO);
    own.consistent = false;
    let outcome = Outcome::FromPeer(PART);
    check((own, peer), C, ("14", "16"), "was away", outcome);
}

fn any_record(slot: u8) -> impl Strategy<Value = Record> {
    let generations = (
        0u64..4,
        proptest::array::uniform8(0u64..4),
        proptest::collection::vec(1u64..5, 0..4),
        proptest::array::uniform2(0u64..4),
    );
    let split = (
        proptest::option::of(0u64..3),
        proptest::option::of(0u8..2),
        proptest::option::of(0u8..3),
    );
    (generations, proptest::array::uniform7(any::<bool>()), split).prop_map(
        move |((current, away, history, given), flags, (changes, source, follows))| {
            let mut record = record(slot, current);
            record.changes = changes;
            record.source = source.and_then(NodeId::new);
            record.follows = follows.and_then(NodeId::new);
            record.generations.away = away.map(Generation);
            record.generations.history = history.into_iter().map(Generation).collect();
            record.discarded[..2].copy_from_slice(&given.map(Generation));
            let [
                consistent,
                fresh,
                running,
                crashed,
                lost_quorum,
                changing,
                outdated,
            ] = flags;
            Record {
                consistent,
                fresh,
                running,
                crashed,
                lost_quorum,
                changing: changing && fresh,
                outdated,
                ..record
            }
        },
    )
}

fn any_policies() -> impl Strategy<Value = Policies> {
    let node = |slot| policy::NoneInService::DiscardNode(NodeId::new(slot).unwrap());
    let zero = proptest::sample::select(vec![
        policy::NoneInService::Disconnect,
        policy::NoneInService::DiscardYoungerPrimary,
        policy::NoneInService::DiscardOlderPrimary,
        policy::NoneInService::DiscardZeroChanges,
        policy::NoneInService::DiscardLeastChanges,
        node(0),
        node(2),
    ]);
    let one = proptest::sample::select(vec![
        policy::OneInService::Disconnect,
        policy::OneInService::Consensus,
        policy::OneInService::DiscardSecondary,
        policy::OneInService::CallPriLost,
    ]);
    let both = proptest::sample::select(vec![
        policy::BothInService::Disconnect,
        policy::BothInService::CallPriLost,
    ]);
    (zero, one, both, any::<bool>()).prop_map(|(zero, one, both, always)| Policies {
        none_in_service: zero,
        one_in_service: one,
        both_in_service: both,
        role_conflict: policy::RoleConflict::Disconnect,
        always,
    })
}

proptest! {
    #[test]
    fn both_sides_give_complementary_answers(
        mut own in any_record(0), mut peer in any_record(1), synchronous in any::<bool>(),
        policies in any_policies(), alike in any::<bool>(),
    ) {
        let rules = Rules {
            policies,
            ..if synchronous { C } else { A }
        };
        own.policies = policies.to_string();
        if alike {
            peer.policies.clone_from(&own.policies);
        }
        let here = compare(&own, &peer, &rules);
        let there = compare(&peer, &own, &rules);
        prop_assert_eq!(here.outcome, there.outcome.reversed());
        prop_assert_eq!(here.rule, there.rule);
        prop_assert_eq!(here.judgement, there.judgement);
    }

    #[test]
    fn data_that_nobody_gave_up_is_never_overwritten_by_one_that_does_not_know_it(
        own in any_record(0), peer in any_record(1),
    ) {
        // Whoever is overwritten is known to the other: by generation, as away, or in its history.
        let mut own = own;
        let mut peer = peer;
        (own.discarded, peer.discarded) = Default::default();
        if let Outcome::ToPeer(_) = compare(&own, &peer, &C).outcome {
            let theirs = peer.generations.current;
            let known = own.generations.current == theirs
                || own.generations.away.contains(&theirs)
                || own.generations.history.contains(&theirs)
                || theirs == Generation::NONE;
            prop_assert!(known);
        }
    }
}

#[test]
fn row_c_a_view_says_nothing_of_who_has_promised_a_later_term() {
    use crate::mirror::vote::{Term, View};
    let (mut own, mut peer) = two();
    own.generations.mint(Generation(7), [1].into_iter());
    peer.generations.mint(Generation(8), [0].into_iter());
    let term = |number, slot| Term {
        number,
        node: NodeId::new(slot).unwrap(),
    };
    let view = |term: Term| View {
        term,
        change: 1,
        members: NodeSet::of(term.node),
        forced: false,
    };
    (own.vote.promised, own.vote.view) = (Some(term(3, 0)), Some(view(term(3, 0))));
    (peer.vote.promised, peer.vote.view) = (Some(term(2, 1)), Some(view(term(2, 1))));
    let rule = "one wrote without a quorum, and answered nothing of it";
    check((own.clone(), peer.clone()), C, ("c", "c"), rule, TO);
    // It may follow a source that was voted for under a term that neither of these views knows.
    peer.vote.promised = Some(term(4, 2));
    let found = compare(&own, &peer, &C);
    assert!(matches!(found.outcome, Outcome::SplitBrain(_)), "{found:?}");
    // Nor of data of a time without votes, and none that was forced counts.
    peer.vote.promised = Some(term(2, 1));
    peer.vote.unvoted = true;
    let found = compare(&own, &peer, &C);
    assert!(matches!(found.outcome, Outcome::SplitBrain(_)), "{found:?}");
}
