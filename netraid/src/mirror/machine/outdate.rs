//! `netraid outdate`: this node's own data is marked as outdated, on somebody else's word.
//!
//! That is how a source that has lost its connection to this node makes sure, over a second path, that this node does not
//! take over without what the source goes on to answer.

use super::super::action::{Action, Note};
use super::super::fencing::NotOutdated;
use super::super::generation::Generation;
use super::super::node::NodeId;
use super::super::refusal::Refusal;
use super::{Machine, Service};

impl Machine {
    /// Marks it, on behalf of `asker` if that is known.
    pub(super) fn outdate(&mut self, asker: Option<NodeId>, out: &mut Vec<Action>) {
        let starts = self.is_fencing();
        if let Some(why) = self.cannot_outdate(asker) {
            return out.push(Action::Refuse(Refusal::NotOutdated(why)));
        }
        if starts {
            // Of two that ask each other the lower number goes on.
            self.give_up_start(Refusal::Outdated, out);
        }
        let memory = &mut self.memory;
        if !memory.outdated {
            out.push(Action::Note(Note::Outdated(asker)));
        }
        memory.outdated = true;
        memory.fresh = false;
        // News of the time before, that this leg is in sync, may still be on their way: they are of an agreement that is over.
        if self.accepted.take().is_some() {
            out.push(Action::Accept(None));
        }
        out.push(Action::Done);
    }

    fn cannot_outdate(&self, asker: Option<NodeId>) -> Option<NotOutdated> {
        let memory = &self.memory;
        let asker = asker.filter(|asker| *asker != self.own());
        match self.service {
            Service::Starting if self.is_fencing() => {
                if asker.is_none_or(|asker| self.own() < asker) {
                    return Some(NotOutdated::AsksItself);
                }
            }
            Service::In | Service::Starting | Service::Stopping => {
                return Some(NotOutdated::InService);
            }
            Service::Out => {}
        }
        let newer = |node: NodeId| {
            memory.generations.away[node.slot()] != Generation::NONE && !memory.outdated
        };
        let others = memory.nodes.without(self.own());
        let follows = self.follows().filter(|source| asker != Some(*source));
        match asker {
            _ if memory.generations.current == Generation::NONE => Some(NotOutdated::NoData),
            _ if !memory.consistent => Some(NotOutdated::Inconsistent),
            Some(asker) if newer(asker) => Some(NotOutdated::NewerThan(asker)),
            None if others.iter().all(newer) && !memory.outdated => Some(NotOutdated::OnlyCopy),
            _ => follows
                .filter(|_| !memory.outdated)
                .map(NotOutdated::Follows),
        }
    }
}
