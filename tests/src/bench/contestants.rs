//! Who is measured: our nbd-server and our mirror, and the programs beside them.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::settings::Settings;
use crate::mirror::Mirror;
use crate::peers::{self, DEBIAN_NBD_SERVER, NBDCOPY, NBDKIT, QEMU_NBD, QEMU_STORAGE_DAEMON};
use crate::process::{Daemon, run};
use crate::scratch::Scratch;
use crate::servers::{self, Endpoint, Server};

/// Bytes of the image behind every contestant.
pub const IMAGE_SIZE: u64 = 1 << 30;

/// Bytes of each disk of our mirror: md's metadata stands before the data.
const MIRROR_DISK: u64 = IMAGE_SIZE + (4 << 20);

/// A contestant that is up.
#[derive(Debug)]
pub struct Running {
    /// What fio connects to.
    pub uri: String,
    /// All its processes; the last one started is the one that clients talk to.
    pub daemons: Vec<Daemon>,
    /// The last one is to be asked to stop, before the others are killed.
    pub stops_cleanly: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut last) = self.daemons.pop().filter(|_| self.stops_cleanly) {
            last.stop();
        }
    }
}

/// How a contestant is started in a scratch folder of its own.
pub type Start = Box<dyn Fn(&Scratch) -> Result<Running, String>>;

/// How a server is started at a place.
type StartServer = Box<dyn Fn(&Scratch, &Endpoint) -> Server>;

/// One column of the report.
pub struct Contestant {
    /// As shown.
    pub name: String,
    /// Whether it is of this workspace, and so not one of those to be compared with.
    pub ours: bool,
    /// Files that it writes to; they are flushed after each measurement.
    pub images: Vec<PathBuf>,
    /// Starts it.
    pub start: Start,
}

/// Which kind of socket a section is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP over the loopback interface.
    Tcp,
    /// A unix stream socket.
    Unix,
}

impl Transport {
    fn endpoint(self, scratch: &Scratch) -> Endpoint {
        match self {
            Transport::Tcp => Endpoint::tcp(),
            Transport::Unix => Endpoint::unix(scratch, "s"),
        }
    }
}

/// Servers that export one file. Notes about those that are missing go to `notes`.
pub fn servers(
    transport: Transport,
    settings: &Settings,
    image: &Path,
    notes: &mut Vec<String>,
) -> Vec<Contestant> {
    let mut list = Vec::new();
    let mut add = |name: &str, ours: bool, start: StartServer| {
        list.push(Contestant {
            name: name.to_owned(),
            ours,
            images: vec![image.to_owned()],
            start: Box::new(move |scratch| {
                let server = start(scratch, &transport.endpoint(scratch));
                Ok(Running {
                    uri: server.uri(),
                    daemons: vec![server.daemon],
                    stops_cleanly: false,
                })
            }),
        });
    };
    for (name, program) in our_servers(settings, notes) {
        let image = image.to_owned();
        add(
            &name,
            true,
            Box::new(move |scratch, place| {
                servers::ours(&program, scratch, place, "disk", &image, &[])
            }),
        );
    }
    for peer in [NBDKIT, QEMU_NBD, DEBIAN_NBD_SERVER] {
        let program = match peers::find(peer) {
            Ok(program) => program,
            Err(reason) => {
                notes.push(format!("not measured: {reason}"));
                continue;
            }
        };
        let image = image.to_owned();
        if peer == NBDKIT {
            let words = ["file".to_owned(), image.display().to_string()];
            add(
                "nbdkit file",
                false,
                Box::new(move |scratch, place| {
                    servers::nbdkit(
                        &program,
                        scratch,
                        place,
                        &words.each_ref().map(String::as_str),
                    )
                }),
            );
        } else if peer == QEMU_NBD {
            let aio = queue_of_qemu(&program, &image, notes);
            add(
                &format!("qemu-nbd {aio}"),
                false,
                Box::new(move |scratch, place| {
                    servers::qemu_nbd(&program, scratch, place, "disk", &image, aio)
                }),
            );
        } else {
            add(
                "Debian nbd-server",
                false,
                Box::new(move |scratch, place| {
                    servers::debian(&program, scratch, place, "disk", &image)
                }),
            );
        }
    }
    list
}

/// Our servers: those of `--server`, or the one built beside this program.
fn our_servers(settings: &Settings, notes: &mut Vec<String>) -> Vec<(String, PathBuf)> {
    if !settings.servers.is_empty() {
        return settings.servers.clone();
    }
    match peers::find_ours("nbd-server") {
        Some(program) => vec![("netraid nbd-server".to_owned(), program)],
        None => {
            notes.push(
                "our nbd-server is not built: cargo build --release --workspace --bins".to_owned(),
            );
            Vec::new()
        }
    }
}

/// `io_uring` where QEMU can have it (containers often forbid it), else `threads`.
fn queue_of_qemu(program: &Path, image: &Path, notes: &mut Vec<String>) -> &'static str {
    let scratch = Scratch::new();
    let socket = scratch.path("probe");
    let mut command = Command::new(program);
    command
        .args(["--format=raw", "--read-only", "--aio=io_uring", "--socket"])
        .arg(&socket)
        .arg(image);
    if Daemon::try_start("probe", scratch.folder(), &command, || socket.exists()).is_ok() {
        "io_uring"
    } else {
        notes.push("qemu-nbd cannot use io_uring here; measured with threads".to_owned());
        "threads"
    }
}

/// Mirrors of a local file and an NBD export behind nbdkit. Notes about what is missing go to `notes`.
pub fn mirrors(
    settings: &Settings,
    image: &Path,
    scratch: &Scratch,
    notes: &mut Vec<String>,
) -> Vec<Contestant> {
    let mut list = Vec::new();
    let nbdkit = match peers::find(NBDKIT) {
        Ok(program) => program,
        Err(reason) => {
            notes.push(format!("no mirror measured: {reason}"));
            return list;
        }
    };
    match settings
        .mirror
        .clone()
        .or_else(|| peers::find_ours("netraid"))
    {
        Some(program) => {
            let mut add =
                |name: &str, leg: StartLeg| match embedded(name, &program, leg, image, scratch) {
                    Ok(contestant) => list.push(contestant),
                    Err(reason) => notes.push(format!("not measured: {reason}")),
                };
            add("netraid", leg_of_nbdkit(&nbdkit));
            if let Some(server) = peers::find_ours("nbd-server") {
                add("netraid, our leg", leg_of_ours(&server));
            }
        }
        None => notes
            .push("our mirror is not built: cargo build --release --workspace --bins".to_owned()),
    }
    match peers::find(QEMU_STORAGE_DAEMON) {
        Ok(program) => list.push(quorum(program, nbdkit, scratch)),
        Err(reason) => notes.push(format!("not measured: {reason}")),
    }
    list
}

/// How the server of a remote leg is started.
type StartLeg = Box<dyn Fn(&Scratch, &Path) -> Server>;

fn leg_of_nbdkit(program: &Path) -> StartLeg {
    let program = program.to_owned();
    Box::new(move |scratch, image| {
        let words = ["file", &image.display().to_string()];
        servers::nbdkit(&program, scratch, &Endpoint::unix(scratch, "leg"), &words)
    })
}

fn leg_of_ours(program: &Path) -> StartLeg {
    let program = program.to_owned();
    Box::new(move |scratch, image| {
        servers::ours(
            &program,
            scratch,
            &Endpoint::unix(scratch, "leg"),
            "disk",
            image,
            &[],
        )
    })
}

/// Our embedded mirror with its write-intent bitmap: writes go to both legs, reads to the local one.
fn embedded(
    name: &str,
    program: &Path,
    leg: StartLeg,
    image: &Path,
    scratch: &Scratch,
) -> Result<Contestant, String> {
    // Made and filled now; each measurement assembles it anew.
    let nbdcopy = peers::find(NBDCOPY)?;
    let mut mirror = Mirror::of(program, scratch.folder(), MIRROR_DISK, &leg);
    run(Command::new(nbdcopy)
        .arg("--flush")
        .arg(image)
        .arg(mirror.uri()))
    .ok();
    mirror.stop();
    mirror.kill_leg();
    let images = vec![mirror.local.clone(), mirror.remote.clone()];
    let mirror = RefCell::new(mirror);
    let start = move |_: &Scratch| {
        let mut mirror = mirror.borrow_mut();
        mirror.serve_leg(&leg);
        mirror.start(true);
        mirror.wait_in_sync();
        let leg = mirror.leg.take().map(|server| server.daemon);
        let daemons = leg.into_iter().chain(mirror.source.take()).collect();
        Ok(Running {
            uri: mirror.uri(),
            daemons,
            stops_cleanly: true,
        })
    };
    Ok(Contestant {
        name: name.to_owned(),
        ours: true,
        images,
        start: Box::new(start),
    })
}

/// QEMU's quorum driver: writes go to both legs, reads to the first (`read-pattern=fifo`, its fastest setting).
fn quorum(program: PathBuf, nbdkit: PathBuf, images: &Scratch) -> Contestant {
    let [local, remote] =
        ["quorum-local.img", "quorum-remote.img"].map(|name| images.noise(name, IMAGE_SIZE, 2));
    let images = vec![local.clone(), remote.clone()];
    let start = move |scratch: &Scratch| {
        let leg = Endpoint::unix(scratch, "leg");
        let leg_server = servers::nbdkit(
            &nbdkit,
            scratch,
            &leg,
            &["file", &remote.display().to_string()],
        );
        let place = scratch.path("s");
        let remote_leg = format!(
            "driver=nbd,node-name=remote,server.type=unix,server.path={}",
            scratch.path("leg").display()
        );
        let mirror = "driver=quorum,node-name=mirror,vote-threshold=1,children.0=local,children.1=remote,read-pattern=fifo";
        let mut command = Command::new(&program);
        command
            .args([
                "--blockdev",
                &format!(
                    "driver=file,node-name=file,filename={},aio=io_uring",
                    local.display()
                ),
            ])
            .args(["--blockdev", "driver=raw,node-name=local,file=file"])
            .args(["--blockdev", &remote_leg])
            .args(["--blockdev", mirror])
            .args([
                "--nbd-server",
                &format!("addr.type=unix,addr.path={}", place.display()),
            ])
            .args([
                "--export",
                "type=nbd,id=export,node-name=mirror,name=mirror,writable=on",
            ]);
        let endpoint = Endpoint::Unix(place);
        let server = Server::start("quorum", scratch.folder(), &command, &endpoint, "mirror");
        Ok(Running {
            uri: server.uri(),
            daemons: vec![leg_server.daemon, server.daemon],
            stops_cleanly: false,
        })
    };
    Contestant {
        name: "qemu quorum".to_owned(),
        ours: false,
        images,
        start: Box::new(start),
    }
}
