//! `mirror_status`: shows mirrors in the text form that DataKeeper's administrators know.

use std::process::ExitCode;

fn main() -> ExitCode {
    netraid::cli::mirror_status::main()
}
