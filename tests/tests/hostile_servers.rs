//! Servers that send nonsense: our nbd-client ends with an error in good time, neither crashing nor taking memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use netraid_tests::peers::{self, NBDKIT, ZZUF};
use netraid_tests::process::{DEADLINE, Finished, run_with_input, run_within};
use netraid_tests::require;
use netraid_tests::scratch::{MIB, Scratch};
use netraid_tests::servers::{self, Endpoint};

/// Runs our client with 1 GiB of address space beyond what it needs to start, and two seconds for each answer.
fn client(words: &[&str]) -> Finished {
    let mut command = Command::new("prlimit");
    command
        .arg("--as=2147483648")
        .arg(peers::ours("nbd-client"))
        .args(words);
    run_within(command.args(["--timeout", "2"]), Duration::from_secs(30))
}

/// Ended by itself, and not by a panic (101), a signal, or running out of memory (134).
fn assert_orderly(finished: &Finished) {
    let code = finished.status.code();
    assert!(matches!(code, Some(0..=4 | 124)), "{finished}");
    assert!(!finished.stderr.contains("panicked"), "{finished}");
}

/// Serves every connection the same bytes, whatever it asks, until the test's process ends.
fn serve_bytes(path: &Path, bytes: Vec<u8>) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let bytes = bytes.clone();
            thread::spawn(move || {
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut thrown_away = [0; 65536];
                while matches!(stream.read(&mut thrown_away), Ok(count) if count > 0) {}
            });
        }
    });
}

/// Passes connections on to a server and keeps what the server says on the first of them.
fn record(path: &Path, server: &Path) -> Arc<Mutex<Vec<u8>>> {
    let listener = UnixListener::bind(path).unwrap();
    let server = server.to_owned();
    let said = Arc::new(Mutex::new(Vec::new()));
    let first = Arc::clone(&said);
    thread::spawn(move || {
        let mut kept = Some(first);
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, UnixStream::connect(&server)) else {
                return;
            };
            let (asking, asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pass_on(asking, asked, None));
            let keep = kept.take();
            thread::spawn(move || pass_on(server, client, keep));
        }
    });
    said
}

fn pass_on(mut from: UnixStream, mut to: UnixStream, keep: Option<Arc<Mutex<Vec<u8>>>>) {
    let mut bytes = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if let Some(keep) = &keep {
            keep.lock().unwrap().extend(&bytes[..count]);
        }
        if to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// What nbdkit says to one call of our client.
fn recorded(scratch: &Scratch, nbdkit: &Path, verb: &str, more: &[&str]) -> Vec<u8> {
    let image = scratch.patchy("disk.img", 8 * MIB, 1);
    let words = ["file", image.to_str().unwrap()];
    let real = servers::nbdkit(nbdkit, scratch, &Endpoint::unix(scratch, "real"), &words);
    let recording = scratch.path("record");
    let said = record(&recording, &scratch.path("real"));
    client(&[&[verb, &Endpoint::Unix(recording.clone()).uri("")], more].concat()).ok();
    drop(real);
    for used in [recording, scratch.path("real")] {
        std::fs::remove_file(used).unwrap();
    }
    let stream = said.lock().unwrap().clone();
    assert!(
        stream.starts_with(b"NBDMAGIC"),
        "nothing recorded for {verb}"
    );
    stream
}

#[test]
fn mutated_answers_end_in_an_orderly_way() {
    let (nbdkit, zzuf) = require!(NBDKIT, ZZUF);
    let scratch = Scratch::new();
    for verb in ["info", "list", "map"] {
        let stream = recorded(&scratch, &nbdkit, verb, &[]);
        for seed in 0..25 {
            let mutated = run_with_input(
                Command::new(&zzuf)
                    .args(["-s", &seed.to_string(), "-r", "0.0005:0.02"])
                    .env("LC_ALL", "C"),
                stream.clone(),
                DEADLINE,
            )
            .ok();
            let path = scratch.path(&format!("{verb}.{seed}"));
            serve_bytes(&path, mutated.stdout_bytes);
            assert_orderly(&client(&[verb, &Endpoint::Unix(path).uri("")]));
        }
    }
}

#[test]
fn a_copy_from_a_server_that_always_breaks_the_protocol_does_not_storm_it() {
    let nbdkit = require!(NBDKIT);
    let scratch = Scratch::new();
    let out = scratch.path("out.img");
    let more = [
        out.to_str().unwrap(),
        "--connections",
        "1",
        "--requests",
        "1",
    ];
    let mut stream = recorded(&scratch, &nbdkit, "copy", &more);
    let magic = 0x668e_33ef_u32.to_be_bytes();
    let first_reply = stream
        .windows(4)
        .position(|bytes| bytes == magic)
        .expect("a structured reply");
    stream[first_reply] ^= 0xff;
    let path = scratch.path("liar");
    serve_bytes(&path, stream);
    // A lost source is looked for again for a while, ever more slowly; five seconds of that are enough to see it.
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", "5"])
        .arg(peers::ours("nbd-client"));
    command
        .arg("copy")
        .arg(Endpoint::Unix(path).uri(""))
        .args(more);
    let told = run_within(&mut command, Duration::from_secs(30));
    assert!(!told.status.success(), "{told}");
    assert!(!told.stderr.contains("panicked"), "{told}");
    let tries = told.stderr.lines().count();
    assert!((1..=20).contains(&tries), "{tries} lines: {told}");
}

#[test]
fn a_server_that_claims_an_option_reply_of_four_gib_is_refused() {
    let scratch = Scratch::new();
    let place = Endpoint::unix(&scratch, "s");
    let mut bytes = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    bytes.extend(0x0003_e889_0455_65a9_u64.to_be_bytes());
    bytes.extend(8_u32.to_be_bytes());
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend(u32::MAX.to_be_bytes());
    serve_bytes(&scratch.path("s"), bytes);
    let told = client(&["info", &place.uri("disk")]);
    assert_orderly(&told);
    assert!(!told.status.success(), "{told}");
}

#[test]
fn a_server_that_says_nothing_times_out() {
    let scratch = Scratch::new();
    let _listener = UnixListener::bind(scratch.path("s")).unwrap();
    let told = client(&["info", &Endpoint::unix(&scratch, "s").uri("disk")]);
    assert_eq!(told.status.code(), Some(124), "{told}");
}
