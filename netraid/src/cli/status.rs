//! `netraid status`: how the mirrors of this node are, as netraidd sees them.

mod text;

use std::io::{self, IsTerminal, Write};

use flags::Tag;
use serde::Serialize;

use super::daemon::{Connection, tag};
use super::exit::Exit;
pub(super) use text::progress;

/// Shows how mirrors are: where they are in service, each node's status word, how far a resync is.
///
/// Mirrors that were started by hand, without netraidd, are shown by `netraid embedded status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 shown; 1 netraidd does not run or did not tell; 2 wrong command line, or no such mirror; \
        124 no answer in time."
)]
pub(super) struct Arguments {
    /// The mirror; all if none is named
    #[arg(value_parser = tag)]
    tag: Option<Tag>,

    /// Prints the whole document (schema netraid.mirrors/1); indented on a terminal
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let mirrors = arguments
        .connection
        .open()?
        .mirrors_or(arguments.tag.as_ref())?;
    let mut out = io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", json(&mirrors)?)?,
        false => write!(out, "{}", text::page(&mirrors))?,
    }
    Ok(out.flush()?)
}

/// A document as `--json` prints it: on one line, indented on a terminal.
///
/// # Errors
/// None that can happen with our documents.
pub(super) fn json<T: Serialize>(document: &T) -> Result<String, Exit> {
    let text = match io::stdout().is_terminal() {
        true => serde_json::to_string_pretty(document),
        false => serde_json::to_string(document),
    };
    text.map_err(Exit::failed)
}

pub(super) use text::page;
