//! Connecting a socket, to the end within a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::target::Address;

/// A connected stream socket, set up for requests and answers.
pub(super) fn dial(
    address: &Address,
    deadline: Instant,
    silence: Option<Duration>,
) -> io::Result<OwnedFd> {
    match address {
        Address::Tcp { host, port } => dial_tcp(host, *port, deadline, silence),
        Address::Unix { path } => dial_unix(path, deadline),
    }
}

/// Bounds how long a single receive or send on `socket` waits; `None` waits for ever.
pub(super) fn set_timeouts(socket: &OwnedFd, timeout: Option<Duration>) -> io::Result<()> {
    let value = time_value(timeout);
    setsockopt(socket, sockopt::ReceiveTimeout, &value)?;
    setsockopt(socket, sockopt::SendTimeout, &value)?;
    Ok(())
}

/// What is left until `deadline`, at least a millisecond; an error when it has passed.
pub(super) fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left.max(Duration::from_millis(1)))
}

fn dial_tcp(
    host: &str,
    port: u16,
    deadline: Instant,
    silence: Option<Duration>,
) -> io::Result<OwnedFd> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolve(host, port, deadline)? {
        match TcpStream::connect_timeout(&address, remaining(deadline)?) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let stream = OwnedFd::from(stream);
                watch_for_silence(&stream, silence)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Addresses of a name. The resolver has no deadline of its own, so a name is looked up on a thread that may be left
/// behind; a literal address needs none.
fn resolve(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (found, result) = mpsc::channel();
    let host = host.to_owned();
    std::thread::Builder::new()
        .name("nbd-resolve".into())
        .spawn(move || {
            let addresses = (host.as_str(), port)
                .to_socket_addrs()
                .map(|addresses| addresses.collect());
            // Nobody listens any more once the deadline has passed.
            let _ = found.send(addresses);
        })?;
    match result.recv_timeout(remaining(deadline)?) {
        Ok(addresses) => addresses,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the name was not resolved in time",
        )),
    }
}

/// Finds out about a peer that is gone although nothing is being sent (keepalive, tcp(7)) or although something is
/// (TCP_USER_TIMEOUT: unacknowledged data), within about `silence`.
fn watch_for_silence(socket: &OwnedFd, silence: Option<Duration>) -> io::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    let Some(silence) = silence else {
        return Ok(());
    };
    let probe_every = u32::try_from(silence.as_secs() / 4)
        .unwrap_or(u32::MAX)
        .clamp(1, 30);
    setsockopt(socket, sockopt::TcpKeepIdle, &probe_every)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &probe_every)?;
    setsockopt(socket, sockopt::TcpKeepCount, &3)?;
    let milliseconds = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    setsockopt(socket, sockopt::TcpUserTimeout, &milliseconds)?;
    Ok(())
}

fn dial_unix(path: &Path, deadline: Instant) -> io::Result<OwnedFd> {
    let stream = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // A full backlog makes connect(2) wait; for unix sockets the send timeout bounds that wait (unix(7)).
    setsockopt(
        &stream,
        sockopt::SendTimeout,
        &time_value(Some(remaining(deadline)?)),
    )?;
    match connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => {}
        Err(nix::errno::Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
        Err(error) => return Err(error.into()),
    }
    setsockopt(&stream, sockopt::SendTimeout, &time_value(None))?;
    // Best effort: a larger buffer lets a submitter hand over more at once, and the system may cap it.
    let _ = setsockopt(&stream, sockopt::SndBuf, &UNIX_SEND_BUFFER);
    Ok(stream)
}

fn time_value(timeout: Option<Duration>) -> TimeVal {
    let timeout = timeout.unwrap_or(Duration::ZERO);
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    TimeVal::new(seconds, i64::from(timeout.subsec_micros()))
}

/// Send buffer asked for on unix sockets, in bytes.
const UNIX_SEND_BUFFER: usize = 2 << 20;
