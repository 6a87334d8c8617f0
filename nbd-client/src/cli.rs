//! The program's commands, and the exit code of each outcome.

pub(crate) mod arguments;
mod attach;
mod compare;
mod copy;
mod cursor;
mod detach;
mod devices;
pub(crate) mod exit;
mod info;
mod list;
mod local;
mod map;
mod place;
mod progress;
mod show;
mod watch;
mod writeback;

use std::process::ExitCode;

use arguments::{Arguments, Subcommand};
use exit::Exit;

/// Runs one command and says what went wrong, if anything, on standard error.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    start_log();
    let result = match arguments.command {
        Subcommand::Info(info) => info::run(&info),
        Subcommand::List(list) => list::run(&list),
        Subcommand::Map(map) => map::run(&map),
        Subcommand::Copy(copy) => copy::run(&copy),
        Subcommand::Compare(compare) => compare::run(&compare),
        Subcommand::Attach(attach) => attach::run(&attach),
        Subcommand::Detach(detach) => detach::run(&detach),
        Subcommand::ListDevices(list) => devices::run(&list),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            exit.tell();
            ExitCode::from(exit.code)
        }
    }
}

/// What the library logs goes to standard error; `NBD_CLIENT_LOG` chooses how much (`warn` if unset).
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("NBD_CLIENT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colour = show::colour_on_stderr();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
}

/// Runs a future to its end on a small runtime.
fn block_on<T>(future: impl Future<Output = Result<T, Exit>>) -> Result<T, Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .build()
        .map_err(|error| Exit::failed(format!("can't start threads: {error}")))?;
    runtime.block_on(future)
}

/// Threads for local files, whose reads and writes block; the network has threads of its own.
const WORKERS: usize = 4;
