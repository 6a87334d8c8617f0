//! Starts NBD servers, ours and others', each on a unix socket or a TCP port of the loopback address.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Daemon;
use crate::scratch::Scratch;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix stream socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl Endpoint {
    /// A socket in a scratch folder.
    pub fn unix(scratch: &Scratch, name: &str) -> Endpoint {
        Endpoint::Unix(scratch.path(name))
    }

    /// A port of the loopback address that nobody listens on at the moment.
    pub fn tcp() -> Endpoint {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("find a free port");
        Endpoint::Tcp(listener.local_addr().expect("the address of a listener"))
    }

    /// The NBD URI of an export there.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Endpoint::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            Endpoint::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }

    /// Connects, with time limits of 20 seconds on every read and write.
    pub fn connect(&self) -> io::Result<Connection> {
        let limit = Some(Duration::from_secs(20));
        Ok(match self {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)?;
                Connection::Unix(stream)
            }
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)?;
                Connection::Tcp(stream)
            }
        })
    }

    /// Whether somebody accepts connections there.
    pub fn answers(&self) -> bool {
        self.connect().is_ok()
    }
}

/// A connected socket of either kind.
#[derive(Debug)]
pub enum Connection {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Connection {
    /// Closes it for writing: the other side reads the end of the stream.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Connection::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Connection::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
        }
    }

    /// How long one read waits before it fails.
    pub fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Connection::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Connection::Tcp(stream) => stream.set_read_timeout(Some(limit)),
        }
    }

    /// How long one write waits before it fails.
    pub fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Connection::Unix(stream) => stream.set_write_timeout(Some(limit)),
            Connection::Tcp(stream) => stream.set_write_timeout(Some(limit)),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Unix(stream) => stream.read(bytes),
            Connection::Tcp(stream) => stream.read(bytes),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Unix(stream) => stream.write(bytes),
            Connection::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A running server with one export.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub daemon: Daemon,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The export's name.
    pub export: String,
}

impl Server {
    /// The URI of its export.
    pub fn uri(&self) -> String {
        self.endpoint.uri(&self.export)
    }

    /// Starts a server's program and waits until it accepts connections.
    pub fn start(
        name: &str,
        folder: &Path,
        command: &Command,
        endpoint: &Endpoint,
        export: &str,
    ) -> Server {
        if let Endpoint::Unix(path) = endpoint {
            // Left behind by one that was killed; nbdkit and Debian's server refuse to start then.
            let _ = fs::remove_file(path);
        }
        let daemon = Daemon::start(name, folder, command, || endpoint.answers());
        Server {
            daemon,
            endpoint: endpoint.clone(),
            export: export.to_owned(),
        }
    }
}

/// Our server with `export` on `image`; `program` is its path, `words` are further words of its command line.
pub fn ours(
    program: &Path,
    scratch: &Scratch,
    endpoint: &Endpoint,
    export: &str,
    image: &Path,
    words: &[&str],
) -> Server {
    let mut command = Command::new(program);
    match endpoint {
        Endpoint::Unix(path) => command.arg("--unix").arg(path),
        Endpoint::Tcp(address) => command.arg("--listen").arg(address.to_string()),
    };
    command
        .arg("--export")
        .arg(format!("{export}={}", image.display()))
        .args(words);
    Server::start(
        "netraid-nbd-server",
        scratch.folder(),
        &command,
        endpoint,
        export,
    )
}

/// nbdkit with a plugin and its words, such as `["file", "disk.img"]` or `["memory", "64M"]`.
pub fn nbdkit(program: &Path, scratch: &Scratch, endpoint: &Endpoint, words: &[&str]) -> Server {
    let mut command = Command::new(program);
    command.arg("--foreground");
    match endpoint {
        Endpoint::Unix(path) => command.arg("--unix").arg(path),
        Endpoint::Tcp(address) => command.args([
            "--ipaddr",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
        ]),
    };
    command.args(words);
    Server::start("nbdkit", scratch.folder(), &command, endpoint, "")
}

/// qemu-nbd with a raw image, the page cache in use, and `aio` one of `threads`, `native`, `io_uring`.
pub fn qemu_nbd(
    program: &Path,
    scratch: &Scratch,
    endpoint: &Endpoint,
    export: &str,
    image: &Path,
    aio: &str,
) -> Server {
    let mut command = Command::new(program);
    command.args([
        "--persistent",
        "--shared=16",
        "--format=raw",
        "--cache=writeback",
        "--discard=unmap",
    ]);
    command
        .arg(format!("--aio={aio}"))
        .arg(format!("--export-name={export}"));
    match endpoint {
        Endpoint::Unix(path) => command.arg("--socket").arg(path),
        Endpoint::Tcp(address) => command.args([
            "--bind",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
        ]),
    };
    command.arg(image);
    Server::start("qemu-nbd", scratch.folder(), &command, endpoint, export)
}

/// Debian's nbd-server. It forks a process for each client.
pub fn debian(
    program: &Path,
    scratch: &Scratch,
    endpoint: &Endpoint,
    export: &str,
    image: &Path,
) -> Server {
    let configuration = scratch.path("debian-nbd-server.conf");
    let place = match endpoint {
        Endpoint::Unix(path) => format!("unixsock = {}", path.display()),
        Endpoint::Tcp(address) => {
            format!("listenaddr = {}\nport = {}", address.ip(), address.port())
        }
    };
    let text = format!(
        "[generic]\n{place}\nallowlist = true\n[{export}]\nexportname = {}\nflush = true\nfua = true\ntrim = true\n",
        image.display()
    );
    fs::write(&configuration, text).expect("write a configuration");
    let pid_file = scratch.path("debian-nbd-server.pid");
    let mut command = Command::new(program);
    command
        .arg("-C")
        .arg(&configuration)
        .arg("-p")
        .arg(&pid_file);
    let ready = || endpoint.answers();
    let name = "debian-nbd-server";
    let daemon = Daemon::start_detaching(name, scratch.folder(), &command, &pid_file, ready);
    Server {
        daemon,
        endpoint: endpoint.clone(),
        export: export.to_owned(),
    }
}
