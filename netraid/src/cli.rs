//! The command line of `netraid`: one module a command, and what they share: exit codes, sizes, the run folder.

mod array;
mod cert;
mod config;
mod create;
pub mod exit;
mod extend;
mod quickstart;
mod run;
pub mod run_dir;
pub mod show;
pub mod size;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;

/// Mirrors a disk live to other machines over the network.
#[derive(Debug, Parser)]
#[command(name = "netraid", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// A new command gets a line here, a line in [`perform`] and a module.
#[derive(Debug, Subcommand)]
enum Command {
    Array(array::Arguments),
    Cert(cert::Arguments),
    Config(config::Arguments),
    Create(create::Arguments),
    Extend(extend::Arguments),
    Quickstart(quickstart::Arguments),
    Run(run::Arguments),
    Status(status::Arguments),
}

fn perform(command: Command) -> Result<(), Exit> {
    match command {
        Command::Array(arguments) => array::perform(&arguments),
        Command::Cert(arguments) => cert::perform(&arguments),
        Command::Config(arguments) => config::perform(&arguments),
        Command::Create(arguments) => create::perform(&arguments),
        Command::Extend(arguments) => extend::perform(&arguments),
        Command::Run(arguments) => run::perform(&arguments),
        Command::Quickstart(arguments) => quickstart::perform(arguments),
        Command::Status(arguments) => status::perform(&arguments),
    }
}

/// Runs the program with this process's arguments; what went wrong, if anything, is said on standard error.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            // Nothing can be done about a closed standard error.
            let _ = error.print();
            return ExitCode::from(exit::USAGE);
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    start_log(&arguments.command);
    match perform(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            exit.tell();
            ExitCode::from(exit.code)
        }
    }
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
