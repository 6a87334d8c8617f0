//! `netraid array`: mirrors that the kernel runs, one subcommand an order.

mod change;
mod create;
mod show;
mod start;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;

use super::exit::Exit;
use super::run_dir;
use crate::array::md::{Kernel, Machine, MdArray};
use crate::array::{ArrayError, tunable};

/// Runs mirrors in the kernel: md RAID1 over a local disk and NBD devices. Needs root.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A mirror's life, on server1 with a target on server2:\n  \
    server2$ nbd-server --export data=/dev/sdb1\n  \
    server1$ netraid array create --tag data --disk /dev/sdb1 --nodes server1,server2 --node server1\n  \
    server1$ netraid array start --tag data --disk /dev/sdb1\n  \
    server1$ nbd-client attach nbd://server2/data --next\n  \
    server1$ netraid array add --tag data --node server2 --leg /dev/nbd0\n  \
    server1$ netraid array status --tag data\n\n\
    When server1 is lost, server2 starts the mirror from its own disk; a server1 that comes back is added there.\n\
    Exit codes: 0 done, 1 failed, 2 wrong command line, 3 refused by the state, 124 timed out."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    Create(create::Create),
    Start(start::Start),
    Add(change::Add),
    Remove(change::Remove),
    #[command(name = "fullresync")]
    FullResync(change::FullResync),
    Speed(change::Speed),
    Stop(change::Stop),
    Status(show::Status),
    Watch(show::Watch),
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    match &arguments.order {
        Order::Create(order) => create::perform(order),
        Order::Start(order) => start::perform(order),
        Order::Add(order) => change::add(order),
        Order::Remove(order) => change::remove(order),
        Order::FullResync(order) => change::full_resync(order),
        Order::Speed(order) => change::speed(order),
        Order::Stop(order) => change::stop(order),
        Order::Status(order) => show::status(order),
        Order::Watch(order) => show::watch(order),
    }
}

/// What every order that changes something takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// The mirror
    #[arg(long)]
    tag: String,

    /// Show each command and write that would be made, and make none
    #[arg(long)]
    dry_run: bool,

    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,

    /// Folder for locks [default: $NETRAID_RUN_DIR, else /run/netraid or $XDG_RUNTIME_DIR/netraid]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

impl Common {
    fn machine(&self) -> Result<Machine, Exit> {
        let mut machine = Machine::real(run_dir::resolve(self.run_dir.as_deref())?);
        if self.dry_run {
            machine.dry_run = true;
            machine.tell = Arc::new(|step| println!("{step}"));
        }
        Ok(machine)
    }

    /// The mirror as it runs.
    fn array(&self) -> Result<MdArray, Exit> {
        find(&self.machine()?, &self.tag)
    }

    /// Prints a sentence, or an object.
    fn say(&self, sentence: &str, object: &serde_json::Value) {
        match self.json {
            true => println!("{object}"),
            false => println!("{sentence}"),
        }
    }
}

fn find(machine: &Machine, tag: &str) -> Result<MdArray, Exit> {
    let found = Kernel::new(machine.clone()).running(tag)?;
    found.ok_or_else(|| {
        Exit::failed(format!("mirror {tag} does not run in this kernel")).hint(format!(
            "netraid array start --tag {tag} --disk PATH starts it"
        ))
    })
}

/// An option, or the setting of the same meaning in the environment.
fn tunable<T>(
    option: Option<&str>,
    variable: &'static str,
    parse: impl Fn(&str) -> Result<T, tunable::TunableError>,
) -> Result<Option<T>, Exit> {
    let from_environment = std::env::var(variable).ok();
    let text = option.map(str::to_owned).or(from_environment);
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| parse(&text).map_err(Exit::usage))
        .transpose()
}

impl From<ArrayError> for Exit {
    fn from(error: ArrayError) -> Exit {
        match error {
            ArrayError::Usage(why) => Exit::usage(why),
            ArrayError::Refused { why, hint: None } => Exit::refused(why),
            ArrayError::Refused {
                why,
                hint: Some(hint),
            } => Exit::refused(why).hint(hint),
            ArrayError::Failed(why) => Exit::failed(why),
            ArrayError::Late(why) => Exit::new(super::exit::TIMEOUT, why),
        }
    }
}
