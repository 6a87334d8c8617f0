//! Split brains that a policy ends, or that a program is told of: fault scenarios 16 to 18 with real daemons.

use std::fs;
use std::path::Path;

use netraid::api::document::Order;

use crate::cable::Cable;
use crate::cluster::{Cluster, MIB, Options};
use crate::node::wait;
use crate::split_brain::write_apart;

/// Two nodes with these keys that have both written: server1, the source before, 1 MiB, server2 more. The cable is cut.
fn apart(keys: &str) -> (Cluster, [Vec<u8>; 2]) {
    let options = Options {
        keys: keys.to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::with(2, options).mirrored();
    let data = write_apart(&cluster, Cable::Reset);
    (cluster, data)
}

/// A line for the shell that takes the mirror out of service on the node where it runs. The daemon's environment has no run
/// folder, but the disk beside it has a name.
fn stop(netraid: &Path) -> String {
    format!(
        "NETRAID_RUN_DIR=\"${{DRBD_LL_DISK%/disk}}/run\" {} stop data",
        netraid.display()
    )
}

fn netraid() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_netraid"))
}

/// The one with the number `loser` became a target by a partial resync, and has what the other had.
fn ended(cluster: &Cluster, data: &[Vec<u8>; 2], loser: usize, rule: &str) {
    let winner = 1 - loser;
    let words = match loser {
        0 => ["Target", "Source"],
        _ => ["Source", "Target"],
    };
    let mirror = cluster.nodes[winner].sees(&words);
    cluster.nodes[loser].sees(&words);
    let resync = mirror.nodes[loser].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    assert!(resync.rule.contains(rule), "{resync:?}");
    assert!(
        cluster.nodes[winner].data() == data[winner],
        "the data that was kept was changed"
    );
    cluster.legs_equal(&[0, 1]);
}

/// Both are out of service when they meet: `loser` is told and can't be started, the other can.
fn with_nobody_in_service(value: &str, loser: usize) {
    let (cluster, data) = apart(&format!("after-sb-0pri = \"{value}\""));
    for node in &cluster.nodes {
        node.done(&Order::Remove);
    }
    cluster.join(0, 1);
    let name = &cluster.nodes[loser].name;
    for node in &cluster.nodes {
        node.wait_told("split-brain-resolved", "after-sb-0pri discard");
        node.wait_told(
            "split-brain-resolved",
            &format!("the data of {name} is given up, at most"),
        );
        assert!(!node.told("split-brain", ""), "an administrator was called");
    }
    assert!(
        cluster.nodes[0].data() == data[0] && cluster.nodes[1].data() == data[1],
        "data was touched before anybody was in service"
    );
    cluster.nodes[loser].refused(&Order::Restore, "given up");
    cluster.nodes[1 - loser].done(&Order::Restore);
    ended(&cluster, &data, loser, "split brain, one side given up");
}

#[test]
fn the_younger_source_is_given_up() {
    with_nobody_in_service("discard-younger-primary", 1);
}

#[test]
fn the_older_source_is_given_up() {
    with_nobody_in_service("discard-older-primary", 0);
}

#[test]
fn the_one_that_wrote_less_is_given_up() {
    with_nobody_in_service("discard-least-changes", 0);
}

#[test]
fn the_one_that_is_named_is_given_up() {
    with_nobody_in_service("discard-node-server2", 1);
}

#[test]
fn the_one_out_of_service_is_given_up_without_anybodys_order_and_told_before_as_tentative() {
    let (cluster, data) = apart("after-sb-1pri = \"discard-secondary\"");
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let answer = server1.order(&Order::Tentative);
    assert!(
        answer.steps[0].contains("server2: can't be reached"),
        "{answer:?}"
    );
    cluster.join(0, 1);
    server1.wait_told("split-brain-policy", "after-sb-2pri disconnect");
    let answer = server1.order(&Order::Tentative);
    let told = &answer.steps[0];
    assert!(told.contains("nobody's data would be touched"), "{told}");
    assert!(told.contains("after-sb-2pri disconnect"), "{told}");
    server2.done(&Order::Remove);
    ended(&cluster, &data, 1, "after-sb-1pri discard-secondary");
    server1.wait_told("split-brain-resolved", "at most");
}

#[test]
fn a_consensus_does_not_give_up_the_one_in_service() {
    let keys = "after-sb-0pri = \"discard-older-primary\"\nafter-sb-1pri = \"consensus\"";
    let (cluster, data) = apart(keys);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server2.done(&Order::Remove);
    cluster.join(0, 1);
    server1.wait_told(
        "split-brain-policy",
        "consensus: the one in service would lose",
    );
    server1.wait_told("split-brain", "server2");
    assert!(server1.data() == data[0] && server2.data() == data[1]);
    // The other way round they agree.
    server1.done(&Order::Remove);
    server2.wait_told("split-brain-resolved", "the data of server1 is given up");
    server2.done(&Order::Restore);
    ended(&cluster, &data, 0, "after-sb-1pri consensus");
}

#[test]
fn of_two_in_service_the_loser_is_ended_by_its_program_and_becomes_a_target() {
    let keys = format!(
        "after-sb-0pri = \"discard-younger-primary\"\nafter-sb-1pri = \"discard-secondary\"\n\
         after-sb-2pri = \"call-pri-lost-after-sb\"\n[handlers]\npri-lost-after-sb = '{}'",
        stop(netraid())
    );
    let (cluster, data) = apart(&keys);
    let server2 = &cluster.nodes[1];
    cluster.join(0, 1);
    // Nobody orders anything.
    ended(&cluster, &data, 1, "after-sb-1pri discard-secondary");
    server2.wait_told("handler", "pri-lost-after-sb has ended");
    assert!(
        !cluster.nodes[0].told("handler", ""),
        "the winner's was called"
    );
}

#[test]
fn without_a_policy_both_are_told_by_a_program_once_and_nothing_is_touched() {
    let note =
        "echo \"$DRBD_RESOURCE $DRBD_PEER $DRBD_NODE_ID\" >>\"$(dirname \"$DRBD_LL_DISK\")\"/told";
    let keys = format!("[handlers]\nsplit-brain = '{note}'\ninitial-split-brain = 'exit 9'");
    let (cluster, data) = apart(&keys);
    let told = |node: usize| {
        let file = cluster.nodes[node].folder.join("told");
        fs::read_to_string(file).unwrap_or_default()
    };
    cluster.join(0, 1);
    wait("the programs were not called", || {
        !told(0).is_empty() && !told(1).is_empty()
    });
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.wait_told(
        "handler-failed",
        "initial-split-brain failed: exit status: 9",
    );
    // A link that flaps is no second split brain.
    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    server2.sees(&["Unknown", "Source"]);
    cluster.join(0, 1);
    server1.sees(&["Source", "Split Brain"]);
    server2.sees(&["Split Brain", "Source"]);
    assert_eq!(told(0), "data server2 0\n");
    assert_eq!(told(1), "data server1 1\n");
    assert!(server1.data() == data[0] && server2.data() == data[1]);
}

#[test]
fn who_wrote_nothing_alone_makes_no_split_brain_and_gives_way() {
    let keys = format!(
        "after-sb-0pri = \"discard-zero-changes\"\nafter-sb-1pri = \"consensus\"\n\
         rr-conflict = \"call-pri-lost\"\n[handlers]\npri-lost = '{}'",
        stop(netraid())
    );
    let options = Options {
        keys,
        ..Options::default()
    };
    let cluster = Cluster::with(2, options).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    cluster.no_bits();
    cluster.cut(0, 1, Cable::Reset);
    server2.sees(&["Unknown", "Target"]);
    application.write(MIB..2 * MIB);
    server1.sees(&["Source", "Unknown"]);
    server2.done(&Order::Force);
    server2.sees(&["Unknown", "Source"]);
    cluster.join(0, 1);
    // Its program ends it, and it gets what it missed.
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    assert!(!mirror.nodes[1].last_resync.clone().unwrap().full);
    server2.wait_told("handler", "pri-lost has ended");
    assert!(!server1.told("split-brain", "") && !server2.told("split-brain", ""));
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}
