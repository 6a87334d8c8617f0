//! `netraid events`: what happened to the mirrors of this node.

use std::io::{self, Write};

use flags::Tag;

use super::daemon::{Connection, tag};
use super::events2::{self, Form};
use super::exit::Exit;
use super::show::plain;
use super::status;
use crate::api::document::{Event, Events};

/// Shows what happened, oldest first: times are UTC, by this node's clock.
///
/// With --events2, instead, in the lines of drbdsetup events2: first all that exists (`exists resource name:data
/// role:Primary ...`, then `exists -`), then each second and whenever something happens what has changed (`change`, with the
/// fields that differ, `create`, `destroy`), and the handlers that are called (`call helper`, `response helper`). What comes
/// and goes between two looks may not be seen. `gap` lines say that something was missed: events that netraidd has forgotten
/// (`gap from:5 to:9`), or its end and its beginning (`gap netraidd:ended`, `gap netraidd:begun`), over which it goes on.
///
/// Words are those of DRBD: a mirror in service here is Primary; a node in a split brain is StandAlone, one that can't be
/// reached is Connecting; replication is Established, SyncSource, SyncTarget, PausedSyncS, PausedSyncT, VerifyS, or Off.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The mirror; all, and the daemon itself, if none is named
    #[arg(value_parser = tag)]
    tag: Option<Tag>,

    /// Goes on with what happens, until Ctrl-C
    #[arg(long)]
    follow: bool,

    /// Prints the documents (schema netraid.events/1); with --follow, one a line
    #[arg(long)]
    json: bool,

    /// Only what happened after the event of this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,

    /// In the form of drbdsetup events2: what exists, then what changes, until Ctrl-C
    #[arg(long, conflicts_with_all = ["follow", "json", "after"])]
    events2: bool,

    /// With --events2: ends when it has said what exists
    #[arg(long, requires = "events2")]
    now: bool,

    /// With --events2: begins each line with the time
    #[arg(long, requires = "events2")]
    timestamps: bool,

    /// With --events2: sizes as well, in KiB
    #[arg(long, requires = "events2")]
    statistics: bool,

    #[command(flatten)]
    connection: Connection,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let daemon = arguments.connection.open()?;
    let tag = arguments.tag.as_ref();
    if let Some(tag) = tag {
        // One that does not exist has no events, which would look like peace.
        daemon.mirror(tag)?;
    }
    if arguments.events2 {
        let form = Form {
            now: arguments.now,
            timestamps: arguments.timestamps,
            statistics: arguments.statistics,
        };
        return events2::perform(&daemon, tag, form);
    }
    let mut out = io::stdout().lock();
    if !arguments.follow {
        let events = daemon.events(arguments.after, tag)?;
        match arguments.json {
            true => writeln!(out, "{}", status::json(&events)?)?,
            false => write!(out, "{}", text(&events))?,
        }
        return Ok(out.flush()?);
    }
    let mut stream = daemon.follow(arguments.after, tag)?;
    while let Some(line) = stream.next_line(None)? {
        match arguments.json {
            true => {
                out.write_all(&line)?;
                out.write_all(b"\n")?;
            }
            false => {
                let events: Events = serde_json::from_slice(&line)
                    .map_err(|error| Exit::failed(format!("netraidd sent no event: {error}")))?;
                write!(out, "{}", text(&events))?;
            }
        }
        out.flush()?;
    }
    Err(Exit::failed("netraidd ended").hint("systemctl status netraidd"))
}

/// Events, one a line.
pub(super) fn text(events: &Events) -> String {
    events.events.iter().map(line).collect()
}

fn line(event: &Event) -> String {
    let tag = event.tag.as_deref().unwrap_or("-");
    format!(
        "{} {} {}: {}\n",
        utc(event.time_ms),
        plain(tag),
        plain(&event.event),
        plain(&event.text)
    )
}

/// A time in the form of RFC 3339, from milliseconds since 1970.
pub(super) fn utc(time_ms: u64) -> String {
    let (seconds, ms) = (time_ms / 1000, time_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the leap day is the last; 400 years have 146 097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_600_001, "2025-01-01T00:00:00.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (time, text) in table {
            assert_eq!(utc(time), text);
        }
        // Any number has a text.
        assert!(utc(u64::MAX).ends_with('Z'));
    }
}
