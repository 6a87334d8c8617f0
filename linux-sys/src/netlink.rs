//! A generic netlink socket: messages to the kernel, and its answers and announcements. See netlink(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// A socket of protocol `NETLINK_GENERIC`.
#[derive(Debug)]
pub struct GenericSocket(OwnedFd);

impl GenericSocket {
    /// Opens a socket with an address of the kernel's choosing. A receive waits for at most `patience`; `None` waits
    /// for ever.
    pub fn open(patience: Option<std::time::Duration>) -> io::Result<GenericSocket> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )?;
        if let Some(patience) = patience {
            let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
            let value = TimeVal::new(seconds, i64::from(patience.subsec_micros()));
            setsockopt(&socket, sockopt::ReceiveTimeout, &value)?;
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(GenericSocket(socket))
    }

    /// From now on the kernel's announcements to the multicast group `group` arrive here
    /// (`NETLINK_ADD_MEMBERSHIP`, netlink(7)).
    pub fn join(&self, group: u32) -> io::Result<()> {
        let size = libc::socklen_t::try_from(size_of_val(&group)).unwrap_or(4);
        // SAFETY: the pointer and size describe `group`, which lives through the call; the kernel only reads it.
        #[allow(unsafe_code)]
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_ADD_MEMBERSHIP,
                (&raw const group).cast(),
                size,
            )
        };
        Errno::result(result)?;
        Ok(())
    }

    /// Sends one message, whole.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let sent = send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
        if sent != message.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Receives one datagram, which may hold several messages, into `buffer`; what comes from another process instead
    /// of the kernel is thrown away. Interrupted calls are repeated.
    ///
    /// # Errors
    /// `WouldBlock` when nothing came in time; `ENOBUFS` when announcements were lost.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), buffer) {
                Ok((length, Some(sender))) if sender.pid() == 0 => {
                    return Ok(buffer.get(..length).unwrap_or_default());
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for GenericSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_kernel_answers_a_request() {
        // GETFAMILY of "nlctrl", the controller itself: nlmsghdr, genlmsghdr, one attribute.
        let mut request = Vec::new();
        for (number, bytes) in [(31u32, 4), (0x10, 2), (0x1, 2), (7, 4), (0, 4)] {
            request.extend_from_slice(&number.to_ne_bytes()[..bytes]);
        }
        request.extend_from_slice(&[3, 1, 0, 0, 11, 0, 2, 0]);
        request.extend_from_slice(b"nlctrl\0\0");
        let socket = GenericSocket::open(Some(Duration::from_secs(5))).unwrap();
        socket.send(&request).unwrap();
        let mut buffer = [0; 8192];
        let answer = socket.receive(&mut buffer).unwrap();
        assert_eq!(answer[8..12], 7u32.to_ne_bytes());
        assert!(answer.windows(7).any(|part| part == b"nlctrl\0"));
    }

    #[test]
    fn a_receive_ends_when_nothing_comes() {
        let socket = GenericSocket::open(Some(Duration::from_millis(10))).unwrap();
        let error = socket.receive(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
