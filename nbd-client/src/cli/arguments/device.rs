//! What the command line may say about block devices of the kernel.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nbd_client::kernel::{self, AttachOptions};
use nbd_protocol::session::{SESSION_PREFIX, Session};

/// Make an export a block device of the kernel
#[derive(Debug, Args)]
#[command(after_help = "\
The sockets are negotiated here and handed to the kernel's nbd driver; then this program ends
and the device stays. Prints the device's path. Needs CAP_SYS_ADMIN and the kernel module
(modprobe nbd).

A request without an answer costs its socket its life after --timeout. When no socket is left,
requests wait for new ones for --dead-timeout and fail afterwards. New sockets come from
--watch: it stays, dials again when the kernel tells of a dead link, and puts new sockets in
place; requests pause and go on. What was in flight on the dead link is sent again only when its
own --timeout has passed (the kernel may take up to twice as long), so keep that short. An
application waits for --dead-timeout plus a few --timeouts at most, also for a server that can
be reached but never answers; then its requests fail, and the device works again with the
server. A server that has come back with another size, another name or less ability is not used:
the reason is said, and looked at again.

A server may have lost what it had answered but not flushed, if its machine was restarted. NetRAID's
nbd-server proves that it has not. One that has, and any server that can't prove anything, is not
gone on with: the device is given up at once, its requests fail, and --watch ends with code 3. A
mirror loses that leg, and resyncs what it has to once the leg is attached and added again.
--risk-lost-writes goes on with servers that can't prove anything, as other clients do.

With a server that knows sessions (ours), each reconnection ends what is left of older
connections, so that no stalled write can land after newer ones. --connections above 1 needs the
server's promise that a flush on one connection covers the others.

SIGTERM and SIGINT end --watch and leave the device attached; with --detach-on-exit it is
detached, unless it is in use.

Examples:
  nbd-client attach nbd://server2/disk /dev/nbd0
  nbd-client attach --next 'nbd+unix:///disk?socket=/run/nbd.sock'
  nbd-client attach --watch --timeout 5 --dead-timeout 20 nbd://server2/disk /dev/nbd0
  device=$(nbd-client attach --next nbd://server2/disk) && mount \"$device\" /mnt

JSON (schema nbd-client.attach/1), one document a line, each with an event and the device:
attached {uri, size, block_size, read_only, connections, timeout_ms, dead_timeout_ms,
identifier, session}; session is null, or {client, generation} if the server fences. With
--watch also: link_dead {dead, alive, announced}, unreachable and refused {reason, again_in_ms},
gave_up_waiting {after_ms}, reconnected {replaced, after_ms, session}, and at the end left,
detached, given_up {reason}, or in_use {users}.")]
pub(crate) struct Attach {
    /// NBD URI of the export
    #[arg(value_name = "URI")]
    pub(crate) target: String,
    /// Device to become, /dev/nbdN; one that does not exist is made
    #[arg(value_name = "DEVICE", required_unless_present = "next", conflicts_with = "next", value_parser = parse_device)]
    pub(crate) device: Option<u32>,
    /// Let the kernel choose a free device
    #[arg(long)]
    next: bool,
    /// Connections to the server
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    connections: u8,
    /// Block size in bytes: 512, 1024, 2048 or 4096 [default: the server's smallest, at least 512]
    #[arg(long, value_name = "BYTES")]
    block_size: Option<u32>,
    /// Seconds until a request without an answer costs its socket its life [default: 10 with --watch,
    /// otherwise 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
    /// Seconds that requests wait for a new socket when none is left; 0: fail at once [default: 30 with
    /// --watch, otherwise 0]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    dead_timeout: Option<u32>,
    /// Detach when the last user closes the device; a partition scan by udev is a user, too
    #[arg(long)]
    disconnect_on_close: bool,
    /// Text shown in /sys/block/nbdN/backend [default: the URI]
    #[arg(long, value_name = "TEXT")]
    identifier: Option<String>,
    /// Let nobody write
    #[arg(long)]
    read_only: bool,
    /// Who we are to a server that fences: a UUID, a colon and a generation that is higher than any that was
    /// used before; each reconnection adds one, so leave gaps, such as 2^32 [default: the array and its events if the
    /// export is a leg of a mirror, otherwise made up, so that only connections of this attach are fenced]
    #[arg(long, value_name = "UUID:GENERATION", value_parser = parse_session)]
    session: Option<Session>,
    /// This node's leg of the mirror whose leg the export is, or is to become: then the sources that attached it before
    /// are fenced also when the export is blank
    #[arg(long, value_name = "DISK", conflicts_with = "session")]
    own_leg: Option<PathBuf>,
    /// Stay, and reconnect when links die
    #[arg(long)]
    pub(crate) watch: bool,
    /// With --watch: reconnect also to a server that can't prove that it still has what it answered but had not yet
    /// flushed; if its machine was restarted, such writes are gone, and nobody is told
    #[arg(long, requires = "watch")]
    risk_lost_writes: bool,
    /// With --watch: detach at the end
    #[arg(long, requires = "watch")]
    pub(crate) detach_on_exit: bool,
    /// Print JSON documents, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

impl Attach {
    pub(crate) fn options(&self) -> AttachOptions {
        // What was in flight on a dead socket is sent again only after its own timeout; without somebody who
        // reconnects, a timeout is the end.
        let (timeout, dead_timeout) = if self.watch { (10, 30) } else { (30, 0) };
        let timeout = Duration::from_secs(self.timeout.unwrap_or(timeout).into());
        AttachOptions {
            index: self.device,
            connections: self.connections.into(),
            block_size: self.block_size,
            timeout,
            dead_timeout: Duration::from_secs(self.dead_timeout.unwrap_or(dead_timeout).into()),
            disconnect_on_close: self.disconnect_on_close,
            identifier: self.identifier.clone(),
            read_only: self.read_only,
            connect_timeout: timeout.min(Duration::from_secs(10)),
            session: self.session,
            own_leg: self.own_leg.clone(),
            risk_lost_writes: self.risk_lost_writes,
        }
    }
}

/// Take a device away from the kernel again
#[derive(Debug, Args)]
#[command(after_help = "\
Refused (exit code 3) while the device or a partition of it is in use: mounted, part of an array
or a volume, swapped to, or open. --force does it all the same: then its users' requests fail,
and what was written but not yet synchronised is lost. Waits until the device is gone. A --watch
over it ends by itself.

Examples:
  nbd-client detach /dev/nbd0
  nbd-client list-devices            # shows who uses it")]
pub(crate) struct Detach {
    /// Device, /dev/nbdN
    #[arg(value_name = "DEVICE", value_parser = parse_device)]
    pub(crate) device: u32,
    /// Also if it is in use
    #[arg(long)]
    pub(crate) force: bool,
}

/// List the kernel's NBD devices
#[derive(Debug, Args)]
#[command(after_help = "\
Only what is attached, unless --all. Says nothing about links: a device is attached until it is
detached, even if its server is gone. Who uses it: arrays and volumes by name, mount points,
processes with their number (all of them are seen only by root).

Examples:
  nbd-client list-devices
  nbd-client list-devices --json | jq -r '.devices[] | select(.users == []) | .device'

JSON (schema nbd-client.list-devices/1): devices [{device, index, state (attached, or free),
size, block_size, read_only, identifier, pid (that attached it), users [{kind (device, mount,
swap or process), name, pid}]}].")]
pub(crate) struct ListDevices {
    /// Also those that are free
    #[arg(long)]
    pub(crate) all: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_device(text: &str) -> Result<u32, String> {
    kernel::index(text).ok_or_else(|| "expected /dev/nbdN".to_owned())
}

fn parse_session(text: &str) -> Result<Session, String> {
    let session = format!("{SESSION_PREFIX}{text}").parse::<Session>();
    session.map_err(|_| {
        "expected a lower-case UUID with hyphens, a colon and a decimal number".to_owned()
    })
}
