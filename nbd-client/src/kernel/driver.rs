//! Talking with the kernel's NBD driver: one request, one answer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use linux_sys::netlink::GenericSocket;

use super::attribute::{ERROR, Malformed, Message, messages};
use super::message::{self, Announcement, Connect, DeviceStatus, Family};

/// The driver, reached over generic netlink.
#[derive(Debug)]
pub struct Driver {
    socket: GenericSocket,
    family: Family,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Why the driver did not do something.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// There is no driver.
    #[error("the kernel's nbd driver is not there")]
    Absent,
    /// The driver refused.
    #[error("the kernel's nbd driver refuses to {doing} {device}: {source}")]
    Refused {
        /// What it was asked to do.
        doing: &'static str,
        /// Which device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The conversation failed.
    #[error("can't talk with the kernel's nbd driver: {0}")]
    Netlink(#[from] io::Error),
    /// It does not speak as the headers say.
    #[error("can't understand the kernel's nbd driver: {0}")]
    Strange(String),
}

impl DriverError {
    /// The error number with which the driver refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            DriverError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl From<Malformed> for DriverError {
    fn from(malformed: Malformed) -> DriverError {
        DriverError::Strange(malformed.to_string())
    }
}

impl Driver {
    /// Finds the driver; anybody may. It is asked for nothing that needs a privilege.
    pub fn open() -> Result<Driver, DriverError> {
        let mut driver = Driver {
            socket: GenericSocket::open(Some(PATIENCE))?,
            family: Family { id: 0, group: None },
            sequence: 0,
            buffer: vec![0; ANSWER],
        };
        let mut family = None;
        let request = message::get_family(driver.next());
        let result = driver.ask(&request, |message| {
            family = Some(Family::decode(message)?);
            Ok(())
        })?;
        match (result, family) {
            (0, Some(family)) => driver.family = family,
            (code, _) if code == nix::libc::ENOENT => return Err(DriverError::Absent),
            (code, _) => {
                return Err(DriverError::Refused {
                    doing: "find",
                    device: "itself".to_owned(),
                    source: io::Error::from_raw_os_error(code),
                });
            }
        }
        Ok(driver)
    }

    /// Makes a device of sockets, which may be closed afterwards; returns its index. Needs `CAP_SYS_ADMIN`.
    pub fn connect(&mut self, connect: &Connect) -> Result<u32, DriverError> {
        let request = connect.encode(self.family.id, self.next());
        let mut given = connect.index;
        let code = self.ask(&request, |message| {
            if let Announcement::Connected { index } = Announcement::decode(message)? {
                given = Some(index);
            }
            Ok(())
        })?;
        let device = connect
            .index
            .map_or_else(|| "the next device".to_owned(), super::path);
        accepted(code, "attach", device)?;
        given.ok_or_else(|| DriverError::Strange("it does not say which device it chose".into()))
    }

    /// Takes the device away. What is in flight fails; what is open stays open on nothing. Needs `CAP_SYS_ADMIN`.
    pub fn disconnect(&mut self, index: u32) -> Result<(), DriverError> {
        let request = message::disconnect(self.family.id, self.next(), index);
        let code = self.ask(&request, |_| Ok(()))?;
        accepted(code, "detach", super::path(index))
    }

    /// Offers a socket in the place of a dead one. **Success does not say that it was taken**: with no dead socket
    /// the kernel drops the new one silently. Also changes the number of seconds that requests will wait when the last
    /// link dies; those that wait already are not concerned. Needs `CAP_SYS_ADMIN`.
    pub fn reconfigure(
        &mut self,
        index: u32,
        identifier: &str,
        socket: Option<BorrowedFd<'_>>,
        dead_timeout: Option<u64>,
    ) -> Result<(), DriverError> {
        let sequence = self.next();
        let request = message::reconfigure(
            self.family.id,
            sequence,
            index,
            identifier,
            socket.map(|socket| socket.as_raw_fd()),
            dead_timeout,
        );
        let code = self.ask(&request, |_| Ok(()))?;
        accepted(code, "reconfigure", super::path(index))
    }

    /// Every device that there is, in ascending order.
    pub fn status(&mut self) -> Result<Vec<DeviceStatus>, DriverError> {
        let request = message::status(self.family.id, self.next(), None);
        let mut devices = Vec::new();
        let code = self.ask(&request, |message| {
            if let Announcement::Devices(list) = Announcement::decode(message)? {
                devices = list;
            }
            Ok(())
        })?;
        accepted(code, "list", "its devices".to_owned())?;
        devices.sort_by_key(|device| device.index);
        Ok(devices)
    }

    /// The news of dead links, from now on.
    pub fn events(&self) -> Result<Events, DriverError> {
        let group = self
            .family
            .group
            .ok_or_else(|| DriverError::Strange("it announces nothing".into()))?;
        let socket = GenericSocket::open(Some(AT_ONCE))?;
        socket.join(group)?;
        Ok(Events {
            socket,
            family: self.family.id,
            buffer: vec![0; ANSWER],
        })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Sends a request and reads answers until the acknowledgement; returns its error number.
    fn ask(
        &mut self,
        request: &[u8],
        mut answer: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<i32, DriverError> {
        self.socket.send(request)?;
        loop {
            let datagram = self.socket.receive(&mut self.buffer)?;
            for message in messages(datagram)? {
                if message.sequence != self.sequence {
                    continue;
                }
                if message.kind == ERROR {
                    return Ok(message.error()?);
                }
                answer(&message)?;
            }
        }
    }
}

fn accepted(code: i32, doing: &'static str, device: String) -> Result<(), DriverError> {
    if code == 0 {
        return Ok(());
    }
    Err(DriverError::Refused {
        doing,
        device,
        source: io::Error::from_raw_os_error(code),
    })
}

/// What the driver announces: a socket of its own, to be polled.
#[derive(Debug)]
pub struct Events {
    socket: GenericSocket,
    family: u16,
    buffer: Vec<u8>,
}

impl Events {
    /// Takes what has been announced; returns how many sockets of the device `index` died. News can be lost when much
    /// happens at once.
    pub fn dead_links(&mut self, index: u32) -> Result<usize, DriverError> {
        let all = self.all_dead_links()?;
        let dead = all.iter().filter(|of| **of == index).count();
        tracing::debug!(index, dead, "the kernel announced dead links");
        Ok(dead)
    }

    /// Takes what has been announced: the index of a device for each of its sockets that died.
    pub fn all_dead_links(&mut self) -> Result<Vec<u32>, DriverError> {
        let mut dead = Vec::new();
        loop {
            let datagram = match self.socket.receive(&mut self.buffer) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(dead),
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in messages(datagram)? {
                if message.kind == self.family
                    && let Announcement::LinkDead { index } = Announcement::decode(&message)?
                {
                    dead.push(index);
                }
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// For an answer that the kernel has prepared before `send` returns.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest wait that a socket option can express.
const AT_ONCE: Duration = Duration::from_micros(1);
/// Longest answer in bytes: STATUS of five thousand devices.
const ANSWER: usize = 128 << 10;
