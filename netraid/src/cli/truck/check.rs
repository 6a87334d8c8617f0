//! `netraid truck check`: whether an image is what was loaded, anywhere and without a daemon.

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::json;

use super::progress::Progress;
use crate::cli::exit::Exit;
use crate::cli::show::{plain, size};
use crate::truck::check::{self, CheckError};

/// Tells whether an image, or a disk, is what was loaded: reads all of it and compares each block with its digest.
///
/// Nothing is written, and no daemon is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: netraid truck check /mnt/usb/data.image\n\
    Exit codes: 0 all of it is what was loaded; 1 it can't be read; 2 wrong command line, or no manifest; 3 it is not what was \
    loaded: damaged, not complete, in use already, of another time or mirror.")]
pub(super) struct Check {
    /// The image: a file or a block device
    image: PathBuf,

    /// The manifest [default: IMAGE.manifest]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Prints JSON (netraid.truck-check/1)
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn perform(&self) -> Result<(), Exit> {
        let shipment = super::manifest(&self.image, self.manifest.as_ref())?.shipment;
        let disk = super::open(&self.image)?;
        let mut progress = Progress::new("checked", shipment.mirror_bytes);
        let found = check::all(&disk, &shipment, |bytes| progress.add(bytes));
        progress.end();
        let mut out = io::stdout().lock();
        if self.json {
            let damaged: Vec<[u64; 2]> = match &found {
                Err(CheckError::Damaged(ranges)) => ranges
                    .iter()
                    .map(|range| [range.start, range.end])
                    .collect(),
                _ => Vec::new(),
            };
            let document = json!({
                "schema": "netraid.truck-check/1",
                "good": found.is_ok(),
                "why": found.as_ref().err().map(ToString::to_string),
                "damaged": damaged,
                "tag": shipment.tag,
                "array": shipment.array,
                "node": shipment.node,
                "source": shipment.source,
                "generation": shipment.generation,
                "mirror_bytes": shipment.mirror_bytes,
                "loaded_ms": shipment.loaded_ms,
            });
            writeln!(out, "{document:#}")?;
        } else if found.is_ok() {
            writeln!(
                out,
                "{}: {} of {}, for {}, generation {}: all of it is what was loaded",
                plain(&self.image.to_string_lossy()),
                size(shipment.mirror_bytes),
                plain(&shipment.tag),
                plain(&shipment.node),
                shipment.generation
            )?;
            writeln!(
                out,
                "next, on {}: netraid truck unload {} IMAGE",
                plain(&shipment.node),
                plain(&shipment.tag)
            )?;
        }
        out.flush()?;
        found.map_err(|error| super::not_good(&self.image, &error))
    }
}
