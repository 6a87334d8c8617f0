//! The mirrors' states as metrics, in the text format of Prometheus (version 0.0.4), for what collects and alarms.
//!
//! The same numbers as in the document of `GET /v1/mirrors`, under names that end in their unit. What has no number, such as
//! the reason of a problem, is there and in `netraid explain`.

use std::fmt::{self, Write as _};

use super::document::{Mirror, Mirrors, Node};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All mirrors' metrics.
pub fn text(mirrors: &Mirrors) -> String {
    let mut page = Page::default();
    page.family(
        "netraid_info",
        "The daemon, 1.",
        [(
            vec![("node", &*mirrors.node), ("version", &*mirrors.version)],
            1.0,
        )],
    );
    page.mirrors(mirrors);
    page.nodes(mirrors);
    page.resyncs(mirrors);
    page.verifies(mirrors);
    page.0
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

#[derive(Default)]
struct Page(String);

impl Page {
    fn mirrors(&mut self, mirrors: &Mirrors) {
        let mut each = |name, help, number: &dyn Fn(&Mirror) -> Option<f64>| {
            let values = mirrors.mirrors.iter();
            let values = values.filter_map(|mirror| Some((of(mirror), number(mirror)?)));
            self.family(name, help, values);
        };
        each(
            "netraid_mirror_in_service",
            "Whether applications can use the mirror on this node.",
            &|mirror| Some(yes(mirror.service == "in")),
        );
        each(
            "netraid_mirror_size_bytes",
            "Size of the mirror.",
            &|mirror| mirror.size.map(|bytes| bytes as f64),
        );
        each(
            "netraid_mirror_dirty_bytes",
            "Bytes that the write-intent bitmap has marked, on the source.",
            &|mirror| mirror.dirty_bytes.map(|bytes| bytes as f64),
        );
        each(
            "netraid_mirror_problems",
            "Problems that netraid status lists; more than 0 needs somebody.",
            &|mirror| Some(mirror.problems.len() as f64),
        );
        each(
            "netraid_mirror_requests_held",
            "Whether the application's requests wait or fail for want of a quorum.",
            &|mirror| Some(yes(mirror.quorum.as_ref()?.requests != "served")),
        );
        each(
            "netraid_quorum_nodes_present",
            "Nodes that are there, this one included.",
            &|mirror| Some(f64::from(mirror.quorum.as_ref()?.present)),
        );
        each(
            "netraid_quorum_nodes_needed",
            "Nodes that have to be there.",
            &|mirror| Some(f64::from(mirror.quorum.as_ref()?.need)),
        );
    }

    fn nodes(&mut self, mirrors: &Mirrors) {
        let mut each = |name, help, number: &dyn Fn(&Node) -> Option<f64>| {
            let values = mirrors.mirrors.iter().flat_map(|mirror| {
                let nodes = mirror.nodes.iter().filter(|node| node.member);
                nodes.filter_map(|node| {
                    let mut labels = of(mirror);
                    labels.push(("node", &*node.name));
                    Some((labels, number(node)?))
                })
            });
            self.family(name, help, values);
        };
        each(
            "netraid_node_reachable",
            "Whether the node's netraidd answers this one.",
            &|node| (!node.own).then(|| yes(node.reachable)),
        );
        each(
            "netraid_node_in_sync",
            "Whether the node has all that the source has, as this node knows.",
            &|node| Some(yes(matches!(&*node.status, "Source" | "Target"))),
        );
        each(
            "netraid_node_split_brain",
            "Whether both this node and that one were written without the other.",
            &|node| Some(yes(node.status == "Split Brain")),
        );
        each(
            "netraid_node_behind_bytes",
            "Bytes on their way to a target that is written asynchronously.",
            &|node| node.behind_bytes.map(|bytes| bytes as f64),
        );
        let values = mirrors.mirrors.iter().flat_map(|mirror| {
            let nodes = mirror.nodes.iter().filter(|node| node.member);
            nodes.map(|node| {
                let mut labels = of(mirror);
                labels.extend([
                    ("node", &*node.name),
                    ("status", &*node.status),
                    ("disk", &*node.disk),
                ]);
                (labels, 1.0)
            })
        });
        let help = "The words that netraid status shows of a node, 1.";
        self.family("netraid_node_status_info", help, values);
    }

    fn resyncs(&mut self, mirrors: &Mirrors) {
        let mut each = |name, help, number: &dyn Fn(&super::document::Resync) -> Option<f64>| {
            let values = mirrors.mirrors.iter();
            let values =
                values.filter_map(|mirror| Some((of(mirror), number(mirror.resync.as_ref()?)?)));
            self.family(name, help, values);
        };
        each(
            "netraid_resync_copied_bytes",
            "Bytes that the resync under way has dealt with.",
            &|resync| Some(resync.copied as f64),
        );
        each(
            "netraid_resync_left_bytes",
            "Bytes that are left to it.",
            &|resync| Some(resync.left as f64),
        );
        each(
            "netraid_resync_speed_bytes_per_second",
            "Its speed.",
            &|resync| Some(resync.speed as f64),
        );
        each(
            "netraid_resync_paused",
            "Whether it is paused.",
            &|resync| Some(yes(resync.paused)),
        );
    }

    fn verifies(&mut self, mirrors: &Mirrors) {
        let mut each =
            |name, help, number: &dyn Fn(&crate::status::VerifyStatus) -> Option<f64>| {
                let values = mirrors.mirrors.iter();
                let values = values
                    .filter_map(|mirror| Some((of(mirror), number(mirror.verify.as_ref()?)?)));
                self.family(name, help, values);
            };
        each(
            "netraid_verify_running",
            "Whether a verify is under way; else what follows is of the last one since the mirror was started.",
            &|verify| Some(yes(verify.state == "running")),
        );
        each(
            "netraid_verify_completed",
            "Whether it got to its end.",
            &|verify| Some(yes(verify.state == "done")),
        );
        each(
            "netraid_verify_checked_bytes",
            "Bytes that it compared.",
            &|verify| Some(verify.checked as f64),
        );
        each(
            "netraid_verify_differing_bytes",
            "Bytes that differ, counted once a target.",
            &|verify| Some(verify.differing as f64),
        );
        each(
            "netraid_verify_duration_seconds",
            "How long it has taken.",
            &|verify| Some(seconds(verify.elapsed_ms)),
        );
        each(
            "netraid_verify_began_timestamp_seconds",
            "When it began.",
            &|verify| Some(seconds(verify.began_ms)),
        );
        each(
            "netraid_verify_ended_timestamp_seconds",
            "When it ended.",
            &|verify| verify.ended_ms.map(seconds),
        );
    }

    /// Metrics of one name; nothing if there are none.
    fn family<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        // A string takes whatever is written to it.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let _ = writeln!(self.0, "{name}{{{}}} {value}", Joined(&labels));
        }
    }
}

fn of(mirror: &Mirror) -> Labels<'_> {
    vec![("mirror", &*mirror.tag)]
}

fn yes(so: bool) -> f64 {
    f64::from(u8::from(so))
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

struct Joined<'a, 'b>(&'b Labels<'a>);

impl fmt::Display for Joined<'_, '_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}{name}=\"")?;
            for letter in value.chars() {
                match letter {
                    '\\' => out.write_str("\\\\")?,
                    '"' => out.write_str("\\\"")?,
                    '\n' => out.write_str("\\n")?,
                    letter => out.write_char(letter)?,
                }
            }
            out.write_char('"')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
