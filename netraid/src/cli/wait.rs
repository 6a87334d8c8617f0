//! `--wait`: follows targets until they are in sync, with a bar on a terminal and a line a change elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use flags::Tag;
use indicatif::{ProgressBar, ProgressStyle};

use super::daemon::Daemon;
use super::exit::{self, Exit};
use super::show::plain;
use crate::api::document::{Mirror, Node};
use crate::mirror::word::Word;

/// Whether to wait, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Patience {
    /// Return only when the targets are in sync
    #[arg(long)]
    wait: bool,

    /// Wait no longer than this, then end with 124
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    wait_timeout: Option<u64>,
}

/// Which targets are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whom<'a> {
    /// These, whatever becomes of them.
    Named(&'a [String]),
    /// All that can be reached.
    Reachable,
}

/// What one look showed.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    InSync,
    NotYet,
    /// It won't come about by itself: why, and the next command.
    Never(String, Option<String>),
}

impl Patience {
    /// Waits, if it was asked for.
    pub(super) fn targets(&self, daemon: &Daemon, tag: &Tag, whom: Whom<'_>) -> Result<(), Exit> {
        if !self.wait {
            return Ok(());
        }
        let limit = self.wait_timeout.map(Duration::from_secs);
        let (begin, mut teller) = (Instant::now(), Teller::new());
        let mut hopeless = None;
        loop {
            let mirror = daemon.mirror(tag)?;
            let nodes: Vec<&Node> = chosen(&mirror, whom).collect();
            teller.tell(&mirror, &nodes);
            match look(&mirror, &nodes) {
                Look::InSync => break,
                Look::NotYet => hopeless = None,
                Look::Never(why, next) => {
                    // A link that is being made, or made again, looks like this for a moment.
                    let since = *hopeless.get_or_insert_with(Instant::now);
                    if since.elapsed() >= GRACE {
                        let exit = Exit::failed(plain(&why));
                        return Err(match next {
                            Some(next) => exit.hint(plain(&next)),
                            None => exit,
                        });
                    }
                }
            }
            if limit.is_some_and(|limit| begin.elapsed() >= limit) {
                let words = nodes
                    .iter()
                    .map(|node| format!("{} is {}", node.name, node.status));
                let words: Vec<String> = words.collect();
                let why = format!("not in sync in time: {}", words.join(", "));
                let next = format!("it goes on: netraid status {tag}");
                return Err(Exit::new(exit::TIMEOUT, plain(&why)).hint(next));
            }
            thread::sleep(POLL);
        }
        teller.end();
        println!("{tag} is in sync");
        Ok(())
    }
}

fn chosen<'a>(mirror: &'a Mirror, whom: Whom<'a>) -> impl Iterator<Item = &'a Node> {
    mirror.nodes.iter().filter(move |node| match whom {
        Whom::Named(names) => names.contains(&node.name),
        Whom::Reachable => !node.own && node.member && node.reachable,
    })
}

fn look(mirror: &Mirror, nodes: &[&Node]) -> Look {
    if mirror.service != "in" {
        let why = format!("{} is not in service here any more", mirror.tag);
        return Look::Never(why, Some(format!("netraid explain {}", mirror.tag)));
    }
    let is = |node: &Node, word: Word| node.status == word.text();
    let stays = [Word::Unknown, Word::Paused, Word::SplitBrain];
    let stuck = nodes
        .iter()
        .find(|node| stays.iter().any(|word| is(node, *word)));
    match stuck {
        Some(node) => Look::Never(
            format!("{} is {}: {}", node.name, node.status, node.why),
            node.command.clone(),
        ),
        None if nodes.iter().all(|node| is(node, Word::Target)) => Look::InSync,
        None => Look::NotYet,
    }
}

/// Tells of progress on standard error.
struct Teller {
    bar: Option<ProgressBar>,
    told: BTreeMap<String, String>,
}

impl Teller {
    fn new() -> Teller {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let terminal = std::io::stderr().is_terminal();
        Teller {
            bar: terminal.then(|| ProgressBar::new(100).with_style(style)),
            told: BTreeMap::new(),
        }
    }

    fn tell(&mut self, mirror: &Mirror, nodes: &[&Node]) {
        let Some(bar) = &self.bar else {
            for node in nodes {
                let line = line(node);
                let before = self.told.insert(node.name.clone(), line.clone());
                if before.as_ref() != Some(&line) {
                    eprintln!("{}", plain(&line));
                }
            }
            return;
        };
        let words = nodes
            .iter()
            .map(|node| format!("{} {}", node.name, node.status));
        let words: Vec<String> = words.collect();
        bar.set_message(plain(&words.join(", ")));
        if let Some(resync) = &mirror.resync {
            bar.set_length(resync.copied.saturating_add(resync.left));
            bar.set_position(resync.copied);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A node in one line, which changes ten times in a resync.
fn line(node: &Node) -> String {
    let Node { name, status, .. } = node;
    match (node.percent, &node.waits_for) {
        (Some(percent), _) => format!("{name}: {status} {}%", percent / 10 * 10),
        (None, Some(waits_for)) => format!("{name}: {status}, waits for {waits_for}"),
        (None, None) => format!("{name}: {status}"),
    }
}

/// How often a person's bar moves.
const POLL: Duration = Duration::from_millis(200);
/// How long a state that does not end by itself may last.
const GRACE: Duration = Duration::from_secs(10);
