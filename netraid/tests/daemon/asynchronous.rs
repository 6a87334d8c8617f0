//! Protocol A: the target is written in order and not waited for, and what it has is always a beginning.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command};
use netraid::api::document::Order;
use netraid::raid1::link::Link;

use crate::application::{Application, BLOCK};
use crate::cable::Cable;
use crate::cluster::{Cluster, MIB, Options};
use crate::events2::Listener;
use crate::node::{Node, PATIENCE, TAG, wait};

/// Bytes of a send buffer: sixteen blocks and what they cost beyond their bytes do not fit.
const BUFFER: u64 = 64 << 10;

fn cluster(nodes: usize) -> Cluster {
    cluster_with(nodes, "")
}

fn cluster_with(nodes: usize, more: &str) -> Cluster {
    let keys = format!("protocol = \"A\"\nsndbuf-size = {BUFFER}\n{more}");
    let options = Options {
        keys,
        ..Options::default()
    };
    Cluster::with(nodes, options).mirrored()
}

/// Entry `number` of a log: a block that names it.
fn append(link: &Link, number: u64) {
    let write = Command::Write {
        offset: number * BLOCK as u64,
        data: Bytes::from(number.to_le_bytes().repeat(BLOCK / 8)),
        fua: false,
    };
    link.run(write, PATIENCE).unwrap();
}

/// How many entries there are, all from the first on; none lies behind them.
fn entries(link: &Link) -> u64 {
    let length = (MIB as u32) * BLOCK as u32;
    let read = Command::Read { offset: 0, length };
    let Ok(Answer::Data(data)) = link.run(read, PATIENCE) else {
        panic!("the log can't be read");
    };
    let number = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().unwrap());
    let found: Vec<u64> = data.chunks(BLOCK).skip(1).map(number).collect();
    let there = (1u64..)
        .zip(&found)
        .take_while(|(wanted, found)| wanted == *found)
        .count();
    assert!(
        found[there..].iter().all(|number| *number == 0),
        "entries after a gap behind {there}"
    );
    there as u64
}

fn behind(node: &Node, target: usize) -> u64 {
    let mirror = node.status();
    mirror.nodes[target]
        .behind_bytes
        .unwrap_or_else(|| panic!("{:?} is not asynchronous", mirror.nodes[target]))
}

fn caught_up(node: &Node, target: usize) {
    wait("the target does not catch up", || behind(node, target) == 0);
}

#[test]
fn a_slow_cable_is_not_felt_until_the_send_buffer_is_full_and_then_costs_time_alone() {
    let cluster = cluster(2);
    let server1 = &cluster.nodes[0];
    let link = Application::open(&server1.device(TAG)).unwrap();
    append(&link, 1);
    caught_up(server1, 1);
    // Shorter than what a target may be silent for.
    cluster.cut_data(0, 1, Cable::Hung);
    for number in 2..=11 {
        append(&link, number);
    }
    link.run(Command::Flush, PATIENCE).unwrap();
    assert_eq!(entries(&link), 11, "the source reads what was answered");
    let mirror = server1.wait_for("the target is behind", |mirror| {
        mirror.nodes[1].behind_bytes >= Some(4 * BLOCK as u64)
    });
    assert!(
        mirror.nodes[1].why.contains("bytes behind"),
        "{:?}",
        mirror.nodes[1]
    );
    assert_eq!(mirror.nodes[1].status, "Target");
    let (told, hears) = mpsc::channel();
    let more = link.clone();
    let writer = thread::spawn(move || {
        for number in 12..=40 {
            append(&more, number);
            told.send(number).unwrap();
        }
    });
    let mut answered = 11;
    while let Ok(number) = hears.recv_timeout(Duration::from_secs(1)) {
        answered = number;
    }
    assert!(answered < 11 + BUFFER / BLOCK as u64, "{answered} answered");
    cluster.cut_data(0, 1, Cable::Whole);
    writer.join().unwrap();
    caught_up(server1, 1);
    server1.sees(&["Source", "Target"]);
    assert!(!server1.told("lost", "server2"), "{}", server1.log());
    link.close();
    server1.done(&Order::Remove);
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn a_source_that_dies_with_a_full_buffer_leaves_a_beginning_and_its_rest_is_undone_partially() {
    let cluster = cluster(2);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let link = Application::open(&server1.device(TAG)).unwrap();
    for number in 1..=20 {
        append(&link, number);
    }
    caught_up(server1, 1);
    cluster.cut_data(0, 1, Cable::Hung);
    for number in 21..=28 {
        append(&link, number);
    }
    link.run(Command::Flush, PATIENCE).unwrap();
    server1.power_off();
    cluster.cut_data(0, 1, Cable::Reset);
    drop(link);
    server2.sees(&["Unknown", "Target"]);
    server2.done(&Order::Restore);
    server2.wait_for("server2 is the source", |mirror| {
        mirror.nodes[1].status == "Source"
    });
    let link = Application::open(&server2.device(TAG)).unwrap();
    let kept = entries(&link);
    assert!((20..28).contains(&kept), "{kept}");
    append(&link, kept + 1);

    cluster.cut_data(0, 1, Cable::Whole);
    server1.boot();
    let mirror = server2.sees(&["Target", "Source"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    caught_up(server2, 0);
    assert_eq!(entries(&link), kept + 1);
    link.close();
    server2.done(&Order::Remove);
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn a_congested_target_is_left_behind_and_catches_up_by_itself() {
    let cluster = cluster_with(2, "on-congestion = \"pull-ahead\"");
    let server1 = &cluster.nodes[0];
    let link = Application::open(&server1.device(TAG)).unwrap();
    append(&link, 1);
    caught_up(server1, 1);
    // Shorter than what a target may be silent for.
    cluster.cut_data(0, 1, Cable::Hung);
    let listener = Listener::new(server1);
    listener.until("exists -");
    // More than the buffer holds: nothing waits.
    for number in 2..=60 {
        append(&link, number);
    }
    let mirror = server1.wait_for("the target is left behind", |mirror| {
        mirror.nodes[1].left_behind
    });
    assert_eq!(mirror.nodes[1].disk, "Consistent", "{:?}", mirror.nodes[1]);
    assert!(
        mirror.nodes[1].why.starts_with("behind, "),
        "{:?}",
        mirror.nodes[1]
    );
    assert!(server1.told("ahead", "server2"), "{}", server1.log());
    listener.until("replication:Ahead");
    cluster.cut_data(0, 1, Cable::Whole);
    let mirror = server1.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    assert!(!mirror.nodes[1].left_behind);
    assert!(server1.told("behind", "server2"), "{}", server1.log());
    caught_up(server1, 1);
    assert_eq!(entries(&link), 60);
    link.close();
    server1.done(&Order::Remove);
    cluster.legs_equal(&[0, 1]);
}
