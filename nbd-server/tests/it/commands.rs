//! Every command, right and wrong, against a file: what is answered and what is on the disk afterwards.

use std::os::unix::fs::{FileExt, MetadataExt};

use crate::client::*;
use crate::devices::GateDevice;
use crate::setup::{TestServer, file_device};

const SIZE: u64 = 8 << 20;

fn server() -> (TestServer, std::path::PathBuf, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (path, device) = file_device(&directory, SIZE);
    (TestServer::of(device), path, directory)
}

fn content(path: &std::path::Path, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    std::fs::File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, offset)
        .unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_back_at_every_size() {
    let (server, path, _directory) = server();
    let mut client = server.attach();
    let mut structured = server.attach_structured();
    // Around the borders of the receive buffer, of short payloads and of split reads.
    for (step, length) in [
        1usize,
        511,
        4096,
        32767,
        32768,
        32769,
        65536,
        262_144,
        262_145,
        1 << 20,
        3 << 20,
    ]
    .into_iter()
    .enumerate()
    {
        let offset = 13 * step as u64;
        let data: Vec<u8> = (0..length).map(|index| (index * 7 + step) as u8).collect();
        assert_eq!(
            client.call_write(if step % 2 == 0 { FUA } else { 0 }, offset, &data),
            0
        );
        assert_eq!(content(&path, offset, length), data);
        assert!(client.call_read(offset, length as u32) == data);
        structured.request(READ, 0, 9, offset, length as u32);
        let mut back = vec![0; length];
        for chunk in structured.chunks() {
            assert_eq!((chunk.kind, chunk.cookie), (1, 9));
            let at = (u64::from_be_bytes(chunk.payload[..8].try_into().unwrap()) - offset) as usize;
            back[at..at + chunk.payload.len() - 8].copy_from_slice(&chunk.payload[8..]);
        }
        assert!(back == data, "{length} bytes in chunks");
    }
}

#[test]
fn a_read_with_df_is_one_chunk() {
    let (server, _path, _directory) = server();
    let mut client = server.attach_structured();
    client.request(READ, DF, 1, 0, 4 << 20);
    let chunks = client.chunks();
    assert_eq!((chunks.len(), chunks[0].payload.len()), (1, 8 + (4 << 20)));
}

#[test]
fn many_requests_in_one_packet_are_all_answered() {
    let (server, path, _directory) = server();
    let mut client = server.attach();
    let mut message = Vec::new();
    for cookie in 0..300u64 {
        message.extend(request_bytes(WRITE, 0, cookie, cookie * 512, 512));
        message.extend([cookie as u8; 512]);
    }
    client.send(&message);
    let mut cookies: Vec<u64> = (0..300)
        .map(|_| client.answer(0))
        .map(|answer| answer.cookie)
        .collect();
    cookies.sort();
    assert_eq!(cookies, (0..300).collect::<Vec<u64>>());
    for cookie in 0..300u64 {
        assert_eq!(content(&path, cookie * 512, 512), [cookie as u8; 512]);
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let (server, path, _directory) = server();
    let mut client = server.attach();
    let mut message = request_bytes(WRITE, 0, 1, 100, 3);
    message.extend(b"abc");
    message.extend(request_bytes(FLUSH, 0, 2, 0, 0));
    for byte in message {
        client.send(&[byte]);
    }
    assert_eq!((client.answer(0).cookie, client.answer(0).cookie), (1, 2));
    assert_eq!(content(&path, 100, 3), b"abc");
}

#[test]
fn errors_are_those_of_the_protocol_and_the_connection_stays() {
    let (server, path, _directory) = server();
    let mut client = server.attach();
    let end = SIZE;
    // Unknown commands and flags.
    assert_eq!(client.call(99, 0, 0, 512), EINVAL);
    assert_eq!(client.call(8, 0, 0, 512), EINVAL);
    assert_eq!(client.call(READ, 1 << 9, 0, 512), EINVAL);
    assert_eq!(
        client.call(READ, DF, 0, 512),
        EINVAL,
        "DF needs structured replies"
    );
    assert_eq!(client.call(TRIM, NO_HOLE, 0, 512), EINVAL);
    assert_eq!(client.call(FLUSH, 0, 0, 512), EINVAL);
    assert_eq!(
        client.call(BLOCK_STATUS, 0, 0, 512),
        EINVAL,
        "no context was negotiated"
    );
    // FUA is taken with any command.
    assert_eq!(client.call(FLUSH, FUA, 0, 0), 0);
    assert_eq!(client.call(CACHE, FUA, 0, 4096), 0);
    // Beyond the end, with and without overflow.
    for offset in [end, end - 511, u64::MAX, u64::MAX - 511] {
        assert_eq!(client.call(READ, 0, offset, 512), EINVAL);
        assert_eq!(client.call(TRIM, 0, offset, 512), EINVAL);
        assert_eq!(client.call(CACHE, 0, offset, 512), EINVAL);
        assert_eq!(client.call(WRITE_ZEROES, 0, offset, 512), ENOSPC);
        assert_eq!(client.call_write(0, offset, &[1; 512]), ENOSPC);
    }
    // Nothing at all.
    for kind in [READ, TRIM, WRITE_ZEROES, CACHE] {
        assert_eq!(client.call(kind, 0, 0, 0), EINVAL);
    }
    assert_eq!(client.call_write(0, 0, &[]), EINVAL);
    assert_eq!(client.call_read(0, 4), [0; 4]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
}

#[test]
fn structured_errors_carry_a_sentence() {
    let (server, _path, _directory) = server();
    let mut client = server.attach_structured();
    client.request(READ, 0, 4, SIZE, 1 << 20);
    let chunks = client.chunks();
    assert_eq!(
        (chunks.len(), chunks[0].kind, chunks[0].error),
        (1, 0x8001, EINVAL)
    );
    assert!(String::from_utf8_lossy(&chunks[0].payload[6..]).contains("beyond the end"));
}

#[test]
fn payloads_up_to_64_mib_are_taken_and_a_refused_one_is_consumed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, device) = file_device(&directory, 65 << 20);
    let server = TestServer::of(device);
    let mut client = server.attach();
    let data: Vec<u8> = (0..64 << 20)
        .map(|index: u32| (index >> 12) as u8)
        .collect();
    assert_eq!(client.call_write(0, 1 << 20, &data), 0);
    assert!(content(&path, 1 << 20, 64 << 20) == data);
    assert!(client.call_read(1 << 20, 64 << 20) == data);
    // Beyond the end by one byte.
    assert_eq!(client.call_write(0, (1 << 20) + 1, &data), ENOSPC);
    assert_eq!(client.call_read(0, 4), [0; 4]);
}

#[test]
fn a_read_only_export_refuses_every_change_but_its_payload_is_consumed() {
    let directory = tempfile::tempdir().unwrap();
    let (path, device) = file_device(&directory, SIZE);
    drop(device);
    let device = nbd_server::file::FileDevice::open(&path, true).unwrap();
    let server = TestServer::of(std::sync::Arc::new(device));
    let mut client = server.attach();
    assert_eq!(client.call_write(0, 0, &[1; 4096]), EPERM);
    assert_eq!(client.call_write(0, 0, &[1; 100_000]), EPERM);
    assert_eq!(client.call(TRIM, 0, 0, 4096), EPERM);
    assert_eq!(client.call(WRITE_ZEROES, 0, 0, 4096), EPERM);
    assert_eq!(client.call(FLUSH, 0, 0, 0), 0);
    assert_eq!(client.call_read(0, 4096), [0; 4096]);
}

#[test]
fn trim_and_write_zeroes_read_back_as_zeroes_and_give_back_or_keep_the_space() {
    let (server, path, _directory) = server();
    let mut client = server.attach();
    let allocated = || std::fs::metadata(&path).unwrap().blocks() * 512;
    let fill = |client: &mut Client| assert_eq!(client.call_write(FUA, 0, &vec![0xaa; 4 << 20]), 0);
    for (kind, flags, keeps) in [
        (TRIM, 0, false),
        (WRITE_ZEROES, 0, false),
        (WRITE_ZEROES, NO_HOLE, true),
        (WRITE_ZEROES, FAST_ZERO, false),
    ] {
        fill(&mut client);
        // Not aligned to anything: exactly the range becomes zero.
        assert_eq!(client.call(kind, flags | FUA, 1001, 3 << 20), 0);
        assert_eq!(content(&path, 0, 1001), [0xaa; 1001]);
        assert!(content(&path, 1001, 3 << 20) == vec![0; 3 << 20]);
        assert_eq!(content(&path, 1001 + (3 << 20), 1000), [0xaa; 1000]);
        assert_eq!(
            allocated() >= 4 << 20,
            keeps,
            "{kind} {flags}: {} bytes allocated",
            allocated()
        );
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
}

#[test]
fn block_status_tells_data_from_holes() {
    let (server, _path, _directory) = server();
    let mut client = server.attach_structured();
    assert_eq!(client.call_write(FUA, 1 << 20, &vec![1; 1 << 20]), 0);
    client.request(BLOCK_STATUS, 0, 1, 512 << 10, 3 << 20);
    let chunks = client.chunks();
    assert_eq!((chunks.len(), chunks[0].kind), (1, 5));
    let numbers: Vec<u32> = chunks[0]
        .payload
        .chunks(4)
        .map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
        .collect();
    // Context 1; half a MiB of hole, one of data, then hole up to the end or as far as the range goes.
    assert_eq!(
        numbers[..6],
        [numbers[0], 512 << 10, 3, 1 << 20, 0, numbers[5]]
    );
    assert!(numbers[5] >= 3 << 19 && numbers[6] == 3, "{numbers:?}");
    client.request(BLOCK_STATUS, REQ_ONE, 1, 1 << 20, 4096);
    let one = client.chunks();
    assert_eq!(one[0].payload[4..], [0, 0, 16, 0, 0, 0, 0, 0]);
    assert_eq!(client.call(BLOCK_STATUS, 0, SIZE, 512), EINVAL);
}

#[test]
fn each_selected_context_gets_its_chunk_and_the_last_one_ends_the_reply() {
    let server = TestServer::of(GateDevice::new(4096));
    let mut client = Client::connect(&server.socket);
    client.structured("disk");
    let replies = client.option(
        SET_META_CONTEXT,
        &meta("disk", &["x-netraid:test", "base:allocation"]),
    );
    assert_eq!(
        replies
            .iter()
            .filter(|reply| reply.0 == REP_META_CONTEXT)
            .count(),
        2
    );
    assert_eq!(client.go("disk"), ACK);
    client.request(BLOCK_STATUS, 0, 1, 0, 4096);
    let chunks = client.chunks();
    assert_eq!(
        chunks
            .iter()
            .map(|chunk| (chunk.kind, chunk.done))
            .collect::<Vec<_>>(),
        [(5, false), (5, true)]
    );
    assert_ne!(chunks[0].payload[..4], chunks[1].payload[..4]);
}

#[test]
fn a_flush_on_one_connection_covers_what_was_answered_on_another() {
    // What can be seen from here: the flush reaches the device after the write that was answered on the other
    // connection has been done, and the export says that this holds.
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    let (mut one, mut two) = (server.attach(), server.attach());
    assert_eq!(one.call_write(0, 0, &[1; 512]), 0);
    assert_eq!(two.call(FLUSH, 0, 0, 0), 0);
    assert_eq!(device.seen(), ["Write(0+512, fua false)", "Flush"]);
    let mut client = Client::connect(&server.socket);
    let info = client.option(INFO, &go_data("disk"));
    assert_eq!(
        u16::from_be_bytes([info[0].1[10], info[0].1[11]]) >> 8 & 1,
        1,
        "CAN_MULTI_CONN"
    );
}

#[test]
fn a_device_that_drops_a_command_means_eio_and_frees_the_range() {
    let device = GateDevice::new(4096);
    let server = TestServer::of(device.clone());
    let mut client = server.attach();
    device.hold(crate::devices::is_write);
    client.write(0, 1, 0, &[1; 512]);
    client.write(0, 2, 0, &[2; 512]);
    device.wait_for_held(1);
    device.hold(|_| false);
    device.forget_held();
    let (first, second) = (client.answer(0), client.answer(0));
    assert_eq!((first.cookie, first.error), (1, 5));
    assert_eq!((second.cookie, second.error, device.byte(0)), (2, 0, 2));
}
