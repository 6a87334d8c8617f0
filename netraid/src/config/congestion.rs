//! Which protocols there are with which backend; the send buffers of targets under protocol A, and what happens when one is
//! full.

use super::fields::Fields;
use super::mirror::{Backend, Protocol};
use super::problem::{Complaint, Problems};
use crate::raid1::engine::OnCongestion;

/// What is configured of them, in bytes.
#[derive(Debug, Default)]
pub(super) struct Congestion {
    pub(super) send_buffer: Option<u64>,
    /// With how many bytes what happens.
    pub(super) policy: OnCongestion,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Block,
    Disconnect,
    PullAhead,
}

/// Bytes of a send buffer that is not configured.
const SEND_BUFFER: u64 = 10 << 20;

/// What the backends can do today.
pub(super) fn possible(
    backend: Option<Backend>,
    protocol: Protocol,
    without_bitmap: bool,
) -> Result<(), Complaint> {
    let refused = |what: &str, instead: &str| Err(Complaint::new(what, instead));
    match (backend, protocol) {
        (_, Protocol::C) => Ok(()),
        // A target's server answers a write when it is in its memory, which is what B asks for, and C gets no more: what
        // must be on the disk is flushed.
        (_, Protocol::B) => Ok(()),
        (_, Protocol::A) if without_bitmap => refused(
            "protocol A needs the write-intent bitmap to know what is on the way",
            "write bitmap = \"internal\", or protocol = \"C\"",
        ),
        (_, Protocol::A) => Ok(()),
    }
}

pub(super) fn read(
    fields: &Fields<'_>,
    backend: Option<Backend>,
    problems: &mut Problems,
) -> Congestion {
    let size = fields.number::<u64>("sndbuf-size", 64 << 10..=256 << 20, problems);
    let words = [
        ("block", Policy::Block),
        ("disconnect", Policy::Disconnect),
        ("pull-ahead", Policy::PullAhead),
    ];
    let policy = fields.word("on-congestion", &words, problems);
    let fill = fields.number::<u64>("congestion-fill", 64 << 10..=256 << 20, problems);
    let mut congestion = Congestion {
        send_buffer: size.as_ref().map(|at| at.value),
        policy: OnCongestion::Block,
    };
    if backend == Some(Backend::Md) {
        let places = [
            ("sndbuf-size", size.map(|at| at.place)),
            ("on-congestion", policy.map(|at| at.place)),
            ("congestion-fill", fill.map(|at| at.place)),
        ];
        for (key, place) in places {
            let what = format!(
                "{key} has no meaning for the kernel's RAID1, which bounds writes, not bytes"
            );
            let instead = "set LKDR_ASYNC_LIMIT, or write backend = \"embedded\"";
            if let Some(place) = place {
                problems.note(&place, Complaint::new(what, instead));
            }
        }
        return congestion;
    }
    let most = congestion.send_buffer.unwrap_or(SEND_BUFFER);
    let above = fill.as_ref().map_or(most, |fill| fill.value);
    congestion.policy = match policy.map(|at| at.value) {
        Some(Policy::PullAhead) => OnCongestion::PullAhead(above),
        Some(Policy::Disconnect) => OnCongestion::Disconnect(above),
        Some(Policy::Block) | None => OnCongestion::Block,
    };
    if let Some(fill) = &fill {
        let blocks = congestion.policy == OnCongestion::Block;
        let complaint = match fill.value > most {
            true => Some((
                format!(
                    "congestion-fill is more than the send buffer of {most} bytes, which is full before"
                ),
                "write at most the size of the send buffer, sndbuf-size",
            )),
            false if blocks => Some((
                "congestion-fill has no meaning while writes wait for a full send buffer".into(),
                "write on-congestion = \"pull-ahead\" or \"disconnect\", or leave it out",
            )),
            false => None,
        };
        if let Some((what, instead)) = complaint {
            problems.note(&fill.place, Complaint::new(what, instead));
        }
    }
    congestion
}
