//! The failover scenario of three nodes, in the words of the specification.

use netraid::api::document::Order;

use crate::cluster::{Cluster, MIB};

const WAITS: &str = "Out of Sync (Wait for Previous Source)";

#[test]
fn server2_waits_for_server1_whose_bitmap_saves_server3_a_full_resync() {
    let cluster = Cluster::slow(3).mirrored();
    let [server1, server2, server3] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    let mut application = cluster.application(0);
    application.write(0..MIB);
    for node in &cluster.nodes {
        node.sees(&["Source", "Target", "Target"]);
    }
    server1.power_off();
    server2.sees(&["Unknown", "Target", "Target"]);
    server3.sees(&["Unknown", "Target", "Target"]);

    // Failover to the next highest priority; replication to Server 3 is not resumed.
    server2.done(&Order::Restore);
    let mirror = server2.sees(&["Unknown", "Source", WAITS]);
    assert_eq!(mirror.previous_source.as_deref(), Some("server1"));
    let waits_for = mirror.nodes[2].waits_for.clone().unwrap();
    assert!(waits_for.starts_with("server1, for ever"), "{waits_for}");
    let command = mirror.nodes[2].command.as_deref();
    assert_eq!(
        command,
        Some("mirror_action data fullresync server2 server3")
    );
    assert_eq!(server2.flags(), "last_owner source=server1");
    assert_eq!(server3.flags(), "source=server1");
    application.moves_to(server2.run_dir().join("data.nbd"));
    application.write(MIB..9 * MIB);
    server2.done(&Order::QuickCheck);
    server2.sees(&["Unknown", "Source", WAITS]);

    // Server 1 reconnects: its bitmap is merged, its resync begins, and Server 3 comes after it.
    assert_eq!(server1.flags(), "last_owner source=server1");
    server1.boot();
    let mirror = server2.sees(&["Resyncing", "Source", "Out of Sync"]);
    assert!(
        mirror.nodes[2].why.contains("server1 is resynced first"),
        "{:?}",
        mirror.nodes[2]
    );
    server1.sees(&["Resyncing", "Source", "Out of Sync"]);
    assert_eq!(server1.flags(), "source=server1");
    assert!(server2.told("merged", "server1"));

    // Its status is Target, and Server 3 is Resyncing.
    server2.sees(&["Target", "Source", "Resyncing"]);
    server1.sees(&["Target", "Source", "Resyncing"]);
    server3.sees(&["Target", "Source", "Resyncing"]);
    assert_eq!(server1.flags(), "source=server2");
    assert_eq!(server3.flags(), "source=server1");
    let mirror = server2.sees(&["Target", "Source", "Target"]);
    server3.sees(&["Target", "Source", "Target"]);
    assert_eq!(server3.flags(), "source=server2");
    assert_eq!(server2.flags(), "last_owner source=server2");
    for node in [0, 2] {
        let resync = mirror.nodes[node].last_resync.clone().unwrap();
        assert!(!resync.full, "{resync:?}");
    }
    cluster.legs_equal(&[0, 1, 2]);
    application.check(&server3.data());
}

#[test]
fn no_previous_source_is_needed_after_a_clean_stop_with_targets_in_sync() {
    let cluster = Cluster::new(3).mirrored();
    let [server1, server2, server3] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    cluster.application(0).write(0..MIB);
    server1.done(&Order::Remove);
    server2.sees(&["Target", "Target", "Target"]);
    server3.sees(&["Target", "Target", "Target"]);
    server1.power_off();

    server2.done(&Order::Restore);
    let mirror = server2.sees(&["Unknown", "Source", "Target"]);
    assert!(!server2.told("waits-for-previous-source", ""));
    let resync = mirror.nodes[2].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    assert_eq!(server2.flags(), "last_owner source=server2");
    cluster.legs_equal(&[1, 2]);
}
