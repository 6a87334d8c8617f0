//! The `nbd-server` program; see `nbd_server::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nbd_server::cli::main()
}
