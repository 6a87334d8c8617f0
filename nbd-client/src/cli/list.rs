//! `nbd-client list`: the exports of a server.

use std::io::Write;

use nbd_client::query;
use serde::Serialize;

use super::arguments::{self, List};
use super::exit::Exit;
use super::show;

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    server: String,
    exports: Vec<Export>,
}

#[derive(Serialize)]
struct Export {
    name: String,
    description: String,
    uri: String,
}

pub(crate) fn run(arguments: &List) -> Result<(), Exit> {
    let target = &arguments::target(&arguments.target)?;
    let listed = query::list(target, &arguments.patience.options())
        .map_err(|error| Exit::open(target, &error))?;
    let exports: Vec<Export> = listed
        .into_iter()
        .map(|export| Export {
            uri: target.with_export(&export.name).to_string(),
            name: export.name,
            description: export.description,
        })
        .collect();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let report = Report {
            schema: "nbd-client.list/1",
            server: target.address.to_string(),
            exports,
        };
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if exports.is_empty() {
        eprintln!("nbd-client: {} lists no exports", target.address);
    }
    for export in exports {
        let description = if export.description.is_empty() {
            String::new()
        } else {
            format!("  {}", show::name(&export.description))
        };
        writeln!(
            out,
            "{}  {}{description}",
            show::name(&export.name),
            export.uri
        )?;
    }
    Ok(())
}
