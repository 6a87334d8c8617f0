//! DRBD 8.4 on the nodes of a lab: resources, and the orders that are given to them.

use std::time::Duration;

use anyhow::{Context, Result};
use netraid_lab::{Lab, Node, wait_until};

/// Patience for a connection.
const SOON: Duration = Duration::from_secs(60);

/// A resource between the first two nodes, on the same disk of each.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) name: &'static str,
    pub(crate) minor: usize,
    pub(crate) protocol: char,
    /// The number of the nodes' disks.
    pub(crate) disk: usize,
    /// More options of the section `net`.
    pub(crate) net: String,
    /// More options of the section `disk`.
    pub(crate) options: String,
}

impl Resource {
    pub(crate) fn device(&self) -> String {
        format!("/dev/drbd{}", self.minor)
    }

    fn text(&self, lab: &Lab) -> String {
        let hosts: String = lab
            .nodes()
            .iter()
            .map(|node| {
                format!(
                    "on {} {{ device {}; disk {}; address {}:{}; meta-disk internal; }}\n",
                    node.name(),
                    self.device(),
                    node.disk(self.disk).device(),
                    node.ip(),
                    7789 + self.minor
                )
            })
            .collect();
        // Resyncs at full speed: the careful defaults are not what is compared.
        format!(
            "resource {} {{ net {{ protocol {}; max-buffers 8000; max-epoch-size 8000; {} }}\n\
             disk {{ c-max-rate 4G; c-fill-target 1M; resync-rate 1G; {} }}\n{hosts}}}\n",
            self.name, self.protocol, self.net, self.options
        )
    }

    /// Makes the node's metadata and starts it there.
    pub(crate) fn up(&self, node: &Node) -> Result<()> {
        node.must(&format!(
            "yes yes | drbdadm --force create-md {}",
            self.name
        ))?;
        node.must(&format!("drbdadm up {}", self.name))?;
        Ok(())
    }

    /// The node's data counts, and its device can be used.
    pub(crate) fn promote(&self, node: &Node) -> Result<()> {
        node.must(&format!("drbdadm primary --force {}", self.name))?;
        Ok(())
    }

    /// What `/proc/drbd` says of it: one small program, since every look takes from what is measured.
    pub(crate) fn look(&self, node: &Node) -> Result<Look> {
        let text = node.must("cat /proc/drbd")?;
        look(&text, self.minor).with_context(|| format!("/proc/drbd: {text}"))
    }

    pub(crate) fn wait_connected(&self, node: &Node) -> Result<()> {
        wait_until(SOON, "DRBD is connected", || {
            Ok((self.look(node)?.connection == "Connected").then_some(()))
        })
    }

    pub(crate) fn order(&self, node: &Node, verb: &str) -> Result<()> {
        node.must(&format!("drbdadm {verb} {}", self.name))?;
        Ok(())
    }
}

/// A resource as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// `Connected`, `SyncSource`, `VerifyS`, ...
    pub(crate) connection: String,
    /// Of both nodes: `UpToDate/UpToDate`.
    pub(crate) disks: String,
    /// Bytes that the peer does not have.
    pub(crate) left: u64,
}

impl Look {
    /// Both have everything, and nothing is being compared either.
    pub(crate) fn in_sync(&self) -> bool {
        self.connection == "Connected" && self.disks == "UpToDate/UpToDate"
    }
}

fn look(text: &str, minor: usize) -> Option<Look> {
    let head = format!("{minor}: cs:");
    let mut lines = text.lines();
    let line = lines.find(|line| line.trim_start().starts_with(&head))?;
    let word = |line: &str, key: &str| {
        let found = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key));
        found.map(str::to_owned)
    };
    Some(Look {
        connection: word(line, "cs:")?,
        disks: word(line, "ds:")?,
        left: word(lines.next()?, "oos:")?.parse::<u64>().ok()? * 1024,
    })
}

/// Tells all nodes what there is, and loads the module.
pub(crate) fn configure(lab: &Lab, resources: &[Resource]) -> Result<()> {
    let text: String = resources
        .iter()
        .map(|resource| resource.text(lab))
        .collect();
    for node in lab.nodes() {
        node.must("mkdir -p /var/lib/drbd /run/lock && modprobe drbd usermode_helper=/bin/true")?;
        node.must(&format!(
            "mkdir -p /etc/drbd.d && cat >/etc/drbd.conf <<'END'\nglobal {{ usage-count no; }}\n{text}END"
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_found_among_others() {
        let text = "version: 8.4.11\n 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n    \
            ns:0 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n10: cs:SyncSource ro:P/S \
            ds:UpToDate/Inconsistent C\n    ns:1 oos:7168\n\t[>....] sync'ed: 1.0% (7168/8192)K\n";
        assert!(look(text, 0).is_some_and(|look| look.in_sync() && look.left == 0));
        let other = look(text, 10).unwrap();
        assert_eq!(
            (other.connection.as_str(), other.left),
            ("SyncSource", 7 << 20)
        );
        assert!(!other.in_sync());
        assert_eq!(look(text, 1), None);
    }
}
