//! Three disks in a folder; two of them behind servers that can be cut off; a mirror that runs in a process of its own.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flags::{NodeName, Tag};
use nbd_client::{Connection, Target};
use nbd_protocol::command::Command;
use nbd_server::device::SharedDevice;
use nbd_server::export::Export;
use nbd_server::file::FileDevice;
use nbd_server::listener::Listener;
use nbd_server::server::{Options, Server, ServerHandle};
use netraid::array::create::{Creation, create};
use netraid::array::embedded::Embedded;
use netraid::array::{Array, Backend, Event, NewLeg, NodeState, Part, Speed, Start, Watch};
use netraid::raid1::link::Link;
use netraid::raid1::metadata::Metadata;

use crate::disk::Switched;

pub const DISK: u64 = 16 << 20;
pub const CHUNK: u32 = 64 << 10;
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const NODES: [&str; 3] = ["one", "two", "three"];

pub struct Rig {
    folder: tempfile::TempDir,
    legs: usize,
    area: Range<usize>,
}

impl Rig {
    /// A mirror of the first `legs` nodes, of which only `one` has a leg yet.
    pub fn new(legs: usize) -> Rig {
        let mut rig = Rig {
            folder: tempfile::tempdir().unwrap(),
            legs,
            area: 0..0,
        };
        for name in &NODES[..legs] {
            File::create(rig.disk(name)).unwrap().set_len(DISK).unwrap();
        }
        let nodes: Vec<NodeName> = NODES[..legs]
            .iter()
            .map(|name| NodeName::new(*name).unwrap())
            .collect();
        create(&Creation {
            tag: Tag::new("data").unwrap(),
            disk: rig.disk("one"),
            node: nodes[0].clone(),
            nodes,
            chunk: Some(CHUNK),
            keep: false,
            force: false,
            dry_run: false,
        })
        .unwrap();
        let device = FileDevice::open(rig.disk("one"), true).unwrap();
        let (metadata, _) = Metadata::read(&Link::Local(Arc::new(device)), PATIENCE).unwrap();
        let from = metadata.data_offset() as usize;
        rig.area = from..from + metadata.shape().size as usize;
        rig
    }

    pub fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The programs and sockets of a node.
    pub fn backend(&self, name: &str) -> Embedded {
        Embedded {
            program: env!("CARGO_BIN_EXE_netraid").into(),
            run_dir: self.folder.path().join(format!("{name}.run")),
            patience: PATIENCE,
        }
    }

    pub fn start(&self, name: &str) -> Running {
        self.start_with(name, Speed::default())
    }

    pub fn start_with(&self, name: &str, speed: Speed) -> Running {
        let start = Start {
            tag: "data".into(),
            disk: self.disk(name),
            force: false,
            new_generation: false,
            speed,
            async_limit: None,
            compare: true,
            streams: netraid::array::Streams::default(),
            care: netraid::array::Care::default(),
        };
        let array = self.backend(name).start(&start).unwrap();
        let watch = array.watch().unwrap();
        Running {
            array,
            watch,
            told: Vec::new(),
            socket: self.folder.path().join(format!("{name}.run/data.nbd")),
        }
    }

    /// Serves a node's disk; dropping the handle cuts everybody off.
    pub fn serve(&self, name: &str) -> ServerHandle {
        self.serve_behind_a_switch(name).0
    }

    /// The same, with a disk that fails or stalls on demand.
    pub fn serve_behind_a_switch(&self, name: &str) -> (ServerHandle, Arc<Switched>) {
        let socket = self.folder.path().join(format!("{name}.sock"));
        // A socket of a server that was cut off may be left.
        let _ = std::fs::remove_file(&socket);
        let deadline = Instant::now() + PATIENCE;
        let device = loop {
            match FileDevice::open(self.disk(name), false) {
                Ok(device) => break device,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        };
        let switch = Switched::new(Arc::new(device), self.area.start as u64);
        let mut server = Server::new(Options::default());
        server
            .add_export(Export::new("data", Arc::clone(&switch) as SharedDevice))
            .unwrap();
        server.add_listener(Listener::unix(&socket).unwrap());
        (server.start().unwrap(), switch)
    }

    pub fn leg(&self, name: &str) -> NewLeg {
        let socket = self.folder.path().join(format!("{name}.sock"));
        NewLeg {
            node: name.into(),
            location: format!("nbd+unix:///data?socket={}", socket.display()),
            full: false,
            discard: false,
            force: false,
        }
    }

    /// The data area of a node's disk; it is at the same place on all of them.
    pub fn data(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.disk(name)).unwrap()[self.area.clone()].to_vec()
    }

    /// P3, on the disks.
    pub fn legs_are_equal(&self) {
        let first = self.data("one");
        for name in &NODES[1..self.legs] {
            assert!(
                self.data(name) == first,
                "the legs of one and {name} differ"
            );
        }
    }
}

/// A mirror that runs, and what it has told.
pub struct Running {
    pub array: Box<dyn Array>,
    pub watch: Box<dyn Watch>,
    pub told: Vec<Event>,
    socket: PathBuf,
}

impl Running {
    /// An application.
    pub fn open(&self) -> Link {
        let target = Target::unix(&self.socket, "data");
        let connection = Connection::open(&target, nbd_client::Options::default()).unwrap();
        Link::Remote(Arc::new(connection))
    }

    pub fn node(&self, name: &str) -> NodeState {
        let nodes = self.array.status().unwrap().nodes;
        nodes.into_iter().find(|node| node.node == name).unwrap()
    }

    /// Waits until the watch tells of an event.
    pub fn wait_for(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.watch.next(Duration::from_secs(1)).unwrap();
            self.told.extend(events.iter().cloned());
            if let Some(event) = events.into_iter().find(&is_it) {
                return event;
            }
            assert!(
                Instant::now() < deadline,
                "{what} was not told, but {:?}",
                self.told
            );
        }
    }

    pub fn wait_for_part(&mut self, name: &str, part: Part) -> NodeState {
        let event = self.wait_for(
            &format!("{name} {part:?}"),
            |event| matches!(event, Event::Node(node) if node.node == name && node.state == part),
        );
        match event {
            Event::Node(node) => node,
            _ => unreachable!(),
        }
    }

    /// The bits of a resync are dropped soon after its end.
    pub fn wait_for_few_bits(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.array.status().unwrap().status.dirty_bytes > 1 << 20 {
            assert!(Instant::now() < deadline, "dirty bits stay");
            let events = self.watch.next(Duration::from_millis(100)).unwrap();
            self.told.extend(events);
        }
    }

    /// Stops it once the last application is gone.
    pub fn stop(self) {
        let deadline = Instant::now() + PATIENCE;
        while self.array.status().unwrap().connections > 0 {
            assert!(Instant::now() < deadline, "connections stay");
            std::thread::yield_now();
        }
        self.array.stop().unwrap();
    }
}

pub fn write(application: &Link, offset: u64, length: usize, value: u8) {
    let data = Bytes::from(vec![value; length]);
    let command = Command::Write {
        offset,
        data,
        fua: false,
    };
    application.run(command, PATIENCE).unwrap();
}
