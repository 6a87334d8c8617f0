//! The units for systemd that are shipped: systemd reads them without complaint, and what they run is there.

use std::fs;
use std::path::Path;
use std::process::Command;

const UNITS: [&str; 3] = [
    "netraidd.service",
    "netraid-verify@.service",
    "netraid-verify@.timer",
];

fn unit(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn a_verify_is_run_by_its_timer_where_the_mirror_is_in_service() {
    let (service, timer) = (
        unit("netraid-verify@.service"),
        unit("netraid-verify@.timer"),
    );
    for line in [
        "Type=oneshot",
        "ExecStart=/usr/sbin/netraid verify %i",
        "TimeoutStartSec=infinity",
    ] {
        assert!(service.lines().any(|known| known == line), "{line}");
    }
    let condition = service
        .lines()
        .find(|line| line.starts_with("ExecCondition="));
    // As the document has it when nobody looks at it on a terminal.
    assert!(condition.unwrap().contains(r#"\"service\":\"in\""#));
    for line in [
        "OnCalendar=Sun 01:00",
        "Persistent=true",
        "WantedBy=timers.target",
    ] {
        assert!(timer.lines().any(|known| known == line), "{line}");
    }
}

#[test]
fn systemd_reads_the_units_without_complaint() {
    let there = Command::new("systemd-analyze").arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        eprintln!("systemd-analyze is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let netraid = Path::new(env!("CARGO_BIN_EXE_netraid"));
    let programs = netraid.parent().unwrap().display().to_string();
    let mut files = Vec::new();
    for name in UNITS {
        // One of the templates.
        let file = folder.path().join(name.replace("@.", "@data."));
        // Those that are built here.
        let text = unit(name).replace("/usr/sbin", &programs);
        fs::write(&file, text).unwrap();
        files.push(file);
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&files)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let ours = said.lines().find(|line| line.contains("netraid"));
    assert!(output.status.success() && ours.is_none(), "{said}");
}
