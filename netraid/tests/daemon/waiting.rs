//! LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT: not at all, some seconds, for ever.

use netraid::api::document::Order;

use crate::cluster::{Cluster, MIB, Options};

const WAITS: &str = "Out of Sync (Wait for Previous Source)";

/// Three nodes; server1 was source and is gone, server2 has just taken over.
fn taken_over(wait: &str) -> Cluster {
    let cluster = Cluster::with(
        3,
        Options {
            defaults: format!("LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT={wait}\n"),
            ..Options::default()
        },
    )
    .mirrored();
    cluster.application(0).write(0..MIB);
    cluster.nodes[0].power_off();
    cluster.nodes[1].done(&Order::Restore);
    cluster
}

fn server3_was_filled(cluster: &Cluster) {
    let server2 = &cluster.nodes[1];
    let mirror = server2.sees(&["Unknown", "Source", "Target"]);
    let resync = mirror.nodes[2].last_resync.clone().unwrap();
    assert!(resync.full, "{resync:?}");
    assert_eq!(
        resync.rule,
        "ordered, or the previous source was not waited for"
    );
    cluster.legs_equal(&[1, 2]);
}

/// The previous source itself gets what it lacks, no more.
fn server1_gets_what_it_lacks(cluster: &Cluster) {
    let server2 = &cluster.nodes[1];
    cluster.application(1).write(MIB..2 * MIB);
    cluster.nodes[0].boot();
    let mirror = server2.sees(&["Target", "Source", "Target"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    cluster.legs_equal(&[0, 1, 2]);
}

#[test]
fn with_0_the_previous_source_is_not_waited_for() {
    let cluster = taken_over("0");
    assert!(cluster.nodes[1].told("gave-up-waiting", "server1"));
    assert!(!cluster.nodes[1].told("waits-for-previous-source", ""));
    assert_eq!(cluster.nodes[1].flags(), "last_owner source=server2");
    server3_was_filled(&cluster);
    server1_gets_what_it_lacks(&cluster);
}

#[test]
fn with_3_the_previous_source_has_three_seconds() {
    let cluster = taken_over("3");
    let mirror = cluster.nodes[1].sees(&["Unknown", "Source", WAITS]);
    let waits_for = mirror.nodes[2].waits_for.clone().unwrap();
    assert_eq!(waits_for, "server1, 3 s at most; then everything is copied");
    server3_was_filled(&cluster);
    assert!(cluster.nodes[1].told("gave-up-waiting", "server1"));
    server1_gets_what_it_lacks(&cluster);
}

#[test]
fn with_60_a_previous_source_that_returns_in_time_saves_a_full_resync() {
    let cluster = taken_over("60");
    cluster.nodes[1].sees(&["Unknown", "Source", WAITS]);
    server1_gets_what_it_lacks(&cluster);
    let mirror = cluster.nodes[1].status();
    let resync = mirror.nodes[2].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    assert!(!cluster.nodes[1].told("gave-up-waiting", ""));
}

#[test]
fn with_minus_1_targets_wait_until_somebody_orders_a_full_resync() {
    let cluster = taken_over("-1");
    let server2 = &cluster.nodes[1];
    server2.sees(&["Unknown", "Source", WAITS]);
    // Neither a resume nor a restart of the daemon ends the waiting.
    let targets = vec!["server3".to_owned()];
    server2.done(&Order::Resume {
        targets: targets.clone(),
    });
    server2.sees(&["Unknown", "Source", WAITS]);
    server2.kill_daemon();
    server2.start_daemon();
    server2.sees(&["Unknown", "Source", WAITS]);
    server2.done(&Order::FullResync { targets });
    server3_was_filled(&cluster);
    server1_gets_what_it_lacks(&cluster);
}
