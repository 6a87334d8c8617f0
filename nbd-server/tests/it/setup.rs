//! A server in this process, on a unix socket in a directory of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_server::device::SharedDevice;
use nbd_server::export::Export;
use nbd_server::file::FileDevice;
use nbd_server::listener::Listener;
use nbd_server::server::{Options, Server, ServerHandle};

use crate::client::Client;
use crate::devices::PATIENCE;

pub struct TestServer {
    pub handle: ServerHandle,
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl TestServer {
    pub fn new(exports: Vec<(&str, SharedDevice)>) -> TestServer {
        TestServer::with(Options::default(), exports)
    }

    pub fn with(options: Options, exports: Vec<(&str, SharedDevice)>) -> TestServer {
        let exports = exports.into_iter();
        let exports = exports.map(|(name, device)| Export::new(name, device));
        TestServer::serve(options, exports.collect())
    }

    pub fn serve(options: Options, exports: Vec<Export>) -> TestServer {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut server = Server::new(options);
        for export in exports {
            server.add_export(export).unwrap();
        }
        server.add_listener(Listener::unix(&socket).unwrap());
        TestServer {
            handle: server.start().unwrap(),
            socket,
            _directory: directory,
        }
    }

    /// One export called "disk".
    pub fn of(device: SharedDevice) -> TestServer {
        TestServer::new(vec![("disk", device)])
    }

    pub fn attach(&self) -> Client {
        Client::attach(&self.socket, "disk")
    }

    pub fn attach_structured(&self) -> Client {
        Client::attach_structured(&self.socket, "disk")
    }

    /// Waits until the server has so many connections.
    pub fn wait_for_connections(&self, count: usize) {
        wait_until(&format!("{count} connections"), || {
            self.handle.connections() == count
        });
    }
}

/// A file of `size` bytes, all hole, and a device on it.
pub fn file_device(directory: &tempfile::TempDir, size: u64) -> (PathBuf, SharedDevice) {
    let path = directory.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    let device = FileDevice::open(&path, false).unwrap();
    (path, Arc::new(device))
}

/// Looks again and again until `condition` holds; fails the test when it does not for a long time.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
