//! Two netraidd with many mirrors between them, and cables that can be cut: all real programs, on loopback.
//!
//! Every process of a pair names the pair's folder in its arguments, and is killed with it: arrays and exports outlive
//! the daemon that started them, so a keeper does that even if this program is killed.

pub mod cable;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::run;
use crate::scratch::Scratch;
use cable::Cables;

/// Bytes of a disk.
const DISK: u64 = 2 << 20;
const PEERS: u16 = 7800;
const LEGS: u16 = 10001;

/// The pair: `server1` and `server2`.
#[derive(Debug)]
pub struct Pair {
    /// The two nodes.
    pub nodes: [Node; 2],
    /// What carries netraidd's talk.
    pub talk: Cables,
    /// What carries data.
    pub data: Cables,
    programs: PathBuf,
    count: u8,
    keeper: Child,
    scratch: Scratch,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    daemon: Option<Child>,
}

/// What one process costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Resident memory in KiB.
    pub resident: u64,
    /// The most that it ever was.
    pub peak: u64,
    /// Its threads.
    pub threads: u64,
    /// Processor time so far.
    pub processor: Duration,
}

impl Pair {
    /// A pair with `count` configured mirrors, `m0` and so on; both daemons run.
    ///
    /// # Panics
    /// If anything can't be made.
    pub fn new(parent: &Path, programs: &Path, count: u8) -> Pair {
        let scratch = Scratch::inside(parent).expect("make a scratch folder");
        let keeper = keeper(scratch.folder());
        let nodes = ["server1", "server2"].map(|name| Node {
            name: name.to_owned(),
            folder: scratch.path(name),
            daemon: None,
        });
        // Addresses that no other process has: 14 bits of its number, and the node.
        let process = std::process::id() & 0x3fff;
        let host = |node: u32| Ipv4Addr::from(0x7f40_0000 | process << 2 | (node + 1));
        let hosts = [host(0), host(1)];
        let (talk, data) = (Cables::default(), Cables::default());
        let mut ends = Vec::new();
        for to in hosts {
            let peers = talk.lay(SocketAddr::from((to, PEERS)));
            let legs = (0..count).map(|number| LEGS + u16::from(number));
            let legs: Vec<SocketAddr> = legs
                .map(|port| data.lay(SocketAddr::from((to, port))))
                .collect();
            ends.push((peers, legs));
        }
        for (from, node) in nodes.iter().enumerate() {
            for part in ["etc", "run", "state"] {
                fs::create_dir_all(node.folder.join(part)).expect("make a folder");
            }
            let text = format!(
                "node = {:?}\nlisten = [\"{}:{PEERS}\"]\nrun_dir = {:?}\nstate_dir = {:?}\nlkroot = {:?}\n",
                node.name,
                hosts[from],
                node.run_dir(),
                node.folder.join("state"),
                node.folder.join("lk"),
            );
            write(&node.folder.join("etc/netraid.toml"), &text);
            write(&node.folder.join("etc/defaults"), "");
            for number in 0..count {
                scratch.sparse(&format!("{}/disk{number}", node.name), DISK);
                let mut text = format!(
                    "tag = \"m{number}\"\nnumber = {number}\nbackend = \"embedded\"\ndevice = {:?}\nchunk = 64\n",
                    node.run_dir().join(format!("m{number}.nbd")),
                );
                for (to, other) in nodes.iter().enumerate() {
                    let (address, port) = match from == to {
                        true => (
                            SocketAddr::from((hosts[to], PEERS)),
                            LEGS + u16::from(number),
                        ),
                        false => (ends[to].0, ends[to].1[usize::from(number)].port()),
                    };
                    writeln!(
                        text,
                        "[[nodes]]\nname = {:?}\naddress = \"{address}\"\ndisk = {:?}\nport = {port}",
                        other.name,
                        other.disk(number)
                    )
                    .expect("write to a text");
                }
                write(&node.folder.join(format!("etc/m{number}.toml")), &text);
            }
        }
        let mut pair = Pair {
            nodes,
            talk,
            data,
            programs: programs.to_owned(),
            count,
            keeper,
            scratch,
        };
        pair.certify();
        for node in 0..2 {
            pair.start(node);
        }
        pair
    }

    fn certify(&self) {
        let tls = |node: &Node| node.folder.join("etc/tls");
        let [first, second] = &self.nodes;
        let bundle = self.scratch.path("bundle");
        let cert = |node: &Node, words: &[&str]| {
            let mut command = self.program(node, "netraid");
            command.arg("cert").args(words);
            command.arg("--tls-dir").arg(tls(node));
            run(&mut command).ok();
        };
        let to = bundle.to_str().expect("a path that is text");
        cert(first, &["init", "--node", &first.name]);
        cert(first, &["invite", &second.name, "--out", to]);
        cert(second, &["join", to]);
    }

    /// A program of ours, as a user of that node runs it.
    pub fn program(&self, node: &Node, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("NETRAID_RUN_DIR", node.run_dir());
        command.env("NETRAID_CONFIG_DIR", node.folder.join("etc"));
        command.env("NETRAID_DEFAULTS_FILE", node.folder.join("etc/defaults"));
        command.env("LKROOT", node.folder.join("lk"));
        command
    }

    /// Starts the daemon of a node; returns when it listens.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(&mut self, node: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.nodes[node].folder.join("log"));
        let mut child = self
            .program(&self.nodes[node], "netraidd")
            .arg("--config-dir")
            .arg(self.nodes[node].folder.join("etc"))
            .arg("--print-ready")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.expect("make a log"))
            .spawn()
            .expect("start netraidd");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe was asked for");
        let _ = BufReader::new(out).read_line(&mut line);
        self.nodes[node].daemon = Some(child);
        assert_eq!(line, "ready\n", "{}", self.nodes[node].log());
    }

    /// Makes every mirror, with `server1` as its source and `server2` as a target in sync.
    ///
    /// # Panics
    /// If that fails.
    pub fn mirror_all(&self) {
        for number in 0..self.count {
            let tag = format!("m{number}");
            for words in [vec!["create", &tag], vec!["extend", &tag, "server2"]] {
                let mut command = self.program(&self.nodes[0], "netraid");
                run(command.args(words)).ok();
            }
        }
        self.all_are(["Source", "Target"], Duration::from_secs(120));
    }

    /// Waits until every mirror has these status words on both nodes; how long that took.
    ///
    /// # Panics
    /// If that takes longer than `patience`.
    pub fn all_are(&self, wanted: [&str; 2], patience: Duration) -> Duration {
        let begin = Instant::now();
        for node in 0..self.nodes.len() {
            let left = patience.saturating_sub(begin.elapsed());
            self.all_are_seen(wanted, node, left);
        }
        begin.elapsed()
    }

    /// The same, on one node.
    ///
    /// # Panics
    /// If that takes longer than `patience`.
    pub fn all_are_seen(&self, wanted: [&str; 2], node: usize, patience: Duration) {
        let begin = Instant::now();
        loop {
            let wrong = self.nodes[node].wrong(wanted, usize::from(self.count));
            if wrong.is_empty() {
                return;
            }
            assert!(
                begin.elapsed() < patience,
                "{wanted:?} is not so for {} mirrors: {}",
                wrong.len(),
                wrong[0]
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Pair {
    /// How many mirrors there are.
    pub fn count(&self) -> u8 {
        self.count
    }
}

impl Node {
    /// The folder of its sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The disk of a mirror.
    pub fn disk(&self, number: u8) -> PathBuf {
        self.folder.join(format!("disk{number}"))
    }

    /// LifeKeeper's folder.
    pub fn lkroot(&self) -> PathBuf {
        self.folder.join("lk")
    }

    /// What its daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What the daemon answers to a GET over its socket.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.run_dir().join("netraidd.sock"))
            .unwrap_or_else(|error| panic!("netraidd of {}: {error}", self.name));
        let request = format!("GET {path} HTTP/1.1\r\nHost: netraid\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("ask netraidd");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .expect("read netraidd's answer");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let head = end.expect("an answer has a head") + 4;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "GET {path} failed");
        answer.split_off(head)
    }

    fn wrong(&self, wanted: [&str; 2], count: usize) -> Vec<String> {
        let document: Value = serde_json::from_slice(&self.get("/v1/mirrors")).expect("JSON");
        let mirrors = document["mirrors"].as_array().expect("a list of mirrors");
        let is_right = |mirror: &&Value| {
            let nodes = mirror["nodes"].as_array().expect("a list of nodes");
            let words = nodes.iter().map(|node| node["status"].as_str());
            words.eq(wanted.map(Some)) && nodes.iter().all(|node| node["member"] == true)
        };
        let wrong = mirrors.iter().filter(|mirror| !is_right(mirror));
        let mut wrong: Vec<String> = wrong.map(|mirror| format!("{mirror:#}")).collect();
        wrong.extend((mirrors.len()..count).map(|_| format!("{} does not show it", self.name)));
        wrong
    }

    /// What its daemon costs.
    ///
    /// # Panics
    /// If it does not run.
    pub fn cost(&self) -> Cost {
        let pid = self.daemon.as_ref().expect("a daemon that runs").id();
        cost(pid)
    }

    /// What all its exports and arrays have cost: the sum of processor time, and of private memory in KiB.
    pub fn helpers(&self) -> (usize, Duration) {
        let own = self.daemon.as_ref().map(Child::id);
        let others: Vec<u32> = processes(&self.folder)
            .into_iter()
            .filter(|pid| Some(*pid) != own)
            .collect();
        let spent = others.iter().map(|pid| cost(*pid).processor).sum();
        (others.len(), spent)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // The keeper kills whatever names the folder when its standard input ends.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        for node in &mut self.nodes {
            if let Some(mut daemon) = node.daemon.take() {
                let _ = daemon.wait();
            }
            if thread::panicking() {
                let log = node.log();
                let from = log
                    .len()
                    .saturating_sub(log.lines().rev().take(20).map(str::len).sum());
                eprintln!(
                    "-- netraidd of {}, the end of its log:\n{}",
                    node.name,
                    log.get(from..).unwrap_or(&log)
                );
            }
        }
    }
}

/// Kills every process whose arguments name the folder, once it is left alone.
fn keeper(folder: &Path) -> Child {
    const KEEPER: &str = r#"read -r end
for turn in 1 2 3; do
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" = $$ ] || ! grep -qsF -- "$1" "$process/cmdline" || kill -s KILL "${process#/proc/}"
    done
done 2>/dev/null"#;
    Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(folder)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("start a shell")
}

fn processes(folder: &Path) -> Vec<u32> {
    let needle = folder.to_str().expect("a path that is text");
    let numbers = fs::read_dir("/proc").expect("read /proc").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours = numbers.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(needle)
    });
    ours.collect()
}

fn cost(pid: u32) -> Cost {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    // Hundredths of a second, after the name in brackets.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|word| word.parse::<u64>().ok()).sum();
    Cost {
        resident: number("VmRSS:"),
        peak: number("VmHWM:"),
        threads: number("Threads:"),
        processor: Duration::from_millis(10 * ticks),
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
