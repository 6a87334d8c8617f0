//! Two nodes that wrote without each other: recognised, told on both, and nobody's data is touched until somebody says
//! whose is given up.

use netraid::api::document::Order;

use crate::cable::Cable;
use crate::cluster::{Cluster, MIB};

/// Both nodes are in service and have written alone; the cable is whole again.
fn split(how: Cable) -> (Cluster, [Vec<u8>; 2]) {
    let cluster = Cluster::new(2).mirrored();
    let data = write_apart(&cluster, how);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.join(0, 1);
    server1.sees(&["Source", "Split Brain"]);
    server2.sees(&["Split Brain", "Source"]);
    (cluster, data)
}

/// The cable is cut, and both nodes are in service: server1 writes 1 MiB, server2 more.
pub fn write_apart(cluster: &Cluster, how: Cable) -> [Vec<u8>; 2] {
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    // What each lacks is marked by the other alone from here on.
    cluster.no_bits();
    cluster.cut(0, 1, how);
    server2.sees(&["Unknown", "Target"]);
    cluster.application(0).write(4 * MIB..5 * MIB);
    server1.sees(&["Source", "Unknown"]);
    server2.done(&Order::Force);
    cluster.application(1).write(MIB / 2..2 * MIB);
    [server1.data(), server2.data()]
}

fn untouched(cluster: &Cluster, data: &[Vec<u8>; 2]) {
    for (node, data) in cluster.nodes.iter().zip(data) {
        assert!(
            node.data() == *data,
            "the data of {} was touched",
            node.name
        );
    }
}

fn resolved_for_server1(how: Cable) {
    let (cluster, data) = split(how);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.wait_told("split-brain", "server2");
    server2.wait_told("split-brain", "server1");
    let resolve = |node: &str| Order::Resolve {
        discard: node.into(),
    };
    server1.refused(&resolve("server2"), "on server2: netraid stop data");
    server1.refused(&resolve("server1"), "netraid stop data");
    let targets = vec!["server2".to_owned()];
    server1.refused(&Order::FullResync { targets }, "split brain");
    untouched(&cluster, &data);

    server2.done(&Order::Remove);
    server1.sees(&["Source", "Split Brain"]);
    server2.sees(&["Source", "Split Brain"]);
    server2.refused(&Order::Restore, "in service on server1");
    let command = server1.status().nodes[1].command.clone().unwrap();
    assert!(
        command.contains("netraid resolve data --discard server2"),
        "{command}"
    );
    untouched(&cluster, &data);

    server1.done(&resolve("server2"));
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    assert_eq!(server2.flags(), "source=server1");
    assert!(
        server1.data() == data[0],
        "the data that was kept was changed"
    );
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn after_a_reset_cable_the_data_of_server2_is_given_up_by_order_only() {
    resolved_for_server1(Cable::Reset);
}

#[test]
fn after_a_hung_cable_the_data_of_server2_is_given_up_by_order_only() {
    resolved_for_server1(Cable::Hung);
}

#[test]
fn the_former_source_can_be_the_one_that_is_given_up() {
    let (cluster, data) = split(Cable::Reset);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.done(&Order::Remove);
    server2.sees(&["Split Brain", "Source"]);
    untouched(&cluster, &data);
    server2.done(&Order::Resolve {
        discard: "server1".into(),
    });
    let mirror = server2.sees(&["Target", "Source"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    assert!(
        server2.data() == data[1],
        "the data that was kept was changed"
    );
    cluster.legs_equal(&[0, 1]);
}
