//! Fencing with real daemons: a node that was marked as outdated over a second path does not take over.

use std::process::{Command, Output};

use netraid::api::document::Order;

use crate::cable::Cable;
use crate::cluster::{Cluster, MIB};
use crate::node::{Node, TAG};

/// `netraid COMMAND data ...` on a node.
fn netraid(node: &Node, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args([words[0], TAG])
        .args(&words[1..])
        .arg("--run-dir")
        .arg(node.run_dir())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// Ends with this code and says these words.
#[track_caller]
fn ends(node: &Node, words: &[&str], code: i32, expected: &str) -> Output {
    let output = netraid(node, words);
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    assert!(said(&output).contains(expected), "{}", said(&output));
    output
}

#[test]
fn a_target_that_was_outdated_over_a_second_path_keeps_to_it_until_it_is_in_sync_again() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    ends(server1, &["outdate"], 17, "data is in service on server1");
    ends(server2, &["outdate"], 3, "nobody goes on without it");
    ends(
        server2,
        &["outdate", "--for", "server9"],
        2,
        "server9 is not a node",
    );

    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    let words = ["outdate", "--for", "server1"];
    ends(
        server2,
        &[&words[..], &["--dry-run"]].concat(),
        0,
        "write data_record",
    );
    server2.wait_for("that a dry run does nothing", |mirror| {
        mirror.nodes[1].disk != "Outdated"
    });
    ends(server2, &words, 0, "is outdated here");
    server2.wait_told("outdated", "server1 goes on without it");
    application.write(MIB..2 * MIB);
    for _ in 0..2 {
        let mirror = server2.wait_for("its disk", |mirror| mirror.nodes[1].disk == "Outdated");
        let refusal = mirror.refusal.unwrap();
        assert!(refusal.why.contains("(Outdated)"), "{refusal:?}");
        server2.refused(&Order::Restore, "the source went on without it (Outdated)");
        let output = ends(server2, &["show-gi"], 0, "outdated: yes");
        assert!(
            said(&output).contains("netraid outdate"),
            "{}",
            said(&output)
        );
        // Over a restart of the node as well.
        server2.power_off();
        server2.boot();
    }
    let output = ends(
        server2,
        &[&words[..], &["--json"]].concat(),
        0,
        "netraid.answer/1",
    );
    assert!(output.stderr.is_empty());

    // In sync again, it may take over.
    cluster.join(0, 1);
    server1.sees(&["Source", "Target"]);
    server2.wait_for("its disk", |mirror| mirror.nodes[1].disk == "UpToDate");
    server1.done(&Order::Remove);
    server2.done(&Order::Restore);
    application.check(&server1.data());
}

#[test]
fn who_wrote_alone_is_not_outdated_for_who_did_not() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    cluster.cut(0, 1, Cable::Reset);
    server1.sees(&["Source", "Unknown"]);
    application.write(0..MIB);
    server1.done(&Order::Remove);
    let words = ["outdate", "--for", "server2"];
    ends(server1, &words, 18, "server1 wrote without server2");
    ends(
        server1,
        &words[..1],
        18,
        "no other node of data has what server1 has",
    );
    ends(
        server1,
        &[&words[..], &["--json"]].concat(),
        18,
        "\"exit_code\":18",
    );
    server2.sees(&["Unknown", "Target"]);
    // An administrator who wants the older data says so by name.
    ends(server2, &["outdate"], 0, "");
    server2.refused(&Order::Restore, "Outdated");
    server2.done(&Order::Force);
}
