//! A process that runs one mirror: opens the local leg, keeps the remote ones, exports the mirror, answers questions.

mod answer;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use nbd_client::Target;
use nbd_server::export::Export;
use nbd_server::file::FileDevice;
use nbd_server::listener::{Address, Listener};
use nbd_server::server::{Options, Server, ServerHandle};

use crate::control;
use crate::raid1::engine::{Engine, Hold, IdSource, Refusal, Settings};
use crate::raid1::keeper::Keepers;
use crate::raid1::leg::{Slot, SlotSet};
use crate::raid1::link::Link;
use crate::raid1::metadata::{Metadata, MetadataError};
use crate::raid1::running::{Mirror, MirrorDevice};
use answer::Answerer;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the mirror and of its export.
    pub tag: String,
    /// The local leg.
    pub disk: PathBuf,
    /// This node's name, which must be that of the leg.
    pub node: String,
    /// The other legs: node and NBD URI.
    pub targets: Vec<(String, Target)>,
    /// Unix sockets to export on.
    pub unix: Vec<PathBuf>,
    /// TCP addresses to export on.
    pub listen: Vec<SocketAddr>,
    /// Folder of the control socket.
    pub run_dir: PathBuf,
    /// Times and bounds.
    pub settings: Settings,
    /// Nodes whose legs are written asynchronously, with order kept.
    pub asynchronous: Vec<String>,
    /// Messages to and from the other legs are followed by checksums.
    pub integrity: bool,
    /// Take a leg that was being resynced as it is.
    pub force: bool,
    /// Connect no leg but on order, and take none back that was lost: a supervisor says when.
    pub supervised: bool,
    /// Requests are held back until somebody says otherwise.
    pub held: bool,
}

/// Why a mirror does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The request is wrong.
    #[error("{0}")]
    Usage(String),
    /// The local disk can't be used.
    #[error("disk {disk}: {error}")]
    Leg {
        /// Its path.
        disk: PathBuf,
        /// What is wrong with it.
        error: MetadataError,
    },
    /// The leg's state forbids it.
    #[error("mirror {tag} is not started: {refusal}")]
    Refused {
        /// The mirror.
        tag: String,
        /// Why.
        refusal: Refusal,
    },
    /// The system failed.
    #[error("{0}")]
    Failed(String),
}

/// A mirror that runs.
pub struct Running {
    tag: String,
    mirror: Arc<Mirror>,
    keepers: Arc<Keepers>,
    server: Arc<Mutex<Option<ServerHandle>>>,
    uris: Vec<String>,
    supervised: bool,
    control: PathBuf,
    over: Arc<AtomicBool>,
}

impl Running {
    /// Starts everything; the mirror can be used when this returns.
    pub fn start(plan: &Plan) -> Result<Running, RunError> {
        // The file system on the mirror reads ahead, and the resync knows what it needs.
        let device = FileDevice::open(&plan.disk, false)
            .map_err(|error| RunError::Usage(error.to_string()))?
            .without_reading_ahead();
        let link = Link::Local(Arc::new(device));
        let leg = |error| RunError::Leg {
            disk: plan.disk.clone(),
            error,
        };
        let (metadata, image) = Metadata::read(&link, PATIENCE).map_err(leg)?;
        check_names(plan, &metadata)?;
        let settings = Settings {
            asynchronous: asynchronous(plan, &metadata)?,
            ..plan.settings
        };
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        let ids = IdSource::new(high ^ low);
        let engine = Engine::assemble(
            metadata.shape(),
            settings,
            metadata.slot(),
            image,
            ids,
            plan.force,
        )
        .map_err(|refusal| RunError::Refused {
            tag: plan.tag.clone(),
            refusal,
        })?;

        let keepers: Arc<OnceLock<Arc<Keepers>>> = Arc::default();
        let wake = Arc::clone(&keepers);
        let on_expel = Box::new(move |_, _: &str| {
            if let Some(keepers) = wake.get() {
                keepers.wake();
            }
        });
        let mirror = Mirror::start(engine, link, metadata.clone(), on_expel);
        if plan.held {
            mirror.hold(Hold::Suspend);
        }
        let timeout = Duration::from_millis(plan.settings.leg_timeout);
        let keepers = keepers
            .get_or_init(|| Keepers::new(Arc::clone(&mirror), &metadata, timeout, plan.integrity))
            .clone();
        let over = Arc::new(AtomicBool::new(false));
        let looked_after = plan.supervised.then(|| Arc::clone(&keepers));
        start_ticking(Arc::clone(&mirror), looked_after, Arc::clone(&over))
            .map_err(failed("no thread can be started"))?;
        if plan.supervised && !plan.targets.is_empty() {
            let problem = "a supervised mirror is given its targets on order";
            return Err(RunError::Usage(problem.into()));
        }
        for (node, target) in &plan.targets {
            let slot = keepers
                .slot_of(node)
                .ok_or_else(|| unknown_node(node, &keepers))?;
            keepers
                .keep(slot, target.clone())
                .map_err(failed("no thread can be started"))?;
        }
        let server = export(plan, &mirror)?;
        let control = control::socket_path(&plan.run_dir, &plan.tag);
        let running = Running {
            tag: plan.tag.clone(),
            mirror,
            keepers,
            uris: uris(&server, &plan.tag),
            server: Arc::new(Mutex::new(Some(server))),
            supervised: plan.supervised,
            control,
            over,
        };
        running
            .answer_questions(plan)
            .map_err(failed("the control socket can't be made"))?;
        Ok(running)
    }

    /// Where the mirror can be used.
    pub fn uris(&self) -> Vec<String> {
        self.uris.clone()
    }

    /// Stops cleanly; says what could not be done.
    pub fn stop(self) -> Result<(), String> {
        // First the application: what it was told is done has to be on every leg before the legs are called clean.
        if let Some(server) = lock(&self.server).take() {
            server.stop(PATIENCE);
        }
        self.keepers.stop();
        let clean = self.mirror.stop(PATIENCE);
        self.over.store(true, Ordering::Relaxed);
        // It may be gone already; nobody listens behind it any more.
        let _ = std::fs::remove_file(&self.control);
        if clean {
            Ok(())
        } else {
            Err("the legs could not be made clean in time; dirty bits remain".into())
        }
    }

    fn answer_questions(&self, plan: &Plan) -> io::Result<()> {
        let folder = self.control.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        match UnixStream::connect(&self.control) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "the mirror is already running",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Left behind by a process that was killed.
            Err(_) => std::fs::remove_file(&self.control)?,
        }
        let listener = UnixListener::bind(&self.control)?;
        std::fs::set_permissions(&self.control, std::fs::Permissions::from_mode(0o600))?;
        let answerer = Arc::new(Answerer {
            tag: self.tag.clone(),
            disk: plan.disk.display().to_string(),
            uris: self.uris(),
            supervised: self.supervised,
            server: Arc::clone(&self.server),
            mirror: Arc::clone(&self.mirror),
            keepers: Arc::clone(&self.keepers),
            callers: AtomicUsize::new(0),
        });
        thread::Builder::new()
            .name("control".into())
            .spawn(move || answer::serve(&answerer, &listener))?;
        Ok(())
    }
}

/// The slots of the nodes that are written asynchronously.
fn asynchronous(plan: &Plan, metadata: &Metadata) -> Result<SlotSet, RunError> {
    let names = metadata.names();
    let slot = |node: &String| {
        let place = names.iter().position(|name| name.as_str() == node);
        let unknown = || RunError::Usage(format!("node {node} has no leg in this mirror"));
        place.and_then(Slot::new).ok_or_else(unknown)
    };
    plan.asynchronous.iter().map(slot).collect()
}

fn check_names(plan: &Plan, metadata: &Metadata) -> Result<(), RunError> {
    let names = metadata.names();
    let own = &names[metadata.slot().number()];
    if own.as_str() != plan.node {
        let problem = format!(
            "disk {} is the leg of node {own}, not of {}",
            plan.disk.display(),
            plan.node
        );
        return Err(RunError::Usage(problem));
    }
    match plan.targets.iter().find(|(node, _)| *node == plan.node) {
        Some((node, _)) => Err(RunError::Usage(format!(
            "{node} is this node: it can't be a target of its own"
        ))),
        None => Ok(()),
    }
}

fn unknown_node(node: &str, keepers: &Keepers) -> RunError {
    let known: Vec<&str> = keepers.names().iter().map(|name| name.as_str()).collect();
    RunError::Usage(format!(
        "node {node:?} is not one of the mirror's: {}",
        known.join(", ")
    ))
}

fn export(plan: &Plan, mirror: &Arc<Mirror>) -> Result<ServerHandle, RunError> {
    let mut server = Server::new(Options::default());
    let device = Arc::new(MirrorDevice(Arc::clone(mirror)));
    let description = format!("mirror {} on {}", plan.tag, plan.node);
    let export = Export::new(plan.tag.as_str(), device).with_description(description);
    server
        .add_export(export)
        .map_err(|error| RunError::Usage(error.to_string()))?;
    for address in &plan.listen {
        server.add_listener(
            Listener::tcp(*address).map_err(|error| RunError::Usage(error.to_string()))?,
        );
    }
    for path in &plan.unix {
        server.add_listener(
            Listener::unix(path).map_err(|error| RunError::Usage(error.to_string()))?,
        );
    }
    server
        .start()
        .map_err(|error| RunError::Failed(error.to_string()))
}

fn uris(server: &ServerHandle, tag: &str) -> Vec<String> {
    server
        .addresses()
        .iter()
        .map(|address| match address {
            Address::Tcp(address) => {
                Target::tcp(address.ip().to_string(), address.port(), tag).to_string()
            }
            Address::Unix(path) => Target::unix(path, tag).to_string(),
        })
        .collect()
}

/// `looked_after` are the legs of a supervised mirror: nobody else notices that a connection has died.
fn start_ticking(
    mirror: Arc<Mirror>,
    looked_after: Option<Arc<Keepers>>,
    over: Arc<AtomicBool>,
) -> io::Result<()> {
    thread::Builder::new().name("clock".into()).spawn(move || {
        while !over.load(Ordering::Relaxed) {
            thread::sleep(TICK);
            if let Some(keepers) = &looked_after {
                keepers.look_after_legs();
            }
            mirror.tick();
        }
    })?;
    Ok(())
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |error| RunError::Failed(format!("{what}: {error}"))
}

/// How often the engine hears of the time.
const TICK: Duration = Duration::from_millis(100);
/// Longest wait for the local disk, and for everything at the end.
const PATIENCE: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
