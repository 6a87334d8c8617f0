//! What people, scripts and peers are shown of a mirror.

use super::{Driver, truck};
use crate::api::document::{self, Reason};
use crate::config::{Handlers, OnIoError};
use crate::mirror::action::Hold;
use crate::mirror::explain::{explain, quorum_problems, unfenced};
use crate::mirror::generation::{Generation, SLOTS};
use crate::mirror::machine::{Leg, Service};
use crate::mirror::node::NodeId;
use crate::node::local::View;
use crate::node::shared::Envelope;
use crate::status::{Status, word};

/// What is shown of the configuration.
#[derive(Clone, Debug)]
pub struct About {
    /// `embedded` or `md`.
    pub backend: String,
    /// `A`, `B` or `C`.
    pub protocol: String,
    /// Programs that are told of split brains.
    pub handlers: Handlers,
    /// When one of them is called for a disk.
    pub on_io_error: OnIoError,
    /// The nodes' disks, by slot.
    pub disks: Vec<String>,
    /// The nodes' addresses and ports for the mirror's data, by slot.
    pub addresses: Vec<String>,
}

impl About {
    /// Where the array finds a peer's leg.
    pub(super) fn location(&self, node: NodeId, secret: &str) -> String {
        let address = self.addresses.get(node.slot());
        format!("nbd://{}/{secret}", address.map_or("", String::as_str))
    }

    /// A text without what lets others into an export.
    pub(super) fn without_secrets(&self, text: &str, tickets: &[Option<String>; SLOTS]) -> String {
        tickets
            .iter()
            .flatten()
            .fold(text.to_owned(), |text, secret| {
                text.replace(secret.as_str(), "...")
            })
    }
}

impl Driver {
    /// Shows how it is now, to people and peers.
    pub(super) fn publish(&mut self) {
        let envelope = Envelope {
            tag: self.names.tag.clone(),
            sequence: 0,
            nodes: self.names.nodes.clone(),
            record: self.machine.record(),
            claims: self.claims,
            ticket: self.local.accepts().cloned(),
            room: self.own_leg.room.clone(),
        };
        self.shared.publish(envelope);
        self.show();
    }

    /// Shows how it is now, to people only.
    pub(super) fn show(&mut self) {
        let mirror = self.mirror();
        self.shared.show(mirror);
    }

    fn mirror(&mut self) -> document::Mirror {
        let view = self.local.view().ok().flatten();
        let status = view.as_ref().map(|view| &view.status);
        let machine = &self.machine;
        let memory = machine.memory();
        let own = self.settings.own;
        let in_service = matches!(machine.service(), Service::In | Service::Stopping);
        let source = match in_service {
            true => Some(own),
            false => machine
                .reachable()
                .iter()
                .find(|node| machine.peer(*node).is_some_and(|peer| peer.running)),
        };
        let refusal = machine.refusal().map(|refusal| Reason {
            why: refusal.reason(own, &self.names),
            next: refusal.next(own, &self.names),
        });
        document::Mirror {
            tag: self.names.tag.clone(),
            backend: self.about.backend.clone(),
            protocol: self.about.protocol.clone(),
            service: match machine.service() {
                Service::In => "in",
                Service::Out => "out",
                Service::Starting => "starting",
                Service::Stopping => "stopping",
            }
            .into(),
            source: source.map(|node| self.names.node(node)),
            previous_source: machine.previous().map(|node| self.names.node(node)),
            places: status.map_or_else(Vec::new, |status| match &status.device {
                Some(device) => vec![device.clone()],
                None => status.status.uris.clone(),
            }),
            size: status
                .map(|status| status.status.size)
                .or(self.own_leg.size),
            chunk: status
                .map(|status| status.status.chunk)
                .filter(|chunk| *chunk != 0),
            dirty_bytes: status.map(|status| status.status.dirty_bytes),
            generation: format!("{:?}", memory.generations.current),
            quorum: machine.quorum().map(|quorum| {
                let count = |nodes: usize| u8::try_from(nodes).unwrap_or(u8::MAX);
                document::Quorum {
                    present: count(quorum.present),
                    need: count(quorum.need),
                    nodes: count(quorum.nodes),
                    requests: match quorum.hold {
                        Hold::No => "served",
                        Hold::Suspend => "suspended",
                        Hold::Fail => "failed",
                    }
                    .into(),
                }
            }),
            fencing: self.fencing_shown(),
            flags: document::Flags {
                last_owner: memory.last_owner,
                source: memory.source.map(|node| self.names.node(node)),
                data_corrupt: memory.data_corrupt,
            },
            refusal,
            nodes: self.nodes_shown(view.as_ref()),
            resync: status.and_then(|status| self.resync_shown(status)),
            verify: status.and_then(|status| status.status.verify.clone()),
            notes: self.room_to_grow().into_iter().collect(),
            problems: [
                &self.problems.flags,
                &self.problems.own_leg,
                &self.problems.array,
            ]
            .into_iter()
            .flatten()
            .cloned()
            .chain(
                quorum_problems(machine, &self.names)
                    .into_iter()
                    .map(|why| format!("{}: {why}", self.names.tag)),
            )
            .chain(unfenced(machine, &self.names))
            .chain(status.iter().flat_map(|status| status.notes.clone()))
            .chain(
                status
                    .iter()
                    .flat_map(|status| self.differing(&status.status)),
            )
            .chain(status.iter().flat_map(|status| failing(&status.status)))
            .chain(status.iter().flat_map(|status| damaged(&status.status)))
            .chain(
                status
                    .iter()
                    .filter_map(|status| status.status.halted.clone()),
            )
            .collect(),
        }
    }

    /// Targets that a verify found to differ, and what makes them equal.
    fn differing(&self, status: &Status) -> Vec<String> {
        let legs = status.legs.iter().filter(|leg| leg.differing_bytes > 0);
        legs.map(|leg| {
            format!(
                "{} differs from the source ({} bytes): netraid verify {} --repair copies them",
                leg.node, leg.differing_bytes, self.names.tag
            )
        })
        .collect()
    }

    fn nodes_shown(&self, view: Option<&View>) -> Vec<document::Node> {
        let status = view.map(|view| &view.status);
        let explanations = explain(&self.machine, &self.names);
        let mut nodes = Vec::new();
        for (slot, name) in self.names.nodes.iter().enumerate() {
            let Some(node) = u8::try_from(slot).ok().and_then(NodeId::new) else {
                continue;
            };
            let own = node == self.settings.own;
            let explanation = explanations.iter().find(|one| one.node == node);
            let member = self.machine.memory().nodes.contains(node);
            let reachable = own || self.machine.peer(node).is_some();
            let unreachable = match reachable {
                true => None,
                false => self.shared.failure(name),
            };
            let truck = self.truck_shown(node, view);
            let behind = status.into_iter().flat_map(|status| &status.nodes);
            let behind = behind
                .filter(|leg| leg.node == *name)
                .find_map(|leg| leg.behind_bytes);
            nodes.push(document::Node {
                name: name.clone(),
                slot: node.into(),
                own,
                member,
                reachable,
                status: match self.machine.is_tie_breaker(node) && reachable {
                    true => TIE_BREAKER.into(),
                    false => self.machine.detailed_word(node).to_string(),
                },
                disk: match self.left_behind.contains(node) {
                    true => "Consistent".into(),
                    false => self.disk_state(node).into(),
                },
                device: self.about.disks.get(slot).cloned().unwrap_or_default(),
                address: self.about.addresses.get(slot).cloned().unwrap_or_default(),
                percent: match self.machine.leg(node) {
                    Leg::Resyncing(percent) => Some(percent),
                    _ => None,
                },
                behind_bytes: behind,
                left_behind: self.left_behind.contains(node),
                why: match (explanation, behind) {
                    (Some(explanation), _) if truck.is_some() => {
                        format!("{}{}", explanation.why, truck::words(truck.as_ref()))
                    }
                    (Some(_), Some(bytes)) if self.left_behind.contains(node) => format!(
                        "behind, since what was on its way to it was too much: {bytes} bytes of it are still to come; then, and \
                         after some time, it gets what it missed"
                    ),
                    (Some(explanation), Some(bytes)) => format!(
                        "{}; it is written asynchronously and {bytes} bytes behind",
                        explanation.why
                    ),
                    (Some(explanation), None) => explanation.why.clone(),
                    (None, _) if self.machine.is_tie_breaker(node) => {
                        format!("{name} has no disk of the mirror: it only votes")
                    }
                    (None, _) => format!("{name} is configured, and no node of the mirror yet"),
                },
                waits_for: explanation.and_then(|one| one.waits_for.clone()),
                command: match (explanation, member) {
                    (Some(explanation), _) => explanation.command.clone(),
                    (None, _) if self.machine.is_tie_breaker(node) => None,
                    (None, _) => Some(format!("netraid extend {} {name}", self.names.tag)),
                },
                truck,
                last_resync: self.decided[slot].clone(),
                failure: unreachable.or_else(|| self.failures[slot].clone()),
            });
        }
        nodes
    }

    /// What a node's disk has, in the words of DRBD.
    fn disk_state(&self, node: NodeId) -> &'static str {
        let own = node == self.settings.own;
        let memory = self.machine.memory();
        let (generations, consistent, outdated, fresh) = match self.machine.peer(node) {
            _ if own => (
                &memory.generations,
                memory.consistent,
                memory.outdated,
                memory.fresh,
            ),
            Some(peer) => (
                &peer.generations,
                peer.consistent,
                peer.outdated,
                peer.fresh || peer.running,
            ),
            None => return "DUnknown",
        };
        match () {
            () if own && !self.machine.has_own_leg() => "Diskless",
            () if generations.current == Generation::NONE => "Diskless",
            () if !consistent => "Inconsistent",
            () if self.machine.leg(node) == Leg::InSync => "UpToDate",
            () if matches!(self.machine.service(), Service::In | Service::Stopping) => match own {
                true => "UpToDate",
                false => "Outdated",
            },
            () if outdated || self.machine.is_left_out(node) => "Outdated",
            () if !fresh => "Consistent",
            () => "UpToDate",
        }
    }
}

/// The status of a node without a disk that can be reached. It is no target, so it has none of their words.
const TIE_BREAKER: &str = "Tie-Breaker";

/// Whether the array has a leg with this word.
fn held(status: &str) -> bool {
    [word::SOURCE, word::TARGET, word::RESYNCING, word::PAUSED].contains(&status)
}

/// Disks that answer with errors, or did before they were given up.
fn failing(status: &Status) -> Vec<String> {
    let legs = status.legs.iter().filter(|leg| leg.io_errors > 0);
    legs.map(|leg| {
        let rest = match leg.failed_bytes {
            _ if !held(&leg.status) => "it was given up; replace it".to_owned(),
            0 => "all is repaired; replace the disk before there are more".to_owned(),
            bytes => format!(
                "{bytes} bytes are read from other legs until they can be written again; replace the disk"
            ),
        };
        format!(
            "the disk of {} had {} I/O errors: {rest}",
            leg.node, leg.io_errors
        )
    })
    .collect()
}

/// Targets to or from which something was changed on its way.
fn damaged(status: &Status) -> Vec<String> {
    let legs = status.legs.iter().filter(|leg| leg.damaged > 0);
    legs.map(|leg| {
        format!(
            "{} connections to {} were ended because a message was changed on its way (nothing of it was written): \
             look at the network cards and memory of both nodes",
            leg.damaged, leg.node
        )
    })
    .collect()
}
