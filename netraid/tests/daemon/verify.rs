//! `netraid verify` while an application writes: what rots behind the mirror's back is found, and nothing else.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

use netraid::api::document::Order;
use netraid::array::disk::{Access, Disk};
use netraid::array::leg::Leg;
use netraid::status::{VerifyDifference, VerifyStatus};

use crate::cluster::{Cluster, MIB};
use crate::node::{Node, TAG, wait};

fn verify(node: &Node, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args(["verify", TAG, "--json"])
        .args(words)
        .arg("--run-dir")
        .arg(node.run_dir())
        .output()
        .unwrap()
}

fn result(output: &Output) -> VerifyStatus {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Turns over one byte of the mirror's data on a node's disk, behind everybody's back.
fn rot(node: &Node, at: u64) {
    let path = node.disk();
    let disk = Disk::open(&path, Access::Read).unwrap();
    let from = Leg::read(&disk).unwrap().superblock.data_offset * 512;
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, from + at).unwrap();
    file.write_all_at(&[!byte[0]], from + at).unwrap();
}

#[test]
fn a_byte_that_rots_under_load_is_reported_alone_marked_and_repaired() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    // All of it is something; then it writes to the beginning, again and again.
    application.write(0..14 * MIB);
    application.begin(4 * MIB);
    application.goes_on(3);
    for _ in 0..5 {
        let output = verify(server1, &["--rate", "0"]);
        let told = result(&output);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(
            (told.state.as_str(), told.differing),
            ("done", 0),
            "{told:?}"
        );
        assert_eq!(told.checked, server1.status().size.unwrap());
        assert_eq!(told.targets, ["server2"]);
    }
    rot(server2, (9 << 20) + 5000);
    let output = verify(server1, &[]);
    let told = result(&output);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(words.contains("netraid verify data --repair"), "{words}");
    let only = VerifyDifference {
        node: "server2".into(),
        offset: (9 << 20) + 4096,
        length: 4096,
    };
    assert_eq!((told.differing, &told.differences[..]), (4096, &[only][..]));
    // It stays said, and marked, and the target stays in sync.
    let mirror = server1.sees(&["Source", "Target"]);
    let problem = mirror.problems.join("; ");
    assert!(
        problem.contains("server2 differs from the source"),
        "{problem}"
    );
    assert!(mirror.verify.unwrap().ended_ms.unwrap() >= told.began_ms);
    // Elsewhere nothing is to be found.
    let output = verify(server1, &["--start", "10M"]);
    assert_eq!(result(&output).differing, 0, "{output:?}");
    let output = verify(server1, &["--start", "9M", "--stop", "10M", "--repair"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(result(&output).differing, 4096);
    // Once it was taken out for that, it is copied to and taken back.
    wait("server2 does not come back", || {
        let output = verify(server1, &["--rate", "0"]);
        output.status.code() == Some(0) && result(&output).differing == 0
    });
    let mirror = server1.sees(&["Source", "Target"]);
    assert_eq!(mirror.problems, Vec::<String>::new());
    assert!(!mirror.nodes[1].last_resync.as_ref().unwrap().full);
    application.goes_on(1);
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn a_verify_is_begun_once_on_the_source_and_can_be_stopped_and_resumed() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let order = |targets: &[&str], rate| Order::Verify {
        targets: targets.iter().map(|target| (*target).to_owned()).collect(),
        start: 0,
        stop: None,
        rate: Some(rate),
        repair: false,
    };
    server2.refused(&order(&[], 0), "is not in service here");
    let outcome = netraid::api::document::Outcome::Usage;
    server1.not_done(
        &order(&["server9"], 0),
        outcome,
        "server9 is not one of the nodes",
    );
    // Slow enough never to end.
    server1.done(&order(&["server2"], 1 << 20));
    server1.refused(&order(&[], 0), "under way already");
    server1.wait_for("progress", |mirror| {
        let verify = mirror.verify.as_ref();
        verify.is_some_and(|verify| verify.state == "running" && verify.checked > 0)
    });
    server1.done(&Order::StopVerify);
    let mirror = server1.wait_for("its end", |mirror| {
        let verify = mirror.verify.as_ref();
        verify.is_some_and(|verify| verify.state == "interrupted")
    });
    let first = mirror.verify.unwrap();
    assert_eq!(first.why.as_deref(), Some("somebody stopped it"));
    let output = verify(server1, &["--resume", "--rate", "0"]);
    let rest = result(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        (rest.start, rest.number),
        (first.position, first.number + 1)
    );
    assert_eq!(first.checked + rest.checked, mirror.size.unwrap());
    assert_eq!(verify(server1, &["--resume"]).status.code(), Some(3));
}
