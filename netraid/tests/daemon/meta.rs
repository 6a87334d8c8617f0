//! `netraid dump-meta` and `netraid restore-meta` beside real daemons: what is written back makes nobody's data look newer
//! or more equal than it is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

use netraid::api::document::Order;
use serde_json::Value;

use crate::cluster::{Cluster, MIB};
use crate::node::{Node, TAG};
use crate::schema::Schema;

fn netraid(node: &Node, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args(words)
        .arg("--config-dir")
        .arg(node.folder.join("etc"))
        .env("NETRAID_DEFAULTS_FILE", node.folder.join("etc/defaults"))
        .output()
        .unwrap()
}

fn dump(node: &Node) -> Value {
    let output = netraid(node, &["dump-meta", TAG]);
    assert!(output.status.success(), "{output:?}");
    fs::write(node.folder.join("meta"), &output.stdout).unwrap();
    let document = serde_json::from_slice(&output.stdout).unwrap();
    Schema::committed("netraid.meta-1.json").check(&document);
    document
}

/// Writes the last text back: the exit code, and all that was said.
fn restore(node: &Node, words: &[&str]) -> (Option<i32>, String) {
    let file = node.folder.join("meta");
    let all = [&["restore-meta", TAG, file.to_str().unwrap()], words].concat();
    let output = netraid(node, &all);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_leg_whose_metadata_was_lost_comes_back_as_one_that_has_to_be_brought_up_to_date() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    // In service it can be looked at, and not be written.
    let document = dump(server1);
    assert_eq!(document["meta"]["leg"]["consistent"], true);
    assert_eq!(document["meta"]["flags"]["last_owner"], true);
    let (code, said) = restore(server1, &["--force"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("netraidd runs on this node"), "{said}");
    // Nor when only the array goes on.
    server1.end_daemon();
    let (code, said) = restore(server1, &["--force"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("netraid stop data"), "{said}");
    server1.start_daemon();
    server1.sees(&["Source", "Target"]);
    server1.done(&Order::Remove);
    dump(server1);
    server1.end_daemon();
    // What is there is what the text says.
    let (code, said) = restore(server1, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing had to be written"), "{said}");
    let disk = File::options().write(true).open(server1.disk()).unwrap();
    disk.write_all_at(&[0; 4096], 4096).unwrap();
    let before = fs::read(server1.disk()).unwrap();
    for (words, code) in [
        (&[][..], 3),
        (&["--dry-run"], 3),
        (&["--dry-run", "--force"], 0),
    ] {
        let (ended, said) = restore(server1, words);
        assert_eq!(ended, Some(code), "{said}");
    }
    assert!(
        fs::read(server1.disk()).unwrap() == before && !server1.flag("data_corrupt").exists(),
        "something was written"
    );
    let (code, said) = restore(server1, &["--force"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("mark all of it"), "{said}");
    server1.start_daemon();
    server1.refused(&Order::Restore, "data_corrupt");
    cluster.met();
    // The other one has the data, and gives it back: all of it counts as different.
    server2.done(&Order::Restore);
    let mirror = server2.sees(&["Target", "Source"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert_eq!(Some(resync.dirty_bytes), mirror.size, "{resync:?}");
    server1.wait_for("that the guard is gone", |mirror| {
        !mirror.flags.data_corrupt
    });
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}

#[test]
fn a_target_whose_metadata_came_from_a_text_gets_all_of_it_from_a_source_that_remembers_how_it_went()
 {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    server1.wait_for("that nothing is marked", |mirror| {
        mirror.dirty_bytes == Some(0)
    });
    dump(server2);
    server2.power_off();
    server1.sees(&["Source", "Unknown"]);
    // Another disk, in which some blocks are not what they were.
    let disk = File::options().write(true).open(server2.disk()).unwrap();
    let end = disk.metadata().unwrap().len();
    disk.write_all_at(&[0x55; 8192], end - 8192).unwrap();
    disk.write_all_at(&[0; 4096], 4096).unwrap();
    drop(disk);
    let (code, said) = restore(server2, &["--force"]);
    assert_eq!(code, Some(0), "{said}");
    server2.boot();
    let mirror = server1.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert_eq!(Some(resync.dirty_bytes), mirror.size, "{resync:?}");
    cluster.legs_equal(&[0, 1]);
}
