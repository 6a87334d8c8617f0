//! Cut cables while the source writes or does not.

use std::time::{Duration, Instant};

use netraid::api::document::Order;

use crate::cable::Cable;
use crate::cluster::{Cluster, MIB};
use crate::node::wait;

#[test]
fn a_cut_in_which_nothing_is_written_costs_no_resync_to_speak_of() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    let before = cluster.no_bits();
    let before = before.generation;
    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    server2.sees(&["Unknown", "Target"]);
    cluster.join(0, 1);
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full && resync.dirty_bytes <= 2 << 20, "{resync:?}");
    assert_eq!(
        mirror.generation, before,
        "a generation was named for nothing"
    );
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn what_is_written_during_a_cut_is_all_that_is_copied() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    // The bits of the first resync are dropped a while after it.
    cluster.no_bits();
    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    let application = cluster.application(0);
    application.write(5 * MIB..5 * MIB + 1);
    cluster.join(0, 1);
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(
        !resync.full && resync.dirty_bytes <= 128 << 10,
        "{resync:?}"
    );
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_black_hole_does_not_stop_the_application_for_long() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    application.goes_on(20);
    cluster.cut(0, 1, Cable::Hung);
    server1.sees(&["Source", "Unknown"]);
    application.goes_on(20);
    assert_eq!(application.broken(), Vec::<String>::new());
    assert!(
        application.pause() < Duration::from_secs(30),
        "{:?}",
        application.pause()
    );

    // What was on its way comes out now, and is not to land on what is newer.
    cluster.join(0, 1);
    server1.sees(&["Source", "Target"]);
    application.goes_on(20);
    application.stop();
    server2.sees(&["Source", "Target"]);
    let resync = server1.status().nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
    assert_eq!(application.broken(), Vec::<String>::new());
}

#[test]
fn a_cable_that_flaps_under_load_loses_nothing() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    for _ in 0..3 {
        application.goes_on(5);
        cluster.cut(0, 1, Cable::Reset);
        server1.sees(&["Source", "Unknown"]);
        cluster.join(0, 1);
        server1.sees(&["Source", "Target"]);
    }
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    let resync = server1.status().nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    server2.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_node_that_falls_silent_after_much_news_is_missed_within_seconds() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    for _ in 0..15 {
        let targets = Vec::new;
        server1.done(&Order::Pause { targets: targets() });
        server2.wait_for("that it is not in sync", |mirror| {
            mirror.nodes[1].status != "Target"
        });
        server1.done(&Order::Resume { targets: targets() });
        server2.sees(&["Source", "Target"]);
    }
    let cut = Instant::now();
    cluster.cut(0, 1, Cable::Hung);
    server2.sees(&["Unknown", "Target"]);
    // Nothing is written, so the leg of server2 has not missed anything, and is still in sync.
    let mirror = server1.wait_for("why server2 is silent", |mirror| {
        !mirror.nodes[1].reachable && mirror.nodes[1].failure.is_some()
    });
    let why = mirror.nodes[1].failure.clone().unwrap();
    assert!(why.contains("server2"), "{why}");
    assert!(
        cut.elapsed() < Duration::from_secs(12),
        "{:?}",
        cut.elapsed()
    );
}

#[test]
fn a_target_that_vanishes_without_a_word_while_nothing_is_written_is_missed_all_the_same() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    // After that nothing is written any more, not even by the mirror itself.
    wait("the legs do not become clean", || {
        cluster.nodes.iter().all(|node| node.is_clean())
    });
    let before = server1.status();
    cluster.cut(0, 1, Cable::Hung);
    server1.sees(&["Source", "Unknown"]);
    server1.wait_told("leg-failed", "server2");
    server2.sees(&["Unknown", "Target"]);
    cluster.join(0, 1);
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full && resync.dirty_bytes <= 2 << 20, "{resync:?}");
    assert_eq!(
        mirror.generation, before.generation,
        "a generation was named for nothing"
    );
    cluster.legs_equal(&[0, 1]);
}
