//! `mirror_resize`: says that a mirror can't be resized yet.

use std::process::ExitCode;

fn main() -> ExitCode {
    netraid::cli::mirror_resize::main()
}
