//! Our exports as block devices of a real kernel: each test boots a User-Mode Linux (Debian package user-mode-linux)
//! with our programs in it and runs one scenario of `kernel/scenarios.sh`, named like the test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One test a scenario; a scenario in the script that has no test is found by the last test.
macro_rules! scenarios {
    ($($name:ident $(=> $check:expr)?;)*) => {
        $(
            #[test]
            fn $name() {
                if let Some(ran) = run(stringify!($name)) {
                    let _ = &ran;
                    $($check(&ran);)?
                }
            }
        )*
        const SCENARIOS: &[&str] = &[$(stringify!($name)),*];
    };
}

scenarios! {
    attach_makes_a_disk_of_the_servers_size_and_abilities;
    flush_and_fua_reach_the_server;
    a_servers_limit_on_requests_is_kept;
    next_takes_free_devices_and_a_busy_one_is_refused => |ran: &Ran| {
        let list: serde_json::Value = serde_json::from_str(&ran.file("list")).unwrap();
        assert_eq!(list["schema"], "nbd-client.list-devices/1");
        let device = &list["devices"][2];
        assert_eq!((&device["device"], &device["index"]), (&"/dev/nbd40".into(), &40.into()));
        assert_eq!((&device["state"], &device["size"]), (&"attached".into(), &(16 << 20).into()));
        assert_eq!(device["users"].as_array().unwrap().len(), 0);
        assert!(device["pid"].is_u64());
    };
    what_can_not_be_attached_is_refused_with_a_reason;
    several_connections_need_the_servers_promise;
    a_restarted_server_costs_a_pause => |ran: &Ran| {
        let events = ran.events();
        assert_eq!(events.first().unwrap(), "attached");
        assert_eq!(events[events.len() - 2..], ["reconnected", "detached"]);
    };
    a_request_in_flight_goes_on_after_its_timeout;
    a_server_that_hung_is_used_again_when_it_wakes_up;
    with_one_connection_of_four_lost_all_are_replaced => |ran: &Ran| {
        assert_eq!(ran.events(), ["attached", "link_dead", "reconnected", "detached"]);
    };
    a_server_without_sessions_gets_only_dead_connections_replaced;
    a_server_that_can_not_prove_to_have_all_writes_is_not_gone_on_with;
    another_disk_of_the_same_size_is_not_gone_on_with;
    a_unix_socket_is_reconnected_too;
    a_server_with_another_size_is_not_used;
    requests_fail_when_the_dead_timeout_has_passed_and_the_device_comes_back_later;
    a_server_whose_disk_hangs_is_waited_for_only_so_long;
    without_a_watcher_a_hanging_server_costs_the_timeout;
    detach_does_not_wait_for_a_hanging_server;
    detach_spares_a_device_in_use_unless_forced;
    twenty_cycles_leave_nothing_behind;
    a_watcher_leaves_the_device_unless_told_otherwise;
    disconnect_on_close_ends_with_the_last_user;
    a_newer_session_of_the_same_client_ends_an_older_one;
}

/// What a scenario left behind.
struct Ran {
    work: tempfile::TempDir,
}

impl Ran {
    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.work.path().join(name)).unwrap()
    }

    /// What the watcher said, one word an event.
    fn events(&self) -> Vec<String> {
        let words = self.file("events");
        let words = words.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["schema"], "nbd-client.attach/1");
            assert_eq!(line["device"], "/dev/nbd0");
            line["event"].as_str().unwrap().to_owned()
        });
        words.filter(|word| word != "unreachable").collect()
    }
}

/// Boots a kernel that runs the scenario; `None` after saying that the test is skipped.
fn run(scenario: &str) -> Option<Ran> {
    let linux = find("linux.uml", "user-mode-linux", false)?;
    for (program, package) in [
        ("nbdkit", "nbdkit"),
        ("socat", "socat"),
        ("mdadm", "mdadm"),
        ("mkfs.ext4", "e2fsprogs"),
        ("dmsetup", "dmsetup"),
        ("ss", "iproute2"),
    ] {
        find(program, package, true)?;
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_nbd-client"))
        .parent()
        .unwrap();
    let server = programs.join("nbd-server");
    assert!(
        server.is_file(),
        "{} is not there: cargo build -p nbd-server",
        server.display()
    );
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let console = boot(&linux, work.path(), programs, scenario);
    if !console.contains("kernel: started") {
        let said = console.lines().rfind(|line| !line.trim().is_empty());
        let reason = said.unwrap_or("it said nothing");
        skip(&format!("linux.uml does not run on this machine: {reason}"));
        return None;
    }
    let read = |name: &str| fs::read_to_string(work.path().join(name)).unwrap_or_default();
    let code = read("code");
    assert_eq!(
        code.trim(),
        "0",
        "{scenario} failed\n-- script\n{}\n-- events\n{}\n-- kernel\n{}\n-- console\n{console}",
        read("log"),
        read("events"),
        read("dmesg"),
    );
    // Shown with --nocapture: what was measured.
    eprint!("{}", read("log"));
    Some(Ran { work })
}

/// Runs the kernel until it halts, at most three minutes; returns what it said.
fn boot(linux: &Path, work: &Path, programs: &Path, scenario: &str) -> String {
    let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/init.sh");
    let mut command = Command::new("timeout");
    command.arg("180").arg(linux).args([
        "mem=256M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        "quiet",
    ]);
    command.arg(format!("init={}", init.display()));
    command.arg(format!("scenario={scenario}"));
    command.arg(format!("work={}", work.display()));
    command.arg(format!("bin={}", programs.display()));
    // The kernel keeps the memory of its guest in a file there.
    command.env("TMPDIR", work).stdin(Stdio::null());
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A program's path; `None` after saying that the test is skipped. Panics where `NETRAID_REQUIRE_PEERS=1` and the
/// program can be had everywhere.
fn find(program: &str, package: &str, everywhere: bool) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Programs for administrators are not always on everybody's path.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut candidates = folders.map(|folder| folder.join(program));
    let found = candidates.find(|path| path.is_file());
    if found.is_none() {
        let reason = format!("{program} is not installed (Debian package {package})");
        let required = env::var_os("NETRAID_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(
            !(everywhere && required),
            "{reason}, and NETRAID_REQUIRE_PEERS=1 says that it must be"
        );
        skip(&reason);
    }
    found
}

/// Says that the running test is skipped: on standard error, and in the file that `NETRAID_SKIPPED` names.
fn skip(reason: &str) {
    let name = env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_else(|| "a test without a name".to_owned());
    let line = format!("SKIPPED {name}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = env::var_os("NETRAID_SKIPPED") {
        let mut list = fs::OpenOptions::new();
        let mut list = list.append(true).create(true).open(path).unwrap();
        list.write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn every_scenario_of_the_script_is_a_test() {
    let script = include_str!("kernel/scenarios.sh");
    let scenarios = script.split_once("# Scenarios").unwrap().1;
    let named: Vec<&str> = scenarios
        .lines()
        .filter_map(|line| line.strip_suffix("() {"))
        .filter(|name| !name.starts_with('\t'))
        .collect();
    assert_eq!(named, SCENARIOS);
}
