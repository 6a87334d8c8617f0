//! `netraid show-gi`: the generation ids and flags that a node keeps of a mirror, each explained.

use flags::Tag;

use super::daemon::{Connection, tag};
use super::exit::Exit;
use super::orders::give;
use crate::api::document::Order;

/// Shows the generation ids and flags that this node keeps of a mirror, each explained in a sentence.
///
/// By them, and never by clocks, is decided whose data is good and what is copied.
#[derive(Debug, clap::Args)]
#[command(
    name = "show-gi",
    after_help = "Exit codes: 0 shown; 1 netraidd does not run or did not tell; 2 wrong command line, or no such mirror; \
        124 no answer in time."
)]
pub(super) struct Arguments {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    #[command(flatten)]
    connection: Connection,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let daemon = arguments.connection.open()?;
    give(&daemon, &arguments.tag, &Order::ShowGi, true, "")
}
