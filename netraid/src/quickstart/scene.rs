//! The stage: the two nodes, their processes, and the runtime that talks to them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nbd_client::Client;
use tokio::runtime::Runtime;

use super::disk::{self, Advance};
use super::folder::Folder;
use super::interrupt::Interrupt;
use super::leg::{Differences, LegFile};
use super::process::{self, Process};
use super::tell::{Bar, Teller};
use super::tools::Tools;
use super::{Problem, Settings};
use crate::control::{self, Request, Response};
use crate::status::{ResyncEnd, Status, word};

/// Name of the mirror.
pub(super) const TAG: &str = "demo";

/// Everything that a step needs. Dropped, it kills what is still running.
pub(super) struct Scene {
    pub(super) teller: Teller,
    pub(super) tools: Tools,
    pub(super) nodes: [Node; 2],
    pub(super) runtime: Runtime,
    pub(super) interrupt: Interrupt,
    /// Last: it is unlocked after everything else has ended.
    pub(super) folder: Folder,
}

/// One of the two nodes: a disk, and at most one process that uses it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) disk: PathBuf,
    /// Folder of its sockets.
    pub(super) run: PathBuf,
    log: PathBuf,
    server_log: PathBuf,
    /// The mirror, if this node is the source.
    pub(super) mirror: Option<Mirror>,
    /// The server of its disk, if it is a target.
    pub(super) server: Option<Process>,
}

/// A mirror that runs on a node.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) process: Process,
    pub(super) uri: String,
}

impl Scene {
    pub(super) fn new(settings: &Settings) -> Result<Scene, Problem> {
        let tools = Tools::find()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build();
        let runtime = runtime.context("threads can't be started")?;
        let interrupt = Interrupt::watch(&runtime).context("signals can't be watched")?;
        let folder = Folder::open(&settings.dir)?;
        let nodes = [Node::new(&folder, "server1"), Node::new(&folder, "server2")];
        Ok(Scene {
            teller: Teller::new(settings.json),
            tools,
            nodes,
            runtime,
            interrupt,
            folder,
        })
    }

    /// Runs a future to its end, or to Ctrl-C.
    pub(super) fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                outcome = future => outcome,
                () = self.interrupt.wait() => self.interrupt.check().and_then(|()| bail!("interrupted")),
            }
        })
    }

    /// Runs a program of ours to its end.
    pub(super) fn netraid(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.tools.netraid);
        command.args(arguments);
        let log = self.folder.file("tools.log");
        let (status, said) = process::run(&command, &log, SOON, &self.interrupt)?;
        match status.success() {
            true => Ok(said),
            false => bail!(
                "netraid {} failed ({status}): {}",
                arguments.join(" "),
                said.trim()
            ),
        }
    }

    /// Starts the server of a node's disk and waits until it can be used.
    pub(super) fn serve(&mut self, node: usize) -> Result<()> {
        let actor = &mut self.nodes[node];
        let mut command = Command::new(&self.tools.nbd_server);
        command
            .arg("--unix")
            .arg(actor.server_socket())
            .arg("--print-ready");
        let mut export = std::ffi::OsString::from(format!("{TAG}="));
        export.push(&actor.disk);
        command.arg("--export").arg(export);
        let name = format!("nbd-server of {}", actor.name);
        let mut server = Process::start(&name, &actor.server_log, &command)?;
        server.wait_for_line("listening ", SOON, &self.interrupt)?;
        actor.server = Some(server);
        Ok(())
    }

    /// Starts the mirror on a node; with `target` it connects to the other one whenever that is there.
    pub(super) fn start_mirror(&mut self, node: usize, target: bool) -> Result<()> {
        let other = &self.nodes[1 - node];
        let target = target.then(|| format!("{}={}", other.name, other.server_uri()));
        let actor = &mut self.nodes[node];
        let mut command = Command::new(&self.tools.netraid);
        command
            .args(["run", "--tag", TAG, "--node", actor.name, "--disk"])
            .arg(&actor.disk);
        command
            .arg("--unix")
            .arg(actor.run.join("mirror.nbd"))
            .arg("--run-dir")
            .arg(&actor.run);
        // Shorter than usual: nobody wants to wait for bits that are cleared lazily.
        command.args(["--clean-interval", "1s"]);
        if let Some(target) = &target {
            command.args(["--target", target]);
        }
        let name = format!("mirror on {}", actor.name);
        let mut process = Process::start(&name, &actor.log, &command)?;
        let uri = process.wait_for_line("ready ", SOON, &self.interrupt)?;
        actor.mirror = Some(Mirror { process, uri });
        Ok(())
    }

    /// Kills the server of a node's disk: its machine has lost power.
    pub(super) fn cut(&mut self, node: usize) -> Result<()> {
        let server = self.nodes[node]
            .server
            .take()
            .context("its disk is not served")?;
        server.kill()
    }

    /// Kills the mirror of a node.
    pub(super) fn crash(&mut self, node: usize) -> Result<()> {
        let mirror = self.nodes[node]
            .mirror
            .take()
            .context("it runs no mirror")?;
        mirror.process.kill()
    }

    /// Stops whatever runs, sources first, cleanly.
    pub(super) fn stop_all(&mut self) -> Result<()> {
        let mirrors = self
            .nodes
            .iter_mut()
            .filter_map(|node| node.mirror.take().map(|mirror| mirror.process));
        let mirrors: Vec<Process> = mirrors.collect();
        let servers = self.nodes.iter_mut().filter_map(|node| node.server.take());
        mirrors
            .into_iter()
            .chain(servers)
            .try_for_each(|process| process.stop(SOON))
    }

    /// A new connection to the mirror that runs on a node.
    pub(super) fn connect(&self, node: usize) -> Result<Client> {
        let uri = &self.nodes[node]
            .mirror
            .as_ref()
            .context("it runs no mirror")?
            .uri;
        self.wait(disk::connect(uri))
    }

    /// How the mirror on a node is.
    pub(super) fn status(&self, node: usize) -> Result<Status> {
        match control::ask(&self.nodes[node].run, TAG, &Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => bail!("the mirror answered its status with {other:?}"),
        }
    }

    /// Waits until the mirror on `node` has its other leg in sync, by a resync later than number `after`.
    pub(super) fn wait_in_sync(&mut self, node: usize, after: u64) -> Result<ResyncEnd> {
        let other = self.nodes[1 - node].name;
        let bar = self.teller.bar("copying", 1);
        let mut latest = None;
        let interrupt = self.interrupt.clone();
        let waited = interrupt.poll(&format!("{other} to be in sync"), LONG, || {
            must_all_run(&mut self.nodes)?;
            let status = self.status(node)?;
            if let Some(resync) = &status.resync {
                bar.set(resync.copied, resync.copied + resync.left);
            }
            let leg = status
                .legs
                .iter()
                .find(|leg| leg.node == other)
                .context("it has no such leg")?;
            let in_sync = leg.status == word::TARGET && leg.disk == "UpToDate";
            let end = status
                .last_resync
                .clone()
                .filter(|end| in_sync && end.number > after);
            latest = Some(status);
            Ok(end)
        });
        waited.with_context(|| {
            let legs = latest.map(|status| status.legs).unwrap_or_default();
            let of = |leg: &crate::status::LegStatus| {
                let reason = leg
                    .reason
                    .as_ref()
                    .map(|reason| format!(" ({reason})"))
                    .unwrap_or_default();
                format!("{} is {}, {}{reason}", leg.node, leg.status, leg.disk)
            };
            format!(
                "the mirror on {} said: {}",
                self.nodes[node].name,
                legs.iter().map(of).collect::<Vec<_>>().join("; ")
            )
        })
    }

    /// Waits until no chunk is dirty: bits stay for a moment after the last write, or the end of a resync.
    pub(super) fn wait_clean(&mut self, node: usize) -> Result<()> {
        let interrupt = self.interrupt.clone();
        interrupt.poll("the write-intent bitmap to be clean", LONG, || {
            must_all_run(&mut self.nodes)?;
            Ok((self.status(node)?.dirty_chunks == 0).then_some(()))
        })
    }

    /// Both legs as their disks are now.
    pub(super) fn legs(&self) -> Result<[LegFile; 2]> {
        Ok([
            LegFile::open(&self.nodes[0].disk)?,
            LegFile::open(&self.nodes[1].disk)?,
        ])
    }

    /// Where the legs differ now.
    pub(super) fn differences(&self, legs: &[LegFile; 2]) -> Result<Differences> {
        let bar = self.teller.bar("comparing the disks", legs[0].size);
        legs[0].differences(&legs[1], |bytes| {
            bar.advance(bytes);
            self.interrupt.check()
        })
    }

    /// Makes sure that the legs are the same, byte by byte.
    pub(super) fn check_legs_equal(&mut self) -> Result<()> {
        let legs = self.legs()?;
        let found = self.differences(&legs)?;
        if let Some(first) = found.first {
            bail!(
                "the disks of server1 and server2 differ in {} chunks, first at byte {first}",
                found.chunks.len()
            );
        }
        self.teller
            .say("the disks of server1 and server2 are the same, byte by byte");
        Ok(())
    }

    /// A bar for the functions of [`disk`].
    pub(super) fn advance(&self, what: &str, total: u64) -> Advance {
        let bar: Bar = self.teller.bar(what, total);
        Arc::new(move |bytes| bar.advance(bytes))
    }
}

/// An error if one of the processes that should be running has ended.
pub(super) fn must_all_run(nodes: &mut [Node]) -> Result<()> {
    for node in nodes {
        let mirror = node.mirror.as_mut().map(|mirror| &mut mirror.process);
        mirror
            .into_iter()
            .chain(&mut node.server)
            .try_for_each(Process::must_run)?;
    }
    Ok(())
}

impl Node {
    fn new(folder: &Folder, name: &'static str) -> Node {
        let file = |kind: &str| match (name, kind) {
            ("server1", "img") => "server1.img",
            ("server1", "log") => "server1.log",
            ("server1", _) => "server1-disk.log",
            (_, "img") => "server2.img",
            (_, "log") => "server2.log",
            (_, _) => "server2-disk.log",
        };
        Node {
            name,
            disk: folder.file(file("img")),
            run: folder.run().join(name),
            log: folder.file(file("log")),
            server_log: folder.file(file("disk-log")),
            mirror: None,
            server: None,
        }
    }

    fn server_socket(&self) -> PathBuf {
        self.run.join("disk.nbd")
    }

    /// The URI of the node's disk, while it is served.
    pub(super) fn server_uri(&self) -> String {
        nbd_client::Target::unix(self.server_socket(), TAG).to_string()
    }
}

/// Threads of the runtime: copies block in files now and then.
const WORKERS: usize = 4;
/// For what takes a moment.
const SOON: Duration = Duration::from_secs(30);
/// For a resync of everything.
const LONG: Duration = Duration::from_secs(600);
