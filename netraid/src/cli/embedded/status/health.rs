//! One word for how a mirror is.

use crate::status::{Status, word};

/// How a mirror is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    /// Every leg is in sync, and there is more than one.
    Healthy,
    /// It works, and a further failure may end that.
    Degraded,
    /// It takes no writes, or no leg has the data.
    Unusable,
}

/// How a mirror is.
pub(super) fn of(status: &Status) -> Health {
    let in_sync = |leg: &&crate::status::LegStatus| {
        leg.disk == "UpToDate" && [word::SOURCE, word::TARGET].contains(&leg.status.as_str())
    };
    let good = status.legs.iter().filter(in_sync).count();
    if status.halted.is_some() || good == 0 {
        Health::Unusable
    } else if good < status.legs.len() || good < 2 {
        Health::Degraded
    } else {
        Health::Healthy
    }
}

/// For the first line of a mirror's state.
pub(super) fn name(health: Health) -> &'static str {
    match health {
        Health::Healthy => "in sync",
        Health::Degraded => "degraded",
        Health::Unusable => "unusable",
    }
}
