//! A connection's socket, TCP or unix, and the options that each kind gets.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Sets what every connection of its kind gets. A peer that vanished without a word (power loss, cut cable) is
    /// found out after about a minute, idle or not.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                setsockopt(stream, sockopt::KeepAlive, &true)?;
                setsockopt(stream, sockopt::TcpKeepIdle, &30)?;
                setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
                setsockopt(stream, sockopt::TcpKeepCount, &3)?;
                setsockopt(stream, sockopt::TcpUserTimeout, &60_000)?;
            }
            Socket::Unix(stream) => {
                stream.set_nonblocking(false)?;
                // The default holds 200 KiB, so that a reply of 1 MiB takes five turns of the two processes. A
                // smaller maximum of the system (net.core.wmem_max) caps it silently.
                setsockopt(stream, sockopt::SndBuf, &UNIX_SEND_BUFFER)?;
            }
        }
        Ok(())
    }

    /// Who is at the other end, for people: an address, or the process that connected to a unix socket.
    pub(crate) fn peer(&self) -> String {
        match self {
            Socket::Tcp(stream) => match stream.peer_addr() {
                Ok(address) => address.to_string(),
                Err(_) => "gone".to_owned(),
            },
            Socket::Unix(stream) => match getsockopt(stream, sockopt::PeerCredentials) {
                Ok(who) => format!("process {} of user {}", who.pid(), who.uid()),
                Err(_) => "unknown".to_owned(),
            },
        }
    }

    /// How long a receive may wait; `None` for ever.
    pub(crate) fn set_receive_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_read_timeout(timeout),
            Socket::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// How long a send may wait; `None` for ever.
    pub(crate) fn set_send_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_write_timeout(timeout),
            Socket::Unix(stream) => stream.set_write_timeout(timeout),
        }
    }

    /// Shuts one or both directions down; fails only when the peer has gone, which comes to the same.
    pub(crate) fn shut_down(&self, how: Shutdown) {
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(how),
            Socket::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Whether there is something to receive (or the end of it).
    pub(crate) fn has_input(&self) -> bool {
        let mut set = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut set, PollTimeout::ZERO), Ok(1..))
    }

    /// Whether the peer has closed or reset its side, seen without receiving what it may have sent before.
    pub(crate) fn peer_has_closed(&self) -> bool {
        let asked = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut set = [PollFd::new(self.as_fd(), asked)];
        // Only an end or an error of the connection is reported; neither needs to be looked at.
        matches!(poll(&mut set, PollTimeout::ZERO), Ok(1..))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// In bytes; the kernel doubles it for its own bookkeeping.
const UNIX_SEND_BUFFER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_peer_that_closed_is_seen_behind_what_it_sent() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = Socket::Unix(near);
        far.write_all(b"left behind").unwrap();
        assert!(!near.peer_has_closed());
        drop(far);
        assert!(near.peer_has_closed());
    }
}
