//! Finds the programs that judge our bytes, and says so when a test is skipped for want of one.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// mdadm's path; `None` after saying that the test is skipped. Panics where `NETRAID_REQUIRE_PEERS=1`.
pub(crate) fn mdadm() -> Option<PathBuf> {
    let found = find("mdadm");
    if found.is_none() {
        let reason = "mdadm is not installed (Debian package mdadm)";
        assert!(
            env::var_os("NETRAID_REQUIRE_PEERS").is_none_or(|value| value != "1"),
            "{reason}, and NETRAID_REQUIRE_PEERS=1 says that it must be"
        );
        skip(reason);
    }
    found
}

/// User-Mode Linux; `None` after saying that the test is skipped. Never required: not every machine can run it.
pub(crate) fn linux_uml() -> Option<PathBuf> {
    let found = find("linux.uml");
    if found.is_none() {
        skip("linux.uml is not installed (Debian package user-mode-linux)");
    }
    found
}

/// Says that the running test is skipped: on standard error, and in the file that `NETRAID_SKIPPED` names.
pub(crate) fn skip(reason: &str) {
    let name = env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_else(|| "a test without a name".to_owned());
    let line = format!("SKIPPED {name}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = env::var_os("NETRAID_SKIPPED") {
        let mut list = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        list.write_all(line.as_bytes()).unwrap();
    }
}

/// What mdadm prints about a file, in English and in universal time.
pub(crate) fn ask_mdadm(mdadm: &Path, question: &str, file: &Path) -> String {
    let mut command = Command::new(mdadm);
    command
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .arg(question)
        .arg(file);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mdadm {question}: {errors}{text}");
    assert_eq!(errors, "", "mdadm {question} complains");
    text
}

fn find(program: &str) -> Option<PathBuf> {
    // Programs for administrators are not always on everybody's path.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
