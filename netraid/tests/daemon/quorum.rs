//! Quorum with real daemons: whoever is cut off answers nothing, and is not put in service; no split brain comes of it.

use std::fs;
use std::thread;

use netraid::api::document::{Mirror, Order};

use crate::application::Application;
use crate::cable::Cable;
use crate::cluster::{Cluster, DISK, MIB, Options, create, extend};
use crate::events2::Listener;
use crate::node::{blank, wait};

fn voting(keys: &str) -> Cluster {
    Cluster::with(
        3,
        Options {
            keys: format!("quorum = \"majority\"\n{keys}"),
            ..Options::default()
        },
    )
}

fn requests(wanted: &'static str) -> impl Fn(&Mirror) -> bool {
    move |mirror| {
        let quorum = mirror.quorum.as_ref();
        quorum.is_some_and(|quorum| quorum.requests == wanted)
    }
}

#[test]
fn a_source_that_is_cut_off_answers_nothing_while_a_majority_goes_on_and_becomes_a_target_by_itself()
 {
    let cluster = voting("").mirrored();
    let [server1, server2, server3] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    let mut application = cluster.application(0);
    application.write(0..MIB);

    // One target away: a majority votes for going on without it.
    cluster.cut(0, 2, Cable::Reset);
    cluster.cut(1, 2, Cable::Reset);
    server1.sees(&["Source", "Target", "Unknown"]);
    application.write(MIB..2 * MIB);
    server3.refused(&Order::Restore, "no quorum: 1 of 3");
    server3.refused(&Order::Force, "no quorum");
    cluster.join(0, 2);
    cluster.join(1, 2);
    server1.sees(&["Source", "Target", "Target"]);

    // Cut off from both: what is written waits.
    cluster.cut(0, 1, Cable::Reset);
    cluster.cut(0, 2, Cable::Reset);
    let socket = server1.device("data");
    let writer = thread::spawn(move || {
        let link = Application::open(&socket).unwrap();
        let command = nbd_protocol::command::Command::Write {
            offset: 0,
            data: vec![0xee; 4096].into(),
            fua: false,
        };
        let answer = link.run(command, crate::node::PATIENCE);
        link.close();
        answer
    });
    // At first because a leg has left, then because nobody is there who could be told of it.
    let mirror = server1.wait_for("that requests wait", |mirror| {
        let why = &mirror.nodes[0].why;
        requests("suspended")(mirror) && why.contains("no quorum: 1 of 3 nodes are there")
    });
    assert!(
        mirror
            .problems
            .iter()
            .any(|problem| problem.contains("1 of 3 nodes")),
        "{mirror:#?}"
    );

    // The majority goes on, without asking whether the old source is dead.
    server2.done(&Order::Restore);
    let waits = "Out of Sync (Wait for Previous Source)";
    server2.sees(&["Unknown", "Source", waits]);
    application.moves_to(server2.device("data"));
    application.write(2 * MIB..3 * MIB);
    assert!(
        !writer.is_finished(),
        "a write was answered without a quorum"
    );

    // It returns, has nothing that counts, and nobody has to decide anything.
    cluster.join(0, 1);
    cluster.join(0, 2);
    server1.wait_told("superseded", "server2");
    assert!(
        !writer.is_finished(),
        "a write was answered by a source that was overtaken"
    );
    server1.power_off();
    assert!(writer.join().unwrap().is_err());
    server1.boot();
    for node in &cluster.nodes {
        node.sees(&["Target", "Source", "Target"]);
    }
    assert!(!server2.told("split-brain", ""));
    cluster.legs_equal(&[0, 1, 2]);
    application.check(&server1.data());
}

#[test]
fn requests_of_a_source_without_a_quorum_wait_or_fail_and_are_served_when_it_returns() {
    for (keys, what) in [("", "suspended"), ("on-no-quorum = \"io-error\"", "failed")] {
        let cluster = voting(keys).mirrored();
        let server1 = &cluster.nodes[0];
        let mut application = cluster.application(0);
        application.begin(MIB);
        application.goes_on(3);
        let listener = Listener::new(server1);
        listener.until("suspended:no");
        cluster.cut(0, 1, Cable::Reset);
        cluster.cut(0, 2, Cable::Reset);
        server1.wait_for("no quorum", requests(what));
        if what == "suspended" {
            listener.until("suspended:quorum");
        }
        cluster.join(0, 1);
        server1.wait_for("a quorum", requests("served"));
        application.goes_on(3);
        cluster.join(0, 2);
        server1.sees(&["Source", "Target", "Target"]);
        application.goes_on(3);
        application.stop();
        assert_eq!(
            application.broken().is_empty(),
            what == "suspended",
            "{:?}",
            application.broken()
        );
        server1.done(&Order::Remove);
        cluster.legs_equal(&[0, 1, 2]);
        application.check(&cluster.nodes[1].data());
    }
}

#[test]
fn a_node_that_forgot_what_it_voted_for_votes_when_it_has_met_all_others() {
    let cluster = voting("").mirrored();
    let [server1, server2, server3] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    let application = cluster.application(0);
    application.write(0..MIB);

    // Servers 1 and 2 agree to go on without server3, and what is written then is on them alone.
    server3.power_off();
    server1.sees(&["Source", "Target", "Unknown"]);
    application.write(MIB..2 * MIB);
    server1.power_off();
    server2.power_off();
    for file in fs::read_dir(server2.state_dir()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    blank(&server2.disk(), DISK);

    // Two of three are there, and neither knows that it must not go on: one never did, and one forgot.
    server3.boot();
    server2.boot();
    server3.wait_for("server2", |mirror| mirror.nodes[1].reachable);
    server3.refused(&Order::Force, "no quorum: 1 of 3");
    let silent = |mirror: &Mirror| {
        let problems = mirror.problems.join("; ");
        problems.contains("server2 does not vote before")
            && problems.contains("server1 can't be reached")
    };
    server3.wait_for("who does not vote", silent);

    // Who remembers returns.
    server1.boot();
    server2.wait_for("that it votes", |mirror| mirror.problems.is_empty());
    server1.done(&Order::Restore);
    server1.sees(&["Source", "Target", "Target"]);
    server1.done(&Order::Remove);
    cluster.legs_equal(&[0, 1, 2]);
    application.check(&server2.data());
}

#[test]
fn of_two_nodes_with_a_disk_one_goes_on_alone_with_the_vote_of_a_third() {
    let cluster = Cluster::with(
        3,
        Options {
            keys: "quorum = \"majority\"".into(),
            tie_breaker: true,
            ..Options::default()
        },
    );
    let [server1, server2, server3] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    server3.refused(&create(), "server3 is a tie-breaker");
    server1.done(&create());
    server1.done(&extend("server2"));
    server1.refused(&extend("server3"), "server3 is a tie-breaker");
    for node in &cluster.nodes {
        node.sees(&["Source", "Target"]);
    }
    for node in &cluster.nodes {
        node.wait_for("the tie-breaker", |mirror| {
            let third = &mirror.nodes[2];
            third.status == "Tie-Breaker" && third.disk == "Diskless" && third.why.contains("votes")
        });
    }
    server3.refused(&Order::Restore, "only votes");
    server3.refused(&Order::Force, "only votes");
    let mut application = cluster.application(0);
    application.write(0..MIB);

    // The target's power is lost: the source goes on with the third one's vote.
    server2.power_off();
    server1.sees(&["Source", "Unknown"]);
    application.write(MIB..2 * MIB);
    server2.boot();
    server1.sees(&["Source", "Target"]);
    // Nothing is kept in the bitmap for a leg that there never will be.
    for node in [server1, server2] {
        wait("a bit stays set", || node.has_clean_bitmap());
    }

    // The source is cut off from both: it waits, and the target takes over.
    cluster.cut(0, 1, Cable::Reset);
    cluster.cut(0, 2, Cable::Reset);
    server1.wait_for("that requests wait", requests("suspended"));
    server2.done(&Order::Restore);
    server2.sees(&["Unknown", "Source"]);
    application.moves_to(server2.device("data"));
    application.write(2 * MIB..3 * MIB);
    server1.power_off();
    cluster.join(0, 1);
    cluster.join(0, 2);
    server1.boot();
    server2.sees(&["Target", "Source"]);
    server2.done(&Order::Remove);
    cluster.legs_equal(&[0, 1]);
    application.check(&server1.data());
}
