//! Killed and restarted processes under load: the application goes on, nothing is copied in full, nothing is lost.

use std::time::Duration;

use netraid::api::document::Order;

use crate::application::Application;
use crate::cluster::{Cluster, MIB};
use crate::node::{Process, wait};

/// A mirror in sync, and an application that writes on it.
fn under_load() -> (Cluster, Application) {
    let cluster = Cluster::new(2).mirrored();
    let mut application = cluster.application(0);
    application.begin(8 * MIB);
    application.goes_on(10);
    (cluster, application)
}

/// In sync again, partially at most; nothing lost, nothing different.
fn all_well(cluster: &Cluster, application: &mut Application) {
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.sees(&["Source", "Target"]);
    application.goes_on(10);
    application.stop();
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    for event in server1.events() {
        let full = event.event == "resync" && event.text.starts_with("everything");
        assert!(!full || event.text.contains("just created"), "{event:?}");
    }
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
    // On a machine that does nothing else it is less than two seconds; `cargo test ... -- --nocapture` shows it.
    let pause = application.pause();
    println!("longest pause: {} ms", pause.as_millis());
    assert!(pause < Duration::from_secs(10), "{pause:?}");
}

fn undisturbed(application: &Application) {
    assert_eq!(application.broken(), Vec::<String>::new());
    assert!(
        application.pause() < Duration::from_secs(2),
        "{:?}",
        application.pause()
    );
}

#[test]
fn an_array_that_dies_while_netraidd_ends_leaves_no_suspicion() {
    let (cluster, mut application) = under_load();
    let server1 = &cluster.nodes[0];
    for _ in 0..5 {
        assert!(server1.kill_process(Process::Array));
        // It may be bringing the array back: no peer answers it any more.
        server1.end_daemon();
        assert!(!server1.flag("data_corrupt").exists(), "{}", server1.log());
        server1.start_daemon();
        cluster.met();
        server1.done(&Order::Restore);
        server1.sees(&["Source", "Target"]);
        application.goes_on(10);
    }
    all_well(&cluster, &mut application);
}

#[test]
fn netraidd_of_the_source_is_killed_and_begins_anew() {
    let (cluster, mut application) = under_load();
    let server1 = &cluster.nodes[0];
    for _ in 0..3 {
        server1.kill_daemon();
        application.goes_on(10);
        server1.start_daemon();
        let mirror = server1.sees(&["Source", "Target"]);
        assert_eq!(
            mirror.nodes[1].last_resync, None,
            "nothing was to be copied"
        );
        assert!(!server1.told("leg-dropped", ""));
    }
    all_well(&cluster, &mut application);
    undisturbed(&application);
}

#[test]
fn netraidd_of_the_target_is_killed_and_begins_anew() {
    let (cluster, mut application) = under_load();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    for _ in 0..3 {
        server2.kill_daemon();
        application.goes_on(10);
        server2.start_daemon();
        server2.sees(&["Source", "Target"]);
        assert!(!server1.told("leg-dropped", ""));
    }
    all_well(&cluster, &mut application);
    undisturbed(&application);
}

#[test]
fn both_daemons_end_at_once_and_begin_anew() {
    let (cluster, mut application) = under_load();
    for node in &cluster.nodes {
        node.end_daemon();
    }
    application.goes_on(10);
    for node in &cluster.nodes {
        node.start_daemon();
    }
    let mirror = cluster.nodes[0].sees(&["Source", "Target"]);
    assert_eq!(
        mirror.nodes[1].last_resync, None,
        "nothing was to be copied"
    );
    all_well(&cluster, &mut application);
    undisturbed(&application);
}

#[test]
fn the_array_of_the_source_is_killed_and_comes_back() {
    let (cluster, mut application) = under_load();
    let server1 = &cluster.nodes[0];
    for _ in 0..2 {
        assert!(server1.kill_process(Process::Array));
        server1.wait_told("array-died", "");
        application.goes_on(10);
        server1.sees(&["Source", "Target"]);
    }
    all_well(&cluster, &mut application);
}

#[test]
fn the_array_dies_while_no_daemon_looks_after_it() {
    let (cluster, mut application) = under_load();
    let server1 = &cluster.nodes[0];
    server1.kill_daemon();
    assert!(server1.kill_process(Process::Array));
    wait("the array does not end", || {
        server1
            .processes()
            .iter()
            .all(|(_, kind)| *kind != Process::Array)
    });
    server1.start_daemon();
    // Whether it may go on is decided as after a crash: the target can be asked, and has nothing newer.
    cluster.met();
    server1.done(&Order::Restore);
    all_well(&cluster, &mut application);
}

#[test]
fn the_export_of_the_target_is_killed_and_comes_back() {
    let (cluster, mut application) = under_load();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    for _ in 0..2 {
        assert!(server2.kill_process(Process::Export));
        server2.wait_told("export-restarted", "");
        server1.wait_told("leg-failed", "server2");
        application.goes_on(10);
        server1.sees(&["Source", "Target"]);
    }
    all_well(&cluster, &mut application);
    assert_eq!(application.broken(), Vec::<String>::new());
}

#[test]
fn the_target_loses_power_under_load_and_returns() {
    let (cluster, mut application) = under_load();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server2.power_off();
    server1.sees(&["Source", "Unknown"]);
    application.goes_on(10);
    server2.boot();
    all_well(&cluster, &mut application);
    assert_eq!(application.broken(), Vec::<String>::new());
}

#[test]
fn the_source_loses_power_under_load_and_all_that_was_flushed_is_on_the_target() {
    let (cluster, mut application) = under_load();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    server1.power_off();
    server2.sees(&["Unknown", "Target"]);
    server2.done(&Order::Restore);
    application.moves_to(server2.run_dir().join("data.nbd"));
    application.check(&server2.data());
    application.begin(8 * MIB);
    application.goes_on(10);
    server1.boot();
    let mirror = server2.sees(&["Target", "Source"]);
    let resync = mirror.nodes[0].last_resync.clone().unwrap();
    assert!(!resync.full, "{resync:?}");
    application.goes_on(10);
    application.stop();
    server2.sees(&["Target", "Source"]);
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}
