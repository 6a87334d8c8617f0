//! The configuration file (TOML) and the spellings that it shares with the command line.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

/// The port that IANA gave to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// What a configuration file may say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// TCP addresses, for example `"[::]:10809"` or `"192.0.2.1"`.
    #[serde(default)]
    pub listen: Vec<ListenAddress>,
    /// Paths of unix sockets.
    #[serde(default)]
    pub unix: Vec<PathBuf>,
    /// Connections at once.
    pub max_connections: Option<usize>,
    /// Seconds that a client may take for the handshake.
    pub handshake_seconds: Option<u64>,
    /// Seconds that connections may take to finish when the server stops.
    pub stop_seconds: Option<u64>,
    /// What is exported.
    #[serde(default, rename = "export")]
    pub exports: Vec<ExportConfig>,
}

/// One `[[export]]` of a configuration file, or one `--export`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// What clients ask for.
    pub name: String,
    /// A regular file or block device.
    pub path: PathBuf,
    /// No client may write.
    #[serde(default)]
    pub read_only: bool,
    /// A sentence for people.
    #[serde(default)]
    pub description: String,
    /// The name is a secret that lets clients in: it is shown in no list, and the empty name does not stand for it.
    #[serde(default)]
    pub secret: bool,
    /// A file that is made when a flush has failed, for whoever can begin anew: every later flush fails, too.
    pub lost_writes_note: Option<PathBuf>,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {} can't be read: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file and, where it is wrong, the line and column.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Config::parse(path, &text)
    }

    /// Parses a file's text; `path` is for the error.
    ///
    /// # Errors
    /// Names the file, the line and the column.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ConfigError::Wrong {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: error.message().replace('\n', ", "),
            }
        })
    }
}

/// `NAME=PATH` or `NAME=PATH,ro`.
impl FromStr for ExportConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<ExportConfig, String> {
        let wrong =
            || format!("{text:?} is not NAME=PATH or NAME=PATH,ro, for example disk=/srv/disk.img");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (path, read_only) = match rest.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (rest.strip_suffix(",rw").unwrap_or(rest), false),
        };
        if path.is_empty() {
            return Err(wrong());
        }
        Ok(ExportConfig {
            name: name.to_owned(),
            path: path.into(),
            read_only,
            description: String::new(),
            secret: false,
            lost_writes_note: None,
        })
    }
}

/// A TCP address with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = (text.parse::<SocketAddr>().ok())
            .or_else(|| {
                text.parse::<IpAddr>()
                    .ok()
                    .map(|ip| SocketAddr::new(ip, DEFAULT_PORT))
            })
            .or_else(|| {
                bare?
                    .parse::<Ipv6Addr>()
                    .ok()
                    .map(|ip| SocketAddr::new(ip.into(), DEFAULT_PORT))
            });
        address.map(ListenAddress).ok_or_else(|| {
            format!("{text:?} is no address to listen on: write ADDRESS:PORT, for example 0.0.0.0:10809 or [::]:10809")
        })
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<ListenAddress, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example_is_a_valid_configuration() {
        let config =
            Config::parse(Path::new("example.toml"), include_str!("../example.toml")).unwrap();
        assert_eq!(config.listen, ["[::]:10809".parse().unwrap()]);
        assert_eq!(config.exports.len(), 2);
        assert!(config.exports[1].read_only);
        assert!(
            config.max_connections.is_some()
                && config.handshake_seconds.is_some()
                && config.stop_seconds.is_some()
        );
    }

    #[test]
    fn an_unknown_key_is_an_error_with_line_and_column() {
        let error = Config::parse(Path::new("x.toml"), "listen = []\n\n  lisen = []\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("x.toml:3:3: unknown field `lisen`, expected one of"),
            "{error}"
        );
        let error = Config::parse(Path::new("x.toml"), "[[export]]\nname = 'a'\npath = 3\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("x.toml:3:8: "), "{error}");
        let error = Config::parse(Path::new("x.toml"), "listen = ['nowhere']")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("x.toml:1:") && error.contains("\"nowhere\" is no address"),
            "{error}"
        );
        let error = Config::parse(Path::new("x.toml"), "listen = [")
            .unwrap_err()
            .to_string();
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn addresses_may_leave_the_port_out() {
        for (text, address) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("127.0.0.1", "127.0.0.1:10809"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:10809"),
            ("::", "[::]:10809"),
        ] {
            assert_eq!(
                text.parse::<ListenAddress>().unwrap().0.to_string(),
                address
            );
        }
        for wrong in [
            "",
            "localhost",
            "1.2.3.4:99999",
            ":10809",
            "[::1]:",
            "1.2.3",
        ] {
            assert!(
                wrong
                    .parse::<ListenAddress>()
                    .unwrap_err()
                    .contains("ADDRESS:PORT"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn exports_are_a_name_and_a_path() {
        let export: ExportConfig = "disk=/srv/a=b,c.img,ro".parse().unwrap();
        assert_eq!(
            (export.name.as_str(), export.path.to_str().unwrap()),
            ("disk", "/srv/a=b,c.img")
        );
        assert!(export.read_only);
        assert!(!"disk=/x".parse::<ExportConfig>().unwrap().read_only);
        for wrong in ["", "disk", "disk=", "disk=,ro"] {
            assert!(
                wrong
                    .parse::<ExportConfig>()
                    .unwrap_err()
                    .contains("NAME=PATH"),
                "{wrong}"
            );
        }
    }
}
