//! Where an export is: the address of its server and the export's name there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::uri::{self, UriError};

/// Port of an NBD URI that names none, assigned by IANA.
pub const DEFAULT_PORT: u16 = 10809;

/// How to reach a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port: IPv4, IPv6 or a name that the resolver knows.
    Tcp {
        /// Name or literal address, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix stream socket.
    Unix {
        /// The socket's path.
        path: PathBuf,
    },
}

/// One export of one server. Parsed from and shown as an NBD URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The server.
    pub address: Address,
    /// The export's name; the empty name is the server's default export.
    pub export: String,
}

impl Target {
    /// An export behind a TCP port.
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Target {
        Target {
            address: Address::Tcp {
                host: host.into(),
                port,
            },
            export: export.into(),
        }
    }

    /// An export behind a unix socket.
    pub fn unix(path: impl Into<PathBuf>, export: impl Into<String>) -> Target {
        Target {
            address: Address::Unix { path: path.into() },
            export: export.into(),
        }
    }

    /// The same server's export of another name.
    pub fn with_export(&self, export: impl Into<String>) -> Target {
        Target {
            address: self.address.clone(),
            export: export.into(),
        }
    }
}

impl FromStr for Target {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Target, UriError> {
        uri::parse(text)
    }
}

/// An NBD URI that [`uri::parse`] reads back as the same target.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&uri::render(self))
    }
}

/// A person's form of the address: `host:port`, `[host]:port` or the socket's path.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix { path } => write!(f, "{}", path.display()),
        }
    }
}
