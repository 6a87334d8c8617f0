//! `netraid embedded`: the embedded mirror by hand, without the daemon. Each command talks to the disk, or to the process
//! of `netraid run`.

mod create;
mod extend;
mod status;

use clap::Subcommand;

use super::exit::Exit;
use super::run;

/// Makes, runs and shows embedded mirrors by hand, where no netraidd looks after them.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    Create(create::Arguments),
    Extend(extend::Arguments),
    Run(Box<run::Arguments>),
    Status(status::Arguments),
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    match &arguments.order {
        Order::Create(arguments) => create::perform(arguments),
        Order::Extend(arguments) => extend::perform(arguments),
        Order::Run(arguments) => run::perform(arguments),
        Order::Status(arguments) => status::perform(arguments),
    }
}
