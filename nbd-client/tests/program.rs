//! The program as a user runs it: what it prints, its JSON, its exit codes, and the bytes it copies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod peers;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};

use nbd_client::Target;

fn nbd_client(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nbd-client"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run that must succeed.
fn good(arguments: &[&str]) -> String {
    let output = nbd_client(arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Standard error of a run that must end with this code.
fn bad(code: i32, arguments: &[&str]) -> String {
    let output = nbd_client(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// Data, zeroes that are stored, and holes.
fn write_mixed(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let noise: Vec<u8> = (0..3u32 << 20)
        .map(|position| (position.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    file.write_all_at(&noise, 0).unwrap();
    file.write_all_at(&noise[..700_001], 5_000_001).unwrap();
    file.write_all_at(&vec![0; 1 << 20], 8 << 20).unwrap();
    file.write_all_at(&noise[..1], (16 << 20) - 1).unwrap();
}

fn same(left: &Path, right: &Path) -> bool {
    std::fs::read(left).unwrap() == std::fs::read(right).unwrap()
}

#[test]
fn info_and_list_show_an_export_to_people_and_programs() {
    let directory = tempfile::tempdir().unwrap();
    let image = peers::image(directory.path(), "disk.img", 1 << 20);
    let Some(server) = peers::qemu_nbd(directory.path(), &image, &["-D", "for \u{1b}[31mpeople"])
    else {
        return;
    };
    let uri = server.target("disk").to_string();
    let shown = good(&["info", &uri]);
    for part in [
        "export                \"disk\"",
        "1048576 bytes (1 MiB)",
        "base:allocation",
        "\\u{1b}",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'));
    let info = json(&good(&["info", "--json", &uri]));
    assert_eq!(info["schema"], "nbd-client.info/1");
    assert_eq!(info["uri"], uri.as_str());
    assert_eq!(
        (&info["export"], &info["size"]),
        (&"disk".into(), &(1 << 20).into())
    );
    assert_eq!(info["offers"]["flush"], true);
    assert_eq!(info["block_sizes"]["given_by_server"], true);
    let list = json(&good(&["list", "--json", &uri]));
    assert_eq!(list["schema"], "nbd-client.list/1");
    assert_eq!(list["exports"][0]["uri"], uri.as_str());
    assert!(good(&["list", &uri]).starts_with("\"disk\"  nbd+unix:///disk?socket="));
}

#[test]
fn map_shows_data_and_holes() {
    let directory = tempfile::tempdir().unwrap();
    let image = peers::image(directory.path(), "disk.img", 4 << 20);
    std::fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .write_all_at(&[1; 65536], 1 << 20)
        .unwrap();
    let Some(server) = peers::qemu_nbd(directory.path(), &image, &[]) else {
        return;
    };
    let uri = server.target("disk").to_string();
    let map = json(&good(&["map", "--json", &uri]));
    assert_eq!(map["schema"], "nbd-client.map/1");
    let extents = map["extents"].as_array().unwrap();
    let total: u64 = extents
        .iter()
        .map(|extent| extent["length"].as_u64().unwrap())
        .sum();
    assert_eq!(total, 4 << 20);
    let data: Vec<_> = extents
        .iter()
        .filter(|extent| extent["type"] == "data")
        .collect();
    assert_eq!(
        (data[0]["offset"].as_u64(), data[0]["length"].as_u64()),
        (Some(1 << 20), Some(65536))
    );
    assert_eq!(good(&["map", &uri]).lines().count(), extents.len());
    let said = bad(2, &["map", "--context", "x-none:at-all", &uri]);
    assert!(
        said.contains("x-none:at-all") && said.contains("hint: it has [\"base:allocation\"]"),
        "{said}"
    );
}

#[test]
fn a_copy_there_and_back_is_the_same_and_keeps_its_holes() {
    let directory = tempfile::tempdir().unwrap();
    let source = peers::image(directory.path(), "source.img", 16 << 20);
    write_mixed(&source);
    let middle = peers::image(directory.path(), "middle.img", 16 << 20);
    std::fs::File::options()
        .write(true)
        .open(&middle)
        .unwrap()
        .write_all_at(&vec![9; 16 << 20], 0)
        .unwrap();
    let back = directory.path().join("back.img");
    let Some(server) = peers::qemu_nbd(directory.path(), &middle, &[]) else {
        return;
    };
    let uri = server.target("disk").to_string();
    let (from, to) = (source.to_str().unwrap(), back.to_str().unwrap());

    let report = json(&good(&["copy", "--json", from, &uri]));
    assert_eq!(report["schema"], "nbd-client.copy/1");
    assert_eq!(report["flushed"], true);
    assert!(
        report["bytes_written"].as_u64().unwrap() < 4 << 20,
        "{report}"
    );
    good(&["copy", "--no-flush", &uri, to]);
    assert!(same(&source, &back));
    assert!(same(&source, &middle));
    let stored = std::fs::metadata(&back).unwrap().blocks() * 512;
    assert!(
        stored < 6 << 20,
        "{stored} bytes are allocated of {} that hold data",
        4 << 20
    );

    // Over a destination of other content, with few and small requests.
    std::fs::write(&back, vec![7; 20 << 20]).unwrap();
    good(&["copy", "--requests", "1", "--request-size", "64K", &uri, to]);
    assert!(same(&source, &back));

    let same = json(&good(&["compare", "--json", from, &uri]));
    assert_eq!(
        (&same["same"], &same["first_difference"]),
        (&true.into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_copy_between_two_servers_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let source = peers::image(directory.path(), "source.img", 16 << 20);
    write_mixed(&source);
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let copy = peers::image(&other, "copy.img", 24 << 20);
    let image = source.to_str().unwrap();
    let Some(from) = peers::nbdkit(directory.path(), &["-r", "file", image]) else {
        return;
    };
    let Some(to) = peers::nbd_server(&other, &copy, "flush = true\nfua = true") else {
        return;
    };
    let (from, to) = (from.target("").to_string(), to.target("disk").to_string());
    good(&["copy", "--allocated", &from, &to]);
    let copied = std::fs::read(&copy).unwrap();
    assert_eq!(copied[..16 << 20], std::fs::read(&source).unwrap());
    assert!(
        copied[16 << 20..].iter().all(|byte| *byte == 0),
        "the rest stays as it was"
    );
    bad(1, &["compare", &from, &to]);
    good(&["compare", "--common", &from, &to]);
    let said = bad(3, &["copy", &to, &from]);
    assert!(said.contains("read-only"), "{said}");
}

#[test]
fn compare_finds_the_first_difference() {
    let directory = tempfile::tempdir().unwrap();
    let left = peers::image(directory.path(), "left.img", 16 << 20);
    write_mixed(&left);
    let right = directory.path().join("right.img");
    std::fs::copy(&left, &right).unwrap();
    let (a, b) = (left.to_str().unwrap(), right.to_str().unwrap());
    good(&["compare", a, b]);
    let file = std::fs::File::options().write(true).open(&right).unwrap();
    for offset in [(16u64 << 20) - 2, 9_000_017, 5_000_003] {
        file.write_all_at(&[0xee], offset).unwrap();
        let output = nbd_client(&["compare", "--json", a, b]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(json(&text(&output.stdout))["first_difference"], offset);
    }
    file.set_len(17 << 20).unwrap();
    let output = nbd_client(&["compare", a, b]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).starts_with("different sizes"),
        "{output:?}"
    );
    bad(
        4,
        &["compare", a, "nbd+unix:///?socket=/nonexistent/socket"],
    );
}

#[test]
fn a_destination_that_is_too_small_stays_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let source = peers::image(directory.path(), "source.img", 16 << 20);
    write_mixed(&source);
    let small = peers::image(directory.path(), "small.img", 8 << 20);
    let Some(server) = peers::qemu_nbd(directory.path(), &small, &[]) else {
        return;
    };
    let said = bad(
        3,
        &[
            "copy",
            source.to_str().unwrap(),
            &server.target("disk").to_string(),
        ],
    );
    assert!(
        said.contains("has 8388608 bytes, but 16777216 are to be copied; nothing was written"),
        "{said}"
    );
    assert!(std::fs::read(&small).unwrap().iter().all(|byte| *byte == 0));
    let (path, uri) = (source.to_str().unwrap(), server.target("disk").to_string());
    for itself in [path, &uri] {
        let said = bad(3, &["copy", itself, itself]);
        assert!(said.contains("is the source itself"), "{said}");
    }
    assert_eq!(std::fs::metadata(&source).unwrap().len(), 16 << 20);
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_its_own_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = Target::unix(directory.path().join("nobody.sock"), "").to_string();
    let table = [
        (2, vec!["info", "http://host/"], "scheme \"http\""),
        (2, vec!["info", "nbds://host/"], "TLS"),
        (2, vec!["info", "disk.img"], "not an NBD URI"),
        (
            2,
            vec!["copy", "/nonexistent/a", "/nonexistent/b"],
            "/nonexistent/a",
        ),
        (
            2,
            vec!["copy", "/dev/null", "/nonexistent/b"],
            "neither a file nor a block device",
        ),
        (2, vec!["copy", "nbd://host:99999/", "b"], "port \"99999\""),
        (1, vec!["info", &nobody], "nobody.sock"),
        (4, vec!["compare", &nobody, &nobody], "nobody.sock"),
    ];
    for (code, arguments, part) in table {
        let said = bad(code, &arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
    for arguments in [
        &["copy", "a"][..],
        &["copy", "--requests", "0", "a", "b"],
        &["frobnicate"],
        &[],
    ] {
        bad(2, arguments);
    }
    for command in ["info", "list", "map", "copy", "compare"] {
        assert!(
            good(&[command, "--help"]).contains("Examples:"),
            "{command}"
        );
    }
}

#[test]
fn an_unknown_export_is_a_usage_error_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let image = peers::image(directory.path(), "disk.img", 1 << 20);
    let Some(server) = peers::qemu_nbd(directory.path(), &image, &[]) else {
        return;
    };
    let said = bad(2, &["info", &server.target("dikc").to_string()]);
    assert!(
        said.contains("\"dikc\"") && said.contains("nbd-client list"),
        "{said}"
    );
}

#[test]
fn a_destination_that_does_not_answer_ends_the_copy_with_124() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source.img");
    std::fs::write(&source, vec![3; 1 << 20]).unwrap();
    let slow = ["--filter=delay", "memory", "1M", "delay-write=60"];
    let Some(server) = peers::nbdkit(directory.path(), &slow) else {
        return;
    };
    let uri = server.target("").to_string();
    let said = bad(
        124,
        &["copy", "--timeout", "0.3", source.to_str().unwrap(), &uri],
    );
    assert!(
        said.contains("did not answer a request within 300 ms"),
        "{said}"
    );
}

#[test]
fn an_odd_size_is_copied_to_the_last_byte() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("odd.img");
    std::fs::write(
        &source,
        (0..1_234_567u32)
            .map(|position| position as u8)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    let Some(server) = peers::nbdkit(directory.path(), &["file", source.to_str().unwrap()]) else {
        return;
    };
    let out = directory.path().join("out.img");
    good(&[
        "copy",
        &server.target("").to_string(),
        out.to_str().unwrap(),
    ]);
    assert!(same(&source, &out));
    good(&[
        "copy",
        out.to_str().unwrap(),
        &server.target("").to_string(),
    ]);
}

#[test]
fn without_the_kernels_driver_devices_are_an_error_that_says_how_to_get_it() {
    if Path::new("/sys/module/nbd").exists() {
        eprintln!("skipped: this kernel has the driver");
        return;
    }
    let uri = "nbd://127.0.0.1:1/disk";
    for arguments in [
        &["attach", uri, "/dev/nbd0"][..],
        &["attach", "--watch", "--json", uri, "--next"],
        &["detach", "/dev/nbd0"],
        &["list-devices", "--json"],
    ] {
        let said = bad(1, arguments);
        assert!(said.contains("modprobe nbd"), "{arguments:?}: {said}");
    }
}

#[test]
fn devices_are_named_in_one_way_only() {
    let uri = "nbd://127.0.0.1:1/disk";
    for arguments in [
        &["attach", uri][..],
        &["attach", uri, "/dev/sda"],
        &["attach", uri, "/dev/nbd0p1"],
        &["attach", uri, "/dev/nbd0", "--next"],
        &["attach", uri, "--next", "--detach-on-exit"],
        &["attach", uri, "--next", "--connections", "0"],
        &["attach", uri, "--next", "--timeout", "0"],
        &["attach", uri, "--next", "--session", "me:1"],
        &["attach", "/dev/nbd0", uri],
        &["detach"],
        &["detach", "nbd"],
    ] {
        bad(2, arguments);
    }
}
