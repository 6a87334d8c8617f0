//! Two nodes in one process: a local disk with a mirror on it, and an NBD server for the other node's disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flags::NodeName;
use nbd_client::Target;
use nbd_protocol::command::{Answer, Command, Completion, Outcome};
use nbd_server::device::{BlockDevice, SharedDevice};
use nbd_server::export::Export;
use nbd_server::file::FileDevice;
use nbd_server::listener::Listener;
use nbd_server::server::{Options, Server, ServerHandle};
use netraid::md::format::{NewLeg, NewMirror, Start};
use netraid::md::{Layout, MdUuid};
use netraid::raid1::engine::{Engine, IdSource, Refusal, Settings, Shape, Update};
use netraid::raid1::intent::page_bytes;
use netraid::raid1::keeper::Keepers;
use netraid::raid1::leg::{LegState, Slot};
use netraid::raid1::link::Link;
use netraid::raid1::metadata::{self, Metadata};
use netraid::raid1::running::{Mirror, MirrorDevice};

use crate::disk::Switched;

pub const CHUNK: u32 = 64 << 10;
pub const DISK: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Two disks in a folder of their own.
pub struct Rig {
    pub folder: tempfile::TempDir,
    pub settings: Settings,
    /// Messages are followed by checksums.
    pub integrity: bool,
}

/// A mirror that runs from one of them.
pub struct Node {
    pub mirror: Arc<Mirror>,
    pub keepers: Arc<Keepers>,
    pub disk: Arc<Switched>,
    device: MirrorDevice,
}

impl Rig {
    pub fn new() -> Rig {
        let rig = Rig {
            folder: tempfile::tempdir().unwrap(),
            settings: Settings {
                leg_timeout: 1000,
                clean_interval: 200,
                ..Settings::default()
            },
            integrity: false,
        };
        for name in ["one", "two"] {
            std::fs::File::create(rig.path(name))
                .unwrap()
                .set_len(DISK)
                .unwrap();
        }
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn target(&self, name: &str) -> Target {
        Target::unix(self.path(&format!("{name}.sock")), name)
    }

    fn open(&self, name: &str) -> SharedDevice {
        // Whoever had it open before lets go of it with its last thread.
        let deadline = Instant::now() + PATIENCE;
        loop {
            match FileDevice::open(self.path(name), false) {
                Ok(device) => return Arc::new(device),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        }
    }

    /// Makes disk `one` the first leg.
    pub fn create(&self) {
        let link = Link::Local(self.open("one"));
        let uuid = |seed: u8| MdUuid([seed; 16]);
        let leg = NewLeg {
            device: DISK,
            uuid: uuid(2),
            write_mostly: false,
            fail_fast: false,
        };
        let new = NewMirror {
            uuid: uuid(1),
            name: "test".into(),
            created: metadata::now(),
            chunk: CHUNK,
            daemon_sleep: 5,
            legs: vec![Some(leg), None],
            start: Start::Equal,
        };
        let formatted = new.format().unwrap().remove(0).unwrap();
        let size = Layout::array_size([&formatted.layout]);
        let shape = Shape {
            size,
            chunk: CHUNK.into(),
            slots: 2,
        };
        let slot = Slot::new(0).unwrap();
        let image = Engine::create(shape, slot, &mut IdSource::new(7));
        let (first, length) = page_bytes(0);
        let update = Update {
            events: 1,
            events_cleared: 1,
            size,
            pages: vec![(0, Bytes::from(image.dirty.bytes(first, length)))],
            superblock: Some((image.record, image.superblock)),
        };
        let names: Vec<NodeName> = ["one", "two"]
            .map(|name| NodeName::new(name).unwrap())
            .into();
        let mut metadata = Metadata::new(formatted, &names, slot).unwrap();
        for (offset, data) in metadata.writes(&update, slot).unwrap() {
            link.write(offset, data, PATIENCE).unwrap();
        }
    }

    /// Serves a disk to the other node, behind a switch.
    pub fn serve(&self, name: &str) -> (ServerHandle, Arc<Switched>) {
        let disk = Switched::new(self.open(name), 1 << 20);
        let mut server = Server::new(Options::default());
        server
            .add_export(Export::new(name, Arc::clone(&disk) as SharedDevice))
            .unwrap();
        server.add_listener(Listener::unix(self.path(&format!("{name}.sock"))).unwrap());
        (server.start().unwrap(), disk)
    }

    pub fn start(&self, name: &str) -> Node {
        self.try_start(name).unwrap()
    }

    pub fn try_start(&self, name: &str) -> Result<Node, Refusal> {
        let disk = Switched::new(self.open(name), 1 << 20);
        let link = Link::Local(Arc::clone(&disk) as SharedDevice);
        let (metadata, image) = Metadata::read(&link, PATIENCE).unwrap();
        let ids = IdSource::new(metadata.superblock().events);
        let engine = Engine::assemble(
            metadata.shape(),
            self.settings,
            metadata.slot(),
            image,
            ids,
            false,
        )?;
        let mirror = Mirror::start(engine, link, metadata.clone(), Box::new(|_, _| {}));
        let timeout = Duration::from_millis(self.settings.leg_timeout);
        let keepers = Keepers::new(Arc::clone(&mirror), &metadata, timeout, self.integrity);
        let device = MirrorDevice(Arc::clone(&mirror));
        Ok(Node {
            mirror,
            keepers,
            disk,
            device,
        })
    }

    pub fn data(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap().split_off(1 << 20)
    }
}

impl Node {
    pub fn size(&self) -> u64 {
        self.mirror.shape().size
    }

    /// Starts a command; the outcome comes through the receiver.
    pub fn begin(&self, command: Command) -> mpsc::Receiver<Outcome> {
        let (sender, receiver) = mpsc::channel();
        self.device.submit(
            command,
            Completion::new(move |outcome| drop(sender.send(outcome))),
        );
        self.device.kick();
        receiver
    }

    pub fn run(&self, command: Command) -> Outcome {
        let receiver = self.begin(command);
        self.wait_for("an answer", || receiver.try_recv().ok())
    }

    pub fn write(&self, offset: u64, length: usize, value: u8) {
        let data = Bytes::from(vec![value; length]);
        self.run(Command::Write {
            offset,
            data,
            fua: false,
        })
        .unwrap();
    }

    pub fn flush(&self) {
        self.run(Command::Flush).unwrap();
    }

    pub fn read(&self, offset: u64, length: u32) -> Vec<u8> {
        match self.run(Command::Read { offset, length }).unwrap() {
            Answer::Data(data) => data.to_vec(),
            other => panic!("a read answered with {other:?}"),
        }
    }

    /// Lets time pass until `look` finds something.
    pub fn wait_for<R>(&self, what: &str, look: impl Fn() -> Option<R>) -> R {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "{what} did not come");
            self.mirror.tick();
            std::thread::yield_now();
        }
    }

    pub fn state(&self, slot: usize) -> LegState {
        self.mirror
            .view(|view| view.engine.state(Slot::new(slot).unwrap()))
    }

    pub fn reason(&self, slot: usize) -> String {
        let slot = Slot::new(slot).unwrap();
        let own = self
            .mirror
            .view(|view| view.engine.reason(slot).map(str::to_owned));
        own.or(self.keepers.target(slot).1).unwrap_or_default()
    }

    /// Waits for a state; "in sync" counts once the leg's own disk says so.
    pub fn wait_for_state(&self, slot: usize, state: LegState) {
        self.wait_for(&format!("leg {slot} {state:?}"), || {
            let slot = Slot::new(slot).unwrap();
            let there = self.mirror.view(|view| match state {
                LegState::InSync => view.engine.can_take_over(slot),
                other => view.engine.state(slot) == other,
            });
            there.then_some(())
        });
    }

    /// The bits of a resync are dropped once both disks were flushed after it.
    pub fn wait_for_no_dirty_bit(&self) {
        self.wait_for("the end of the dirty bits", || {
            let gone =
                |engine: &Engine| engine.dirty().is_empty() && engine.everything_is_durable();
            self.mirror.view(|view| gone(view.engine)).then_some(())
        });
    }

    /// Connects disk `two` (or `one`) as a new leg and waits until it is in sync.
    pub fn extend(&self, rig: &Rig, slot: usize, name: &str) {
        self.keepers
            .extend(Slot::new(slot).unwrap(), &rig.target(name), false)
            .unwrap();
        self.wait_for_state(slot, LegState::InSync);
    }

    /// The node is gone from one moment to the next, with all that it was about to do.
    pub fn die(self) {
        self.disk.die();
        self.keepers.stop();
        if let Some(link) = self.mirror.link(Slot::new(1).unwrap()) {
            link.abort();
        }
    }

    pub fn stop(self) {
        self.keepers.stop();
        let mirror = Arc::clone(&self.mirror);
        let stopping = std::thread::spawn(move || mirror.stop(PATIENCE));
        self.wait_for("the stop", || stopping.is_finished().then_some(()));
        assert!(stopping.join().unwrap(), "the mirror stops cleanly");
    }
}
