//! `netraid array add`, `remove`, `fullresync`, `speed` and `stop`: orders to a mirror that runs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::{exit, exit::Exit, show};
use super::Common;
use crate::array::md::MdArray;
use crate::array::{Added, Array, ArrayError, NewLeg, Speed as Limits};
use crate::status::word;

/// Adds a leg, or takes one back. What the leg itself has marked is merged first, so nothing that it wrote while it was
/// away can stay; whose data is good is decided by generations alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    netraid array add --tag data --node server2 --leg /dev/nbd0\n  \
    netraid array add --tag data --node server2 --leg /dev/nbd0 --discard   # after a split brain, server2 loses\n\n\
    Exit code 3: the leg has newer data, was written alone, or its disk holds something else. Nothing was written then.")]
pub(super) struct Add {
    #[command(flatten)]
    common: Common,

    /// The node whose disk it is
    #[arg(long)]
    node: String,

    /// The block device, as a rule an attached NBD device
    #[arg(long, value_name = "DEVICE")]
    leg: String,

    /// Copy everything
    #[arg(long)]
    full: bool,

    /// Give up what the leg wrote while it was alone, or has newer than this node
    #[arg(long)]
    discard: bool,

    /// Overwrite a disk that holds something else
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    wait: Wait,
}

/// Waiting for a resync.
#[derive(Debug, clap::Args)]
struct Wait {
    /// Return only when the leg is in sync
    #[arg(long)]
    wait: bool,

    /// Seconds to wait at most
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 86_400,
        requires = "wait"
    )]
    timeout: u64,
}

/// Goes on without a leg. Writes are marked from now on, and copied when it is added again.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    #[command(flatten)]
    common: Common,

    /// The node whose leg it is
    #[arg(long)]
    node: String,
}

/// Copies everything to a leg, whatever the bitmap says.
#[derive(Debug, clap::Args)]
pub(super) struct FullResync {
    #[command(flatten)]
    common: Common,

    /// The node whose leg it is
    #[arg(long)]
    node: String,

    #[command(flatten)]
    wait: Wait,
}

/// Bounds the speed of resyncs, at once, also of one under way.
#[derive(Debug, clap::Args)]
pub(super) struct Speed {
    #[command(flatten)]
    common: Common,

    /// At most so many KiB/s [LKDR_SPEED_LIMIT]
    #[arg(long, value_name = "KIB", required_unless_present = "min")]
    max: Option<u32>,

    /// So many KiB/s even while the application writes [LKDR_SPEED_LIMIT_MIN]
    #[arg(long, value_name = "KIB")]
    min: Option<u32>,
}

/// Stops a mirror cleanly. Refused while something uses its device.
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    #[command(flatten)]
    common: Common,
}

pub(super) fn add(order: &Add) -> Result<(), Exit> {
    let array = order.common.array()?;
    let added = array.add(&NewLeg {
        node: order.node.clone(),
        location: order.leg.clone(),
        full: order.full,
        discard: order.discard,
        force: order.force,
    })?;
    begun(&order.common, &array, &order.node, &added, &order.wait)
}

pub(super) fn full_resync(order: &FullResync) -> Result<(), Exit> {
    let array = order.common.array()?;
    let added = array.full_resync(&order.node)?;
    begun(&order.common, &array, &order.node, &added, &order.wait)
}

fn begun(
    common: &Common,
    array: &MdArray,
    node: &str,
    added: &Added,
    wait: &Wait,
) -> Result<(), Exit> {
    if common.dry_run {
        return Ok(());
    }
    if wait.wait {
        wait_for(array, node, Duration::from_secs(wait.timeout))?;
    }
    let state = if wait.wait {
        "is in sync"
    } else {
        "is being resynced"
    };
    let how = match added.full {
        true => "in full".to_owned(),
        false => format!(
            "in part: {}, of which its own bitmap marked {}",
            show::size(added.dirty_bytes),
            show::size(added.merged_bytes)
        ),
    };
    let mut object = json!({ "tag": common.tag, "node": node, "in_sync": wait.wait });
    if let (Some(object), Ok(serde_json::Value::Object(more))) =
        (object.as_object_mut(), serde_json::to_value(added))
    {
        object.extend(more);
    }
    common.say(&format!("{node} {state}, {how} ({})", added.rule), &object);
    Ok(())
}

/// Waits for events and looks at the leg after each.
fn wait_for(array: &MdArray, node: &str, patience: Duration) -> Result<(), Exit> {
    let deadline = Instant::now() + patience;
    let mut watch = array.watch()?;
    loop {
        let status = array.status()?.status;
        let leg = status.legs.iter().find(|leg| leg.node == node);
        match leg.map(|leg| (leg.status.as_str(), &leg.reason)) {
            Some((word::TARGET, _)) => return Ok(()),
            Some((word::RESYNCING | word::PAUSED, _)) => {}
            // The kernel takes a moment to give a new leg its place, and a failed one has a reason.
            Some((_, None)) => {}
            Some((state, Some(reason))) => {
                return Err(Exit::failed(format!("{node} is {state}: {reason}")));
            }
            None => return Err(Exit::failed(format!("{node} has no leg any more"))),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let late = format!("{node} is not in sync after {} s", patience.as_secs());
            return Err(Exit::new(exit::TIMEOUT, late));
        }
        watch.next(left.min(Duration::from_millis(500)))?;
    }
}

pub(super) fn remove(order: &Remove) -> Result<(), Exit> {
    order.common.array()?.remove(&order.node)?;
    if !order.common.dry_run {
        order.common.say(
            &format!("mirror {} goes on without {}", order.common.tag, order.node),
            &json!({ "tag": order.common.tag, "node": order.node }),
        );
    }
    Ok(())
}

pub(super) fn speed(order: &Speed) -> Result<(), Exit> {
    if let (Some(max), Some(min)) = (order.max, order.min)
        && min > max
    {
        return Err(Exit::usage(format!("--min {min} is more than --max {max}")));
    }
    let limits = Limits {
        most: order.max,
        least: order.min,
        control: None,
    };
    order.common.array()?.set_speed(limits)?;
    if !order.common.dry_run {
        order.common.say(
            &format!(
                "the bounds of mirror {}'s resyncs are set",
                order.common.tag
            ),
            &json!({ "tag": order.common.tag, "max": order.max, "min": order.min }),
        );
    }
    Ok(())
}

pub(super) fn stop(order: &Stop) -> Result<(), Exit> {
    let array = order.common.array()?;
    array.stop().map_err(|error| match error {
        ArrayError::Failed(why) => Exit::failed(why).hint("is its device mounted or open?"),
        other => other.into(),
    })?;
    if !order.common.dry_run {
        order.common.say(
            &format!("mirror {} is stopped", order.common.tag),
            &json!({ "tag": order.common.tag }),
        );
    }
    Ok(())
}
