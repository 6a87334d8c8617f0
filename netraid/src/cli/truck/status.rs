//! `netraid truck status`: where shipments stand, on the source.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flags::Tag;
use serde_json::json;

use crate::api::document::{Node, Truck};
use crate::cli::daemon::{Connection, tag};
use crate::cli::exit::Exit;
use crate::cli::orders::CODES;
use crate::cli::show::{plain, size};

/// Tells where the shipments of a mirror stand, on the source where they were loaded.
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Status {
    /// The mirror
    #[arg(value_parser = tag)]
    tag: Tag,

    /// Prints JSON (netraid.truck-status/1): the "truck" of each node that has one
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let mirror = self.connection.open()?.mirror(&self.tag)?;
        let found = mirror.nodes.iter();
        let found = found.filter_map(|node| Some((node, node.truck.as_ref()?)));
        let found: Vec<(&Node, &Truck)> = found.collect();
        let mut out = io::stdout().lock();
        if self.json {
            let shipments: Vec<_> = found
                .iter()
                .map(|(node, truck)| json!({"node": node.name, "truck": truck}))
                .collect();
            let document = json!({
                "schema": "netraid.truck-status/1",
                "tag": mirror.tag,
                "shipments": shipments,
            });
            writeln!(out, "{document:#}")?;
            return Ok(out.flush()?);
        }
        if found.is_empty() {
            writeln!(out, "nothing of {} is being loaded or on its way", self.tag)?;
        }
        for (node, truck) in found {
            let line = format!("{}: {}", node.name, line(truck));
            writeln!(out, "{}", plain(&line))?;
            if truck.state == "away" {
                writeln!(
                    out,
                    "  next: netraid truck unload {0} IMAGE on {1}, then netraid truck connect {0} {1} here",
                    self.tag,
                    plain(&node.name)
                )?;
            }
        }
        Ok(out.flush()?)
    }
}

/// Where one stands, in words.
pub(in crate::cli) fn line(truck: &Truck) -> String {
    match truck.state.as_str() {
        "loading" => format!("an image is being loaded, {}%", truck.percent.unwrap_or(0)),
        "full" => "an image has everything, and gets every write until it is taken out".into(),
        _ => {
            let since = truck.loaded_ms.map_or_else(String::new, |at| {
                let at = UNIX_EPOCH + Duration::from_millis(at);
                let age = SystemTime::now().duration_since(at).unwrap_or_default();
                format!(", {} ago", words(age))
            });
            let marked = truck.dirty_bytes.map_or_else(
                || "what was written since is marked".into(),
                |bytes| format!("{} marked since", size(bytes)),
            );
            format!(
                "an image left{since} (generation {}); {marked}",
                truck.generation.as_deref().unwrap_or("unknown")
            )
        }
    }
}

fn words(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
