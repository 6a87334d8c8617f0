//! `netraid`: create, run and watch mirrors, and try one on this machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    netraid::cli::main()
}
