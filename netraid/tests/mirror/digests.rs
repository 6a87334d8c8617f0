//! Resyncs that compare by digests first: what crosses the wire, what never may, and servers that have no digests.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nbd_protocol::command::{Command, Completion};
use nbd_server::device::{BlockDevice, Geometry, SharedDevice};
use nbd_server::export::Export;
use nbd_server::file::FileDevice;
use nbd_server::listener::Listener;
use nbd_server::server::{Options, Server, ServerHandle};
use netraid::raid1::engine::Terms;
use netraid::raid1::keeper::order::Addition;
use netraid::raid1::leg::{LegState, Slot};
use netraid::status::ResyncEnd;

use crate::rig::{Node, Rig};

const MIB: u64 = 1 << 20;
/// Bytes under one digest.
const BLOCK: u64 = nbd_server::file::digest::BLOCK;

fn comparing() -> Rig {
    let mut rig = Rig::new();
    rig.settings.compare = true;
    rig.create();
    rig
}

/// Leg 1 leaves and is copied to anew, all of it.
fn copy_again(rig: &Rig, node: &Node) -> ResyncEnd {
    let slot = Slot::new(1).unwrap();
    let before = node.mirror.view(|view| view.last_resync.clone());
    node.mirror.remove(slot, "for the test".into());
    node.wait_for_state(1, LegState::Absent);
    let addition = Addition {
        target: rig.target("two"),
        terms: Terms {
            full: true,
            discard: false,
        },
        force: false,
    };
    node.keepers.add(slot, &addition).unwrap();
    node.wait_for("the end of the resync", || {
        let end = node.mirror.view(|view| view.last_resync.clone());
        end.filter(|end| Some(end.number) != before.as_ref().map(|end| end.number))
    })
}

/// Takes leg 1 in on order, so that nothing connects it again by itself.
fn take_in(rig: &Rig, node: &Node) {
    let addition = Addition {
        target: rig.target("two"),
        terms: Terms::default(),
        force: false,
    };
    node.keepers.add(Slot::new(1).unwrap(), &addition).unwrap();
    node.wait_for_state(1, LegState::InSync);
}

#[test]
fn a_full_resync_of_equal_legs_sends_nothing() {
    let rig = comparing();
    let node = rig.start("one");
    let (_server, _) = rig.serve("two");
    take_in(&rig, &node);
    for piece in 0..8 {
        node.write(piece * MIB, 1 << 20, piece as u8 + 1);
    }
    let end = copy_again(&rig, &node);
    assert_eq!(
        (end.copied, end.sent, end.compared, end.equal),
        (node.size(), 0, node.size(), node.size())
    );
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn only_blocks_that_differ_are_sent() {
    let rig = comparing();
    let node = rig.start("one");
    let (server, _) = rig.serve("two");
    take_in(&rig, &node);
    node.write(0, 8 << 20, 7);
    node.flush();
    // Behind the mirror's back: one byte in one block, two that meet at a boundary, and the last byte of all.
    let file = std::fs::File::options()
        .write(true)
        .open(rig.path("two"))
        .unwrap();
    let data = MIB;
    file.write_all_at(&[9], data + 3 * BLOCK + 77).unwrap();
    file.write_all_at(&[9, 9], data + 40 * BLOCK - 1).unwrap();
    file.write_all_at(&[9], data + node.size() - 1).unwrap();
    let end = copy_again(&rig, &node);
    let last = (node.size() - 1) % BLOCK + 1;
    assert_eq!(
        end.sent,
        3 * BLOCK,
        "the last block is zero on the source, and zeroes are not sent"
    );
    assert_eq!(end.equal, node.size() - 3 * BLOCK - last);
    node.stop();
    drop(server);
    assert!(rig.data("one") == rig.data("two"));
}

/// A disk of a server that knows nothing of digests.
struct WithoutDigests(SharedDevice);

impl BlockDevice for WithoutDigests {
    fn geometry(&self) -> Geometry {
        let mut geometry = self.0.geometry();
        geometry.contexts.truncate(1);
        geometry
    }

    fn submit(&self, command: Command, completion: Completion) {
        self.0.submit(command, completion);
    }
}

fn serve_without_digests(rig: &Rig) -> ServerHandle {
    let device = FileDevice::open(rig.path("two"), false).unwrap();
    let mut server = Server::new(Options::default());
    let device = Arc::new(WithoutDigests(Arc::new(device)));
    server.add_export(Export::new("two", device)).unwrap();
    server.add_listener(Listener::unix(rig.path("two.sock")).unwrap());
    server.start().unwrap()
}

#[test]
fn a_server_without_digests_gets_everything_and_the_status_says_so() {
    let rig = comparing();
    let node = rig.start("one");
    node.write(2 * MIB, 1 << 20, 5);
    let _server = serve_without_digests(&rig);
    take_in(&rig, &node);
    let end = copy_again(&rig, &node);
    assert_eq!((end.sent, end.compared, end.equal), (MIB, 0, 0));
    let slot = Slot::new(1).unwrap();
    let why = node
        .mirror
        .view(|view| view.engine.no_digests(slot).map(str::to_owned));
    assert_eq!(
        why.as_deref(),
        Some("its server does not offer x-netraid:blake3")
    );
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}
