//! The messages of the kernel's "nbd" family, as values and as bytes. Numbers are those of linux/nbd-netlink.h.

use std::os::fd::RawFd;

use nbd_protocol::number::TransmissionFlags;

use super::attribute::{Malformed, Message, Writer, attributes, find, fixed};

/// What becomes of the device without its client (`NBD_ATTR_CLIENT_FLAGS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFlags(pub u64);

impl ClientFlags {
    /// The kernel disconnects when the device's last user closes it (`NBD_CFLAG_DISCONNECT_ON_CLOSE`).
    pub const DISCONNECT_ON_CLOSE: ClientFlags = ClientFlags(1 << 1);
}

/// A device that is to be: the command CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Which device; `None` lets the kernel choose a free one.
    pub index: Option<u32>,
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// Logical and physical block size in bytes: a power of two from 512 to the machine's page size.
    pub block_size: u32,
    /// Seconds until a request without an answer costs the socket its life; 0 is never.
    pub timeout: u64,
    /// Seconds that requests wait for a new socket when none is left; 0 fails them at once.
    pub dead_timeout: u64,
    /// What the server offers.
    pub server_flags: TransmissionFlags,
    /// What becomes of the device without its client.
    pub client_flags: ClientFlags,
    /// Descriptors of the sockets, at least one.
    pub sockets: Vec<RawFd>,
    /// Shown in sysfs; RECONFIGURE has to name it again.
    pub identifier: String,
}

impl Connect {
    pub(super) fn encode(&self, family: u16, sequence: u32) -> Vec<u8> {
        let mut message = Writer::request(family, sequence, CONNECT, VERSION);
        if let Some(index) = self.index {
            message.u32(INDEX, index);
        }
        message.u64(SIZE_BYTES, self.size);
        message.u64(BLOCK_SIZE_BYTES, u64::from(self.block_size));
        message.u64(TIMEOUT, self.timeout);
        message.u64(SERVER_FLAGS, u64::from(self.server_flags.0));
        message.u64(CLIENT_FLAGS, self.client_flags.0);
        put_sockets(&mut message, &self.sockets);
        message.u64(DEAD_CONN_TIMEOUT, self.dead_timeout);
        message.text(BACKEND_IDENTIFIER, &self.identifier);
        message.finish()
    }
}

/// DISCONNECT: the device goes away, what is in flight fails.
pub(super) fn disconnect(family: u16, sequence: u32, index: u32) -> Vec<u8> {
    let mut message = Writer::request(family, sequence, DISCONNECT, VERSION);
    message.u32(INDEX, index);
    message.finish()
}

/// RECONFIGURE: offers a socket in the place of a dead one, and changes the time, in seconds, that requests wait for
/// one.
pub(super) fn reconfigure(
    family: u16,
    sequence: u32,
    index: u32,
    identifier: &str,
    socket: Option<RawFd>,
    dead_timeout: Option<u64>,
) -> Vec<u8> {
    let mut message = Writer::request(family, sequence, RECONFIGURE, VERSION);
    message.u32(INDEX, index);
    if let Some(socket) = socket {
        put_sockets(&mut message, &[socket]);
    }
    if let Some(seconds) = dead_timeout {
        message.u64(DEAD_CONN_TIMEOUT, seconds);
    }
    message.text(BACKEND_IDENTIFIER, identifier);
    message.finish()
}

/// STATUS of one device, or of all.
pub(super) fn status(family: u16, sequence: u32, index: Option<u32>) -> Vec<u8> {
    let mut message = Writer::request(family, sequence, STATUS, VERSION);
    if let Some(index) = index {
        message.u32(INDEX, index);
    }
    message.finish()
}

/// GETFAMILY: asks the controller for the number of the family "nbd".
pub(super) fn get_family(sequence: u32) -> Vec<u8> {
    let mut message = Writer::request(CONTROLLER, sequence, GET_FAMILY, 1);
    message.text(FAMILY_NAME, "nbd");
    message.finish()
}

/// What the controller says about a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) id: u16,
    /// The multicast group of LINK_DEAD.
    pub(super) group: Option<u32>,
}

impl Family {
    pub(super) fn decode(message: &Message<'_>) -> Result<Family, Malformed> {
        let (_, rest) = message.generic()?;
        let outer = attributes(rest)?;
        let id = find(&outer, FAMILY_ID).ok_or(Malformed("a family without a number"))?;
        let mut group = None;
        for (_, entry) in attributes(find(&outer, MULTICAST_GROUPS).unwrap_or_default())? {
            let entry = attributes(entry)?;
            if find(&entry, GROUP_NAME) == Some(GROUP) {
                let id = find(&entry, GROUP_ID).ok_or(Malformed("a group without a number"))?;
                group = Some(u32::from_ne_bytes(fixed(id)?));
            }
        }
        let id = u16::from_ne_bytes(fixed(id)?);
        Ok(Family { id, group })
    }
}

/// One device in the answer to STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// N of /dev/nbdN.
    pub index: u32,
    /// Somebody uses it: it is attached, or it was and is still open. Says nothing about its links.
    pub connected: bool,
}

/// What the family "nbd" sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Announcement {
    /// The answer to CONNECT.
    Connected { index: u32 },
    /// The answer to STATUS.
    Devices(Vec<DeviceStatus>),
    /// A device has lost a socket.
    LinkDead { index: u32 },
    /// Something that a newer kernel says.
    Other,
}

impl Announcement {
    pub(super) fn decode(message: &Message<'_>) -> Result<Announcement, Malformed> {
        let (command, rest) = message.generic()?;
        let outer = attributes(rest)?;
        let index = || {
            let value = find(&outer, INDEX).ok_or(Malformed("no device number"))?;
            Ok(u32::from_ne_bytes(fixed(value)?))
        };
        Ok(match command {
            CONNECT => Announcement::Connected { index: index()? },
            LINK_DEAD => Announcement::LinkDead { index: index()? },
            STATUS => {
                let list = attributes(find(&outer, DEVICE_LIST).unwrap_or_default())?;
                let devices = list
                    .iter()
                    .filter(|(kind, _)| *kind == DEVICE_ITEM)
                    .map(|(_, item)| device(item))
                    .collect::<Result<_, _>>()?;
                Announcement::Devices(devices)
            }
            _ => Announcement::Other,
        })
    }
}

fn device(item: &[u8]) -> Result<DeviceStatus, Malformed> {
    let fields = attributes(item)?;
    let (Some(index), Some(connected)) =
        (find(&fields, DEVICE_INDEX), find(&fields, DEVICE_CONNECTED))
    else {
        return Err(Malformed("a device without its state"));
    };
    Ok(DeviceStatus {
        index: u32::from_ne_bytes(fixed(index)?),
        connected: fixed::<1>(connected)? != [0],
    })
}

fn put_sockets(message: &mut Writer, sockets: &[RawFd]) {
    message.nest(SOCKETS, |list| {
        for socket in sockets {
            // The kernel reads the number as int again.
            list.nest(SOCK_ITEM, |item| item.u32(SOCK_FD, socket.cast_unsigned()));
        }
    });
}

const VERSION: u8 = 1;
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const LINK_DEAD: u8 = 4;
const STATUS: u8 = 5;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const CLIENT_FLAGS: u16 = 6;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const DEVICE_LIST: u16 = 9;
const BACKEND_IDENTIFIER: u16 = 10;

const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;
const DEVICE_ITEM: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_CONNECTED: u16 = 2;

/// Numbers of linux/genetlink.h.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const MULTICAST_GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;
/// `NBD_GENL_MCAST_GROUP_NAME` with its zero byte.
const GROUP: &[u8] = b"nbd_mc_group\0";

#[cfg(test)]
mod tests;
