//! What all our programs do alike: they read their arguments, and end.

use std::process::ExitCode;

use clap::Parser;

use super::exit::{self, Exit};

/// This process's arguments; else the code to end with, help or the mistake having been printed.
///
/// # Errors
/// 0 after help, 2 after a mistake.
pub fn arguments<A: Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        // Nothing can be done about a closed output.
        let _ = error.print();
        match error.use_stderr() {
            true => ExitCode::from(exit::USAGE),
            false => ExitCode::SUCCESS,
        }
    })
}

/// The code to end with; what went wrong, if anything, is said on standard error.
pub fn end(program: &str, ended: Result<(), Exit>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            exit.tell_as(program);
            ExitCode::from(exit.code)
        }
    }
}
