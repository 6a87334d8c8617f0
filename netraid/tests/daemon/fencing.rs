//! Fencing with real daemons: a node that was marked as outdated over a second path does not take over.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

use netraid::api::document::{Mirror, Order};

use crate::application::Application;
use crate::cable::Cable;
use crate::cluster::{Cluster, MIB, Options};
use crate::events2::Listener;
use crate::node::{Node, PATIENCE, TAG, wait};

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

/// Two nodes that fence with a program which leaves its environment behind, waits for a file `answer` beside the disk, and ends
/// with the number in it.
fn fencing(policy: &str) -> Cluster {
    let program = "cd \"${DRBD_LL_DISK%/disk}\" && echo \"$DRBD_RESOURCE $DRBD_PEER $NETRAID_NODE\" >>fenced; \
                   while ! [ -s answer ]; do sleep 0.05; done; read code <answer; exit $code";
    let unfence = "echo \"$DRBD_PEER\" >>\"${DRBD_LL_DISK%/disk}/unfenced\"";
    let keys = format!(
        "fencing = \"{policy}\"\n[handlers]\nfence-peer = '{program}'\nunfence-peer = '{unfence}'"
    );
    Cluster::with(
        2,
        Options {
            keys,
            ..Options::default()
        },
    )
}

fn beside(node: &Node, name: &str) -> PathBuf {
    node.disk().with_file_name(name)
}

/// What `fence-peer` ends with from now on.
fn answers(node: &Node, code: u8) {
    // Whole at once: the program looks at any moment.
    let new = beside(node, "answer.new");
    std::fs::write(&new, format!("{code}\n")).unwrap();
    std::fs::rename(new, beside(node, "answer")).unwrap();
}

fn calls(node: &Node) -> String {
    std::fs::read_to_string(beside(node, "fenced")).unwrap_or_default()
}

/// A write to a mirror, from a thread; the answer when it comes.
fn write_later(node: &Node) -> JoinHandle<bool> {
    let socket = node.device(TAG);
    thread::spawn(move || {
        let link = Application::open(&socket).unwrap();
        let command = nbd_protocol::command::Command::Write {
            offset: 0,
            data: vec![0xee; 4096].into(),
            fua: false,
        };
        let answer = link.run(command, PATIENCE);
        link.close();
        answer.is_ok()
    })
}

fn requests(wanted: &'static str) -> impl Fn(&Mirror) -> bool {
    move |mirror| {
        let fencing = mirror.fencing.as_ref();
        fencing.is_some_and(|fencing| fencing.requests == wanted)
    }
}

#[test]
fn a_source_answers_nothing_before_its_lost_target_was_fenced() {
    let cluster = fencing("resource-and-stonith").mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    let listener = Listener::new(server1);
    listener.until("suspended:no");

    cluster.cut(0, 1, Cable::Reset);
    listener.until("suspended:fencing");
    let writer = write_later(server1);
    let mirror = server1.wait_for("that the program runs", |mirror| {
        mirror
            .fencing
            .as_ref()
            .is_some_and(|fencing| fencing.nodes.iter().any(|node| node.state == "asked"))
    });
    assert!(requests("suspended")(&mirror), "{mirror:#?}");
    let why = &mirror.nodes[0].why;
    assert!(
        why.contains("its requests wait: fence-peer is asked to fence server2"),
        "{why}"
    );
    assert!(
        mirror.nodes[0]
            .command
            .as_ref()
            .is_some_and(|command| command.contains("netraid resume-io data")),
        "{mirror:#?}"
    );
    wait("the program was not called", || {
        calls(server1) == "data server2 server1\n"
    });
    // Also over a restart of the daemon: the program is called again.
    server1.kill_daemon();
    server1.start_daemon();
    wait("the program was not called again", || {
        calls(server1).lines().count() == 2
    });
    assert!(!writer.is_finished(), "a write was answered");

    // Its answer lets the requests go.
    answers(server1, 4);
    listener.until("suspended:no");
    assert!(writer.join().unwrap());
    let mirror = server1.wait_for("that it is fenced", |mirror| {
        let fencing = mirror.fencing.as_ref().unwrap();
        fencing.nodes.iter().any(|node| {
            node.state == "fenced"
                && node.answer.as_deref() == Some("outdated")
                && node.time_ms.is_some()
        })
    });
    assert!(requests("served")(&mirror), "{mirror:#?}");
    application.write(MIB..2 * MIB);

    // In sync again, it is not fenced any more.
    cluster.join(0, 1);
    server1.sees(&["Source", "Target"]);
    wait("unfence-peer was not called", || {
        std::fs::read_to_string(beside(server1, "unfenced")).is_ok_and(|text| text == "server2\n")
    });
    server1.wait_for("that nobody is fenced", |mirror| {
        mirror.fencing.as_ref().unwrap().nodes.is_empty()
    });
    // A target that says itself that it knows needs no program.
    server1.done(&Order::Pause {
        targets: Vec::new(),
    });
    server1.wait_for("its own word", |mirror| {
        let fencing = mirror.fencing.as_ref().unwrap();
        fencing.nodes.iter().any(|node| node.state == "fenced")
    });
    application.write(2 * MIB..3 * MIB);
    assert_eq!(calls(server1).lines().count(), 2);
    server2.refused(&Order::Restore, "in service on server1");
    drop(listener);
}

#[test]
fn what_a_program_that_fails_leaves_frozen_the_return_of_the_target_or_an_administrator_lets_go() {
    let cluster = fencing("resource-and-stonith").mirrored();
    let server1 = &cluster.nodes[0];
    let application = cluster.application(0);
    drop(application);
    answers(server1, 1);
    cluster.cut(0, 1, Cable::Reset);
    server1.wait_told("not-fenced", "fence-peer has failed for server2");
    let mirror = server1.wait_for("why", |mirror| {
        let fencing = mirror.fencing.as_ref().unwrap();
        fencing.nodes.iter().any(|node| node.failure.is_some())
    });
    assert!(requests("suspended")(&mirror), "{mirror:#?}");
    assert!(
        mirror
            .problems
            .iter()
            .any(|problem| problem.contains("server2 was not fenced: fence-peer has failed")),
        "{mirror:#?}"
    );
    let writer = write_later(server1);
    cluster.join(0, 1);
    assert!(writer.join().unwrap());
    server1.sees(&["Source", "Target"]);

    cluster.cut(0, 1, Cable::Reset);
    server1.wait_for("that requests wait", requests("suspended"));
    let writer = write_later(server1);
    server1.wait_for("that the program has failed again", |mirror| {
        let fencing = mirror.fencing.as_ref().unwrap();
        fencing
            .nodes
            .iter()
            .any(|node| node.state == "unfenced" && node.answer.is_some())
    });
    assert!(!writer.is_finished(), "a write was answered");
    ends(server1, &["resume-io"], 0, "do not wait any more");
    assert!(writer.join().unwrap());
    server1.wait_told("resumed", "goes on without server2");
    server1.wait_for("that requests are served", requests("served"));
}

#[test]
fn who_can_not_fence_the_source_does_not_take_over_and_who_can_does() {
    let cluster = fencing("resource-only").mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    // What server1 does about server2 is another matter here.
    answers(server1, 1);
    cluster.cut(0, 1, Cable::Reset);
    server2.sees(&["Unknown", "Target"]);
    // Requests go on meanwhile.
    application.write(MIB..2 * MIB);

    answers(server2, 1);
    server2.refused(
        &Order::Restore,
        "server1 can't be reached and was not fenced",
    );
    let answer = server2.rehearse(&Order::Restore);
    assert!(
        answer
            .steps
            .iter()
            .any(|step| step == "call handlers.fence-peer for server1"),
        "{answer:?}"
    );
    // The source is there: this node learns that it is outdated.
    answers(server2, 6);
    server2.refused(&Order::Restore, "server1 is in service itself");
    server2.refused(&Order::Restore, "(Outdated)");
    assert_eq!(calls(server2).lines().count(), 2);

    // In sync again, and the source dies: now it may.
    cluster.join(0, 1);
    server1.sees(&["Source", "Target"]);
    server1.power_off();
    server2.sees(&["Unknown", "Target"]);
    std::fs::remove_file(beside(server2, "answer")).unwrap();
    thread::scope(|scope| {
        let restore = scope.spawn(|| server2.done(&Order::Restore));
        let mirror = server2.wait_for("that it starts", |mirror| mirror.service == "starting");
        // The mirror's thread goes on meanwhile.
        assert!(
            mirror.nodes[1]
                .why
                .contains("fence-peer is asked to fence server1"),
            "{mirror:#?}"
        );
        answers(server2, 7);
        restore.join().unwrap();
    });
    server2.sees(&["Unknown", "Source"]);
    application.check(&server2.data());
}

#[test]
fn the_shipped_program_outdates_the_target_over_a_second_path() {
    let cluster = Cluster::new(2);
    let folder = cluster.nodes[0].folder.parent().unwrap();
    // The second path is the machine itself: what ssh would do on the host of that name is done in its folder.
    let ssh = folder.join("ssh");
    let text = format!(
        "#!/bin/sh\nhost=$1; shift; NETRAID_RUN_DIR={}/$host/run exec \"$@\"\n",
        folder.display()
    );
    std::fs::write(&ssh, text).unwrap();
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/fencing/netraid-fence-peer");
    let line = format!(
        "{} --ssh \"sh {}\" --netraid {}",
        program.display(),
        ssh.display(),
        env!("CARGO_BIN_EXE_netraid")
    );
    for node in &cluster.nodes {
        let path = node.folder.join(format!("etc/{TAG}.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let keys = format!(
            "fencing = \"resource-and-stonith\"\n[handlers]\nfence-peer = '{line}'\n[[nodes]]"
        );
        std::fs::write(path, text.replacen("[[nodes]]", &keys, 1)).unwrap();
        ends_without_tag(node, &["adjust"]);
    }
    let cluster = cluster.mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.begin(MIB);
    application.goes_on(3);

    cluster.cut(0, 1, Cable::Reset);
    server1.wait_told("fenced", "the data of server2 is outdated");
    server2.wait_told("outdated", "server1 goes on without it");
    application.goes_on(3);
    server2.refused(&Order::Restore, "(Outdated)");
    // Nor is the source outdated for the target.
    server1.power_off();
    application.stop();
    server2.refused(&Order::Restore, "(Outdated)");
    server1.boot();
    server1.done(&Order::Restore);
    application.check(&server1.data());
}

/// `netraid COMMAND` of all mirrors of a node.
fn ends_without_tag(node: &Node, words: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args(words)
        .arg("--run-dir")
        .arg(node.run_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
