//! From an export to a device: negotiates the sockets, checks that all of them lead to the same disk, and hands them
//! to the kernel.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nbd_protocol::session::Session;

use super::driver::{Driver, DriverError};
use super::identity::{self, IdentityError};
use super::message::{ClientFlags, Connect};
use super::plan::{Changed, Plan, Unfit};
use super::sysfs::Tree;
use crate::client::random_identity;
use crate::connection::{Export, OpenError, Options, open_bare};
use crate::target::Target;

/// What the device is to be like.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// N of /dev/nbdN; `None` lets the kernel choose a free one.
    pub index: Option<u32>,
    /// Sockets, at least one; several only if the server promises `NBD_FLAG_CAN_MULTI_CONN`.
    pub connections: usize,
    /// Block size in bytes; `None` takes the server's smallest, at least 512.
    pub block_size: Option<u32>,
    /// How long a request may stay without an answer until its socket is given up. Whole seconds, at least one.
    pub timeout: Duration,
    /// How long requests wait for a new socket when none is left. Whole seconds; zero fails them at once.
    pub dead_timeout: Duration,
    /// The kernel detaches the device when its last user closes it.
    pub disconnect_on_close: bool,
    /// What sysfs shows as `backend`; `None` takes the export's URI.
    pub identifier: Option<String>,
    /// Nobody may write, even if the server would let them.
    pub read_only: bool,
    /// Time for connecting and negotiating each socket.
    pub connect_timeout: Duration,
    /// Who we are to a server that knows sessions; `None`: the mirror whose leg the export is, or is to be, and else an
    /// identity that is made up.
    pub session: Option<Session>,
    /// The leg of this node, of the mirror whose leg the export is or is to be.
    pub own_leg: Option<PathBuf>,
    /// Reconnect also to a server that can't prove that it still has all that it answered. **Dangerous**: after a power
    /// loss of such a server the device goes on with old data, and nobody is told.
    pub risk_lost_writes: bool,
}

/// A device that was attached.
#[derive(Debug)]
pub struct Attached {
    /// N of /dev/nbdN.
    pub index: u32,
    /// What it is like.
    pub plan: Plan,
    /// What sysfs shows as `backend`.
    pub identifier: String,
    /// Who we are to the server.
    pub session: Session,
    /// As it was asked for.
    pub options: AttachOptions,
    /// The kernel's sockets. They may be closed: the kernel keeps its own references.
    pub sockets: Vec<OwnedFd>,
    /// What the kernel notes as the device's process; changes when somebody else attaches the device.
    pub owner: Option<u32>,
}

/// Why a device was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It is somebody's already.
    #[error("{} is already attached{}", super::path(*index), by(*pid, process.as_deref(), identifier.as_deref()))]
    Busy {
        /// The device.
        index: u32,
        /// The process that attached it, if the kernel still knows.
        pid: Option<u32>,
        /// The name of that process, if it is still there.
        process: Option<String>,
        /// What it was attached to.
        identifier: Option<String>,
    },
    /// No negotiated socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The export can't become this device.
    #[error("{target} can't be attached: {source}")]
    Unfit {
        /// The export.
        target: String,
        /// Why.
        source: Unfit,
    },
    /// Two connections led to two disks.
    #[error("the connections to {target} do not lead to one disk: {source}")]
    Differs {
        /// The export.
        target: String,
        /// How they differ.
        source: Changed,
    },
    /// The server sent replies before requests.
    #[error("{target} sent {bytes} bytes that nobody asked for")]
    Surplus {
        /// The export.
        target: String,
        /// How many.
        bytes: usize,
    },
    /// The identifier can't be shown on one line of sysfs.
    #[error("an identifier has 1 to 1024 bytes and no control characters")]
    Identifier,
    /// It can't be said who we are.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The driver refused.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The server's limit could not be made the kernel's.
    #[error("{} was detached again: its requests can't be kept to the server's limit of {bytes} bytes: {source}", super::path(*index))]
    Limit {
        /// The device.
        index: u32,
        /// The longest request that the server takes.
        bytes: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes the export a device. When this returns the device can be used, and needs this process no longer.
pub fn attach(
    driver: &mut Driver,
    tree: &Tree,
    target: &Target,
    options: AttachOptions,
) -> Result<Attached, AttachError> {
    let identifier = options
        .identifier
        .clone()
        .unwrap_or_else(|| target.to_string());
    let sound = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    if identifier.len() > LONGEST_IDENTIFIER || !sound(&identifier) {
        return Err(AttachError::Identifier);
    }
    if let Some(index) = options.index {
        let attached = |found: &super::sysfs::Found| found.pid.is_some();
        if tree.device(index).as_ref().is_some_and(attached) {
            return Err(busy(tree, index));
        }
    }
    let session = match options.session {
        Some(session) => session,
        None => match identity::of_mirror(
            target,
            &connection_options(&options),
            options.own_leg.as_deref(),
        )? {
            Some(session) => session,
            None => Session {
                client: random_identity().map_err(OpenError::Thread)?,
                generation: 1,
            },
        },
    };
    let (first, export) = dial(target, &options, session)?;
    let connections = options.connections.max(1);
    let plan = Plan::new(&export, options.block_size, options.read_only, connections);
    let plan = plan.map_err(|source| AttachError::Unfit {
        target: target.to_string(),
        source,
    })?;
    let mut sockets = vec![first];
    while sockets.len() < connections {
        let (socket, export) = dial(target, &options, session)?;
        plan.check(&export).map_err(|source| AttachError::Differs {
            target: target.to_string(),
            source,
        })?;
        sockets.push(socket);
    }
    let index = hand_over(driver, tree, &plan, &options, &identifier, &sockets)?;
    let bytes = plan.maximum_payload.unwrap_or(u32::MAX).min(LONGEST);
    if let Err(source) = tree.size_requests(index, bytes) {
        driver.disconnect(index)?;
        return Err(AttachError::Limit {
            index,
            bytes,
            source,
        });
    }
    let owner = tree.device(index).and_then(|found| found.pid);
    Ok(Attached {
        index,
        plan,
        identifier,
        session,
        options,
        sockets,
        owner,
    })
}

/// A negotiated socket of the device.
pub(super) fn dial(
    target: &Target,
    options: &AttachOptions,
    session: Session,
) -> Result<(OwnedFd, Export), AttachError> {
    let connection = Options {
        session: Some(session),
        ..connection_options(options)
    };
    let (socket, export, surplus) = open_bare(target, &connection)?;
    if surplus > 0 {
        return Err(AttachError::Surplus {
            target: target.to_string(),
            bytes: surplus,
        });
    }
    Ok((socket, export))
}

fn connection_options(options: &AttachOptions) -> Options {
    Options {
        connect_timeout: options.connect_timeout,
        // Also the time after which a silent peer's TCP connection is given up.
        request_timeout: Some(options.timeout),
        ..Options::default()
    }
}

fn hand_over(
    driver: &mut Driver,
    tree: &Tree,
    plan: &Plan,
    options: &AttachOptions,
    identifier: &str,
    sockets: &[OwnedFd],
) -> Result<u32, AttachError> {
    let client_flags = match options.disconnect_on_close {
        true => ClientFlags::DISCONNECT_ON_CLOSE,
        false => ClientFlags::default(),
    };
    let connect = Connect {
        index: options.index,
        size: plan.size,
        block_size: plan.block_size,
        timeout: options.timeout.as_secs().max(1),
        dead_timeout: options.dead_timeout.as_secs(),
        server_flags: plan.flags,
        client_flags,
        sockets: sockets.iter().map(AsRawFd::as_raw_fd).collect(),
        identifier: identifier.to_owned(),
    };
    driver
        .connect(&connect)
        .map_err(|error| match options.index {
            Some(index) if error.errno() == Some(nix::libc::EBUSY) => busy(tree, index),
            _ => error.into(),
        })
}

fn busy(tree: &Tree, index: u32) -> AttachError {
    let found = tree.device(index).unwrap_or_default();
    AttachError::Busy {
        index,
        pid: found.pid,
        process: found.pid.and_then(|pid| tree.process_name(pid)),
        identifier: found.identifier,
    }
}

/// Who attached a device, as the end of a sentence.
fn by(pid: Option<u32>, process: Option<&str>, identifier: Option<&str>) -> String {
    let to = identifier.map_or_else(String::new, |to| format!(" to {to}"));
    let by = match (pid, process) {
        (Some(pid), Some(name)) => format!(", by process {pid} ({name})"),
        (Some(pid), None) => format!(", by process {pid}, which has ended"),
        (None, _) => String::new(),
    };
    to + &by
}

/// Much less than a page, which is what sysfs shows.
const LONGEST_IDENTIFIER: usize = 1024;
/// Bytes of the longest request that the kernel is let make: what DRBD's are too. A round trip costs as much as copying a
/// good part of this; longer ones keep short ones waiting.
const LONGEST: u32 = 1 << 20;
