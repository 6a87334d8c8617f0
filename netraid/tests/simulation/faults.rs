//! What happens to the nodes: time passes, links break, disks are replaced, power fails, sources die and come back.

use netraid::mirror::generation::{Extent, Generation, Verdict, decide};
use netraid::raid1::engine::{Event, Terms};
use netraid::raid1::leg::LegState;

use crate::disk::{BLOCK, Disk, brief};
use crate::world::{World, junk, slot};

impl World {
    /// One step of a schedule.
    pub fn step(&mut self) {
        self.tally.steps += 1;
        match self.random.below(204) {
            0..=59 => self.ask(),
            60..=155 => {
                for _ in 0..1 + self.random.below(6) {
                    self.progress_one();
                }
            }
            156..=170 => self.pass_time(),
            171..=181 => self.connect_a_leg(),
            182..=187 => self.become_whole(),
            188..=189 => self.cut_a_link(),
            190..=191 => self.target_loses_power(),
            192..=195 => self.crash_source(),
            196 if self.random.chance(60) => self.verify(),
            196 => self.hold_resync(),
            197 if self.random.chance(25) => self.replace_a_disk(),
            197 => self.another_node_copies_to_a_leg(),
            198 if self.random.chance(40) => self.grow(),
            198 if self.random.chance(60) => self.verify(),
            198 if self.random.chance(40) => self.change_speed(),
            198 => self.hold_resync(),
            199 => self.stop_and_start(),
            _ => self.guard_or_hold(),
        }
        self.check();
    }

    fn pass_time(&mut self) {
        self.now += [
            20, 20, 200, 200, 200, 1000, 1000, 6000, 6000, 6000, 15_000, 70_000,
        ][self.random.below(12) as usize];
        self.note(|| "time passes".into());
        self.feed(Event::Tick);
    }

    fn any_leg(&mut self) -> usize {
        self.random.below(self.shape.slots as u64) as usize
    }

    fn connect_a_leg(&mut self) {
        let leg = self.any_leg();
        // Now and then somebody orders more than is needed.
        let full = self.random.below(8) == 0;
        self.join(
            leg,
            Terms {
                full,
                discard: false,
            },
        );
    }

    pub fn attach(&mut self, leg: usize) {
        self.join(leg, Terms::default());
    }

    /// A leg is connected, by itself or on order.
    pub fn join(&mut self, leg: usize, terms: Terms) {
        if self.engine.is_none() || self.connections[leg].is_some() || self.is_over() {
            return;
        }
        // A new session fences the old ones: what they had queued is dropped. What had begun may still land, but the
        // server lets nothing overlap it; see `perform`. A disk on this node has nothing under way when it is reopened.
        let mut ended = false;
        for mut flight in self.take_flights_to(leg) {
            if flight.outcome.is_some() || ended || self.broken.contains(&flight.connection) {
                continue;
            }
            let choice = self.random.below(3);
            // Of what is kept in order one may have begun.
            ended = flight.order.is_some() && choice != 1;
            match choice {
                0 if leg != self.source => self.flights.push(flight),
                1 => self.perform(&mut flight),
                _ => {}
            }
        }
        self.connect(leg);
        let mut image = self.disks[leg].image();
        if let Some(image) = &mut image {
            // One that was away while the mirror grew, or grew with a source that nobody heard of any more.
            image.reshape(self.disks[leg].shape(), self.shape);
        }
        self.written_to[leg] = false;
        self.parted[leg].fill(false);
        self.note(|| format!("leg {leg} is connected: {}", brief(image.as_ref())));
        if let (Some(engine), Some(image)) = (&self.engine, &image)
            && image.record.generations.current != Generation::NONE
            && matches!(engine.consider(slot(leg), image), Ok((_, Extent::Full)))
        {
            self.tally.full_resyncs += 1;
        }
        let marked = image.as_ref().map(|image| image.dirty.clone());
        let slot = slot(leg);
        let event = if terms == Terms::default() {
            Event::Attach { slot, image }
        } else {
            self.note(|| format!("on order: {terms:?}"));
            self.tally.orders += 1;
            Event::Join { slot, image, terms }
        };
        self.feed(event);
        if self.connections[leg].is_none() {
            self.tally.refusals += 1;
        } else if let (Some(engine), Some(marked)) = (&self.engine, marked) {
            // P2: what the leg itself marked while it was away is not forgotten when its bitmap is written anew, unless it
            // tells of nothing.
            let forgotten = marked.iter().find(|chunk| {
                !engine.dirty().contains(*chunk) && !self.is_equal_everywhere(leg, *chunk)
            });
            assert_eq!(forgotten, None, "a bit of leg {leg} is not merged");
            let whole = engine.dirty().count() == self.shape.chunks();
            assert!(
                !terms.full || whole,
                "leg {leg} is to be copied in full, but not every chunk is marked"
            );
        }
    }

    /// Whether a leg holds in this chunk what all legs in sync hold, and would after a power failure.
    fn is_equal_everywhere(&self, leg: usize, chunk: u64) -> bool {
        let Some(engine) = &self.engine else {
            return false;
        };
        let mut in_sync = self
            .slots()
            .filter(|other| engine.state(slot(*other)) == LegState::InSync);
        let blocks =
            (0..self.blocks()).filter(|block| *block as u64 * BLOCK / self.shape.chunk == chunk);
        let blocks: Vec<usize> = blocks.collect();
        let own = &self.disks[leg];
        in_sync.all(|other| {
            let other = &self.disks[other];
            blocks.iter().all(|block| {
                let value = own.cache[*block];
                value == own.stable[*block]
                    && value == other.cache[*block]
                    && value == other.stable[*block]
            })
        })
    }

    /// Somebody has enlarged the disks: the mirror follows, with its own leg alone, while others come back in between.
    fn grow(&mut self) {
        if self.engine.is_none() || self.is_over() || self.blocks() == self.room() {
            return;
        }
        let blocks = self.blocks() as u64 + 1;
        let blocks = blocks + self.random.below(self.room() as u64 - blocks + 1);
        self.note(|| format!("to {blocks} blocks"));
        // What is new on the own disk reads as zeroes; on the others it is whatever was there.
        let (from, source) = (self.blocks(), self.source);
        for block in from..self.room() {
            self.disks[source].cache[block] = 0;
            self.disks[source].stable[block] = 0;
            self.disks[source].lost[block] = false;
        }
        if self.random.chance(80) {
            for leg in self.slots().filter(|leg| *leg != source) {
                self.feed(Event::Remove {
                    slot: slot(leg),
                    reason: "the mirror grows".into(),
                });
            }
        }
        self.feed(Event::Grow {
            size: blocks * crate::disk::BLOCK,
        });
    }

    /// Now and then nothing goes wrong for long enough.
    pub fn become_whole(&mut self) {
        if self.engine.is_none() || self.is_halted() {
            return;
        }
        self.wait_for_who_is_behind();
        for leg in self.slots() {
            self.attach(leg);
        }
        self.feed(Event::PauseResync(false));
        let settled = |world: &World| {
            world.is_halted()
                || world
                    .slots()
                    .all(|leg| matches!(world.state(leg), LegState::InSync | LegState::Absent))
        };
        self.run_until(settled, "settled");
    }

    pub fn wait_for_who_is_behind(&mut self) {
        let caught_up = |world: &World| !world.slots().any(|leg| world.is_behind(leg));
        self.run_until(caught_up, "let go after it had been behind");
    }

    /// A leg in sync leaves for good: whatever comes later has another generation.
    fn take_away(&mut self, leg: usize, only: bool) {
        let engine = self.engine.as_ref();
        let ready = engine.is_some_and(|engine| engine.can_take_over(slot(leg)));
        let before = self.current();
        self.feed(Event::Part {
            slot: slot(leg),
            reason: "taken away".into(),
        });
        let gone = self.connections[leg].is_none();
        self.tally.taken_away += u64::from(gone);
        assert!(
            self.is_over() || gone == (ready && !only),
            "a leg is taken away if it says that it is in sync, and is not the last"
        );
        assert!(
            self.is_over() || !gone || self.current() != before,
            "what follows has a generation of its own"
        );
    }

    fn current(&self) -> Option<Generation> {
        let engine = self.engine.as_ref();
        engine.map(|engine| engine.generations().current)
    }

    fn cut_a_link(&mut self) {
        let leg = self.any_leg();
        if leg == self.source || self.connections[leg].is_none() {
            return;
        }
        if self.random.below(4) == 0 {
            // It is the engine that cuts it off, unless it is the last one in sync.
            self.note(|| format!("leg {leg} is removed on order"));
            self.tally.orders += 1;
            let only = self.in_sync() == [leg];
            if self.state(leg) == LegState::InSync && self.random.chance(50) {
                return self.take_away(leg, only);
            }
            self.feed(Event::Remove {
                slot: slot(leg),
                reason: "on order".into(),
            });
            assert!(
                self.is_over() || only == self.connections[leg].is_some(),
                "a leg is removed on order, but for the last one in sync"
            );
            return;
        }
        self.note(|| format!("the link to leg {leg} is cut"));
        self.lose(leg, "cut");
    }

    fn target_loses_power(&mut self) {
        let leg = self.any_leg();
        if leg == self.source {
            return;
        }
        self.note(|| format!("leg {leg} loses power"));
        self.lose_power(leg);
        if self.connections[leg].is_some() {
            self.lose(leg, "power");
        }
    }

    pub fn lose(&mut self, leg: usize, reason: &str) {
        self.disconnect(leg);
        self.feed(Event::Lost {
            slot: slot(leg),
            reason: reason.into(),
        });
    }

    /// A broken disk makes room for a blank one, while others have all that it had.
    fn replace_a_disk(&mut self) {
        let leg = self.any_leg();
        let needed = !self.in_sync().iter().any(|other| self.is_newest(*other));
        if leg == self.source || !self.is_away(leg) || needed {
            return;
        }
        self.note(|| format!("leg {leg} gets a blank disk"));
        self.take_flights_to(leg);
        self.disconnect(leg);
        self.disks[leg] = Disk::blank(self.room() as u64, self.shape, junk(leg));
        self.forgetful[leg] = false;
        self.excused[leg] = false;
        self.tally.replacements += 1;
    }

    /// Another node has been the source of a leg that is away, for the beginning of a resync.
    fn another_node_copies_to_a_leg(&mut self) {
        let leg = self.any_leg();
        let needed = !self.in_sync().iter().any(|other| self.is_newest(*other));
        let away = leg != self.source && self.is_away(leg);
        if !away || needed || self.disks[leg].image().is_none() {
            return;
        }
        self.note(|| format!("another node copies to leg {leg}"));
        self.take_flights_to(leg);
        self.disconnect(leg);
        let chunks = (0..self.disks[leg].shape().chunks()).filter(|_| self.random.chance(30));
        self.disks[leg].begin_foreign_resync(chunks.collect(), junk(leg));
        self.tally.foreign_resyncs += 1;
    }

    /// The source dies; another node, or the same, takes over.
    pub fn crash_source(&mut self) {
        if self.engine.is_none() || self.is_over() {
            return;
        }
        self.tally.crashes += 1;
        self.tally.halts += u64::from(self.is_halted());
        let old = self.source;
        let in_sync: Vec<usize> = self
            .in_sync()
            .into_iter()
            .filter(|leg| self.connections[*leg].is_some())
            .collect();
        self.engine = None;
        let power = self.random.chance(50);
        self.note(|| {
            format!(
                "source {old} crashes ({}), in sync: {in_sync:?}",
                if power { "power" } else { "killed" }
            )
        });
        self.application.forget_questions();
        // What the source had sent may still be in the targets' queues; what it was doing to its own disk is torn.
        if power {
            self.lose_power(old);
        } else {
            self.settle_flights_to(old);
        }
        for leg in self.slots() {
            self.disconnect(leg);
        }
        if power && self.random.chance(20) {
            self.note(|| "all nodes lose power".into());
            for leg in self.slots().filter(|leg| *leg != old) {
                self.lose_power(leg);
            }
        }
        // A leg that has just become equal may not say so on its disk yet: it would refuse to start. A node that went
        // on through its targets after its own disk was expelled must not start from that disk. And a leg may have
        // been told of a new generation that the others never heard of.
        let startable: Vec<usize> = in_sync
            .iter()
            .copied()
            .filter(|leg| self.is_newest(*leg))
            .collect();
        let others: Vec<usize> = startable
            .iter()
            .copied()
            .filter(|leg| *leg != old)
            .collect();
        let next = match others.as_slice() {
            [] if startable.is_empty() => self.newest(),
            [] => old,
            others if !startable.contains(&old) || self.random.chance(60) => {
                others[self.random.below(others.len() as u64) as usize]
            }
            _ => old,
        };
        if next != old {
            self.tally.failovers += 1;
        }
        self.open(next);
    }

    /// The new source opens its disk itself: what the old one had queued there ends before or never. Should the disk say
    /// then that it was being resynced, another is tried.
    fn open(&mut self, mut leg: usize) {
        self.settle_flights_to(leg);
        while !self.disks[leg].is_consistent() {
            leg = self.newest();
            self.settle_flights_to(leg);
        }
        self.start_source(leg);
    }

    /// The leg that no other is newer than, by its own metadata: what an administrator would be told to start.
    pub fn newest(&self) -> usize {
        let newest: Vec<usize> = self.slots().filter(|leg| self.is_newest(*leg)).collect();
        // Two that do not know of each other, after several faults at once: the administrator has to know better.
        let has_everything = |leg: &usize| {
            let disk = &self.disks[*leg];
            (0..self.room()).all(|block| {
                let floor = self.application.floor(block);
                match disk.has(block) {
                    true => self
                        .application
                        .has_written(block, disk.cache[block], floor),
                    false => floor == 0,
                }
            })
        };
        let is_ours = |leg: &usize| {
            let disk = &self.disks[*leg];
            let ours = |block| self.application.has_written(block, disk.cache[block], 0);
            (0..self.room()).all(|block| !disk.has(block) || ours(block))
        };
        let best = newest.iter().copied().find(has_everything);
        best.or(newest.iter().copied().find(is_ours))
            .or(newest.first().copied())
            .expect("a leg can be started without force")
    }

    /// Whether the leg can be started without force, and no other that can is newer. One that can't (it was just about
    /// to be told that it is in sync) never has anything acknowledged that the others have not.
    pub fn is_newest(&self, leg: usize) -> bool {
        let record = |leg: usize| &self.disks[leg].record().generations;
        let consistent = |leg: &usize| self.disks[*leg].is_consistent();
        let mut others = self
            .slots()
            .filter(|other| *other != leg)
            .filter(consistent);
        consistent(&leg)
            && others.all(|other| {
                let decision = decide(record(leg), leg, record(other), other);
                !matches!(decision.verdict, Verdict::FromPeer(_))
            })
    }

    /// The mirror is stopped, while this and that goes on, and started again.
    fn stop_and_start(&mut self) {
        if self.engine.is_none() || self.is_over() {
            return;
        }
        self.note(|| "stop".into());
        self.tally.stops += 1;
        self.tally.halts += u64::from(self.is_halted());
        self.stopping = true;
        self.feed(Event::Stop);
        for _ in 0..self.random.below(12) {
            if self.stopped {
                break;
            }
            match self.random.below(16) {
                0..=3 => self.ask(),
                4..=10 => self.progress_one(),
                11..=12 => self.pass_time(),
                13 => self.connect_a_leg(),
                14 => self.cut_a_link(),
                _ => self.hold_resync(),
            }
            self.check();
        }
        self.run_until(|world| world.stopped, "stopped");
        if self.is_over() {
            return;
        }
        // A stop waits for legs that are written asynchronously.
        for leg in self.in_sync() {
            self.excused[leg] &= self.is_halted();
        }
        // A node whose own disk was expelled goes on through a target; its disk is behind from then on.
        let startable: Vec<usize> = self
            .in_sync()
            .into_iter()
            .filter(|leg| self.is_newest(*leg))
            .collect();
        // Whatever comes now, the legs belong to somebody else.
        self.feed(Event::Tick);
        for leg in self.slots() {
            self.lose(leg, "closed");
        }
        self.ask();
        self.engine = None;
        let next = match startable.first() {
            _ if startable.contains(&self.source) => self.source,
            Some(first) => *first,
            None => self.newest(),
        };
        self.application.forget_questions();
        self.open(next);
    }
}
