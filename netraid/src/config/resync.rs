//! The keys that say how fast resyncs and verifies are, and after which mirror's this one's comes: DRBD's options.
//!
//! Rates are in KiB a second, times in tenths of a second, as DRBD's users know them; `c-fill-target` is in bytes, like our
//! other buffers.

use flags::Tag;

use super::fields::{Fields, Key};
use super::mirror::Backend;
use super::parameters::Parameters;
use super::problem::{At, Complaint, Place, Problems, quoted};
use crate::array::Speed;
use crate::raid1::engine::Control;

/// What is configured of resyncs. Rates in KiB a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resyncs {
    /// `resync-rate` alone, or with `c-plan-ahead = 0`: exactly so fast.
    pub fixed: Option<u32>,
    /// `c-max-rate`.
    pub most: Option<u32>,
    /// `c-min-rate`.
    pub least: Option<u32>,
    /// The controller's keys; `None` for the kernel's RAID1, and for a fixed rate.
    pub control: Option<Control>,
    /// `resync-after`: the mirror whose resync comes first, on each node for itself.
    pub after: Option<Tag>,
}

impl Resyncs {
    /// What an array is told, with `LKDR_SPEED_LIMIT` and `LKDR_SPEED_LIMIT_MIN` for what is not written.
    pub fn speed(&self, parameters: &Parameters) -> Speed {
        if let Some(rate) = self.fixed {
            return Speed {
                most: Some(rate),
                least: Some(rate),
                control: Some(Control::OFF),
            };
        }
        // Of a bound that is written and one that is not, the one that is written counts.
        let (most, least) = (parameters.speed_limit, parameters.speed_limit_min);
        let (most, least) = match (self.most, self.least) {
            (Some(most), Some(least)) => (most, least),
            (Some(most), None) => (most, least.min(most)),
            (None, Some(least)) => (most.max(least), least),
            (None, None) => (most, least),
        };
        Speed {
            most: Some(most),
            least: Some(least),
            control: Some(self.control.unwrap_or(Control::OFF)),
        }
    }
}

/// The keys of a mirror's file that are read here.
pub(super) const RESYNC_KEYS: [Key; 7] = [
    Key {
        name: "resync-rate",
        example: "resync-rate = 102400",
    },
    Key {
        name: "c-plan-ahead",
        example: "c-plan-ahead = 20",
    },
    Key {
        name: "c-fill-target",
        example: "c-fill-target = 1048576",
    },
    Key {
        name: "c-delay-target",
        example: "c-delay-target = 3",
    },
    Key {
        name: "c-min-rate",
        example: "c-min-rate = 20000",
    },
    Key {
        name: "c-max-rate",
        example: "c-max-rate = 500000",
    },
    Key {
        name: "resync-after",
        example: "resync-after = \"data\"",
    },
];

/// What a file says, with the place of what other files may contradict.
pub(super) struct Draft {
    pub(super) resyncs: Resyncs,
    pub(super) after: Option<At<Tag>>,
}

/// The controller's own keys, as they are written.
struct Keys {
    plan: Option<At<u64>>,
    fill: Option<At<u64>>,
    delay: Option<At<u64>>,
}

impl Keys {
    fn places(&self) -> impl Iterator<Item = (&'static str, &Place)> {
        let places = [
            ("c-plan-ahead", &self.plan),
            ("c-fill-target", &self.fill),
            ("c-delay-target", &self.delay),
        ];
        let there = places.into_iter();
        there.filter_map(|(key, at)| at.as_ref().map(|at| (key, &at.place)))
    }

    fn is_off(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.value == 0)
    }
}

pub(super) fn read(
    fields: &Fields<'_>,
    backend: Option<Backend>,
    problems: &mut Problems,
) -> Draft {
    let rate = |key, problems: &mut Problems| fields.number::<u32>(key, 1..=MOST, problems);
    let fixed = rate("resync-rate", problems);
    let (least, most) = (rate("c-min-rate", problems), rate("c-max-rate", problems));
    let keys = Keys {
        plan: fields.number("c-plan-ahead", 0..=300, problems),
        fill: fields.number("c-fill-target", 0..=8 << 20, problems),
        delay: fields.number("c-delay-target", 1..=100, problems),
    };
    let after = fields.text("resync-after", problems, |text| {
        Tag::new(text).map_err(|_| {
            Complaint::new(
                format!("resync-after {} is no tag of a mirror", quoted(text)),
                "write for example resync-after = \"data\"",
            )
        })
    });
    let kernel = backend == Some(Backend::Md);
    if kernel {
        for (key, place) in keys.places() {
            let what =
                format!("{key} has no meaning for the kernel's RAID1, which bounds the rate alone");
            let instead = "write c-max-rate and c-min-rate, or backend = \"embedded\"";
            problems.note(place, Complaint::new(what, instead));
        }
    }
    // With a controller it is the rate to begin with, as in DRBD.
    let is_fixed = fixed.is_some() && (kernel || keys.is_off() || keys.places().next().is_none());
    if is_fixed {
        for (key, bound) in [("c-min-rate", &least), ("c-max-rate", &most)] {
            if let Some(bound) = bound {
                let what = format!("{key} has no meaning beside resync-rate, which fixes the rate");
                let instead =
                    "leave out one of them, or write c-plan-ahead = 20 for a variable rate";
                problems.note(&bound.place, Complaint::new(what, instead));
            }
        }
    }
    if let (Some(least), Some(most)) = (&least, &most)
        && least.value > most.value
    {
        let what = format!("c-min-rate {} is more than c-max-rate", least.value);
        let instead = format!("write at most {}", most.value);
        problems.note(&least.place, Complaint::new(what, instead));
    }
    if keys.is_off() && !kernel {
        let others = keys.places().filter(|(key, _)| *key != "c-plan-ahead");
        for (key, place) in others {
            let what = format!("{key} has no meaning with c-plan-ahead = 0, which fixes the rate");
            let instead = "leave it out, or write c-plan-ahead = 20";
            problems.note(place, Complaint::new(what, instead));
        }
        if let (None, Some(plan)) = (&fixed, &keys.plan) {
            let what = "c-plan-ahead 0 is for a fixed rate, and resync-rate is missing";
            let instead = "write for example resync-rate = 102400, or leave c-plan-ahead out";
            problems.note(&plan.place, Complaint::new(what, instead));
        }
    }
    let start = fixed.map(|at| at.value);
    let value = |at: Option<At<u32>>| at.map(|at| at.value);
    Draft {
        resyncs: Resyncs {
            fixed: start.filter(|_| is_fixed),
            most: value(most),
            least: value(least),
            control: (!is_fixed && !kernel).then(|| control(keys, start)),
            after: after.as_ref().map(|at| at.value.clone()),
        },
        after,
    }
}

/// `verify-rate`, in bytes.
pub(super) fn verify_rate(fields: &Fields<'_>, problems: &mut Problems) -> Option<u64> {
    let rate = fields.number::<u32>("verify-rate", 0..=i64::from(u32::MAX), problems)?;
    Some(u64::from(rate.value) << 10)
}

fn control(keys: Keys, start: Option<u32>) -> Control {
    let usual = Control::default();
    let tenths = |at: Option<At<u64>>, usual| at.map_or(usual, |at| at.value * 100);
    Control {
        plan_ahead: tenths(keys.plan, usual.plan_ahead),
        fill_target: keys.fill.map_or(usual.fill_target, |at| at.value),
        delay_target: tenths(keys.delay, usual.delay_target),
        start: start.map_or(0, |kib| u64::from(kib) << 10),
    }
}

/// Notes mirrors that wait for one that is not there, or for themselves: each is its tag, and for whom it waits.
pub(super) fn order(mirrors: &[(&Tag, &At<Tag>)], known: &[&Tag], problems: &mut Problems) {
    let next = |tag: &Tag| {
        let found = mirrors.iter().find(|(own, _)| *own == tag);
        found.map(|(_, after)| &after.value)
    };
    for (tag, after) in mirrors {
        if !known.contains(&&after.value) {
            let tags: Vec<String> = known.iter().map(|tag| tag.to_string()).collect();
            let complaint = Complaint::new(
                format!("resync-after {:?} is no mirror", after.value.as_str()),
                format!("known here are {}", tags.join(", ")),
            );
            problems.note(&after.place, complaint);
            continue;
        }
        // Whoever is in the circle says so; who only leads into it is right once that is mended.
        let mut circle = vec![*tag];
        let mut at = Some(&after.value);
        while let Some(one) = at.filter(|one| !circle.contains(one)) {
            circle.push(one);
            at = next(one);
        }
        if at == Some(*tag) {
            circle.push(tag);
            let names: Vec<&str> = circle.iter().map(|tag| tag.as_str()).collect();
            let complaint = Complaint::new(
                format!(
                    "resync-after goes round in a circle: {}",
                    names.join(" -> ")
                ),
                "leave it out in one of them",
            );
            problems.note(&after.place, complaint);
        }
    }
}

/// The most that the kernel takes, in KiB a second.
const MOST: i64 = i32::MAX as i64;
