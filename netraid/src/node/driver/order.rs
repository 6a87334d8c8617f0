//! What commands ask for, turned into the machine's events.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Broken, Driver, perform};
use crate::api::document::{Answer, Order, Outcome};
use crate::array::VerifyRequest;
use crate::mirror::action::{Action, Flag};
use crate::mirror::event::{Boot, Event};
use crate::mirror::generation::Generation;
use crate::mirror::machine::{Machine, Service};
use crate::mirror::node::{NodeId, NodeSet};
use crate::mirror::record::{Memory, Record};
use crate::mirror::refusal::Refusal;

/// Whether nothing is known of the mirror here but that the disk holds a leg of it: it never was in service, nor in sync
/// with a source, as far as this node remembers.
fn is_only_found(memory: &Memory) -> bool {
    memory.source.is_none() && !memory.was_source && !memory.last_owner && memory.settled.is_empty()
}

/// Whether nothing is remembered but what the disk itself says, and what a source in service tells everybody.
fn is_forgotten(memory: &Memory) -> bool {
    let nothing = Memory {
        generations: memory.generations.clone(),
        consistent: memory.consistent,
        agreement: memory.agreement,
        outdated: memory.outdated,
        in_sync: memory.in_sync,
        ..Memory::default()
    };
    *memory == nothing
}

impl Driver {
    /// Carries an order out, and answers.
    pub(super) fn order(
        &mut self,
        order: &Order,
        dry_run: bool,
        asker: oneshot::Sender<Answer>,
    ) -> Result<(), Broken> {
        (self.ordered, self.reply) = (true, None);
        let done = self.carry_out(order, dry_run);
        (self.ordered, self.claims) = (false, false);
        // What the answer speaks of can be seen by whoever asks next.
        self.publish();
        let nothing = || match &done {
            Ok(()) => Answer::not(Outcome::Failed, "nothing came of it", None),
            Err(broken) => Answer::not(
                Outcome::Failed,
                broken,
                Some(format!("netraid events {}", self.names.tag)),
            ),
        };
        let nothing = nothing();
        if let Some(asker) = self.starts_later(asker) {
            let _ = asker.send(self.reply.take().unwrap_or(nothing));
        }
        done
    }

    fn carry_out(&mut self, order: &Order, dry_run: bool) -> Result<(), Broken> {
        let event = match order {
            Order::Create { force, keep } => return self.create(*force, *keep, dry_run),
            Order::Delete => return self.delete(dry_run),
            Order::Resize { size, force } => return self.resize(*size, *force, dry_run),
            Order::Tentative => return self.tentative(),
            Order::ShowGi => return self.show_gi(),
            Order::Verify {
                targets,
                start,
                stop,
                rate,
                repair,
            } => {
                let request = VerifyRequest {
                    nodes: targets.clone(),
                    start: *start,
                    stop: *stop,
                    rate: rate.unwrap_or(self.local.plan().verify_rate),
                    repair: *repair,
                };
                return self.verify(Some(request), dry_run);
            }
            Order::StopVerify => return self.verify(None, dry_run),
            Order::BoostResync { rate } => {
                self.boost(Some(*rate), dry_run);
                return Ok(());
            }
            Order::NormalResync => {
                self.boost(None, dry_run);
                return Ok(());
            }
            Order::TruckLoad { node, force } => {
                return match self.node(node) {
                    Some(node) => self.truck_load(node, *force, dry_run),
                    None => Ok(()),
                };
            }
            Order::TruckLeave { node } => {
                return match self.node(node) {
                    Some(node) => self.truck_leave(node),
                    None => Ok(()),
                };
            }
            Order::TruckConnect { node, full } => {
                return match self.node(node) {
                    Some(node) => self.truck_connect(node, *full, dry_run),
                    None => Ok(()),
                };
            }
            Order::Restore => Event::Restore,
            Order::Remove => Event::Remove,
            Order::QuickCheck => Event::QuickCheck,
            Order::Force => Event::Force,
            Order::Parents { up } => Event::Parents { up: *up },
            Order::Pause { targets } => match self.nodes(targets) {
                Some(targets) => Event::Pause(targets),
                None => return Ok(()),
            },
            Order::Resume { targets } => match self.nodes(targets) {
                Some(targets) => Event::Resume(targets),
                None => return Ok(()),
            },
            Order::FullResync { targets } => match self.nodes(targets) {
                Some(targets) => Event::FullResync(targets),
                None => return Ok(()),
            },
            Order::Resolve { discard } => match self.node(discard) {
                Some(discard) => Event::Resolve { discard },
                None => return Ok(()),
            },
            Order::Extend { node, force } => match self.node(node) {
                Some(node) if dry_run => Event::Extend(node),
                Some(node) => return self.extend(node, *force),
                None => return Ok(()),
            },
            Order::ResumeIo => Event::ResumeIo,
            Order::Outdate { asker: None } => Event::Outdate(None),
            Order::Outdate { asker: Some(asker) } => match self.node(asker) {
                Some(asker) => Event::Outdate(Some(asker)),
                None => return Ok(()),
            },
            Order::Unextend { node } => match self.node(node) {
                Some(node) => Event::Unextend(node),
                None => return Ok(()),
            },
        };
        if let (Event::Restore | Event::Force | Event::Resolve { .. }, Some(problem)) =
            (&event, self.unreadable())
        {
            self.answer(Answer::not(Outcome::Failed, problem, None));
            return Ok(());
        }
        match (&event, self.machine.service()) {
            (Event::Restore | Event::Force, Service::Out) if !dry_run => {
                let goes_on = self.claim()?;
                if !goes_on {
                    return Ok(());
                }
            }
            (Event::Restore | Event::Force | Event::Resolve { .. }, Service::Out) => {
                self.ask_peers()?;
            }
            // An array that died unnoticed did not stop cleanly.
            (Event::Remove, Service::In) if !dry_run => self.look_at_array()?,
            _ => {}
        }
        if dry_run {
            self.rehearse(event);
            return Ok(());
        }
        if let Event::Parents { up } = event {
            self.parents_up = up;
            self.happen(event)?;
            self.answer(Answer::done());
            return Ok(());
        }
        if event == Event::QuickCheck {
            return self.quick_check();
        }
        self.happen(event)?;
        self.gather_votes()?;
        self.tell_parents()
    }

    /// Asks the peers for their votes until there are enough, or it has taken too long.
    pub(super) fn gather_votes(&mut self) -> Result<(), Broken> {
        let until = Instant::now() + CLAIM;
        while self.machine.is_seeking() {
            if self.shared.is_ending() || Instant::now() >= until {
                return self.happen(Event::VotesOver);
            }
            // It goes with the question, so the answer is what came of it.
            self.publish();
            self.ask_peers()?;
            if self.machine.is_seeking() {
                std::thread::sleep(GIVE_WAY);
            }
        }
        Ok(())
    }

    /// Whoever has parents says so: without LifeKeeper nobody ever tells that they came into service.
    pub(super) fn tell_parents(&mut self) -> Result<(), Broken> {
        match self.machine.service() == Service::In && self.parents_up {
            true => self.happen(Event::Parents { up: true }),
            false => Ok(()),
        }
    }

    /// `quickCheck` fails where the mirror should be in service and is not, or can't be used.
    fn quick_check(&mut self) -> Result<(), Broken> {
        self.look_around()?;
        self.retry = None;
        self.happen(Event::QuickCheck)?;
        self.reply = None;
        let answer = match (self.machine.service(), self.machine.superseded()) {
            (Service::In, None) => Answer::done(),
            (Service::In, Some(by)) => Answer::not(
                Outcome::Refused,
                format!("{} took over and has newer data", self.names.node(by)),
                Some(format!("netraid stop {}", self.names.tag)),
            ),
            _ => Answer::not(
                Outcome::Refused,
                format!(
                    "{} is not in service on {}",
                    self.names.tag,
                    self.names.node(self.settings.own)
                ),
                Some(format!("netraid start {}", self.names.tag)),
            ),
        };
        self.answer(answer);
        Ok(())
    }

    /// Extends the mirror to a node; whether its disk may be overwritten is remembered only if that was accepted.
    fn extend(&mut self, node: NodeId, force: bool) -> Result<(), Broken> {
        let before = self.overwrite;
        if force && !self.memory().nodes.contains(node) {
            self.overwrite = before.with(node);
        }
        self.happen(Event::Extend(node))?;
        if !self.memory().nodes.contains(node) {
            self.overwrite = before.without(node);
        }
        Ok(())
    }

    /// Says to all that this node is about to go into service, and hears whether another is, too. Of two that ask at the
    /// same moment the one with the lower number goes on, when the other has given way or begun; each says so before it
    /// asks, so at least one of them hears of the other. False if this one gives way.
    pub(super) fn claim(&mut self) -> Result<bool, Broken> {
        self.claims = true;
        self.publish();
        let until = Instant::now() + CLAIM;
        loop {
            let claimed = self.ask_peers_who_claims()?;
            if self.shared.is_ending() {
                // That nobody answered would be taken for a peer that has newer data, and remembered.
                let why = "netraidd is just stopping".to_owned();
                self.answer(Answer::not(Outcome::Refused, why, None));
                return Ok(false);
            }
            let own = self.settings.own;
            let Some(other) = claimed.iter().next() else {
                return Ok(true);
            };
            if other < own || Instant::now() >= until {
                let why = format!(
                    "{} is being put into service on {} at this moment",
                    self.names.tag,
                    self.names.node(other)
                );
                let next = format!("netraid status {}", self.names.tag);
                self.answer(Answer::not(Outcome::Refused, why, Some(next)));
                return Ok(false);
            }
            std::thread::sleep(GIVE_WAY);
        }
    }

    /// Asks every peer how it is now: what was told earlier may be old.
    pub(super) fn ask_peers(&mut self) -> Result<(), Broken> {
        self.ask_peers_who_claims().map(drop)
    }

    fn ask_peers_who_claims(&mut self) -> Result<NodeSet, Broken> {
        let mut claims = NodeSet::NONE;
        let own = self.settings.own;
        let count = u8::try_from(self.names.nodes.len()).unwrap_or(u8::MAX);
        let others: Vec<(NodeId, String)> = (0..count)
            .filter_map(NodeId::new)
            .filter(|node| *node != own)
            .map(|node| (node, self.names.node(node)))
            .collect();
        for (node, told) in self.shared.ask(&self.names.tag, &others) {
            match told {
                Some(told) => {
                    if told.claims {
                        claims = claims.with(node);
                    }
                    self.hear_peer(told)?;
                }
                None => self.happen(Event::PeerLost(node))?,
            }
        }
        Ok(claims)
    }

    /// Why nothing can be decided, if the own disk or the flags can't be read.
    fn unreadable(&mut self) -> Option<String> {
        if let Err(error) = self.store.flags() {
            return Some(error.to_string());
        }
        self.local.own_leg().err().map(|error| error.to_string())
    }

    /// Makes the disk the first leg of a new mirror, and puts it in service.
    fn create(&mut self, force: bool, keep: bool, dry_run: bool) -> Result<(), Broken> {
        let own = self.settings.own;
        if self.machine.is_tie_breaker(own) {
            self.refuse(Refusal::TieBreaker(own));
            return Ok(());
        }
        let tag = &self.names.tag;
        // Of a disk that was found with a leg, and no record beside it, nothing is known but that.
        let only_found = force && is_only_found(self.memory());
        if self.local.is_running() || (self.memory().nodes.contains(own) && !only_found) {
            let why = format!("{tag} is a mirror on this node already");
            let next = format!("netraid status {tag}");
            self.answer(Answer::not(Outcome::Refused, why, Some(next)));
            return Ok(());
        }
        // A mirror of this name that lives elsewhere must not get a second beginning.
        self.ask_peers()?;
        let other = self.machine.reachable().iter().find(|node| {
            let peer = self.machine.peer(*node);
            let has_data = |peer: &Record| peer.generations.current != Generation::NONE;
            // A mirror that is used elsewhere at this moment could not go into service here.
            peer.is_some_and(|peer| peer.running || (has_data(peer) && !force))
        });
        if let Some(other) = other {
            let name = self.names.node(other);
            let (why, next) = match force {
                true => (
                    format!("{} is in service on {name}", self.names.tag),
                    format!("on {name}: netraid stop {}", self.names.tag),
                ),
                false => (
                    format!("{name} has data of {} already", self.names.tag),
                    format!("on {name}: netraid start {}", self.names.tag),
                ),
            };
            self.answer(Answer::not(Outcome::Refused, why, Some(next)));
            return Ok(());
        }
        if dry_run {
            let disk = self.local.plan().disk.display().to_string();
            let steps = vec![
                format!("make {disk} the first leg of {}", self.names.tag),
                format!("put {} in service", self.names.tag),
            ];
            let answer = match self.local.create(force, keep, true) {
                Ok(()) => Answer {
                    steps,
                    ..Answer::done()
                },
                Err(error) => perform::answer(&error),
            };
            self.answer(answer);
            return Ok(());
        }
        // A source that may write to this disk until now must not do so any more.
        self.local.accept(None)?;
        if let Err(error) = self.local.create(force, keep, false) {
            self.answer(perform::answer(&error));
            return self.begin_anew();
        }
        self.tell("created", format!("{} was created", self.names.tag));
        let memory = Memory {
            agreement: self.memory().agreement,
            consistent: true,
            nodes: NodeSet::of(own),
            settled: NodeSet::of(own),
            source: Some(own),
            ..Memory::default()
        };
        self.own_leg = self.local.own_leg()?;
        let memory = Memory {
            generations: self.own_leg.generations.clone(),
            ..memory
        };
        self.store.set(Flag::Source(own))?;
        self.store.store(&memory, self.own_leg.array)?;
        self.machine = Machine::new(self.settings.clone(), memory);
        self.heard = Default::default();
        self.happen(Event::Boot(Boot::Idle))?;
        if !self.claim()? {
            return Ok(());
        }
        self.happen(Event::Restore)?;
        self.gather_votes()?;
        self.tell_parents()
    }

    /// Forgets what this node remembers. The data stays where it is.
    fn delete(&mut self, dry_run: bool) -> Result<(), Broken> {
        if self.machine.service() != Service::Out {
            let why = format!("{} is in service here", self.names.tag);
            let next = format!("netraid stop {}", self.names.tag);
            self.answer(Answer::not(Outcome::Refused, why, Some(next)));
            return Ok(());
        }
        if is_forgotten(self.memory()) && self.local.accepts().is_none() {
            self.answer(Answer::done());
            return Ok(());
        }
        let mut steps = Vec::new();
        if self.local.accepts().is_some() {
            steps.push("take writes from nobody".to_owned());
        }
        steps.push("remove the flag files and the state record".to_owned());
        if dry_run {
            self.answer(Answer {
                steps,
                ..Answer::done()
            });
            return Ok(());
        }
        self.local.accept(None)?;
        self.store.forget()?;
        self.forget_trucks();
        self.machine = Machine::new(self.settings.clone(), Memory::default());
        self.tell("deleted", format!("{} was forgotten", self.names.tag));
        self.answer(Answer::done());
        self.begin_anew()
    }

    /// Out of service and with no agreement, as after a boot; the peers are heard again.
    fn begin_anew(&mut self) -> Result<(), Broken> {
        self.heard = Default::default();
        self.happen(Event::Boot(Boot::Idle))?;
        self.shared.greet(&self.names.tag);
        Ok(())
    }

    /// Tells what would be done first; what follows depends on how that ends.
    fn rehearse(&mut self, event: Event) {
        let mut machine = self.machine.clone();
        let actions = machine.handle(event);
        let refusal = actions.iter().find_map(|action| match action {
            Action::Refuse(refusal) => Some(*refusal),
            _ => None,
        });
        let answer = match refusal {
            Some(refusal) => Answer {
                exit_code: refusal.exit_code(),
                ..Answer::not(
                    Outcome::Refused,
                    refusal.reason(self.settings.own, &self.names),
                    refusal.next(self.settings.own, &self.names),
                )
            },
            None => Answer {
                steps: actions
                    .iter()
                    .filter_map(|action| self.step(action))
                    .collect(),
                ..Answer::done()
            },
        };
        self.answer(answer);
    }

    fn step(&self, action: &Action) -> Option<String> {
        let tag = &self.names.tag;
        let name = |node: &NodeId| self.names.node(*node);
        let flag = |flag: &Flag| match flag {
            Flag::LastOwner => format!("{tag}_last_owner"),
            Flag::Source(node) => format!("{tag}_source ({})", name(node)),
            Flag::DataCorrupt => format!("{tag}_data_corrupt"),
        };
        Some(match action {
            Action::SetFlag(which) => format!("write {}", flag(which)),
            Action::ClearFlag(which) => format!("remove {}", flag(which)),
            Action::Persist => format!("write {tag}_record"),
            Action::Assemble { .. } => {
                format!("start the array from {}", self.local.plan().disk.display())
            }
            Action::Stop => "stop the array".into(),
            Action::Connect(node) => format!("connect {}", name(node)),
            Action::Merge(node) => format!("merge the bitmap of {}", name(node)),
            Action::Add {
                node, extent, rule, ..
            } => format!("copy to {}: {extent:?} ({rule})", name(node)).to_lowercase(),
            Action::CopyAll(node) => format!("copy everything to {}", name(node)),
            Action::Drop(node, _) => format!("go on without {}", name(node)),
            Action::Accept(Some(source)) => format!("take writes from {}", name(source)),
            Action::Accept(None) => "take writes from nobody".into(),
            Action::Guard { members, .. } => {
                format!("answer what {} has", self.names.list(*members))
            }
            Action::Hold(hold) => format!("requests: {hold:?}").to_lowercase(),
            Action::Fence(node) => format!("call handlers.fence-peer for {}", name(node)),
            Action::Unfence(node) => format!("call handlers.unfence-peer for {}", name(node)),
            Action::Tell(nodes) => format!("tell {}", self.names.list(*nodes)),
            Action::StartTimer(seconds) => format!("wait {seconds} s for the previous source"),
            Action::StopTimer
            | Action::Done
            | Action::Refuse(_)
            | Action::GaveUpStart(_)
            | Action::Note(_) => return None,
        })
    }

    fn node(&mut self, name: &str) -> Option<NodeId> {
        let found = self.names.find(name);
        if found.is_none() {
            let known = self.names.nodes.join(", ");
            self.usage(format!(
                "{name} is not a node of {}: {known}",
                self.names.tag
            ));
        }
        found
    }

    fn nodes(&mut self, names: &[String]) -> Option<NodeSet> {
        let mut nodes = NodeSet::NONE;
        for name in names {
            nodes = nodes.with(self.node(name)?);
        }
        Some(nodes)
    }
}

/// Longest wait for another node that asks at the same moment.
const CLAIM: Duration = Duration::from_secs(5);
/// Between two looks whether it has given way.
const GIVE_WAY: Duration = Duration::from_millis(50);
