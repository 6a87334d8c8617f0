//! Peers that are not what they should be: refused, and the status says why.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use flags::NodeName;
use netraid::api::identity::Identity;
use netraid::api::issue;
use netraid::api::peer_client::PeerClient;

use crate::cluster::{Cluster, MIB, Options, create, extend};
use crate::node::Node;

/// Where a node's daemon listens for peers.
pub fn listens(node: &Node) -> SocketAddr {
    let text = fs::read_to_string(node.folder.join("etc/netraid.toml")).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("listen"))
        .unwrap();
    line.split('"').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_node_with_a_certificate_of_another_authority_is_not_heard() {
    let cluster = Cluster::prepared(2, Options::default());
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let tls = server2.folder.join("etc/tls");
    fs::remove_dir_all(&tls).unwrap();
    issue::init(&tls, &NodeName::new("server2").unwrap()).unwrap();
    server1.start_daemon();
    server2.start_daemon();
    server1.wait_told("peer-unreachable", "certificate");
    server2.wait_told("peer-unreachable", "certificate");
    server1.done(&create());
    server1.done(&extend("server2"));
    let mirror = server1.sees(&["Source", "Unknown"]);
    assert!(!mirror.nodes[1].reachable);
    // The status itself says why.
    let node = server1.wait_for("why", |mirror| mirror.nodes[1].failure.is_some());
    let why = node.nodes[1].failure.clone().unwrap();
    assert!(why.contains("certificate"), "{why}");
    assert_eq!(server2.status().source, None);
}

#[test]
fn a_node_whose_file_has_other_nodes_is_not_heard_and_both_say_why() {
    let cluster = Cluster::prepared(2, Options::default());
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let file = server2.folder.join("etc/data.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    text += "[[nodes]]\nname = \"server3\"\naddress = \"127.9.9.3\"\ndisk = \"/dev/none\"\n";
    fs::write(file, text).unwrap();
    server1.start_daemon();
    server2.start_daemon();
    server1.done(&create());
    server1.wait_told(
        "other-configuration",
        "server2 has other nodes in its configuration",
    );
    server2.wait_told(
        "other-configuration",
        "server1 has other nodes in its configuration",
    );
    let mirror = server1.status();
    let why = mirror.nodes[1].failure.clone().unwrap();
    assert!(why.contains("server1, server2, server3"), "{why}");
    assert!(!mirror.nodes[1].reachable);
}

#[test]
fn garbage_of_a_node_with_a_good_certificate_changes_nothing() {
    let cluster = Cluster::new(2).mirrored();
    let server1 = &cluster.nodes[0];
    cluster.application(0).write(0..MIB);
    let before = server1.status();
    let name = |name: &str| NodeName::new(name).unwrap();
    let identity =
        Identity::load(&cluster.nodes[1].folder.join("etc/tls"), &name("server2")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let bodies = [
        serde_json::json!("garbage"),
        serde_json::json!({"version": 99, "known": 0, "fresh": [], "news": {"instance": 1, "upto": 9, "mirrors": [], "gone": []}}),
        serde_json::json!({"version": 1, "known": 0, "fresh": vec!["data"; 5000], "news": {"instance": 1, "upto": u64::MAX, "mirrors": [], "gone": ["data"]}}),
        serde_json::json!({"version": 1, "known": u64::MAX, "fresh": ["../../etc"], "news": {"instance": 0, "upto": 0, "mirrors": [{"tag": "data"}], "gone": []}}),
    ];
    for body in bodies {
        runtime.block_on(async {
            let address = listens(server1).to_string();
            let patience = Duration::from_secs(5);
            let mut client = PeerClient::connect(&identity, &address, &name("server1"), patience)
                .await
                .unwrap();
            // Whatever is answered.
            let _ = client
                .request::<_, serde_json::Value>(
                    hyper::Method::POST,
                    "/v1/peer/exchange",
                    &body,
                    patience,
                )
                .await;
        });
        let mirror = server1.sees(&["Source", "Target"]);
        assert_eq!(mirror.generation, before.generation);
    }
    assert!(!server1.told("leg-failed", "") && !server1.told("leg-dropped", ""));
}

#[test]
fn bytes_of_strangers_at_the_ports_do_nothing() {
    let cluster = Cluster::new(2).mirrored();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let peers = listens(server2);
    let leg = SocketAddr::new(peers.ip(), 10001);
    let before = server2.data();
    for address in [peers, leg] {
        for bytes in [
            &[0u8; 4096][..],
            b"GET / HTTP/1.1\r\n\r\n",
            &[0xff; 100_000],
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut rest = Vec::new();
            // Closed, or reset.
            if let Err(error) = stream.read_to_end(&mut rest) {
                assert_ne!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock,
                    "{address} stays open"
                );
            }
        }
    }
    // Who does not know the ticket does not get into the export.
    let target = nbd_client::Target::tcp(leg.ip().to_string(), leg.port(), "data");
    assert!(nbd_client::Connection::open(&target, nbd_client::Options::default()).is_err());
    let listed = nbd_client::query::list(&target, &nbd_client::Options::default());
    assert!(
        listed.map_or(true, |listed| listed.is_empty()),
        "the secret name is listed"
    );
    server1.sees(&["Source", "Target"]);
    assert!(server2.data() == before);
}
