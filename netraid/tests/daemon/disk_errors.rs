//! What becomes of a source whose own disk fails: the program that is called, and what `netraid explain` says of it.

use std::fs;
use std::process::Command;

use netraid::api::document::Order;

use crate::cluster::{Cluster, MIB, Options};
use crate::node::{Node, Process, TAG};

/// The front of a disk that can still be written: the metadata and half of the data.
const ROOM: u64 = 8 << 20;

fn cluster(keys: &str) -> Cluster {
    let options = Options {
        keys: keys.to_owned(),
        ..Options::default()
    };
    Cluster::with(2, options).mirrored()
}

fn explained(node: &Node) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_netraid"))
        .args(["explain", TAG, "--run-dir"])
        .arg(node.run_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_program_for_a_failed_disk_is_called_once_with_drbds_environment_and_the_disk_is_given_up() {
    let note = "env | grep ^DRBD_ | sort >>\"$(dirname \"$DRBD_LL_DISK\")\"/told";
    let cluster = cluster(&format!(
        "on-io-error = \"call-local-io-error\"\n[handlers]\nlocal-io-error = '{note}'"
    ));
    let server1 = &cluster.nodes[0];
    let mut application = cluster.application(0);
    application.begin(12 * MIB);
    application.goes_on(5);
    assert!(!server1.told("handler", ""));
    server1.full_from(Process::Array, Some(ROOM));
    server1.wait_told("handler", "handlers.local-io-error has ended");
    server1.wait_for("that its own disk failed", |mirror| {
        mirror.nodes[0].disk == "Diskless"
    });
    application.goes_on(20);
    // Somebody looks whether all is well, again and again.
    for _ in 0..3 {
        server1.order(&Order::QuickCheck);
    }
    application.goes_on(5);
    application.stop();
    assert_eq!(application.broken(), Vec::<String>::new());
    let events = server1.events();
    let called = events.iter().filter(|one| one.text.contains("is called"));
    assert_eq!(called.count(), 1);
    let told = fs::read_to_string(server1.folder.join("told")).unwrap();
    let (address, rest) = told
        .split_once("DRBD_MY_ADDRESS=")
        .map(|(before, rest)| (before, rest.split_once('\n').unwrap()))
        .map(|(before, (address, rest))| (address, format!("{before}{rest}")))
        .unwrap();
    assert!(address.starts_with("127."), "{told}");
    let disk = server1.disk();
    let disk = disk.display();
    assert_eq!(
        rest,
        format!("DRBD_LL_DISK={disk}\nDRBD_NODE_ID=0\nDRBD_RESOURCE=data\nDRBD_VOLUME=0\n")
    );
    assert!(
        !cluster.nodes[1].told("handler", ""),
        "the target's was called"
    );
    application.check(&cluster.nodes[1].data());
}

#[test]
fn errors_of_a_disk_are_explained_while_it_is_kept_and_when_it_was_given_up() {
    let cluster = cluster("on-io-error = \"pass-through\"\nio-error-limit = 40");
    let server1 = &cluster.nodes[0];
    let said = explained(server1);
    assert!(!said.contains("I/O errors"), "{said}");
    let mut application = cluster.application(0);
    application.begin(12 * MIB);
    application.goes_on(1);
    server1.full_from(Process::Array, Some(ROOM));
    server1.wait_for("errors", |mirror| {
        mirror
            .problems
            .join(" ")
            .contains("the disk of server1 had")
    });
    let said = explained(server1);
    assert!(said.contains("problem: the disk of server1 had"), "{said}");
    server1.wait_for("that its own disk failed", |mirror| {
        mirror.nodes[0].disk == "Diskless" && mirror.problems.join(" ").contains("given up")
    });
    let said = explained(server1);
    assert!(said.contains("I/O errors: it was given up"), "{said}");
    application.goes_on(5);
    application.stop();
    application.check(&cluster.nodes[1].data());
}
