//! `netraid report`: all that a bug report about one mirror needs, in one text.

use std::io::{self, Write};
use std::path::PathBuf;

use flags::Tag;

use super::daemon::{Connection, Daemon, tag};
use super::exit::Exit;
use super::show::plain;
use super::{events, explain, status};
use crate::api::document::Mirrors;
use crate::config::{self, Config, MirrorConfig};

/// Prints all that a bug report about a mirror needs: versions, configuration, status, explanation, events.
///
/// It has names, addresses and paths of your machines, and no keys or certificates. What can't be found out is said in its
/// place; the report is printed all the same.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 printed; 1 printed, without what netraidd knows; 2 wrong command line, or no such mirror."
)]
pub(super) struct Arguments {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// Folder of netraid.toml and one TAG.toml a mirror [default: $NETRAID_CONFIG_DIR, else /etc/netraid]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    #[command(flatten)]
    connection: Connection,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let daemon = arguments.connection.open()?;
    let told = daemon.mirrors_or(Some(&arguments.tag));
    let mut out = io::stdout().lock();
    write!(out, "== versions\n{}", versions(told.as_ref().ok()))?;
    let folder = config::config_dir(arguments.config_dir.as_deref());
    write!(
        out,
        "\n== configuration\n{}",
        configuration(&folder, &arguments.tag)
    )?;
    let result = match &told {
        Ok(mirrors) => known(&mut out, &daemon, &arguments.tag, mirrors),
        Err(_) => writeln!(out, "\n== netraidd\nit did not tell").map_err(Exit::from),
    };
    out.flush()?;
    result.and(told.map(drop))
}

fn known(out: &mut impl Write, daemon: &Daemon, tag: &Tag, mirrors: &Mirrors) -> Result<(), Exit> {
    write!(out, "\n== status\n{}", status::page(mirrors))?;
    for mirror in &mirrors.mirrors {
        write!(out, "\n== explanation\n{}", explain::text(mirror))?;
    }
    let events = daemon.events(0, Some(tag))?;
    write!(out, "\n== events\n{}", events::text(&events))?;
    let document = serde_json::to_string_pretty(mirrors).map_err(Exit::failed)?;
    Ok(writeln!(out, "\n== document\n{document}")?)
}

fn versions(mirrors: Option<&Mirrors>) -> String {
    let mut text = format!("netraid {}\n", env!("CARGO_PKG_VERSION"));
    match mirrors {
        Some(mirrors) => {
            let (version, node) = (plain(&mirrors.version), plain(&mirrors.node));
            text += &format!("netraidd {version} on {node}\n");
        }
        None => text += "netraidd: unknown\n",
    }
    if let Ok(kernel) = nix::sys::utsname::uname() {
        let words = [kernel.sysname(), kernel.release(), kernel.machine()];
        let words: Vec<String> = words
            .iter()
            .map(|word| plain(&word.to_string_lossy()))
            .collect();
        text += &format!("{}\n", words.join(" "));
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    if let Some(name) = name {
        text += &format!("{}\n", plain(name.trim_matches('"')));
    }
    text
}

fn configuration(folder: &std::path::Path, tag: &Tag) -> String {
    match Config::load(folder, &config::defaults_file()) {
        Ok(config) => match config.mirrors.get(tag) {
            Some(mirror) => format!(
                "node = {}\n{}parameters = {:?}\n",
                config.daemon.node,
                self::mirror(mirror),
                config.parameters
            ),
            None => format!(
                "{tag} is not configured in {}\n",
                plain(&folder.to_string_lossy())
            ),
        },
        Err(problems) => problems
            .iter()
            .map(|problem| format!("{}\n", plain(&problem.to_string())))
            .collect(),
    }
}

fn mirror(mirror: &MirrorConfig) -> String {
    let device = mirror.device.as_ref().map_or_else(String::new, |device| {
        format!("device = {}\n", plain(&device.to_string_lossy()))
    });
    let mut text = format!(
        "tag = {}\nnumber = {}\nbackend = {}\n{}protocol = {}\nchunk = {}\nbitmap = {}\n",
        mirror.tag,
        mirror.number,
        mirror.backend.as_str(),
        device,
        mirror.protocol.as_str(),
        mirror.chunk_bytes,
        mirror.bitmap
    );
    for node in &mirror.nodes {
        text += &format!(
            "node {}: address {}, port {}, disk {}, priority {}\n",
            node.name,
            plain(&node.address.to_string()),
            node.port,
            plain(&node.disk_text()),
            node.priority
                .map_or_else(|| "none".to_owned(), |priority| priority.to_string())
        );
    }
    text
}
