//! Digests of ranges: as nbdinfo shows them, and what they wait for.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command as Program;
use std::sync::Arc;

use nbd_protocol::command::{Command, Completion};
use nbd_server::device::{BlockDevice, Geometry};
use nbd_server::file::FileDevice;
use nbd_server::file::digest::{BLOCK, CONTEXT, MOST, digest};

use crate::client::{ACK, BLOCK_STATUS, Client, EXTENDED_HEADERS, FLUSH, SET_META_CONTEXT, meta};
use crate::devices::GateDevice;
use crate::interop::has;
use crate::setup::{TestServer, wait_until};

#[test]
fn nbdinfo_maps_digests_and_the_zeroes_of_holes() {
    if !has("nbdinfo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let file = File::create(&path).unwrap();
    // More than one answer describes.
    let size = MOST + 5 * BLOCK + 512;
    file.set_len(size).unwrap();
    let block = |filled: u8| vec![filled; BLOCK as usize];
    file.write_all_at(&block(1), BLOCK).unwrap();
    file.write_all_at(&block(2), MOST).unwrap();
    let server = TestServer::of(Arc::new(FileDevice::open(&path, true).unwrap()));
    let uri = format!("nbd+unix:///disk?socket={}", server.socket.display());
    let told = Program::new("nbdinfo")
        .args(["--map=x-netraid:blake3", &uri])
        .output()
        .unwrap();
    let problem = String::from_utf8_lossy(&told.stderr);
    if problem.contains("does not support metadata context") {
        eprintln!(
            "this nbdinfo knows no extended headers (libnbd has them since 1.18), and 64 bits don't fit others"
        );
        return;
    }
    assert!(told.status.success(), "{told:?}");
    let text = String::from_utf8(told.stdout).unwrap();
    let map: Vec<Vec<u64>> = text
        .lines()
        .map(|line| {
            let words = line.split_whitespace();
            words.map(|word| word.parse().unwrap()).collect()
        })
        .collect();
    // nbdinfo shows neighbours of one digest as one.
    let zeroes = digest(&block(0));
    let expected = [
        [0, BLOCK, zeroes],
        [BLOCK, BLOCK, digest(&block(1))],
        [2 * BLOCK, MOST - 2 * BLOCK, zeroes],
        [MOST, BLOCK, digest(&block(2))],
        [MOST + BLOCK, 4 * BLOCK, zeroes],
        [size - 512, 512, digest(&[0; 512])],
    ];
    assert_eq!(map, expected.map(Vec::from), "{text}");
}

/// A [`GateDevice`] that has digests.
struct WithDigests(Arc<GateDevice>);

impl BlockDevice for WithDigests {
    fn geometry(&self) -> Geometry {
        Geometry {
            contexts: vec!["base:allocation".into(), CONTEXT.into()],
            ..self.0.geometry()
        }
    }

    fn submit(&self, command: Command, completion: Completion) {
        self.0.submit(command, completion);
    }
}

fn is_status(command: &Command) -> bool {
    matches!(command, Command::BlockStatus { .. })
}

/// A client with extended headers and digests, which asks and does not wait for answers.
struct Asker(Client);

impl Asker {
    fn attach(server: &TestServer) -> Asker {
        let mut client = Client::connect(&server.socket);
        assert_eq!(client.option(EXTENDED_HEADERS, b"").last().unwrap().0, ACK);
        let replies = client.option(SET_META_CONTEXT, &meta("disk", &[CONTEXT]));
        assert_eq!(replies.len(), 2, "{replies:?}");
        assert_eq!(client.go("disk"), ACK);
        Asker(client)
    }

    fn ask(&mut self, offset: u64, length: u64) {
        let mut request = 0x21e4_1c71u32.to_be_bytes().to_vec();
        request.extend(0u16.to_be_bytes());
        request.extend(BLOCK_STATUS.to_be_bytes());
        for number in [7, offset, length] {
            request.extend(number.to_be_bytes());
        }
        self.0.send(&request);
    }
}

#[test]
fn digests_and_overlapping_writes_take_turns_and_others_go_on() {
    let device = GateDevice::new(8 << 20);
    let server = TestServer::of(Arc::new(WithDigests(device.clone())));
    let (mut asker, mut writer) = (Asker::attach(&server), server.attach());
    device.hold(crate::devices::is_write);
    writer.write(0, 1, 4096, &[1; 512]);
    device.wait_for_held(1);
    asker.ask(0, 65536);
    // What does not overlap passes, so it was taken in behind the question.
    asker.ask(1 << 20, 512);
    wait_until("the other answer", || device.seen().len() == 2);
    assert!(device.seen()[1].starts_with("BlockStatus(1048576+512"));
    device.hold(is_status);
    device.release(0);
    device.wait_for_held(1);
    assert_eq!(writer.answer(0).error, 0);
    // Now the other way round: the digest is being told, and a write to what it describes has to wait.
    writer.write(0, 2, 8192, &[2; 512]);
    writer.write(0, 3, 2 << 20, &[3; 512]);
    assert_eq!(writer.answer(0).cookie, 3, "apart from it");
    assert_eq!(writer.call_read(8192, 1), [0], "reading is no matter");
    device.open();
    assert_eq!((writer.answer(0).cookie, device.byte(8192)), (2, 2));
}

#[test]
fn a_question_about_a_whole_disk_holds_only_what_is_answered() {
    let device = GateDevice::new((MOST + BLOCK) as usize);
    let server = TestServer::of(Arc::new(WithDigests(device.clone())));
    let (mut asker, mut writer) = (Asker::attach(&server), server.attach());
    device.hold(is_status);
    asker.ask(0, MOST + BLOCK);
    device.wait_for_held(1);
    assert!(device.seen()[0].starts_with(&format!("BlockStatus(0+{MOST}")));
    writer.write(0, 1, MOST - 1, &[1]);
    assert_eq!(writer.call_write(0, MOST, &[2]), 0);
    assert_eq!(device.byte(MOST as usize - 1), 0);
    device.open();
    assert_eq!(writer.answer(0).cookie, 1);
}

#[test]
fn digests_are_offered_only_where_64_bits_fit() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(Arc::new(WithDigests(device)));
    let mut client = Client::connect(&server.socket);
    client.structured("disk");
    let replies = client.option(SET_META_CONTEXT, &meta("disk", &[CONTEXT]));
    assert_eq!(replies.len(), 1, "{replies:?}");
    // And nobody is answered who did not ask for them.
    let mut client = server.attach();
    assert_ne!(client.call(BLOCK_STATUS, 0, 0, 512), 0);
    assert_eq!(client.call(FLUSH, 0, 0, 0), 0, "it goes on");
}
