//! Where a node is reached: a host name or an IP address, with or without the port of its netraidd.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::problem::{Complaint, quoted};

/// The port on which netraidd listens for its peers, unless configured otherwise. Next to the ports that DRBD's
/// administrators open (7788 to 7799), and far from those of LifeKeeper and the mirrors' data.
pub const DEFAULT_PEER_PORT: u16 = 7800;

/// A node's address for its peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// An IP address in its usual form (no brackets), or a host name in lower case.
    pub host: String,
    /// netraidd's port.
    pub port: u16,
}

impl Address {
    /// Whether this is the machine itself, seen from anywhere: several nodes may be on it, to try things out.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }

    /// `host:port` for another port on the same host, such as that of a mirror's data.
    pub fn with_port(&self, port: u16) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{port}", self.host),
            false => format!("{}:{port}", self.host),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Address, Complaint> {
        parts(text).ok_or_else(|| {
            Complaint::new(
                format!(
                    "address {} is no host name or IP address of a node",
                    quoted(text)
                ),
                "write for example \"10.0.0.2\", \"server2:7800\" or \"[fd00::2]:7800\"",
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_port(self.port))
    }
}

fn parts(text: &str) -> Option<Address> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']')?;
            inner.parse::<Ipv6Addr>().ok()?;
            match after {
                "" => (inner, None),
                _ => (inner, Some(after.strip_prefix(':')?)),
            }
        }
        // More than one colon is an IPv6 address without brackets.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    let port = match port {
        Some(digits) => whole(digits)?,
        None => DEFAULT_PEER_PORT,
    };
    let host = self::host(host)?;
    Some(Address { host, port })
}

/// A port as people write it; `u16::from_str` would take `+80`, too.
fn whole(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port > 0)
}

fn host(text: &str) -> Option<String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let ip = ip.to_canonical();
        let nobody = ip.is_unspecified() || ip.is_multicast();
        return (!nobody).then(|| ip.to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        matches!(label.len(), 1..=63) && !label.starts_with('-') && label.bytes().all(plain)
    };
    // "10.0.0.256" is a mistake, not a name.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit());
    (name.len() <= 253 && !numeric && name.split('.').all(label)).then_some(name)
}

/// An address to listen on.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Complaint> {
    let address = text.parse::<SocketAddr>().ok();
    address.filter(|address| address.port() > 0).ok_or_else(|| {
        Complaint::new(
            format!("{} is no IP address with a port", quoted(text)),
            "write for example \"10.0.0.1:7800\", or \"[::]:7800\" for all addresses",
        )
    })
}

/// An address on which nobody but this machine can ask.
pub(super) fn listen_locally(text: &str) -> Result<SocketAddr, Complaint> {
    match listen(text)? {
        address if address.ip().is_loopback() => Ok(address),
        _ => Err(Complaint::new(
            format!(
                "{} can be reached from other machines, and anybody may ask there",
                quoted(text)
            ),
            "write for example \"127.0.0.1:7801\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_or_without_a_port() {
        let table = [
            ("10.0.0.2", "10.0.0.2:7800"),
            ("10.0.0.2:7801", "10.0.0.2:7801"),
            ("Server2.Example.com.", "server2.example.com:7800"),
            ("server2:1", "server2:1"),
            ("fd00::2", "[fd00::2]:7800"),
            ("[FD00:0::2]:65535", "[fd00::2]:65535"),
            ("[::1]", "[::1]:7800"),
            ("::ffff:10.0.0.2", "10.0.0.2:7800"),
        ];
        for (text, expected) in table {
            assert_eq!(Address::parse(text).unwrap().to_string(), expected);
        }
        for text in [
            "",
            ":",
            ":7800",
            "a b",
            "10.0.0.256",
            "10.0.0.2:0",
            "10.0.0.2:+80",
            "10.0.0.2:65536",
            "a:",
            "[::1",
            "[::1]x",
            "[10.0.0.1]",
            "0.0.0.0",
            "::",
            "ff02::1",
            "a..b",
            "-a",
            "fe80::1%eth0",
            "größe",
            "http://a",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_everybody_may_ask_listens_on_loopback_alone() {
        assert!(listen_locally("127.0.0.1:80").is_ok() && listen_locally("[::1]:80").is_ok());
        assert!(listen_locally("0.0.0.0:80").is_err() && listen_locally("localhost:80").is_err());
        assert!(listen("10.0.0.1:0").is_err() && listen("10.0.0.1").is_err());
    }
}
