//! Starts other NBD servers for tests, and stops exactly those.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part"
)]

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nbd_client::Target;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A running server; killed, by its own process id, when dropped.
pub struct Server {
    child: Child,
    /// A server that detaches itself: leader of its process group.
    detached: Option<Pid>,
    pub socket: PathBuf,
}

impl Server {
    pub fn target(&self, export: &str) -> Target {
        Target::unix(&self.socket, export)
    }

    pub fn kill(&mut self) {
        if let Some(leader) = self.detached.take() {
            let _ = killpg(leader, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a program is installed; prints the reason for skipping if not.
pub fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|paths| {
        std::env::split_paths(&paths).any(|path| path.join(program).is_file())
    });
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// `nbdkit` with these arguments on a unix socket in `directory`.
pub fn nbdkit(directory: &Path, arguments: &[&str]) -> Option<Server> {
    if !installed("nbdkit") {
        return None;
    }
    let socket = directory.join("nbdkit.sock");
    let mut command = Command::new("nbdkit");
    command.arg("-f").arg("-U").arg(&socket).args(arguments);
    Some(start(command, socket))
}

/// `qemu-nbd` exporting a raw image as "disk".
pub fn qemu_nbd(directory: &Path, image: &Path, arguments: &[&str]) -> Option<Server> {
    if !installed("qemu-nbd") {
        return None;
    }
    let socket = directory.join("qemu.sock");
    let mut command = Command::new("qemu-nbd");
    command.args([
        "-t",
        "-f",
        "raw",
        "-x",
        "disk",
        "--discard=unmap",
        "-e",
        "8",
        "-k",
    ]);
    command.arg(&socket).args(arguments).arg(image);
    Some(start(command, socket))
}

/// Debian's `nbd-server` exporting an image as "disk".
pub fn nbd_server(directory: &Path, image: &Path, options: &str) -> Option<Server> {
    if !installed("nbd-server") {
        return None;
    }
    let socket = directory.join("nbd-server.sock");
    let configuration = directory.join("nbd-server.conf");
    let text = format!(
        "[generic]\nunixsock = {}\nallowlist = true\n[disk]\nexportname = {}\n{options}\n",
        socket.display(),
        image.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let pid_file = directory.join("nbd-server.pid");
    let mut command = Command::new("nbd-server");
    command
        .arg("-C")
        .arg(&configuration)
        .arg("-p")
        .arg(&pid_file);
    // It detaches itself: the child ends, and its own child writes the file before it listens.
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Server {
        child,
        detached: None,
        socket,
    };
    wait_until("nbd-server listens", || {
        UnixStream::connect(&server.socket).is_ok()
    });
    server.detached = std::fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .ok()
        .map(Pid::from_raw);
    assert!(server.detached.is_some());
    Some(server)
}

/// Looks again and again until `condition` holds; fails after 10 seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn start(mut command: Command, socket: PathBuf) -> Server {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Server {
        child,
        detached: None,
        socket,
    };
    wait_until("the server listens", || {
        if let Some(status) = server.child.try_wait().unwrap() {
            panic!("{command:?} ended with {status}");
        }
        UnixStream::connect(&server.socket).is_ok()
    });
    server
}

/// A sparse image file of `size` bytes.
pub fn image(directory: &Path, name: &str, size: u64) -> PathBuf {
    let path = directory.join(name);
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}
