//! A cluster in a lab: netraidd on every node, a mirror called `data` over all of them (or two mirrors), and the orders of
//! a cluster manager or an administrator as one word each.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::job::Job;
use crate::lab::Lab;
use crate::mirror::{Mirror, RESYNC, SOON};
use crate::node::Node;
use crate::wait::wait_until;

/// The daemons of a lab.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// Where it is.
    pub lab: &'a Lab,
    daemons: RefCell<BTreeMap<usize, Job>>,
}

impl<'a> Cluster<'a> {
    /// Configures every node and starts its daemon. `backend` is `md` or `embedded`.
    ///
    /// # Errors
    /// A command failed.
    pub fn start(lab: &'a Lab, backend: &str) -> Result<Cluster<'a>> {
        Cluster::with(lab, backend, "")
    }

    /// The same, with these lines in `/etc/default/LifeKeeper`.
    ///
    /// # Errors
    /// A command failed.
    pub fn with(lab: &'a Lab, backend: &str, defaults: &str) -> Result<Cluster<'a>> {
        Cluster::on(lab, backend, defaults, |node| node.disk(1).device())
    }

    /// The same, with legs on devices that the test has made.
    ///
    /// # Errors
    /// A command failed.
    pub fn on(
        lab: &'a Lab,
        backend: &str,
        defaults: &str,
        leg: impl Fn(&Node) -> String,
    ) -> Result<Cluster<'a>> {
        let data = mirror(
            "data",
            0,
            backend,
            &lab.nodes().iter().collect::<Vec<_>>(),
            leg,
        );
        Cluster::configured(lab, defaults, |_| vec![("data", data.clone())])
    }

    /// The mirror `data` on those nodes' first disks, and `more` on these nodes' second disks.
    ///
    /// # Errors
    /// A command failed.
    pub fn of_two_mirrors(
        lab: &'a Lab,
        backend: &str,
        defaults: &str,
        data: &[usize],
        more: &[usize],
    ) -> Result<Cluster<'a>> {
        let file = |tag, number, on: &[usize]| {
            let on: Vec<&Node> = on.iter().map(|node| lab.node(*node)).collect();
            let disk = usize::from(number) + 1;
            mirror(tag, number, backend, &on, |node| node.disk(disk).device())
        };
        let files = [
            ("data", data, file("data", 0, data)),
            ("more", more, file("more", 1, more)),
        ];
        Cluster::configured(lab, defaults, |node| {
            let here = files.iter().filter(|file| file.1.contains(&node.number()));
            here.map(|(tag, _, text)| (*tag, text.clone())).collect()
        })
    }

    /// Every node is configured with these mirrors, each a tag and what its file says.
    ///
    /// # Errors
    /// A command failed.
    pub fn of_files(
        lab: &'a Lab,
        defaults: &str,
        files: &[(&'static str, String)],
    ) -> Result<Cluster<'a>> {
        Cluster::configured(lab, defaults, |_| files.to_vec())
    }

    /// Configures every node with these mirrors and starts its daemon.
    fn configured(
        lab: &'a Lab,
        defaults: &str,
        mirrors: impl Fn(&Node) -> Vec<(&'static str, String)>,
    ) -> Result<Cluster<'a>> {
        let cluster = Cluster {
            lab,
            daemons: RefCell::default(),
        };
        let first = lab.node(1);
        for node in lab.nodes() {
            let daemon = format!(
                "node = \"{}\"\nlkroot = \"/var/lib/netraid\"\n",
                node.name()
            );
            let mut line = format!(
                "mkdir -p /etc/default && printf '{defaults}' >/etc/default/LifeKeeper && \
                 mkdir -p /etc/netraid && cd /etc/netraid && printf '{daemon}' >netraid.toml"
            );
            for (tag, text) in mirrors(node) {
                line += &format!(" && printf '{text}' >{tag}.toml");
            }
            node.must(&line)?;
            if node.number() == 1 {
                node.must("netraid cert init --node node1")?;
            } else {
                let name = node.name();
                let bundle = first.must(&format!(
                    "netraid cert invite {name} --out /run/{name} >/dev/null && cat /run/{name}"
                ))?;
                node.must(&format!(
                    "(umask 077; cat >/run/bundle) <<'END'\n{bundle}\nEND\nnetraid cert join /run/bundle"
                ))?;
            }
            // A power loss keeps only what is on the disk.
            node.must("sync")?;
        }
        for node in lab.nodes() {
            cluster.start_daemon(node.number())?;
        }
        Ok(cluster)
    }

    /// Starts a node's daemon, also after a power loss.
    ///
    /// # Errors
    /// It is not ready soon.
    pub fn start_daemon(&self, node: usize) -> Result<()> {
        let job = self
            .lab
            .node(node)
            .spawn("exec netraidd --print-ready 2>>/run/netraidd.log")?;
        if let Err(error) = job.wait_for("ready", SOON) {
            let log = self.log(node);
            return Err(error.context(format!("netraidd of node{node} says:\n{log}")));
        }
        self.daemons.borrow_mut().insert(node, job);
        Ok(())
    }

    /// Kills a node's daemon; what it has started goes on.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_daemon(&self, node: usize) -> Result<()> {
        let job = self.daemons.borrow_mut().remove(&node);
        job.context("no daemon")?;
        self.lab
            .node(node)
            .must("pkill -9 -x netraidd && while pgrep -x netraidd; do sleep 0.02; done")?;
        Ok(())
    }

    /// What a node's daemon has logged.
    pub fn log(&self, node: usize) -> String {
        let output = self.lab.node(node).run("tail -n 60 /run/netraidd.log");
        output.map_or_else(|error| error.to_string(), |output| output.stdout)
    }

    /// Runs `netraid WORDS` on a node.
    ///
    /// # Errors
    /// It failed, or was refused.
    pub fn order(&self, node: usize, words: &str) -> Result<String> {
        let said = self.lab.node(node).must(&format!("netraid {words}"));
        said.with_context(|| format!("netraidd of node{node} says:\n{}", self.log(node)))
    }

    /// Runs `netraid WORDS` on a node, which has to be refused by the state; the reason.
    ///
    /// # Errors
    /// It was not.
    pub fn refused(&self, node: usize, words: &str) -> Result<String> {
        let output = self.lab.node(node).run(&format!("netraid {words}"))?;
        ensure!(
            output.status == 3,
            "`{words}` on node{node} ended with {}: {}\n{}",
            output.status,
            output.stderr,
            self.log(node)
        );
        Ok(output.stderr)
    }

    /// The mirror as a node's daemon shows it.
    ///
    /// # Errors
    /// The command failed.
    pub fn status(&self, node: usize) -> Result<Value> {
        let text = self.order(node, "status data --json")?;
        let value: Value =
            serde_json::from_str(&text).with_context(|| format!("status: {text}"))?;
        let mirrors = value["mirrors"].as_array().context("no mirrors")?;
        Ok(mirrors.first().context("no mirror")?.clone())
    }

    /// The status words of all nodes, as a node's daemon shows them.
    ///
    /// # Errors
    /// As [`Cluster::status`].
    pub fn words(&self, node: usize) -> Result<Vec<String>> {
        let status = self.status(node)?;
        let nodes = status["nodes"].as_array().context("no nodes")?.clone();
        let words = nodes.iter().filter_map(|node| node["status"].as_str());
        Ok(words.map(str::to_owned).collect())
    }

    /// Waits until a node's daemon shows these words.
    ///
    /// # Errors
    /// It does not within [`RESYNC`].
    pub fn wait_words(&self, node: usize, wanted: &[&str]) -> Result<()> {
        let what = format!("node{node} shows {wanted:?}");
        let waited = wait_until(RESYNC, &what, || {
            Ok((self.words(node)? == wanted).then_some(()))
        });
        waited.with_context(|| {
            format!(
                "it shows {:?}, {}",
                self.words(node),
                self.status(node).unwrap_or_default()
            )
        })
    }

    /// How a node's last resync was decided, as the source shows it.
    ///
    /// # Errors
    /// There was none.
    pub fn last_resync(&self, source: usize, node: usize) -> Result<Value> {
        let status = self.status(source)?;
        let decided = status["nodes"][node - 1]["last_resync"].clone();
        ensure!(decided.is_object(), "node{node} was not resynced: {status}");
        Ok(decided)
    }

    /// Creates the mirror on the first node, and extends it to all others; returns when all are in sync.
    ///
    /// # Errors
    /// An order failed.
    pub fn make(&self) -> Result<()> {
        self.order(1, "create data")?;
        let mut words = vec!["Source"];
        for node in &self.lab.nodes()[1..] {
            self.order(1, &format!("extend data {}", node.name()))?;
            words.push("Target");
        }
        self.wait_words(1, &words)
    }

    /// The mirror is out of service, and the legs of these nodes hold the same, byte by byte.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_equal(&self, nodes: &[usize]) -> Result<()> {
        let mut mirror = Mirror::of(self.lab);
        mirror.source = nodes[0];
        mirror.targets = nodes[1..].to_vec();
        mirror.check_equal()
    }
}

/// The file of a mirror on these nodes.
fn mirror(
    tag: &str,
    number: u8,
    backend: &str,
    nodes: &[&Node],
    leg: impl Fn(&Node) -> String,
) -> String {
    let mut text =
        format!("tag = \"{tag}\"\nnumber = {number}\nbackend = \"{backend}\"\nchunk = 64\n");
    for node in nodes {
        text += &format!(
            "[[nodes]]\nname = \"{}\"\naddress = \"{}\"\ndisk = \"{}\"\nport = {}\n",
            node.name(),
            node.ip(),
            leg(node),
            10001 + u16::from(number)
        );
    }
    text
}
