//! `netraid truck connect`: goes on with a node that has got its shipment.

use std::io::{self, Write};

use flags::Tag;

use crate::api::document::Order;
use crate::cli::daemon::{Connection, tag};
use crate::cli::exit::Exit;
use crate::cli::orders::CODES;
use crate::cli::show::plain;
use crate::cli::wait::{Patience, Whom};

/// Goes on with a node that has got its shipment, on the source: looks at what it has, and copies what was marked since.
///
/// Refused, with the reason, if everything would have to be copied over the network: nothing was unloaded there, or another
/// image than the last. With --full that is done.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Connect {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// The node that has got its shipment
    node: String,

    /// Copy everything over the network if that has to be; digests spare what is equal
    #[arg(long)]
    full: bool,

    /// Prints what would be copied, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    patience: Patience,

    #[command(flatten)]
    connection: Connection,
}

impl Connect {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let daemon = self.connection.open()?;
        let order = Order::TruckConnect {
            node: self.node.clone(),
            full: self.full,
        };
        let answer = daemon.order(&self.tag, &order, self.dry_run)?;
        let mut out = io::stdout().lock();
        for step in &answer.steps {
            writeln!(out, "{}", plain(step))?;
        }
        out.flush()?;
        drop(out);
        match self.dry_run {
            true => Ok(()),
            false => {
                let named = Whom::Named(std::slice::from_ref(&self.node));
                self.patience.targets(&daemon, &self.tag, named)
            }
        }
    }
}
