//! Our nbd-client against other people's servers: what it sees there, and that what it copies is what is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use netraid_tests::peers::{self, DEBIAN_NBD_SERVER, NBDKIT, QEMU_NBD};
use netraid_tests::process::{Finished, run};
use netraid_tests::require;
use netraid_tests::scratch::{MIB, Scratch, assert_same, bytes_at};
use netraid_tests::servers::{self, Endpoint};
use serde_json::{Value, json};

const SIZE: u64 = 32 * MIB;

fn client(words: &[&str]) -> Finished {
    run(Command::new(peers::ours("nbd-client")).args(words))
}

fn info(uri: &str) -> Value {
    client(&["info", "--json", uri]).ok().json()
}

/// Names that a server lists.
fn listed(uri: &str) -> Vec<String> {
    let told = client(&["list", "--json", uri]).ok().json();
    let exports = told["exports"].as_array().unwrap().clone();
    exports
        .iter()
        .map(|export| export["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Offsets and lengths of what is not known to be zero.
fn mapped_data(uri: &str) -> Vec<(u64, u64)> {
    let told = client(&["map", "--json", uri]).ok().json();
    let extents = told["extents"].as_array().unwrap().clone();
    let data = extents
        .iter()
        .filter(|extent| extent["status"].as_u64().unwrap() & 2 == 0);
    let number = |extent: &Value, name: &str| extent[name].as_u64().unwrap();
    data.map(|extent| (number(extent, "offset"), number(extent, "length")))
        .collect()
}

/// Where a patchy image has its data.
fn patches() -> Vec<(u64, u64)> {
    (0..SIZE)
        .step_by(4 * MIB as usize)
        .map(|offset| (offset, MIB))
        .collect()
}

/// Copies a patchy image there and back, over old data, and compares; then breaks one byte and compares again.
fn copies_and_compares(scratch: &Scratch, uri: &str) {
    let source = scratch.patchy("source.img", SIZE, 1);
    let source = source.to_str().unwrap();
    let back = scratch.path("back.img");
    let copied = client(&["copy", "--json", source, uri]).ok().json();
    assert_eq!(copied["size"], json!(SIZE));
    assert_eq!(copied["flushed"], json!(true));
    client(&["copy", uri, back.to_str().unwrap()]).ok();
    assert_same(Path::new(source), &back);
    assert_eq!(
        client(&["compare", "--json", source, uri]).ok().json()["same"],
        json!(true)
    );

    let offset = 17 * MIB + 4321;
    let image = File::options().write(true).open(source).unwrap();
    let other = [!bytes_at(Path::new(source), offset, 1)[0]];
    std::os::unix::fs::FileExt::write_all_at(&image, &other, offset).unwrap();
    let compared = client(&["compare", "--json", source, uri]).code(1).json();
    assert_eq!(
        (&compared["same"], &compared["first_difference"]),
        (&json!(false), &json!(offset))
    );
}

fn works_with_nbdkit(place: impl Fn(&Scratch) -> Endpoint) {
    let nbdkit = require!(NBDKIT);
    let scratch = Scratch::new();
    let image = scratch.patchy("disk.img", SIZE, 2);
    let words = ["file", image.to_str().unwrap()];
    let server = servers::nbdkit(&nbdkit, &scratch, &place(&scratch), &words);
    let told = info(&server.uri());
    assert_eq!(told["size"], json!(SIZE));
    assert_eq!(told["read_only"], json!(false));
    assert_eq!(told["headers"], json!("structured"));
    assert_eq!(listed(&server.uri()), [""]);
    assert_eq!(mapped_data(&server.uri()), patches());
    copies_and_compares(&scratch, &server.uri());
}

#[test]
fn nbdkit_with_a_file_over_a_unix_socket() {
    works_with_nbdkit(|scratch| Endpoint::unix(scratch, "s"));
}

#[test]
fn nbdkit_with_a_file_over_tcp() {
    works_with_nbdkit(|_| Endpoint::tcp());
}

#[test]
fn nbdkit_in_memory() {
    let nbdkit = require!(NBDKIT);
    let scratch = Scratch::new();
    let size = SIZE.to_string();
    let words = ["memory", &size];
    let server = servers::nbdkit(&nbdkit, &scratch, &Endpoint::unix(&scratch, "s"), &words);
    assert_eq!(mapped_data(&server.uri()), []);
    copies_and_compares(&scratch, &server.uri());
}

#[test]
fn nbdkit_that_insists_on_its_block_sizes_gets_them() {
    let nbdkit = require!(NBDKIT);
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", SIZE, 3);
    let words = [
        "--filter=blocksize-policy",
        "file",
        image.to_str().unwrap(),
        "blocksize-error-policy=error",
        "blocksize-minimum=64k",
        "blocksize-preferred=64k",
        "blocksize-maximum=128k",
    ];
    let server = servers::nbdkit(&nbdkit, &scratch, &Endpoint::unix(&scratch, "s"), &words);
    let sizes = &info(&server.uri())["block_sizes"];
    assert_eq!(
        (&sizes["minimum"], &sizes["maximum"]),
        (&json!(65536), &json!(131_072)),
        "{sizes:#}"
    );
    copies_and_compares(&scratch, &server.uri());
}

#[test]
fn a_read_error_of_nbdkit_fails_the_copy() {
    let nbdkit = require!(NBDKIT);
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", SIZE, 3);
    let words = [
        "--filter=error",
        "file",
        image.to_str().unwrap(),
        "error-pread=EIO",
        "error-pread-rate=100%",
    ];
    let server = servers::nbdkit(&nbdkit, &scratch, &Endpoint::unix(&scratch, "s"), &words);
    let copied = client(&[
        "copy",
        &server.uri(),
        scratch.path("out.img").to_str().unwrap(),
    ])
    .code(1);
    assert!(copied.stderr.contains("EIO"), "{copied}");
}

#[test]
fn qemu_nbd_over_a_unix_socket_and_over_tcp() {
    let qemu_nbd = require!(QEMU_NBD);
    for tcp in [false, true] {
        let scratch = Scratch::new();
        let image = scratch.patchy("disk.img", SIZE, 4);
        let place = if tcp {
            Endpoint::tcp()
        } else {
            Endpoint::unix(&scratch, "s")
        };
        let server = servers::qemu_nbd(&qemu_nbd, &scratch, &place, "disk", &image, "threads");
        let told = info(&server.uri());
        assert_eq!(told["size"], json!(SIZE));
        assert!(
            matches!(told["headers"].as_str(), Some("structured" | "extended")),
            "{told:#}"
        );
        assert_eq!(told["block_sizes"]["given_by_server"], json!(true));
        assert_eq!(listed(&server.uri()), ["disk"]);
        assert_eq!(mapped_data(&server.uri()), patches());
        copies_and_compares(&scratch, &server.uri());
    }
}

#[test]
fn debians_nbd_server_over_a_unix_socket_and_over_tcp() {
    let nbd_server = require!(DEBIAN_NBD_SERVER);
    for tcp in [false, true] {
        let scratch = Scratch::new();
        let image = scratch.noise("disk.img", SIZE, 5);
        let place = if tcp {
            Endpoint::tcp()
        } else {
            Endpoint::unix(&scratch, "s")
        };
        let server = servers::debian(&nbd_server, &scratch, &place, "disk", &image);
        // Its INFO tells a size of 0 (3.24); the size that GO tells is the one that copy and compare work with.
        assert_eq!(info(&server.uri())["offers"]["flush"], json!(true));
        assert_eq!(listed(&server.uri()), ["disk"]);
        copies_and_compares(&scratch, &server.uri());
    }
}

/// The `nbd` crate's server on a unix socket. It knows no GO, no structured replies, no TLS, no WRITE_ZEROES.
fn serve_with_nbd_crate(scratch: &Scratch, image: &Path) -> Endpoint {
    let path = scratch.path("s");
    let listener = UnixListener::bind(&path).unwrap();
    let image = image.to_owned();
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let image = image.clone();
            thread::spawn(move || serve_one(stream, &image));
        }
    });
    Endpoint::Unix(path)
}

fn serve_one(mut stream: UnixStream, image: &Path) {
    let found = nbd::server::handshake(&mut stream, |name| {
        if name != "rustnbd" {
            return Err(std::io::Error::other("no such export"));
        }
        let file = File::options().read(true).write(true).open(image)?;
        Ok(nbd::Export {
            size: file.metadata()?.len(),
            readonly: false,
            resizeable: false,
            rotational: false,
            send_trim: false,
            send_flush: true,
            data: file,
        })
    });
    if let Ok(file) = found {
        // Its own mistakes end the connection; what became of the copy is what the test looks at.
        let _ = nbd::server::transmission(&mut stream, file);
    }
}

#[test]
fn the_server_of_the_nbd_crate_which_knows_export_name_only() {
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", SIZE, 6);
    let place = serve_with_nbd_crate(&scratch, &image);
    let uri = place.uri("rustnbd");
    let told = info(&uri);
    assert_eq!(told["size"], json!(SIZE));
    assert_eq!(told["headers"], json!("simple"));
    assert_eq!(told["offers"]["write_zeroes"], json!(false));
    assert_eq!(listed(&uri), ["rustnbd"]);
    copies_and_compares(&scratch, &uri);
}

#[test]
fn a_map_of_a_server_without_block_status_says_so() {
    let scratch = Scratch::new();
    let image = scratch.noise("disk.img", MIB, 7);
    let place = serve_with_nbd_crate(&scratch, &image);
    let mapped = client(&["map", &place.uri("rustnbd")]);
    assert!(!mapped.status.success(), "{mapped}");
    assert!(mapped.stderr.contains("base:allocation"), "{mapped}");
}

#[test]
fn an_unknown_export_is_named_with_what_there_is() {
    let qemu_nbd = require!(QEMU_NBD);
    let scratch = Scratch::new();
    let image = scratch.sparse("disk.img", MIB);
    let server = servers::qemu_nbd(
        &qemu_nbd,
        &scratch,
        &Endpoint::unix(&scratch, "s"),
        "disk",
        &image,
        "threads",
    );
    let told = client(&["info", &server.endpoint.uri("desk")]).code(2);
    assert!(told.stderr.contains("desk"), "{told}");
}

/// Our nbd-server, with the image as its export "disk".
fn our_server(scratch: &Scratch, image: &Path) -> servers::Server {
    let place = Endpoint::unix(scratch, "s");
    let program = peers::ours("nbd-server");
    servers::ours(&program, scratch, &place, "disk", image, &[])
}

#[test]
fn our_own_server_and_client_together() {
    let scratch = Scratch::new();
    let image = scratch.patchy("disk.img", SIZE, 8);
    let server = our_server(&scratch, &image);
    let told = info(&server.uri());
    assert_eq!(told["headers"], json!("extended"), "{told:#}");
    assert_eq!(listed(&server.uri()), ["disk"]);
    assert_eq!(mapped_data(&server.uri()), patches());
    copies_and_compares(&scratch, &server.uri());
}

#[test]
fn a_map_of_digests_differs_where_a_byte_does_and_nowhere_else() {
    let scratch = Scratch::new();
    let image = scratch.patchy("disk.img", SIZE, 9);
    let server = our_server(&scratch, &image);
    let before = digests(&server.uri());
    assert_eq!(before.len() as u64, SIZE / DIGESTED);
    // What a patchy image has between its patches is a hole.
    let holes = before.iter().enumerate().filter(|(block, _)| {
        let at = *block as u64 * DIGESTED;
        !patches()
            .iter()
            .any(|(from, length)| (*from..from + length).contains(&at))
    });
    let zeroes: BTreeSet<u64> = holes.map(|(_, digest)| *digest).collect();
    assert_eq!(zeroes.len(), 1, "{zeroes:?}");
    let at = 8 * MIB + 5 * DIGESTED + 77;
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let mut byte = [0];
    disk.read_exact_at(&mut byte, at).unwrap();
    disk.write_all_at(&[!byte[0]], at).unwrap();
    let after = digests(&server.uri());
    let differ: Vec<usize> = (0..before.len())
        .filter(|block| before[*block] != after[*block])
        .collect();
    assert_eq!(differ, [(at / DIGESTED) as usize]);
}

/// The digest of each block, from the beginning.
fn digests(uri: &str) -> Vec<u64> {
    let told = client(&["map", "--context", "x-netraid:blake3", "--json", uri]);
    let told = told.ok().json();
    let mut all = Vec::new();
    for extent in told["extents"].as_array().unwrap() {
        let number = |name: &str| extent[name].as_u64().unwrap();
        assert_eq!(number("offset"), all.len() as u64 * DIGESTED);
        // Neighbours of one digest may be told as one.
        let blocks = number("length").div_ceil(DIGESTED);
        all.extend(std::iter::repeat_n(number("status"), blocks as usize));
    }
    all
}

/// Bytes of a block that has a digest of its own.
const DIGESTED: u64 = nbd_server::file::digest::BLOCK;
