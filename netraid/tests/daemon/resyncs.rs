//! Processes that end in the middle of a resync: it goes on where it was, and nobody takes over from half a copy.

use std::fs;

use netraid::api::document::{Mirror, Order};
use netraid::control;

use crate::cable::Cable;
use crate::cluster::{Cluster, MIB};
use crate::node::{PATIENCE, Process, TAG, wait};

/// What server2 lacks is being copied, slowly, and some of its bits are gone already.
pub fn in_the_middle() -> Cluster {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let targets = Vec::new;
    // The bits of the first resync go some seconds after its end.
    server1.wait_for("few bits", |mirror| marked(mirror) < 2 << 20);
    server1.done(&Order::Pause { targets: targets() });
    server1.sees(&["Source", "Paused"]);
    cluster.application(0).write(0..12 * MIB);
    bound(&cluster, 700);
    server1.done(&Order::Resume { targets: targets() });
    server2.sees(&["Source", "Resyncing"]);
    server1.wait_for("progress", |mirror| marked(mirror) < 10 << 20);
    server1.sees(&["Source", "Resyncing"]);
    cluster
}

fn marked(mirror: &Mirror) -> u64 {
    mirror.dirty_bytes.unwrap_or(u64::MAX)
}

/// Bounds the speed of the resync, in KiB a second, until the array is started again.
pub fn bound(cluster: &Cluster, speed: u32) {
    let order = control::Order::Speed {
        most: Some(speed),
        least: Some(speed),
        control: None,
    };
    // It may just be starting again.
    wait("the array takes no order", || {
        control::order(&cluster.nodes[0].run_dir(), TAG, &order, PATIENCE).is_ok()
    });
}

/// The speed that the next daemon of the source finds configured.
fn configure(cluster: &Cluster, speed: u32) {
    let text = format!("LKDR_SPEED_LIMIT={speed}\nLKDR_SPEED_LIMIT_MIN={speed}\n");
    fs::write(cluster.nodes[0].folder.join("etc/defaults"), text).unwrap();
}

/// Everything is equal in the end, and what was copied last was at most the rest.
fn went_on(cluster: &Cluster) {
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    bound(cluster, 500_000);
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    if let Some(resync) = &mirror.nodes[1].last_resync {
        assert!(!resync.full && resync.dirty_bytes < 11 << 20, "{resync:?}");
    }
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn netraidd_of_the_source_dies_and_the_copying_goes_on_without_it() {
    let cluster = in_the_middle();
    let server1 = &cluster.nodes[0];
    server1.kill_daemon();
    configure(&cluster, 700);
    server1.start_daemon();
    let mirror = server1.sees(&["Source", "Resyncing"]);
    assert_eq!(mirror.nodes[1].last_resync, None);
    went_on(&cluster);
    assert!(!server1.told("leg-dropped", ""));
}

#[test]
fn a_daemon_that_begins_anew_gives_the_array_the_speed_that_is_configured() {
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    // A KiB a second: it would take hours.
    bound(&cluster, 1);
    configure(&cluster, 500_000);
    server1.end_daemon();
    server1.start_daemon();
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    assert!(!server1.told("leg-dropped", ""));
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn netraidd_of_the_source_is_away_until_the_copying_has_ended() {
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.kill_daemon();
    bound(&cluster, 500_000);
    wait("the copying does not end", || {
        server1.data() == server2.data()
    });
    server1.start_daemon();
    went_on(&cluster);
}

#[test]
fn netraidd_of_the_target_dies_and_the_copying_goes_on_without_it() {
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server2.kill_daemon();
    server1.sees(&["Source", "Resyncing"]);
    server2.start_daemon();
    server1.sees(&["Source", "Resyncing"]);
    bound(&cluster, 500_000);
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
    let copies = server1.events();
    let copies = copies.iter().filter(|event| event.event == "resync");
    assert_eq!(copies.count(), 2, "the first one, and this one");
}

#[test]
fn the_target_loses_power_and_the_copying_goes_on_where_it_was() {
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server2.power_off();
    server1.sees(&["Source", "Unknown"]);
    server2.boot();
    went_on(&cluster);
}

#[test]
fn the_array_dies_and_the_copying_goes_on_where_it_was() {
    let cluster = in_the_middle();
    let server1 = &cluster.nodes[0];
    assert!(server1.kill_process(Process::Array));
    server1.wait_told("array-died", "");
    went_on(&cluster);
}

#[test]
fn the_export_dies_and_the_copying_goes_on_where_it_was() {
    let cluster = in_the_middle();
    let server2 = &cluster.nodes[1];
    assert!(server2.kill_process(Process::Export));
    server2.wait_told("export-restarted", "");
    went_on(&cluster);
}

#[test]
fn the_cable_is_cut_and_the_copying_goes_on_where_it_was() {
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    server2.sees(&["Unknown", "Out of Sync"]);
    server2.refused(&Order::Restore, "was being resynced");
    cluster.join(0, 1);
    went_on(&cluster);
}

#[test]
fn the_source_loses_power_and_server2_does_not_take_over_until_it_is_forced() {
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.power_off();
    server2.sees(&["Unknown", "Out of Sync"]);
    server2.refused(&Order::Restore, "mirror_action data force server2");
    server2.done(&Order::Force);
    server2.sees(&["Unknown", "Source"]);
    cluster.application(1).write(0..MIB);
    let data = server2.data();
    // Who was forced is not silently overwritten, nor does it overwrite server1, which has more.
    let before = server1.data();
    server1.boot();
    server2.sees(&["Split Brain", "Source"]);
    server1.sees(&["Split Brain", "Source"]);
    assert!(server1.data() == before && server2.data() == data);
    server2.done(&Order::Resolve {
        discard: "server1".into(),
    });
    server2.sees(&["Target", "Source"]);
    assert!(server2.data() == data);
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn a_clean_stop_in_the_middle_of_a_resync_is_none_for_the_target() {
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.done(&Order::Remove);
    server2.sees(&["Target", "Out of Sync"]);
    server2.refused(&Order::Restore, "was being resynced");
    server1.done(&Order::Restore);
    went_on(&cluster);
}
