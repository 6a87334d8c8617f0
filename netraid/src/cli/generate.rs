//! `netraid generate`: what is made from the definitions of the programs themselves: man pages, completions, schemas. For
//! packages and `make docs`, so it is hidden.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::Exit;
use super::{bitmap, mirror_action, mirror_resize, mirror_status, netraidd};
use crate::api::schema::schemas;

/// Writes man pages, completions and JSON schemas, made from the same definitions as the programs.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct Arguments {
    /// Gets the folders man1, bash, zsh, fish and schema
    folder: PathBuf,
}

/// Every program that is described here.
fn programs() -> Vec<clap::Command> {
    vec![
        super::Arguments::command(),
        netraidd::Arguments::command(),
        mirror_action::command(),
        mirror_resize::command(),
        mirror_status::command(),
        bitmap::command(),
    ]
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    Ok(write(&arguments.folder)?)
}

fn write(folder: &Path) -> io::Result<()> {
    let part = |name: &str| {
        let part = folder.join(name);
        fs::create_dir_all(&part).map(|()| part)
    };
    let man = part("man1")?;
    for program in programs() {
        clap_mangen::generate_to(program, &man)?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let part = part(&shell.to_string())?;
        for mut program in programs() {
            let name = program.get_name().to_owned();
            clap_complete::generate_to(shell, &mut program, name, &part)?;
        }
    }
    let part = part("schema")?;
    for (file, schema) in schemas() {
        fs::write(part.join(file), format!("{schema:#}\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The pages that there have to be: one for each program and each command that is not hidden.
    fn pages(command: &clap::Command, name: &str, found: &mut BTreeSet<String>) {
        found.insert(format!("{name}.1"));
        for sub in command.get_subcommands() {
            if !sub.is_hide_set() && sub.get_name() != "help" {
                pages(sub, &format!("{name}-{}", sub.get_name()), found);
            }
        }
    }

    #[test]
    fn each_command_has_a_page_and_each_program_its_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let mut wanted = BTreeSet::new();
        for program in programs() {
            pages(&program, program.get_name(), &mut wanted);
        }
        let names = |part: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(folder.path().join(part)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect()
        };
        assert_eq!(names("man1"), wanted);
        assert!(wanted.contains("netraid-resolve.1") && wanted.contains("netraid-cert-init.1"));
        assert!(!wanted.contains("netraid-generate.1"));
        let resolve = fs::read_to_string(folder.path().join("man1/netraid-resolve.1")).unwrap();
        for part in ["tentative", "Ends a split brain", "Exit codes"] {
            assert!(resolve.contains(part), "{part} is not in\n{resolve}");
        }
        let programs = programs().len();
        for shell in ["bash", "zsh", "fish"] {
            assert_eq!(names(shell).len(), programs, "{shell}");
        }
        let bash = fs::read_to_string(folder.path().join("bash/netraid.bash")).unwrap();
        assert!(
            bash.contains("fullresync") && !bash.contains("netraid__generate"),
            "{bash}"
        );
    }
}
