//! The command line of `netraidd`; the program itself is `bin/netraidd.rs`.

use std::path::PathBuf;

use clap::Parser;

/// Looks after the mirrors of this node.
///
/// Reads /etc/netraid (netraid.toml, and TAG.toml for each mirror) and /etc/default/LifeKeeper, and waits for orders: of
/// LifeKeeper or Pacemaker, and of the commands netraid, mirror_action and mirror_status. It puts nothing in service by
/// itself. Mirrors and exports are processes of their own: they go on when it is stopped, restarted or upgraded.
#[derive(Debug, Parser)]
#[command(name = "netraidd", version)]
pub struct Arguments {
    /// The folder of the configuration [default: $NETRAID_CONFIG_DIR, else /etc/netraid]
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Prints `ready` when everything listens, for scripts; service managers are told in their own way.
    #[arg(long)]
    pub print_ready: bool,
}
