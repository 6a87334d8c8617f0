//! The stage: the two nodes, their processes, and the runtime that talks to them.

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
use super::node::Node;
use super::process;
use super::sweep::Guard;
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
    /// After the nodes: it ends what their daemons left.
    _guard: Guard,
    /// Last: it is unlocked after everything else has ended.
    pub(super) folder: Folder,
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
        let nodes = [Node::new(&folder, 0), Node::new(&folder, 1)];
        let paths: Vec<_> = nodes.iter().flat_map(Node::paths).collect();
        let guard = Guard::start(&tools.netraid, &paths)?;
        Ok(Scene {
            teller: Teller::new(settings.json),
            tools,
            nodes,
            runtime,
            interrupt,
            _guard: guard,
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

    /// Gives a command on a node, as an administrator there would, and tells it.
    pub(super) fn command(&self, node: usize, words: &[&str]) -> Result<()> {
        let name = self.nodes[node].name;
        let line = words.join(" ");
        self.teller.say(&format!("{name}# netraid {line}"));
        let mut command = Command::new(&self.tools.netraid);
        command
            .args(words)
            .arg("--run-dir")
            .arg(&self.nodes[node].run);
        let log = self.folder.file("tools.log");
        let (status, said) = process::run(&command, &log, LONG, &self.interrupt)?;
        match status.success() {
            true => Ok(()),
            false => bail!(
                "netraid {line} on {name} failed ({status}): {}",
                said.trim()
            ),
        }
    }

    /// Starts the netraidd of a node.
    pub(super) fn boot(&mut self, node: usize) -> Result<()> {
        self.nodes[node].boot(&self.tools, &self.interrupt)
    }

    /// Takes the mirror out of service where it is in service, and stops both nodes.
    pub(super) fn stop_all(&mut self) -> Result<()> {
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_up() && self.status(node).is_ok() {
                // Not to be cut short by Ctrl-C: this is how things end after it.
                let interrupt = std::mem::take(&mut self.interrupt);
                let stopped = self.command(node, &["stop", TAG]);
                self.interrupt = interrupt;
                stopped?;
            }
        }
        self.nodes.iter_mut().try_for_each(Node::shut_down)
    }

    /// A new connection to the mirror that runs on a node.
    pub(super) fn connect(&self, node: usize) -> Result<Client> {
        let uri = self.uri(node)?;
        self.wait(disk::connect(&uri))
    }

    /// Where an application finds the mirror that is in service on a node.
    pub(super) fn uri(&self, node: usize) -> Result<String> {
        let uris = self.status(node)?.uris;
        uris.into_iter().next().context("the mirror has no URI")
    }

    /// How the mirror on a node is: what its array says, which knows what a resync moved.
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

/// An error if a daemon that should be running has ended.
pub(super) fn must_all_run(nodes: &mut [Node]) -> Result<()> {
    nodes.iter_mut().try_for_each(Node::must_run)
}

/// Threads of the runtime: copies block in files now and then.
const WORKERS: usize = 4;
/// For what takes a moment.
pub(super) const SOON: Duration = Duration::from_secs(30);
/// For a resync of everything.
const LONG: Duration = Duration::from_secs(600);
