//! A disk that takes no more writes because the pool behind it is full: told, marked, and nothing is lost or mixed up.

use netraid::api::document::Order;

use crate::cluster::{Cluster, MIB};
use crate::node::Process;

/// The front of a disk that can still be written: the metadata and half of the data.
const ROOM: u64 = 8 << 20;

#[test]
fn a_target_whose_pool_is_full_is_left_out_with_the_reason_and_gets_what_it_missed() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(12 * MIB);
    application.goes_on(5);
    server2.full_from(Process::Export, Some(ROOM));
    server1.wait_told("leg-failed", "server2");
    let mirror = server1.wait_for("why it failed", |mirror| {
        mirror.nodes[1].failure.is_some() && mirror.nodes[1].status != "Target"
    });
    let why = mirror.nodes[1].failure.clone().unwrap();
    assert!(why.contains("failed a write"), "{why}");
    // It can't be made equal as long as there is no room, however often that is tried.
    application.goes_on(20);
    let marked = |dirty: Option<u64>| dirty.is_some_and(|bytes| bytes > 0);
    server1.wait_for("bits", |mirror| marked(mirror.dirty_bytes));
    server2.refused(&Order::Restore, "");

    server2.full_from(Process::Export, None);
    let targets = vec!["server2".to_owned()];
    server1.done(&Order::Resume { targets });
    let mirror = server1.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    application.stop();
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    assert_eq!(application.broken(), Vec::<String>::new());
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_source_whose_pool_is_full_goes_on_through_its_target_which_takes_over() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(12 * MIB);
    application.goes_on(5);
    server1.full_from(Process::Array, Some(ROOM));
    let mirror = server1.wait_for("that its own disk failed", |mirror| {
        mirror.nodes[0].disk == "Diskless"
    });
    assert!(mirror.nodes[0].command.is_some(), "{mirror:?}");
    application.goes_on(20);
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    // Its own disk could not be told that all is well.
    server1.order(&Order::Remove);
    server1.wait_for("out of service", |mirror| mirror.service == "out");
    application.check(&server2.data());

    server2.done(&Order::Restore);
    application.moves_to(server2.device(crate::node::TAG));
    application.begin(12 * MIB);
    application.goes_on(5);
    server2.sees(&["Target", "Source"]);
    server1.sees(&["Target", "Source"]);
    application.stop();
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}
