//! A mirror's state as lines for people.

use std::fmt::Write;
use std::time::Duration;

use super::health::{self, Health};
use crate::cli::show::{duration, plain, size};
use crate::status::{LegStatus, ResyncStatus, Status, word};

/// The state of one mirror: a line for the mirror, one a leg, reasons below it, then the numbers.
pub(super) fn mirror(status: &Status, colour: bool) -> String {
    let paint = Paint { colour };
    let health = health::of(status);
    let mut page = format!(
        "{}: {} on {}, {}\n",
        paint.bold(&plain(&status.tag)),
        size(status.size),
        plain(&status.node),
        paint.health(health, health::name(health)),
    );
    if let Some(why) = &status.halted {
        page += &format!("  takes no writes: {}\n", plain(why));
    }
    let width = |of: fn(&LegStatus) -> &String| {
        status
            .legs
            .iter()
            .map(|leg| plain(of(leg)).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (node, state) = (width(|leg| &leg.node), width(|leg| &leg.status));
    let disk = width(|leg| &leg.disk);
    for leg in &status.legs {
        let words = format!("{:state$}", plain(&leg.status));
        let mut line = format!(
            "  {:node$}  {}  {:disk$}  {}",
            plain(&leg.node),
            paint.leg(&leg.status, &words),
            plain(&leg.disk),
            progress(leg, status.resync.as_ref()),
        );
        line.truncate(line.trim_end().len());
        page += &line;
        page.push('\n');
        if let Some(reason) = &leg.reason {
            // What is shown is the state of a leg; of one that is in sync again this is history.
            let when = if [word::SOURCE, word::TARGET].contains(&leg.status.as_str()) {
                "last time: "
            } else {
                ""
            };
            page += &format!("  {:node$}  {when}{}\n", "", plain(reason));
        }
        if leg.io_errors > 0 {
            let text = format!(
                "{} I/O errors, {} repaired, {} not read from it",
                leg.io_errors,
                size(leg.repaired_bytes),
                size(leg.failed_bytes)
            );
            page += &format!("  {:node$}  {}\n", "", plain(&text));
        }
        if leg.damaged > 0 {
            let text = format!("{} connections ended by damaged messages", leg.damaged);
            page += &format!("  {:node$}  {}\n", "", plain(&text));
        }
        if let Some(why) = &leg.no_digests {
            let text = format!("resyncs send all that is marked: {why}");
            page += &format!("  {:node$}  {}\n", "", plain(&text));
        }
    }
    numbers(&mut page, status);
    page
}

/// How far the resync of a leg is, or what it misses.
fn progress(leg: &LegStatus, resync: Option<&ResyncStatus>) -> String {
    let missing = match (leg.missing_bytes, leg.behind_bytes) {
        (0, None) => String::new(),
        (missing, Some(bytes)) if leg.left_behind => {
            let (missing, bytes) = (size(missing), size(bytes));
            format!("left behind: {bytes} are on the way to it, {missing} missing")
        }
        (0, Some(bytes)) => format!("asynchronous, {} behind", size(bytes)),
        (bytes, _) => format!("{} missing", size(bytes)),
    };
    let Some(resync) =
        resync.filter(|_| leg.status == word::RESYNCING || leg.status == word::PAUSED)
    else {
        return missing;
    };
    let done = (resync.percent.clamp(0.0, 100.0) / 100.0 * BAR as f64) as usize;
    let bar = format!("[{}{}]", "#".repeat(done), ".".repeat(BAR - done));
    let rest = match (resync.paused, resync.time_left_ms) {
        (true, _) => "paused".to_owned(),
        (false, Some(left)) => {
            format!(
                "{}/s, {} left",
                size(resync.speed),
                duration(Duration::from_millis(left))
            )
        }
        (false, None) => format!("{}/s", size(resync.speed)),
    };
    format!("{bar} {:5.1} %  {rest}", resync.percent)
}

fn numbers(page: &mut String, status: &Status) {
    // Writing to a String can't fail.
    let _ = writeln!(
        page,
        "  dirty: {} in {} of {} chunks of {}; superblocks {}, events {}",
        size(status.dirty_bytes),
        status.dirty_chunks,
        status.chunks,
        size(status.chunk),
        plain(&status.array_state),
        status.events,
    );
    if let (Some(end), None) = (&status.last_resync, &status.resync) {
        let _ = writeln!(
            page,
            "  last resync: {} made equal in {}, {} of it sent",
            size(end.copied),
            duration(Duration::from_millis(end.elapsed_ms)),
            size(end.sent),
        );
        if end.compared > 0 {
            let (compared, equal) = (size(end.compared), size(end.equal));
            let _ = writeln!(
                page,
                "    {compared} compared by digests, {equal} of it equal"
            );
        }
    }
    for uri in &status.uris {
        let _ = writeln!(page, "  {}", plain(uri));
    }
}

/// Colours for a terminal that wants them.
struct Paint {
    colour: bool,
}

impl Paint {
    fn in_colour(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn bold(&self, text: &str) -> String {
        self.in_colour("1", text)
    }

    fn health(&self, health: Health, text: &str) -> String {
        let code = match health {
            Health::Healthy => "32",
            Health::Degraded => "33",
            Health::Unusable => "31",
        };
        self.in_colour(code, text)
    }

    fn leg(&self, status: &str, text: &str) -> String {
        match status {
            word::SOURCE | word::TARGET => self.in_colour("32", text),
            word::SPLIT_BRAIN => self.in_colour("31", text),
            _ => self.in_colour("33", text),
        }
    }
}

/// Characters of a progress bar.
const BAR: usize = 20;

#[cfg(test)]
mod tests;
