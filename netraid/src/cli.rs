//! The command line of `netraid`: one module a command, and what they share: exit codes, sizes, the run folder.

mod adjust;
mod array;
pub mod bitmap;
mod cert;
mod config;
pub mod daemon;
mod embedded;
mod events;
mod events2;
pub mod exit;
mod explain;
mod generate;
mod meta;
pub mod mirror_action;
pub mod mirror_resize;
pub mod mirror_status;
pub mod netraidd;
mod online_verify;
mod orders;
mod outdate;
pub mod program;
mod quickstart;
mod report;
mod resync;
mod run;
pub mod run_dir;
pub mod show;
mod show_gi;
pub mod size;
mod status;
mod truck;
mod verify;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;

/// Mirrors a disk live to other machines over the network.
///
/// Commands that name a mirror by its TAG ask netraidd of this node.
#[derive(Debug, Parser)]
#[command(name = "netraid", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// A new command gets a line here, a line in [`perform`] and a module.
#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
    Explain(explain::Arguments),
    Events(events::Arguments),
    Create(orders::Create),
    Extend(orders::Extend),
    Unextend(orders::Unextend),
    Delete(orders::Delete),
    Start(orders::Start),
    Stop(orders::Stop),
    Pause(orders::Pause),
    Resume(orders::Resume),
    #[command(name = "fullresync")]
    FullResync(orders::FullResync),
    Resolve(orders::Resolve),
    Outdate(outdate::Arguments),
    ResumeIo(orders::ResumeIo),
    ShowGi(show_gi::Arguments),
    Adjust(adjust::Arguments),
    Verify(online_verify::Arguments),
    Resize(orders::Resize),
    Resync(resync::Arguments),
    Truck(truck::Arguments),
    VerifyConfig(verify::Arguments),
    DumpMeta(meta::Dump),
    RestoreMeta(meta::Restore),
    Report(report::Arguments),
    Cert(cert::Arguments),
    Config(config::Arguments),
    Embedded(embedded::Arguments),
    Array(array::Arguments),
    Run(run::Arguments),
    Quickstart(quickstart::Arguments),
    Generate(generate::Arguments),
}

fn perform(command: Command) -> Result<(), Exit> {
    match command {
        Command::Status(arguments) => status::perform(&arguments),
        Command::Explain(arguments) => explain::perform(&arguments),
        Command::Events(arguments) => events::perform(&arguments),
        Command::Create(order) => order.perform(),
        Command::Extend(order) => order.perform(),
        Command::Unextend(order) => order.perform(),
        Command::Delete(order) => order.perform(),
        Command::Start(order) => order.perform(),
        Command::Stop(order) => order.perform(),
        Command::Pause(order) => order.perform(),
        Command::Resume(order) => order.perform(),
        Command::FullResync(order) => order.perform(),
        Command::Verify(order) => order.perform(),
        Command::Resolve(order) => order.perform(),
        Command::Outdate(arguments) => arguments.perform(),
        Command::ResumeIo(order) => order.perform(),
        Command::ShowGi(arguments) => show_gi::perform(&arguments),
        Command::Adjust(arguments) => adjust::perform(&arguments),
        Command::Resize(order) => order.perform(),
        Command::Resync(order) => order.perform(),
        Command::Truck(arguments) => arguments.perform(),
        Command::VerifyConfig(arguments) => verify::perform(&arguments),
        Command::DumpMeta(arguments) => arguments.perform(),
        Command::RestoreMeta(arguments) => arguments.perform(),
        Command::Report(arguments) => report::perform(&arguments),
        Command::Cert(arguments) => cert::perform(&arguments),
        Command::Config(arguments) => config::perform(&arguments),
        Command::Embedded(arguments) => embedded::perform(&arguments),
        Command::Array(arguments) => array::perform(&arguments),
        Command::Run(arguments) => run::perform(&arguments),
        Command::Quickstart(arguments) => quickstart::perform(arguments),
        Command::Generate(arguments) => generate::perform(&arguments),
    }
}

/// Runs the program with this process's arguments; what went wrong, if anything, is said on standard error.
pub fn main() -> ExitCode {
    let arguments: Arguments = match program::arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    start_log(&arguments.command);
    program::end("netraid", perform(arguments.command))
}

/// What the libraries log goes to standard error; `NETRAID_LOG` chooses how much (`warn` if unset).
fn start_log(command: &Command) {
    // The story loses connections on purpose, and tells of it itself.
    let usual = if matches!(command, Command::Quickstart(_)) {
        "error"
    } else {
        "warn"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("NETRAID_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(show::colour_on_stderr())
        .init();
}
