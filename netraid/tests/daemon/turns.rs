//! How fast resyncs are, whose turn it is, and what is said of it: `resync-after`, `netraid resync TAG --boost`.

use std::process::{Command, Output};

use netraid::api::document::{Mirror, Mirrors, Order, Outcome};

use crate::application::Application;
use crate::cluster::{Cluster, MIB, Options, create, extend};
use crate::node::{Node, TAG, wait};

fn netraid(node: &Node, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args(words)
        .arg("--run-dir")
        .arg(node.run_dir())
        .output()
        .unwrap()
}

fn said(node: &Node, words: &[&str]) -> String {
    let output = netraid(node, words);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn limited_by(mirror: &Mirror) -> Option<&str> {
    mirror.resync.as_ref()?.limited_by.as_deref()
}

fn waits_for(mirror: &Mirror) -> Option<&str> {
    mirror.resync.as_ref()?.waits_for.as_deref()
}

#[test]
fn a_resync_waits_for_that_of_another_mirror_unless_it_is_boosted() {
    let cluster = Cluster::with(
        2,
        Options {
            // A minute for each of them.
            speed: Some(250),
            keys: "resync-after = \"more\"".into(),
            more: vec![0, 1],
            ..Options::default()
        },
    );
    let server1 = &cluster.nodes[0];
    let more = |order: &Order| {
        let answer = server1.order_to("more", order, "");
        assert_eq!(answer.outcome, Outcome::Done, "{answer:?}");
    };
    server1.done(&create());
    more(&create());
    // What was never written is not copied.
    cluster.application(0).write(0..14 * MIB);
    Application::new(server1.device("more")).write(0..14 * MIB);
    more(&extend("server2"));
    let status = |tag| said(server1, &["status", tag]);
    let copied = || {
        let document = said(server1, &["status", "more", "--json"]);
        let mirrors: Mirrors = serde_json::from_str(&document).unwrap();
        let resync = mirrors.mirrors[0].resync.as_ref();
        resync.map_or(0, |resync| resync.copied)
    };
    wait("more is not resynced", || copied() > 0);
    server1.done(&extend("server2"));
    let mirror = server1.wait_for("it wait", |mirror| waits_for(mirror) == Some("more"));
    assert_eq!(limited_by(&mirror), Some("paused"));
    let waits = "it waits for the resync of more (resync-after)";
    assert!(status(TAG).contains(waits), "{}", status(TAG));
    let explained = said(server1, &["explain", TAG]);
    assert!(explained.contains(waits), "{explained}");
    assert!(
        explained.contains("netraid resync data --boost"),
        "{explained}"
    );
    // Nothing is copied meanwhile, once what was under way has ended.
    let goes_on = || {
        let seen = copied();
        wait("more stands still", || copied() > seen);
    };
    goes_on();
    let before = server1.status().resync.unwrap().copied;
    goes_on();
    goes_on();
    assert_eq!(server1.status().resync.unwrap().copied, before);

    // A boost goes first, also of two mirrors; when it is over, all is as it was.
    said(server1, &["resync", TAG, "--boost", "--rate", "1M"]);
    let mirror = server1.wait_for("the boost", |mirror| {
        limited_by(mirror) == Some("c-max-rate")
    });
    let resync = mirror.resync.unwrap();
    assert!(resync.boosted && resync.waits_for.is_none(), "{resync:?}");
    assert_eq!(resync.why.unwrap(), "it has the rate of its boost, 1 MiB/s");
    said(server1, &["resync", TAG, "--normal"]);
    server1.wait_for("it wait again", |mirror| waits_for(mirror) == Some("more"));

    // The other one's resync ends, and this one's goes on by itself.
    said(server1, &["resync", "more", "--boost"]);
    let mirror = server1.wait_for("it go on", |mirror| {
        limited_by(mirror) == Some("c-max-rate")
    });
    let resync = mirror.resync.unwrap();
    assert!(!resync.boosted && !resync.paused, "{resync:?}");
    assert_eq!(resync.why.unwrap(), "its rate is fixed at 250 KiB/s");
    said(server1, &["resync", TAG, "--boost"]);
    server1.sees(&["Source", "Target"]);
    server1.wait_told("resync-normal", "the boosted resync has ended");
    cluster.legs_equal(&[0, 1]);
    let late = netraid(server1, &["resync", TAG, "--boost"]);
    assert_eq!(late.status.code(), Some(3), "{late:?}");
}

#[test]
fn a_resync_is_kept_to_its_bounds_by_the_controller_and_says_so() {
    let cluster = Cluster::with(
        2,
        Options {
            keys: "c-max-rate = 2048\nc-min-rate = 512\nc-fill-target = 131072".into(),
            ..Options::default()
        },
    );
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.done(&create());
    let mut application = cluster.application(0);
    application.write(0..14 * MIB);
    application.begin(4 * MIB);
    server1.done(&extend("server2"));
    let mirror = server1.wait_for("what bounds it", |mirror| {
        mirror
            .resync
            .as_ref()
            .is_some_and(|resync| resync.speed > 0 && resync.limited_by.as_deref() != Some("legs"))
    });
    let resync = mirror.resync.unwrap();
    // What a second allows may have been saved up.
    assert!(resync.speed <= 2 * (2 << 20), "{resync:?}");
    assert!(resync.why.is_some(), "{resync:?}");
    said(server1, &["resync", TAG, "--boost"]);
    server1.sees(&["Source", "Target"]);
    application.stop();
    server2.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
}
