//! `mirror_action`: pauses, resumes, forces online and fully resyncs mirrors.

use std::process::ExitCode;

fn main() -> ExitCode {
    netraid::cli::mirror_action::main()
}
