//! Legs that travel by road, on the source: an image is taken into the array, leaves it, and its node is connected when it
//! has got it. Who loads is `netraid truck load`, which serves the image; nothing of it is remembered here but a note for
//! people. The machine never hears of the image: it is no node's leg before it has arrived.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Broken, Driver, perform};
use crate::api::document::{self, Answer, Outcome as Ended};
use crate::mirror::decision::Outcome;
use crate::mirror::event::Event;
use crate::mirror::generation::{Extent, Generation, SLOTS};
use crate::mirror::machine::{Leg, Service};
use crate::mirror::node::{NodeId, NodeSet};
use crate::node::local::{LegState, View};
use crate::truck::note::{self, Note};

/// What is remembered of what was loaded, by slot.
#[derive(Debug, Default)]
pub(super) struct Trucks([Option<Note>; SLOTS]);

impl Driver {
    /// Reads the notes of an earlier daemon.
    pub(super) fn find_trucks(&mut self) {
        for slot in 0..self.names.nodes.len().min(SLOTS) {
            self.trucks.0[slot] = Note::read(&self.truck_note(slot));
        }
    }

    fn truck_note(&self, slot: usize) -> std::path::PathBuf {
        let name = self.names.nodes.get(slot).map_or("", String::as_str);
        note::path(self.store.folder(), &self.names.tag, name)
    }

    /// Takes the image that is served here as the leg of `node`, which is paused, and copies everything to it.
    pub(super) fn truck_load(
        &mut self,
        node: NodeId,
        force: bool,
        dry_run: bool,
    ) -> Result<(), Broken> {
        if let Some((why, next)) = self.cannot_load(node)? {
            self.answer(Answer::not(Ended::Refused, why, next));
            return Ok(());
        }
        let name = self.names.node(node);
        let paused = self.memory().paused.contains(node);
        if dry_run {
            let mut steps = Vec::new();
            if !paused {
                steps.push(format!("pause {name}"));
            }
            steps.push(format!("copy everything to the image for {name}"));
            self.answer(Answer {
                steps,
                ..Answer::done()
            });
            return Ok(());
        }
        if !paused {
            // It must not get everything over the network meanwhile, nor as soon as it can be reached.
            self.happen(Event::Pause(NodeSet::of(node)))?;
            self.reply = None;
        }
        let answer = match self.local.load(node, force) {
            Ok(_) => {
                self.tell(
                    "truck-loading",
                    format!("everything is copied to an image for {name}"),
                );
                Answer::done()
            }
            Err(error) => perform::answer(&error),
        };
        self.answer(answer);
        Ok(())
    }

    /// Why nothing can be loaded for a node, and what could help.
    fn cannot_load(&mut self, node: NodeId) -> Result<Option<(String, Option<String>)>, Broken> {
        let (tag, name) = (self.names.tag.clone(), self.names.node(node));
        if self.machine.service() == Service::In {
            self.look_at_array()?;
        }
        let view = self.local.view().ok().flatten();
        let loading = view.as_ref().and_then(|view| view.truck);
        Ok(match () {
            () if self.machine.service() != Service::In => Some((
                format!("{tag} is not in service here: an image is loaded on its source"),
                Some(format!("netraid status {tag}")),
            )),
            () if self.local.plan().kernel => Some((
                "the kernel's RAID1 (backend = \"md\") names no generation when it is told to, and knows no leg that is a file"
                    .into(),
                Some(format!(
                    "let {name}, or a machine with its name and its disk, become in sync in this site's network, and ship that: \
                     what it misses is marked as for any target that is away"
                )),
            )),
            () if node == self.settings.own => {
                Some((format!("{name} is this node: it has its leg"), None))
            }
            () if !self.memory().nodes.contains(node) => Some((
                format!("{name} is configured, and no node of {tag} yet"),
                Some(format!(
                    "netraid extend {tag} {name}; if it can be reached: netraid pause {tag} {name} at once"
                )),
            )),
            () if loading.is_some() => Some((
                match loading {
                    Some((other, _)) => {
                        format!("an image for {} is being loaded", self.names.node(other))
                    }
                    None => String::new(),
                },
                Some(format!("netraid truck status {tag}")),
            )),
            // The engine would take the image for the leg without which nothing is to be answered.
            () if self.machine.is_missed(node) => Some((
                format!("{name} has left, and it is not sure yet that all who matter know of it"),
                Some(format!("netraid explain {tag}")),
            )),
            () if !self.settings.bitmap => Some((
                "there is no bitmap, so what is written while the image travels can't be marked".into(),
                Some("write bitmap = \"internal\", which needs a new mirror".into()),
            )),
            () if self.machine.leg(node) != Leg::Out => Some((
                format!("{name} is connected, and gets over the network what it misses"),
                Some(format!(
                    "netraid pause {tag} {name}, if an image is to be loaded for it all the same"
                )),
            )),
            () => None,
        })
    }

    /// Goes on without the image for `node`, which has everything. What is written from now on is marked for it.
    pub(super) fn truck_leave(&mut self, node: NodeId) -> Result<(), Broken> {
        let name = self.names.node(node);
        let state = self.local.view()?.and_then(|view| view.truck);
        if state != Some((node, LegState::InSync)) {
            let why = match state {
                Some((loaded, _)) if loaded == node => {
                    format!("the image for {name} does not have everything yet")
                }
                _ => format!("no image for {name} is being loaded"),
            };
            let next = format!("netraid truck status {}", self.names.tag);
            self.answer(Answer::not(Ended::Refused, why, Some(next)));
            return Ok(());
        }
        if let Err(error) = self.local.part(node) {
            self.answer(perform::answer(&error));
            return Ok(());
        }
        self.look_at_own_leg()?;
        let generation = self.own_leg.generations.away[node.slot()];
        if generation == Generation::NONE {
            let why = format!("this node's leg does not say since when {name} is away");
            self.answer(Answer::not(Ended::Failed, why, None));
            return Ok(());
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let note = Note {
            generation: format!("{generation:?}"),
            loaded_ms: since.map_or(0, |since| since.as_millis() as u64),
        };
        if let Err(error) = note.write(&self.truck_note(node.slot())) {
            // It is for people alone.
            tracing::warn!("the note of what was loaded for {name} can't be written: {error}");
        }
        self.tell(
            "truck-loaded",
            format!("an image for {name} has left, generation {generation:?}; what is written from now on is marked"),
        );
        self.trucks.0[node.slot()] = Some(note);
        self.answer(Answer::done());
        Ok(())
    }

    /// Goes on with a node that has got its shipment, if what is left to be copied is what was marked.
    pub(super) fn truck_connect(
        &mut self,
        node: NodeId,
        full: bool,
        dry_run: bool,
    ) -> Result<(), Broken> {
        self.ask_peers()?;
        if self.machine.service() == Service::In {
            self.look_at_own_leg()?;
        }
        let refusal = self.cannot_connect(node, full);
        if let Some((why, next)) = refusal {
            self.answer(Answer::not(Ended::Refused, why, next));
            return Ok(());
        }
        let steps = vec![self.will_move(node)];
        if !dry_run {
            self.happen(Event::Resume(NodeSet::of(node)))?;
            // What follows is told by the status.
            self.reply.take_if(|reply| reply.outcome == Ended::Done);
        }
        self.answer(Answer {
            steps,
            ..Answer::done()
        });
        Ok(())
    }

    fn will_move(&mut self, node: NodeId) -> String {
        let name = self.names.node(node);
        let view = self.local.view().ok().flatten();
        match (self.needs_all(node), missing(node, view.as_ref())) {
            (Some(rule), _) => format!("copy everything to {name}: {rule}"),
            (None, Some(bytes)) => format!("copy to {name} what is marked: {bytes} bytes at most"),
            (None, None) => format!("copy to {name} what is marked"),
        }
    }

    /// By which rule a node gets everything.
    fn needs_all(&self, node: NodeId) -> Option<&'static str> {
        let decision = self.machine.decision(node)?;
        match decision.outcome {
            _ if self.memory().full.contains(node) => Some("a full resync was ordered, or is due"),
            Outcome::ToPeer(Extent::Full) => Some(decision.rule),
            _ => None,
        }
    }

    fn cannot_connect(&self, node: NodeId, full: bool) -> Option<(String, Option<String>)> {
        let (tag, name) = (&self.names.tag, self.names.node(node));
        if self.machine.service() != Service::In {
            return Some((
                format!("{tag} is not in service here: its targets are connected on its source"),
                Some(format!("netraid status {tag}")),
            ));
        }
        if node == self.settings.own || !self.memory().nodes.contains(node) {
            return Some((format!("{name} is no target of {tag}"), None));
        }
        if self.machine.leg(node) != Leg::Out {
            return Some((
                format!("{name} is connected already"),
                Some(format!("netraid status {tag}")),
            ));
        }
        let (Some(peer), Some(decision)) = (self.machine.peer(node), self.machine.decision(node))
        else {
            let why = self.shared.failure(&name);
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            return Some((
                format!("{name} can't be reached{why}"),
                Some(format!("on {name}: systemctl start netraidd")),
            ));
        };
        let all = match decision.outcome {
            _ if peer.generations.current == Generation::NONE => Some(format!(
                "the disk of {name} holds no leg of {tag}: nothing was unloaded there"
            )),
            Outcome::FromPeer(_) | Outcome::SplitBrain(_) | Outcome::Unrelated => {
                return Some((
                    format!(
                        "{name} does not have what was loaded here: {}",
                        decision.rule
                    ),
                    Some(format!("netraid resolve {tag} --tentative")),
                ));
            }
            Outcome::Again => {
                return Some((
                    format!("what {name} has is about to change"),
                    Some("try again in a moment".into()),
                ));
            }
            Outcome::Nothing | Outcome::ToPeer(_) => self.needs_all(node).map(|rule| {
                let loaded = self.trucks.0[node.slot()].as_ref();
                let loaded = loaded.map_or_else(String::new, |note| {
                    format!("; what was loaded last has generation {}", note.generation)
                });
                format!(
                    "what {name} has is not what was tracked here, so everything would be copied over the network: {rule} (its \
                     generation is {:?}{loaded})",
                    peer.generations.current
                )
            }),
        };
        all.filter(|_| !full).map(|why| {
            let next = format!(
                "on {name}: netraid truck unload {tag} IMAGE, of the last image; or --full: digests spare what is equal"
            );
            (why, Some(next))
        })
    }

    /// A node is in sync: nothing is on its way to it any more.
    pub(super) fn truck_arrived(&mut self, node: NodeId) {
        if self.trucks.0[node.slot()].take().is_some() {
            // It is for people alone.
            let _ = std::fs::remove_file(self.truck_note(node.slot()));
        }
    }

    /// The mirror is forgotten here.
    pub(super) fn forget_trucks(&mut self) {
        let all = 0..self.names.nodes.len().min(SLOTS);
        for node in all.filter_map(|slot| NodeId::new(u8::try_from(slot).ok()?)) {
            self.truck_arrived(node);
        }
    }

    pub(super) fn truck_shown(&self, node: NodeId, view: Option<&View>) -> Option<document::Truck> {
        let note = self.trucks.0[node.slot()].as_ref();
        let loading = view
            .and_then(|view| view.truck)
            .filter(|(known, _)| *known == node);
        let (state, percent) = match loading {
            Some((_, LegState::Resyncing(percent))) => ("loading", Some(percent)),
            Some(_) => ("full", None),
            None => ("away", None),
        };
        let note = note.filter(|_| loading.is_none());
        if loading.is_none() && note.is_none() {
            return None;
        }
        Some(document::Truck {
            state: state.into(),
            percent,
            generation: note.map(|note| note.generation.clone()),
            loaded_ms: note.map(|note| note.loaded_ms),
            dirty_bytes: note.and_then(|_| missing(node, view)),
        })
    }
}

/// Where a shipment stands, behind a sentence.
pub(super) fn words(truck: Option<&document::Truck>) -> String {
    let Some(truck) = truck else {
        return String::new();
    };
    match (truck.state.as_str(), truck.percent, truck.dirty_bytes) {
        ("loading", Some(percent), _) => format!("; an image for it is being loaded, {percent}%"),
        ("full", ..) => {
            "; an image for it has everything, and gets every write until it is taken out".into()
        }
        (_, _, Some(bytes)) => {
            format!("; an image for it has left, {bytes} bytes are marked since")
        }
        _ => "; an image for it has left".into(),
    }
}

/// Bytes that a node's leg would get if it came back now.
fn missing(node: NodeId, view: Option<&View>) -> Option<u64> {
    let nodes = &view?.status.status.legs;
    let leg = nodes.iter().find(|leg| leg.slot == node.slot())?;
    Some(leg.missing_bytes)
}
