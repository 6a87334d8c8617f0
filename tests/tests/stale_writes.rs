//! A write held up in a server whose connection died, replayed by the client, then overwritten: the old one must never
//! land after the newer one was acknowledged.
//!
//! The same disk, which holds its first write back until it is told, stands behind nbdkit and behind our nbd-server. It
//! is an nbdkit script; for our server it is made a file by nbdfuse. The first test shows that the scenario is real.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netraid_tests::peers::{self, NBDFUSE, NBDKIT};
use netraid_tests::process::{Daemon, wait_until};
use netraid_tests::raw::{Raw, command};
use netraid_tests::require;
use netraid_tests::scratch::{MIB, Scratch, bytes_at};
use netraid_tests::servers::{self, Endpoint, Server};

const BLOCK: usize = 4096;
const OLD: [u8; BLOCK] = [b'a'; BLOCK];
const NEW: [u8; BLOCK] = [b'b'; BLOCK];

/// How long a reply is waited for that must not come. The disk answers within milliseconds once it is let go.
const SILENCE: Duration = Duration::from_millis(700);

const PATIENCE: Duration = Duration::from_secs(20);

/// A disk of 1 MiB that holds its first write until it is let go; later ones are done at once.
struct HoldingDisk {
    server: Server,
    folder: PathBuf,
}

impl HoldingDisk {
    fn start(nbdkit: &Path, scratch: &Scratch) -> HoldingDisk {
        let folder = scratch.folder().to_owned();
        let image = scratch.sparse("disk.img", MIB);
        let at = folder.display();
        // mkdir succeeds once only. A hold ends with the test's folder, so nothing is left behind.
        let write = format!(
            "pwrite=data=$(mktemp {at}/data.XXXXXX); cat >$data; mine=; \
             if mkdir {at}/held 2>/dev/null; then mine=yes; \
             while [ ! -e {at}/go ] && [ -d {at}/held ]; do sleep 0.02; done; fi; \
             dd if=$data of={image} bs=64k oflag=seek_bytes seek=$4 conv=notrunc status=none; \
             if [ $mine ]; then : >{at}/landed; fi",
            image = image.display()
        );
        let read = format!(
            "pread=dd if={} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k status=none",
            image.display()
        );
        let words = [
            "eval",
            "thread_model=echo parallel",
            &format!("get_size=echo {MIB}"),
            "can_write=exit 0",
            "can_flush=exit 0",
            "flush=exit 0",
            &write,
            &read,
        ];
        let server = servers::nbdkit(nbdkit, scratch, &Endpoint::unix(scratch, "disk"), &words);
        HoldingDisk { server, folder }
    }

    /// Waits until the first write is held.
    fn wait_for_hold(&self) {
        let held = self.folder.join("held");
        wait_until("the first write reaches the disk", PATIENCE, || {
            held.exists().then_some(())
        });
    }

    /// Lets the held write go on, and waits until it is on the disk.
    fn let_go(&self) {
        fs::write(self.folder.join("go"), []).unwrap();
        let landed = self.folder.join("landed");
        wait_until("the held write lands", PATIENCE, || {
            landed.exists().then_some(())
        });
    }

    fn block(&self, index: u64) -> Vec<u8> {
        bytes_at(&self.folder.join("disk.img"), index * BLOCK as u64, BLOCK)
    }
}

fn send_write(connection: &mut Raw, cookie: u64, block: u64, data: &[u8]) {
    let offset = block * BLOCK as u64;
    connection
        .send_request(0, command::WRITE, cookie, offset, data.len() as u32)
        .unwrap();
    connection.send(data).unwrap();
}

#[test]
fn nbdkit_lets_a_stale_write_win_over_an_acknowledged_one() {
    let nbdkit = require!(NBDKIT);
    let scratch = Scratch::new();
    let disk = HoldingDisk::start(&nbdkit, &scratch);
    let (mut dying, _) = Raw::go(&disk.server.endpoint, "").unwrap();
    send_write(&mut dying, 1, 0, &OLD);
    disk.wait_for_hold();
    drop(dying);
    let (mut next, _) = Raw::go(&disk.server.endpoint, "").unwrap();
    assert_eq!(
        next.call(0, command::WRITE, 0, BLOCK as u32, &OLD).unwrap(),
        0,
        "the replay"
    );
    assert_eq!(
        next.call(0, command::WRITE, 0, BLOCK as u32, &NEW).unwrap(),
        0,
        "the newer write"
    );
    assert_eq!(disk.block(0), NEW);
    disk.let_go();
    assert_eq!(
        disk.block(0),
        OLD,
        "this is the fault; should nbdkit have mended it, this scenario needs another peer"
    );
}

/// nbdfuse, and the mount that it makes.
struct Mount {
    daemon: Daemon,
    file: PathBuf,
}

impl Mount {
    /// The holding disk as a file, or why this machine cannot make it one.
    fn of(nbdfuse: &Path, scratch: &Scratch, disk: &HoldingDisk) -> Result<Mount, String> {
        let folder = scratch.path("mount");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("disk");
        let mut command = Command::new(nbdfuse);
        command.arg(&file).arg(disk.server.uri());
        let ready = || file.metadata().is_ok_and(|metadata| metadata.len() == MIB);
        Daemon::try_start("nbdfuse", scratch.folder(), &command, ready)
            .map(|daemon| Mount { daemon, file })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Unmounting ends nbdfuse; a lazy unmount works even if a failed test has left something open.
        let folder = self.file.parent().unwrap();
        let unmounted = Command::new("umount").arg("--lazy").arg(folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(folder)
                .status();
        }
        self.daemon.kill();
    }
}

/// Our server in front of the holding disk. Fields are dropped in this order: server, mount, disk, folder.
struct Ours {
    server: Server,
    _mount: Mount,
    disk: HoldingDisk,
    _scratch: Scratch,
}

/// `None` after saying why the test is skipped.
fn ours() -> Option<Ours> {
    let nbdkit = peers::find_or_skip(NBDKIT)?;
    let nbdfuse = peers::find_or_skip(NBDFUSE)?;
    let scratch = Scratch::new();
    let disk = HoldingDisk::start(&nbdkit, &scratch);
    let mount = match Mount::of(&nbdfuse, &scratch, &disk) {
        Ok(mount) => mount,
        Err(reason) => {
            peers::skip(&format!(
                "nbdfuse cannot mount here: {}",
                reason.lines().last().unwrap_or_default()
            ));
            return None;
        }
    };
    let program = peers::ours("nbd-server");
    let server = servers::ours(
        &program,
        &scratch,
        &Endpoint::unix(&scratch, "s"),
        "disk",
        &mount.file,
        &[],
    );
    Some(Ours {
        server,
        _mount: mount,
        disk,
        _scratch: scratch,
    })
}

impl Drop for Ours {
    fn drop(&mut self) {
        // A process that waits for a file of nbdfuse cannot even be killed before the disk has answered.
        let _ = fs::write(self.disk.folder.join("go"), []);
    }
}

impl Ours {
    fn connect(&self) -> Raw {
        Raw::go(&self.server.endpoint, "disk").expect("negotiate").0
    }
}

#[test]
fn our_server_acknowledges_no_newer_write_while_a_stale_one_may_still_land() {
    let Some(ours) = ours() else { return };
    let mut dying = ours.connect();
    send_write(&mut dying, 1, 0, &OLD);
    ours.disk.wait_for_hold();
    drop(dying);
    let mut next = ours.connect();
    send_write(&mut next, 2, 0, &OLD);
    send_write(&mut next, 3, 0, &NEW);
    next.set_read_timeout(SILENCE).unwrap();
    assert!(
        next.read_reply().is_err(),
        "acknowledged while an older write was still on its way"
    );
    ours.disk.let_go();
    next.set_read_timeout(PATIENCE).unwrap();
    let mut replies = [next.read_reply().unwrap(), next.read_reply().unwrap()];
    replies.sort_unstable();
    assert_eq!(replies, [(0, 2), (0, 3)]);
    assert_eq!(next.call(0, command::FLUSH, 0, 0, &[]).unwrap(), 0);
    assert_eq!(next.read(0, BLOCK as u32).unwrap(), NEW);
    assert_eq!(ours.disk.block(0), NEW, "the stale write won");
}

#[test]
fn our_server_drops_what_a_dead_connection_had_queued() {
    let Some(ours) = ours() else { return };
    let mut dying = ours.connect();
    send_write(&mut dying, 1, 0, &OLD);
    ours.disk.wait_for_hold();
    // Overlaps the held write, so it waits for it, and would be alone in writing block 1.
    send_write(&mut dying, 2, 0, &[b'q'; 2 * BLOCK]);
    drop(dying);
    let mut next = ours.connect();
    send_write(&mut next, 4, 0, &NEW);
    next.set_read_timeout(SILENCE).unwrap();
    assert!(
        next.read_reply().is_err(),
        "acknowledged while an older write was still on its way"
    );
    ours.disk.let_go();
    next.set_read_timeout(PATIENCE).unwrap();
    assert_eq!(next.read_reply().unwrap(), (0, 4));
    assert_eq!(next.call(0, command::FLUSH, 0, 0, &[]).unwrap(), 0);
    assert_eq!(ours.disk.block(0), NEW);
    assert_eq!(
        ours.disk.block(1),
        [0; BLOCK],
        "a write of a dead connection was begun"
    );
}

#[test]
fn our_server_leaves_no_trace_of_a_dead_connection_when_it_is_stopped() {
    let Some(mut ours) = ours() else { return };
    let mut dying = ours.connect();
    send_write(&mut dying, 1, 0, &OLD);
    ours.disk.wait_for_hold();
    drop(dying);
    ours.disk.let_go();
    assert!(
        ours.server.daemon.stop().success(),
        "{}",
        ours.server.daemon.said()
    );
    let Endpoint::Unix(socket) = &ours.server.endpoint else {
        unreachable!("a unix socket was asked for")
    };
    assert!(!socket.exists(), "the socket's file is left behind");
}
