//! A mirror of two nodes as its administrator would set it up: a disk behind a server, `netraid embedded create`, `run`, `embedded extend`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::peers;
use crate::process::{Daemon, Finished, run, wait_until};
use crate::scratch::{Scratch, first_difference};
use crate::servers::Server;

/// Name of the mirror and of its export.
pub const TAG: &str = "data";

/// How long anything may take that a mirror does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// The two nodes of a mirror, in the order of their legs.
pub const NODES: [&str; 2] = ["server1", "server2"];

/// Two disks and the mirror of them, seen from the node that is its source: `server1` to begin with.
#[derive(Debug)]
pub struct Mirror {
    /// The process that runs the mirror; `None` while it is down.
    pub source: Option<Daemon>,
    /// The server of the remote leg; `None` while it is down.
    pub leg: Option<Server>,
    /// The disk of the source.
    pub local: PathBuf,
    /// The disk of the target.
    pub remote: PathBuf,
    /// Which of [`NODES`] is the source.
    pub source_slot: usize,
    /// Further words of `netraid run`.
    pub words: Vec<String>,
    program: PathBuf,
    leg_uri: String,
    scratch: Scratch,
    _disks: Scratch,
}

impl Mirror {
    /// Makes a mirror of two empty disks of `size` bytes, the remote one served by what `serve` starts, and waits until
    /// it is in sync. The disks lie in a folder inside `folder`.
    pub fn new(folder: &Path, size: u64, serve: impl FnOnce(&Scratch, &Path) -> Server) -> Mirror {
        Mirror::of(&peers::ours("netraid"), folder, size, serve)
    }

    /// Like [`Mirror::new`], with another `netraid`.
    pub fn of(
        program: &Path,
        folder: &Path,
        size: u64,
        serve: impl FnOnce(&Scratch, &Path) -> Server,
    ) -> Mirror {
        let disks = Scratch::inside(folder).expect("make a folder for disks");
        let scratch = Scratch::new();
        let local = disks.sparse("server1.img", size);
        let remote = disks.sparse("server2.img", size);
        let leg = serve(&scratch, &remote);
        let mut mirror = Mirror {
            source: None,
            leg_uri: leg.uri(),
            leg: Some(leg),
            local,
            remote,
            source_slot: 0,
            words: Vec::new(),
            program: program.to_owned(),
            scratch,
            _disks: disks,
        };
        let disk = mirror.local.display().to_string();
        mirror
            .netraid(&[
                "embedded",
                "create",
                "--tag",
                TAG,
                "--disk",
                &disk,
                "--nodes",
                "server1,server2",
                "--node",
                "server1",
            ])
            .ok();
        mirror.start(false);
        let uri = mirror.leg_uri.clone();
        let run_dir = mirror.run_dir();
        let extend = [
            "embedded",
            "extend",
            "--tag",
            TAG,
            "--node",
            "server2",
            "--uri",
            &uri,
            "--run-dir",
            &run_dir,
            "--wait",
        ];
        mirror.netraid(&extend).ok();
        mirror
    }

    /// Runs `netraid` with these words to its end.
    pub fn netraid(&self, words: &[&str]) -> Finished {
        run(Command::new(&self.program).args(words))
    }

    /// Where control sockets are.
    pub fn run_dir(&self) -> String {
        self.scratch.path("run").display().to_string()
    }

    /// Where the application finds the mirror.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{TAG}?socket={}", self.socket().display())
    }

    /// The socket of the mirror's export.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path("mirror")
    }

    /// A path for a file of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// The folder for sockets and small files.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts the process that runs the mirror, with the remote leg named as a target or not.
    pub fn start(&mut self, with_target: bool) {
        let mut command = Command::new(&self.program);
        let source = NODES[self.source_slot];
        command
            .args(["run", "--tag", TAG, "--node", source, "--disk"])
            .arg(&self.local);
        command
            .arg("--unix")
            .arg(self.socket())
            .arg("--run-dir")
            .arg(self.run_dir());
        if with_target {
            let target = format!("{}={}", NODES[1 - self.source_slot], self.leg_uri);
            command.arg("--target").arg(target);
        }
        command.args(&self.words);
        // It says so when it can be used and asked.
        let log = self.scratch.path("netraid.log");
        let ready = || std::fs::read_to_string(&log).is_ok_and(|said| said.contains("ready nbd"));
        self.source = Some(Daemon::start(
            "netraid",
            self.scratch.folder(),
            &command,
            ready,
        ));
    }

    /// Starts the server of the target's disk.
    pub fn serve_leg(&mut self, serve: impl FnOnce(&Scratch, &Path) -> Server) {
        let leg = serve(&self.scratch, &self.remote);
        self.leg_uri = leg.uri();
        self.leg = Some(leg);
    }

    /// The target becomes the source, and the source the target; neither may be running.
    pub fn swap_roles(&mut self) {
        assert!(
            self.source.is_none() && self.leg.is_none(),
            "both nodes are down"
        );
        self.source_slot = 1 - self.source_slot;
        std::mem::swap(&mut self.local, &mut self.remote);
    }

    /// Kills the process that runs the mirror.
    pub fn kill_source(&mut self) {
        self.source.take().expect("the mirror runs").kill();
    }

    /// Kills the server of the target's disk.
    pub fn kill_leg(&mut self) {
        self.leg.take().expect("the leg is served").daemon.kill();
    }

    /// What a status says of the target's leg.
    pub fn target_status<'a>(&self, status: &'a Value) -> &'a str {
        let leg = &status["legs"][1 - self.source_slot];
        leg["status"]
            .as_str()
            .unwrap_or_else(|| panic!("no status of the target in {status:#}"))
    }

    /// Stops the mirror cleanly.
    pub fn stop(&mut self) {
        let mut source = self.source.take().expect("the mirror runs");
        let status = source.stop();
        assert!(
            status.success(),
            "netraid run ended with {status}; it said:\n{}",
            source.said()
        );
    }

    /// What `netraid embedded status --json` says.
    pub fn status(&self) -> Value {
        self.netraid(&[
            "embedded",
            "status",
            TAG,
            "--json",
            "--run-dir",
            &self.run_dir(),
        ])
        .ok()
        .json()
    }

    /// Waits until the status fulfils a condition, and returns it.
    pub fn wait_for_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, PATIENCE, || Some(self.status()).filter(&condition))
    }

    /// Waits until the target is in sync.
    pub fn wait_in_sync(&self) -> Value {
        self.wait_for_status("the target is in sync", |status| {
            self.target_status(status) == "Target"
        })
    }

    /// Panics unless both legs hold the same data.
    pub fn assert_legs_equal(&self, size: u64) {
        let (local, remote) = (
            self.data("local", &self.local, size),
            self.data("remote", &self.remote, size),
        );
        if let Some(offset) = first_difference(&local, &remote, size) {
            panic!("the legs differ at byte {offset} of the mirror");
        }
    }

    /// The mirror's data as it lies on a leg, copied to a file of its own.
    pub fn data(&self, name: &str, leg: &Path, size: u64) -> PathBuf {
        let path = self.path(&format!("{name}.data"));
        let mut from = File::open(leg).expect("open a leg");
        let offset = data_offset(&from);
        std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(offset)).expect("seek in a leg");
        let mut to = File::create(&path).expect("create a file");
        let copied = std::io::copy(&mut std::io::Read::take(from, size), &mut to)
            .expect("copy a leg's data");
        assert_eq!(copied, size, "the leg ends early");
        path
    }
}

/// Where the data of a leg begins, in bytes: md's superblock 1.2 has it at its byte 128, in sectors.
fn data_offset(leg: &File) -> u64 {
    let mut sectors = [0; 8];
    leg.read_exact_at(&mut sectors, 4096 + 128)
        .expect("read a superblock");
    u64::from_le_bytes(sectors) * 512
}
