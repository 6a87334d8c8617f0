//! Two exports to negotiate about.

use super::server::{ContextOffer, ExportDirectory, ExportInfo, Listing, Refusal};
use crate::number::TransmissionFlags;
use crate::session::Session;

/// A session that is admitted.
pub(crate) const SESSION: Session = Session {
    client: 0x1234,
    generation: 5,
};
/// A session that is fenced by [`SESSION`].
pub(crate) const STALE: Session = Session {
    client: 0x1234,
    generation: 4,
};

/// `disk` (also the default) offers everything, `other` nothing but what makes no sense.
pub(crate) struct Disks;

impl ExportDirectory for Disks {
    fn list(&self) -> Vec<Listing> {
        let listing = |name: &str, description: &str| Listing {
            name: name.into(),
            description: description.into(),
        };
        vec![listing("disk", "a disk"), listing("other", "")]
    }

    fn find(&self, name: &str) -> Result<ExportInfo, Refusal> {
        let disk = ExportInfo {
            name: "disk".into(),
            description: "a disk".into(),
            size: 1 << 20,
            // All but READ_ONLY and ROTATIONAL.
            flags: TransmissionFlags(0x1fed),
            minimum_block: 512,
            preferred_block: 4096,
            maximum_payload: 32 << 20,
            contexts: vec![
                ContextOffer::new("base:allocation"),
                ContextOffer {
                    name: "x-netraid:blake3".into(),
                    wide: true,
                },
                ContextOffer::new("x-netraid:dirty"),
            ],
        };
        match name {
            "" | "disk" => Ok(disk),
            "other" => Ok(ExportInfo {
                name: name.into(),
                description: String::new(),
                flags: TransmissionFlags::SEND_FAST_ZERO,
                contexts: Vec::new(),
                ..disk
            }),
            _ => Err(Refusal::unknown(name)),
        }
    }

    fn admit(&self, _export: &str, session: &Session) -> Result<(), Refusal> {
        if session.generation < SESSION.generation {
            return Err(Refusal::stale(session, SESSION.generation));
        }
        Ok(())
    }
}
