//! One of the two nodes: its disk, its configuration, its netraidd, and every process that comes of that.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flags::NodeName;

use super::folder::Folder;
use super::interrupt::Interrupt;
use super::process::Process;
use super::scene::{SOON, TAG};
use super::sweep;
use super::tools::Tools;
use crate::api::issue;

/// The names of the nodes.
pub(super) const NAMES: [&str; 2] = ["server1", "server2"];

/// A machine of the story: while it has power its netraidd runs.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) disk: PathBuf,
    /// Folder of its sockets.
    pub(super) run: PathBuf,
    /// What survives a power loss: its configuration, certificate, flags and state.
    home: PathBuf,
    log: PathBuf,
    daemon: Option<Process>,
}

impl Node {
    pub(super) fn new(folder: &Folder, place: usize) -> Node {
        let name = NAMES[place];
        let [disk, home, log] = [
            ["server1.img", "server1", "server1.log"],
            ["server2.img", "server2", "server2.log"],
        ][place];
        Node {
            name,
            disk: folder.file(disk),
            run: folder.run().join(name),
            home: folder.file(home),
            log: folder.file(log),
            daemon: None,
        }
    }

    /// The paths by which its processes are known: their arguments name one of them, or something in it.
    pub(super) fn paths(&self) -> [PathBuf; 3] {
        [self.home.clone(), self.run.clone(), self.disk.clone()]
    }

    /// Whether it has power.
    pub(super) fn is_up(&self) -> bool {
        self.daemon.is_some()
    }

    fn config(&self) -> PathBuf {
        self.home.join("etc")
    }

    /// Starts its netraidd; returns when that listens.
    pub(super) fn boot(&mut self, tools: &Tools, interrupt: &Interrupt) -> Result<()> {
        fs::create_dir_all(&self.run).with_context(|| self.run.display().to_string())?;
        let mut command = Command::new(&tools.netraidd);
        command
            .arg("--print-ready")
            .arg("--config-dir")
            .arg(self.config());
        // LifeKeeper's parameters of this machine are not meant.
        command.env("NETRAID_DEFAULTS_FILE", self.config().join("defaults"));
        let name = format!("netraidd of {}", self.name);
        let mut daemon = Process::start(&name, &self.log, &command)?;
        daemon.wait_for_line("ready", SOON, interrupt)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// It loses power: all its processes are killed, and what it kept in memory is gone.
    pub(super) fn lose_power(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("it is off already")?;
        daemon.kill()?;
        sweep::kill_all(&self.paths())?;
        fs::remove_dir_all(&self.run).with_context(|| self.run.display().to_string())
    }

    /// Stops its netraidd, and what that leaves: exports go on when it ends.
    pub(super) fn shut_down(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop(SOON)?;
        }
        sweep::kill_all(&self.paths())
    }

    /// An error if its netraidd has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        self.daemon.iter_mut().try_for_each(Process::must_run)
    }

    fn write_config(&self, address: Ipv4Addr, chunk: u32, nodes: &str) -> Result<()> {
        let etc = self.config();
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let daemon = format!(
            "node = \"{}\"\nlisten = [\"{}\"]\nrun_dir = {}\nstate_dir = {}\n",
            self.name,
            SocketAddr::from((address, PEERS)),
            quoted(&self.run),
            quoted(&self.home.join("state")),
        );
        let mirror = format!(
            "tag = \"{TAG}\"\nnumber = 0\nbackend = \"embedded\"\nchunk = {}\n{nodes}",
            chunk / 1024,
        );
        let write = |name: &str, text: &str| {
            let path = etc.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("netraid.toml", &daemon)?;
        write(&format!("{TAG}.toml"), &mirror)?;
        write("defaults", "")
    }
}

/// Writes the configuration of both nodes, with addresses that nobody uses, and makes their certificates.
pub(super) fn configure(nodes: &[Node; 2], chunk: u32, keep: &Path) -> Result<()> {
    let addresses = free_addresses()?;
    let mut members = String::new();
    for (node, address) in nodes.iter().zip(addresses) {
        let peers = SocketAddr::from((address, PEERS));
        let disk = node.disk.display().to_string();
        let name = node.name;
        write!(
            members,
            "[[nodes]]\nname = \"{name}\"\naddress = \"{peers}\"\ndisk = {disk:?}\nport = {LEGS}\n"
        )?;
        for part in ["etc", "state"] {
            let folder = node.home.join(part);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
    }
    for (node, address) in nodes.iter().zip(addresses) {
        node.write_config(address, chunk, &members)?;
    }
    let [first, second] = nodes.each_ref().map(|node| node.config().join("tls"));
    issue::init(&first, &NodeName::new(NAMES[0])?)?;
    issue::invite(&first, &NodeName::new(NAMES[1])?, keep)?;
    issue::join(&second, keep)?;
    Ok(())
}

/// Two addresses of the loopback network on which the ports of the story are free.
fn free_addresses() -> Result<[Ipv4Addr; 2]> {
    let process = std::process::id();
    for attempt in 0..ATTEMPTS {
        // Far from 127.0.0.1, where something may run; another quickstart has another process id.
        let base = 0x7f40_0000 | (process.wrapping_add(attempt * 7919) & 0x1f_ffff) << 1;
        let addresses = [Ipv4Addr::from(base), Ipv4Addr::from(base | 1)];
        let free = |address: &Ipv4Addr| {
            [PEERS, LEGS]
                .iter()
                .all(|port| TcpListener::bind((*address, *port)).is_ok())
        };
        if addresses.iter().all(free) {
            return Ok(addresses);
        }
    }
    bail!("no address in 127.64.0.0/10 has the ports {PEERS} and {LEGS} free")
}

/// The port on which the daemons meet.
const PEERS: u16 = 7800;
/// The port on which a target serves its disk.
const LEGS: u16 = 10001;
/// Addresses that are tried.
const ATTEMPTS: u32 = 64;
