//! `netraid explain`: why a mirror is as it is, what it waits for, and the command that would change that.

use std::io::{self, Write};

use flags::Tag;

use super::daemon::{Connection, tag};
use super::exit::Exit;
use super::show::{plain, size};
use crate::api::document::{Mirror, Node, Resync};
use crate::status::limited_by;

/// Says in plain words why a mirror is as it is, what it waits for, and the command that would change it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    #[command(flatten)]
    connection: Connection,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let mirror = arguments.connection.open()?.mirror(&arguments.tag)?;
    let mut out = io::stdout().lock();
    write!(out, "{}", text(&mirror))?;
    Ok(out.flush()?)
}

/// The explanation: this node first, then the others of the mirror, then the flags and what is wrong.
pub(super) fn text(mirror: &Mirror) -> String {
    let (own, others): (Vec<&Node>, Vec<&Node>) = mirror.nodes.iter().partition(|node| node.own);
    let mut text = String::new();
    for node in own.into_iter().chain(others) {
        text += &self::node(node);
    }
    if let Some(refusal) = mirror.refusal.as_ref().filter(|_| mirror.service == "out") {
        text += &format!("not in service here: {}\n", plain(&refusal.why));
        if let Some(next) = &refusal.next {
            text += &format!("  to change that: {}\n", plain(next));
        }
    }
    if let Some(previous) = &mirror.previous_source {
        let previous = plain(previous);
        text += &format!("previous source: {previous}, whose bitmap or resync is waited for\n");
    }
    for (there, name) in [
        (mirror.flags.last_owner, "last_owner"),
        (mirror.flags.data_corrupt, "data_corrupt"),
    ] {
        if there {
            text += &format!("flag: {}_{name} is set\n", plain(&mirror.tag));
        }
    }
    if let Some(source) = &mirror.flags.source {
        text += &format!(
            "flag: {}_source names {}\n",
            plain(&mirror.tag),
            plain(source)
        );
    }
    if let Some(resync) = &mirror.resync {
        text += &format!("resync: {}\n", super::status::progress(resync));
        if let Some(why) = &resync.why {
            text += &format!("  {}\n", plain(why));
        }
        if let Some(command) = faster(mirror, resync) {
            text += &format!("  to change that: {command}\n");
        }
    }
    for problem in &mirror.problems {
        text += &format!("problem: {}\n", plain(problem));
    }
    for note in &mirror.notes {
        text += &format!("note: {}\n", plain(note));
    }
    text
}

/// The command that makes a resync faster, if one does.
fn faster(mirror: &Mirror, resync: &Resync) -> Option<String> {
    let tag = plain(&mirror.tag);
    match (resync.limited_by.as_deref(), resync.boosted) {
        (Some(limited_by::LEGS) | None, _) => None,
        (_, true) => Some(format!("netraid resync {tag} --normal ends its boost")),
        (_, false) => Some(format!("netraid resync {tag} --boost")),
    }
}

fn node(node: &Node) -> String {
    let status = match node.member {
        true => &node.status,
        false => "not extended to",
    };
    let mut text = format!(
        "{}: {}\n  {}\n",
        plain(&node.name),
        plain(status),
        plain(&node.why)
    );
    if let Some(waits_for) = &node.waits_for {
        text += &format!("  waits for: {}\n", plain(waits_for));
    }
    if let Some(command) = &node.command {
        text += &format!("  to change that: {}\n", plain(command));
    }
    if let Some(decided) = &node.last_resync {
        let how = match decided.full {
            true => "everything".to_owned(),
            false => format!("{} that were marked", size(decided.dirty_bytes)),
        };
        text += &format!(
            "  last resync: {how}, by the rule {}\n",
            plain(&decided.rule)
        );
        if decided.merged_bytes > 0 {
            text += &format!("  of it {} by its own bitmap\n", size(decided.merged_bytes));
        }
    }
    if let Some(failure) = &node.failure {
        text += &format!("  its leg failed last: {}\n", plain(failure));
    }
    text
}
