//! The program `fence-peer` as an honest administrator has it: it reaches the peer over a second path that may be broken as
//! well, shoots it where that is configured, and never says what is not so.

use netraid::mirror::event::Event;
use netraid::mirror::fencing::{FenceAnswer, Fencing, NotOutdated};
use netraid::mirror::node::NodeId;
use netraid::mirror::refusal::Refusal;

use crate::cluster::Cluster;
use crate::random::Random;

impl Cluster {
    /// Runs the oldest call of a node; false if there is none.
    pub fn run_handler(&mut self, node: NodeId, random: &mut Random) -> bool {
        let Some(peer) = self.node(node).fences.pop_front() else {
            return false;
        };
        let fencing = self.settings[node.slot()].fencing;
        let may_shoot = fencing == Fencing::ResourceAndStonith;
        let answer = match self.is_up(peer) {
            _ if random.chance(10) => FenceAnswer::Broken,
            // The second path is broken, too.
            true if random.chance(15) && may_shoot => self.shoot(peer),
            true if random.chance(10) => FenceAnswer::Broken,
            true => self.outdate(peer, node),
            false if may_shoot && random.chance(50) => self.shoot(peer),
            false => FenceAnswer::Down,
        };
        self.say(|| format!("-- fence-peer of {node:?} for {peer:?}: {answer:?}"));
        self.node(node)
            .events
            .push_back(Event::Fenced(peer, answer));
        true
    }

    /// Every call of a node fails.
    pub fn fail_handlers(&mut self, node: NodeId) {
        for peer in std::mem::take(&mut self.node(node).fences) {
            let failed = Event::Fenced(peer, FenceAnswer::Broken);
            self.node(node).events.push_back(failed);
        }
    }

    fn shoot(&mut self, peer: NodeId) -> FenceAnswer {
        self.power_off(peer);
        FenceAnswer::Stonithed
    }

    /// `netraid outdate --for NODE` there, and what the program makes of its exit code.
    fn outdate(&mut self, peer: NodeId, node: NodeId) -> FenceAnswer {
        self.ask(peer, Event::Outdate(Some(node)));
        self.perform_all(peer);
        match self.node(peer).answer.take() {
            Some(Ok(())) => FenceAnswer::Outdated,
            Some(Err(Refusal::NotOutdated(why))) => match why {
                NotOutdated::Inconsistent | NotOutdated::NoData => FenceAnswer::Inconsistent,
                NotOutdated::InService | NotOutdated::NewerThan(_) | NotOutdated::OnlyCopy => {
                    FenceAnswer::Primary
                }
                NotOutdated::Follows(_) | NotOutdated::AsksItself => FenceAnswer::Broken,
            },
            other => panic!("{peer:?} answers {other:?} to an order to be outdated"),
        }
    }

    /// Whether every node keeps to `fencing`.
    pub fn fences(&self) -> bool {
        let fences = |one: &netraid::mirror::machine::Settings| one.fencing != Fencing::DontCare;
        self.settings.iter().all(fences)
    }

    /// Whether nothing is answered while somebody may not know that it was left.
    pub fn freezes(&self) -> bool {
        let freezes =
            |one: &netraid::mirror::machine::Settings| one.fencing == Fencing::ResourceAndStonith;
        self.settings.iter().all(freezes)
    }
}
