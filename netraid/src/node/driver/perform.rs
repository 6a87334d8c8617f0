//! The machine's actions, performed in their order.

use std::time::{Duration, Instant};

use super::{Broken, Driver, RETRY};
use crate::api::document::{Answer, Decided, Outcome};
use crate::array::{Added, ArrayError};
use crate::mirror::action::{Action, DropReason, Flag, Hold, Note};
use crate::mirror::event::{Boot, Event};
use crate::mirror::explain::quorum_problems;
use crate::mirror::fencing::FenceAnswer;
use crate::mirror::machine::{Leg, ORDERED, Shortage};
use crate::mirror::node::NodeId;
use crate::mirror::refusal::Refusal;

impl Driver {
    /// Performs them. What they lead to is handled afterwards; a failure of the own files ends it, and the driver begins
    /// anew: nothing that should have been durable first is done without.
    pub(super) fn perform(&mut self, actions: Vec<Action>) -> Result<(), Broken> {
        for action in actions {
            self.perform_one(action)?;
        }
        Ok(())
    }

    fn perform_one(&mut self, action: Action) -> Result<(), Broken> {
        match action {
            Action::SetFlag(flag) => self.store.set(flag)?,
            Action::ClearFlag(flag) => self.store.clear(flag)?,
            Action::Persist => self
                .store
                .store(self.machine.memory(), self.own_leg.array)?,
            Action::Assemble { force, voted } => self.assemble(force, voted),
            Action::Stop => self.stop()?,
            // All three at once, by the last.
            Action::Connect(_) | Action::Merge(_) => {}
            Action::Add {
                node,
                extent,
                rule,
                discard,
            } => self.add(node, extent, rule, discard),
            Action::CopyAll(node) => match self.local.copy_all(node) {
                Ok(added) => self.resync_begins(node, ORDERED, &added),
                Err(error) => self.leg_failed(node, &error),
            },
            Action::Drop(node, why) => self.drop_leg(node, why)?,
            Action::Guard { members, only } => self.local.guard(members, only)?,
            Action::Hold(hold) => self.hold(hold)?,
            Action::Fence(node) => self.fence_peer(node),
            Action::Unfence(node) => self.unfence_peer(node),
            Action::GaveUpStart(refusal) => self.gave_up_start(refusal),
            Action::Accept(source) => self.accept(source)?,
            Action::Tell(_) => {
                // What the own leg says may have changed since the machine was asked.
                if let Ok(found) = self.local.own_leg()
                    && (&found.generations, found.consistent)
                        != (
                            &self.machine.memory().generations,
                            self.machine.memory().consistent,
                        )
                {
                    return self.look_at_own_leg();
                }
                self.publish();
            }
            Action::StartTimer(seconds) => {
                self.wait_over = Instant::now().checked_add(Duration::from_secs(seconds.into()));
            }
            Action::StopTimer => self.wait_over = None,
            Action::Done => self.answer(Answer::done()),
            Action::Refuse(refusal) => self.refuse(refusal),
            Action::Note(note) => self.note(note),
        }
        Ok(())
    }

    fn assemble(&mut self, force: bool, voted: bool) {
        self.show();
        match self.local.assemble(force, voted) {
            Ok(()) => {
                self.tell(
                    "in-service",
                    format!(
                        "{} is in service on {}",
                        self.names.tag,
                        self.names.node(self.settings.own)
                    ),
                );
                self.pause = RETRY;
                self.begin_turns();
                self.listen_to_array();
                self.follow.push_back(Event::Assembled);
            }
            Err(error) => {
                self.tell(
                    "not-started",
                    format!("the array can't be started: {error}"),
                );
                self.answer(answer(&error));
                self.follow.push_back(Event::AssembleFailed);
            }
        }
    }

    fn stop(&mut self) -> Result<(), Broken> {
        self.show();
        // An array that copies is not clean, and waits for what it copies: a resync goes on at the next start.
        for node in
            NodeId::all().filter(|node| matches!(self.machine.leg(*node), Leg::Resyncing(_)))
        {
            if let Err(error) = self.local.drop_leg(node) {
                tracing::warn!("{}: {error}", self.names.node(node));
            }
        }
        match self.local.stop() {
            Ok(()) => {
                self.stop_listening();
                if !self.local.own_leg().is_ok_and(|leg| leg.clean) {
                    // Out of service, but as after a crash: something may be on some legs and not on others.
                    self.tell(
                        "stopped-unclean",
                        "the array ended without being clean".into(),
                    );
                    self.answer(Answer::not(
                        Outcome::Failed,
                        "the array ended, but not cleanly: see its log",
                        Some(format!("netraid explain {}", self.names.tag)),
                    ));
                    self.follow.push_back(Event::Boot(Boot::Idle));
                    self.heard = Default::default();
                    self.shared.greet(&self.names.tag);
                    return Ok(());
                }
                self.tell(
                    "out-of-service",
                    format!(
                        "{} is out of service on {}",
                        self.names.tag,
                        self.names.node(self.settings.own)
                    ),
                );
                self.follow.push_back(Event::Stopped);
            }
            Err(error) => {
                self.tell(
                    "not-stopped",
                    format!("the array can't be stopped: {error}"),
                );
                self.answer(answer(&error));
                self.follow.push_back(Event::StopFailed);
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        node: NodeId,
        extent: crate::mirror::generation::Extent,
        rule: &'static str,
        discard: bool,
    ) {
        if self.left_behind.contains(node) {
            self.follow.push_back(Event::LegFailed(node));
            return;
        }
        let name = self.names.node(node);
        let Some(secret) = &self.tickets[node.slot()] else {
            let error = ArrayError::Failed(format!("{name} has told no way in"));
            return self.leg_failed(node, &error);
        };
        let location = self.about.location(node, secret);
        let force = self.overwrite.contains(node);
        match self.local.add(node, &location, extent, discard, force) {
            Ok(added) => {
                self.overwrite = self.overwrite.without(node);
                self.failures[node.slot()] = None;
                self.resync_begins(node, rule, &added);
                self.follow.push_back(Event::Added(node));
                self.bell.ring();
            }
            Err(error) => self.leg_failed(node, &error),
        }
    }

    /// Tells of a resync, and keeps how it was decided.
    fn resync_begins(&mut self, node: NodeId, rule: &'static str, added: &Added) {
        let what = match added.full {
            true => "everything".to_owned(),
            false => format!("{} bytes that were marked", added.dirty_bytes),
        };
        let name = self.names.node(node);
        self.tell("resync", format!("{what} is copied to {name}: {rule}"));
        self.decided[node.slot()] = Some(Decided {
            rule: rule.to_owned(),
            full: added.full,
            merged_bytes: added.merged_bytes,
            dirty_bytes: added.dirty_bytes,
        });
    }

    pub(super) fn leg_failed(&mut self, node: NodeId, why: &dyn std::fmt::Display) {
        let name = self.names.node(node);
        let why = self.about.without_secrets(&why.to_string(), &self.tickets);
        if self.failures[node.slot()].as_deref() != Some(&why) {
            self.tell("leg-failed", format!("the leg of {name} failed: {why}"));
        }
        self.failures[node.slot()] = Some(why);
        self.follow.push_back(Event::LegFailed(node));
    }

    fn drop_leg(&mut self, node: NodeId, why: DropReason) -> Result<(), Broken> {
        self.tell(
            "leg-dropped",
            format!(
                "{} goes on without {}: {}",
                self.names.tag,
                self.names.node(node),
                self.drop_reason(why)
            ),
        );
        // A leg that could not be dropped would be written on without anybody's wish.
        Ok(self.local.drop_leg(node)?)
    }

    fn drop_reason(&self, why: DropReason) -> String {
        match why {
            DropReason::Paused => "an administrator paused it".into(),
            DropReason::Unextended => "it is not a target any more".into(),
            DropReason::Superseded(by) => {
                format!("{} took over and has newer data", self.names.node(by))
            }
            DropReason::Restarted => "its node has begun anew".into(),
            DropReason::NotOrdered => "nobody ordered it".into(),
            DropReason::OwnLegFailed => "this node's own leg failed".into(),
        }
    }

    fn hold(&mut self, hold: Hold) -> Result<(), Broken> {
        self.local.hold(hold)?;
        let quorum = self.machine.quorum();
        if quorum.is_none() {
            // It is about an array that has just been started, or found.
            return Ok(());
        }
        let votes = quorum.map_or_else(String::new, |quorum| {
            format!(
                " ({} of {} nodes, {} are needed)",
                quorum.present, quorum.nodes, quorum.need
            )
        });
        let said = quorum_problems(&self.machine, &self.names);
        let (event, text) = match hold {
            Hold::No => ("quorum", format!("requests are served{votes}")),
            Hold::Suspend | Hold::Fail => ("quorum-lost", said.join("; ")),
        };
        self.tell(event, text);
        let lasts = quorum.is_some_and(|quorum| !matches!(quorum.why, Some(Shortage::Outbid(_))));
        if hold != Hold::No && lasts {
            self.quorum_lost();
        }
        Ok(())
    }

    fn accept(&mut self, source: Option<NodeId>) -> Result<(), Broken> {
        // A port in use, for example, or a former source that may still write: tried again as from the beginning.
        self.local.accept(source)?;
        let text = match source {
            Some(source) => format!("takes writes from {} only", self.names.node(source)),
            None => "takes writes from nobody".into(),
        };
        self.tell("accepts", text);
        Ok(())
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        let own = self.settings.own;
        let why = refusal.reason(own, &self.names);
        let next = refusal.next(own, &self.names);
        self.tell("refused", why.clone());
        self.answer(Answer {
            exit_code: refusal.exit_code(),
            ..Answer::not(Outcome::Refused, why, next)
        });
    }

    /// For whoever asked; the first answer counts. It is given when all that follows from the order has been done.
    pub(super) fn answer(&mut self, answer: Answer) {
        if self.ordered && self.reply.is_none() {
            self.reply = Some(answer);
        }
    }

    pub(super) fn tell(&self, event: &str, text: String) {
        self.shared.tell(Some(&self.names.tag), event, text);
    }

    fn note(&mut self, note: Note) {
        if let Note::Judged {
            node,
            judgement,
            first,
            lost,
        } = note
        {
            return self.judged_by_policy(node, judgement, first, lost);
        }
        let tag = &self.names.tag;
        let name = |node| self.names.node(node);
        let flag = |flag: Flag| match flag {
            Flag::LastOwner => format!("{tag}_last_owner"),
            Flag::Source(node) => format!("{tag}_source ({})", name(node)),
            Flag::DataCorrupt => format!("{tag}_data_corrupt"),
        };
        let here = name(self.settings.own);
        let (event, text) = match note {
            Note::SetByHand(which) => ("flag-by-hand", format!("{} was set by hand", flag(which))),
            Note::ClearedByHand(which) => (
                "flag-by-hand",
                format!("{} was removed by hand", flag(which)),
            ),
            Note::SplitBrain(node) => (
                "split-brain",
                format!(
                    "split brain: {here} and {} were both written without the other; nobody's data is touched until \
                     netraid resolve {tag} --discard NODE says whose is given up ({})",
                    name(node),
                    self.policy(node)
                ),
            ),
            Note::TwoSources(node) => (
                "two-sources",
                format!(
                    "{tag} is in service on {} as well; nobody's data is touched; netraid stop {tag} on one of the two",
                    name(node)
                ),
            ),
            Note::Superseded(by) => (
                "superseded",
                format!(
                    "{} took over and has newer data; {here} has lost its targets",
                    name(by)
                ),
            ),
            Note::PeerIsNewer(node) => (
                "peer-is-newer",
                format!(
                    "{} has newer data than {here}, which is in service",
                    name(node)
                ),
            ),
            Note::WaitsFor(node) => (
                "waits-for-previous-source",
                format!(
                    "targets wait for {}, the previous source, and its bitmap",
                    name(node)
                ),
            ),
            Note::GaveUpWaiting(node) => (
                "gave-up-waiting",
                format!(
                    "{} is not waited for any more: targets get full resyncs",
                    name(node)
                ),
            ),
            Note::Merged(node) => (
                "merged",
                format!(
                    "the bitmap of {}, the previous source, was merged",
                    name(node)
                ),
            ),
            Note::Outdated(asker) => (
                "outdated",
                format!(
                    "the data of {here} is outdated{}: it can't go into service, except by force, before it is in sync again",
                    asker.map_or_else(String::new, |asker| format!(
                        ", {} goes on without it",
                        name(asker)
                    ))
                ),
            ),
            Note::Fenced(node, answer) => (
                match answer {
                    FenceAnswer::Primary | FenceAnswer::Broken => "not-fenced",
                    _ => "fenced",
                },
                answer.says(&name(node)),
            ),
            Note::ResumedUnfenced(nodes) => (
                "resumed",
                format!(
                    "an administrator goes on without {}, which may not know of it and could take over",
                    self.names.list(nodes)
                ),
            ),
            Note::Judged { .. } | Note::OutOfTurn => (
                "out-of-turn",
                "something was told that nobody had asked for; nothing was changed".into(),
            ),
        };
        self.tell(event, text);
        if let Note::SplitBrain(node) = note {
            self.split_brain_found(node);
        }
    }
}

/// An array's failure as an answer.
pub(super) fn answer(error: &ArrayError) -> Answer {
    let (outcome, hint) = match error {
        ArrayError::Usage(_) => (Outcome::Usage, None),
        ArrayError::Refused { hint, .. } => (Outcome::Refused, hint.clone()),
        ArrayError::Failed(_) => (Outcome::Failed, None),
        ArrayError::Late(_) => (Outcome::Late, None),
    };
    Answer::not(outcome, error, hint)
}
