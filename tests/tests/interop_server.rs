//! Other people's clients against our nbd-server: what they write, read, map and complain about.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use netraid_tests::peers::{self, FIO, NBDCOPY, NBDINFO, NBDSH, QEMU_IMG, QEMU_IO};
use netraid_tests::process::run;
use netraid_tests::require;
use netraid_tests::scratch::{MIB, Noise, Scratch, allocated, assert_same, bytes_at};
use netraid_tests::servers::{self, Endpoint, Server};
use serde_json::{Value, json};

/// Our server with one export, `disk`, and the folder that everything lies in.
struct Ours {
    server: Server,
    image: PathBuf,
    scratch: Scratch,
}

/// Serves a hole of 64 MiB on a unix socket.
fn serve_empty() -> Ours {
    let scratch = Scratch::new();
    let image = scratch.sparse("disk.img", 64 * MIB);
    serve(scratch, image, &[])
}

fn serve(scratch: Scratch, image: PathBuf, words: &[&str]) -> Ours {
    let place = Endpoint::unix(&scratch, "s");
    serve_at(scratch, image, place, words)
}

fn serve_at(scratch: Scratch, image: PathBuf, place: Endpoint, words: &[&str]) -> Ours {
    let program = peers::ours("nbd-server");
    let server = servers::ours(&program, &scratch, &place, "disk", &image, words);
    Ours {
        server,
        image,
        scratch,
    }
}

#[test]
fn nbdinfo_sees_the_size_and_every_ability() {
    let nbdinfo = require!(NBDINFO);
    let ours = serve_empty();
    let told = run(Command::new(nbdinfo).arg("--json").arg(ours.server.uri()))
        .ok()
        .json();
    let export = &told["exports"][0];
    assert_eq!(export["export-size"], json!(64 * MIB), "{export:#}");
    assert_eq!(export["is_read_only"], json!(false), "{export:#}");
    for ability in [
        "flush",
        "fua",
        "trim",
        "zero",
        "fast_zero",
        "cache",
        "multi_conn",
        "df",
    ] {
        assert_eq!(
            export[format!("can_{ability}")],
            json!(true),
            "{ability} of {export:#}"
        );
    }
    assert_eq!(
        export["contexts"][0],
        json!("base:allocation"),
        "{export:#}"
    );
    assert_eq!(told["structured"], json!(true), "{told:#}");
}

#[test]
fn nbdinfo_lists_every_export_and_which_one_is_read_only() {
    let nbdinfo = require!(NBDINFO);
    let scratch = Scratch::new();
    let image = scratch.sparse("disk.img", MIB);
    let other = scratch.sparse("other.img", 2 * MIB);
    let words = ["--export", &format!("other={},ro", other.display())];
    let ours = serve(scratch, image, &words);
    let uri = ours.server.endpoint.uri("");
    let told = run(Command::new(nbdinfo).args(["--list", "--json"]).arg(uri))
        .ok()
        .json();
    let mut found: Vec<(Value, Value, Value)> = told["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|export| {
            let field = |name: &str| export[name].clone();
            (
                field("export-name"),
                field("export-size"),
                field("is_read_only"),
            )
        })
        .collect();
    found.sort_by_key(|(name, ..)| name.to_string());
    assert_eq!(
        found,
        [
            (json!("disk"), json!(MIB), json!(false)),
            (json!("other"), json!(2 * MIB), json!(true))
        ]
    );
}

#[test]
fn nbdinfo_maps_data_and_holes_where_they_are() {
    let nbdinfo = require!(NBDINFO);
    let scratch = Scratch::new();
    let image = scratch.patchy("disk.img", 16 * MIB, 3);
    let ours = serve(scratch, image, &[]);
    let map = run(Command::new(nbdinfo)
        .args(["--map", "--json"])
        .arg(ours.server.uri()))
    .ok();
    let found: Vec<(u64, u64, u64)> = map
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|extent| {
            let number = |name: &str| extent[name].as_u64().unwrap();
            (number("offset"), number("length"), number("type"))
        })
        .collect();
    let expected: Vec<(u64, u64, u64)> = (0..4)
        .flat_map(|patch| {
            let start = 4 * patch * MIB;
            [(start, MIB, 0), (start + MIB, 3 * MIB, 3)]
        })
        .collect();
    assert_eq!(found, expected);
}

fn nbdcopy_both_ways(nbdcopy: &Path, ours: &Ours) {
    let source = ours.scratch.patchy("source.img", 64 * MIB, 4);
    let back = ours.scratch.path("back.img");
    run(Command::new(nbdcopy)
        .arg("--flush")
        .arg(&source)
        .arg(ours.server.uri()))
    .ok();
    assert_same(&source, &ours.image);
    run(Command::new(nbdcopy).arg(ours.server.uri()).arg(&back)).ok();
    assert_same(&source, &back);
}

#[test]
fn nbdcopy_over_a_unix_socket_copies_in_and_out_and_keeps_holes() {
    let nbdcopy = require!(NBDCOPY);
    let ours = serve_empty();
    nbdcopy_both_ways(&nbdcopy, &ours);
    let bytes = allocated(&ours.image);
    assert!(
        bytes <= 17 * MIB,
        "holes were filled: {bytes} bytes for 16 MiB of data"
    );
}

#[test]
fn nbdcopy_over_tcp_copies_in_and_out() {
    let nbdcopy = require!(NBDCOPY);
    let scratch = Scratch::new();
    let image = scratch.sparse("disk.img", 64 * MIB);
    let ours = serve_at(scratch, image, Endpoint::tcp(), &[]);
    nbdcopy_both_ways(&nbdcopy, &ours);
}

#[test]
fn nbdcopy_overwrites_old_data_where_the_source_has_holes() {
    let nbdcopy = require!(NBDCOPY);
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", 64 * MIB, 5);
    let ours = serve(scratch, image, &[]);
    nbdcopy_both_ways(&nbdcopy, &ours);
}

#[test]
fn an_ipv6_listener_serves_beside_a_unix_socket() {
    let nbdinfo = require!(NBDINFO);
    if std::net::TcpListener::bind(("::1", 0)).is_err() {
        peers::skip("this machine has no IPv6 loopback address");
        return;
    }
    let port = std::net::TcpListener::bind(("::1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let scratch = Scratch::new();
    let image = scratch.sparse("disk.img", MIB);
    let ours = serve(scratch, image, &["--listen", &format!("[::1]:{port}")]);
    for uri in [ours.server.uri(), format!("nbd://[::1]:{port}/disk")] {
        let size = run(Command::new(&nbdinfo).arg("--size").arg(&uri)).ok();
        assert_eq!(size.stdout.trim(), MIB.to_string(), "{uri}");
    }
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let qemu_img = require!(QEMU_IMG);
    let ours = serve_empty();
    let source = ours.scratch.patchy("source.img", 64 * MIB, 6);
    let back = ours.scratch.path("back.img");
    let uri = ours.server.uri();
    run(Command::new(&qemu_img)
        .args(["convert", "-n", "-f", "raw", "-O", "raw"])
        .arg(&source)
        .arg(&uri))
    .ok();
    assert_same(&source, &ours.image);
    run(Command::new(&qemu_img)
        .args(["compare", "-f", "raw", "-F", "raw"])
        .arg(&source)
        .arg(&uri))
    .ok();
    run(Command::new(&qemu_img)
        .args(["convert", "-f", "raw", "-O", "raw"])
        .arg(&uri)
        .arg(&back))
    .ok();
    assert_same(&source, &back);
    let map = run(Command::new(&qemu_img)
        .args(["map", "-f", "raw", "--output=json"])
        .arg(&uri))
    .ok();
    let data: Vec<(u64, u64)> = map
        .json()
        .as_array()
        .unwrap()
        .iter()
        .filter(|extent| extent["zero"] == json!(false))
        .map(|extent| {
            (
                extent["start"].as_u64().unwrap(),
                extent["length"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected: Vec<(u64, u64)> = (0..16).map(|patch| (4 * patch * MIB, MIB)).collect();
    assert_eq!(data, expected);
}

#[test]
fn qemu_img_compare_notices_one_different_byte() {
    let qemu_img = require!(QEMU_IMG);
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", 4 * MIB, 7);
    let source = scratch.noise("source.img", 4 * MIB, 7);
    let mut file = std::fs::File::options().write(true).open(&image).unwrap();
    file.seek(SeekFrom::Start(3 * MIB + 77)).unwrap();
    file.write_all(&[!bytes_at(&source, 3 * MIB + 77, 1)[0]])
        .unwrap();
    let ours = serve(scratch, image, &[]);
    let compared = run(Command::new(qemu_img)
        .args(["compare", "-f", "raw", "-F", "raw"])
        .arg(&source)
        .arg(ours.server.uri()));
    compared.code(1);
}

/// The line of the NBD reference notes that tries every command and reads back what must be there.
const QEMU_IO_COMMANDS: [&str; 11] = [
    "write -P 0x5a 4k 64k",
    "write -f -P 0x5b 68k 4k",
    "write -z 1M 1M",
    "write -z -u 3M 1M",
    "discard 8M 1M",
    "flush",
    "read -P 0x5a 4k 64k",
    "read -P 0x5b 68k 4k",
    "read -P 0 1M 1M",
    "read -P 0 3M 1M",
    "read -P 0 8M 1M",
];

#[test]
fn qemu_io_reads_back_what_every_command_left() {
    let qemu_io = require!(QEMU_IO);
    let scratch = Scratch::new();
    // Noise everywhere, so that zeroes are there only where they were asked for; TRIM zeroes too.
    let image = scratch.noise("disk.img", 64 * MIB, 8);
    let ours = serve(scratch, image, &[]);
    let mut command = Command::new(qemu_io);
    command.args(["-f", "raw", "-t", "writeback", "-d", "unmap"]);
    for line in QEMU_IO_COMMANDS {
        command.args(["-c", line]);
    }
    let done = run(command.arg(ours.server.uri())).ok();
    assert!(
        !done.stdout.contains("Pattern verification failed"),
        "{done}"
    );
    assert_eq!(bytes_at(&ours.image, 4096, 1), [0x5a]);
    assert_eq!(bytes_at(&ours.image, 8 * MIB, 4096), vec![0; 4096]);
}

#[test]
fn qemu_img_bench_writes_with_forced_unit_access() {
    let qemu_img = require!(QEMU_IMG);
    let ours = serve_empty();
    run(Command::new(qemu_img)
        .args([
            "bench",
            "-f",
            "raw",
            "-w",
            "-t",
            "writethrough",
            "-c",
            "600",
            "-d",
            "1",
        ])
        .args(["-s", "4096", "-S", "4096", "--pattern", "0xa5"])
        .arg(ours.server.uri()))
    .ok();
    assert_eq!(bytes_at(&ours.image, 0, 600 * 4096), vec![0xa5; 600 * 4096]);
}

fn fio_verifies(uri: &str, words: &[&str]) {
    let fio = require!(FIO);
    run(Command::new(fio)
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--size=64m",
            "--iodepth=16",
            "--thread",
        ])
        .args([
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_state_save=0",
            "--fsync=64",
        ])
        .arg(format!("--uri={uri}"))
        .args(words))
    .ok();
}

#[test]
fn fio_verifies_random_writes_of_many_sizes() {
    let ours = serve_empty();
    let words = [
        "--rw=randwrite",
        "--bs=4k-256k",
        "--blockalign=4k",
        "--verify=crc32c",
        "--verify_backlog=256",
    ];
    fio_verifies(&ours.server.uri(), &words);
}

#[test]
fn fio_verifies_mixed_reads_and_writes_over_tcp() {
    let scratch = Scratch::new();
    let image = scratch.sparse("disk.img", 64 * MIB);
    let ours = serve_at(scratch, image, Endpoint::tcp(), &[]);
    let words = ["--rw=randrw", "--bs=4k", "--verify=md5"];
    fio_verifies(&ours.server.uri(), &words);
}

/// Asks for what libnbd would refuse to send, were its strict mode on, and prints what became of each as JSON.
const NBDSH_PROBES: &str = r#"
import json, sys, nbd, errno
uri, = sys.argv[1:]
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(uri)
h.set_strict_mode(0)
size = h.get_size()
MIB = 1 << 20
found = {}
def probe(name, call):
    try:
        call()
        found[name] = "ok"
    except nbd.Error as error:
        found[name] = errno.errorcode.get(error.errnum, str(error.errnum))
block = b"x" * 512
probe("read across the end", lambda: h.pread(1024, size - 512))
probe("read behind the end", lambda: h.pread(512, size))
probe("read at the largest offset", lambda: h.pread(512, 2**63 - 512))
probe("write across the end", lambda: h.pwrite(b"x" * 1024, size - 512))
probe("write behind the end", lambda: h.pwrite(block, size))
probe("trim across the end", lambda: h.trim(1024, size - 512))
probe("write zeroes across the end", lambda: h.zero(1024, size - 512))
probe("block status behind the end", lambda: h.block_status(512, size, lambda *a: 0))
probe("cache across the end", lambda: h.cache(1024, size - 512))
probe("read of nothing", lambda: h.pread(0, 0))
probe("write of nothing", lambda: h.pwrite(b"", 0))
probe("trim of nothing", lambda: h.trim(0, 0))
probe("write zeroes of nothing", lambda: h.zero(0, 0))
probe("read with an unknown flag", lambda: h.pread(512, 0, 0x4000))
probe("write with an unknown flag", lambda: h.pwrite(block, 0, 0x4000))
probe("flush with an unknown flag", lambda: h.flush(0x4000))
probe("trim with the flag of block status", lambda: h.trim(512, 0, nbd.CMD_FLAG_REQ_ONE))
probe("write with the flag of fast zeroes", lambda: h.pwrite(block, 0, nbd.CMD_FLAG_FAST_ZERO))
probe("read of one unaligned byte", lambda: h.pread(1, 12345))
probe("write of three unaligned bytes", lambda: h.pwrite(b"abc", 12345))
probe("write with forced unit access", lambda: h.pwrite(block, 0, nbd.CMD_FLAG_FUA))
probe("trim with forced unit access", lambda: h.trim(4096, 0, nbd.CMD_FLAG_FUA))
probe("read in one piece", lambda: h.pread_structured(65536, 0, lambda *a: 0, nbd.CMD_FLAG_DF))
probe("read of 33 MiB", lambda: h.pread(33 * MIB, 0))
probe("write of 33 MiB", lambda: h.pwrite(bytes(33 * MIB), 0))
probe("flush", lambda: h.flush())
probe("still alive", lambda: h.pread(512, 0))
print(json.dumps(found))
"#;

#[test]
fn nbdsh_without_strict_mode_gets_the_protocols_own_errors() {
    let python = require!(NBDSH);
    let ours = serve_empty();
    let told = run(Command::new(python)
        .args(["-c", NBDSH_PROBES])
        .arg(ours.server.uri()))
    .ok();
    let expected = json!({
        "read across the end": "EINVAL",
        "read behind the end": "EINVAL",
        "read at the largest offset": "EINVAL",
        "write across the end": "ENOSPC",
        "write behind the end": "ENOSPC",
        "trim across the end": "EINVAL",
        "write zeroes across the end": "ENOSPC",
        "block status behind the end": "EINVAL",
        "cache across the end": "EINVAL",
        "read of nothing": "EINVAL",
        "write of nothing": "EINVAL",
        "trim of nothing": "EINVAL",
        "write zeroes of nothing": "EINVAL",
        "read with an unknown flag": "EINVAL",
        "write with an unknown flag": "EINVAL",
        "flush with an unknown flag": "EINVAL",
        "trim with the flag of block status": "EINVAL",
        "write with the flag of fast zeroes": "EINVAL",
        "read of one unaligned byte": "ok",
        "write of three unaligned bytes": "ok",
        "write with forced unit access": "ok",
        "trim with forced unit access": "ok",
        "read in one piece": "ok",
        "read of 33 MiB": "ok",
        "write of 33 MiB": "ok",
        "flush": "ok",
        "still alive": "ok",
    });
    assert_eq!(told.json(), expected);
}

/// Tries to change a read-only export, though libnbd knows better.
const NBDSH_READ_ONLY: &str = r#"
import json, sys, nbd, errno
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.set_strict_mode(0)
def probe(call):
    try:
        call()
        return "ok"
    except nbd.Error as error:
        return errno.errorcode.get(error.errnum, str(error.errnum))
print(json.dumps([
    h.is_read_only(),
    probe(lambda: h.pwrite(b"x" * 512, 0)),
    probe(lambda: h.zero(512, 0)),
    probe(lambda: h.trim(512, 0)),
    probe(lambda: h.pread(512, 0)),
]))
"#;

#[test]
fn a_read_only_export_refuses_every_change() {
    let python = require!(NBDSH);
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", MIB, 9);
    let other = scratch.noise("other.img", MIB, 10);
    let words = ["--export", &format!("other={},ro", other.display())];
    let ours = serve(scratch, image, &words);
    let uri = ours.server.endpoint.uri("other");
    let told = run(Command::new(python).args(["-c", NBDSH_READ_ONLY]).arg(uri)).ok();
    assert_eq!(told.json(), json!([true, "EPERM", "EPERM", "EPERM", "ok"]));
    assert_same(&other, &ours.scratch.noise("before.img", MIB, 10));
}

#[test]
fn the_client_of_the_nbd_crate_writes_reads_flushes_and_trims() {
    let ours = serve_empty();
    let mut connection = ours.server.endpoint.connect().unwrap();
    let export = nbd::client::handshake(&mut connection, b"disk").unwrap();
    assert_eq!(export.size, 64 * MIB);
    assert!(!export.readonly && export.send_flush && export.send_trim);
    let mut client = nbd::client::NbdClient::new(connection, &export);
    let mut written = vec![0; 256 << 10];
    Noise::new(11).fill(&mut written);
    client.seek(SeekFrom::Start(5 * MIB)).unwrap();
    client.write_all(&written).unwrap();
    client.flush().unwrap();
    client.seek(SeekFrom::Start(5 * MIB)).unwrap();
    let mut read = vec![0; written.len()];
    client.read_exact(&mut read).unwrap();
    assert_eq!(read, written);
    assert_eq!(bytes_at(&ours.image, 5 * MIB, written.len()), written);
    client.seek(SeekFrom::Start(5 * MIB)).unwrap();
    nbd::client::NbdExt::trim(&mut client, 64 << 10).unwrap();
    client.seek(SeekFrom::Start(5 * MIB)).unwrap();
    client.read_exact(&mut read).unwrap();
    assert_eq!(
        read[..64 << 10],
        vec![0; 64 << 10],
        "TRIM is deterministic here: it zeroes"
    );
    assert_eq!(read[64 << 10..], written[64 << 10..]);
}
