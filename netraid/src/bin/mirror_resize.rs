//! `mirror_resize`: gives a mirror another size.

use std::process::ExitCode;

fn main() -> ExitCode {
    netraid::cli::mirror_resize::main()
}
