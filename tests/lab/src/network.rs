//! The cables: what passes from one node to another, and what doesn't, is late or is lost.
//!
//! Each node has a tap; the lab's network namespace routes between them. To the nodes it looks like one network, as
//! every node has every other as a fixed neighbour at the router's hardware address. A cut is a routing rule that
//! drops silently what comes from one tap for another node's address: it needs no kernel module on the host, works on
//! frozen and switched-off nodes, holds over a reboot, and leaves taps and connections alone. Delay and loss are netem
//! in the sending node (hosts without sch_netem exist), put there again at each boot.

use crate::node::Node;
use crate::warden::Warden;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Wiring {
    nodes: usize,
    warden: Arc<Warden>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cut: BTreeSet<(usize, usize)>,
    slow: BTreeMap<(usize, usize), Slow>,
}

/// What happens to packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Slow {
    delay: Duration,
    loss_percent: f32,
}

impl Wiring {
    /// The hardware address of the router's side of each tap.
    pub(crate) const ROUTER: &'static str = "02:4c:41:42:00:fe";

    /// One tap a node, and nothing cut.
    pub(crate) fn new(nodes: usize, warden: &Arc<Warden>) -> Result<Wiring> {
        let wiring = Wiring {
            nodes,
            warden: Arc::clone(warden),
            state: Mutex::default(),
        };
        let mut lines = String::new();
        for n in 1..=nodes {
            // Writing to a string cannot fail.
            let _ = write!(
                lines,
                "tuntap add tap{n} mode tap\n\
                 link set tap{n} address {} txqueuelen 10000\n\
                 link set tap{n} up\n\
                 route add {ip}/32 dev tap{n}\n\
                 neigh add {ip} lladdr {} dev tap{n} nud permanent\n",
                Self::ROUTER,
                mac(n),
                ip = wiring.ip(n)
            );
        }
        warden.ip(&lines)?;
        Ok(wiring)
    }

    pub(crate) fn ip(&self, node: usize) -> String {
        format!("10.77.0.{node}")
    }

    pub(crate) fn all_ips(&self) -> String {
        let ips: Vec<String> = (1..=self.nodes).map(|n| self.ip(n)).collect();
        ips.join(",")
    }

    /// Words for the kernel's network card.
    pub(crate) fn transport(&self, node: usize) -> String {
        format!("transport=tap,ifname=tap{node},depth=128,mac={}", mac(node))
    }

    /// Cuts or joins one direction; doing it twice is no error.
    pub(crate) fn set_cut(&self, pairs: &[(usize, usize)], cut: bool) -> Result<()> {
        let mut state = self.lock();
        let mut lines = String::new();
        for &(from, to) in pairs {
            if state.cut.contains(&(from, to)) != cut {
                let verb = if cut { "add" } else { "del" };
                let ip = self.ip(to);
                let _ = writeln!(lines, "rule {verb} iif tap{from} to {ip} blackhole");
            }
        }
        if !lines.is_empty() {
            self.warden.ip(&lines)?;
        }
        for &pair in pairs {
            if cut {
                state.cut.insert(pair);
            } else {
                state.cut.remove(&pair);
            }
        }
        Ok(())
    }

    pub(crate) fn set_delay(&self, from: &Node, to: &Node, delay: Duration) -> Result<()> {
        self.change(from, to, |slow| slow.delay = delay)
    }

    pub(crate) fn set_loss(&self, from: &Node, to: &Node, percent: f32) -> Result<()> {
        if !(0.0..=100.0).contains(&percent) {
            bail!("a loss of {percent} %");
        }
        self.change(from, to, |slow| slow.loss_percent = percent)
    }

    fn change(&self, from: &Node, to: &Node, change: impl FnOnce(&mut Slow)) -> Result<()> {
        change(
            self.lock()
                .slow
                .entry((from.number(), to.number()))
                .or_default(),
        );
        self.dress(from)
    }

    /// Puts a node's delays and losses in place; one that is off or frozen gets them when it is back.
    pub(crate) fn dress(&self, node: &Node) -> Result<()> {
        if !node.is_awake() {
            return Ok(());
        }
        let script = {
            let mut state = self.lock();
            let mine = |pair: &(usize, usize)| pair.0 == node.number();
            if !state.slow.keys().any(mine) {
                return Ok(());
            }
            let script = self.discipline(&state, node.number());
            // One with nothing to say is told to the node once more, then forgotten.
            state
                .slow
                .retain(|pair, slow| !mine(pair) || *slow != Slow::default());
            script
        };
        let output = node.run(&script)?;
        if !output.ok() {
            bail!("{}: tc: {}", node.name(), output.stderr);
        }
        Ok(())
    }

    /// A band for each slow neighbour and the first one for all others.
    fn discipline(&self, state: &State, from: usize) -> String {
        let mut script = "tc qdisc del dev vec0 root 2>/dev/null; true".to_owned();
        let slow = state.slow.iter();
        let slow: Vec<_> = slow
            .filter(|(pair, slow)| pair.0 == from && **slow != Slow::default())
            .collect();
        if slow.is_empty() {
            return script;
        }
        let zeros = " 0".repeat(16);
        let _ = write!(
            script,
            "; tc -batch - <<'E'\nqdisc add dev vec0 root handle 1: prio bands 16 priomap{zeros}\n"
        );
        for (n, ((_, to), how)) in slow.iter().enumerate() {
            let band = n + 2;
            let _ = write!(
                script,
                "qdisc add dev vec0 parent 1:{band:x} netem limit 100000 delay {}us loss {}%\n\
                 filter add dev vec0 parent 1: protocol ip prio 1 u32 match ip dst {}/32 flowid 1:{band:x}\n",
                how.delay.as_micros(),
                how.loss_percent,
                self.ip(*to)
            );
        }
        script += "E\n";
        script
    }

    pub(crate) fn check(&self, node: usize) -> Result<()> {
        (1..=self.nodes)
            .contains(&node)
            .then_some(())
            .with_context(|| format!("there is no node {node}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mac(node: usize) -> String {
    format!("02:4c:41:42:00:{node:02x}")
}
