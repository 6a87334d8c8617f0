//! The simulated arrays: they do what the machines order, without a judgement of their own.
//!
//! As md and the embedded engine do, an array marks a block on all its legs before it writes it, and names a new
//! generation, durably on all legs in sync, before it answers the first write that a leg missed.

use netraid::mirror::event::Event;
use netraid::mirror::generation::Extent;
use netraid::mirror::node::{NodeId, NodeSet};

use crate::cluster::{Array, Cluster};
use crate::disk::{ALL_BITS, BLOCKS};

/// How far a write comes before the source loses its power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The bits are set.
    Marked,
    /// So many legs were written.
    Legs(usize),
    /// Every leg was written, and the new generation, if there is one, was named.
    Named,
    /// It was answered.
    Answered,
}

impl Cluster {
    fn array(&mut self, node: NodeId) -> &mut Array {
        self.node(node).array.as_mut().expect("an array runs")
    }

    /// Whether `source` reaches the disk of `leg`, and may write there.
    pub fn can_write(&self, source: NodeId, leg: NodeId) -> bool {
        let state = &self.nodes[leg.slot()];
        self.connected(source, leg) && state.accepts == Some(source)
    }

    pub fn assemble(&mut self, node: NodeId, force: bool, voted: bool) {
        if std::mem::take(&mut self.node(node).fails) {
            return self.node(node).events.push_back(Event::AssembleFailed);
        }
        let forced = self.nodes[node.slot()].forced;
        self.check_start(node, forced);
        let disk = &mut self.node(node).disk;
        assert!(
            disk.consistent || force,
            "started in the middle of a resync"
        );
        let made_up = !disk.consistent || voted;
        disk.consistent = true;
        disk.mixed = false;
        disk.generations.returned(node.slot());
        let started = self.oracle.starts;
        let held = self.freezes();
        self.node(node).array = Some(Array {
            started,
            in_sync: NodeSet::of(node),
            needs_name: true,
            held,
            ..Array::default()
        });
        self.oracle.started(node, forced);
        if made_up {
            // What was forced is like nobody else's; what was voted for is newer than what others say.
            self.name_generation(node);
        }
        self.node(node).events.push_back(Event::Assembled);
    }

    pub fn stop_array(&mut self, node: NodeId) {
        if std::mem::take(&mut self.node(node).fails) {
            return self.node(node).events.push_back(Event::StopFailed);
        }
        let in_sync = self.array(node).in_sync;
        let reached = in_sync
            .iter()
            .filter(|leg| *leg == node || self.can_write(node, *leg));
        let equal = reached.collect();
        self.oracle.stopped(equal);
        self.node(node).stopped_with = equal;
        self.node(node).array = None;
        self.node(node).events.push_back(Event::Stopped);
    }

    pub fn merge(&mut self, node: NodeId, leg: NodeId) {
        let bits = self.nodes[leg.slot()].disk.bits;
        for broken in self.broken_legs(node).iter() {
            self.expel(node, broken);
        }
        for member in self.legs(node).iter() {
            self.node(member).disk.bits |= bits;
        }
    }

    /// All legs of an array, the own one included.
    fn legs(&mut self, node: NodeId) -> NodeSet {
        let array = self.array(node);
        array
            .resyncing
            .keys()
            .fold(array.in_sync, |legs, leg| legs.with(*leg))
    }

    pub fn add(&mut self, node: NodeId, leg: NodeId, extent: Extent) {
        if !self.can_write(node, leg) {
            return self.node(node).events.push_back(Event::LegFailed(leg));
        }
        self.check_overwrite(node, leg);
        let bits = match extent {
            Extent::Partial => self.nodes[node.slot()].disk.bits,
            Extent::Full => ALL_BITS,
        };
        let disk = &mut self.node(leg).disk;
        disk.bits |= bits;
        disk.consistent = false;
        disk.mixed = true;
        self.array(node).resyncing.insert(leg, bits);
        self.node(node).events.push_back(Event::Added(leg));
    }

    pub fn copy_all(&mut self, node: NodeId, leg: NodeId) {
        if !self.legs(node).contains(leg) {
            return self.node(node).events.push_back(Event::LegFailed(leg));
        }
        if !self.can_write(node, leg) {
            return self.expel(node, leg);
        }
        let disk = &mut self.node(leg).disk;
        (disk.bits, disk.consistent, disk.mixed) = (ALL_BITS, false, true);
        let array = self.array(node);
        array.in_sync = array.in_sync.without(leg);
        array.needs_name = true;
        array.resyncing.insert(leg, ALL_BITS);
    }

    pub fn drop_leg(&mut self, node: NodeId, leg: NodeId) {
        let Some(array) = self.node(node).array.as_mut() else {
            return;
        };
        array.in_sync = array.in_sync.without(leg);
        array.resyncing.remove(&leg);
        array.needs_name = true;
    }

    /// A leg can't be reached any more, and the array notices.
    pub fn expel(&mut self, node: NodeId, leg: NodeId) {
        self.say(|| format!("-- {node:?} expels {leg:?}"));
        self.drop_leg(node, leg);
        self.node(node).events.push_back(Event::LegFailed(leg));
    }

    /// Legs that can't be written any more.
    pub fn broken_legs(&mut self, node: NodeId) -> NodeSet {
        let legs = self.legs(node).without(node);
        legs.iter()
            .filter(|leg| !self.can_write(node, *leg))
            .collect()
    }

    pub fn guard(&mut self, node: NodeId, members: NodeSet, only: bool) {
        if let Some(array) = self.node(node).array.as_mut() {
            array.guard = match only {
                true => members,
                false => array.guard.and(members),
            };
        }
    }

    /// The application writes one block; false if it got no answer.
    pub fn write(&mut self, node: NodeId, block: usize, until: Until) -> bool {
        let number = self.new_write();
        self.say(|| format!("-- {node:?} writes {number} to block {block}, {until:?}"));
        for leg in self.broken_legs(node).iter() {
            self.expel(node, leg);
        }
        let legs = self.legs(node);
        for leg in legs.iter() {
            self.node(leg).disk.bits |= 1 << block;
        }
        if until == Until::Marked {
            self.power_off(node);
            return false;
        }
        for (written, leg) in legs.iter().enumerate() {
            if until == Until::Legs(written) {
                self.power_off(node);
                return false;
            }
            let disk = &mut self.node(leg).disk;
            disk.blocks[block] = number;
            disk.holds.insert(number);
        }
        let everybody: NodeSet = self.with_disk().collect();
        let absent = everybody.minus(self.array(node).in_sync);
        if self.array(node).needs_name && !absent.is_empty() {
            self.name_generation(node);
        }
        if until != Until::Answered {
            self.power_off(node);
            return false;
        }
        let array = self.array(node);
        if array.held || !array.guard.minus(array.in_sync).is_empty() {
            // It waits; whether it is ever answered, nobody knows.
            self.oracle.held += 1;
            return false;
        }
        self.check_one_source(node);
        let forced = self.nodes[node.slot()].forced;
        self.oracle.answered(node, number, forced);
        true
    }

    fn name_generation(&mut self, node: NodeId) {
        let name = self.new_generation();
        let in_sync = self.array(node).in_sync;
        let absent: NodeSet = self
            .with_disk()
            .filter(|id| !in_sync.contains(*id))
            .collect();
        let mut generations = self.nodes[node.slot()].disk.generations.clone();
        generations.mint(name, absent.iter().map(NodeId::slot));
        self.tell_generations(node, &generations);
        self.array(node).needs_name = false;
        self.oracle.named(in_sync, absent);
        let event = Event::Minted(generations);
        self.node(node).events.push_back(event);
    }

    fn tell_generations(
        &mut self,
        node: NodeId,
        generations: &netraid::mirror::generation::Generations,
    ) {
        for leg in self.array(node).in_sync.iter() {
            self.node(leg).disk.generations = generations.clone();
        }
    }

    /// Copies one block to a leg, or ends its resync when there is none left; false if it is not being resynced.
    pub fn copy(&mut self, node: NodeId, leg: NodeId) -> bool {
        let Some(bits) = self.array(node).resyncing.get(&leg).copied() else {
            return false;
        };
        if !self.can_write(node, leg) {
            self.expel(node, leg);
            return true;
        }
        if bits == 0 {
            self.end_resync(node, leg);
            return true;
        }
        let block = bits.trailing_zeros() as usize;
        let value = self.nodes[node.slot()].disk.blocks[block];
        self.node(leg).disk.blocks[block] = value;
        self.array(node).resyncing.insert(leg, bits & (bits - 1));
        let percent = 100 - bits.count_ones() as usize * 100 / BLOCKS;
        let event = Event::Progress(leg, percent as u8);
        self.node(node).events.push_back(event);
        true
    }

    fn end_resync(&mut self, node: NodeId, leg: NodeId) {
        for broken in self.broken_legs(node).iter() {
            self.expel(node, broken);
        }
        self.check_equal(node, leg, "a resync ended");
        let source = self.nodes[node.slot()].disk.clone();
        let mut generations = source.generations.clone();
        generations.returned(leg.slot());
        let array = self.array(node);
        array.resyncing.remove(&leg);
        array.in_sync = array.in_sync.with(leg);
        self.tell_generations(node, &generations);
        let disk = &mut self.node(leg).disk;
        (disk.consistent, disk.mixed) = (true, false);
        disk.holds = source.holds;
        self.oracle.joined(node, leg);
        let in_sync = self.array(node).in_sync;
        if in_sync.len() == self.with_disk().count() {
            let holds = self.nodes[node.slot()].disk.holds.clone();
            self.oracle.whole(&holds);
            for member in in_sync.iter() {
                self.node(member).disk.bits = 0;
            }
        }
        self.node(node).events.push_back(Event::OwnLeg {
            generations,
            consistent: true,
        });
        self.node(node).events.push_back(Event::ResyncEnded(leg));
    }
}
