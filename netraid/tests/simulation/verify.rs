//! A block of a target rots, and a verify goes over the mirror: it finds that, marks it, and nothing else.

use nbd_protocol::command::Command;
use netraid::raid1::engine::{Event, Terms, Verify, VerifyOrder};
use netraid::raid1::leg::{LegState, SlotSet};

use crate::disk::BLOCK;
use crate::flights::{Flight, Work};
use crate::world::{World, slot};

/// Turned over in a block that rots: no write has such a number.
const ROT: u32 = 0x4000_0000;

impl World {
    /// Whether the block is rotten on one of these legs: for the moment no promise holds for it.
    pub fn is_rotten(&self, legs: &[usize], block: usize) -> bool {
        self.rotten
            .is_some_and(|(leg, rotten)| rotten == block && legs.contains(&leg))
    }

    /// Verifies while whatever is under way goes on, and repairs what is found.
    pub fn verify(&mut self) {
        // Not where the source dies at some moment: then nobody would be left to tell of the rot.
        if self.last_moment.is_some() || self.stopping || self.is_halted() {
            return;
        }
        let source = self.source;
        let targets: Vec<usize> = self
            .in_sync()
            .into_iter()
            .filter(|leg| *leg != source)
            .collect();
        // What rots undetected may be what a repair reads.
        if targets.is_empty() || self.state(source) != LegState::InSync || !self.is_sound() {
            return;
        }
        let leg = targets[self.random.below(targets.len() as u64) as usize];
        let block = self.random.below(self.blocks() as u64) as usize;
        // Nor may anybody be reading there: what was asked for before is not the verify's to find.
        let reads = |flight: &Flight| {
            flight.slot == leg && matches!(flight.work, Work::Data(Command::Read { .. }))
        };
        let rots = self.random.chance(70) && !self.flights.iter().any(reads);
        let repair = self.random.chance(50);
        if rots {
            self.note(|| format!("block {block} of leg {leg} rots"));
            self.turn_over(leg, block);
            self.rotten = Some((leg, block));
        }
        let disk = &self.disks[leg];
        let bad = (disk.cache[block], disk.stable[block]);
        let order = VerifyOrder {
            targets: SlotSet::EMPTY,
            start: 0,
            stop: u64::MAX,
            rate: 0,
            repair,
        };
        self.feed(Event::Verify(order));
        let ended = |world: &World| {
            let verify = world.engine.as_ref().and_then(|engine| engine.verify());
            verify.is_none_or(|verify| verify.ended.is_some())
        };
        self.run_until(ended, "verified");
        let engine = self.engine.as_ref().expect("nobody dies meanwhile");
        let verify = engine.verify().cloned();
        let whole = verify
            .as_ref()
            .is_some_and(|verify| verify.ended == Some(Ok(())));
        let stays = self.disks[leg].cache[block] == bad.0;
        let found = verify.is_some_and(|verify| self.judge(&verify, leg, block, stays));
        if found {
            self.tally.rot += 1;
            self.marks_stay(leg, block, repair, whole);
            self.take_back(leg);
        }
        // A leg that left meanwhile, or a write that came: then it is as if nothing had been.
        if rots {
            self.rotten = None;
            let disk = &mut self.disks[leg];
            // A flush may have brought it from the cache to the disk meanwhile.
            for kept in [&mut disk.cache[block], &mut disk.stable[block]] {
                if *kept == bad.0 || *kept == bad.1 {
                    *kept ^= ROT;
                }
            }
        }
        self.tally.verifies += 1;
        self.check();
    }

    fn turn_over(&mut self, leg: usize, block: usize) {
        self.disks[leg].cache[block] ^= ROT;
        self.disks[leg].stable[block] ^= ROT;
    }

    /// What was told is so, and what is so was told; whether the rot was found.
    fn judge(&self, verify: &Verify, leg: usize, block: usize, stays: bool) -> bool {
        let at = block as u64 * BLOCK;
        for of in &verify.differences {
            assert!(
                self.rotten.is_some()
                    && of.slot == slot(leg)
                    && (of.offset..of.offset + of.length).contains(&at),
                "a false accusation: {of:?}"
            );
        }
        assert_eq!(verify.differing > 0, !verify.differences.is_empty());
        let found = verify.differing > 0;
        if verify.ended == Some(Ok(())) && self.rotten.is_some() {
            assert!(
                found || !stays,
                "block {block} of leg {leg} is rotten, and was not found"
            );
        }
        found
    }

    /// What was found is marked durably on both sides, and no cleaning drops that.
    fn marks_stay(&mut self, leg: usize, block: usize, repair: bool, whole: bool) {
        let chunk = block as u64 * BLOCK / self.shape.chunk;
        let source = self.source;
        let marked = |world: &World| {
            // A leg that was given up meanwhile may not have heard of it: the source's mark is what it is copied by.
            let bearers = if whole {
                vec![source, leg]
            } else {
                vec![source]
            };
            for leg in bearers {
                assert!(
                    world.disks[leg].is_dirty(chunk),
                    "chunk {chunk} was found to differ, and is not marked on leg {leg}"
                );
            }
        };
        marked(self);
        if repair {
            assert_eq!(
                self.state(leg),
                LegState::Absent,
                "it is to be copied again"
            );
            return;
        }
        for _ in 0..3 {
            self.now += 6000;
            self.feed(Event::Tick);
            self.run_until(|world| world.flights.is_empty(), "quiet");
            if self.state(leg) == LegState::InSync {
                marked(self);
            }
        }
        let reason = "for the repair".into();
        let slot = slot(leg);
        self.feed(Event::Remove { slot, reason });
    }

    /// The leg returns, and gets what is marked.
    fn take_back(&mut self, leg: usize) {
        self.join(leg, Terms::default());
        self.feed(Event::PauseResync(false));
        let settled = |world: &World| {
            matches!(world.state(leg), LegState::InSync | LegState::Absent)
                && world.flights.is_empty()
        };
        self.run_until(settled, "repaired");
        let (one, two) = (&self.disks[leg], &self.disks[self.source]);
        if self.state(leg) == LegState::InSync
            && let Some((_, block)) = self.rotten
        {
            assert_eq!(
                one.cache[block], two.cache[block],
                "block {block} of leg {leg} is still rotten after a resync"
            );
            self.rotten = None;
        }
    }
}
