//! Servers that are old, silent, slow or no NBD servers at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod peers;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nbd_client::{Connection, OpenError, Options, Target, query};
use nbd_protocol::HeaderStyle;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};

/// A server that runs `script` for each client.
fn serve(directory: &std::path::Path, script: impl Fn(UnixStream) + Send + 'static) -> Target {
    let path = directory.join("script.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            script(client.unwrap());
        }
    });
    Target::unix(path, "disk")
}

fn hasty() -> Options {
    Options {
        connect_timeout: Duration::from_millis(300),
        ..Options::default()
    }
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x01";

/// The option's number and data.
fn option(client: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut header = [0; 16];
    client.read_exact(&mut header).ok()?;
    let number = u32::from_be_bytes(header[8..12].try_into().unwrap());
    let mut data = vec![0; u32::from_be_bytes(header[12..].try_into().unwrap()) as usize];
    client.read_exact(&mut data).ok()?;
    Some((number, data))
}

/// Like the server of the `nbd` crate: it knows EXPORT_NAME and hangs up on everything else.
fn only_export_name(mut client: UnixStream) {
    client.write_all(GREETING).unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    let Some((1, name)) = option(&mut client) else {
        return;
    };
    assert_eq!(name, b"disk");
    client.write_all(&(1u64 << 20).to_be_bytes()).unwrap();
    client.write_all(&[0, 1]).unwrap();
    client.write_all(&[0; 124]).unwrap();
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
}

#[test]
fn a_server_that_hangs_up_on_unknown_options_gets_the_oldest_handshake() {
    let directory = tempfile::tempdir().unwrap();
    let target = serve(directory.path(), only_export_name);
    let connection = Connection::open(&target, Options::default()).unwrap();
    assert_eq!(connection.export().size, 1 << 20);
    assert_eq!(connection.export().style, HeaderStyle::Simple);
    drop(connection);
    let description = query::describe(&target, &Options::default()).unwrap();
    assert_eq!(description.export.size, 1 << 20);
}

#[test]
fn a_server_that_says_nothing_is_left_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let target = serve(directory.path(), |mut client| {
        drop(client.read_to_end(&mut Vec::new()))
    });
    let started = Instant::now();
    let error = Connection::open(&target, hasty()).unwrap_err();
    assert!(matches!(error, OpenError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_server_that_drips_is_left_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let target = serve(directory.path(), |mut client| {
        // Replies to no end: informations of a kind that nobody knows.
        let _ = client.write_all(GREETING);
        let _ = client.read_exact(&mut [0; 4]);
        let Some((number, _)) = option(&mut client) else {
            return;
        };
        let mut reply = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
        reply.extend(number.to_be_bytes());
        reply.extend(3u32.to_be_bytes());
        reply.extend(2u32.to_be_bytes());
        reply.extend([9, 9]);
        for byte in reply.iter().cycle() {
            if client.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let started = Instant::now();
    assert!(Connection::open(&target, hasty()).is_err());
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn what_is_no_nbd_server_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    for greeting in [
        &b"220 mail ESMTP ready\r\n"[..],
        &b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"[..],
        &[0; 64][..],
    ] {
        let target = serve(directory.path(), move |mut client| {
            let _ = client.write_all(greeting);
            let _ = client.read_to_end(&mut Vec::new());
        });
        let error = Connection::open(&target, hasty()).unwrap_err();
        assert!(matches!(error, OpenError::Handshake { .. }), "{error}");
    }
}

#[test]
fn an_address_where_nobody_listens_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nobody.sock");
    let error = Connection::open(&Target::unix(&path, ""), hasty()).unwrap_err();
    assert!(error.to_string().contains("nobody.sock"), "{error}");
    let error = Connection::open(&Target::tcp("127.0.0.1", 1, ""), hasty()).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn a_server_that_never_accepts_is_left_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("full.sock");
    let listener = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::empty(),
        None,
    )
    .unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut queued = Vec::new();
    loop {
        let client = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_NONBLOCK,
            None,
        )
        .unwrap();
        match connect(client.as_raw_fd(), &UnixAddr::new(&path).unwrap()) {
            Ok(()) => queued.push(client),
            Err(Errno::EAGAIN) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let started = Instant::now();
    let error = Connection::open(&Target::unix(&path, ""), hasty()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Connect { source, .. } if source.kind() == ErrorKind::TimedOut),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn tcp_works_by_name_and_both_protocols() {
    let directory = tempfile::tempdir().unwrap();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = nbd_server::listener::Listener::tcp(address.parse().unwrap()) else {
            eprintln!("skipped: {address} can not be listened on");
            continue;
        };
        let mut server = nbd_server::server::Server::new(nbd_server::server::Options::default());
        let name = format!("{}.img", address.len());
        let device = peers::image(directory.path(), &name, 1 << 20);
        let file = nbd_server::file::FileDevice::open(&device, false).unwrap();
        server
            .add_export(nbd_server::export::Export::new(
                "disk",
                std::sync::Arc::new(file),
            ))
            .unwrap();
        server.add_listener(listener);
        let server = server.start().unwrap();
        let bound = server.tcp_address().unwrap();
        let hosts: &[&str] = if bound.is_ipv4() {
            &["127.0.0.1", "localhost"]
        } else {
            &["::1"]
        };
        for host in hosts {
            let target = Target::tcp(*host, bound.port(), "disk");
            let again: Target = target.to_string().parse().unwrap();
            let connection = Connection::open(&again, Options::default()).unwrap();
            assert_eq!(connection.export().size, 1 << 20);
        }
    }
}
