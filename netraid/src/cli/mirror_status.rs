//! `mirror_status`: the state of mirrors in the text form that DataKeeper's administrators and scripts know.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use flags::Tag;

use super::daemon::{Connection, tag};
use super::exit::Exit;
use super::show::plain;
use super::{program, status};
use crate::api::document::{Mirror, Node};
use crate::mirror::word::Word;

/// Shows each target of a mirror, its status and how much is marked in the write-intent bitmap.
///
/// A target in sync is "Fully Operational", one that is being resynced "Resynchronizing", as DataKeeper says it; the
/// other words are those of `netraid status`.
#[derive(Debug, Parser)]
#[command(
    name = "mirror_status",
    version,
    after_help = "Exit codes: 0 shown; 1 netraidd does not run or did not tell; 2 wrong command line, or no such mirror; \
        124 no answer in time."
)]
struct Arguments {
    /// The mirror; all if none is named
    #[arg(value_parser = tag)]
    tag: Option<Tag>,

    /// Prints the whole document, as netraid status --json
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// The command line, for its manual page.
pub(super) fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    match program::arguments() {
        Ok(arguments) => program::end("mirror_status", perform(&arguments)),
        Err(code) => code,
    }
}

fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let mirrors = arguments
        .connection
        .open()?
        .mirrors_or(arguments.tag.as_ref())?;
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", status::json(&mirrors)?)?;
        return Ok(out.flush()?);
    }
    for (number, mirror) in mirrors.mirrors.iter().enumerate() {
        if arguments.tag.is_none() {
            let gap = if number > 0 { "\n" } else { "" };
            writeln!(out, "{gap}Mirror: {}", plain(&mirror.tag))?;
        }
        write!(out, "{}", text(mirror))?;
    }
    Ok(out.flush()?)
}

/// One mirror.
fn text(mirror: &Mirror) -> String {
    let source = mirror.source.as_deref();
    let mut text = String::new();
    for node in &mirror.nodes {
        if node.member && source != Some(node.name.as_str()) {
            text += &target(mirror, source.unwrap_or("(no source)"), node);
        }
    }
    if !text.is_empty() {
        text += "\n";
    }
    text + &bitmap(mirror)
}

fn target(mirror: &Mirror, source: &str, node: &Node) -> String {
    let word = match node.status.as_str() {
        word if word == Word::Target.text() => "Fully Operational",
        word if word == Word::Resyncing.text() => "Resynchronizing",
        word => word,
    };
    let mut text = format!(
        "[-] {} -> {}\n    Status: {}\n",
        plain(source),
        plain(&node.name),
        plain(word)
    );
    if let Some(percent) = node.percent {
        text += &format!("    [{}] {percent:>4}%\n", bar(percent));
        if let Some(resync) = &mirror.resync {
            text += &format!("    Resync Speed: {}K/sec\n", resync.speed / 1024);
        }
    }
    let kind = match mirror.protocol.as_str() {
        "C" => "Synchronous",
        _ => "Asynchronous",
    };
    text + &format!("    Type: {kind}\n")
}

fn bar(percent: u8) -> String {
    let filled = usize::from(percent.min(100)) * BAR / 100;
    let arrow = match filled {
        0 => String::new(),
        filled => format!("{}>", "=".repeat(filled - 1)),
    };
    format!("{arrow:BAR$}")
}

/// The line on the bitmap, which only the source can tell.
pub(super) fn bitmap(mirror: &Mirror) -> String {
    if mirror.service != "in" {
        return "Bitmap: shown on the source only\n".into();
    }
    match (mirror.size, mirror.chunk, mirror.dirty_bytes) {
        (Some(size), Some(chunk), Some(dirty)) if chunk > 0 => {
            let (bits, dirty) = (size.div_ceil(chunk), dirty.div_ceil(chunk));
            let share = match bits {
                0 => 0.0,
                bits => dirty as f64 * 100.0 / bits as f64,
            };
            format!("Bitmap: {bits} bits (chunks), {dirty} dirty ({share:.1}%)\n")
        }
        (_, None, _) => "Bitmap: none\n".into(),
        _ => "Bitmap: not known\n".into(),
    }
}

/// Characters of a full bar.
const BAR: usize = 24;
