//! The embedded backend through the same trait: a mirror of two files, the second behind a server of this process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flags::{NodeName, Tag};
use nbd_server::export::Export;
use nbd_server::file::FileDevice;
use nbd_server::listener::Listener;
use nbd_server::server::{Options, Server};
use netraid::array::create::{Creation, create};
use netraid::array::embedded::Embedded;
use netraid::array::{Array, ArrayError, Backend, Event, NewLeg, Speed, Start};

const DISK: u64 = 16 << 20;

fn blank(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(DISK).unwrap();
    path
}

fn in_sync(array: &dyn Array) -> bool {
    let legs = array.status().unwrap().status.legs;
    legs.iter().all(|leg| leg.disk == "UpToDate")
}

#[test]
fn a_mirror_of_the_embedded_engine_is_driven_through_the_same_trait() {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (
        blank(folder.path(), "local"),
        blank(folder.path(), "remote"),
    );
    let socket = folder.path().join("target");
    let mut server = Server::new(Options::default());
    let device = Arc::new(FileDevice::open(&remote, false).unwrap());
    server.add_export(Export::new("data", device)).unwrap();
    server.add_listener(Listener::unix(&socket).unwrap());
    let server = server.start().unwrap();

    let nodes = ["server1", "server2"].map(|name| NodeName::new(name).unwrap());
    create(&Creation {
        tag: Tag::new("data").unwrap(),
        disk: local.clone(),
        nodes: nodes.to_vec(),
        node: nodes[0].clone(),
        chunk: Some(64 << 10),
        keep: false,
        force: false,
        dry_run: false,
    })
    .unwrap();
    let backend = Embedded {
        program: env!("CARGO_BIN_EXE_netraid").into(),
        run_dir: folder.path().join("run"),
        patience: Duration::from_secs(60),
    };
    let start = Start {
        tag: "data".into(),
        disk: local,
        force: false,
        new_generation: false,
        speed: Speed::default(),
        async_limit: None,
        compare: true,
        streams: netraid::array::Streams::default(),
        care: netraid::array::Care::default(),
    };
    let array = backend.start(&start).unwrap();
    assert!(!in_sync(&*array));
    let mut watch = array.watch().unwrap();
    let leg = NewLeg {
        node: "server2".into(),
        location: format!("nbd+unix:///data?socket={}", socket.display()),
        full: false,
        discard: false,
        force: false,
    };
    assert!(array.add(&leg).unwrap().full);
    let mut events = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !in_sync(&*array) {
        assert!(Instant::now() < deadline, "{events:?}");
        events.extend(watch.next(Duration::from_secs(1)).unwrap());
    }
    // The status may say it before the watch does, and the watch says it in more than one piece.
    while !events.contains(&Event::Degraded { legs: 0 }) {
        assert!(Instant::now() < deadline, "{events:?}");
        events.extend(watch.next(Duration::from_secs(1)).unwrap());
    }
    let again = array.add(&leg).unwrap_err();
    assert!(matches!(again, ArrayError::Refused { .. }), "{again}");
    // Another process finds it, and stops it.
    let found = backend.find("data").unwrap().unwrap();
    assert_eq!(found.status().unwrap().status.backend, "embedded");
    found.stop().unwrap();
    assert!(backend.find("data").unwrap().is_none());
    server.stop(Duration::from_secs(10));
}
