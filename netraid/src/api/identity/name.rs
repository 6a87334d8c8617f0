//! Node names in certificates. A certificate holds DNS names, which are case-blind and shorter of characters than node
//! names; a node name that is no DNS name, or not the only one with that DNS name, is written in hexadecimal.

use flags::NodeName;
use rustls::pki_types::DnsName;

/// What an encoded name ends with. `.invalid` is reserved (RFC 2606): no host has such a name.
const SUFFIX: &str = ".node-name.netraid.invalid";
/// Bytes of a node name in one label: 1 + 2 * 31 characters, at most 63 are allowed.
const LABEL_BYTES: usize = 31;

/// The DNS name that stands for a node, different for each.
pub fn dns_name(node: &NodeName) -> String {
    let name = node.as_str();
    if is_plain(name) {
        return name.to_owned();
    }
    let labels: Vec<String> = name
        .as_bytes()
        .chunks(LABEL_BYTES)
        .map(|bytes| {
            bytes
                .iter()
                .fold("h".to_owned(), |label, byte| format!("{label}{byte:02x}"))
        })
        .collect();
    labels.join(".") + SUFFIX
}

/// The node that a DNS name stands for.
pub fn node_of_dns_name(dns: &str) -> Option<NodeName> {
    let Some(labels) = dns.strip_suffix(SUFFIX) else {
        return NodeName::new(dns).ok().filter(|_| is_plain(dns));
    };
    let mut bytes = Vec::new();
    for label in labels.split('.') {
        let (pairs, rest) = label.strip_prefix('h')?.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        for pair in pairs {
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
        }
    }
    let node = NodeName::new(String::from_utf8(bytes).ok()?).ok()?;
    // One spelling each.
    (dns_name(&node) == dns).then_some(node)
}

fn is_plain(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-'))
        && name.split('.').all(|label| !label.starts_with('-'))
        // An all-numeric end would be read as an IP address.
        && last.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with(SUFFIX)
        && DnsName::try_from(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_host_names_stand_for_themselves() {
        for name in ["a", "server1", "server1.example.com", "10-0-0-1.lan"] {
            assert_eq!(dns_name(&NodeName::new(name).unwrap()), name);
        }
    }

    #[test]
    fn every_node_name_has_a_dns_name_of_its_own_and_comes_back_from_it() {
        let names = [
            "server1",
            "Server1",
            "SERVER1",
            "_x",
            "0",
            "10.0.0.1",
            "a..b",
            "a.",
            "a-",
            "a-.b",
            "a.-b",
            "0x12",
            "x.node-name.netraid.invalid",
            "node_1",
            &"x".repeat(64),
            &"X".repeat(64),
            &"1".repeat(64),
        ]
        .map(|name| NodeName::new(name).unwrap());
        for (at, name) in names.iter().enumerate() {
            let dns = dns_name(name);
            assert!(DnsName::try_from(dns.as_str()).is_ok(), "{dns}");
            assert_eq!(node_of_dns_name(&dns).as_ref(), Some(name));
            for other in &names[..at] {
                assert!(
                    !dns_name(other).eq_ignore_ascii_case(&dns),
                    "{name} {other}"
                );
            }
        }
    }

    #[test]
    fn other_dns_names_stand_for_no_node() {
        for dns in [
            "Server1",
            "h.node-name.netraid.invalid",
            "h61.node-name.netraid.invalid",
            "*.a",
            "",
        ] {
            assert_eq!(node_of_dns_name(dns), None, "{dns}");
        }
    }
}
