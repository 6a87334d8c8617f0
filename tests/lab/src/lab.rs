//! A lab: nodes and the cables between them, gone without a trace when it is dropped or its process dies.

use crate::available::{available, find, skip};
use crate::disk::{Disk, first_difference};
use crate::journal::Journal;
use crate::network::Wiring;
use crate::node::{Node, NodeSpec};
use crate::warden::{FOLDER, Warden};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

const MIB: u64 = 1 << 20;
/// The system disk of a node: a few files of state in /etc and /var.
const SYSTEM_SIZE: u64 = 64 * MIB;
/// Bands of the queue discipline that delays, see network.rs.
const MOST_NODES: usize = 15;

/// What a lab is made with.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: Vec<NodeSpec>,
    off: bool,
}

impl Builder {
    /// This many more nodes, each with one disk of 64 MiB and 256 MiB of memory.
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Builder {
        let spec = NodeSpec {
            disks: vec![64 * MIB],
            memory: 256,
        };
        self.nodes.extend(vec![spec; count]);
        self
    }

    /// One more node, with disks of these sizes in MiB (at most 7).
    #[must_use]
    pub fn node(mut self, disks_mib: &[u64]) -> Builder {
        self.nodes.push(NodeSpec {
            disks: disks_mib.iter().map(|size| size * MIB).collect(),
            memory: 256,
        });
        self
    }

    /// All nodes so far get disks of these sizes in MiB (at most 7) in place of what they have.
    #[must_use]
    pub fn disks(mut self, disks_mib: &[u64]) -> Builder {
        for node in &mut self.nodes {
            node.disks = disks_mib.iter().map(|size| size * MIB).collect();
        }
        self
    }

    /// All nodes so far get this much memory in MiB.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Builder {
        for node in &mut self.nodes {
            node.memory = mib;
        }
        self
    }

    /// The nodes are made, but not switched on.
    #[must_use]
    pub fn off(mut self) -> Builder {
        self.off = true;
        self
    }

    /// Makes the lab and boots its nodes, side by side.
    ///
    /// # Errors
    /// This machine cannot run labs, or a node did not come up (with its console).
    pub fn start(self) -> Result<Lab> {
        if let Err(reason) = available() {
            bail!(reason);
        }
        if self.nodes.len() > MOST_NODES {
            bail!("a lab has at most {MOST_NODES} nodes");
        }
        let journal = Arc::new(Journal::new());
        let warden = Arc::new(Warden::start()?);
        let wiring = Arc::new(Wiring::new(self.nodes.len(), &warden)?);
        let system = system_disk(&warden)?;
        let nodes = self.nodes.iter().zip(1..);
        let nodes: Result<Vec<Node>> = nodes
            .map(|(spec, number)| Node::new(number, spec, &system, &warden, &wiring, &journal))
            .collect();
        let lab = Lab {
            nodes: nodes?,
            wiring,
            journal,
            warden,
        };
        if !self.off {
            let all: Vec<&Node> = lab.nodes.iter().collect();
            if let Err(error) = lab.start_all(&all) {
                return Err(error.context(lab.story()));
            }
        }
        Ok(lab)
    }
}

/// Nodes and the cables between them.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
    wiring: Arc<Wiring>,
    journal: Arc<Journal>,
    warden: Arc<Warden>,
}

impl Lab {
    /// A lab of `count` nodes with one disk of 64 MiB each.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn new(count: usize) -> Result<Lab> {
        Lab::builder().nodes(count).start()
    }

    /// A lab with something special.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A node by its number; 1 is the first.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Switches several nodes on, side by side.
    ///
    /// # Errors
    /// One of them is on already or does not come up.
    pub fn start_all(&self, nodes: &[&Node]) -> Result<()> {
        thread::scope(|scope| {
            let boots: Vec<_> = nodes
                .iter()
                .map(|node| scope.spawn(|| node.start()))
                .collect();
            boots.into_iter().try_for_each(|boot| match boot.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread that booted a node panicked"),
            })
        })
    }

    /// The power of several nodes fails at the same moment.
    ///
    /// # Errors
    /// As [`Node::crash`].
    pub fn crash_all(&self, nodes: &[&Node]) -> Result<()> {
        thread::scope(|scope| {
            let crashes: Vec<_> = nodes
                .iter()
                .map(|node| scope.spawn(|| node.crash()))
                .collect();
            crashes
                .into_iter()
                .try_for_each(|crash| match crash.join() {
                    Ok(result) => result,
                    Err(_) => bail!("a thread that crashed a node panicked"),
                })
        })
    }

    /// Nothing passes between two nodes any more, in both directions. Nobody is told, as with a cable pulled
    /// behind a switch.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn cut(&self, a: usize, b: usize) -> Result<()> {
        self.set_cut(
            &[(a, b), (b, a)],
            true,
            &format!("cut between node{a} and node{b}"),
        )
    }

    /// Nothing passes from one node to another any more; the other direction is left as it is.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn cut_one_way(&self, from: usize, to: usize) -> Result<()> {
        self.set_cut(
            &[(from, to)],
            true,
            &format!("cut from node{from} to node{to}"),
        )
    }

    /// Packets pass again between two nodes, in both directions.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn join(&self, a: usize, b: usize) -> Result<()> {
        self.set_cut(
            &[(a, b), (b, a)],
            false,
            &format!("joined node{a} and node{b}"),
        )
    }

    /// Cuts a node off from all others.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn isolate(&self, node: usize) -> Result<()> {
        self.set_cut(&self.pairs_of(node), true, &format!("isolated node{node}"))
    }

    /// Joins a node with all others.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn rejoin(&self, node: usize) -> Result<()> {
        self.set_cut(&self.pairs_of(node), false, &format!("rejoined node{node}"))
    }

    /// Packets between two nodes are on their way for this many milliseconds, in each direction. 0 ends it.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn delay(&self, a: usize, b: usize, ms: u32) -> Result<()> {
        self.delay_one_way(a, b, ms)?;
        self.delay_one_way(b, a, ms)
    }

    /// [`Lab::delay`] for one direction.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn delay_one_way(&self, from: usize, to: usize, ms: u32) -> Result<()> {
        self.late(from, to, Duration::from_millis(ms.into()))
    }

    /// A packet and its answer are on their way for so long between two nodes, half of it in each direction. Zero ends
    /// it.
    ///
    /// # Errors
    /// No such node, or the network cannot be changed.
    pub fn round_trip(&self, a: usize, b: usize, time: Duration) -> Result<()> {
        self.late(a, b, time / 2)?;
        self.late(b, a, time / 2)
    }

    fn late(&self, from: usize, to: usize, delay: Duration) -> Result<()> {
        self.wiring
            .check(from)
            .and_then(|()| self.wiring.check(to))?;
        self.journal
            .note(&format!("delay of {delay:?} from node{from} to node{to}"));
        self.wiring.set_delay(self.node(from), self.node(to), delay)
    }

    /// This many percent of the packets between two nodes are lost, in each direction. 0 ends it.
    ///
    /// # Errors
    /// No such node, no such percentage, or the network cannot be changed.
    pub fn loss(&self, a: usize, b: usize, percent: f32) -> Result<()> {
        self.loss_one_way(a, b, percent)?;
        self.loss_one_way(b, a, percent)
    }

    /// [`Lab::loss`] for one direction.
    ///
    /// # Errors
    /// No such node, no such percentage, or the network cannot be changed.
    pub fn loss_one_way(&self, from: usize, to: usize, percent: f32) -> Result<()> {
        self.wiring
            .check(from)
            .and_then(|()| self.wiring.check(to))?;
        self.journal
            .note(&format!("loss of {percent} % from node{from} to node{to}"));
        self.wiring
            .set_loss(self.node(from), self.node(to), percent)
    }

    /// Whether packets pass from one node to another and back, by a TCP connection that must be refused.
    ///
    /// Takes about a second when they do not.
    ///
    /// # Errors
    /// A node is off, or its answer is not understood.
    pub fn reaches(&self, from: usize, to: usize) -> Result<bool> {
        let ip = self.node(to).ip();
        let output = self
            .node(from)
            .run(&format!("timeout 1.2 bash -c 'exec 3<>/dev/tcp/{ip}/1'"))?;
        match output.status {
            0 => Ok(true),
            124 => Ok(false),
            1 if output.stderr.contains("refused") => Ok(true),
            _ => bail!("node{from} to node{to}: {}{}", output.status, output.stderr),
        }
    }

    /// Fails unless `length` bytes of two disks are equal, each from its own offset; the error tells the first
    /// difference. The nodes must be off, or have written and flushed all.
    ///
    /// # Errors
    /// A difference, or a piece beyond a disk's end.
    pub fn legs_equal(&self, left: (&Disk, u64), right: (&Disk, u64), length: u64) -> Result<()> {
        match first_difference(left, right, length)? {
            None => Ok(()),
            Some(difference) => bail!(
                "{} and {} differ in {} of {length} bytes, first at byte {} of the data: {:02x?} and {:02x?}",
                left.0.inside,
                right.0.inside,
                difference.bytes,
                difference.offset,
                difference.left,
                difference.right
            ),
        }
    }

    /// A line of the test's own for the story that a failure tells.
    pub fn note(&self, what: &str) {
        self.journal.note(what);
    }

    /// What was done and what the kernels said, for a test that failed.
    pub fn story(&self) -> String {
        let mut story = format!("==== what was done (seconds)\n{}\n", self.journal.text());
        for node in &self.nodes {
            let console = node.console();
            let skipped = console.lines().count().saturating_sub(120);
            let end: Vec<&str> = console.lines().skip(skipped).collect();
            story += &format!(
                "==== console of {}, the end of it\n{}\n",
                node.name(),
                end.join("\n")
            );
        }
        story
    }

    /// The lab's network, for a test of the lab itself: the process whose namespaces it is in.
    pub fn command(&self, program: &str) -> Command {
        self.warden.command(program)
    }

    fn pairs_of(&self, node: usize) -> Vec<(usize, usize)> {
        let others = (1..=self.nodes.len()).filter(|&other| other != node);
        others
            .flat_map(|other| [(node, other), (other, node)])
            .collect()
    }

    fn set_cut(&self, pairs: &[(usize, usize)], cut: bool, what: &str) -> Result<()> {
        for &(a, b) in pairs {
            self.wiring.check(a).and_then(|()| self.wiring.check(b))?;
        }
        self.wiring.set_cut(pairs, cut)?;
        self.journal.note(what);
        Ok(())
    }
}

/// Runs a test in a lab: skips it, and says so, where labs do not run; shows the lab's story when it fails.
///
/// # Panics
/// The test failed. That is what the harness wants to see.
pub fn scenario(builder: Builder, test: impl FnOnce(&Lab) -> Result<()>) {
    if let Err(reason) = available() {
        if let Err(error) = skip(&reason) {
            panic!("{error:#}");
        }
        return;
    }
    let lab = match builder.start() {
        Ok(lab) => lab,
        Err(error) => panic!("no lab: {error:#}"),
    };
    let story = ShownOnPanic(&lab);
    let result = test(&lab);
    std::mem::forget(story);
    if let Err(error) = result {
        panic!("{error:#}\n\n{}", lab.story());
    }
}

/// Tells the story when the test panics, before the lab is gone.
struct ShownOnPanic<'a>(&'a Lab);

impl Drop for ShownOnPanic<'_> {
    fn drop(&mut self) {
        eprintln!("{}", self.0.story());
    }
}

/// An empty ext4, made once and copied for each node.
fn system_disk(warden: &Warden) -> Result<Vec<u8>> {
    let path = warden.outside(&format!("{FOLDER}/system"));
    let file = fs::File::create(&path).context("the system disk")?;
    file.set_len(SYSTEM_SIZE).context("the system disk")?;
    let program = find("mkfs.ext4").context("mkfs.ext4")?;
    let output = Command::new(program)
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-O",
            "^metadata_csum,^resize_inode",
            "-E",
            "lazy_itable_init=0",
            "-J",
            "size=4",
        ])
        .arg(&path)
        .output()
        .context("mkfs.ext4")?;
    if !output.status.success() {
        bail!("mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr));
    }
    let bytes = fs::read(&path).context("the system disk")?;
    fs::remove_file(&path).context("the system disk")?;
    Ok(bytes)
}
