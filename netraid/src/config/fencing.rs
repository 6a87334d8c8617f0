//! `fencing`: what is done before anybody goes on without a node that may not know of it.

use super::fields::{Fields, Key};
use super::mirror::Backend;
use super::policies::Handlers;
use super::problem::{Complaint, Problems};
use crate::mirror::fencing::Fencing;

/// The key of a mirror's file that is read here.
pub(super) const KEY: Key = Key {
    name: "fencing",
    example: "fencing = \"resource-only\"",
};

/// What else the file says that matters here.
pub(super) struct Others<'a> {
    pub backend: Option<Backend>,
    pub handlers: &'a Handlers,
    pub quorum: bool,
    pub pulls_ahead: bool,
}

/// Reads it.
pub(super) fn read(fields: &Fields<'_>, others: &Others<'_>, problems: &mut Problems) -> Fencing {
    let all = [
        Fencing::DontCare,
        Fencing::ResourceOnly,
        Fencing::ResourceAndStonith,
    ];
    let words = all.map(|fencing| (fencing.as_str(), fencing));
    let Some(found) = fields.word(KEY.name, &words, problems) else {
        return Fencing::DontCare;
    };
    let freezes = found.value == Fencing::ResourceAndStonith;
    let complaint = match found.value {
        Fencing::DontCare => None,
        _ if others.handlers.fence_peer.is_none() => Some((
            "fencing needs a program that fences",
            "write handlers.fence-peer, a line for the shell, or \"dont-care\"",
        )),
        _ if others.quorum => Some((
            "with a quorum nobody goes on without a node that a majority does not know of: fencing adds nothing",
            "write quorum = \"off\", or \"dont-care\"",
        )),
        _ if freezes && others.backend == Some(Backend::Md) => Some((
            "fencing \"resource-and-stonith\" is not built for backend \"md\": the kernel can't hold answers back meanwhile",
            "write backend = \"embedded\", or \"resource-only\"",
        )),
        // A target that is left behind has left: each congestion would freeze the application.
        _ if freezes && others.pulls_ahead => Some((
            "fencing \"resource-and-stonith\" would hold the application's requests back at each congestion that is pulled ahead of",
            "write on-congestion = \"block\", or \"resource-only\"",
        )),
        _ => None,
    };
    match complaint {
        Some((what, instead)) => {
            problems.note(&found.place, Complaint::new(what, instead));
            Fencing::DontCare
        }
        None => found.value,
    }
}
