//! A leg that was away while the array got another size.

use super::step::Step;
use crate::array::ArrayError;
use crate::array::leg::Leg;
use crate::md::{Resize, SECTOR};

/// A leg that was away while the array was resized, as it has to be to become one of it, and the step that makes it so.
///
/// # Errors
/// [`ArrayError::Refused`] if its disk is too small.
pub(super) fn bring_along(
    found: Leg,
    local: &Leg,
    device: u64,
    disk: &std::path::Path,
) -> Result<(Leg, Option<Step>), ArrayError> {
    let chunk = |leg: &Leg| leg.bitmap.as_ref().map(|bitmap| bitmap.header.chunk);
    if found.size() == local.size() && chunk(&found) == chunk(local) {
        return Ok((found, None));
    }
    let refused = |error: &dyn std::fmt::Display| {
        ArrayError::refused(format!(
            "the leg of {} can't have the mirror's size: {error}; nothing was written",
            found.record.node
        ))
    };
    let bitmap = found.bitmap.as_ref();
    if bitmap.is_some() != local.bitmap.is_some() {
        return Err(refused(&"only one of both has a write-intent bitmap"));
    }
    let resized = Resize {
        superblock: &found.superblock,
        bitmap: bitmap.map(|bitmap| (&bitmap.header, &bitmap.bits)),
        device,
        size: local.size(),
        chunk: chunk(local).unwrap_or(0),
    }
    .plan()
    .map_err(|error| refused(&error))?;
    let step = Step::Write {
        disk: disk.to_owned(),
        what: format!("it has {} bytes", resized.superblock.size * SECTOR),
        writes: resized.writes,
    };
    let bitmap = found.bitmap.clone().zip(resized.bitmap);
    let bitmap = bitmap.map(|(was, (header, bits))| crate::array::leg::Bitmap {
        header,
        bits,
        ..was
    });
    let leg = Leg {
        superblock: resized.superblock,
        bitmap,
        ..found
    };
    Ok((leg, Some(step)))
}
