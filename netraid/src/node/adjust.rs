//! `netraid adjust`: the configuration is read again, and what runs is made to match: only the differences are done.
//!
//! A mirror whose configuration has changed begins anew in its thread, as after a restart of the daemon: arrays, exports and
//! resyncs go on. What can't be changed so is refused by name, and then nothing is done at all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::daemon::{DaemonError, parts, peers_of, start};
use super::driver::{Input, Parts};
use super::shared::{Shared, Shown};
use crate::api::document::{Answer, Outcome};
use crate::config::{Config, MirrorConfig, NodeConfig, Parameters};

/// Makes what a mirror's thread is made of, as it is configured now.
pub(super) type MakeParts = Arc<dyn Fn() -> Parts + Send + Sync>;

/// A mirror's thread.
pub(super) struct Running {
    /// What it hears.
    pub inputs: SyncSender<Input>,
    /// It ends after [`Input::End`].
    pub thread: JoinHandle<()>,
    /// What it begins with next time.
    pub parts: Arc<Mutex<MakeParts>>,
}

/// What runs, and by which configuration.
pub(super) struct Adjuster {
    reload: Box<dyn Fn() -> Result<Config, String> + Send + Sync>,
    shared: Arc<Shared>,
    /// Has a mirror's disk watched.
    watch: Box<dyn Fn(String, PathBuf) + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    config: Config,
    running: BTreeMap<String, Running>,
}

/// What is to be done, and what can't be.
#[derive(Default)]
struct Differences {
    steps: Vec<String>,
    refused: Vec<(String, String)>,
    begin: Vec<String>,
    change: Vec<String>,
    end: Vec<String>,
}

impl Differences {
    fn refuse(&mut self, why: impl Into<String>, next: impl Into<String>) {
        self.refused.push((why.into(), next.into()));
    }
}

impl Adjuster {
    /// Of a daemon that has just begun.
    pub(super) fn new(
        config: Config,
        running: BTreeMap<String, Running>,
        shared: Arc<Shared>,
        reload: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
        watch: impl Fn(String, PathBuf) + Send + Sync + 'static,
    ) -> Adjuster {
        Adjuster {
            reload: Box::new(reload),
            watch: Box::new(watch),
            shared,
            state: Mutex::new(State { config, running }),
        }
    }

    /// Ends everything: the threads, to be waited for.
    pub(super) fn end(&self) -> Vec<Running> {
        let mut state = self.state();
        let running = std::mem::take(&mut state.running);
        for running in running.values() {
            let _ = running.inputs.try_send(Input::End);
        }
        running.into_values().collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Does it, or only tells what would be done. Blocks for as long as mirrors need to begin.
    pub(super) fn adjust(&self, dry_run: bool) -> Answer {
        let mut state = self.state();
        if self.shared.is_ending() {
            return Answer::not(Outcome::Refused, "netraidd is just stopping", None);
        }
        let config = match (self.reload)() {
            Ok(config) => config,
            Err(problems) => {
                let next = Some("netraid config check".to_owned());
                return Answer::not(Outcome::Usage, problems, next);
            }
        };
        let found = self.differences(&state.config, &config);
        if let Some((_, next)) = found.refused.first() {
            let reasons: Vec<&str> = found.refused.iter().map(|(why, _)| why.as_str()).collect();
            return Answer::not(Outcome::Refused, reasons.join("; "), Some(next.clone()));
        }
        if !dry_run {
            if let Err(error) = self.perform(&mut state, &config, &found) {
                return Answer::not(Outcome::Failed, error, Some("netraid events".into()));
            }
            state.config = config;
            for step in &found.steps {
                self.shared.tell(None, "adjusted", step.clone());
            }
        }
        Answer {
            steps: found.steps,
            ..Answer::done()
        }
    }

    fn perform(
        &self,
        state: &mut State,
        config: &Config,
        found: &Differences,
    ) -> Result<(), DaemonError> {
        let mut waits = Vec::new();
        for tag in &found.change {
            let (Some(mirror), Some(running)) = (mine(config).remove(tag), state.running.get(tag))
            else {
                continue;
            };
            let made = parts(mirror, config, &self.shared)?;
            if let Ok(mut slot) = running.parts.lock() {
                *slot = made;
            }
            let (done, wait) = sync_channel(0);
            // A mirror that hangs with its disk must not keep the others from what they are to do.
            if running.inputs.try_send(Input::Anew(done)).is_err() {
                return Err(busy(tag));
            }
            waits.push((tag, wait));
        }
        for tag in &found.begin {
            // It may have begun the last time, which did not come to its end.
            let mirror = mine(config).remove(tag);
            if let Some(mirror) = mirror.filter(|_| !state.running.contains_key(tag)) {
                let running = start(mirror, config, &self.shared)?;
                state.running.insert(tag.clone(), running);
                let slot = mirror.slot_of(config.daemon.node.as_str());
                let node = slot.and_then(|slot| mirror.nodes.get(slot.slot()));
                if let Some(disk) = node.and_then(|node| node.disk.clone()) {
                    (self.watch)(tag.clone(), disk);
                }
            }
        }
        for tag in &found.end {
            if let Some(running) = state.running.remove(tag) {
                let _ = running.inputs.try_send(Input::End);
                let until = Instant::now() + LONGEST;
                while !running.thread.is_finished() {
                    if Instant::now() >= until {
                        state.running.insert(tag.clone(), running);
                        return Err(busy(tag));
                    }
                    std::thread::sleep(LOOK);
                }
                self.shared.forget(tag);
            }
        }
        let until = Instant::now() + LONGEST;
        for (tag, wait) in waits {
            let left = until.saturating_duration_since(Instant::now());
            if wait.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                return Err(busy(tag));
            }
        }
        Ok(())
    }

    fn differences(&self, old: &Config, new: &Config) -> Differences {
        let mut found = Differences::default();
        if old.daemon != new.daemon {
            found.refuse(
                "netraid.toml has changed, which is read at the start only",
                RESTART,
            );
            return found;
        }
        let own = &old.daemon.node;
        let (before, after) = (mine(old), mine(new));
        let peers = |mirrors: &BTreeMap<String, &MirrorConfig>| {
            peers_of(&mirrors.values().copied().collect::<Vec<_>>(), own)
        };
        match (peers(&before), peers(&after)) {
            (Ok(before), Ok(after)) if before == after => {}
            (_, Err(error)) => found.refuse(error.to_string(), "netraid config check"),
            _ => found.refuse(
                "other nodes, or other addresses of nodes, need new links",
                RESTART,
            ),
        }
        for (tag, mirror) in &after {
            match before.get(tag) {
                None => {
                    found.steps.push(format!("{tag}: begin to look after it"));
                    found.begin.push(tag.clone());
                }
                Some(was) => {
                    let changes = changes(was, mirror, &old.parameters, &new.parameters);
                    for (what, fixed) in &changes {
                        match fixed {
                            Some(next) => found.refuse(format!("{tag}: {what} has changed"), *next),
                            None => found.steps.push(format!("{tag}: {what}")),
                        }
                    }
                    if !changes.is_empty() {
                        found.change.push(tag.clone());
                    }
                }
            }
        }
        for tag in before.keys().filter(|tag| !after.contains_key(*tag)) {
            match self.is_forgotten(tag) {
                true => {
                    found.steps.push(format!("{tag}: look after it no more"));
                    found.end.push(tag.clone());
                }
                false => found.refuse(
                    format!(
                        "{tag} is not configured any more, and this node still has a part in it"
                    ),
                    format!("put its file back, then: netraid stop {tag}; netraid delete {tag}"),
                ),
            }
        }
        found
    }

    /// Nothing is remembered of it, and nothing runs.
    fn is_forgotten(&self, tag: &str) -> bool {
        match self.shared.mirror(tag) {
            Shown::Mirror(mirror) => {
                mirror.service == "out" && mirror.nodes.iter().all(|node| !node.member)
            }
            Shown::Unknown => true,
            Shown::NotYet | Shown::Broken(_) => false,
        }
    }
}

fn busy(tag: &str) -> DaemonError {
    DaemonError::Failed(format!("{tag} is busy, and follows later"))
}

/// The mirrors that this node has a part in.
fn mine(config: &Config) -> BTreeMap<String, &MirrorConfig> {
    let own = config.daemon.node.as_str();
    let mirrors = config.mirrors.iter();
    mirrors
        .filter(|(_, mirror)| mirror.slot_of(own).is_some())
        .map(|(tag, mirror)| (tag.to_string(), mirror))
        .collect()
}

/// What is different, for people; with the next command, if it can't be changed while the daemon runs.
fn changes(
    was: &MirrorConfig,
    is: &MirrorConfig,
    before: &Parameters,
    after: &Parameters,
) -> Vec<(String, Option<&'static str>)> {
    let mut found = Vec::new();
    let mut fixed = |what: &str, differs: bool, next: &'static str| {
        if differs {
            found.push((what.to_owned(), Some(next)));
        }
    };
    let names = |mirror: &MirrorConfig| -> Vec<String> {
        mirror
            .nodes
            .iter()
            .map(|node| node.name.to_string())
            .collect()
    };
    let nodes = was.nodes.iter().zip(&is.nodes);
    let differ =
        |part: fn(&NodeConfig, &NodeConfig) -> bool| nodes.clone().any(|(was, is)| part(was, is));
    fixed("number", was.number != is.number, MADE_WITH);
    fixed("backend", was.backend != is.backend, MADE_WITH);
    fixed("bitmap", was.bitmap != is.bitmap, MADE_WITH);
    fixed("device", was.device != is.device, RESTART);
    fixed("the list of nodes", names(was) != names(is), RESTART);
    fixed("a disk", differ(|was, is| was.disk != is.disk), RESTART);
    fixed("a port", differ(|was, is| was.port != is.port), RESTART);
    let mut free = |what: String, differs: bool| {
        if differs {
            found.push((what, None));
        }
    };
    free(
        format!("protocol {}, from the next start on", is.protocol.as_str()),
        was.protocol != is.protocol,
    );
    free(
        "protocols of single nodes, from the next start on".into(),
        was.protocol == is.protocol && differ(|was, is| was.protocol != is.protocol),
    );
    free(
        "send buffers and congestion, from the next start on".into(),
        (was.send_buffer, was.on_congestion) != (is.send_buffer, is.on_congestion),
    );
    free(
        format!(
            "policies for split brains: {}",
            match is.policies.to_string() {
                text if text.is_empty() => "an administrator decides".to_owned(),
                text => text,
            }
        ),
        was.policies != is.policies,
    );
    free("handlers".into(), was.handlers != is.handlers);
    free(
        format!("fencing {}", is.fencing.as_str()),
        was.fencing != is.fencing,
    );
    free(
        format!("on-io-error {}", is.on_io_error.as_str()) + ", from the next start on",
        (was.on_io_error, was.io_error_limit) != (is.on_io_error, is.io_error_limit),
    );
    free(
        "data-integrity-alg, from the next start on".into(),
        was.integrity != is.integrity,
    );
    free(
        "csums-alg, from the next start on".into(),
        was.compare != is.compare,
    );
    // Those of /etc/default/LifeKeeper are told below.
    let rates = |mirror: &MirrorConfig| mirror.resyncs.speed(before);
    free("rates of resyncs, at once".into(), rates(was) != rates(is));
    free(
        match &is.resyncs.after {
            Some(tag) => format!("resyncs after those of {tag}, at once"),
            None => "resyncs wait for no other mirror's, at once".into(),
        },
        was.resyncs.after != is.resyncs.after,
    );
    free(
        format!(
            "chunk {} bytes, for legs that are made from now on",
            is.chunk_bytes
        ),
        was.chunk_bytes != is.chunk_bytes,
    );
    let priorities = |mirror: &MirrorConfig| -> Vec<Option<u32>> {
        mirror.nodes.iter().map(|node| node.priority).collect()
    };
    free("priorities".into(), priorities(was) != priorities(is));
    free(
        "parameters of /etc/default/LifeKeeper".into(),
        before != after,
    );
    if found.is_empty() && was != is {
        found.push(("something else".into(), Some(RESTART)));
    }
    found
}

/// It interrupts nobody.
const RESTART: &str = "systemctl restart netraidd, which interrupts no mirror";
/// A mirror has it for life.
const MADE_WITH: &str = "it is fixed when the mirror is made: delete the mirror and create it anew";
/// Longest wait for mirrors to begin or end.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two looks whether a thread has ended.
const LOOK: Duration = Duration::from_millis(10);
