//! `netraid events --events2` of a real daemon: what exists, what changes, and that something was missed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use netraid::api::document::Order;

use crate::cable::Cable;
use crate::cluster::{Cluster, Options};
use crate::node::{Node, PATIENCE, TAG};

/// The program, and its lines.
pub struct Listener {
    child: Child,
    lines: Receiver<String>,
}

impl Listener {
    pub fn new(node: &Node) -> Listener {
        let mut child = Command::new(env!("CARGO_BIN_EXE_netraid"))
            .args(["events", TAG, "--events2", "--run-dir"])
            .arg(node.run_dir())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Listener { child, lines }
    }

    /// The lines up to one with these words, and that one.
    pub fn until(&self, words: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen: Vec<String> = Vec::new();
        while !seen.last().is_some_and(|line| line.contains(words)) {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            seen.push(line.unwrap_or_else(|_| panic!("no {words:?} came, but {seen:#?}")));
        }
        seen
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_exists_comes_first_then_what_changes_over_a_restart_of_the_daemon() {
    let options = Options {
        keys: "[handlers]\nsplit-brain = 'exit 3'".into(),
        ..Options::default()
    };
    let cluster = Cluster::with(2, options).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let listener = Listener::new(server1);
    let peer = "name:data peer-node-id:1 conn-name:server2";
    assert_eq!(
        listener.until("exists -"),
        [
            "exists resource name:data role:Primary suspended:no may_promote:no".to_owned(),
            format!(
                "exists device name:data volume:0 backing_dev:{} disk:UpToDate client:no",
                server1.disk().display()
            ),
            format!("exists connection {peer} connection:Connected role:Secondary"),
            format!(
                "exists peer-device {peer} volume:0 replication:Established peer-disk:UpToDate peer-client:no \
                 resync-suspended:no"
            ),
            "exists -".to_owned(),
        ]
    );
    cluster.cut(0, 1, Cable::Reset);
    // Both in one look, or in two.
    listener.until(&format!(
        "change connection {peer} connection:Connecting role:Unknown"
    ));
    cluster.application(0).write(0..8);
    server1.sees(&["Source", "Unknown"]);
    server2.done(&Order::Force);
    cluster.application(1).write(0..8);
    cluster.join(0, 1);
    let seen = listener.until("response helper name:data helper:split-brain");
    let call = "call helper name:data helper:split-brain";
    assert!(seen.iter().any(|line| line == call), "{seen:#?}");
    assert!(seen.last().unwrap().ends_with("status:768"), "{seen:#?}");
    // Told before or after that.
    let alone = format!("change connection {peer} connection:StandAlone");
    if !seen.iter().any(|line| line.starts_with(&alone)) {
        listener.until(&alone);
    }
    // It goes on without a daemon, and says that something may be missing.
    server1.end_daemon();
    listener.until("gap netraidd:ended");
    server1.start_daemon();
    listener.until("gap netraidd:begun");
    server1.done(&Order::Remove);
    listener.until("change resource name:data role:Secondary");
    cluster.cut(0, 1, Cable::Reset);
    listener.until("connection:Connecting");
}
