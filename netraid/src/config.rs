//! What administrators configure: one file a mirror in `/etc/netraid`, and the parameters of `/etc/default/LifeKeeper`.
//!
//! [`Config::load`] reads everything and refuses everything or nothing: all that is wrong in all files is told at once,
//! each with file, line, column, the reason and what to write instead. Nothing is guessed.
//!
//! - `daemon`: `netraid.toml`, what concerns the node ([`Daemon`]).
//! - `mirror`: `TAG.toml`, one mirror ([`MirrorConfig`]); the same file on each of its nodes.
//! - `across`: what two mirrors can't both have.
//! - `policies`: what becomes of a split brain, and the programs that are told ([`Handlers`]).
//! - `ports`: DataKeeper's choice of ports.
//! - `parameters`: `/etc/default/LifeKeeper` ([`Parameters`]).
//! - `source`, `fields`, `problem`: reading text and TOML tables, and telling what is wrong.

mod across;
mod address;
mod congestion;
mod daemon;
mod fencing;
mod fields;
mod io_errors;
mod mirror;
mod parameters;
mod policies;
mod ports;
mod problem;
mod quorum;
mod resync;
mod source;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use flags::Tag;

pub use address::{Address, DEFAULT_PEER_PORT};
pub use daemon::{Daemon, FILE as DAEMON_FILE, Surroundings};
pub use io_errors::OnIoError;
pub use mirror::{Backend, MAX_NODES, MirrorConfig, NodeConfig, Protocol};
pub use parameters::Parameters;
pub use policies::Handlers;
pub use ports::{FIRST_PORT, Services};
pub use problem::{MAX_PROBLEMS, Place, Problem, Problems};
pub use resync::Resyncs;
pub use source::MAX_FILE;

use problem::Complaint;
use source::Source;

/// Mirrors that a node may have; each has a number from 0 to 255.
pub const MAX_MIRRORS: usize = 256;

/// All that is configured on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's own settings.
    pub daemon: Daemon,
    /// The mirrors. Those that this node is no part of are here as well: [`MirrorConfig::slot_of`].
    pub mirrors: BTreeMap<Tag, MirrorConfig>,
    /// `/etc/default/LifeKeeper`
    pub parameters: Parameters,
}

impl Config {
    /// Reads `netraid.toml` and each `TAG.toml` of a folder, and the file of parameters. `netraid.toml` and the
    /// parameters may be missing, the folder may not. Hidden files and other endings are passed over.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(folder: &Path, defaults_file: &Path) -> Result<Config, Problems> {
        Config::load_within(folder, defaults_file, &Surroundings::of_this_machine())
    }

    /// The same, with the surroundings that somebody says.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load_within(
        folder: &Path,
        defaults_file: &Path,
        around: &Surroundings,
    ) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let defaults = Source::read(defaults_file, &mut problems);
        let mut daemon = None;
        let mut mirrors = Vec::new();
        for file in files(folder, &mut problems) {
            let own = file.file_name() == Some(OsStr::new(DAEMON_FILE));
            match Source::read(&file, &mut problems) {
                Some(source) if own => daemon = Some(source),
                Some(source) => mirrors.push(source),
                None => {}
            }
        }
        assemble(
            folder,
            daemon.as_ref(),
            &mirrors,
            defaults.as_ref(),
            around,
            problems,
        )
    }
}

/// Everything after reading: from texts to a configuration.
fn assemble(
    folder: &Path,
    daemon: Option<&Source>,
    mirrors: &[Source],
    defaults: Option<&Source>,
    around: &Surroundings,
    mut problems: Problems,
) -> Result<Config, Problems> {
    let parameters = defaults.map(|source| parameters::read(source, &mut problems));
    let parameters = parameters.unwrap_or_default();
    let daemon = daemon::read(folder, daemon, around, &mut problems);
    let mut drafts: Vec<mirror::Draft> = mirrors
        .iter()
        .filter_map(|source| mirror::read(source, &mut problems))
        .collect();
    across::check(&mut drafts, &around.services, &mut problems);
    let mirrors: Option<BTreeMap<Tag, MirrorConfig>> = drafts
        .into_iter()
        .map(|draft| draft.finish(&parameters))
        .map(|mirror| mirror.map(|mirror| (mirror.tag.clone(), mirror)))
        .collect();
    match (daemon, mirrors) {
        (Some(daemon), Some(mirrors)) if problems.is_empty() => Ok(Config {
            daemon,
            mirrors,
            parameters,
        }),
        _ => Err(problems.ordered()),
    }
}

/// The files of a folder that are configuration, sorted.
fn files(folder: &Path, problems: &mut Problems) -> Vec<PathBuf> {
    let mut unreadable = |error: std::io::Error| {
        let complaint = Complaint::new(
            format!("the folder of the configuration can't be read: {error}"),
            "make it, or name another with --config-dir or $NETRAID_CONFIG_DIR",
        );
        problems.note(&Place::whole(folder), complaint);
    };
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            unreadable(error);
            return files;
        }
    };
    for entry in entries {
        let name = match entry {
            Ok(entry) => entry.file_name(),
            Err(error) => {
                unreadable(error);
                continue;
            }
        };
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !hidden && Path::new(&name).extension() == Some(OsStr::new("toml")) {
            files.push(folder.join(name));
        }
        // One more is the node's own.
        if files.len() > MAX_MIRRORS + 1 {
            let complaint = Complaint::new(
                format!("there are more than {MAX_MIRRORS} mirrors"),
                "move some to other nodes",
            );
            problems.note(&Place::whole(folder), complaint);
            break;
        }
    }
    files.sort();
    files
}

/// The folder of the configuration: the one that is asked for, else `$NETRAID_CONFIG_DIR`, else `/etc/netraid`.
pub fn config_dir(asked: Option<&Path>) -> PathBuf {
    asked
        .map(Path::to_owned)
        .or_else(|| variable("NETRAID_CONFIG_DIR"))
        .unwrap_or_else(|| "/etc/netraid".into())
}

/// The file of parameters: `$NETRAID_DEFAULTS_FILE`, else `/etc/default/LifeKeeper`.
pub fn defaults_file() -> PathBuf {
    variable("NETRAID_DEFAULTS_FILE").unwrap_or_else(|| "/etc/default/LifeKeeper".into())
}

fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

#[cfg(test)]
mod tests;
