//! A cluster: nodes with their certificates and disks, and the cables between them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use flags::NodeName;
use netraid::api::document::{Mirror, Order};
use netraid::api::issue;
use tempfile::TempDir;

use crate::application::Application;
use crate::cable::{Cable, Proxy};
use crate::node::{Node, TAG, blank, wait};

/// Bytes of a disk.
pub const DISK: u64 = 16 << 20;
const PEERS: u16 = 7800;
const LEGS: u16 = 10001;

/// Blocks of an application that are a MiB.
pub const MIB: u64 = 256;

pub fn create() -> Order {
    Order::Create {
        force: false,
        keep: false,
    }
}

pub fn extend(node: &str) -> Order {
    Order::Extend {
        node: node.to_owned(),
        force: false,
    }
}

/// How a cluster is made.
#[derive(Clone, Default)]
pub struct Options {
    /// Lines of `/etc/default/LifeKeeper`.
    pub defaults: String,
    /// KiB a second that a resync may take: slow enough to be looked at.
    pub speed: Option<u32>,
    /// Lines in the file of `data`, before its nodes.
    pub keys: String,
    /// Nodes, counted from 0, that have a second mirror, called `more`; the others have no other than `data`.
    pub more: Vec<usize>,
    /// Nodes that have `data`; all, if none is named.
    pub data: Vec<usize>,
    /// Of those the last one has no disk, and only votes.
    pub tie_breaker: bool,
}

pub struct Cluster {
    // Before the folder: their processes end first.
    pub nodes: Vec<Node>,
    /// By both ends: for the peers, and for the data of each mirror.
    cables: BTreeMap<(usize, usize), [Proxy; 3]>,
    _folder: TempDir,
}

impl Cluster {
    /// Nodes `server1`, `server2` and so on, which run, and have no mirror yet.
    pub fn new(count: usize) -> Cluster {
        Cluster::with(count, Options::default())
    }

    /// The same, whose resyncs are slow enough to be looked at.
    pub fn slow(count: usize) -> Cluster {
        let speed = Some(3000);
        Cluster::with(
            count,
            Options {
                speed,
                ..Options::default()
            },
        )
    }

    pub fn with(count: usize, options: Options) -> Cluster {
        let cluster = Cluster::prepared(count, options);
        for node in &cluster.nodes {
            node.start_daemon();
        }
        cluster
    }

    /// Configured nodes that don't run yet.
    pub fn prepared(count: usize, options: Options) -> Cluster {
        let netraidd = Path::new(env!("CARGO_BIN_EXE_netraidd"));
        let server = netraidd.with_file_name("nbd-server");
        assert!(
            server.exists(),
            "{} is missing: cargo build --workspace --bins",
            server.display()
        );
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (1..=count)
            .map(|number| format!("server{number}"))
            .collect();
        let nodes: Vec<Node> = names
            .iter()
            .map(|name| Node::new(name, folder.path().join(name)))
            .collect();
        let hosts: Vec<Ipv4Addr> = addresses(count);
        let mut cables = BTreeMap::new();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let proxies = [PEERS, LEGS, LEGS + 1]
                    .map(|port| Proxy::new(SocketAddr::from((hosts[to], port))));
                cables.insert((from, to), proxies);
            }
        }
        let mut defaults = options.defaults;
        if let Some(speed) = options.speed {
            write!(
                defaults,
                "LKDR_SPEED_LIMIT={speed}\nLKDR_SPEED_LIMIT_MIN={speed}\n"
            )
            .unwrap();
        }
        certificates(folder.path(), &names);
        for (from, node) in nodes.iter().enumerate() {
            let etc = node.folder.join("etc");
            let text = format!(
                "node = {:?}\nlisten = [\"{}:{PEERS}\"]\nrun_dir = {:?}\nlkroot = {:?}\n",
                node.name,
                hosts[from],
                node.run_dir(),
                node.lkroot(),
            );
            fs::write(etc.join("netraid.toml"), text).unwrap();
            fs::write(etc.join("defaults"), &defaults).unwrap();
        }
        let cluster = Cluster {
            nodes,
            cables,
            _folder: folder,
        };
        let data = match options.data.is_empty() {
            true => (0..count).collect(),
            false => options.data,
        };
        for (number, (tag, members)) in [(TAG, data), ("more", options.more)].iter().enumerate() {
            let (keys, tie_breaker) = match tag == &TAG {
                true => (options.keys.as_str(), options.tie_breaker),
                false => ("", false),
            };
            for node in members {
                let without = members.last().filter(|_| tie_breaker).copied();
                cluster.configure((tag, number, keys), (*node, without), members, hosts[*node]);
            }
        }
        cluster
    }

    /// A node's disk for a mirror, and its file of it.
    fn configure(
        &self,
        (tag, number, keys): (&str, usize, &str),
        (own, without): (usize, Option<usize>),
        members: &[usize],
        host: Ipv4Addr,
    ) {
        let node = &self.nodes[own];
        blank(&node.disk_of(tag), DISK);
        let mut text = format!(
            "tag = \"{tag}\"\nnumber = {number}\nbackend = \"embedded\"\ndevice = {:?}\nchunk = 64\n{keys}\n",
            node.device(tag),
        );
        for to in members {
            let (address, port) = match self.cables.get(&(own, *to)) {
                Some(cable) => (cable[0].address, cable[1 + number].address.port()),
                None => (SocketAddr::from((host, PEERS)), LEGS + number as u16),
            };
            let name = &self.nodes[*to].name;
            let disk = match without == Some(*to) {
                true => "none".into(),
                false => self.nodes[*to].disk_of(tag),
            };
            writeln!(
                text,
                "[[nodes]]\nname = {name:?}\naddress = \"{address}\"\ndisk = {disk:?}\nport = {port}"
            )
            .unwrap();
        }
        fs::write(node.folder.join(format!("etc/{tag}.toml")), text).unwrap();
    }

    /// All nodes' names and their mirror: `server1` is source, the others are targets in sync.
    pub fn mirrored(self) -> Cluster {
        let source = &self.nodes[0];
        source.done(&create());
        for node in &self.nodes[1..] {
            source.done(&extend(&node.name));
        }
        let wanted: Vec<&str> = (0..self.nodes.len())
            .map(|at| ["Target", "Source"][usize::from(at == 0)])
            .collect();
        for node in &self.nodes {
            node.sees(&wanted);
        }
        self
    }

    pub fn cut(&self, one: usize, other: usize, how: Cable) {
        for (ends, proxies) in &self.cables {
            if *ends == (one, other) || *ends == (other, one) {
                proxies.iter().for_each(|proxy| proxy.set(how));
            }
        }
    }

    /// What `from` sends to `to` over connections of its own does not arrive, nor does the answer.
    pub fn cut_one_way(&self, from: usize, to: usize, how: Cable) {
        for proxy in &self.cables[&(from, to)] {
            proxy.set(how);
        }
    }

    /// The data of the mirror that `from` sends to `to`; the daemons still hear of each other.
    pub fn cut_data(&self, from: usize, to: usize, how: Cable) {
        self.cables[&(from, to)][1].set(how);
    }

    pub fn join(&self, one: usize, other: usize) {
        self.cut(one, other, Cable::Whole);
    }

    /// An application that writes on a node's mirror until it is told to stop.
    pub fn application(&self, node: usize) -> Application {
        Application::new(self.nodes[node].device(TAG))
    }

    /// P3: the legs of these nodes are equal, once nothing is on its way any more.
    pub fn legs_equal(&self, nodes: &[usize]) {
        let legs: Vec<Vec<u8>> = nodes.iter().map(|node| self.nodes[*node].data()).collect();
        for (node, leg) in nodes.iter().zip(&legs).skip(1) {
            let differs = leg
                .chunks(4096)
                .zip(legs[0].chunks(4096))
                .position(|(one, other)| one != other);
            assert!(
                differs.is_none() && leg.len() == legs[0].len(),
                "the legs of {} and {} differ, first in block {differs:?} of 4096 bytes",
                self.nodes[nodes[0]].name,
                self.nodes[*node].name
            );
        }
    }

    /// Waits until no bit is set any more, on no disk either: bits are dropped a while after what they stand for, in the
    /// source's memory first. What the source shows then.
    pub fn no_bits(&self) -> Mirror {
        let shown = self.nodes[0].wait_for("no bits", |mirror| mirror.dirty_bytes == Some(0));
        for node in &self.nodes {
            wait(&format!("{} has bits set", node.name), || {
                node.has_clean_bitmap()
            });
        }
        shown
    }

    /// Waits until every node has told all others that it is there.
    pub fn met(&self) {
        for node in &self.nodes {
            wait(
                &format!("{} does not reach all:\n{}", node.name, node.log()),
                || node.status().nodes.iter().all(|other| other.reachable),
            );
        }
    }
}

/// Loopback addresses that no other test has, of this process or another: so all can use the same ports.
fn addresses(count: usize) -> Vec<Ipv4Addr> {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    assert!(
        cluster < 512,
        "one process makes no more clusters than that"
    );
    // 12 bits for the process, 9 for the cluster, 3 for the node; never 127.0.0.1.
    let process = std::process::id() % 4095 + 1;
    let host = |node: u32| Ipv4Addr::from(0x7f00_0000 | process << 12 | cluster << 3 | node);
    (0..count as u32).map(host).collect()
}

fn certificates(folder: &Path, names: &[String]) {
    let tls = |name: &str| folder.join(name).join("etc/tls");
    let node = |name: &str| NodeName::new(name).unwrap();
    let first = tls(&names[0]);
    issue::init(&first, &node(&names[0])).unwrap();
    for name in &names[1..] {
        let bundle = folder.join(format!("{name}.bundle"));
        issue::invite(&first, &node(name), &bundle).unwrap();
        issue::join(&tls(name), &bundle).unwrap();
    }
}
