//! A cable that changes a byte: nothing of it is written or read, the connection ends, and the leg is made equal again.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use nbd_client::Target;
use nbd_protocol::command::Command;
use netraid::raid1::leg::{LegState, Slot};

use crate::rig::{Node, Rig};

/// What payloads are filled with that the cable looks for.
const MARK: u8 = 0xa7;
/// So many marks in a row are the middle of a payload.
const RUN: usize = 512;

/// Passes bytes between a client and a server, and changes one when it is told to.
struct Cable {
    path: PathBuf,
    to_server: Arc<AtomicBool>,
    to_client: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Cable {
    fn new(rig: &Rig) -> Cable {
        let path = rig.path("cable.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let cable = Cable {
            path,
            to_server: Arc::default(),
            to_client: Arc::default(),
            streams: Arc::default(),
        };
        let server = rig.path("two.sock");
        let (up, down) = (Arc::clone(&cable.to_server), Arc::clone(&cable.to_client));
        let streams = Arc::clone(&cable.streams);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&server)) else {
                    return;
                };
                let ends = [&client, &server].map(|end| end.try_clone().unwrap());
                streams.lock().unwrap().extend(ends);
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (up, down) = (Arc::clone(&up), Arc::clone(&down));
                thread::spawn(move || pass(client, server, &up));
                thread::spawn(move || pass(back.0, back.1, &down));
            }
        });
        cable
    }

    fn target(&self) -> Target {
        Target::unix(&self.path, "two")
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, change: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let marks = bytes[..count]
            .windows(RUN)
            .position(|run| run.iter().all(|byte| *byte == MARK));
        if let Some(at) = marks
            && change.swap(false, Ordering::SeqCst)
        {
            bytes[at + RUN / 2] ^= 0x10;
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(std::net::Shutdown::Both);
    }
}

fn sealed() -> Rig {
    let mut rig = Rig::new();
    rig.integrity = true;
    rig.settings.leg_timeout = 10_000;
    rig.create();
    rig
}

fn damaged(node: &Node) -> u64 {
    node.keepers.damaged(Slot::new(1).unwrap())
}

#[test]
fn a_write_that_is_changed_on_its_way_is_not_applied_and_its_leg_is_made_equal_again() {
    let rig = sealed();
    let (_server, _) = rig.serve("two");
    let node = rig.start("one");
    let cable = Cable::new(&rig);
    node.keepers
        .extend(Slot::new(1).unwrap(), &cable.target(), false)
        .unwrap();
    node.wait_for_state(1, LegState::InSync);
    for (round, length) in [4096, 32 << 10, 1 << 20].into_iter().enumerate() {
        cable.to_server.store(true, Ordering::SeqCst);
        node.write(1 << 20, length, MARK);
        assert!(!cable.to_server.load(Ordering::SeqCst), "it was changed");
        node.wait_for("the damage", || {
            (damaged(&node) > round as u64).then_some(())
        });
        node.wait_for_state(1, LegState::InSync);
        assert!(
            node.reason(1).contains("damaged on its way"),
            "{}",
            node.reason(1)
        );
        let changed = rig.data("two");
        let changed = changed.iter().position(|byte| *byte == MARK ^ 0x10);
        assert_eq!(changed, None, "the changed byte is on the disk");
        node.write(1 << 20, length, 0);
    }
    node.wait_for_no_dirty_bit();
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn a_read_that_is_changed_on_its_way_is_answered_by_nobody() {
    let rig = sealed();
    let (_server, _) = rig.serve("two");
    let node = rig.start("one");
    let cable = Cable::new(&rig);
    node.keepers
        .extend(Slot::new(1).unwrap(), &cable.target(), false)
        .unwrap();
    node.wait_for_state(1, LegState::InSync);
    node.write(0, 1 << 20, MARK);
    for length in [4096, 512 << 10] {
        let before = damaged(&node);
        let link = node.wait_for("a connection", || {
            let link = node.mirror.link(Slot::new(1).unwrap());
            link.filter(|link| link.lost().is_none())
        });
        node.wait_for_state(1, LegState::InSync);
        cable.to_client.store(true, Ordering::SeqCst);
        let read = Command::Read {
            offset: 1 << 20,
            length,
        };
        let outcome = link.run(read, std::time::Duration::from_secs(30));
        let failure = outcome.unwrap_err();
        assert!(failure.why.contains("damaged on its way"), "{failure}");
        assert_eq!(damaged(&node), before + 1);
        node.wait_for("the end of the connection", || link.lost());
    }
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}
