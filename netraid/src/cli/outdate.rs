//! `netraid outdate`: marks this node's own data as outdated; what a fencing program calls on the node to be fenced.

use std::io::{self, Write};

use flags::Tag;

use super::daemon::{Connection, not_done, tag};
use super::exit::Exit;
use super::show::plain;
use super::status::json;
use crate::api::document::{Order, Outcome};

/// Marks the data of this node as outdated: somebody goes on without it.
///
/// The mirror can't be put in service here any more, except by force (mirror_action TAG force), before this node is in
/// sync again. It is refused where the mirror is in service. netraidd has to run: only it knows that nothing is in service
/// here, and keeps so what it has promised.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Arguments {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// The node that goes on without this one; refused if this node's data is newer than that one's
    #[arg(long = "for", value_name = "NODE")]
    asker: Option<String>,

    /// Prints netraidd's answer as JSON (schema netraid.answer/1)
    #[arg(long)]
    json: bool,

    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: Connection,
}

const CODES: &str = "Exit codes, those of drbdadm outdate where it has one: 0 outdated, or already so; 1 failed, or netraidd \
    does not run; 2 wrong command line, or no such mirror or node; 3 it is a target that nobody goes on without; 5 its data is \
    inconsistent, so it can't go into service anyway; 17 the mirror is in service here; 18 its data is newer than that of the \
    node that goes on; 20 it never had data; 124 not done in time. But for 0 nothing was changed.";

impl Arguments {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let daemon = self.connection.open()?;
        let order = Order::Outdate {
            asker: self.asker.clone(),
        };
        let answer = daemon.ask(&self.tag, &order, self.dry_run)?;
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", json(&answer)?)?;
        }
        if answer.outcome != Outcome::Done {
            return Err(not_done(answer));
        }
        match (self.json, self.dry_run) {
            (true, _) => {}
            (false, true) => {
                for step in &answer.steps {
                    writeln!(out, "{}", plain(step))?;
                }
            }
            (false, false) => writeln!(out, "the data of {} is outdated here", self.tag)?,
        }
        Ok(out.flush()?)
    }
}
