//! Where clients come in: TCP addresses, unix sockets, and sockets that a service manager has opened.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

use crate::socket::Socket;

/// An open listening socket. A unix socket's file is removed when it is dropped, if it is still the one it made.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: Address,
    /// The socket's file that this process made: its path, device and inode.
    made: Option<(PathBuf, u64, u64)>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("{0} is in use by another process: stop that or choose another address")]
    InUse(Address),
    /// Something that is no socket is in the way.
    #[error("{} exists and is not a socket: choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Something else went wrong.
    #[error("{address} can't be listened on: {source}")]
    Failed {
        /// What was asked for.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// A passed descriptor is no stream socket that listens on TCP or unix.
    #[error("a descriptor passed by the service manager is no listening TCP or unix socket")]
    Passed,
}

impl Listener {
    /// Listens on a TCP address; port 0 takes any free one.
    ///
    /// # Errors
    /// The address is in use or not this machine's.
    pub fn tcp(address: SocketAddr) -> Result<Listener, ListenError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(Address::Tcp(address)),
            _ => ListenError::Failed {
                address: Address::Tcp(address),
                source,
            },
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = Address::Tcp(listener.local_addr().map_err(failed)?);
        Ok(Listener {
            kind: Kind::Tcp(listener),
            address,
            made: None,
        })
    }

    /// Listens on a unix socket. The file that a dead server has left behind is replaced, a living server's is not.
    ///
    /// # Errors
    /// A living server or another file is in the way, or the directory does not allow it.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Listener, ListenError> {
        let path = path.into();
        let failed = |source| ListenError::Failed {
            address: Address::Unix(path.clone()),
            source,
        };
        clear_the_way(&path)?;
        let listener = UnixListener::bind(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let metadata = std::fs::symlink_metadata(&path).map_err(failed)?;
        let made = Some((path.clone(), metadata.dev(), metadata.ino()));
        Ok(Listener {
            kind: Kind::Unix(listener),
            address: Address::Unix(path),
            made,
        })
    }

    /// Takes over a socket that a service manager has opened (see `linux_sys::passed`). Its file stays when it is
    /// dropped: the service manager owns it.
    ///
    /// # Errors
    /// It is no listening TCP or unix stream socket.
    pub fn passed(socket: OwnedFd) -> Result<Listener, ListenError> {
        use nix::sys::socket::{SockType, getsockopt, sockopt};
        let listens = getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false);
        let is_stream = getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream);
        if !listens || !is_stream {
            return Err(ListenError::Passed);
        }
        let name: SockaddrStorage = getsockname(std::os::fd::AsRawFd::as_raw_fd(&socket))
            .map_err(|_| ListenError::Passed)?;
        let (kind, address) = match name.family() {
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                let listener = TcpListener::from(socket);
                let address = Address::Tcp(listener.local_addr().map_err(|_| ListenError::Passed)?);
                (Kind::Tcp(listener), address)
            }
            Some(AddressFamily::Unix) => {
                let listener = UnixListener::from(socket);
                let address = listener.local_addr().map_err(|_| ListenError::Passed)?;
                let path = address
                    .as_pathname()
                    .unwrap_or(Path::new("(unnamed)"))
                    .to_owned();
                (Kind::Unix(listener), Address::Unix(path))
            }
            _ => return Err(ListenError::Passed),
        };
        let listener = Listener {
            kind,
            address,
            made: None,
        };
        listener
            .set_nonblocking()
            .map_err(|source| ListenError::Failed {
                address: listener.address(),
                source,
            })?;
        Ok(listener)
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(listener) => listener.set_nonblocking(true),
            Kind::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    fn accept(&self) -> io::Result<Socket> {
        match &self.kind {
            Kind::Tcp(listener) => listener.accept().map(|(stream, _)| Socket::Tcp(stream)),
            Kind::Unix(listener) => listener.accept().map(|(stream, _)| Socket::Unix(stream)),
        }
    }

    fn as_poll(&self) -> PollFd<'_> {
        let descriptor = match &self.kind {
            Kind::Tcp(listener) => listener.as_fd(),
            Kind::Unix(listener) => listener.as_fd(),
        };
        PollFd::new(descriptor, PollFlags::POLLIN)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, device, inode)) = &self.made
            && std::fs::symlink_metadata(path)
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (*device, *inode))
        {
            // Somebody else may have removed it in between, which is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes the socket file of a server that is no more.
fn clear_the_way(path: &Path) -> Result<(), ListenError> {
    let address = || Address::Unix(path.to_owned());
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ListenError::Failed {
                address: address(),
                source,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(ListenError::InUse(address())),
        Err(source) => Err(ListenError::Failed {
            address: address(),
            source,
        }),
    }
}

/// Wakes [`accept_all`] from another thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<EventFd>);

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Waker(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    pub(crate) fn wake(&self) {
        // Fails only if it has been woken 2^64 times.
        let _ = self.0.write(1);
    }
}

/// What the accepting thread does besides waiting.
pub(crate) trait Host {
    /// A client has come.
    fn welcome(&self, socket: Socket);
    /// Asked after each wake-up: whether to accept nobody any more.
    fn is_closing(&self) -> bool;
    /// Some time after a wake-up, when no client has come meanwhile.
    fn tidy_up(&self);
}

/// Accepts from all listeners until `host` is closing.
pub(crate) fn accept_all(listeners: &[Listener], waker: &Waker, host: &impl Host) {
    let mut untidy = false;
    loop {
        let mut set: Vec<PollFd<'_>> = listeners.iter().map(Listener::as_poll).collect();
        set.push(PollFd::new(waker.0.as_fd(), PollFlags::POLLIN));
        let timeout = if untidy {
            PollTimeout::from(QUIET_MS)
        } else {
            PollTimeout::NONE
        };
        match poll(&mut set, timeout) {
            Ok(0) => {
                untidy = false;
                host.tidy_up();
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "waiting for clients failed");
                std::thread::sleep(BREATH);
            }
        }
        let ready = |entry: &PollFd<'_>| entry.revents().is_some_and(|events| !events.is_empty());
        if set.last().is_some_and(ready) {
            // Nothing to read would mean that it was a false alarm.
            let _ = waker.0.read();
            if host.is_closing() {
                return;
            }
            untidy = true;
        }
        for (listener, entry) in listeners.iter().zip(&set) {
            if ready(entry) {
                accept_one(listener, host);
            }
        }
    }
}

fn accept_one(listener: &Listener, host: &impl Host) {
    match listener.accept() {
        Ok(socket) => host.welcome(socket),
        Err(error) => match error.raw_os_error() {
            // Descriptors or memory are short: without a pause this would spin.
            Some(
                nix::libc::EMFILE | nix::libc::ENFILE | nix::libc::ENOBUFS | nix::libc::ENOMEM,
            ) => {
                tracing::warn!(%error, listener = %listener.address, "a client can't be accepted now");
                std::thread::sleep(BREATH);
            }
            // The client has left again, or another process took it.
            _ => tracing::debug!(%error, listener = %listener.address, "accepting failed"),
        },
    }
}

/// Threads of clients that have left are gone by then.
const QUIET_MS: u16 = 500;
const BREATH: Duration = Duration::from_millis(100);
