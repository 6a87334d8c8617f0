//! What administrators order: pause, resume, full resync, extend, unextend, delete; and flags changed by hand.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use netraid::api::document::{Order, Outcome};

use crate::cluster::{Cluster, MIB, Options, create, extend};

#[test]
fn a_paused_target_gets_what_it_lacks_when_it_is_resumed() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let application = cluster.application(0);
    application.write(0..MIB);
    let targets = Vec::new();
    server2.refused(
        &Order::Pause {
            targets: targets.clone(),
        },
        "not in service on server2",
    );
    server1.done(&Order::Pause {
        targets: targets.clone(),
    });
    server1.sees(&["Source", "Paused"]);
    application.write(MIB..2 * MIB);
    // It survives the daemon.
    server1.kill_daemon();
    server1.start_daemon();
    server1.sees(&["Source", "Paused"]);
    assert!(server1.data() != server2.data());

    server1.done(&Order::Resume {
        targets: targets.clone(),
    });
    let mirror = server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    let resync = mirror.nodes[1].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_full_resync_mends_what_nobody_had_marked() {
    let cluster = Cluster::slow(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    // A disk that forgot something, which no bitmap knows.
    let disk = fs::OpenOptions::new()
        .write(true)
        .open(server2.disk())
        .unwrap();
    let size = disk.metadata().unwrap().len();
    disk.write_all_at(&[0x5a; 4096], size / 2).unwrap();
    assert!(server1.data() != server2.data());
    server1.done(&Order::FullResync {
        targets: Vec::new(),
    });
    server1.sees(&["Source", "Resyncing"]);
    server2.sees(&["Source", "Resyncing"]);
    server2.refused(&Order::Restore, "in service on server1");
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn unknown_nodes_and_second_beginnings_are_refused() {
    let cluster = Cluster::new(2);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.met();
    server1.refused(&Order::Restore, "never had data");
    server1.done(&create());
    server1.refused(&create(), "is a mirror on this node already");
    server1.not_done(
        &extend("server9"),
        Outcome::Usage,
        "server9 is not a node of data",
    );
    server1.refused(&extend("server1"), "a target of its own");
    server2.wait_for("that server1 is in service", |mirror| {
        mirror.source.as_deref() == Some("server1")
    });
    server2.refused(&create(), "server1 has data of data already");
    server1.done(&extend("server2"));
    server1.sees(&["Source", "Target"]);
    server1.done(&extend("server2"));
    server2.refused(&extend("server2"), "not in service on server2");
    let forced = Order::Create {
        force: true,
        keep: false,
    };
    server1.refused(&forced, "is a mirror on this node already");
    server2.refused(&forced, "is a mirror on this node already");
    server1.sees(&["Source", "Target"]);
}

#[test]
fn a_disk_whose_record_is_lost_can_be_made_a_new_mirror_by_force() {
    let cluster = Cluster::new(2);
    let server1 = &cluster.nodes[0];
    cluster.met();
    server1.done(&create());
    server1.done(&Order::Remove);
    let generation = server1.status().generation;
    for _ in 0..2 {
        // The second time the daemon has noted what it found.
        server1.end_daemon();
        let state = server1.state_dir();
        for file in fs::read_dir(&state).unwrap().flatten() {
            fs::remove_file(file.path()).unwrap();
        }
        server1.start_daemon();
    }
    server1.end_daemon();
    server1.start_daemon();
    cluster.met();
    server1.refused(&create(), "is a mirror on this node already");
    assert_eq!(server1.status().generation, generation);
    server1.done(&Order::Create {
        force: true,
        keep: false,
    });
    server1.sees(&["Source"]);
    assert_ne!(server1.status().generation, generation);
}

#[test]
fn an_eighth_target_is_refused_when_the_configuration_is_read() {
    let cluster = Cluster::prepared(2, Options::default());
    let node = &cluster.nodes[0];
    let file = node.folder.join("etc/data.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    for number in 3..=9 {
        text += &format!(
            "[[nodes]]\nname = \"server{number}\"\naddress = \"127.9.9.{number}\"\ndisk = \"/dev/null{number}\"\n"
        );
    }
    fs::write(file, text).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_netraidd"))
        .arg("--config-dir")
        .arg(node.folder.join("etc"))
        .env("NETRAID_DEFAULTS_FILE", node.folder.join("etc/defaults"))
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(2), "{run:?}");
    let why = String::from_utf8_lossy(&run.stderr);
    assert!(why.contains("7") && why.contains("target"), "{why}");
}

#[test]
fn a_disk_that_holds_something_is_not_overwritten_without_force() {
    let cluster = Cluster::new(2);
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    // An ext4 file system's magic number.
    let disk = fs::OpenOptions::new()
        .write(true)
        .open(server2.disk())
        .unwrap();
    disk.write_all_at(&[0x53, 0xef], 1024 + 56).unwrap();
    let before = fs::read(server2.disk()).unwrap();
    server2.not_done(&create(), Outcome::Refused, "ext");
    cluster.met();
    server1.done(&create());
    server1.order(&extend("server2"));
    let mirror = server1.wait_for("why server2 is not taken", |mirror| {
        mirror.nodes[1].failure.is_some()
    });
    let why = mirror.nodes[1].failure.clone().unwrap();
    assert!(why.contains("ext"), "{why}");
    assert!(
        fs::read(server2.disk()).unwrap() == before,
        "the disk was written"
    );
    // Who means it says so.
    let node = "server2".to_owned();
    server1.done(&Order::Unextend { node: node.clone() });
    server1.sees(&["Source"]);
    server1.done(&Order::Extend { node, force: true });
    server1.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn a_target_that_was_unextended_can_be_extended_again() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let node = "server2".to_owned();
    server1.done(&Order::Unextend { node });
    server1.sees(&["Source"]);
    // Its disk may be used for something else.
    server2.done(&Order::Delete);
    server2.wait_for("who is in service", |mirror| {
        mirror.source.as_deref() == Some("server1")
    });
    assert!(server2.rehearse(&Order::Delete).steps.is_empty());
    let application = cluster.application(0);
    application.write(0..MIB);
    server2.not_done(&Order::Restore, Outcome::Refused, "");
    server1.done(&extend("server2"));
    server1.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);
    application.check(&server2.data());
}

#[test]
fn a_mirror_is_deleted_only_out_of_service_and_the_data_stays() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    server1.refused(&Order::Delete, "netraid stop data");
    assert!(!server1.rehearse(&Order::Remove).steps.is_empty());
    server1.done(&Order::Remove);
    let data = server1.data();
    server2.done(&Order::Delete);
    server1.done(&Order::Delete);
    // The second time there is nothing to forget.
    server1.done(&Order::Delete);
    let events = server1.events();
    let deleted = events.iter().filter(|event| event.event == "deleted");
    assert_eq!(deleted.count(), 1);
    assert_eq!([server1.flags(), server2.flags()], ["", ""]);
    assert!(server1.data() == data && server2.data() == data);
    server1.wait_for("nothing", |mirror| {
        mirror.nodes.iter().all(|node| !node.member)
    });
    // It is forgotten for good.
    server1.kill_daemon();
    server1.start_daemon();
    server1.wait_for("nothing", |mirror| {
        mirror.nodes.iter().all(|node| !node.member)
    });
}

#[test]
fn flags_that_are_made_and_removed_by_hand_count_and_are_told() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server2.power_off();
    server1.power_off();
    server1.boot();
    server1.refused(&Order::Restore, "force");
    assert_eq!(server1.flags(), "last_owner source=server1 data_corrupt");
    fs::remove_file(server1.flag("data_corrupt")).unwrap();
    server1.wait_told("flag-by-hand", "data_data_corrupt was removed by hand");
    server1.done(&Order::Restore);
    server1.done(&Order::Remove);
    fs::write(server1.flag("data_corrupt"), "").unwrap();
    server1.refused(&Order::Restore, "data_corrupt is set");
    server1.wait_told("flag-by-hand", "data_data_corrupt was set by hand");
}
