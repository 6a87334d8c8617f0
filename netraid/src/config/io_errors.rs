//! What becomes of a disk that answers with errors, and of what is changed on its way: DRBD's `on-io-error` and
//! `data-integrity-alg`.

use super::fields::{Fields, Key};
use super::mirror::Backend;
use super::policies::Handlers;
use super::problem::{Complaint, Problems};

/// What is done when a leg fails a write, or a read that could not be repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnIoError {
    /// The leg is given up, and the mirror goes on through the others.
    #[default]
    Detach,
    /// The application is told; the own leg is kept, and what failed is written to it again.
    PassThrough,
    /// As `Detach`, and `handlers.local-io-error` is called on the node whose own leg it is.
    CallLocalIoError,
}

impl OnIoError {
    /// As it is written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            OnIoError::Detach => "detach",
            OnIoError::PassThrough => "pass-through",
            OnIoError::CallLocalIoError => "call-local-io-error",
        }
    }
}

/// The keys of a mirror's file that are read here.
pub(super) const KEYS: [Key; 2] = [
    Key {
        name: "on-io-error",
        example: "on-io-error = \"detach\"",
    },
    Key {
        name: "io-error-limit",
        example: "io-error-limit = 16",
    },
];

/// The policy, and how many errors are borne; `None` if that is not configured.
pub(super) fn read(
    fields: &Fields<'_>,
    backend: Option<Backend>,
    handlers: &Handlers,
    problems: &mut Problems,
) -> (OnIoError, Option<u64>) {
    let words = [
        ("detach", OnIoError::Detach),
        ("pass-through", OnIoError::PassThrough),
        ("call-local-io-error", OnIoError::CallLocalIoError),
    ];
    let policy = fields.word("on-io-error", &words, problems);
    let limit = fields.number::<u32>("io-error-limit", 0..=1_000_000, problems);
    if let (Some(Backend::Md), Some(limit)) = (backend, &limit) {
        let what = "io-error-limit is not built for backend \"md\": the kernel gives a leg up with its first failed write";
        let instead = "write backend = \"embedded\", or leave io-error-limit out";
        problems.note(&limit.place, Complaint::new(what, instead));
    }
    if let Some(policy) = &policy {
        let complaint = match (policy.value, backend) {
            (OnIoError::PassThrough, Some(Backend::Md)) => Some((
                "on-io-error \"pass-through\" is not built for backend \"md\": the kernel gives a leg up with its first failed write",
                "write \"detach\", which is what it does, or backend = \"embedded\"",
            )),
            (OnIoError::CallLocalIoError, _) if handlers.local_io_error.is_none() => Some((
                "on-io-error \"call-local-io-error\" has no program to call",
                "write handlers.local-io-error, a line for the shell, or \"detach\"",
            )),
            _ => None,
        };
        if let Some((what, instead)) = complaint {
            problems.note(&policy.place, Complaint::new(what, instead));
        }
    }
    (
        policy.map_or_else(OnIoError::default, |at| at.value),
        limit.map(|at| u64::from(at.value)),
    )
}

/// Checksums behind all that goes to and comes from the targets.
pub(super) const INTEGRITY: Key = Key {
    name: "data-integrity-alg",
    example: "data-integrity-alg = \"crc32\"",
};

/// Whether there are checksums.
pub(super) fn integrity(
    fields: &Fields<'_>,
    backend: Option<Backend>,
    problems: &mut Problems,
) -> bool {
    let words = [("crc32", true), ("none", false)];
    let integrity = fields.word(INTEGRITY.name, &words, problems);
    let Some(integrity) = integrity.filter(|at| at.value) else {
        return false;
    };
    if backend == Some(Backend::Md) {
        let complaint = Complaint::new(
            "data-integrity-alg \"crc32\" is not built for backend \"md\": the kernel's nbd client knows no checksums",
            "write backend = \"embedded\", or leave data-integrity-alg out",
        );
        problems.note(&integrity.place, complaint);
    }
    true
}
