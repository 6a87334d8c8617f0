//! `nbd-client info`: the size of an export and what it can do.

use std::io::Write;

use nbd_client::query::{self, Description};
use nbd_protocol::HeaderStyle;
use nbd_protocol::number::TransmissionFlags as Flags;
use serde::Serialize;

use super::arguments::{self, Info};
use super::exit::Exit;
use super::show;

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    uri: String,
    export: &'a str,
    size: u64,
    read_only: bool,
    canonical_name: Option<&'a str>,
    description: Option<&'a str>,
    headers: &'static str,
    block_sizes: BlockSizes,
    offers: Offers,
    contexts: &'a [String],
}

#[derive(Serialize)]
struct BlockSizes {
    minimum: u32,
    preferred: u32,
    maximum: u32,
    given_by_server: bool,
}

#[derive(Serialize)]
struct Offers {
    flush: bool,
    fua: bool,
    trim: bool,
    write_zeroes: bool,
    fast_zero: bool,
    cache: bool,
    dont_fragment: bool,
    multiple_connections: bool,
    rotational: bool,
    block_status_payload: bool,
}

pub(crate) fn run(arguments: &Info) -> Result<(), Exit> {
    let target = &arguments::target(&arguments.target)?;
    let description = query::describe(target, &arguments.patience.options())
        .map_err(|error| Exit::open(target, &error))?;
    let report = report(target, &description);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(())
}

fn report<'a>(target: &'a nbd_client::Target, description: &'a Description) -> Report<'a> {
    let export = &description.export;
    let offers = |flag| export.flags.contains(flag);
    Report {
        schema: "nbd-client.info/1",
        uri: target.to_string(),
        export: &target.export,
        size: export.size,
        read_only: offers(Flags::READ_ONLY),
        canonical_name: export.name.as_deref(),
        description: export.description.as_deref(),
        headers: match description.style {
            HeaderStyle::Simple => "simple",
            HeaderStyle::Structured => "structured",
            HeaderStyle::Extended => "extended",
        },
        block_sizes: BlockSizes {
            minimum: export.minimum_block,
            preferred: export.preferred_block,
            maximum: export.maximum_payload,
            given_by_server: export.block_sizes_given,
        },
        offers: Offers {
            flush: offers(Flags::SEND_FLUSH),
            fua: offers(Flags::SEND_FUA),
            trim: offers(Flags::SEND_TRIM),
            write_zeroes: offers(Flags::SEND_WRITE_ZEROES),
            fast_zero: offers(Flags::SEND_FAST_ZERO),
            cache: offers(Flags::SEND_CACHE),
            dont_fragment: offers(Flags::SEND_DF),
            multiple_connections: offers(Flags::CAN_MULTI_CONN),
            rotational: offers(Flags::ROTATIONAL),
            block_status_payload: offers(Flags::BLOCK_STATUS_PAYLOAD),
        },
        contexts: &description.contexts,
    }
}

fn print(out: &mut impl Write, report: &Report<'_>) -> std::io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(out, "{name:<22}{value}");
    line("export", show::name(report.export))?;
    if let Some(name) = report.canonical_name.filter(|name| *name != report.export) {
        line("canonical name", show::name(name))?;
    }
    if let Some(description) = report.description {
        line("description", show::name(description))?;
    }
    line(
        "size",
        format!("{} bytes ({})", report.size, show::size(report.size)),
    )?;
    line("read only", show::yes_no(report.read_only).to_owned())?;
    let sizes = &report.block_sizes;
    let assumed = if sizes.given_by_server {
        ""
    } else {
        " (assumed; the server names none)"
    };
    line(
        "block sizes",
        format!(
            "minimum {}, preferred {}, maximum {}{assumed}",
            sizes.minimum, sizes.preferred, sizes.maximum
        ),
    )?;
    line("headers", report.headers.to_owned())?;
    let offers = &report.offers;
    let abilities = [
        ("flush", offers.flush),
        ("fua", offers.fua),
        ("trim", offers.trim),
        ("write_zeroes", offers.write_zeroes),
        ("fast_zero", offers.fast_zero),
        ("cache", offers.cache),
        ("dont_fragment", offers.dont_fragment),
        ("block_status_payload", offers.block_status_payload),
    ];
    let offered: Vec<&str> = abilities
        .iter()
        .filter(|(_, offered)| *offered)
        .map(|(name, _)| *name)
        .collect();
    line(
        "offers",
        if offered.is_empty() {
            "nothing beyond read and write".to_owned()
        } else {
            offered.join(", ")
        },
    )?;
    line(
        "several connections",
        show::yes_no(offers.multiple_connections).to_owned(),
    )?;
    line("rotational", show::yes_no(offers.rotational).to_owned())?;
    let contexts: Vec<String> = report
        .contexts
        .iter()
        .map(|context| show::name(context))
        .collect();
    line(
        "contexts",
        if contexts.is_empty() {
            "none".to_owned()
        } else {
            contexts.join(", ")
        },
    )
}
