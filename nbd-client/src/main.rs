//! `nbd-client`: look at NBD exports, copy them, compare them, and make block devices of them.

#![allow(
    clippy::print_stdout,
    reason = "a program's data go to its standard output"
)]

mod cli;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done about a closed standard output here.
            let _ = error.print();
            let asked_for = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return ExitCode::from(if asked_for { 0 } else { cli::exit::USAGE });
        }
    };
    cli::run(arguments)
}
