//! `netraid resync`: one resync faster than it is configured, until it ends.

use std::io::{self, Write};

use flags::Tag;

use super::daemon::{Connection, tag};
use super::exit::Exit;
use super::orders::give;
use super::show::{plain, size};
use crate::api::document::Order;

/// Tells how fast the resync under way is and why not faster, on the source; or makes it faster until it ends.
#[derive(Debug, clap::Args)]
#[command(after_help = super::orders::CODES)]
pub(super) struct Arguments {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// Do not spare the application, exceed c-max-rate, and do not wait for other mirrors, until this resync ends
    #[arg(long, conflicts_with = "normal")]
    boost: bool,

    /// Exactly so many bytes a second, with a unit such as 200M [default: as fast as the disks and the network are]
    #[arg(long, value_name = "BYTES", requires = "boost", value_parser = super::size::parse)]
    rate: Option<u64>,

    /// As fast as it is configured, at once
    #[arg(long)]
    normal: bool,

    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Arguments {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let daemon = self.connection.open()?;
        let tag = &self.tag;
        if self.rate == Some(0) {
            return Err(Exit::usage("--rate 0 would be no resync at all")
                .hint("leave --rate out for as fast as it can be"));
        }
        if self.boost {
            let order = Order::BoostResync { rate: self.rate };
            let done = match self.rate {
                None => format!("the resync of {tag} is as fast as it can be until it ends"),
                Some(rate) => format!("the resync of {tag} has {}/s until it ends", size(rate)),
            };
            return give(&daemon, tag, &order, self.dry_run, &done);
        }
        if self.normal {
            let done = format!("resyncs of {tag} are as fast as they are configured");
            return give(&daemon, tag, &Order::NormalResync, self.dry_run, &done);
        }
        let mirror = daemon.mirror(tag)?;
        let mut out = io::stdout().lock();
        match &mirror.resync {
            Some(resync) => {
                writeln!(out, "{tag}: {}", super::status::progress(resync))?;
                if let Some(why) = &resync.why {
                    writeln!(out, "  {}", plain(why))?;
                }
            }
            None => writeln!(out, "no resync of {tag} is under way here")?,
        }
        Ok(out.flush()?)
    }
}
