//! `netraid adjust`: the daemon follows its configuration, does only the differences, and interrupts nobody.

use std::fs;
use std::process::{Command, Output};

use netraid::api::document::Order;

use crate::cluster::{Cluster, MIB, Options};
use crate::node::Node;

fn adjust(node: &Node, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netraid"))
        .arg("adjust")
        .args(words)
        .env("NETRAID_RUN_DIR", node.run_dir())
        .output()
        .unwrap()
}

fn said(node: &Node, words: &[&str]) -> String {
    let output = adjust(node, words);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Refused, nothing done; the reason.
fn refused(node: &Node) -> String {
    let output = adjust(node, &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn change(node: &Node, file: &str, change: impl Fn(&str) -> String) {
    let path = node.folder.join("etc").join(file);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, change(&text)).unwrap();
}

#[test]
fn what_has_changed_is_taken_up_and_an_application_that_writes_does_not_notice() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    application.goes_on(5);
    let unchanged = "everything is as it is configured\n";
    assert_eq!(said(server1, &[]), unchanged);
    let policy = "after-sb-1pri = \"discard-secondary\"\n[[nodes]]";
    for node in &cluster.nodes {
        change(node, "data.toml", |text| {
            text.replacen("[[nodes]]", policy, 1)
        });
        change(node, "defaults", |text| {
            format!("{text}LKDR_SPEED_LIMIT=4321\n")
        });
    }
    let before = server1.events();
    let resyncs = |events: &[netraid::api::document::Event]| {
        events
            .iter()
            .filter(|event| event.event == "resync")
            .count()
    };
    let steps = "data: policies for split brains: after-sb-0pri=disconnect after-sb-1pri=discard-secondary \
        after-sb-2pri=disconnect rr-conflict=disconnect always-asbp=no\n\
        data: parameters of /etc/default/LifeKeeper\n";
    assert_eq!(said(server1, &["--dry-run"]), steps);
    assert_eq!(said(server1, &["--dry-run"]), steps, "it was done");
    for node in &cluster.nodes {
        assert_eq!(said(node, &[]), steps);
        assert_eq!(said(node, &[]), unchanged);
    }
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    application.goes_on(20);
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    server1.sees(&["Source", "Target"]);
    assert_eq!(resyncs(&server1.events()), resyncs(&before));
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn what_cannot_be_changed_is_refused_by_name_and_then_nothing_is_done() {
    let cluster = Cluster::new(2).mirrored();
    let server1 = &cluster.nodes[0];
    let file = server1.folder.join("etc/data.toml");
    let good = fs::read_to_string(&file).unwrap();
    change(server1, "data.toml", |text| {
        let text = text.replacen("number = 0", "number = 7", 1);
        text.replacen("[[nodes]]", "after-sb-1pri = \"consensus\"\n[[nodes]]", 1)
    });
    let why = refused(server1);
    assert!(why.contains("data: number has changed"), "{why}");
    fs::write(&file, "tag = 1").unwrap();
    let wrong = adjust(server1, &[]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    fs::remove_file(&file).unwrap();
    let why = refused(server1);
    assert!(why.contains("still has a part in it"), "{why}");
    fs::write(&file, good).unwrap();
    assert_eq!(said(server1, &[]), "everything is as it is configured\n");
    server1.sees(&["Source", "Target"]);
}

#[test]
fn a_mirror_that_is_new_is_looked_after_and_one_that_is_forgotten_is_not() {
    let options = Options {
        more: vec![0, 1],
        ..Options::default()
    };
    let cluster = Cluster::prepared(2, options);
    let files: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| node.folder.join("etc/data.toml"))
        .collect();
    let texts: Vec<String> = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    for (node, file) in cluster.nodes.iter().zip(&files) {
        fs::remove_file(file).unwrap();
        node.start_daemon();
    }
    for ((node, file), text) in cluster.nodes.iter().zip(&files).zip(&texts) {
        fs::write(file, text).unwrap();
        assert_eq!(said(node, &[]), "data: begin to look after it\n");
    }
    let cluster = cluster.mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.done(&Order::Remove);
    for (node, file) in cluster.nodes.iter().zip(&files) {
        node.done(&Order::Delete);
        fs::remove_file(file).unwrap();
    }
    assert_eq!(said(server1, &[]), "data: look after it no more\n");
    assert_eq!(said(server2, &[]), "data: look after it no more\n");
    assert_eq!(server1.try_status().unwrap(), None);
}
