//! A target under protocol A: written in order, not waited for, and always a state that the source once had.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use nbd_protocol::command::{Command, Outcome};
use netraid::raid1::engine::{OnCongestion, Settings};
use netraid::raid1::leg::{LegState, Slot, SlotSet};

use crate::rig::{DISK, Node, Rig};

const BLOCK: u64 = 4096;
const BUFFER: u64 = 64 << 10;

fn target() -> Slot {
    Slot::new(1).unwrap()
}

/// Both legs, whichever is not the source's own, are written asynchronously. A leg that hangs is not given up meanwhile.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.settings = Settings {
        asynchronous: Slot::first(2).collect::<SlotSet>(),
        send_buffer: BUFFER,
        leg_timeout: 60_000,
        ..rig.settings
    };
    rig.create();
    rig
}

fn behind(node: &Node) -> u64 {
    node.mirror
        .view(|view| view.engine.behind(target()))
        .unwrap()
}

/// Writes a log: block `number` holds its number, and is written when the one before was answered.
fn append(node: &Node, number: u64) -> Receiver<Outcome> {
    node.begin(Command::Write {
        offset: number * BLOCK,
        data: Bytes::from(number.to_le_bytes().repeat(BLOCK as usize / 8)),
        fua: false,
    })
}

/// How many entries of the log are on a disk: all up to some number, and none behind it.
fn log(rig: &Rig, name: &str) -> u64 {
    let data = rig.data(name);
    let entry = |number: u64| {
        let at = (number * BLOCK) as usize;
        u64::from_le_bytes(data[at..at + 8].try_into().unwrap())
    };
    let entries = (data.len() as u64 / BLOCK).min(DISK / BLOCK / 2);
    let there = (1..entries)
        .take_while(|number| entry(*number) == *number)
        .count() as u64;
    let stray = (there + 1..entries).find(|number| entry(*number) != 0);
    assert_eq!(stray, None, "{name} has {there} entries and a later one");
    there
}

/// Appends from entry `first` on until one is not answered; how many were, and the answer that is to come.
fn fill(node: &Node, first: u64) -> (u64, Receiver<Outcome>) {
    let mut number = first;
    loop {
        let answer = append(node, number);
        // A local disk that works answers long before.
        match answer.recv_timeout(Duration::from_secs(2)) {
            Ok(outcome) => outcome.unwrap(),
            Err(_) => return (number - 1, answer),
        };
        number += 1;
    }
}

#[test]
fn writes_and_flushes_are_answered_while_the_target_hangs_until_its_buffer_is_full() {
    let rig = rig();
    let node = rig.start("one");
    let (_server, disk) = rig.serve("two");
    node.extend(&rig, 1, "two");
    append(&node, 1).recv().unwrap().unwrap();
    node.wait_for("an empty buffer", || (behind(&node) == 0).then_some(()));
    disk.hold_writes();
    append(&node, 2).recv().unwrap().unwrap();
    node.flush();
    assert_eq!(
        node.read(2 * BLOCK, 8),
        2u64.to_le_bytes(),
        "the source sees what was answered"
    );
    let (answered, waiting) = fill(&node, 3);
    let most = BUFFER / BLOCK + 1;
    assert!((4..=most).contains(&answered), "{answered}");
    assert!(behind(&node) >= (answered - 1) * BLOCK);
    assert!(
        node.state(1) == LegState::InSync && node.mirror.view(|view| view.engine.trails(target()))
    );
    disk.work();
    waiting.recv().unwrap().unwrap();
    node.wait_for("an empty buffer", || (behind(&node) == 0).then_some(()));
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn the_target_of_a_source_that_died_has_a_beginning_of_its_log_and_takes_the_source_back_with_what_is_marked()
 {
    let rig = rig();
    let node = rig.start("one");
    let (server, disk) = rig.serve("two");
    node.extend(&rig, 1, "two");
    for number in 1..=20 {
        append(&node, number).recv().unwrap().unwrap();
    }
    node.wait_for("an empty buffer", || (behind(&node) == 0).then_some(()));
    node.wait_for_no_dirty_bit();
    disk.hold_writes();
    let (answered, _waiting) = fill(&node, 21);
    assert!(answered > 21);
    // The node dies: nothing more of it reaches any disk, and nobody notes that the target was lost.
    node.die();
    drop(server);
    disk.work();
    drop(disk);
    let kept = log(&rig, "two");
    assert!((20..answered).contains(&kept), "{kept} of {answered}");
    assert!(log(&rig, "one") >= answered);

    let node = rig.start("two");
    let (_server, _) = rig.serve("one");
    assert_eq!(node.read((kept + 1) * BLOCK, 8), [0; 8]);
    append(&node, kept + 1).recv().unwrap().unwrap();
    let slot = Slot::new(0).unwrap();
    node.keepers.keep(slot, rig.target("one")).unwrap();
    node.wait_for_state(0, LegState::InSync);
    let end = node.mirror.view(|view| view.last_resync.clone()).unwrap();
    assert!(end.copied < node.size() / 4, "{end:?}: only what is marked");
    node.stop();
    assert_eq!(log(&rig, "one"), kept + 1, "what was never sent is undone");
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn a_target_that_is_lost_with_writes_in_its_buffer_is_out_of_sync_by_those_chunks() {
    let rig = rig();
    let node = rig.start("one");
    let (server, disk) = rig.serve("two");
    node.extend(&rig, 1, "two");
    node.wait_for_no_dirty_bit();
    let before = node.mirror.view(|view| view.engine.generations().current);
    disk.hold_writes();
    append(&node, 1).recv().unwrap().unwrap();
    append(&node, 100).recv().unwrap().unwrap();
    node.mirror.lost(target(), "cut".into());
    assert_eq!(node.state(1), LegState::Absent);
    let (now, dirty) = node.mirror.view(|view| {
        let generations = view.engine.generations();
        (generations.current, view.engine.dirty().count())
    });
    assert_ne!(now, before, "the target may lack what was answered");
    assert_eq!(dirty, 2);
    drop(server);
    disk.work();
    drop(disk);
    let (_server, _) = rig.serve("two");
    node.wait_for_state(1, LegState::InSync);
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn a_congested_target_is_given_up_if_that_is_configured_and_gets_what_it_missed() {
    let mut rig = rig();
    rig.settings.on_congestion = OnCongestion::Disconnect(BUFFER / 2);
    let node = rig.start("one");
    let (server, disk) = rig.serve("two");
    node.extend(&rig, 1, "two");
    node.wait_for_no_dirty_bit();
    let before = node.mirror.view(|view| view.engine.expulsions(target()));
    disk.hold_writes();
    // No more than until it is given up: it is connected again at once, and what is copied to it then waits for its disk,
    // and whatever is written there waits for that.
    let expulsions = || node.mirror.view(|view| view.engine.expulsions(target()));
    let mut count = 0;
    while expulsions() == before {
        count += 1;
        append(&node, count).recv().unwrap().unwrap();
    }
    assert!(count <= BUFFER / BLOCK, "{count}");
    let (expulsions, reason) = node.mirror.view(|view| {
        let reason = view.engine.reason(target()).map(str::to_owned);
        (view.engine.expulsions(target()), reason.unwrap_or_default())
    });
    assert_eq!(expulsions, before + 1);
    assert!(reason.starts_with("congested: "), "{reason}");
    drop(server);
    disk.work();
    drop(disk);
    let there = log(&rig, "two");
    assert!(there < count, "{there}");
    let (_server, _) = rig.serve("two");
    node.wait_for_state(1, LegState::InSync);
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
    assert_eq!(log(&rig, "two"), count);
}

#[test]
fn a_congested_target_is_left_behind_at_one_moment_and_gets_what_it_missed_when_it_has_what_was_on_its_way()
 {
    let mut rig = rig();
    rig.settings.on_congestion = OnCongestion::PullAhead(BUFFER / 2);
    let node = rig.start("one");
    let (_server, disk) = rig.serve("two");
    node.extend(&rig, 1, "two");
    node.wait_for_no_dirty_bit();
    let expulsions = || node.mirror.view(|view| view.engine.expulsions(target()));
    let left_behind = || node.mirror.view(|view| view.engine.is_behind(target()));
    let before = expulsions();
    disk.hold_writes();
    let mut sent = 0;
    while !left_behind() {
        sent += 1;
        append(&node, sent).recv().unwrap().unwrap();
    }
    assert!(sent <= BUFFER / BLOCK, "{sent}");
    // Without it: none of these is sent.
    for number in sent + 1..=sent + 50 {
        append(&node, number).recv().unwrap().unwrap();
    }
    node.flush();
    assert!(left_behind(), "its connection is kept");
    assert_eq!(expulsions(), before + 1, "one departure");
    assert!(log(&rig, "two") < sent);
    disk.work();
    node.wait_for_state(1, LegState::InSync);
    let end = node.mirror.view(|view| view.last_resync.clone()).unwrap();
    assert!(end.copied < node.size() / 4, "{end:?}: only what is marked");
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
    assert_eq!(log(&rig, "two"), sent + 50);
}
