//! Other programs as peers; a test that lacks one says so and is skipped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::setup::wait_until;

/// Whether a program is installed; says so if not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// nbdkit with a scripted device: a file whose first write is held until a flag file appears.
pub struct Nbdkit {
    child: Child,
    pub socket: PathBuf,
    directory: PathBuf,
}

impl Nbdkit {
    /// `None`, with a printed reason, if nbdkit is not installed.
    pub fn holding_first_write(directory: &Path) -> Option<Nbdkit> {
        if !has("nbdkit") {
            return None;
        }
        let socket = directory.join("nbdkit.socket");
        let d = directory.display();
        std::fs::write(directory.join("disk"), [0; 4096]).unwrap();
        // mkdir is atomic: exactly one write finds that it is the first.
        let pwrite = format!(
            "cat > {d}/data.$$; if mkdir {d}/first 2>/dev/null; then while [ ! -e {d}/go ]; do sleep 0.02; done; fi; \
             dd if={d}/data.$$ of={d}/disk bs=1 seek=$4 conv=notrunc 2>/dev/null"
        );
        let child = Command::new("nbdkit")
            .args(["-f", "-U"])
            .arg(&socket)
            .arg("eval")
            .arg("get_size=echo 4096")
            .arg("can_write=exit 0")
            .arg("thread_model=echo parallel")
            .arg(format!(
                "pread=dd if={d}/disk bs=1 skip=$4 count=$3 2>/dev/null"
            ))
            .arg(format!("pwrite={pwrite}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("nbdkit", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        Some(Nbdkit {
            child,
            socket,
            directory: directory.to_owned(),
        })
    }

    pub fn wait_until_first_write_is_held(&self) {
        wait_until("the first write", || self.directory.join("first").exists());
    }

    pub fn let_first_write_go(&self) {
        std::fs::write(self.directory.join("go"), "").unwrap();
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        self.let_first_write_go();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
