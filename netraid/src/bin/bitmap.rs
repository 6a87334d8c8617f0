//! `bitmap`: shows the write-intent bitmap of a mirror.

use std::process::ExitCode;

fn main() -> ExitCode {
    netraid::cli::bitmap::main()
}
