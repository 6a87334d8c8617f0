//! Receiving into a growing buffer and sending many pieces in one call.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::BytesMut;
use nix::sys::socket::{MsgFlags, sendmsg};

/// Whether a call may wait for the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Wait until the socket is ready.
    Yes,
    /// Return `WouldBlock` instead of waiting (`MSG_DONTWAIT`), whatever the descriptor's own mode is.
    No,
}

/// Receives up to `most` bytes behind what `buffer` already holds, growing it as needed; returns how many came.
///
/// 0 means that the peer closed its sending side. Interrupted calls are repeated. See recv(2).
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut BytesMut,
    most: usize,
    wait: Wait,
) -> io::Result<usize> {
    buffer.reserve(most);
    let spare = buffer.spare_capacity_mut();
    let length = spare.len().min(most);
    let flags = match wait {
        Wait::Yes => 0,
        Wait::No => libc::MSG_DONTWAIT,
    };
    let count = loop {
        // SAFETY: the pointer and length describe spare capacity that this function borrows exclusively; the kernel
        // writes at most `length` bytes there and nothing reads them before `set_len` below.
        #[allow(unsafe_code)]
        let count =
            unsafe { libc::recv(socket.as_raw_fd(), spare.as_mut_ptr().cast(), length, flags) };
        match usize::try_from(count) {
            Ok(count) => break count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    let filled = buffer.len() + count;
    // SAFETY: recv initialised the `count` bytes behind the old length, and `count` is at most the spare capacity.
    #[allow(unsafe_code)]
    unsafe {
        buffer.set_len(filled);
    }
    Ok(count)
}

/// Sends as much of `pieces` as the socket takes, in one sendmsg(2); returns how many bytes went.
///
/// Never raises SIGPIPE. Interrupted calls are repeated. At most 1024 pieces (`UIO_MAXIOV`) are looked at.
pub fn send(socket: BorrowedFd<'_>, pieces: &[IoSlice<'_>], wait: Wait) -> io::Result<usize> {
    let mut flags = MsgFlags::MSG_NOSIGNAL;
    if wait == Wait::No {
        flags |= MsgFlags::MSG_DONTWAIT;
    }
    let pieces = &pieces[..pieces.len().min(1024)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), pieces, &[], flags, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Ends a TCP connection at once: what was not sent never will be, not even by a retransmission, and the peer gets a
/// reset. See connect(2) on `AF_UNSPEC`. Works while others hold the same socket.
pub fn abort(socket: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or_default(),
        sa_data: [0; 14],
    };
    let size = libc::socklen_t::try_from(size_of_val(&nobody)).unwrap_or(16);
    // SAFETY: the pointer and size describe `nobody`, which lives through the call; the kernel only reads it.
    #[allow(unsafe_code)]
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, size) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_an_aborted_connection_did_not_send_is_never_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let held_by_another = client.try_clone().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // More than the buffers of both ends hold, so that a rest is left to be sent.
        client.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = client.write(&[7; 65536]) {
            written += count;
        }
        abort(held_by_another.as_fd()).unwrap();
        let mut received = Vec::new();
        let end = server.read_to_end(&mut received).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        assert!(received.len() < written);
    }
}
