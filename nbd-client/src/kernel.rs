//! `/dev/nbdN`: hands negotiated sockets to the kernel's NBD driver, so that an export becomes a block device.
//!
//! The driver is asked over generic netlink ([`Driver`]); what it has is read from `/sys` and `/proc` ([`Tree`]).
//! [`attach()`] negotiates sockets and hands them over, [`detach()`] takes a device away from the kernel again, and
//! [`watch()`] stays behind and puts new sockets in place of dead ones. Only the last needs a process: an attached
//! device lives in the kernel alone.
//!
//! The kernel knows simple replies only, so nothing else is negotiated on its sockets; a session
//! ([`nbd_protocol::session`]) works on them nevertheless.

mod attach;
mod attribute;
mod detach;
mod driver;
mod identity;
mod message;
mod plan;
mod sysfs;
mod watch;

pub use attach::{AttachError, AttachOptions, Attached, attach};
pub use detach::{DetachError, detach};
pub use driver::{Driver, DriverError, Events};
pub use message::{ClientFlags, Connect, DeviceStatus};
pub use plan::{Changed, Plan, Unfit};
pub use sysfs::{Found, Tree, User};
pub use watch::{Event, Left, WatchError, watch};

/// The device's path.
pub fn path(index: u32) -> String {
    format!("/dev/nbd{index}")
}

/// The index in `/dev/nbdN` or `nbdN`; `None` for anything else, partitions too.
pub fn index(device: &str) -> Option<u32> {
    let digits = device
        .strip_prefix("/dev/")
        .unwrap_or(device)
        .strip_prefix("nbd")?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    // The kernel counts minor numbers of 20 bits in i32.
    let index = digits.parse().ok().filter(|index| *index < 1 << 20)?;
    (plain && canonical).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_number() {
        assert_eq!(index("/dev/nbd0"), Some(0));
        assert_eq!(index("nbd15"), Some(15));
        for other in [
            "/dev/nbd",
            "/dev/nbd01",
            "/dev/nbd0p1",
            "/dev/sda",
            "/dev/nbd+1",
            "nbd1048576",
            "",
        ] {
            assert_eq!(index(other), None, "{other}");
        }
        assert_eq!(index(&path(7)), Some(7));
    }
}
