//! `netraid truck` beside real daemons: an image is loaded while the application writes, shipped, unloaded and connected; only
//! what was written since moves, and whatever happened on the way never becomes different data.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use netraid::api::document::{Decided, Order};
use serde_json::Value;

use crate::cluster::{Cluster, MIB, create, extend};
use crate::node::{Node, TAG, wait};

fn command(node: &Node, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netraid"));
    command.arg("truck").args(words);
    match words[0] {
        "check" => {}
        "unload" => {
            command.arg("--config-dir").arg(node.folder.join("etc"));
        }
        _ => {
            command.arg("--run-dir").arg(node.run_dir());
        }
    }
    command.env("NETRAID_DEFAULTS_FILE", node.folder.join("etc/defaults"));
    command
}

/// Runs `netraid truck` on a node: the exit code, and all that was said.
fn truck(node: &Node, words: &[&str]) -> (Option<i32>, String) {
    said(&command(node, words).output().unwrap())
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn done(node: &Node, words: &[&str]) -> String {
    let (code, said) = truck(node, words);
    assert_eq!(code, Some(0), "{words:?} on {}: {said}", node.name);
    said
}

/// What must end with 3, for a reason with these words.
fn refused(node: &Node, words: &[&str], reason: &str) {
    let (code, said) = truck(node, words);
    assert_eq!(code, Some(3), "{words:?} on {}: {said}", node.name);
    assert!(said.contains(reason), "{reason:?} is not in {said:?}");
}

/// A source whose target is far away, and can't be reached yet.
fn far_apart(count: usize) -> Cluster {
    let cluster = Cluster::prepared(count, crate::cluster::Options::default());
    let source = &cluster.nodes[0];
    source.start_daemon();
    source.done(&create());
    for node in &cluster.nodes[1..] {
        source.done(&extend(&node.name));
    }
    cluster
}

fn image(node: &Node) -> PathBuf {
    node.folder.join("image")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn load(source: &Node, target: &Node) -> String {
    done(source, &["load", TAG, &target.name, text(&image(source))])
}

fn manifest(image: &Path) -> PathBuf {
    netraid::truck::manifest::beside(image)
}

/// Puts the image and its paper on the truck and takes them off at the other end.
fn ship(from: &Node, to: &Node) -> PathBuf {
    let (there, here) = (image(from), image(to));
    fs::copy(&there, &here).unwrap();
    fs::copy(manifest(&there), manifest(&here)).unwrap();
    here
}

fn last_resync(source: &Node, target: usize) -> Decided {
    let mirror = source.status();
    mirror.nodes[target].last_resync.clone().unwrap()
}

#[test]
fn what_was_written_while_it_was_on_its_way_is_all_that_moves() {
    let cluster = far_apart(2);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut application = cluster.application(0);
    application.write(0..8 * MIB);
    // What was written a moment ago stays marked, whoever has it.
    wait("the source does not become clean", || server1.is_clean());
    application.begin(MIB / 2);
    let told = load(server1, server2);
    assert!(told.contains("netraid truck unload data"), "{told}");
    application.stop();
    // What was never written takes no room.
    let about = fs::metadata(image(server1)).unwrap();
    assert!(about.blocks() * 512 < about.len() * 3 / 4, "{about:?}");
    // The mirror is restarted meanwhile, and written again: all of it is marked.
    application.write(0..MIB / 4);
    server1.done(&Order::Remove);
    server1.end_daemon();
    server1.start_daemon();
    server1.done(&Order::Restore);
    application.write(MIB..MIB + MIB / 4);
    assert!(manifest(&image(server1)).exists(), "no manifest");
    server1.power_off();
    server1.boot();
    server1.wait_for("that it can be put in service", |mirror| {
        mirror.service == "out"
    });
    server1.done(&Order::Force);
    let status = done(server1, &["status", TAG]);
    assert!(status.contains("an image left"), "{status}");
    let shown: Value = serde_json::from_str(&done(server1, &["status", TAG, "--json"])).unwrap();
    assert_eq!(shown["shipments"][0]["truck"]["state"], "away", "{shown}");

    let arrived = ship(server1, server2);
    let told = done(server2, &["check", text(&arrived)]);
    assert!(told.contains("all of it is what was loaded"), "{told}");
    let words = ["unload", TAG, text(&arrived)];
    done(server2, &[&words[..], &["--dry-run"]].concat());
    assert!(
        fs::read(server2.disk())
            .unwrap()
            .iter()
            .all(|byte| *byte == 0),
        "a dry run wrote something"
    );
    done(server2, &words);
    let about = fs::metadata(server2.disk()).unwrap();
    assert!(about.blocks() * 512 < about.len() * 3 / 4, "{about:?}");
    let told = done(server2, &words);
    assert!(told.contains("unloaded already"), "{told}");
    server2.start_daemon();
    cluster.met();
    // It is not in service from that but by force, and nothing is copied before somebody says so.
    server2.refused(&Order::Restore, "server1");
    server1.sees(&["Source", "Paused"]);
    let words = ["connect", TAG, "server2"];
    let told = done(server1, &[&words[..], &["--dry-run"]].concat());
    assert!(told.contains("what is marked"), "{told}");
    server1.sees(&["Source", "Paused"]);
    application.write(2 * MIB..2 * MIB + 4);
    done(server1, &[&words[..], &["--wait"]].concat());
    server1.sees(&["Source", "Target"]);
    let resync = last_resync(server1, 1);
    let size = server1.status().size.unwrap();
    assert!(!resync.full, "{resync:?}");
    // Bits are set for up to 64 chunks together.
    assert!(resync.dirty_bytes <= size / 3, "{resync:?} of {size}");
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
    let status = done(server1, &["status", TAG]);
    assert!(status.contains("nothing of data"), "{status}");
}

/// Switches the target off, and waits until its source knows: else it may still be shown as met after it begins anew.
fn is_gone(source: &Node, target: &Node) {
    target.power_off();
    source.wait_for("that the target is gone", |mirror| {
        let mut nodes = mirror.nodes.iter();
        nodes.any(|node| node.name == target.name && !node.reachable)
    });
}

/// What is on a node's disk where an image has its data, and before it, changed by one bit.
fn damage(image: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn what_is_not_what_was_loaded_is_refused_by_each_step() {
    let cluster = far_apart(2);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    load(server1, server2);
    let paper: Value =
        serde_json::from_slice(&fs::read(manifest(&image(server1))).unwrap()).unwrap();
    let data = paper["shipment"]["data_offset"].as_u64().unwrap();
    let arrived = ship(server1, server2);
    let length = fs::metadata(&arrived).unwrap().len();
    let (check, unload) = (["check", text(&arrived)], ["unload", TAG, text(&arrived)]);
    let refuse = |reason: &str| {
        refused(server2, &check, reason);
        refused(server2, &unload, reason);
        let disk = fs::read(server2.disk()).unwrap();
        assert!(disk[4096..8192].iter().all(|byte| *byte == 0), "{reason}");
    };
    // In what was written, in a hole, and in the last byte.
    for at in [5, 9 << 20, length - data - 1] {
        damage(&arrived, data + at);
        refuse("damaged on its way");
        let (_, said) = truck(server2, &[&check[..], &["--json"]].concat());
        let from = said.find('{').unwrap();
        let to = said.rfind('}').unwrap();
        let told: Value = serde_json::from_str(&said[from..=to]).unwrap();
        let block = at >> 20 << 20;
        assert_eq!(told["good"], false);
        assert_eq!(told["damaged"][0][0], block, "{told}");
        damage(&arrived, data + at);
    }
    // Before the data: the record, and a byte that nothing reads.
    for at in [data - 8192 + 48, 3, 4096 + 64] {
        damage(&arrived, at);
        refuse("");
        damage(&arrived, at);
    }
    done(server2, &check);
    File::options()
        .write(true)
        .open(&arrived)
        .unwrap()
        .set_len(length - 4096)
        .unwrap();
    refuse("the copy is not complete");
    ship(server1, server2);
    let paper = fs::read_to_string(manifest(&arrived)).unwrap();
    fs::write(manifest(&arrived), paper.replacen("server1", "server9", 1)).unwrap();
    refuse("was changed since it was written");
    fs::write(manifest(&arrived), &paper).unwrap();
    // On the wrong node, and over what somebody may miss.
    server1.done(&Order::Remove);
    server1.end_daemon();
    refused(
        server1,
        &["unload", TAG, text(&image(server1))],
        "for server2",
    );
    server1.start_daemon();
    server1.done(&Order::Restore);
    let disk = File::options().write(true).open(server2.disk()).unwrap();
    disk.write_all_at(b"XFSB", 0).unwrap();
    refused(server2, &unload, "XFS");
    disk.write_all_at(&[0; 4], 0).unwrap();

    // The disk itself, put in without having been checked, is no leg, and is not overwritten.
    fs::copy(&arrived, server2.disk()).unwrap();
    let before = fs::read(server2.disk()).unwrap();
    server2.start_daemon();
    cluster.met();
    refused(
        server1,
        &["connect", TAG, "server2"],
        "nothing was unloaded there",
    );
    server1.done(&Order::Resume { targets: vec![] });
    server1.wait_told("leg-failed", "shipped and not unloaded");
    is_gone(server1, server2);
    assert!(
        before == fs::read(server2.disk()).unwrap(),
        "it was written"
    );
    // It has to be checked where it is, and then is one.
    server1.done(&Order::Pause { targets: vec![] });
    let words = ["unload", TAG, text(&server2.disk())].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let paper = manifest(&arrived);
    let words = [&words[..], &["--manifest", text(&paper)]].concat();
    damage(&server2.disk(), data + 5);
    refused(server2, &words, "damaged on its way");
    damage(&server2.disk(), data + 5);
    done(server2, &words);
    server2.boot();
    cluster.met();
    done(server1, &["connect", TAG, "server2", "--wait"]);
    assert!(!last_resync(server1, 1).full);
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn an_older_image_and_one_of_another_mirror_never_count_as_the_last_one() {
    let cluster = far_apart(2);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..2 * MIB);
    load(server1, server2);
    let old = ship(server1, server2);
    // Nothing is written between, but after it: by its marks alone the first image would lack nothing of it.
    load(server1, server2);
    application.write(MIB..2 * MIB);
    done(server2, &["unload", TAG, text(&old)]);
    server2.start_daemon();
    cluster.met();
    let words = ["connect", TAG, "server2"];
    refused(
        server1,
        &words,
        "everything would be copied over the network",
    );
    server1.sees(&["Source", "Paused"]);
    done(server1, &[&words[..], &["--full", "--wait"]].concat());
    assert!(last_resync(server1, 1).full);
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());

    let other = far_apart(2);
    other.application(0).write(0..MIB);
    load(&other.nodes[0], &other.nodes[1]);
    is_gone(server1, server2);
    // Its image with the paper of another one, and with its own.
    let arrived = ship(&other.nodes[0], server2);
    let paper = manifest(&image(server1));
    let words = ["check", text(&arrived), "--manifest", text(&paper)];
    refused(server2, &words, "it is of another mirror");
    let words = ["unload", TAG, text(&arrived)];
    refused(server2, &words, "this node remembers another mirror");
    done(server2, &[&words[..], &["--force"]].concat());
    server2.boot();
    cluster.met();
    server1.done(&Order::Pause { targets: vec![] });
    refused(
        server1,
        &["connect", TAG, "server2", "--full"],
        "does not have what was loaded here",
    );
}

fn begin_to_load(source: &Node, target: &Node) -> Child {
    let image = image(source);
    let mut command = command(source, &["load", TAG, &target.name, text(&image)]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn is_loading(source: &Node, slot: usize) {
    source.wait_for("that an image is being loaded", |mirror| {
        let truck = mirror.nodes[slot].truck.as_ref();
        truck.is_some_and(|truck| truck.state == "loading" && truck.percent > Some(0))
    });
}

#[test]
fn loading_survives_a_new_daemon_and_begins_anew_after_its_own_death() {
    let cluster = Cluster::prepared(
        2,
        crate::cluster::Options {
            speed: Some(3000),
            // The image gets what is written in its order, like the target.
            keys: "protocol = \"A\"\n".into(),
            ..crate::cluster::Options::default()
        },
    );
    cluster.nodes[0].start_daemon();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.done(&create());
    server1.done(&extend("server2"));
    let mut application = cluster.application(0);
    application.write(0..8 * MIB);
    let mut loading = begin_to_load(server1, server2);
    is_loading(server1, 1);
    refused(
        server1,
        &["load", TAG, "server2", text(&image(server2))],
        "is being loaded",
    );
    loading.kill().unwrap();
    loading.wait().unwrap();
    server1.wait_for("that nothing is loaded any more", |mirror| {
        mirror.nodes[1].truck.is_none()
    });
    // There is no paper of what was not finished, and a former one was taken away.
    let (code, said) = truck(server1, &["check", text(&image(server1))]);
    assert_eq!(code, Some(2), "{said}");

    let loading = begin_to_load(server1, server2);
    is_loading(server1, 1);
    application.begin(MIB / 2);
    server1.kill_daemon();
    server1.start_daemon();
    is_loading(server1, 1);
    let mirror = server1.sees(&["Source", "Paused"]);
    assert!(mirror.resync.is_some(), "{mirror:?}");
    let why = &mirror.nodes[1].why;
    assert!(why.contains("an image for it is being loaded"), "{why}");
    let (code, told) = said_by(loading);
    assert_eq!(code, Some(0), "{told}");
    application.stop();
    let arrived = ship(server1, server2);
    // A disk that is larger than the image.
    crate::node::blank(&server2.disk(), 3 * crate::cluster::DISK / 2);
    done(server2, &["unload", TAG, text(&arrived)]);
    server2.start_daemon();
    cluster.met();
    done(server1, &["connect", TAG, "server2", "--wait"]);
    assert!(!last_resync(server1, 1).full);
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

fn said_by(child: Child) -> (Option<i32>, String) {
    said(&child.wait_with_output().unwrap())
}

#[test]
fn a_target_that_took_over_has_marked_what_the_shipment_lacks() {
    let cluster = Cluster::prepared(3, crate::cluster::Options::default());
    let [server1, server2, server3] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    server1.start_daemon();
    server2.start_daemon();
    server1.done(&create());
    server1.done(&extend("server2"));
    server1.done(&extend("server3"));
    server1.sees(&["Source", "Target", "Unknown"]);
    let mut application = cluster.application(0);
    application.write(0..8 * MIB);
    wait("the source does not become clean", || server1.is_clean());
    load(server1, server3);
    application.write(0..MIB / 4);
    server1.done(&Order::Remove);
    server2.done(&Order::Restore);
    application.moves_to(server2.device(TAG));
    application.write(MIB / 2..MIB);
    server2.sees(&["Target", "Source", "Unknown"]);
    let arrived = ship(server1, server3);
    done(server3, &["unload", TAG, text(&arrived)]);
    server3.start_daemon();
    // Nobody has paused it here.
    server2.sees(&["Target", "Source", "Target"]);
    let resync = last_resync(server2, 2);
    let size = server2.status().size.unwrap();
    assert!(
        !resync.full && resync.dirty_bytes <= size / 3,
        "{resync:?} of {size}"
    );
    cluster.legs_equal(&[0, 1, 2]);
    application.check(&server3.data());
}
