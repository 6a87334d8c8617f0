//! What can be exported: anything that takes block commands and completes each of them once.

use std::sync::Arc;

use nbd_protocol::command::{Command, Completion};

/// What a device offers; fixed while it is exported, but for the size, which may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes.
    pub size: u64,
    /// Smallest unit of offsets and lengths, a power of two from 1 to 65536 bytes.
    pub minimum_block: u32,
    /// Unit that the device handles best, a power of two of at least 512 bytes.
    pub preferred_block: u32,
    /// No command may change data.
    pub read_only: bool,
    /// Seeks cost time.
    pub rotational: bool,
    /// `WriteZeroes` with `fast` can be answered.
    pub fast_zero: bool,
    /// A flush on one connection covers what was answered on all of them.
    pub multi_connection: bool,
    /// Names of the block-status contexts; the first is `base:allocation`, others begin with `x-netraid:`.
    pub contexts: Vec<String>,
}

/// A disk: a file, a block device, a remote export or a whole mirror.
///
/// `submit` may complete the command before it returns, or later from another thread. Several commands run at once and
/// may complete in any order; the caller keeps overlapping writes apart. Offsets and lengths were checked by the
/// caller against the geometry. A device waits in `submit` no longer than one access of its own medium takes.
pub trait BlockDevice: Send + Sync {
    /// Size, alignment and abilities.
    fn geometry(&self) -> Geometry;

    /// Starts one command.
    fn submit(&self, command: Command, completion: Completion);

    /// What names the place that holds what was answered and not flushed, unique on this machine until it is started
    /// anew: two devices of the same name, also of two processes one after the other, have the same data. `None`: nothing
    /// outlives this device.
    fn memory(&self) -> Option<String> {
        None
    }

    /// A hint that the commands submitted before belong together and no more follow at once: send what was gathered.
    fn kick(&self) {}
}

/// A device that several owners share.
pub type SharedDevice = Arc<dyn BlockDevice>;
