//! `netraid embedded extend`: gives a running mirror another leg.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::cli::exit::Exit;
use crate::cli::{run_dir, show};
use crate::control::{self, Request, Response};
use crate::status::word;

/// Gives a running mirror another leg. The disk is overwritten: everything that is not zero is copied to it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  netraid embedded extend --tag data --node server2 --uri nbd://server2/data --wait"
)]
pub(super) struct Arguments {
    /// The mirror
    #[arg(long)]
    tag: String,

    /// The node whose disk it is
    #[arg(long)]
    node: String,

    /// NBD URI of the disk
    #[arg(long)]
    uri: String,

    /// Folder of the control socket [default: $NETRAID_RUN_DIR, else /run/netraid or $XDG_RUNTIME_DIR/netraid]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// Overwrite what the disk holds
    #[arg(long)]
    force: bool,

    /// Return only when the leg is in sync
    #[arg(long)]
    wait: bool,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let folder = run_dir::resolve(arguments.run_dir.as_deref())?;
    let request = Request::Extend {
        node: arguments.node.clone(),
        uri: arguments.uri.clone(),
        force: arguments.force,
    };
    match control::ask(&folder, &arguments.tag, &request).map_err(Exit::failed)? {
        Response::Failed { why, refused: true } => return Err(Exit::refused(why)),
        Response::Failed {
            why,
            refused: false,
        } => return Err(Exit::failed(why)),
        Response::Done | Response::Status(_) => {}
    }
    if arguments.wait {
        return wait(arguments, &folder);
    }
    println!(
        "{} is being filled; netraid embedded status {} shows how far it is",
        arguments.node, arguments.tag
    );
    Ok(())
}

fn wait(arguments: &Arguments, folder: &std::path::Path) -> Result<(), Exit> {
    let bar = show_bar();
    loop {
        let answer =
            control::ask(folder, &arguments.tag, &Request::Status).map_err(Exit::failed)?;
        let Response::Status(status) = answer else {
            return Err(Exit::failed("the mirror did not tell its status"));
        };
        let leg = status.legs.iter().find(|leg| leg.node == arguments.node);
        match leg.map(|leg| (leg.status.as_str(), &leg.reason)) {
            Some((word::TARGET, _)) => break,
            Some((word::RESYNCING | word::PAUSED, _)) => {}
            Some((other, reason)) => {
                let reason = reason.as_deref().unwrap_or("no reason is known");
                return Err(Exit::failed(format!(
                    "{} is {other}: {reason}",
                    arguments.node
                )));
            }
            None => return Err(Exit::failed("the leg has vanished")),
        }
        if let Some(resync) = &status.resync {
            bar.set_length(resync.copied + resync.left);
            bar.set_position(resync.copied);
        }
        thread::sleep(POLL);
    }
    bar.finish_and_clear();
    println!("{} is in sync", arguments.node);
    Ok(())
}

fn show_bar() -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal()
        || !show::colour_on_stderr() && std::env::var_os("TERM").is_none()
    {
        return indicatif::ProgressBar::hidden();
    }
    let style =
        indicatif::ProgressStyle::with_template("{wide_bar} {percent}% {bytes_per_sec} {eta}");
    indicatif::ProgressBar::new(0)
        .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
}

/// How often a person's bar moves.
const POLL: Duration = Duration::from_millis(200);
