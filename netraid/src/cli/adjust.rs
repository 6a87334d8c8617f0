//! `netraid adjust`: netraidd reads the configuration again, and makes what runs match it.

use std::io::{self, Write};

use super::daemon::Connection;
use super::exit::Exit;
use super::show::plain;

/// Makes what netraidd does match the configuration: reads it again, and does only the differences.
///
/// No mirror is interrupted. What can't be changed while netraidd runs is refused by name, and then nothing is done.
#[derive(Debug, clap::Args)]
#[command(after_help = super::orders::CODES)]
pub(super) struct Arguments {
    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: Connection,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let steps = arguments.connection.open()?.adjust(arguments.dry_run)?;
    let mut out = io::stdout().lock();
    if steps.is_empty() {
        writeln!(out, "everything is as it is configured")?;
    }
    for step in &steps {
        writeln!(out, "{}", plain(step))?;
    }
    Ok(out.flush()?)
}
