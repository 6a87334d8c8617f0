//! What is done to a single socket of a device: seen to be dead, ended for good, replaced.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use linux_sys::socket::abort;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt};
use nix::sys::time::TimeValLike;

use crate::kernel::driver::{Driver, DriverError};

/// What to wait for on a socket, to learn of its death.
pub(super) fn watched(socket: &OwnedFd) -> PollFd<'_> {
    // Hang-ups and errors are always told, a peer's half-close only when asked for. `PollFlags` has no name for it, so
    // `PollFd::any` answers None when it is told.
    let half_closed = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    PollFd::new(socket.as_fd(), half_closed)
}

/// Which of the sockets are dead: closed by the server, or by the kernel, which closes both directions of a socket that
/// it gives up.
pub(super) fn dead(sockets: &[OwnedFd]) -> io::Result<Vec<bool>> {
    let mut waited: Vec<PollFd<'_>> = sockets.iter().map(watched).collect();
    poll(&mut waited, PollTimeout::ZERO)?;
    let dead = waited.iter().map(|socket| socket.any().unwrap_or(true));
    Ok(dead.collect())
}

/// Ends a dead socket for good, once the kernel has read the last answers of a server that closed it.
pub(super) fn bury(socket: &OwnedFd) {
    let mut waited = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    // If this fails, the answers are lost, and their requests are sent again.
    let _ = poll(&mut waited, LAST_WORDS);
    cut(socket);
}

/// Ends a socket for the kernel and for the server. Nothing of it is sent or retransmitted any more.
pub(super) fn cut(socket: &OwnedFd) {
    // Fails on sockets that are gone already.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
    // Fails on unix sockets, which lose and retransmit nothing. Busy until the kernel's reader has noticed the above.
    for _ in 0..50 {
        match abort(socket.as_fd()) {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => break,
        }
    }
}

/// Offers a socket to the kernel until it takes it, which it does once it holds the old one for dead; false if it does
/// not in time. `dead_timeout` is what the kernel is to be told with it, in seconds.
pub(super) fn put_in_place(
    driver: &mut Driver,
    index: u32,
    identifier: &str,
    socket: &OwnedFd,
    mut dead_timeout: Option<u64>,
) -> Result<bool, DriverError> {
    let begun = Instant::now();
    while begun.elapsed() < HAND_OVER {
        driver.reconfigure(index, identifier, Some(socket.as_fd()), dead_timeout.take())?;
        // The kernel sets the send timeout of the sockets that are its own.
        let taken = getsockopt(socket, sockopt::SendTimeout)
            .is_ok_and(|timeout| timeout.num_microseconds() != 0);
        if taken {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(false)
}

/// The kernel notices a closed socket in microseconds; a loaded one may take longer.
const HAND_OVER: Duration = Duration::from_secs(2);
/// In milliseconds.
const LAST_WORDS: u8 = 100;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_dead_when_either_side_has_closed_it() {
        let pairs: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
        let (ours, mut theirs): (Vec<OwnedFd>, Vec<UnixStream>) = pairs
            .into_iter()
            .map(|(a, b)| (OwnedFd::from(a), b))
            .unzip();
        theirs[1].shutdown(std::net::Shutdown::Write).unwrap();
        drop(theirs.remove(2));
        cut(&ours[3]);
        assert_eq!(dead(&ours).unwrap(), [false, true, true, true]);
        assert_eq!(theirs.last_mut().unwrap().read(&mut [0]).unwrap(), 0);
    }
}
