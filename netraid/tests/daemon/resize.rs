//! Disks that grow, and mirrors that follow: in service under an application, with targets that are away or too small, and
//! with processes that are killed at any moment of it.

use std::fs::OpenOptions;

use bytes::Bytes;
use nbd_client::{Connection, Target};
use nbd_protocol::command::Command;
use netraid::api::document::{Order, Outcome};
use netraid::raid1::link::Link;

use crate::cable::Cable;
use crate::cluster::{Cluster, DISK, MIB, Options};
use crate::node::{Node, PATIENCE, Process, TAG, wait};

/// Bytes of a disk that has grown.
const GROWN: u64 = 24 << 20;
/// What a leg's metadata takes of these disks.
const METADATA: u64 = 1 << 20;

fn resize() -> Order {
    to(None)
}

fn to(size: Option<u64>) -> Order {
    Order::Resize { size, force: false }
}

/// As an administrator does with LVM: new room behind what is there, with something in it.
fn enlarge(node: &Node, size: u64) {
    use std::io::{Seek, SeekFrom, Write};
    let mut disk = OpenOptions::new().write(true).open(node.disk()).unwrap();
    let old = disk.seek(SeekFrom::End(0)).unwrap();
    let junk = node.name.as_bytes().repeat(1 << 17);
    let length = usize::try_from(size - old).unwrap().min(junk.len());
    disk.write_all(&junk[..length]).unwrap();
    disk.set_len(size).unwrap();
    disk.sync_all().unwrap();
}

fn size(node: &Node) -> u64 {
    node.status().size.unwrap()
}

fn connect(node: &Node) -> Link {
    let target = Target::unix(node.run_dir().join(format!("{TAG}.nbd")), TAG);
    let connection = Connection::open(&target, nbd_client::Options::default()).unwrap();
    Link::Remote(connection.into())
}

fn write(link: &Link, offset: u64, byte: u8) -> Result<(), String> {
    let command = Command::Write {
        offset,
        data: Bytes::from(vec![byte; 4096]),
        fua: true,
    };
    let done = link.run(command, PATIENCE);
    done.map(drop).map_err(|failure| failure.why.into_owned())
}

#[test]
fn a_mirror_grows_in_service_under_an_application_and_the_legs_are_equal_over_all_of_it() {
    let cluster = Cluster::new(3).mirrored();
    let server1 = &cluster.nodes[0];
    let before = size(server1);
    assert_eq!(before, DISK - METADATA);
    let old = connect(server1);
    let mut application = cluster.application(0);
    application.begin(10 * MIB);
    application.goes_on(3);
    cluster.nodes.iter().for_each(|node| enlarge(node, GROWN));
    let steps = server1.rehearse(&resize()).steps;
    let wanted = [
        "go on without server2 for a moment",
        "go on without server3 for a moment",
        "grow the mirror from 15728640 to 24117248 bytes, and mark what is new",
        "take server2 back, and copy to it what is marked",
        "take server3 back, and copy to it what is marked",
        "applications see the new size when they connect to the mirror again",
        "a file system on it is enlarged by its own tool",
    ];
    assert_eq!(steps, wanted);
    assert_eq!(size(server1), before, "nothing is done by asking");
    server1.done(&resize());
    assert_eq!(size(server1), GROWN - METADATA);
    let new = connect(server1);
    write(&new, GROWN - METADATA - 4096, 7).unwrap();
    assert!(write(&old, before, 7).is_err(), "it was told the old size");
    write(&old, before - 4096, 8).unwrap();
    server1.sees(&["Source", "Target", "Target"]);
    application.goes_on(3);
    application.stop();
    assert_eq!(application.broken(), [] as [&str; 0]);
    for node in &cluster.nodes {
        node.wait_for("the new size", |mirror| {
            mirror.size == Some(GROWN - METADATA)
        });
    }
    old.close();
    new.close();
    cluster.legs_equal(&[0, 1, 2]);
    application.check(&server1.data());
    let answer = server1.order(&resize());
    assert_eq!(answer.outcome, Outcome::Done);
    assert!(answer.steps[0].contains("already"), "{answer:?}");
    assert!(server1.told("resized", "24117248 bytes now, 15728640 before"));

    // Whoever takes over has all of it.
    server1.power_off();
    let server2 = &cluster.nodes[1];
    server2.wait_for("server1 gone", |mirror| !mirror.nodes[0].reachable);
    server2.done(&Order::Restore);
    assert_eq!(size(server2), GROWN - METADATA);
    let link = connect(server2);
    write(&link, GROWN - METADATA - 8192, 9).unwrap();
    link.close();
    server1.boot();
    server2.sees(&["Target", "Source", "Target"]);
    cluster.legs_equal(&[0, 1, 2]);
}

#[test]
fn who_is_away_or_has_too_small_a_disk_is_named_and_nothing_is_changed() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let before = size(server1);
    enlarge(server1, GROWN);
    server1.refused(
        &resize(),
        "the disk of server1 holds more than the 15728640 bytes of data, but that of server2 holds 15728640",
    );
    server1.refused(&to(Some(16 << 20)), "enlarge it by 1048576 bytes first");
    server2.refused(
        &resize(),
        "data is in service on server1, and resized there",
    );
    server1.refused(
        &to(Some(4 << 20)),
        "becomes smaller only out of service; netraid stop data",
    );
    server1.refused(&to(Some(5000)), "a multiple of 4096");
    cluster.cut(0, 1, Cable::Reset);
    server1.wait_for("server2 gone", |mirror| !mirror.nodes[1].reachable);
    server1.refused(&resize(), "server2 can't be reached");
    cluster.join(0, 1);
    server1.sees(&["Source", "Target"]);
    assert_eq!(size(server1), before);
    // The smaller one decides, once it has grown at all; and it is told that there is room.
    enlarge(server2, 20 << 20);
    server1.wait_for("a note", |mirror| {
        mirror.notes
            == ["the disks hold 4194304 bytes more than the mirror: mirror_resize data uses them"]
    });
    server1.done(&resize());
    assert_eq!(size(server1), (20 << 20) - METADATA);
    let mirror = server1.sees(&["Source", "Target"]);
    assert!(mirror.notes.is_empty() && mirror.problems.is_empty());
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn out_of_service_it_grows_or_becomes_smaller_and_targets_follow_when_they_are_taken_back() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    cluster.application(0).write(0..MIB);
    // 64 KiB a chunk: what the first MiB has for the bitmap does for 48 GiB. The files have holes.
    cluster
        .nodes
        .iter()
        .for_each(|node| enlarge(node, 64 << 30));
    server1.refused(
        &to(Some(60 << 30)),
        "become larger only out of service; netraid stop data",
    );
    server1.done(&Order::Remove);
    cluster.nodes.iter().for_each(|node| {
        let disk = OpenOptions::new().write(true).open(node.disk()).unwrap();
        disk.set_len(GROWN).unwrap();
    });
    server1.done(&resize());
    assert_eq!(size(server1), GROWN - METADATA);
    server1.refused(
        &to(Some(8 << 20)),
        "would give up the last 15728640 bytes of data for ever",
    );
    server1.done(&Order::Resize {
        size: Some(8 << 20),
        force: true,
    });
    assert_eq!(size(server1), 8 << 20);
    server1.done(&Order::Restore);
    server1.sees(&["Source", "Target"]);
    server2.wait_for("the new size", |mirror| mirror.size == Some(8 << 20));
    cluster.legs_equal(&[0, 1]);
}

#[test]
fn a_kill_of_any_process_in_the_middle_leaves_one_size_everywhere_in_the_end() {
    // Whose process dies after so many milliseconds: the order is answered or not, as it comes.
    let victims = [
        (0, Process::Daemon),
        (0, Process::Array),
        (1, Process::Export),
        (1, Process::Daemon),
    ];
    for (round, (at, which)) in victims.into_iter().enumerate() {
        let cluster = Cluster::with(2, Options::default()).mirrored();
        let server1 = &cluster.nodes[0];
        let mut application = cluster.application(0);
        application.begin(10 * MIB);
        application.goes_on(2);
        cluster.nodes.iter().for_each(|node| enlarge(node, GROWN));
        std::thread::scope(|scope| {
            scope.spawn(|| server1.try_order(&resize()));
            server1.wait_told("leg-failed", "new size");
            if which == Process::Daemon {
                cluster.nodes[at].kill_daemon();
            } else {
                cluster.nodes[at].kill_process(which);
            }
        });
        if which == Process::Daemon {
            cluster.nodes[at].start_daemon();
        }
        server1.sees(&["Source", "Target"]);
        wait(&format!("round {round}: it can't be resized"), || {
            server1.order(&resize()).outcome == Outcome::Done
        });
        server1.sees(&["Source", "Target"]);
        application.goes_on(2);
        application.stop();
        for node in &cluster.nodes {
            node.wait_for("the new size", |mirror| {
                mirror.size == Some(GROWN - METADATA)
            });
        }
        cluster.legs_equal(&[0, 1]);
        application.check(&server1.data());
    }
}
