//! Serves the commands on this machine over a unix socket; the kernel says who calls.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::unistd::Group;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::connections::{Connections, take};
use super::serve::{Gate, accept_failed, connection};
use super::{ListenError, Stop, Terms};

/// The process that calls; an `Extension` of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// The process, if the kernel knows it (it is of another pid namespace otherwise).
    pub pid: Option<i32>,
}

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Access {
    /// The socket's group; the daemon's own (root) if none.
    pub group: Option<String>,
    /// The socket's permission bits.
    pub mode: u32,
}

impl Default for Access {
    /// Owner and group.
    fn default() -> Access {
        Access {
            group: None,
            mode: 0o660,
        }
    }
}

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: Option<OwnedFd>,
    path: PathBuf,
    /// Device and inode: a file that somebody else has put there since is not ours to remove.
    file: (u64, u64),
    /// Held as long as the socket is: two daemons that find the same stale socket can't both replace it.
    _lock: Flock<fs::File>,
}

/// The right to bind the socket at `path`, as long as it is held. Who has it keeps a daemon from beginning.
///
/// # Errors
/// Somebody has it.
pub fn lock(path: &Path) -> Result<Flock<fs::File>, ListenError> {
    let file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(beside(path, "lock"))
        .map_err(|error| ListenError::System {
            at: path.display().to_string(),
            error,
        })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| ListenError::InUse(path.to_owned()))
}

/// Binds a socket at `path`. A socket that nobody serves is replaced; one that is served is refused.
pub fn bind_unix(path: &Path, access: &Access) -> Result<UnixSocket, ListenError> {
    let failed = |error: io::Error| ListenError::System {
        at: path.display().to_string(),
        error,
    };
    let gid = match &access.group {
        Some(name) => match Group::from_name(name) {
            Ok(Some(group)) => Some(group.gid.as_raw()),
            _ => return Err(ListenError::NoGroup(name.clone())),
        },
        None => None,
    };
    let lock = lock(path)?;
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        // Somebody who does not know the lock may serve it.
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ListenError::InUse(path.to_owned()));
        }
        _ => {}
    }
    // Under another name first, so that nobody finds it before its permissions are right, and none is missing for long.
    let draft = beside(path, "new");
    let _ = fs::remove_file(&draft);
    let bound = (|| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&draft)?)?;
        if let Some(gid) = gid {
            std::os::unix::fs::chown(&draft, None, Some(gid))?;
        }
        fs::set_permissions(&draft, fs::Permissions::from_mode(access.mode))?;
        socket::listen(&listener, Backlog::new(128)?)?;
        let about = fs::symlink_metadata(&draft)?;
        fs::rename(&draft, path)?;
        Ok((listener, (about.dev(), about.ino())))
    })();
    let (listener, file) = bound.map_err(|error| {
        let _ = fs::remove_file(&draft);
        failed(error)
    })?;
    Ok(UnixSocket {
        listener: Some(listener),
        path: path.to_owned(),
        file,
        _lock: lock,
    })
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Serves `router` until `stop`, then removes the socket. Handlers get an `Extension<Caller>`. [`super::Limits::local`]
/// are fitting terms.
pub async fn unix(
    mut socket: UnixSocket,
    router: Router,
    terms: Terms,
    mut stop: Stop,
) -> Result<(), ListenError> {
    let failed = |error: io::Error| ListenError::System {
        at: socket.path.display().to_string(),
        error,
    };
    let Some(listener) = socket.listener.take() else {
        return Ok(());
    };
    let listener = UnixListener::from_std(listener.into()).map_err(failed)?;
    let connections = Connections::new(&terms.limits);
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = stop.stopped() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                accept_failed(error).await;
                continue;
            }
        };
        terms.counters.count_accepted();
        let (Some(served), Ok(peer)) = (take(&connections.served), stream.peer_cred()) else {
            terms.counters.count_too_many();
            continue;
        };
        let caller = Caller {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid(),
        };
        let gate: Arc<Gate> = Arc::new(move |request| {
            request.extensions_mut().insert(caller);
            Ok(())
        });
        let serving = connection(stream, router.clone(), gate, terms.clone(), stop.clone());
        tasks.spawn(async move {
            serving.await;
            drop(served);
        });
    }
    // New callers shall find nobody rather than wait.
    drop(listener);
    drop(socket);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// A file beside a socket, for making it.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}"))
}
