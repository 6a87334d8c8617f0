//! How fast resyncs are and whose turn it is: `netraid resync TAG --boost`, `resync-after`, and why one is as slow as it is.

use super::{Broken, Driver, perform};
use crate::api::document::{self, Answer, Outcome};
use crate::array::{ArrayStatus, Speed};
use crate::cli::show::size;
use crate::mirror::machine::Service;
use crate::status::{ResyncStatus, limited_by};

/// What was done about this mirror's resyncs.
#[derive(Debug, Default)]
pub(super) struct Resyncs {
    /// `--boost`, with its rate in KiB a second if it has one, until the resync ends.
    boost: Option<Option<u32>>,
    /// The mirror whose resync is waited for.
    waits_for: Option<String>,
    /// What the array was told last of holding; `None`: nothing yet.
    held: Option<bool>,
}

impl Driver {
    /// Has the resync under way boosted (`Some`), or ends that.
    pub(super) fn boost(&mut self, boost: Option<Option<u64>>, dry_run: bool) {
        let tag = self.names.tag.clone();
        let next = Some(format!("netraid status {tag}"));
        let view = self.local.view().ok().flatten();
        let resync = view.and_then(|view| view.status.status.resync);
        let refusal = match () {
            () if self.machine.service() != Service::In => {
                Some(format!("{tag} is not in service here: its source resyncs"))
            }
            () if boost.is_some() && resync.is_none() => {
                Some(format!("no resync of {tag} is under way"))
            }
            () => None,
        };
        if let Some(why) = refusal {
            return self.answer(Answer::not(Outcome::Refused, why, next));
        }
        // KiB, at least one.
        let boost = boost.map(|rate| rate.map(|rate| kib(rate).max(1)));
        let text = match boost {
            Some(None) => format!("the resync of {tag} is as fast as it can be until it ends"),
            Some(Some(rate)) => {
                let rate = size(u64::from(rate) << 10);
                format!("the resync of {tag} has {rate}/s until it ends")
            }
            None => format!("resyncs of {tag} are as fast as they are configured"),
        };
        if dry_run {
            return self.answer(Answer {
                steps: vec![text],
                ..Answer::done()
            });
        }
        let before = std::mem::replace(&mut self.resyncs.boost, boost);
        if let Err(error) = self.set_speed() {
            self.resyncs.boost = before;
            return self.answer(perform::answer(&error));
        }
        let event = match boost {
            Some(_) => "resync-boosted",
            None => "resync-normal",
        };
        self.tell(event, text);
        // Whoever is boosted does not wait for others.
        self.take_turns(resync.as_ref());
        self.answer(Answer::done());
    }

    /// Tells the array how fast its resyncs may be.
    pub(super) fn set_speed(&self) -> Result<(), crate::array::ArrayError> {
        match self.resyncs.boost {
            Some(rate) => self.local.set_speed(Speed::boosted(rate)),
            None => self.local.set_speed(self.local.plan().speed),
        }
    }

    /// An array runs that was told nothing yet.
    pub(super) fn begin_turns(&mut self) {
        self.resyncs = Resyncs::default();
        self.take_turns(None);
    }

    /// Has this mirror's resyncs wait, or go on; ends a boost whose resync is over. `resync` is the one under way.
    fn take_turns(&mut self, resync: Option<&ResyncStatus>) {
        if !self.local.is_running() {
            return;
        }
        let resyncs = resync.is_some();
        if self.resyncs.boost.is_some() && !resyncs {
            self.resyncs.boost = None;
            match self.set_speed() {
                Ok(()) => self.tell("resync-normal", "the boosted resync has ended".into()),
                Err(error) => {
                    let why = format!("the next resync has the limits of the boosted one: {error}");
                    self.tell("no-limits", why);
                }
            }
        }
        let after = self.local.plan().after.clone();
        let waits_for =
            after.filter(|tag| self.resyncs.boost.is_none() && self.shared.resyncs(tag));
        let held = waits_for.is_some();
        // The kernel's lets its resyncs go when a leg is added.
        let escaped = held && resync.is_some_and(|resync| !resync.paused);
        if self.resyncs.held != Some(held) || escaped {
            if let Err(error) = self.local.hold_resync(held) {
                // It is tried again at the next look.
                tracing::warn!(
                    tag = self.names.tag,
                    "resyncs can't be held or freed: {error}"
                );
                return;
            }
            self.resyncs.held = Some(held);
        }
        if self.resyncs.waits_for != waits_for {
            match &waits_for {
                Some(tag) if resyncs => {
                    self.tell("resync-waits", format!("it waits for the resync of {tag}"));
                }
                None if resyncs => self.tell("resync-goes-on", "the resync goes on".into()),
                _ => {}
            }
            self.resyncs.waits_for = waits_for;
        }
    }

    /// Looks whether it is this mirror's turn.
    pub(super) fn look_at_turns(&mut self) -> Result<(), Broken> {
        if self.local.plan().after.is_none() && self.resyncs.boost.is_none() {
            return Ok(());
        }
        if self.machine.service() == Service::In
            && let Ok(Some(view)) = self.local.view()
        {
            self.take_turns(view.status.status.resync.as_ref());
        }
        Ok(())
    }

    /// The resync under way, for people.
    pub(super) fn resync_shown(&self, status: &ArrayStatus) -> Option<document::Resync> {
        let resync = status.status.resync.as_ref()?;
        let waits_for = self.resyncs.waits_for.clone().filter(|_| resync.paused);
        let boosted = self.resyncs.boost.is_some();
        let spare = self.local.plan().speed.control.unwrap_or_default();
        Some(document::Resync {
            copied: resync.copied,
            left: resync.left,
            percent: resync.percent,
            speed: resync.speed,
            time_left_ms: resync.time_left_ms.filter(|_| !resync.paused),
            paused: resync.paused,
            limited_by: match resync.paused {
                true => Some(limited_by::PAUSED.into()),
                false => resync.limited_by.clone(),
            },
            why: why(
                resync,
                &Bounds {
                    most: status.speed_limit,
                    least: status.speed_limit_min,
                    fill: spare.fill_target,
                    delay: spare.delay_target,
                },
                waits_for.as_deref(),
                boosted,
            ),
            waits_for,
            boosted,
        })
    }
}

/// What was set, in KiB a second, bytes and milliseconds.
struct Bounds {
    most: Option<u32>,
    least: Option<u32>,
    fill: u64,
    delay: u64,
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 10)
        .unwrap_or(u32::MAX)
        .min(i32::MAX as u32)
}

/// Why it is not faster: one sentence, without a full stop. `None` if that is not known.
fn why(
    resync: &ResyncStatus,
    bounds: &Bounds,
    waits_for: Option<&str>,
    boosted: bool,
) -> Option<String> {
    let rate = |kib: Option<u32>| {
        kib.map_or_else(
            || "what is configured".to_owned(),
            |kib| format!("{}/s", size(u64::from(kib) << 10)),
        )
    };
    let takes = match resync.delay_ms {
        0 => String::new(),
        delay => format!(", which take {delay} ms for a piece"),
    };
    if resync.paused {
        return Some(match waits_for {
            Some(tag) => format!("it waits for the resync of {tag} (resync-after)"),
            None => "it is held".into(),
        });
    }
    let fixed = bounds.most.is_some() && bounds.most == bounds.least;
    Some(match resync.limited_by.as_deref()? {
        limited_by::RATE if boosted => {
            format!("it has the rate of its boost, {}", rate(bounds.most))
        }
        limited_by::RATE if fixed => format!("its rate is fixed at {}", rate(bounds.most)),
        limited_by::RATE => format!("c-max-rate bounds it at {}", rate(bounds.most)),
        limited_by::APPLICATION => format!(
            "it steps aside for the application, as long as it has c-min-rate, {}",
            rate(bounds.least)
        ),
        limited_by::DELAY if bounds.fill > 0 => format!(
            "no more than c-fill-target, {}, is to be on its way to the disks and the network of the targets{takes}",
            size(bounds.fill)
        ),
        limited_by::DELAY => format!(
            "the disks or the network of the targets are full{takes}: more on its way would exceed c-delay-target, {} ms",
            bounds.delay
        ),
        limited_by::LEGS => {
            format!("it is as fast as the disks and the network of source and targets are{takes}")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(limited_by: &str, delay_ms: u64, boosted: bool, fill: u64) -> String {
        let resync = ResyncStatus {
            limited_by: Some(limited_by.into()),
            delay_ms,
            ..ResyncStatus::default()
        };
        let bounds = Bounds {
            most: Some(500 << 10),
            least: Some(20 << 10),
            fill,
            delay: 300,
        };
        why(&resync, &bounds, None, boosted).unwrap()
    }

    #[test]
    fn each_reason_names_the_key_that_changes_it() {
        assert_eq!(
            said(limited_by::RATE, 3, false, 0),
            "c-max-rate bounds it at 500 MiB/s"
        );
        assert_eq!(
            said(limited_by::RATE, 3, true, 0),
            "it has the rate of its boost, 500 MiB/s"
        );
        assert_eq!(
            said(limited_by::APPLICATION, 3, false, 0),
            "it steps aside for the application, as long as it has c-min-rate, 20 MiB/s"
        );
        assert_eq!(
            said(limited_by::DELAY, 310, false, 0),
            "the disks or the network of the targets are full, which take 310 ms for a piece: more on its way would \
             exceed c-delay-target, 300 ms"
        );
        assert!(said(limited_by::DELAY, 0, false, 1 << 20).contains("c-fill-target, 1 MiB,"));
        assert!(said(limited_by::LEGS, 7, false, 0).ends_with("which take 7 ms for a piece"));
    }

    #[test]
    fn a_resync_that_is_held_says_for_whom() {
        let resync = ResyncStatus {
            paused: true,
            limited_by: Some(limited_by::PAUSED.into()),
            ..ResyncStatus::default()
        };
        let bounds = Bounds {
            most: None,
            least: None,
            fill: 0,
            delay: 0,
        };
        let said = |tag| why(&resync, &bounds, tag, false).unwrap();
        assert_eq!(
            said(Some("log")),
            "it waits for the resync of log (resync-after)"
        );
        assert_eq!(said(None), "it is held");
    }
}
