//! `netraid embedded status`: how the mirrors of this machine are.

mod health;
mod text;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::exit::Exit;
use crate::cli::{run_dir, show};
use crate::control::{self, Request, Response};
use crate::status::Status;
use health::Health;

/// Shows how mirrors are: each leg, progress of a resync, why a leg was expelled.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 shown; 1 not running, or it did not answer; 2 wrong command line.\n\
    With --check: 0 healthy, 1 degraded, 2 unusable, 4 it could not be told."
)]
pub(super) struct Arguments {
    /// The mirror; without it, every mirror that has a socket in the run folder
    tag: Option<String>,

    /// Folder of the running mirrors' sockets [default: $NETRAID_RUN_DIR, else /run/netraid or
    /// $XDG_RUNTIME_DIR/netraid]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// Prints the whole document: one object a mirror, each on one line; indented on a terminal
    #[arg(long)]
    json: bool,

    /// Shows it again every second until Ctrl-C; with --json, one line whenever something changed
    #[arg(long)]
    watch: bool,

    /// Tells by the exit code how the worst of them is: 0 healthy, 1 degraded, 2 unusable, 4 can't be told
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let folder = run_dir::resolve(arguments.run_dir.as_deref())?;
    if arguments
        .tag
        .as_deref()
        .is_some_and(|tag| tag.is_empty() || tag.contains('/'))
    {
        return Err(Exit::usage("a tag is a name without slashes"));
    }
    match arguments.watch {
        true => watch(arguments, &folder),
        false => once(arguments, &folder),
    }
}

fn once(arguments: &Arguments, folder: &Path) -> Result<(), Exit> {
    let asked = match ask(arguments, folder) {
        Ok(asked) if !asked.is_empty() => asked,
        Ok(_) => {
            let exit = Exit::new(
                if arguments.check {
                    CANT_TELL
                } else {
                    crate::cli::exit::FAILED
                },
                nothing(folder),
            );
            return Err(exit.hint("--run-dir names another run folder"));
        }
        Err(error) => {
            return Err(Exit::new(
                if arguments.check {
                    CANT_TELL
                } else {
                    crate::cli::exit::FAILED
                },
                error,
            ));
        }
    };
    let mut out = io::stdout().lock();
    let indented = io::stdout().is_terminal();
    let mut silent = 0;
    for (number, answer) in asked.iter().enumerate() {
        match answer {
            Ok(status) if arguments.json => writeln!(out, "{}", document(status, indented)?)?,
            Ok(status) => {
                let gap = if number > 0 { "\n" } else { "" };
                write!(
                    out,
                    "{gap}{}",
                    text::mirror(status, show::colour_on_stdout())
                )?;
            }
            Err(why) => {
                eprintln!("netraid: {why}");
                silent += 1;
            }
        }
    }
    out.flush()?;
    match arguments.check {
        true => check(&asked),
        false if silent > 0 => Err(Exit::silent(crate::cli::exit::FAILED)),
        false => Ok(()),
    }
}

/// The exit code of `--check`: that of the worst mirror; one that can't be asked counts as the worst of all.
fn check(asked: &[Result<Status, String>]) -> Result<(), Exit> {
    let code = |answer: &Result<Status, String>| match answer.as_ref().map(health::of) {
        Ok(Health::Healthy) => 0,
        Ok(Health::Degraded) => 1,
        Ok(Health::Unusable) => 2,
        Err(_) => CANT_TELL,
    };
    match asked.iter().map(code).max().unwrap_or(CANT_TELL) {
        0 => Ok(()),
        worst => Err(Exit::silent(worst)),
    }
}

/// Shows the state each second. A mirror that stops running is said so and waited for.
fn watch(arguments: &Arguments, folder: &Path) -> Result<(), Exit> {
    let terminal = io::stdout().is_terminal();
    let mut before = String::new();
    loop {
        let mut page = String::new();
        let asked = ask(arguments, folder).unwrap_or_else(|why| vec![Err(why)]);
        for answer in &asked {
            match answer {
                Ok(status) if arguments.json => page += &format!("{}\n", document(status, false)?),
                Ok(status) => page += &text::mirror(status, show::colour_on_stdout()),
                Err(why) if arguments.json => {
                    page += &format!("{}\n", serde_json::json!({ "error": why }));
                }
                Err(why) => page += &format!("{}\n", show::plain(why)),
            }
        }
        if asked.is_empty() && !arguments.json {
            page += &format!("{}\n", nothing(folder));
        }
        draw(arguments.json, terminal, &page, &before)?;
        before = page;
        // The pace at which a person's eye follows.
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn draw(json: bool, terminal: bool, page: &str, before: &str) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    if json {
        // Line by line: with several mirrors, only those that changed.
        for line in page
            .lines()
            .filter(|line| !before.lines().any(|old| old == *line))
        {
            writeln!(out, "{line}")?;
        }
    } else if terminal {
        // To the top left, the page, and what an earlier page left below it is cleared.
        let page = page.replace('\n', "\x1b[K\n");
        write!(
            out,
            "\x1b[H{}{page}\x1b[J",
            if before.is_empty() { "\x1b[2J" } else { "" }
        )?;
    } else if page != before {
        writeln!(out, "{page}")?;
    }
    Ok(out.flush()?)
}

/// Asks the mirror that was named, or all. The error of one is a text beside the others' answers.
fn ask(arguments: &Arguments, folder: &Path) -> Result<Vec<Result<Status, String>>, String> {
    let tags = match &arguments.tag {
        Some(tag) => vec![tag.clone()],
        None => run_dir::tags(folder)
            .map_err(|error| format!("run folder {}: {error}", folder.display()))?,
    };
    Ok(tags.iter().map(|tag| of(folder, tag)).collect())
}

fn of(folder: &Path, tag: &str) -> Result<Status, String> {
    match control::ask(folder, tag, &Request::Status) {
        Ok(Response::Status(status)) => Ok(*status),
        Ok(Response::Failed { why, .. }) => Err(format!("mirror {tag}: {why}")),
        Ok(Response::Done) => Err(format!("mirror {tag} answered without a status")),
        Err(error) => Err(error.to_string()),
    }
}

fn document(status: &Status, indented: bool) -> Result<String, Exit> {
    let text = match indented {
        true => serde_json::to_string_pretty(status),
        false => serde_json::to_string(status),
    };
    text.map_err(|error| Exit::failed(format!("the status can't be written as JSON: {error}")))
}

fn nothing(folder: &Path) -> String {
    format!("no mirror is running with run folder {}", folder.display())
}

/// Exit code of `--check` if the state is not known.
const CANT_TELL: u8 = 4;
