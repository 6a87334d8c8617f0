//! Faults of disks, of memory and of processes that stall: what returns with less than it had is recognised.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use netraid::api::document::{Decided, Mirror, Order, Outcome};
use nix::sys::signal::Signal;

use crate::cable::Cable;
use crate::cluster::{Cluster, DISK, MIB};
use crate::node::{Process, blank};

fn last_resync(mirror: &Mirror, node: usize) -> Decided {
    mirror.nodes[node].last_resync.clone().unwrap()
}

#[test]
fn a_source_that_was_cut_off_and_wrote_nothing_is_told_that_it_was_superseded() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    // Nothing is on its way any more that could be on one leg and not on the other.
    let before = cluster.no_bits();
    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    server2.sees(&["Unknown", "Target"]);
    server2.done(&Order::Restore);
    let application = cluster.application(1);
    application.write(0..2 * MIB);
    assert_eq!(server1.status().generation, before.generation);
    cluster.join(0, 1);
    server1.wait_told("superseded", "server2 took over");
    server1.refused(&Order::QuickCheck, "server2 took over");
    assert_eq!(server1.status().generation, before.generation);
    server1.done(&Order::Remove);
    let mirror = server2.sees(&["Target", "Source"]);
    server1.sees(&["Target", "Source"]);
    assert!(!last_resync(&mirror, 0).full, "{mirror:?}");
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}

#[test]
fn a_failover_after_which_nothing_was_written_ends_in_one_small_resync() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    server1.power_off();
    server2.sees(&["Unknown", "Target"]);
    server2.done(&Order::Restore);
    server1.boot();
    let mirror = server2.sees(&["Target", "Source"]);
    server1.sees(&["Target", "Source"]);
    assert!(!last_resync(&mirror, 0).full, "{mirror:?}");
    let copies = server2.events();
    let copies = copies.iter().filter(|event| event.event == "resync");
    assert_eq!(copies.count(), 1);
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn a_new_disk_of_a_target_gets_everything_and_the_reason_is_told() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    server2.power_off();
    application.write(MIB..2 * MIB);
    blank(&server2.disk(), DISK);
    server2.boot();
    server2.refused(&Order::Restore, "");
    let mirror = server1.sees(&["Source", "Target"]);
    let resync = last_resync(&mirror, 1);
    assert!(resync.full && !resync.rule.is_empty(), "{resync:?}");
    server2.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_target_whose_disk_is_an_older_copy_is_brought_up_to_date() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    // A snapshot of when it was away, and had missed what follows.
    server2.power_off();
    application.write(MIB..2 * MIB);
    let older = fs::read(server2.disk()).unwrap();
    server2.boot();
    server1.sees(&["Source", "Target"]);
    // The bits of that are gone.
    cluster.no_bits();
    server2.power_off();
    server1.sees(&["Source", "Unknown"]);
    application.write(2 * MIB..3 * MIB);
    fs::write(server2.disk(), older).unwrap();
    server2.boot();
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_disk_of_another_mirror_is_refused_by_name() {
    let cluster = Cluster::new(2).mirrored();
    let stranger = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    server2.power_off();
    server1.sees(&["Source", "Unknown"]);
    // The same tag and the same slot, but an array of another life.
    stranger.application(0).write(0..2 * MIB);
    stranger.nodes[0].done(&Order::Remove);
    stranger.nodes[1].power_off();
    fs::copy(stranger.nodes[1].disk(), server2.disk()).unwrap();
    let before = fs::read(server2.disk()).unwrap();
    server2.boot();
    let mirror = server1.wait_for("why it is not taken", |mirror| {
        let node = &mirror.nodes[1];
        node.reachable && (node.failure.is_some() || node.why.contains("nothing in common"))
    });
    assert_ne!(mirror.nodes[1].status, "Target");
    server2.not_done(&Order::Restore, Outcome::Refused, "");
    assert!(
        fs::read(server2.disk()).unwrap() == before,
        "the disk was written"
    );
}

#[test]
fn a_damaged_record_is_refused_by_name_and_nothing_is_touched() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    server1.power_off();
    let state = server1.state_dir();
    let records: Vec<_> = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("record"))
        .collect();
    assert_eq!(records.len(), 2, "{records:?}");
    for record in &records {
        let file = fs::OpenOptions::new().write(true).open(record).unwrap();
        file.write_all_at(&[0xee; 64], 16).unwrap();
    }
    let damaged: Vec<_> = records
        .iter()
        .map(|record| fs::read(record).unwrap())
        .collect();
    let data = server1.data();
    server1.boot();
    server1.wait_told("broken", "record");
    let answer = server1.order(&Order::Force);
    assert_ne!(answer.outcome, Outcome::Done);
    let why = answer.reason.unwrap().why;
    assert!(why.contains("record"), "{why}");
    for (record, bytes) in records.iter().zip(&damaged) {
        assert!(
            fs::read(record).unwrap() == *bytes,
            "{record:?} was changed"
        );
    }
    assert!(server1.data() == data);
    // The other node has all that was promised.
    server2.done(&Order::Restore);
}

#[test]
fn one_damaged_copy_of_the_record_is_made_good_by_the_other() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server2.power_off();
    let mut records: Vec<_> = fs::read_dir(server2.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("record"))
        .collect();
    records.sort();
    fs::write(&records[0], "torn").unwrap();
    server1.sees(&["Source", "Unknown"]);
    server2.boot();
    let mirror = server1.sees(&["Source", "Target"]);
    assert!(!last_resync(&mirror, 1).full);
}

#[test]
fn a_cable_that_is_cut_one_way_round_is_told_and_loses_nothing() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    application.goes_on(5);
    // Server1 does not reach server2, which reaches server1 all the same.
    cluster.cut_one_way(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    server2.sees(&["Source", "Out of Sync"]);
    server2.refused(&Order::Restore, "in service on server1");
    application.goes_on(5);
    cluster.join(0, 1);
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    // And the other way round.
    cluster.cut_one_way(1, 0, Cable::Reset);
    server2.sees(&["Unknown", "Target"]);
    application.goes_on(5);
    cluster.join(0, 1);
    server2.sees(&["Source", "Target"]);
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    server1.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_target_whose_export_stalls_is_left_out_and_comes_back() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    application.goes_on(5);
    server2.signal(Process::Export, Signal::SIGSTOP);
    server1.wait_told("leg-failed", "server2");
    application.goes_on(5);
    assert!(
        application.pause() < Duration::from_secs(30),
        "{:?}",
        application.pause()
    );
    // What it had received before it stalled is not to land on what is newer.
    server2.signal(Process::Export, Signal::SIGCONT);
    server1.sees(&["Source", "Target"]);
    application.goes_on(5);
    application.stop();
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    assert_eq!(application.broken(), Vec::<String>::new());
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_stalled_daemon_of_the_source_does_not_concern_the_application() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    application.goes_on(5);
    server1.signal(Process::Daemon, Signal::SIGSTOP);
    server2.sees(&["Unknown", "Target"]);
    application.goes_on(20);
    server1.signal(Process::Daemon, Signal::SIGCONT);
    server2.sees(&["Source", "Target"]);
    server1.sees(&["Source", "Target"]);
    assert!(!server1.told("leg-dropped", "") && !server1.told("leg-failed", ""));
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    assert!(
        application.pause() < Duration::from_secs(2),
        "{:?}",
        application.pause()
    );
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}
