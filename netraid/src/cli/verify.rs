//! `netraid verify-config`: whether what is configured here is what netraidd runs with, and whether the peers answer.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use super::daemon::Connection;
use super::exit::{self, Exit};
use super::show::plain;
use crate::api::document::{Mirror, Mirrors};
use crate::config::{self, Config, MirrorConfig};

/// Compares the configuration of this node with what netraidd runs with, and sees whether all its peers can be reached.
///
/// What the peers have in their own files is compared when their daemons talk to each other; what is wrong there is shown
/// here as a problem of the mirror.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all agree and answer; 1 something differs, or a peer or netraidd does not answer; \
        2 the configuration is wrong; 124 no answer in time."
)]
pub(super) struct Arguments {
    /// Folder of netraid.toml and one TAG.toml a mirror [default: $NETRAID_CONFIG_DIR, else /etc/netraid]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    #[command(flatten)]
    connection: Connection,
}

pub(super) fn perform(arguments: &Arguments) -> Result<(), Exit> {
    let folder = config::config_dir(arguments.config_dir.as_deref());
    let config = Config::load(&folder, &config::defaults_file()).map_err(|problems| {
        for problem in problems.iter() {
            eprintln!("{}", plain(&problem.to_string()));
        }
        let folder = plain(&folder.to_string_lossy());
        Exit::usage(format!("the configuration of {folder} is wrong")).hint("netraid config check")
    })?;
    let mirrors = arguments.connection.open()?.mirrors()?;
    let (found, checked) = compare(&config, &mirrors);
    let mut out = io::stdout().lock();
    for line in &found {
        writeln!(out, "{}", plain(line))?;
    }
    if found.is_empty() {
        writeln!(
            out,
            "the configuration agrees with netraidd, and every peer answers; mirrors: {checked}"
        )?;
    }
    out.flush()?;
    match found.len() {
        0 => Ok(()),
        1 => Err(Exit::new(exit::FAILED, "1 thing is not as it should be")),
        count => Err(Exit::new(
            exit::FAILED,
            format!("{count} things are not as they should be"),
        )),
    }
}

/// All that differs, in sentences, and how many mirrors were compared.
fn compare(config: &Config, mirrors: &Mirrors) -> (Vec<String>, usize) {
    let own = config.daemon.node.as_str();
    let mut found = Vec::new();
    if mirrors.node != own {
        found.push(format!(
            "netraidd is node {}, the configuration is of node {own}",
            mirrors.node
        ));
    }
    let mut running: BTreeMap<&str, &Mirror> = mirrors
        .mirrors
        .iter()
        .map(|mirror| (mirror.tag.as_str(), mirror))
        .collect();
    let mut checked = 0;
    for (tag, configured) in &config.mirrors {
        if configured.slot_of(own).is_none() {
            continue;
        }
        checked += 1;
        match running.remove(tag.as_str()) {
            Some(mirror) => differences(configured, mirror, &mut found),
            None => found.push(format!(
                "{tag} is configured, and netraidd does not know it: systemctl restart netraidd"
            )),
        }
    }
    for tag in running.keys() {
        found.push(format!(
            "netraidd knows {tag}, which is not configured any more"
        ));
    }
    (found, checked)
}

fn differences(configured: &MirrorConfig, mirror: &Mirror, found: &mut Vec<String>) {
    let tag = &mirror.tag;
    let mut differs = |what: String, configured: String, runs: &str| {
        if configured != runs {
            found.push(format!(
                "{tag}: {what} is {configured} in the configuration, and {runs} in netraidd: systemctl restart netraidd"
            ));
        }
    };
    let backend = configured.backend.as_str().to_owned();
    differs("the backend".into(), backend, &mirror.backend);
    let protocol = configured.protocol.as_str().to_owned();
    differs("the protocol".into(), protocol, &mirror.protocol);
    let names = |names: Vec<&str>| names.join(" ");
    let wanted = names(
        configured
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect(),
    );
    let runs = names(mirror.nodes.iter().map(|node| node.name.as_str()).collect());
    differs("the list of nodes".into(), wanted, &runs);
    for (wanted, runs) in configured.nodes.iter().zip(&mirror.nodes) {
        if wanted.name.as_str() != runs.name {
            break;
        }
        let name = &runs.name;
        let address = wanted.address.with_port(wanted.port);
        differs(format!("the address of {name}"), address, &runs.address);
        let disk = wanted.disk_text();
        differs(format!("the disk of {name}"), disk, &runs.device);
    }
    for node in mirror.nodes.iter().filter(|node| !node.reachable) {
        found.push(format!(
            "{tag}: netraidd of {} does not answer: systemctl status netraidd, there",
            node.name
        ));
    }
    for problem in &mirror.problems {
        found.push(format!("{tag}: {problem}"));
    }
}
