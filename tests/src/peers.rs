//! Finds the programs that tests need: other people's ("peers") and our own.
//!
//! A test names its peers with [`require!`](crate::require) in its first line. Where one is missing the test is skipped
//! with a printed reason; with `NETRAID_REQUIRE_PEERS=1` (set by `make test` where packages can be installed) it fails.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of somebody else's, and the Debian package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    program: &'static str,
    package: &'static str,
}

/// nbdkit: a server with many plugins.
pub const NBDKIT: Peer = Peer {
    program: "nbdkit",
    package: "nbdkit",
};
/// Shows what a server offers.
pub const NBDINFO: Peer = Peer {
    program: "nbdinfo",
    package: "libnbd-bin",
};
/// Copies between files and servers.
pub const NBDCOPY: Peer = Peer {
    program: "nbdcopy",
    package: "libnbd-bin",
};
/// Makes an export a file.
pub const NBDFUSE: Peer = Peer {
    program: "nbdfuse",
    package: "libnbd-bin",
};
/// Debian's own Python with libnbd's bindings, which `nbdsh` is.
pub const NBDSH: Peer = Peer {
    program: "/usr/bin/python3",
    package: "python3-libnbd",
};
/// The reference server.
pub const DEBIAN_NBD_SERVER: Peer = Peer {
    program: "/usr/bin/nbd-server",
    package: "nbd-server",
};
/// Load generator with an NBD engine.
pub const FIO: Peer = Peer {
    program: "fio",
    package: "fio",
};
/// Administers kernel arrays; here it only examines images.
pub const MDADM: Peer = Peer {
    program: "mdadm",
    package: "mdadm",
};
/// Converts, compares and maps images.
pub const QEMU_IMG: Peer = Peer {
    program: "qemu-img",
    package: "qemu-utils",
};
/// Runs single block commands.
pub const QEMU_IO: Peer = Peer {
    program: "qemu-io",
    package: "qemu-utils",
};
/// QEMU's server.
pub const QEMU_NBD: Peer = Peer {
    program: "qemu-nbd",
    package: "qemu-utils",
};
/// QEMU's block layer as a daemon, with its quorum driver.
pub const QEMU_STORAGE_DAEMON: Peer = Peer {
    program: "qemu-storage-daemon",
    package: "qemu-system-common",
};
/// Changes bytes of a stream at random, by a seed.
pub const ZZUF: Peer = Peer {
    program: "zzuf",
    package: "zzuf",
};
/// Makes an ext4 file system in a file.
pub const MKFS_EXT4: Peer = Peer {
    program: "mkfs.ext4",
    package: "e2fsprogs",
};

/// Where a peer is, or why the test cannot run.
pub fn find(peer: Peer) -> Result<PathBuf, String> {
    let missing = || {
        format!(
            "{} is not installed (Debian package {})",
            peer.program, peer.package
        )
    };
    let path = search_path(peer.program).ok_or_else(missing)?;
    if peer.package == NBDSH.package {
        let bindings = Command::new(&path).args(["-c", "import nbd"]).output();
        if !bindings.is_ok_and(|output| output.status.success()) {
            return Err(missing());
        }
    }
    Ok(path)
}

/// The peer's path, or `None` after saying that the test is skipped. Panics where peers are required.
pub fn find_or_skip(peer: Peer) -> Option<PathBuf> {
    match find(peer) {
        Ok(path) => Some(path),
        Err(reason) if env::var_os("NETRAID_REQUIRE_PEERS").is_some_and(|value| value == "1") => {
            panic!("{reason}, and NETRAID_REQUIRE_PEERS=1 says that it must be")
        }
        Err(reason) => {
            skip(&reason);
            None
        }
    }
}

/// Says that the running test is skipped: on standard error, and in the file that `NETRAID_SKIPPED` names, since test
/// runners hide what a passing test prints. The caller returns right after.
pub fn skip(reason: &str) {
    // nextest runs a test on the main thread of its own process and names it in the environment.
    let name = env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_else(|| "a test without a name".to_owned());
    let line = format!("SKIPPED {name}: {reason}\n");
    eprint!("{line}");
    if let Some(file) = env::var_os("NETRAID_SKIPPED") {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .expect("open the list of skipped tests");
        (&file)
            .write_all(line.as_bytes())
            .expect("write to the list of skipped tests");
    }
}

/// Paths of the peers that the test needs, as a tuple or one path; ends the test as skipped when one is missing.
#[macro_export]
macro_rules! require {
    ($peer:expr) => {
        match $crate::peers::find_or_skip($peer) {
            Some(path) => path,
            None => return,
        }
    };
    ($($peer:expr),+ $(,)?) => {
        ($($crate::require!($peer)),+)
    };
}

/// One of this workspace's programs, built beside the running test or benchmark.
///
/// # Panics
/// If it was not built: cargo builds a test without the programs of other packages.
pub fn ours(program: &str) -> PathBuf {
    find_ours(program).unwrap_or_else(|| {
        panic!(
            "{program} is not built in {}; run `cargo build --workspace --bins` first (make test does)",
            programs_folder().display()
        )
    })
}

/// Like [`ours`], but `None` if it was not built.
pub fn find_ours(program: &str) -> Option<PathBuf> {
    Some(programs_folder().join(program)).filter(|path| path.exists())
}

/// cargo's folder of programs: `target/PROFILE`, from `target/PROFILE/program` or `target/PROFILE/deps/test`;
/// `NETRAID_PROGRAMS` names another.
fn programs_folder() -> PathBuf {
    if let Some(folder) = env::var_os("NETRAID_PROGRAMS") {
        return folder.into();
    }
    let executable = env::current_exe().expect("the path of this program");
    let folder = executable.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("deps lies in a folder").into()
    } else {
        folder.into()
    }
}

fn search_path(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    // Administrators' programs (mdadm, mkfs.ext4) are not on everybody's path.
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
