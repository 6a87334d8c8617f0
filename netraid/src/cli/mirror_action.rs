//! `mirror_action`: DataKeeper's command to pause, resume, force and fully resync mirrors.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use flags::Tag;

use super::daemon::{Connection, Daemon, tag};
use super::exit::Exit;
use super::orders::{self, CODES};
use super::program;
use super::show::plain;
use crate::api::document::{Mirror, Order};

/// Pauses, resumes, forces online or fully resyncs a mirror.
#[derive(Debug, Parser)]
#[command(name = "mirror_action", version, after_help = CODES)]
struct Arguments {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// What is to be done
    action: Action,

    /// The source [default: this node]; with force, the node whose data counts
    source: Option<String>,

    /// The targets; all if none is named
    targets: Vec<String>,

    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    /// Stops the replication to targets; what changes meanwhile is marked
    Pause,
    /// Goes on with targets; what was marked is copied
    Resume,
    /// Puts the mirror in service with the data of this node, although others may have newer
    Force,
    /// Copies everything to targets, whatever is marked
    #[value(name = "fullresync")]
    FullResync,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Force => "force",
            Action::FullResync => "fullresync",
        }
    }
}

/// The command line, for its manual page.
pub(super) fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    match program::arguments() {
        Ok(arguments) => program::end("mirror_action", perform(&arguments)),
        Err(code) => code,
    }
}

fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let daemon = arguments.connection.open()?;
    if let Some(source) = &arguments.source {
        on_this_node(arguments, source, &daemon.mirror(&arguments.tag)?)?;
    }
    carry_out(arguments, &daemon)
}

/// netraidd acts on its own node only.
fn on_this_node(arguments: &Arguments, source: &str, mirror: &Mirror) -> Result<(), Exit> {
    let (tag, action) = (&arguments.tag, arguments.action.name());
    let Some(node) = mirror.nodes.iter().find(|node| node.name == source) else {
        let known: Vec<&str> = mirror.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Exit::usage(format!(
            "{} is not a node of {tag}: {}",
            plain(source),
            plain(&known.join(", "))
        )));
    };
    if node.own {
        return Ok(());
    }
    let words: Vec<&str> = std::iter::once(source)
        .chain(arguments.targets.iter().map(String::as_str))
        .collect();
    Err(Exit::refused(format!(
        "the source is named first, and {source} is not this node; mirror_action acts on the node that it runs on"
    ))
    .hint(format!(
        "on {source}: mirror_action {tag} {action} {}",
        plain(&words.join(" "))
    )))
}

fn carry_out(arguments: &Arguments, daemon: &Daemon) -> Result<(), Exit> {
    let targets = arguments.targets.clone();
    let (tag, to) = (&arguments.tag, orders::list(&targets));
    let (order, done) = match arguments.action {
        Action::Pause => (Order::Pause { targets }, format!("{tag} is paused: {to}")),
        Action::Resume => (Order::Resume { targets }, format!("{tag} goes on: {to}")),
        Action::FullResync => (
            Order::FullResync { targets },
            format!("everything of {tag} is copied: {to}"),
        ),
        Action::Force if !targets.is_empty() => {
            return Err(Exit::usage("force takes one node, whose data counts"));
        }
        Action::Force => (Order::Force, format!("{tag} is in service here")),
    };
    orders::give(daemon, tag, &order, arguments.dry_run, &done)
}
