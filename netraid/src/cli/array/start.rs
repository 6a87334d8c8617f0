//! `netraid array start`: puts this node's leg into service.

use std::path::PathBuf;

use serde_json::json;

use super::super::exit::Exit;
use super::{Common, tunable};
use crate::array::md::Kernel;
use crate::array::tunable::{async_limit, speed};
use crate::array::{Backend, Speed};

/// Starts a mirror from this node's leg, alone. Other legs are added afterwards: each is resynced from this one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  netraid array start --tag data --disk /dev/sdb1\n\n\
    The device is /dev/md/TAG. Starting a mirror that runs already does nothing."
)]
pub(super) struct Start {
    #[command(flatten)]
    common: Common,

    /// The leg of this node
    #[arg(long, value_name = "PATH")]
    disk: PathBuf,

    /// Start even if the leg was being resynced: its data may be of different times, and others have better
    #[arg(long)]
    force: bool,

    /// Asynchronous: so many writes may be on the way to the targets when the application is answered, 1 to 16383. They
    /// may be lost with this node [default: $LKDR_ASYNC_LIMIT, else synchronous]
    #[arg(long, value_name = "WRITES")]
    async_limit: Option<String>,

    /// Resync at most at this speed in KiB/s [default: $LKDR_SPEED_LIMIT, else the kernel's]
    #[arg(long, value_name = "KIB")]
    speed_limit: Option<String>,

    /// Resync at this speed even while the application writes [default: $LKDR_SPEED_LIMIT_MIN, else the kernel's]
    #[arg(long, value_name = "KIB")]
    speed_limit_min: Option<String>,
}

pub(super) fn perform(order: &Start) -> Result<(), Exit> {
    let start = crate::array::Start {
        tag: order.common.tag.clone(),
        disk: order.disk.clone(),
        force: order.force,
        new_generation: false,
        speed: speeds(
            order.speed_limit.as_deref(),
            order.speed_limit_min.as_deref(),
        )?,
        async_limit: tunable(
            order.async_limit.as_deref(),
            "LKDR_ASYNC_LIMIT",
            async_limit,
        )?,
        compare: false,
        streams: crate::array::Streams::default(),
        care: crate::array::Care::default(),
    };
    let kernel = Kernel::new(order.common.machine()?);
    let array = kernel.start(&start)?;
    if order.common.dry_run {
        return Ok(());
    }
    let status = array.status()?;
    let device = status.device.clone().unwrap_or_default();
    order.common.say(
        &format!("mirror {} runs as {device}", order.common.tag),
        &json!({ "tag": order.common.tag, "device": device }),
    );
    Ok(())
}

pub(super) fn speeds(most: Option<&str>, least: Option<&str>) -> Result<Speed, Exit> {
    let (limit, limit_min) = ("LKDR_SPEED_LIMIT", "LKDR_SPEED_LIMIT_MIN");
    Ok(Speed {
        most: tunable(most, limit, |text| speed(limit, text))?,
        least: tunable(least, limit_min, |text| speed(limit_min, text))?,
        control: None,
    })
}
