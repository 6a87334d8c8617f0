//! The commands that change a mirror through netraidd: create, extend, unextend, delete, start, stop, pause, resume,
//! fullresync, resolve.

use std::io::{self, Write};

use flags::Tag;

use super::daemon::{Connection, Daemon, tag};
use super::exit::Exit;
use super::show::plain;
use super::wait::{Patience, Whom};
use crate::api::document::Order;

/// What every order has.
#[derive(Debug, clap::Args)]
struct Common {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Makes this node's disk the first leg of a configured mirror, and puts it in service here.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Create {
    #[command(flatten)]
    common: Common,

    /// Overwrite what the disk holds, even if another node has data of this mirror
    #[arg(long)]
    force: bool,

    /// Keep the file system that the disk holds
    #[arg(long, conflicts_with = "force")]
    keep: bool,
}

/// Makes a configured node a target, on the source: its disk is overwritten with what the mirror holds.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Extend {
    #[command(flatten)]
    common: Common,

    /// The new target
    node: String,

    /// Overwrite what its disk holds
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    patience: Patience,
}

/// Lets a target go, on the source.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Unextend {
    #[command(flatten)]
    common: Common,

    /// The target that leaves
    node: String,
}

/// Forgets what this node remembers of a mirror that is out of service. The data stays on the disk.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Delete {
    #[command(flatten)]
    common: Common,
}

/// Puts a mirror in service on this node.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Start {
    #[command(flatten)]
    common: Common,

    /// Take this node's data as it is, although others may have newer: the same as mirror_action TAG force
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    patience: Patience,
}

/// Takes a mirror out of service on this node.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Stop {
    #[command(flatten)]
    common: Common,
}

/// Stops the replication to targets, on the source; what changes meanwhile is marked.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Pause {
    #[command(flatten)]
    common: Common,

    /// The targets; all if none is named
    targets: Vec<String>,
}

/// Goes on with paused targets, on the source; what was marked is copied.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Resume {
    #[command(flatten)]
    common: Common,

    /// The targets; all if none is named
    targets: Vec<String>,
}

/// Goes on, on the source, although a node that left was not fenced and may not know of it.
///
/// With fencing = "resource-and-stonith" requests wait until fence-peer has answered. When it can't, and that node is surely
/// out of service and stays so, this lets them go. If it is not, both go on: that is a split brain.
#[derive(Debug, clap::Args)]
#[command(name = "resume-io", after_help = CODES)]
pub(super) struct ResumeIo {
    #[command(flatten)]
    common: Common,
}

/// Copies everything to targets, on the source, whatever is marked.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct FullResync {
    #[command(flatten)]
    common: Common,

    /// The targets; all if none is named
    targets: Vec<String>,

    #[command(flatten)]
    patience: Patience,
}

/// Ends a split brain: says whose data is given up. Only what that node wrote alone is lost.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Resolve {
    #[command(flatten)]
    common: Common,

    /// The node whose data is given up
    #[arg(long, value_name = "NODE", required_unless_present = "tentative")]
    discard: Option<String>,

    /// Only tell what this node and each other would do with each other's data, by which rule or policy
    #[arg(long, conflicts_with = "discard")]
    tentative: bool,
}

/// Gives a mirror another size, on its source, after the disks of all nodes have been enlarged.
///
/// It gets what the smallest disk holds, or the size given. In service it only grows; what is new is copied to the targets.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Resize {
    #[command(flatten)]
    common: Common,

    /// The new size, with a unit such as 64M or 1G; as much as all disks hold if it is not given
    #[arg(long, value_parser = super::size::parse)]
    size: Option<u64>,

    /// Make it smaller, out of service: what is behind the new size is lost
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    patience: Patience,
}

/// What these commands' help says of how they end.
pub(super) const CODES: &str = "Exit codes: 0 done, or already so; 1 failed; 2 wrong command line, or no such mirror or \
    node; 3 the state forbids it, nothing was changed; 124 not done in time.";

impl Create {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let order = Order::Create {
            force: self.force,
            keep: self.keep,
        };
        let done = format!("{} is in service here, with one leg", self.common.tag);
        self.common.give(&order, &done).map(drop)
    }
}

impl Extend {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let order = Order::Extend {
            node: self.node.clone(),
            force: self.force,
        };
        let done = format!("{} is a target of {}", plain(&self.node), self.common.tag);
        let named = Whom::Named(std::slice::from_ref(&self.node));
        let daemon = self.common.give(&order, &done)?;
        self.common.wait(&self.patience, daemon, named)
    }
}

impl Unextend {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let node = self.node.clone();
        let done = format!("{} has left {}", plain(&node), self.common.tag);
        self.common.give(&Order::Unextend { node }, &done).map(drop)
    }
}

impl Delete {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let tag = &self.common.tag;
        let done = format!("{tag} is forgotten here; the data stays on the disk");
        self.common.give(&Order::Delete, &done).map(drop)
    }
}

impl Start {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let order = match self.force {
            true => Order::Force,
            false => Order::Restore,
        };
        let done = format!("{} is in service here", self.common.tag);
        let daemon = self.common.give(&order, &done)?;
        self.common.wait(&self.patience, daemon, Whom::Reachable)
    }
}

impl Stop {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let done = format!("{} is out of service here", self.common.tag);
        self.common.give(&Order::Remove, &done).map(drop)
    }
}

impl Pause {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let targets = self.targets.clone();
        let done = format!("{} is paused: {}", self.common.tag, list(&targets));
        self.common.give(&Order::Pause { targets }, &done).map(drop)
    }
}

impl Resume {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let targets = self.targets.clone();
        let done = format!("{} goes on: {}", self.common.tag, list(&targets));
        self.common
            .give(&Order::Resume { targets }, &done)
            .map(drop)
    }
}

impl ResumeIo {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let done = format!("the requests of {} do not wait any more", self.common.tag);
        self.common.give(&Order::ResumeIo, &done).map(drop)
    }
}

impl FullResync {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let targets = self.targets.clone();
        let to = list(&targets);
        let done = format!("everything of {} is copied: {to}", self.common.tag);
        let daemon = self.common.give(&Order::FullResync { targets }, &done)?;
        let whom = match self.targets.is_empty() {
            true => Whom::Reachable,
            false => Whom::Named(&self.targets),
        };
        self.common.wait(&self.patience, daemon, whom)
    }
}

impl Resize {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let daemon = self.common.connection.open()?;
        let (size, force) = (self.size, self.force);
        let order = Order::Resize { size, force };
        resize(&daemon, &self.common.tag, &order, self.common.dry_run)?;
        let daemon = (!self.common.dry_run).then_some(daemon);
        self.common.wait(&self.patience, daemon, Whom::Reachable)
    }
}

/// Resizes, and says what was done, which depends on the mirror.
pub(super) fn resize(daemon: &Daemon, tag: &Tag, order: &Order, dry_run: bool) -> Result<(), Exit> {
    let answer = daemon.order(tag, order, dry_run)?;
    let mut out = io::stdout().lock();
    for step in &answer.steps {
        writeln!(out, "{}", plain(step))?;
    }
    if !dry_run {
        writeln!(out, "{tag} is resized")?;
    }
    Ok(out.flush()?)
}

impl Resolve {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let Some(discard) = self.discard.clone() else {
            let daemon = self.common.connection.open()?;
            return give(&daemon, &self.common.tag, &Order::Tentative, true, "");
        };
        let (node, tag) = (plain(&discard), &self.common.tag);
        let done = format!("what {node} wrote alone to {tag} is given up");
        self.common
            .give(&Order::Resolve { discard }, &done)
            .map(drop)
    }
}

/// Targets as a person reads them.
pub(super) fn list(targets: &[String]) -> String {
    match targets.is_empty() {
        true => "all targets".into(),
        false => plain(&targets.join(", ")),
    }
}

impl Common {
    /// Gives the order and says what is so now; the daemon, to wait for what follows, unless nothing was done.
    fn give(&self, order: &Order, done: &str) -> Result<Option<Daemon>, Exit> {
        let daemon = self.connection.open()?;
        give(&daemon, &self.tag, order, self.dry_run, done)?;
        Ok((!self.dry_run).then_some(daemon))
    }

    fn wait(&self, how: &Patience, daemon: Option<Daemon>, whom: Whom<'_>) -> Result<(), Exit> {
        match daemon {
            Some(daemon) => how.targets(&daemon, &self.tag, whom),
            None => Ok(()),
        }
    }
}

/// Gives an order, and prints what is so now or, of a dry run, the steps.
pub(super) fn give(
    daemon: &Daemon,
    tag: &Tag,
    order: &Order,
    dry_run: bool,
    done: &str,
) -> Result<(), Exit> {
    let answer = daemon.order(tag, order, dry_run)?;
    let mut out = io::stdout().lock();
    match (dry_run, answer.steps.is_empty()) {
        (false, _) => writeln!(out, "{done}")?,
        (true, true) => writeln!(out, "nothing would be done")?,
        (true, false) => {
            for step in &answer.steps {
                writeln!(out, "{}", plain(step))?;
            }
        }
    }
    Ok(out.flush()?)
}
