//! The embedded mirror among other people's programs: they use its device, serve its legs, and read what is on them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netraid_tests::mirror::{Mirror, TAG};
use netraid_tests::peers::{
    self, DEBIAN_NBD_SERVER, FIO, MDADM, NBDCOPY, NBDINFO, NBDKIT, QEMU_IMG, QEMU_IO, QEMU_NBD,
};
use netraid_tests::process::run;
use netraid_tests::require;
use netraid_tests::scratch::{MIB, Scratch, assert_same, bytes_at};
use netraid_tests::servers::{self, Endpoint, Server};
use serde_json::{Value, json};

const SIZE: u64 = 128 * MIB;

/// Disks lie in the build folder: mdadm reads them past the page cache, which a temporary file system may not allow.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn our_leg(scratch: &Scratch, image: &Path) -> Server {
    let place = Endpoint::unix(scratch, "leg");
    servers::ours(
        &peers::ours("nbd-server"),
        scratch,
        &place,
        "disk",
        image,
        &[],
    )
}

fn mirror() -> Mirror {
    Mirror::new(folder(), SIZE, our_leg)
}

fn size(mirror: &Mirror) -> u64 {
    mirror.status()["size"].as_u64().unwrap()
}

fn fio_verifies(fio: &Path, uri: &str, seed: u32) {
    run(Command::new(fio)
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--size=64m",
            "--iodepth=16",
            "--thread",
        ])
        .args([
            "--rw=randwrite",
            "--bs=4k-256k",
            "--blockalign=4k",
            "--verify=crc32c",
            "--verify_fatal=1",
        ])
        .args([
            "--do_verify=1",
            "--verify_state_save=0",
            "--verify_backlog=256",
            "--fsync=64",
        ])
        .arg(format!("--uri={uri}"))
        .arg(format!("--randseed={seed}")))
    .ok();
}

/// Stops the mirror and compares its legs.
fn stop_and_compare(mirror: &mut Mirror) {
    let size = size(mirror);
    mirror.stop();
    mirror.assert_legs_equal(size);
}

#[test]
fn nbdinfo_sees_a_disk_of_the_mirrors_size() {
    let nbdinfo = require!(NBDINFO);
    let mirror = mirror();
    let told = run(Command::new(nbdinfo).arg("--json").arg(mirror.uri()))
        .ok()
        .json();
    let export = &told["exports"][0];
    assert_eq!(export["export-size"], mirror.status()["size"]);
    assert_eq!(export["export-name"], json!(TAG));
    for ability in ["flush", "fua", "trim", "zero", "multi_conn"] {
        assert_eq!(
            export[format!("can_{ability}")],
            json!(true),
            "{ability} of {export:#}"
        );
    }
}

#[test]
fn qemu_io_reads_back_what_every_command_left_and_the_legs_are_equal() {
    let qemu_io = require!(QEMU_IO);
    let mut mirror = mirror();
    let mut command = Command::new(qemu_io);
    command.args(["-f", "raw", "-t", "writeback", "-d", "unmap"]);
    for line in [
        "write -P 0x11 0 16M",
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
        "read -P 0x11 9M 7M",
    ] {
        command.args(["-c", line]);
    }
    let done = run(command.arg(mirror.uri())).ok();
    assert!(
        !done.stdout.contains("Pattern verification failed"),
        "{done}"
    );
    stop_and_compare(&mut mirror);
}

#[test]
fn fio_verifies_a_mirror_over_each_kind_of_remote_leg() {
    let (fio, nbdkit, qemu_nbd, debian) = require!(FIO, NBDKIT, QEMU_NBD, DEBIAN_NBD_SERVER);
    type Serve<'a> = Box<dyn Fn(&Scratch, &Path) -> Server + 'a>;
    let kinds: [(&str, Serve<'_>); 4] = [
        ("ours", Box::new(our_leg)),
        (
            "nbdkit",
            Box::new(|scratch, image| {
                let words = ["file", image.to_str().unwrap()];
                servers::nbdkit(&nbdkit, scratch, &Endpoint::unix(scratch, "leg"), &words)
            }),
        ),
        (
            "qemu-nbd",
            Box::new(|scratch, image| {
                servers::qemu_nbd(
                    &qemu_nbd,
                    scratch,
                    &Endpoint::tcp(),
                    "disk",
                    image,
                    "threads",
                )
            }),
        ),
        (
            "Debian's nbd-server",
            Box::new(|scratch, image| {
                servers::debian(&debian, scratch, &Endpoint::tcp(), "disk", image)
            }),
        ),
    ];
    for (number, (name, serve)) in kinds.into_iter().enumerate() {
        eprintln!("remote leg behind {name}");
        let mut mirror = Mirror::new(folder(), SIZE, serve);
        fio_verifies(&fio, &mirror.uri(), number as u32 + 1);
        let status = mirror.status();
        assert_eq!(
            status["legs"][1]["status"],
            json!("Target"),
            "{name}: {status:#}"
        );
        stop_and_compare(&mut mirror);
    }
}

#[test]
fn nbdcopy_and_qemu_img_copy_in_and_out() {
    let (nbdcopy, qemu_img) = require!(NBDCOPY, QEMU_IMG);
    let mut mirror = mirror();
    let size = size(&mirror);
    let source = mirror.scratch().patchy("source.img", size, 1);
    let back = mirror.path("back.img");
    run(Command::new(&nbdcopy)
        .arg("--flush")
        .arg(&source)
        .arg(mirror.uri()))
    .ok();
    run(Command::new(&nbdcopy).arg(mirror.uri()).arg(&back)).ok();
    assert_same(&source, &back);
    run(Command::new(&qemu_img)
        .args(["compare", "-f", "raw", "-F", "raw"])
        .arg(&source)
        .arg(mirror.uri()))
    .ok();
    stop_and_compare(&mut mirror);
    assert_same(&source, &mirror.data("server2", &mirror.remote, size));
}

/// `Name : value` lines of what mdadm prints.
fn mdadm_says(mdadm: &Path, question: &str, file: &Path) -> BTreeMap<String, String> {
    let said = run(Command::new(mdadm)
        .arg(question)
        .arg(file)
        .env("LC_ALL", "C"))
    .ok();
    let lines = said
        .stdout
        .lines()
        .filter_map(|line| line.split_once(" : "));
    lines
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn first_number(text: &str) -> u64 {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse()
        .unwrap_or_else(|_| panic!("no number in {text:?}"))
}

/// What mdadm reads from a leg and what the mirror says, by name, where they differ.
fn differences(mdadm: &Path, mirror: &Mirror, leg: &Path, status: &Value) -> Vec<String> {
    let number = |name: &str| status[name].as_u64().unwrap();
    let superblock = mdadm_says(mdadm, "--examine", leg);
    // Of a file, unlike of a disk, mdadm takes the start for the bitmap, so it gets the bitmap as a file of its own.
    let bytes = 256 + number("chunks").div_ceil(8) as usize;
    let file = mirror.path("bitmap");
    std::fs::write(&file, bytes_at(leg, 8192, bytes.next_multiple_of(512))).unwrap();
    let bitmap = mdadm_says(mdadm, "--examine-bitmap", &file);
    let (chunk, unit) = bitmap["Chunksize"].split_once(' ').unwrap();
    let unit = match unit {
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        other => panic!("unit {other}"),
    };
    let (chunks, dirty) = bitmap["Bitmap"].split_once(", ").unwrap();
    let pairs = [
        (
            "device size",
            json!(first_number(&superblock["Array Size"]) << 10),
            &status["size"],
        ),
        (
            "events",
            json!(first_number(&superblock["Events"])),
            &status["events"],
        ),
        ("state", json!(superblock["State"]), &status["array_state"]),
        (
            "array id",
            json!(superblock["Array UUID"]),
            &status["array_uuid"],
        ),
        (
            "array id of the bitmap",
            json!(bitmap["UUID"]),
            &status["array_uuid"],
        ),
        (
            "events of the bitmap",
            json!(first_number(&bitmap["Events"])),
            &status["events"],
        ),
        (
            "chunk size",
            json!(chunk.parse::<u64>().unwrap() * unit),
            &status["chunk"],
        ),
        ("chunks", json!(first_number(chunks)), &status["chunks"]),
        (
            "dirty chunks",
            json!(first_number(dirty)),
            &status["dirty_chunks"],
        ),
        (
            "checksum",
            json!(superblock["Checksum"].ends_with(" - correct")),
            &json!(true),
        ),
    ]
    .map(|(name, mdadm, ours)| {
        (mdadm != *ours).then(|| format!("{name}: mdadm says {mdadm}, the status {ours}"))
    });
    pairs.into_iter().flatten().collect()
}

/// Waits until mdadm and the mirror agree on all of these legs. An idle mirror comes to rest: it clears the bits of
/// finished writes, and then writes the superblocks of its legs one after the other.
fn mdadm_agrees(mdadm: &Path, mirror: &Mirror, legs: &[&Path]) {
    let start = Instant::now();
    loop {
        let status = mirror.status();
        let all = legs
            .iter()
            .flat_map(|leg| differences(mdadm, mirror, leg, &status));
        let different: Vec<String> = all.collect();
        if different.is_empty() {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{}",
            different.join("\n")
        );
    }
}

/// Waits until nothing changes any more that an idle mirror changes by itself: bits are cleared lazily.
fn wait_until_settled(mirror: &Mirror, dirty: impl Fn(u64) -> bool) -> Value {
    mirror.wait_for_status("bits of finished writes are cleared", |status| {
        dirty(status["dirty_chunks"].as_u64().unwrap()) && status["array_state"] == "clean"
    })
}

#[test]
fn mdadm_agrees_with_the_status_in_sync_degraded_and_resynced() {
    let (mdadm, qemu_io) = require!(MDADM, QEMU_IO);
    let mut mirror = mirror();
    mirror.stop();
    mirror.words = ["--clean-interval", "500ms"].map(str::to_owned).to_vec();
    mirror.start(true);
    mirror.wait_in_sync();
    wait_until_settled(&mirror, |dirty| dirty == 0);
    mdadm_agrees(&mdadm, &mirror, &[&mirror.local, &mirror.remote]);

    mirror.kill_leg();
    mirror.wait_for_status("the remote leg is expelled", |status| {
        status["legs"][1]["status"] != "Target"
    });
    let write = [
        "-f",
        "raw",
        "-c",
        "write -P 0x77 10M 1M",
        "-c",
        "write -P 0x78 50M 4k",
        "-c",
        "flush",
    ];
    run(Command::new(&qemu_io).args(write).arg(mirror.uri())).ok();
    let chunks = |status: &Value| (MIB / status["chunk"].as_u64().unwrap()).max(1) + 1;
    let status = wait_until_settled(&mirror, |dirty| dirty > 0);
    assert_eq!(status["dirty_chunks"], json!(chunks(&status)), "{status:#}");
    mdadm_agrees(&mdadm, &mirror, &[&mirror.local]);

    mirror.serve_leg(our_leg);
    let status = mirror.wait_in_sync();
    let resync = &status["last_resync"];
    assert!(
        resync["copied"].as_u64().unwrap() <= 2 * MIB,
        "a partial resync: {resync:#}"
    );
    wait_until_settled(&mirror, |dirty| dirty == 0);
    mdadm_agrees(&mdadm, &mirror, &[&mirror.local, &mirror.remote]);
    stop_and_compare(&mut mirror);
}
