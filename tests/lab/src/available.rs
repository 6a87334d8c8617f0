//! Whether this machine can run a lab, and the words for a test that it can't run.

use crate::warden;
use anyhow::{Context, Result, bail};
use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `Ok` if labs run here; else the reason why not, in one line.
///
/// # Errors
/// A program is missing, or the machine gives neither root's nor a user's namespaces, tap devices, or ptrace.
pub fn available() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(probe).clone()
}

/// The folder of the kernel's modules, like `/usr/lib/uml/modules/6.1.176`.
pub(crate) fn modules() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib/uml/modules").ok()?;
    folders.flatten().map(|entry| entry.path()).max()
}

/// A program on the path or in administrators' folders.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

const INSTALLABLE: &str = "is not installed";

fn probe() -> Result<(), String> {
    let needed = [
        ("linux.uml", "user-mode-linux"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
        ("taskset", "util-linux"),
        ("ip", "iproute2"),
        ("ethtool", "ethtool"),
        ("mkfs.ext4", "e2fsprogs"),
        ("modprobe", "kmod"),
        ("cc", "gcc"),
    ];
    for (program, package) in needed {
        if find(program).is_none() {
            return Err(format!(
                "{program} {INSTALLABLE} (Debian package {package})"
            ));
        }
    }
    if modules().is_none() {
        return Err(
            "no kernel modules in /usr/lib/uml/modules (Debian package user-mode-linux)".into(),
        );
    }
    // Everything that the kernel of this machine may refuse. linux.uml names its checks as it makes them; after the last
    // one it is left alone, and killed with the namespace.
    let script = "mount -t tmpfs lab /media && ip tuntap add lab0 mode tap &&
        ip rule add iif lab0 to 10.77.0.1 blackhole &&
        (TMPDIR=/media linux.uml mem=64M root=none </dev/null 2>&1 &) | sed '/PROT_EXEC mmap.*OK/q' | tail -n 3";
    let output = warden::unshare_command(&["sh", "-c", script])
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if said.lines().any(|line| line.contains("PROT_EXEC mmap")) {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = |text: &str| {
        text.lines()
            .rfind(|line| !line.trim().is_empty())
            .map(str::to_owned)
    };
    let reason = last(&errors)
        .or_else(|| last(&said))
        .unwrap_or_else(|| output.status.to_string());
    let who = if warden::is_root() {
        "root"
    } else {
        "this user, in a user namespace"
    };
    Err(format!(
        "{who} may not run a kernel with a network here: {reason}"
    ))
}

/// Says that the running test is skipped: on standard error, and in the file that `NETRAID_SKIPPED` names.
///
/// # Errors
/// Skipping is not allowed: `NETRAID_REQUIRE_LAB=1` is set, or `NETRAID_REQUIRE_PEERS=1` and all that is missing is a
/// program that every Debian has. (A machine that may not run kernels at all has nothing to install.)
pub fn skip(reason: &str) -> Result<()> {
    let set = |name| env::var_os(name).is_some_and(|value| value == "1");
    if set("NETRAID_REQUIRE_LAB") {
        bail!("{reason}, and NETRAID_REQUIRE_LAB=1 says that labs run here");
    }
    if set("NETRAID_REQUIRE_PEERS") && reason.contains(INSTALLABLE) && !reason.contains("linux") {
        bail!("{reason}, and NETRAID_REQUIRE_PEERS=1 says that nothing may be missing");
    }
    let name = env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_else(|| "a test without a name".to_owned());
    let line = format!("SKIPPED {name}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = env::var_os("NETRAID_SKIPPED") {
        let mut options = OpenOptions::new();
        let mut list = options.append(true).create(true).open(&path)?;
        list.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// The folder of the workspace's programs of this build, e.g. `target/debug`.
///
/// # Errors
/// The running program is not in a build folder of cargo.
pub fn programs() -> Result<PathBuf> {
    let program = env::current_exe().context("the running program")?;
    let folder = program.parent().context("the running program's folder")?;
    let below = folder.ends_with("deps") || folder.ends_with("examples");
    let folder = if below { folder.parent() } else { Some(folder) };
    Ok(folder.context("the build folder")?.to_owned())
}

/// The checkout that the lab was built from.
pub(crate) fn checkout() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.ancestors().nth(2).context("the checkout")?.to_owned())
}
