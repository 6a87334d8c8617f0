//! Split brains as the daemon sees them: what was written is counted, what the policies say is told, and programs of the
//! administrator are called: DRBD's handlers, with DRBD's names and environment.
//!
//! Each runs in a thread and a process group of its own, for [`LONGEST`] at most; the mirror does not wait for it, and what
//! becomes of it is told. The same one is not begun again while it runs.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Broken, Driver};
use crate::config::OnIoError;
use crate::mirror::event::Event;
use crate::mirror::machine::Service;
use crate::mirror::node::NodeId;
use crate::mirror::policy::Judgement;
use crate::mirror::record::Record;

/// The programs that run, and those that were called for a conflict that lasts.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    runs: Runs,
    called: BTreeSet<(&'static str, NodeId)>,
}

/// The programs that run.
#[derive(Clone, Debug, Default)]
struct Runs(Arc<Mutex<BTreeSet<&'static str>>>);

impl Runs {
    /// False if it runs already.
    fn begin(&self, name: &'static str) -> bool {
        self.0.lock().is_ok_and(|mut running| running.insert(name))
    }

    fn end(&self, name: &'static str) {
        if let Ok(mut running) = self.0.lock() {
            running.remove(name);
        }
    }
}

impl Driver {
    /// Counts what was written without a peer, while there is a split brain. In service it grows with each write, which is
    /// told now and then only.
    pub(super) fn count_changes(&mut self, anew: bool) -> Result<(), Broken> {
        self.conflicts_are_over();
        let known = self.machine.changes();
        let changes = match self.machine.counts_changes() {
            false => None,
            true if known.is_some() && !anew && self.machine.service() != Service::Out => known,
            true => {
                let marked = self.local.own_leg().ok().and_then(|leg| leg.marked);
                Some(marked.unwrap_or(Record::UNKNOWN_CHANGES))
            }
        };
        if changes != known {
            let actions = self.machine.handle(Event::Changes(changes));
            self.perform(actions)?;
        }
        Ok(())
    }

    /// Peers with which there is no conflict any more: of the next one everybody hears again.
    fn conflicts_are_over(&mut self) {
        let over = |node: NodeId| {
            let decision = self.machine.decision(node);
            decision.is_some_and(|decision| decision.judgement.is_none())
        };
        self.calls.called.retain(|(_, node)| !over(*node));
    }

    /// Both were written without the other, and nobody's data is touched until somebody decides.
    pub(super) fn split_brain_found(&mut self, peer: NodeId) {
        let handlers = self.about.handlers.clone();
        if let (None, Some(line)) = (self.judged(peer), &handlers.initial_split_brain) {
            // With a policy it was called when that was judged.
            self.call("initial-split-brain", line, peer);
        }
        if let Some(line) = &handlers.split_brain {
            self.call("split-brain", line, peer);
        }
    }

    /// This node is in service and has no quorum any more.
    pub(super) fn quorum_lost(&mut self) {
        if let Some(line) = self.about.handlers.quorum_lost.clone() {
            let own = self.settings.own;
            self.calls.called.remove(&("quorum-lost", own));
            self.call("quorum-lost", &line, own);
        }
    }

    /// The policy that applies to a peer, for people.
    pub(super) fn policy(&self, peer: NodeId) -> String {
        let decision = self.machine.decision(peer);
        match decision.and_then(|decision| decision.judgement) {
            Some(Judgement { policy, why, .. }) => format!("{policy}: {why}"),
            None => decision.map_or("", |decision| decision.rule).to_owned(),
        }
    }

    /// What the policies have said of a peer, if there are any.
    fn judged(&self, peer: NodeId) -> Option<Judgement> {
        let none = self.settings.rules.policies == Default::default();
        let decision = self.machine.decision(peer).filter(|_| !none)?;
        decision.judgement
    }

    /// Tells what the policies say, and calls the programs that belong to it.
    pub(super) fn judged_by_policy(
        &mut self,
        peer: NodeId,
        judgement: Judgement,
        first: bool,
        lost: Option<u64>,
    ) {
        let Judgement { policy, why, .. } = judgement;
        let (own, tag) = (self.settings.own, &self.names.tag);
        let (here, there) = (self.names.node(own), self.names.node(peer));
        let roles = policy.starts_with("rr-conflict");
        let handlers = self.about.handlers.clone();
        let text = match judgement.loser {
            None => format!("{policy}: {why}; nobody's data is touched on {here} and {there}"),
            Some(loser) if judgement.must_stop => format!(
                "{policy}: {why}; {} gives way, and has to go out of service first: netraid stop {tag}",
                self.names.node(loser)
            ),
            Some(loser) => format!(
                "{policy}: {why}; the data of {} is given up, {} that it wrote without the other",
                self.names.node(loser),
                match lost {
                    Some(bytes) => format!("at most {bytes} bytes"),
                    None => "an unknown number of bytes".into(),
                }
            ),
        };
        let event = match judgement.loser {
            _ if roles => "role-conflict",
            Some(_) if !judgement.must_stop => "split-brain-resolved",
            _ => "split-brain-policy",
        };
        self.tell(event, text);
        if let (true, Some(line)) = (first && !roles, &handlers.initial_split_brain) {
            self.call("initial-split-brain", line, peer);
        }
        let calls = policy.contains("call-pri-lost");
        if calls && judgement.must_stop && judgement.loser == Some(own) {
            let (name, line) = match roles {
                true => ("pri-lost", &handlers.pri_lost),
                false => ("pri-lost-after-sb", &handlers.pri_lost_after_sb),
            };
            if let Some(line) = line {
                self.call(name, line, peer);
            }
        }
    }

    /// Calls a program, once for each conflict: a link that flaps is no reason to call it again.
    fn call(&mut self, name: &'static str, line: &str, peer: NodeId) {
        if self.calls.called.insert((name, peer)) {
            self.begin_program(name, line, peer);
        }
    }

    /// This node's own leg failed while in service, and the mirror goes on through the others.
    pub(super) fn call_local_io_error(&mut self) {
        let line = self.about.handlers.local_io_error.clone();
        if let (OnIoError::CallLocalIoError, Some(line)) = (self.about.on_io_error, line) {
            self.begin_program("local-io-error", &line, self.settings.own);
        }
    }

    /// `peer` is the own node if it is about nobody else.
    pub(super) fn begin_program(&mut self, name: &'static str, line: &str, peer: NodeId) {
        if !self.calls.runs.begin(name) {
            self.tell("handler", format!("handlers.{name} still runs"));
            return;
        }
        let mut command = self.command(line, peer);
        let (shared, runs) = (Arc::clone(&self.shared), self.calls.runs.clone());
        let tag = self.names.tag.clone();
        self.tell("handler", format!("handlers.{name} is called: {line}"));
        let thread = thread::Builder::new()
            .name(format!("handler-{name}"))
            .stack_size(super::STACK)
            .spawn(move || {
                let ended = run(&mut command, LONGEST);
                runs.end(name);
                match ended {
                    Ok(()) => {
                        shared.tell(Some(&tag), "handler", format!("handlers.{name} has ended"))
                    }
                    Err(why) => {
                        let text = format!("handlers.{name} failed: {why}");
                        shared.tell(Some(&tag), "handler-failed", text);
                    }
                }
            });
        if let Err(error) = thread {
            self.calls.runs.end(name);
            self.tell("handler-failed", format!("handlers.{name} failed: {error}"));
        }
    }

    pub(super) fn command(&self, line: &str, peer: NodeId) -> Command {
        let own = self.settings.own;
        let at = |list: &[String], node: NodeId| list.get(node.slot()).cloned().unwrap_or_default();
        let host = |node: NodeId| {
            let address = at(&self.about.addresses, node);
            let host = address.rsplit_once(':').map(|(host, _)| host.to_owned());
            host.unwrap_or(address)
        };
        let reachable = self.machine.peer(peer).is_some();
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env("DRBD_RESOURCE", &self.names.tag)
            .env("DRBD_VOLUME", "0")
            .env("DRBD_NODE_ID", own.slot().to_string())
            .env("DRBD_LL_DISK", at(&self.about.disks, own))
            .env("DRBD_MY_ADDRESS", host(own))
            .env("NETRAID_NODE", self.names.node(own))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        if peer != own {
            let state = if reachable { "Connected" } else { "Connecting" };
            command
                .env("DRBD_PEER", self.names.node(peer))
                .env("DRBD_PEERS", self.names.node(peer))
                .env("DRBD_PEER_NODE_ID", peer.slot().to_string())
                .env("DRBD_PEER_ADDRESS", host(peer))
                .env("DRBD_CSTATE", state);
        }
        command
    }
}

/// Runs it to its end, and demands success.
fn run(command: &mut Command, longest: Duration) -> Result<(), String> {
    match run_for(command, longest)? {
        status if status.success() => Ok(()),
        status => Err(status.to_string()),
    }
}

/// Runs it to its end, whatever that is.
pub(super) fn run_to_end(command: &mut Command) -> Result<ExitStatus, String> {
    run_for(command, LONGEST)
}

/// Runs it to its end, or ends it and all that it has started.
fn run_for(command: &mut Command, longest: Duration) -> Result<ExitStatus, String> {
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let ended = wait(&mut child, longest).map_err(|error| error.to_string())?;
    match ended {
        Some(status) => Ok(status),
        None => {
            let group = i32::try_from(child.id()).map(Pid::from_raw);
            if let Ok(group) = group {
                let _ = killpg(group, Signal::SIGKILL);
            }
            let _ = child.wait();
            Err(format!("it did not end within {} s", longest.as_secs()))
        }
    }
}

fn wait(child: &mut Child, longest: Duration) -> std::io::Result<Option<ExitStatus>> {
    let until = Instant::now() + longest;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// How long a program may run.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]).process_group(0);
        command
    }

    #[test]
    fn a_program_that_fails_or_does_not_end_is_told_and_ended() {
        let second = Duration::from_secs(1);
        assert_eq!(run(&mut shell("exit 0"), LONGEST), Ok(()));
        let why = run(&mut shell("exit 7"), LONGEST).unwrap_err();
        assert!(why.contains('7'), "{why}");
        // Its children, too: nobody waits for what holds nothing of ours.
        let why = run(&mut shell("sleep 1000 & sleep 1000"), second).unwrap_err();
        assert!(why.contains("did not end within 1 s"), "{why}");
        assert!(run(&mut Command::new("/no/such/program"), LONGEST).is_err());
    }
}
