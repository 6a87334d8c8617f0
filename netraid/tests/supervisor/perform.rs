//! Performs what a machine asks for, on the simulated disks and network.

use netraid::mirror::action::{Action, Flag, Hold};
use netraid::mirror::event::Event;
use netraid::mirror::node::NodeId;

use crate::cluster::{Cluster, Node};

impl Cluster {
    pub fn perform_all(&mut self, node: NodeId) -> bool {
        let mut any = false;
        while self.perform_next(node) {
            any = true;
        }
        any
    }

    /// Performs the next action of a node; false if there is none.
    pub fn perform_next(&mut self, node: NodeId) -> bool {
        let Some(action) = self.node(node).actions.pop_front() else {
            return false;
        };
        if self.logs {
            let line = crate::show::action(&action, node, &self.names);
            self.node(node).log.push(line);
        }
        let steps = |action: &Action| match action {
            Action::Merge(leg) | Action::Add { node: leg, .. } => Some(*leg),
            _ => None,
        };
        let skipped = self.nodes[node.slot()].skip;
        if steps(&action).is_some() && steps(&action) == skipped {
            return true;
        }
        self.node(node).skip = None;
        if let Action::Connect(leg) | Action::Drop(leg, _) = action {
            self.node(node).forget_leg(leg);
        }
        match action {
            Action::SetFlag(flag) => self.set_flag(node, flag, true),
            Action::ClearFlag(flag) => self.set_flag(node, flag, false),
            Action::Persist => {
                let memory = self.machine(node).memory().clone();
                self.node(node).memory = memory;
            }
            Action::Assemble { force, voted } => self.assemble(node, force, voted),
            Action::Stop => self.stop_array(node),
            Action::Connect(leg) => {
                if !self.can_write(node, leg) {
                    self.node(node).skip = Some(leg);
                    self.node(node).events.push_back(Event::LegFailed(leg));
                }
            }
            Action::Merge(leg) => self.merge(node, leg),
            Action::Add {
                node: leg, extent, ..
            } => self.add(node, leg, extent),
            Action::CopyAll(leg) => self.copy_all(node, leg),
            Action::Drop(leg, _) => self.drop_leg(node, leg),
            Action::Guard { members, only } => self.guard(node, members, only),
            Action::Hold(hold) => {
                if let Some(array) = self.node(node).array.as_mut() {
                    array.held = hold != Hold::No;
                }
            }
            Action::Fence(peer) => self.node(node).fences.push_back(peer),
            Action::Unfence(_) => {}
            Action::GaveUpStart(refusal) => self.node(node).answer = Some(Err(refusal)),
            Action::Accept(source) => self.node(node).accepts = source,
            Action::Tell(peers) => {
                self.read_own_leg(node);
                peers.iter().for_each(|peer| self.send(node, peer));
            }
            Action::StartTimer(seconds) => self.node(node).timer = Some(seconds),
            Action::StopTimer => self.node(node).timer = None,
            Action::Done => self.node(node).answer = Some(Ok(())),
            Action::Refuse(refusal) => self.node(node).answer = Some(Err(refusal)),
            Action::Note(_) => {}
        }
        true
    }

    fn set_flag(&mut self, node: NodeId, flag: Flag, on: bool) {
        let flags = &mut self.node(node).flags;
        match flag {
            Flag::LastOwner => flags.0 = on,
            Flag::Source(source) => flags.1 = on.then_some(source),
            Flag::DataCorrupt => flags.2 = on,
        }
    }
}

impl Node {
    /// What was not yet told of a leg is not told any more.
    fn forget_leg(&mut self, leg: NodeId) {
        self.events.retain(|event| {
            let (Event::Added(of)
            | Event::LegFailed(of)
            | Event::ResyncEnded(of)
            | Event::Progress(of, _)) = event
            else {
                return true;
            };
            *of != leg
        });
    }
}
