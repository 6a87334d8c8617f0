//! Serves a router to peers (TLS), to commands (unix socket) and to pages on this machine (loopback), each with bounds
//! on what a stranger can make us hold: connections, bytes and time.
//!
//! Bind first ([`bind_unix`], [`bind_loopback`], `TcpListener::bind`), so that errors show before the daemon says that it
//! is ready; then run [`peers`], [`unix`] and [`loopback`] as tasks until the [`Stop`].

mod connections;
mod limits;
mod loopback;
mod peers;
mod serve;
mod stall;
mod unix;

pub use limits::{Counters, Limits, Terms};
pub use loopback::{bind_loopback, loopback};
pub use peers::{Allowed, PeerName, peers};
pub use unix::{Access, Caller, UnixSocket, bind_unix, lock, unix};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::watch;

/// Why nobody can be served at an address.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process serves there.
    #[error("{} is served by another process", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has this name.
    #[error("{} is there and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// No such group.
    #[error("there is no group {0:?}")]
    NoGroup(String),
    /// Others than this machine could reach it.
    #[error("{0} is not an address of this machine alone; use 127.0.0.1 or [::1]")]
    NotLoopback(SocketAddr),
    /// The system refused.
    #[error("cannot listen at {at}: {error}")]
    System {
        /// The address or path.
        at: String,
        /// Why.
        error: io::Error,
    },
}

/// Ends listeners, see [`stop`].
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Says when to end; as many clones as listeners.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A way to end listeners: when the [`Stopper`] is told to, or dropped, they take no more connections, requests under
/// way have [`Limits::grace`] to end, and their futures are ready.
pub fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells all.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Waits until it is time to end.
    pub async fn stopped(&mut self) {
        // An error is a stopper that is gone.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
