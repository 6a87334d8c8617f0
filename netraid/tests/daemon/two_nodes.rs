//! The failover scenarios of two nodes, in the words of the specification.

use netraid::api::document::{Order, Outcome};

use crate::cluster::{Cluster, MIB, create, extend};

#[test]
fn scenario_1_failover_to_server2_and_a_partial_resync_back() {
    let cluster = Cluster::slow(2);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.done(&create());
    server1.sees(&["Source"]);
    assert_eq!(server1.flags(), "last_owner source=server1");
    let mut application = cluster.application(0);
    application.write(0..4 * MIB);

    // Once it is extended, the synchronisation begins at once.
    server1.done(&extend("server2"));
    server1.sees(&["Source", "Resyncing"]);
    server2.sees(&["Source", "Resyncing"]);
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    assert_eq!(server2.flags(), "source=server1");
    application.write(4 * MIB..5 * MIB);

    server1.power_off();
    server2.sees(&["Unknown", "Target"]);

    // Server 2 takes over, and operates in a degraded mode.
    server2.done(&Order::Restore);
    server2.sees(&["Unknown", "Source"]);
    assert_eq!(server2.flags(), "last_owner source=server1");
    application.moves_to(server2.run_dir().join("data.nbd"));
    application.write(MIB / 2..7 * MIB);

    // Server 1 is operational again: its last owner flag goes, and the changed blocks are resynced.
    assert_eq!(server1.flags(), "last_owner source=server1");
    server1.boot();
    server2.sees(&["Resyncing", "Source"]);
    server1.sees(&["Resyncing", "Source"]);
    assert_eq!(server1.flags(), "source=server1");
    let mirror = server2.sees(&["Target", "Source"]);
    server1.sees(&["Target", "Source"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    assert_eq!(server1.flags(), "source=server2");
    assert_eq!(server2.flags(), "last_owner source=server2");
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}

#[test]
fn scenario_2_server2_is_lost_during_the_resync_and_server1_does_not_take_over() {
    let cluster = Cluster::slow(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.write(0..MIB);
    server1.power_off();
    server2.done(&Order::Restore);
    application.moves_to(server2.run_dir().join("data.nbd"));
    application.write(MIB..9 * MIB);
    server1.boot();
    server2.sees(&["Resyncing", "Source"]);
    server1.sees(&["Resyncing", "Source"]);
    server2.power_off();
    server1.sees(&["Out of Sync", "Unknown"]);

    // The resync did not complete: no failover to Server 1.
    server1.refused(&Order::Restore, "server1 was being resynced");
    assert_eq!(server1.flags(), "source=server1");
    let mirror = server1.status();
    assert_eq!(mirror.nodes[0].disk, "Inconsistent");
    assert!(mirror.refusal.unwrap().why.contains("was being resynced"));

    // Only when Server 2 is operable again is it brought in service, on Server 2; the resync goes on.
    server2.boot();
    server2.done(&Order::Restore);
    server1.sees(&["Resyncing", "Source"]);
    let mirror = server2.sees(&["Target", "Source"]);
    server1.sees(&["Target", "Source"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}

#[test]
fn scenario_3_server1_returns_alone_and_is_not_in_service_until_it_is_forced() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    server2.power_off();
    server1.power_off();

    server1.boot();
    server1.sees(&["Out of Sync", "Unknown"]);
    assert_eq!(server1.flags(), "last_owner source=server1");
    // It can't communicate with the target: the flag is set, and it does not go into service.
    server1.refused(&Order::Restore, "mirror_action data force server1");
    assert_eq!(server1.flags(), "last_owner source=server1 data_corrupt");
    server1.sees(&["Out of Sync", "Unknown"]);
    server1.refused(&Order::Restore, "data_corrupt is set");
    server1.refused(&Order::QuickCheck, "not in service on server1");

    // Forced, the flag is deleted and it is in service.
    server1.done(&Order::Force);
    assert_eq!(server1.flags(), "last_owner source=server1");
    server1.sees(&["Source", "Unknown"]);
    application.write(MIB..2 * MIB);

    server2.boot();
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn scenario_4_the_target_returns_first_and_waits_for_server1() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    server2.power_off();
    application.write(MIB..2 * MIB);
    server1.power_off();

    server2.boot();
    server2.sees(&["Unknown", "Out of Sync"]);
    server2.refused(
        &Order::Restore,
        "server1 can't be reached, where newer data may be than on server2",
    );
    assert_eq!(server2.flags(), "source=server1");
    let waits_for = server2.status().nodes[1].waits_for.clone();
    assert_eq!(waits_for.as_deref(), Some("server1"));

    server1.boot();
    server1.done(&Order::Restore);
    assert_eq!(server1.flags(), "last_owner source=server1");
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn after_a_clean_stop_either_node_starts_without_the_other() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.write(0..MIB);
    server1.done(&Order::Remove);
    assert_eq!(server1.status().service, "out");
    server2.sees(&["Target", "Target"]);
    server1.power_off();

    server2.done(&Order::Restore);
    server2.sees(&["Unknown", "Source"]);
    assert_eq!(server2.flags(), "last_owner source=server2");
    application.moves_to(server2.run_dir().join("data.nbd"));
    application.write(MIB..2 * MIB);
    server1.boot();
    let mirror = server2.sees(&["Target", "Source"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    server1.sees(&["Target", "Source"]);
    assert_eq!(server1.flags(), "source=server2");
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}

#[test]
fn of_two_that_are_put_into_service_at_one_moment_one_gives_way() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.done(&Order::Remove);
    for _ in 0..5 {
        server1.sees(&["Target", "Target"]);
        server2.sees(&["Target", "Target"]);
        let answers = std::thread::scope(|scope| {
            let orders = [server1, server2].map(|node| scope.spawn(|| node.order(&Order::Restore)));
            orders.map(|order| order.join().unwrap().outcome)
        });
        let source = match answers {
            [Outcome::Done, Outcome::Refused] => 0,
            [Outcome::Refused, Outcome::Done] => 1,
            other => panic!("{other:?}"),
        };
        let mut words = ["Target", "Target"];
        words[source] = "Source";
        cluster.nodes[source].sees(&words);
        cluster.nodes[source].done(&Order::Remove);
    }
    cluster.legs_equal(&[0, 1]);
}
