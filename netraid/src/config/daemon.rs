//! `netraid.toml`: what concerns a whole node, not one mirror. Everything in it has a default, and so has the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use flags::NodeName;

use super::address;
use super::fields::{Fields, Key, parse};
use super::ports::Services;
use super::problem::{Complaint, Place, Problems, quoted};
use super::source::Source;

/// The file's name in the configuration's folder.
pub const FILE: &str = "netraid.toml";
/// Addresses on which a node listens, at most.
const MAX_LISTEN: usize = 16;

/// One node's netraidd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// This node's name in the mirrors' files; by default the host's name.
    pub node: NodeName,
    /// Where peers reach it; by default port 7800 of all addresses, IPv4 and IPv6.
    pub listen: Vec<SocketAddr>,
    /// Sockets and what is forgotten at a boot; by default `$NETRAID_RUN_DIR`, else `/run/netraid`.
    pub run_dir: PathBuf,
    /// Flag files and state records; by default `subsys/scsi/resources/netraid` in `lkroot`.
    pub state_dir: PathBuf,
    /// LifeKeeper's folder; by default `$LKROOT`, else `/opt/LifeKeeper`.
    pub lkroot: PathBuf,
    /// Where the status can be read over HTTP by everybody on this machine: a loopback address. Nowhere by default.
    pub status_listen: Option<SocketAddr>,
    /// This node's key and certificate, and those whom it believes; by default `tls` beside the configuration.
    pub tls_dir: PathBuf,
}

/// What the configuration takes from its surroundings. All tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The name of this host.
    pub host_name: Option<String>,
    /// Whether the kernel speaks IPv6.
    pub ipv6: bool,
    /// `/etc/services`
    pub services: Services,
    /// `$LKROOT`
    pub lkroot: Option<PathBuf>,
    /// `$NETRAID_RUN_DIR`
    pub run_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_machine() -> Surroundings {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Surroundings {
            host_name: host_name.map(|name| name.trim().to_owned()),
            ipv6: Path::new("/proc/net/if_inet6").exists(),
            services: Services::of_this_machine(),
            lkroot: super::variable("LKROOT"),
            run_dir: super::variable("NETRAID_RUN_DIR"),
        }
    }
}

const KEYS: &[Key] = &[
    Key {
        name: "node",
        example: "node = \"server1\"",
    },
    Key {
        name: "listen",
        example: "listen = [\"10.0.0.1:7800\"]",
    },
    Key {
        name: "run_dir",
        example: "run_dir = \"/run/netraid\"",
    },
    Key {
        name: "state_dir",
        example: "state_dir = \"/var/lib/netraid\"",
    },
    Key {
        name: "lkroot",
        example: "lkroot = \"/opt/LifeKeeper\"",
    },
    Key {
        name: "status_listen",
        example: "status_listen = \"127.0.0.1:7801\"",
    },
    Key {
        name: "tls_dir",
        example: "tls_dir = \"/etc/netraid/tls\"",
    },
];

/// Reads the file, if there is one; `None` only if a problem was noted.
pub(super) fn read(
    folder: &Path,
    source: Option<&Source>,
    around: &Surroundings,
    problems: &mut Problems,
) -> Option<Daemon> {
    let nothing = Source {
        file: folder.join(FILE).into(),
        text: String::new(),
    };
    let source = source.unwrap_or(&nothing);
    let table = parse(source, problems)?;
    let fields = Fields::new(source, table.get_ref(), 0, KEYS, problems);
    let node = match fields.has("node") {
        true => fields.text("node", problems, node_name).map(|at| at.value),
        false => host(&source.file, around, problems),
    };
    let listen = fields.texts("listen", MAX_LISTEN, problems, address::listen);
    let listen = match listen {
        Some(at) => at.value.into_iter().map(|at| at.value).collect(),
        None => vec![everywhere(around.ipv6)],
    };
    let mut path = |key: &str| fields.path(key, problems).map(|at| at.value);
    let lkroot = path("lkroot")
        .or_else(|| around.lkroot.clone())
        .unwrap_or_else(|| flags::DEFAULT_LKROOT.into());
    let run_dir = path("run_dir")
        .or_else(|| around.run_dir.clone())
        .unwrap_or_else(|| "/run/netraid".into());
    let state_dir = path("state_dir").unwrap_or_else(|| lkroot.join(flags::SUBFOLDER));
    let tls_dir = path("tls_dir").unwrap_or_else(|| folder.join("tls"));
    let status_listen = fields.text("status_listen", problems, address::listen_locally);
    Some(Daemon {
        node: node?,
        listen,
        run_dir,
        state_dir,
        lkroot,
        status_listen: status_listen.map(|at| at.value),
        tls_dir,
    })
}

pub(super) fn node_name(text: &str) -> Result<NodeName, Complaint> {
    NodeName::new(text).map_err(|error| {
        let what = match text.len() > flags::MAX_NAME {
            true => format!("node name {} is too long", quoted(text)),
            false => error.to_string(),
        };
        Complaint::new(
            what,
            "write the host's name, at most 64 letters, digits, '.', '_' and '-', for example \"server1\"",
        )
    })
}

fn host(file: &Path, around: &Surroundings, problems: &mut Problems) -> Option<NodeName> {
    let name = around.host_name.as_deref().unwrap_or_default();
    let taken = NodeName::new(name).map_err(|_| {
        Complaint::new(
            format!("the host's name {} can't be a node's", quoted(name)),
            "write for example node = \"server1\"",
        )
    });
    problems.taken(&Place::whole(file), taken)
}

/// All addresses: an IPv6 socket takes IPv4 as well.
fn everywhere(ipv6: bool) -> SocketAddr {
    use std::net::{Ipv4Addr, Ipv6Addr};
    match ipv6 {
        true => (Ipv6Addr::UNSPECIFIED, address::DEFAULT_PEER_PORT).into(),
        false => (Ipv4Addr::UNSPECIFIED, address::DEFAULT_PEER_PORT).into(),
    }
}
