//! Runs a scenario in a User-Mode Linux kernel of its own, with three empty disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::peer;

/// Bytes of each disk.
pub(crate) const DISK: u64 = 64 << 20;

/// Runs `scenarios/NAME.sh`; fails with everything that it said if it did not pass.
pub(crate) fn run(name: &str) {
    let (Some(_), Some(linux)) = (peer::mdadm(), peer::linux_uml()) else {
        return;
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for disk in ["a", "b", "c"] {
        let file = File::create(folder.path().join(disk)).unwrap();
        file.set_len(DISK).unwrap();
    }
    let console = boot(&linux, folder.path(), name);
    if !console.contains("guest: started") {
        let last = console.lines().rfind(|line| !line.trim().is_empty());
        return peer::skip(&format!(
            "linux.uml does not run on this machine: {}",
            last.unwrap_or("it said nothing")
        ));
    }
    let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    if std::env::var_os("NETRAID_SHOW").is_some() {
        println!("{log}");
    }
    assert!(
        log.trim_end().ends_with("\npassed"),
        "{name}:\n{log}\n{console}"
    );
}

/// Runs the kernel until it halts, at most three minutes; returns what it said.
fn boot(linux: &Path, work: &Path, scenario: &str) -> String {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/array");
    let netraid = Path::new(env!("CARGO_BIN_EXE_netraid"));
    let nbd_server = netraid.with_file_name("nbd-server");
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg("180").arg(linux).args([
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
    command.arg(format!("init={}", here.join("guest.sh").display()));
    for (number, disk) in ["a", "b", "c"].iter().enumerate() {
        command.arg(format!("ubd{number}={}", work.join(disk).display()));
    }
    command.arg(format!("scenario={scenario}"));
    command.arg(format!("netraid={}", netraid.display()));
    command.arg(format!("nbd_server={}", nbd_server.display()));
    command.arg(format!("work={}", work.display()));
    // The kernel keeps the memory of its guest in a file there.
    command.env("TMPDIR", work).stdin(Stdio::null());
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
