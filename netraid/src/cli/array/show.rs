//! `netraid array status` and `watch`: how the kernel's mirrors are, and what happens to them.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::super::{exit, exit::Exit, run_dir, show};
use crate::array::md::{Kernel, Machine, MdArray};
use crate::array::{Array, ArrayStatus, Event};

/// Shows how mirrors are: each leg, progress of a resync, limits, and what to know about them.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// The mirror; without it, all that this kernel runs
    #[arg(long)]
    tag: Option<String>,

    /// Print the whole document: one object a mirror, each on one line; indented on a terminal
    #[arg(long)]
    json: bool,
}

/// Prints what happens to a mirror, as it happens: one JSON object a line.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  netraid array watch --tag data\n  {\"event\":\"watching\"}\n  {\"event\":\"degraded\",\"legs\":1}\n\n\
    With --until in-sync it ends when every leg is in sync, with --until degraded when one is not."
)]
pub(super) struct Watch {
    /// The mirror
    #[arg(long)]
    tag: String,

    /// End when this is true
    #[arg(long, value_enum)]
    until: Option<Until>,

    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// Every leg is there and in sync
    InSync,
    /// A leg is missing or incomplete
    Degraded,
}

fn machine() -> Result<Machine, Exit> {
    Ok(Machine::real(run_dir::resolve(None)?))
}

pub(super) fn status(order: &Status) -> Result<(), Exit> {
    let arrays = match &order.tag {
        Some(tag) => vec![super::find(&machine()?, tag)?],
        None => Kernel::new(machine()?).all()?,
    };
    if arrays.is_empty() {
        return Err(Exit::new(exit::FAILED, "this kernel runs no mirror"));
    }
    let mut out = io::stdout().lock();
    for array in &arrays {
        let status = array.status()?;
        if order.json {
            let text = match io::stdout().is_terminal() {
                true => serde_json::to_string_pretty(&status),
                false => serde_json::to_string(&status),
            };
            let text = text.map_err(Exit::failed)?;
            writeln!(out, "{text}")?;
        } else {
            write!(out, "{}", page(&status))?;
        }
    }
    Ok(out.flush()?)
}

fn page(array: &ArrayStatus) -> String {
    let status = &array.status;
    let device = array.device.as_deref().unwrap_or("");
    let mut page = format!(
        "{} on {device}: {}, {}\n",
        show::plain(&status.tag),
        show::size(status.size),
        status.array_state
    );
    for leg in &status.legs {
        let place = if leg.location.is_empty() {
            "-"
        } else {
            &leg.location
        };
        page += &format!(
            "  {:<16} {:<14} {place}",
            show::plain(&leg.node),
            leg.status
        );
        if let Some(bytes) = leg.behind_bytes {
            page += &format!("  asynchronous, {} behind", show::size(bytes));
        }
        if leg.missing_bytes > 0 {
            page += &format!("  misses {}", show::size(leg.missing_bytes));
        }
        if let Some(reason) = &leg.reason {
            page += &format!("  ({})", show::plain(reason));
        }
        page.push('\n');
    }
    if let Some(resync) = &status.resync {
        page += &format!(
            "  resync {:.1}%, {}/s\n",
            resync.percent,
            show::size(resync.speed)
        );
    }
    if array.bitmap {
        page += &format!(
            "  bitmap: {} of {} chunks dirty ({})\n",
            status.dirty_chunks,
            status.chunks,
            show::size(status.dirty_bytes)
        );
    }
    for note in &array.notes {
        page += &format!("  note: {note}\n");
    }
    if let Some(halted) = &status.halted {
        page += &format!("  halted: {halted}\n");
    }
    page
}

pub(super) fn watch(order: &Watch) -> Result<(), Exit> {
    let array = super::find(&machine()?, &order.tag)?;
    let deadline = order
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut watch = array.watch()?;
    say(&Event::Watching)?;
    loop {
        if let Some(until) = order.until
            && holds(&array, until)?
        {
            // What led to it is said, too.
            return watch.next(Duration::ZERO)?.iter().try_for_each(say);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Exit::new(exit::TIMEOUT, "it did not happen in time"));
        }
        for event in watch.next(left.unwrap_or(LONG).min(LONG))? {
            say(&event)?;
        }
    }
}

fn say(event: &Event) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    let line = serde_json::to_string(event).map_err(Exit::failed)?;
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn holds(array: &MdArray, until: Until) -> Result<bool, Exit> {
    Ok(array.is_whole()? == (until == Until::InSync))
}

/// How long a look into the future goes at most.
const LONG: Duration = Duration::from_secs(1);
