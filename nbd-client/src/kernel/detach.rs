//! Takes a device away from the kernel again, unless somebody needs it.

use std::time::{Duration, Instant};

use super::driver::{Driver, DriverError};
use super::sysfs::{Tree, User};

/// Why a device was not detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// There is nothing to detach.
    #[error("{} is not attached", super::path(*index))]
    NotAttached {
        /// The device.
        index: u32,
    },
    /// Somebody uses it.
    #[error("{} is in use by {}", super::path(*index), list(users))]
    InUse {
        /// The device.
        index: u32,
        /// Who.
        users: Vec<User>,
    },
    /// The driver did as told, but the device is still there.
    #[error("{} was disconnected but is still there after {} s", super::path(*index), after.as_secs())]
    StillThere {
        /// The device.
        index: u32,
        /// Time waited.
        after: Duration,
    },
    /// The driver did not.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Detaches a device and waits until it is gone. With `force` also if it is in use: then its users' requests fail, and
/// those are returned who keep the empty device open until they close it.
pub fn detach(
    driver: &mut Driver,
    tree: &Tree,
    index: u32,
    force: bool,
) -> Result<Vec<User>, DetachError> {
    if tree.device(index).and_then(|device| device.pid).is_none() {
        return Err(DetachError::NotAttached { index });
    }
    let users = tree.users(index);
    if !users.is_empty() && !force {
        return Err(DetachError::InUse { index, users });
    }
    driver.disconnect(index)?;
    let begun = Instant::now();
    // Who uses it may never close it; that is no reason to wait long.
    let patience = if users.is_empty() {
        PATIENCE
    } else {
        PATIENCE_WITH_USERS
    };
    while tree.device(index).and_then(|device| device.pid).is_some() {
        if begun.elapsed() < patience {
            std::thread::sleep(LOOK_AGAIN);
            continue;
        }
        let users = tree.users(index);
        if users.is_empty() {
            let after = begun.elapsed();
            return Err(DetachError::StillThere { index, after });
        }
        return Ok(users);
    }
    Ok(Vec::new())
}

/// Names of users in a row.
fn list(users: &[User]) -> String {
    let names: Vec<String> = users.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// The kernel finishes what is under way and the last reader closes.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_WITH_USERS: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
