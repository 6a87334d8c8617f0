//! Which port a node's copy of a mirror is served on.
//!
//! As DataKeeper chooses it, so that firewalls stay as they are: `10001 + number + 256 * i`, with the smallest `i` from 0
//! on whose port is not listed in `/etc/services` and not taken by something else that is configured on that node. What
//! happens to listen at the moment is not looked at: every node has to find the same port, at every start.

use std::collections::BTreeMap;
use std::path::Path;

/// The port of mirror 0, unless it is taken.
pub const FIRST_PORT: u16 = 10001;
/// From one choice for a mirror to its next.
const STEP: usize = 256;
/// Bytes of `/etc/services` that are read.
const MAX_SERVICES: u64 = 4 << 20;

/// The ports that `/etc/services` lists, by number, with the name of the first service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(BTreeMap<u16, String>);

impl Services {
    /// The list of this machine; an empty one if it has none.
    pub fn of_this_machine() -> Services {
        use std::io::Read;
        let mut text = Vec::new();
        // What can't be read lists nothing.
        let _ = std::fs::File::open(Path::new("/etc/services"))
            .and_then(|file| file.take(MAX_SERVICES).read_to_end(&mut text));
        Services::parse(&String::from_utf8_lossy(&text))
    }

    /// Lines of `name port/protocol`; others are passed over.
    pub fn parse(text: &str) -> Services {
        let mut services = BTreeMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            if let (Some(name), Some(port)) = (words.next(), words.next())
                && let Some((port, _)) = port.split_once('/')
                && let Ok(port) = port.parse()
                && port >= FIRST_PORT
            {
                services.entry(port).or_insert_with(|| name.to_owned());
            }
        }
        Services(services)
    }
}

/// A port, and why it is not the first choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub port: u16,
    pub passed: Option<String>,
}

/// The first port for mirror `number` that is free; `taken` tells by what one is taken.
pub(super) fn choose(
    number: u8,
    services: &Services,
    taken: impl Fn(u16) -> Option<String>,
) -> Option<Choice> {
    let mut passed: Vec<String> = Vec::new();
    let first = FIRST_PORT.checked_add(u16::from(number))?;
    for port in (first..=u16::MAX).step_by(STEP) {
        let by = match services.0.get(&port) {
            Some(name) => Some(format!("{name} in /etc/services")),
            None => taken(port),
        };
        match by {
            Some(by) => passed.push(format!("{port} is taken by {by}")),
            None => {
                return Some(Choice {
                    port,
                    passed: (!passed.is_empty()).then(|| passed.join(", ")),
                });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_chosen_as_datakeeper_does() {
        let services = Services::parse(
            "# comment\nscp-config 10001/tcp # SCP\nscp-config 10001/udp\nbad\nx y/tcp\nq 10513/tcp\nssh 22/tcp\n",
        );
        let port = |number, taken: &[u16]| {
            let by = |port: u16| taken.contains(&port).then(|| "mirror x".to_owned());
            choose(number, &services, by).map(|choice| (choice.port, choice.passed))
        };
        assert_eq!(port(1, &[]), Some((10002, None)));
        assert_eq!(port(255, &[]), Some((10256, None)));
        let reason = "10001 is taken by scp-config in /etc/services";
        assert_eq!(port(0, &[]), Some((10257, Some(reason.into()))));
        assert_eq!(
            port(0, &[10257]).unwrap(),
            (
                10769,
                Some(format!(
                    "{reason}, 10257 is taken by mirror x, 10513 is taken by q in /etc/services"
                ))
            )
        );
        let all: Vec<u16> = (FIRST_PORT..=u16::MAX).collect();
        assert_eq!(port(255, &all), None);
    }
}
