//! `netraidd`: reads the configuration, starts a thread for each mirror and a link to each peer, and serves them all.
//!
//! What runs (exports, arrays) are processes of their own. The daemon finds them when it begins and leaves them when it
//! ends, so that its restart or upgrade interrupts nobody.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flags::{FlagFiles, NodeName};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::adjust::{Adjuster, MakeParts, Running};
use super::disks;
use super::driver::{About, Input, MakeBackend, Parts, STACK, run};
use super::links::{self, Peer};
use super::local::Plan;
use super::memory::Store;
use super::routes;
use super::shared::Shared;
use crate::api::identity::Identity;
use crate::api::listen::{
    self, Access, Allowed, Limits, Stop, Terms, bind_loopback, bind_unix, loopback, peers, unix,
};
use crate::array::embedded::Embedded;
use crate::array::md::{Kernel, Machine};
use crate::config::{Backend, Config, MirrorConfig, NodeConfig, Parameters};

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// Something did not work.
    #[error("{0}")]
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> DaemonError {
    DaemonError::Failed(error.to_string())
}

/// The daemon's socket for commands, in its run folder.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("netraidd.sock")
}

/// Runs until SIGTERM or SIGINT. `ready` is called when everything listens, `reload` when the configuration is to be read
/// again.
///
/// # Errors
/// If the configuration can't be used, or an address is taken.
pub async fn serve(
    config: Config,
    reload: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
    ready: impl FnOnce(),
) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let own = config.daemon.node.clone();
    let mine: Vec<&MirrorConfig> = config
        .mirrors
        .values()
        .filter(|mirror| mirror.slot_of(own.as_str()).is_some())
        .collect();
    std::fs::create_dir_all(&config.daemon.run_dir).map_err(failed)?;

    let disks: Vec<_> = mine
        .iter()
        .filter_map(|mirror| {
            let slot = mirror.slot_of(own.as_str())?;
            let node = mirror.nodes.get(slot.slot())?;
            Some((mirror.tag.to_string(), node.disk.clone()?))
        })
        .collect();
    let instance = uuid::Uuid::new_v4().as_u64_pair().0;
    let shared = Arc::new(Shared::new(own.to_string(), instance));
    let (stopper, stop) = listen::stop();
    let mut tasks = JoinSet::new();

    // The socket first: a second daemon of the same folder must not touch anything.
    let at = socket(&config.daemon.run_dir);
    let commands = bind_unix(&at, &Access::default()).map_err(failed)?;
    let others = peers_of(&mine, &own)?;
    // Then the mirrors, so that nobody who asks misses one.
    let mut running = BTreeMap::new();
    for mirror in &mine {
        running.insert(mirror.tag.to_string(), start(mirror, &config, &shared)?);
    }
    let (watched, ending) = (Arc::clone(&shared), stop.clone());
    let runtime = tokio::runtime::Handle::current();
    let watch = move |tag, disk| {
        let disks = vec![(tag, disk)];
        runtime.spawn(disks::watch(disks, Arc::clone(&watched), ending.clone()));
    };
    let adjuster = Adjuster::new(config.clone(), running, Arc::clone(&shared), reload, watch);
    let adjuster = Arc::new(adjuster);
    tasks.spawn(disks::watch(disks, Arc::clone(&shared), stop.clone()));
    // A node without peers needs no identity.
    if !others.is_empty() {
        let identity = Identity::load(&config.daemon.tls_dir, &own).map_err(|error| {
            failed(format!(
                "{error}; netraid cert init makes one on the first node, netraid cert invite and join on the others"
            ))
        })?;
        let identity = Arc::new(identity);
        listen_for_peers(&config, &others, &identity, &shared, &stop, &mut tasks).await?;
        for (name, address) in others {
            let peer = Peer { name, address };
            tasks.spawn(links::keep(
                peer,
                Arc::clone(&identity),
                Arc::clone(&shared),
                stop.clone(),
            ));
        }
    }
    if let Some(address) = config.daemon.status_listen {
        let listener = bind_loopback(address).await.map_err(failed)?;
        let router = routes::reading(Arc::clone(&shared));
        let stop = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = loopback(listener, router, Terms::default(), stop).await {
                tracing::error!("{error}");
            }
        });
    }
    {
        let router = routes::all(Arc::clone(&shared), Arc::clone(&adjuster));
        let stop = stop.clone();
        tasks.spawn(async move {
            let terms = Terms::new(Limits::local());
            if let Err(error) = unix(commands, router, terms, stop).await {
                tracing::error!("{error}");
            }
        });
    }
    shared.tell(
        None,
        "begun",
        format!("netraidd begins on {own}, with {} mirrors", mine.len()),
    );
    ready();

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; mirrors and exports go on");
    // Before the links: who finds nobody to ask must know why.
    shared.end();
    stopper.stop();
    let drained = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, drained).await;
    let all = tokio::task::spawn_blocking(move || {
        for running in adjuster.end() {
            // A queue that was full has room by now.
            let _ = running.inputs.send(Input::End);
            let _ = running.thread.join();
        }
    });
    // A thread that waits for a slow disk ends with the process.
    let _ = tokio::time::timeout(GRACE, all).await;
    Ok(())
}

async fn listen_for_peers(
    config: &Config,
    others: &BTreeMap<NodeName, String>,
    identity: &Arc<Identity>,
    shared: &Arc<Shared>,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) -> Result<(), DaemonError> {
    let names: Vec<NodeName> = others.keys().cloned().collect();
    let allowed: Allowed = Arc::new(move || names.clone());
    for address in &config.daemon.listen {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            failed(format!(
                "cannot listen for peers at {address}: {error}; netraid.toml chooses another with listen"
            ))
        })?;
        tasks.spawn(peers(
            listener,
            Arc::clone(identity),
            Arc::clone(&allowed),
            links::router(Arc::clone(shared)),
            Terms::default(),
            stop.clone(),
        ));
    }
    Ok(())
}

/// Every node with which this one shares a mirror, and where its daemon is.
pub(super) fn peers_of(
    mirrors: &[&MirrorConfig],
    own: &NodeName,
) -> Result<BTreeMap<NodeName, String>, DaemonError> {
    let mut peers = BTreeMap::new();
    for node in mirrors.iter().flat_map(|mirror| &mirror.nodes) {
        if node.name == *own {
            continue;
        }
        let address = node.address.with_port(node.address.port);
        let before = peers.insert(node.name.clone(), address.clone());
        if let Some(before) = before.filter(|before| *before != address) {
            return Err(DaemonError::Usage(format!(
                "{} is at {before} in one mirror and at {address} in another: netraid config check",
                node.name
            )));
        }
    }
    Ok(peers)
}

/// Starts a mirror's thread.
pub(super) fn start(
    mirror: &MirrorConfig,
    config: &Config,
    shared: &Arc<Shared>,
) -> Result<Running, DaemonError> {
    let tag = mirror.tag.to_string();
    let parts = Arc::new(Mutex::new(parts(mirror, config, shared)?));
    let (sender, receiver) = sync_channel(QUEUE);
    shared.register(&tag, sender.clone());
    let (inputs, slot) = (sender.clone(), Arc::clone(&parts));
    let make = move || {
        let made = slot.lock().map(|made| Arc::clone(&made));
        // Nobody panics while holding it.
        made.unwrap_or_else(|poisoned| Arc::clone(&poisoned.into_inner()))()
    };
    let thread = thread::Builder::new()
        .name(format!("mirror-{tag}"))
        .stack_size(2 * STACK)
        .spawn(move || run(make, inputs, &receiver))
        .map_err(failed)?;
    Ok(Running {
        inputs: sender,
        thread,
        parts,
    })
}

/// What a mirror's thread is made of, by this configuration.
pub(super) fn parts(
    mirror: &MirrorConfig,
    config: &Config,
    shared: &Arc<Shared>,
) -> Result<MakeParts, DaemonError> {
    let own = config.daemon.node.as_str();
    let tag = mirror.tag.to_string();
    let settings = mirror.settings(own, &config.parameters);
    let settings = settings.ok_or_else(|| failed(format!("{own} is no node of {tag}")))?;
    let plan = plan(mirror, config, settings.own)?;
    let about = About {
        backend: mirror.backend.as_str().into(),
        protocol: mirror.protocol.as_str().into(),
        handlers: mirror.handlers.clone(),
        on_io_error: mirror.on_io_error,
        disks: mirror.nodes.iter().map(NodeConfig::disk_text).collect(),
        addresses: mirror
            .nodes
            .iter()
            .map(|node| node.address.with_port(node.port))
            .collect(),
    };
    let backend = backend(mirror.backend, &config.daemon.run_dir)?;
    let flags = FlagFiles::in_folder(&config.daemon.state_dir, mirror.tag.clone());
    let (names, node_names) = (mirror.names(), plan.names.clone());
    let shared = Arc::clone(shared);
    Ok(Arc::new(move || Parts {
        settings: settings.clone(),
        names: names.clone(),
        about: about.clone(),
        plan: plan.clone(),
        store: Store::new(flags.clone(), node_names.clone(), settings.own),
        backend: Arc::clone(&backend),
        shared: Arc::clone(&shared),
    }))
}

fn plan(
    mirror: &MirrorConfig,
    config: &Config,
    own: crate::mirror::node::NodeId,
) -> Result<Plan, DaemonError> {
    let node = mirror
        .nodes
        .get(own.slot())
        .ok_or_else(|| failed("no node"))?;
    let at = node.address.with_port(node.port);
    let mut found = at.to_socket_addrs().map_err(|error| {
        failed(format!(
            "the address {at} of this node is not known: {error}"
        ))
    })?;
    let listen: SocketAddr = found
        .next()
        .ok_or_else(|| failed(format!("the address {at} of this node is not known")))?;
    let Parameters { async_limit, .. } = config.parameters;
    let kernel = mirror.backend == Backend::Md;
    let asynchronous = kernel && mirror.protocol == crate::config::Protocol::A;
    Ok(Plan {
        tag: mirror.tag.to_string(),
        own,
        names: mirror.nodes.iter().map(|node| node.name.clone()).collect(),
        legs: mirror
            .nodes
            .iter()
            .filter(|node| node.disk.is_some())
            .count(),
        // A tie-breaker's machine never asks for anything to be done with it.
        disk: node.disk.clone().unwrap_or_default(),
        tie_breaker: node.disk.is_none(),
        kernel,
        listen,
        run_dir: config.daemon.run_dir.clone(),
        nbd_server: sibling("nbd-server")?,
        speed: mirror.resyncs.speed(&config.parameters),
        after: mirror.resyncs.after.as_ref().map(ToString::to_string),
        async_limit: asynchronous.then_some(async_limit),
        compare: mirror.compare,
        streams: mirror.streams(),
        care: mirror.care(),
        verify_rate: mirror.verify_rate,
        chunk: mirror.bitmap.then_some(mirror.chunk_bytes),
    })
}

fn backend(kind: Backend, run_dir: &Path) -> Result<MakeBackend, DaemonError> {
    let run_dir = run_dir.to_owned();
    Ok(match kind {
        Backend::Embedded => {
            let program = sibling("netraid")?;
            Arc::new(move || {
                Box::new(Embedded {
                    program: program.clone(),
                    run_dir: run_dir.clone(),
                    patience: START,
                })
            })
        }
        Backend::Md => Arc::new(move || Box::new(Kernel::new(Machine::real(run_dir.clone())))),
    })
}

/// A program that was installed beside this one.
fn sibling(name: &str) -> Result<PathBuf, DaemonError> {
    let own = std::env::current_exe().map_err(failed)?;
    Ok(own.with_file_name(name))
}

/// Inputs that wait for a mirror's thread: more than its peers can tell within the time that it may be busy.
const QUEUE: usize = 1024;
/// How long those who are served may go on when the daemon ends.
const GRACE: Duration = Duration::from_secs(3);
/// Longest wait for the start or the stop of an embedded array.
const START: Duration = Duration::from_secs(60);
