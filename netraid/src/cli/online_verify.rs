//! `netraid verify`: compares the legs of a mirror in service, and waits for the result.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use flags::Tag;
use indicatif::{ProgressBar, ProgressStyle};

use super::daemon::{Connection, Daemon, tag};
use super::exit::{self, Exit};
use super::show::{plain, size};
use crate::api::document::Order;
use crate::status::VerifyStatus;

/// Compares targets in sync with the source by digests, while the mirror is in use; run it on the source.
///
/// Only digests cross the network. What they call different is read and compared byte by byte with writes kept out, so
/// nothing is reported that is not so. An embedded mirror marks what differs in its write-intent bitmap until it is copied
/// from the source: at once with --repair, else whenever the target is connected anew. The kernel's RAID1 copies it with
/// --repair only, and ends the verify with netraidd.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all is equal, or was repaired; 1 something differs, or it did not get to its end; \
    2 wrong command line, or no such mirror; 3 refused, for example because nothing is in sync; 124 no answer in time."
)]
pub(super) struct Arguments {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// Compare this target only. Repeatable [default: all that are in sync]
    #[arg(long = "target", value_name = "NODE")]
    targets: Vec<String>,

    /// Begin at this byte of the mirror; with a unit such as 64M or 1G
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = super::size::parse)]
    start: u64,

    /// End before this byte [default: the mirror's end]
    #[arg(long, value_name = "BYTES", value_parser = super::size::parse)]
    stop: Option<u64>,

    /// Most bytes a second; 0 for no bound [default: verify-rate of the mirror's configuration]
    #[arg(long, value_name = "BYTES", value_parser = super::size::parse)]
    rate: Option<u64>,

    /// Copy what differs from the source
    #[arg(long)]
    repair: bool,

    /// Go on where the last one was interrupted
    #[arg(long, conflicts_with = "start")]
    resume: bool,

    /// Stop the one that is under way
    #[arg(long, conflicts_with_all = ["targets", "start", "stop", "rate", "repair", "resume"])]
    cancel: bool,

    /// Return at once; netraid status TAG --json tells how far it is
    #[arg(long)]
    no_wait: bool,

    /// Print the result as JSON
    #[arg(long, conflicts_with = "no_wait")]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Arguments {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let daemon = self.connection.open()?;
        if self.cancel {
            daemon.order(&self.tag, &Order::StopVerify, false)?;
            println!("the verify of {} is stopped", self.tag);
            return Ok(());
        }
        let before = daemon.mirror(&self.tag)?.verify;
        let start = match (self.resume, &before) {
            (false, _) => self.start,
            (true, Some(last)) if last.state == "interrupted" => last.position,
            (true, _) => {
                let why = format!("no verify of {} was interrupted", self.tag);
                return Err(Exit::refused(why).hint(format!("netraid verify {}", self.tag)));
            }
        };
        let order = Order::Verify {
            targets: self.targets.clone(),
            start,
            stop: self.stop,
            rate: self.rate,
            repair: self.repair,
        };
        daemon.order(&self.tag, &order, false)?;
        if self.no_wait {
            println!("the legs of {} are being compared", self.tag);
            return Ok(());
        }
        let result = self.wait(&daemon, before.map_or(0, |before| before.number))?;
        self.tell(&result)
    }

    /// Follows it to its end.
    fn wait(&self, daemon: &Daemon, before: u64) -> Result<VerifyStatus, Exit> {
        let begun = Instant::now();
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(100).with_style(style)
        });
        let mut told = u64::MAX;
        loop {
            let mirror = daemon.mirror(&self.tag)?;
            match mirror.verify {
                Some(verify) if verify.number > before && verify.state != "running" => {
                    if let Some(bar) = bar {
                        bar.finish_and_clear();
                    }
                    return Ok(verify);
                }
                Some(verify) if verify.number > before => {
                    let percent = verify.percent.clamp(0.0, 100.0) as u64;
                    match &bar {
                        Some(bar) => {
                            bar.set_message(format!("{} at {}/s", self.tag, size(verify.speed)));
                            bar.set_position(percent);
                        }
                        None if told != percent / 10 => {
                            told = percent / 10;
                            eprintln!("{}: {}% compared", self.tag, told * 10);
                        }
                        None => {}
                    }
                }
                _ if mirror.service != "in" => {
                    let why = format!("{} is not in service here any more", self.tag);
                    return Err(Exit::failed(why).hint(format!("netraid explain {}", self.tag)));
                }
                // The daemon looks at its arrays once a second.
                _ if begun.elapsed() >= GRACE => {
                    let why = format!("nothing was heard of the verify of {}", self.tag);
                    return Err(Exit::new(exit::TIMEOUT, why)
                        .hint(format!("netraid status {} --json", self.tag)));
                }
                _ => {}
            }
            thread::sleep(POLL);
        }
    }

    fn tell(&self, result: &VerifyStatus) -> Result<(), Exit> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, result).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}: {}", self.tag, plain(&result.sentence()))?;
            for run in &result.differences {
                let node = plain(&run.node);
                writeln!(
                    out,
                    "  {node}: {} bytes at {} differ",
                    run.length, run.offset
                )?;
            }
            if result.more_differences {
                writeln!(out, "  and more")?;
            }
        }
        out.flush()?;
        match (result.differing, &result.why, self.repair) {
            (0, None, _) => Ok(()),
            (_, None, true) => Ok(()),
            (_, Some(why), _) => Err(Exit::failed(format!(
                "it did not get to its end: {}",
                plain(why)
            ))
            .hint(format!("netraid verify {} --resume", self.tag))),
            (bytes, None, false) => {
                Err(Exit::failed(format!("{bytes} bytes differ")).hint(format!(
                    "netraid verify {} --repair copies them from the source",
                    self.tag
                )))
            }
        }
    }
}

/// How often a person's bar moves.
const POLL: Duration = Duration::from_millis(200);
/// How long netraidd may take until what it was told shows.
const GRACE: Duration = Duration::from_secs(30);
