//! What the handshake may know of the exports.

use nbd_protocol::limit::MAX_PAYLOAD;
use nbd_protocol::negotiate::server::{
    ContextOffer, ExportDirectory, ExportInfo, Listing, Refusal,
};
use nbd_protocol::number::TransmissionFlags;
use nbd_protocol::session::Session;

use crate::device::Geometry;
use crate::export::Export;
use crate::file::digest;
use crate::server::Shared;

impl ExportDirectory for Shared {
    fn list(&self) -> Vec<Listing> {
        let exports = self
            .exports
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let listing = |export: &Export| Listing {
            name: export.name().to_owned(),
            description: export.description().to_owned(),
        };
        let public = exports.iter().filter(|export| !export.is_secret());
        public.map(|export| listing(export)).collect()
    }

    fn find(&self, name: &str) -> Result<ExportInfo, Refusal> {
        let export = self
            .find_export(name)
            .ok_or_else(|| Refusal::unknown(name))?;
        let geometry = export.geometry();
        Ok(ExportInfo {
            name: export.name().to_owned(),
            description: export.description().to_owned(),
            size: geometry.size,
            flags: flags(&geometry),
            minimum_block: geometry.minimum_block,
            preferred_block: geometry.preferred_block,
            maximum_payload: MAX_PAYLOAD,
            contexts: geometry.contexts.iter().map(|name| offer(name)).collect(),
        })
    }

    fn admit(&self, export: &str, session: &Session) -> Result<(), Refusal> {
        let Some(export) = self.find_export(export) else {
            return Err(Refusal::unknown(export));
        };
        match export.fenced_by(session) {
            Some(newest) => Err(Refusal::stale(session, newest)),
            None => Ok(()),
        }
    }

    /// The page cache, which outlives this process but not the kernel, and what of it.
    fn memory(&self, export: &str) -> Option<String> {
        let export = self.find_export(export)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(format!("{}:{}", boot.trim_end(), export.memory()))
    }
}

/// Everything that the server does for any device, and what this one can do. What needs structured replies or extended
/// headers is taken away by the handshake.
fn flags(geometry: &Geometry) -> TransmissionFlags {
    let mut flags = TransmissionFlags::HAS_FLAGS
        | TransmissionFlags::SEND_FLUSH
        | TransmissionFlags::SEND_FUA
        | TransmissionFlags::SEND_DF
        | TransmissionFlags::SEND_CACHE
        | TransmissionFlags::BLOCK_STATUS_PAYLOAD;
    if geometry.read_only {
        flags |= TransmissionFlags::READ_ONLY;
    } else {
        flags |= TransmissionFlags::SEND_TRIM | TransmissionFlags::SEND_WRITE_ZEROES;
        if geometry.fast_zero {
            flags |= TransmissionFlags::SEND_FAST_ZERO;
        }
    }
    if geometry.rotational {
        flags |= TransmissionFlags::ROTATIONAL;
    }
    if geometry.multi_connection {
        flags |= TransmissionFlags::CAN_MULTI_CONN;
    }
    flags
}

/// Digests take 64 bits; every other context fits 32.
fn offer(name: &str) -> ContextOffer {
    ContextOffer {
        name: name.to_owned(),
        wide: name == digest::CONTEXT,
    }
}
