//! The promises, checked after every step and at every answer.

use nbd_protocol::command::Command;
use netraid::mirror::generation::{Extent, Generation, Verdict, decide};
use netraid::raid1::engine::DIGESTS;
use netraid::raid1::leg::{LegState, SuperState};

use crate::application::Learned;
use crate::disk::BLOCK;
use crate::flights::Work;
use crate::world::{World, slot};

pub fn tells_digests(command: &Command) -> bool {
    matches!(
        command,
        Command::BlockStatus {
            context: DIGESTS,
            ..
        }
    )
}

impl World {
    /// P1: overlapping writes of one connection are never under way together, nor a write while digests are told.
    pub fn check_order(&self, leg: usize, connection: u64, command: &Command) {
        let ordered = |command: &Command| command.changes_data() || tells_digests(command);
        let (true, Some((offset, length))) = (ordered(command), command.range()) else {
            return;
        };
        for flight in &self.flights {
            if let Work::Data(other) = &flight.work
                && (flight.slot, flight.connection) == (leg, connection)
                && ordered(other)
                && (other.changes_data() || command.changes_data())
                && let Some((start, count)) = other.range()
            {
                let apart = start + count <= offset || offset + length <= start;
                assert!(
                    apart,
                    "overlapping writes under way on leg {leg}: {other:?} and {command:?}"
                );
            }
        }
    }

    /// P2: the bits of a write are durable on the leg that gets it before it gets it.
    pub fn check_bits(&self, leg: usize, command: &Command) {
        let (true, Some((offset, length))) = (command.changes_data(), command.range()) else {
            return;
        };
        for chunk in offset / self.shape.chunk..(offset + length).div_ceil(self.shape.chunk) {
            assert!(
                self.disks[leg].is_dirty(chunk),
                "a write to chunk {chunk} of leg {leg} before its bit: {command:?}"
            );
        }
    }

    /// P3 and P4: a leg that misses something says so durably before it gets anything.
    pub fn check_mark(&self, leg: usize, command: &Command) {
        let state = self.state(leg);
        if !command.changes_data() || !matches!(state, LegState::Attaching | LegState::Resync) {
            return;
        }
        assert!(
            state == LegState::Resync && !self.disks[leg].is_consistent(),
            "leg {leg} ({state:?}) misses something and gets {command:?}, but calls itself consistent"
        );
    }

    /// P1: every leg in sync has what was acknowledged, and on stable storage what was flushed.
    pub fn check_promise(&self, learned: &Learned) {
        for leg in self.slots() {
            if self.connections[leg].is_none() || self.answering_state(leg) != LegState::InSync {
                continue;
            }
            if self.trails(leg) {
                continue;
            }
            let disk = &self.disks[leg];
            match learned {
                Learned::Written {
                    blocks,
                    number,
                    fua,
                } => {
                    for block in blocks
                        .clone()
                        .filter(|block| !self.is_rotten(&[leg], *block))
                    {
                        let what = format!("leg {leg} at an acknowledgement");
                        let value = disk.cache[block];
                        self.application
                            .expect_at_least(block, value, *number, &what);
                        if *fua {
                            let what = format!("leg {leg}'s stable storage at an acknowledgement");
                            let value = disk.stable[block];
                            self.application
                                .expect_at_least(block, value, *number, &what);
                        }
                    }
                }
                Learned::Flushed(floor) => {
                    for (block, floor) in floor.iter().enumerate().take(self.blocks()) {
                        if self.is_rotten(&[leg], block) {
                            continue;
                        }
                        let what = format!("leg {leg}'s stable storage after a flush");
                        let value = disk.stable[block];
                        self.application
                            .expect_at_least(block, value, *floor, &what);
                    }
                }
                Learned::Nothing => {}
            }
        }
    }

    /// Whether the leg gets what was answered before it had it.
    fn trails(&self, leg: usize) -> bool {
        self.engine
            .as_ref()
            .is_some_and(|engine| engine.trails(slot(leg)))
    }

    /// A leg that is written asynchronously may lack what was answered last, until it is in sync in another way, or until
    /// the engine that gave it up has written that down.
    fn note_excuses(&mut self) {
        let Some(engine) = &self.engine else { return };
        let settled = engine.everything_is_durable() && engine.halted().is_none();
        for leg in self.slots() {
            let state = engine.state(slot(leg));
            let waits = |flight: &crate::flights::Flight| {
                flight.slot == leg && self.connections[leg] == Some(flight.connection)
            };
            if state == LegState::InSync && engine.trails(slot(leg)) {
                self.excused[leg] = true;
                self.tally.ahead += u64::from(engine.behind(slot(leg)).unwrap_or(0) > 0);
            } else if state == LegState::InSync && !self.flights.iter().any(waits) {
                self.excused[leg] = false;
            } else if self.states[leg] == LegState::InSync && state == LegState::Absent {
                self.cut_off[leg] = true;
            }
            if state != LegState::Absent {
                self.cut_off[leg] = false;
            } else if self.cut_off[leg] && settled {
                self.excused[leg] = false;
            }
        }
    }

    /// A leg that calls itself consistent is a state that the source once had: with a write it has all that was answered
    /// before that was asked for, and on stable storage all that was flushed.
    fn check_images_were_states_once(&self) {
        for leg in self.slots() {
            let disk = &self.disks[leg];
            if !disk.is_consistent() {
                continue;
            }
            let (acknowledged, durable) = self.application.before_newest(&disk.cache);
            for block in (0..self.blocks()).filter(|block| disk.has(*block)) {
                let (cache, stable) = (disk.cache[block], disk.stable[block]);
                let floor = acknowledged.map_or(0, |floors| floors[block]);
                assert!(
                    self.application.is_at_least(block, cache, floor),
                    "leg {leg} was never so: block {block} holds {cache}, but {floor} came before its newest write"
                );
                let floor = durable[block];
                assert!(
                    self.application.is_at_least(block, stable, floor),
                    "leg {leg} without power was never so: block {block} holds {stable}, but {floor} was flushed before its newest write"
                );
            }
        }
    }

    fn answering_state(&self, leg: usize) -> LegState {
        self.engine
            .as_ref()
            .map_or(LegState::InSync, |engine| engine.state(slot(leg)))
    }

    pub fn check(&mut self) {
        let Some(engine) = &self.engine else { return };
        let states: Vec<LegState> = self.slots().map(|leg| engine.state(slot(leg))).collect();
        for (leg, (before, after)) in self.states.iter().zip(&states).enumerate() {
            if *before == LegState::Finishing && *after == LegState::InSync {
                self.tally.resyncs += 1;
            }
            if *after == LegState::InSync {
                self.forgetful[leg] = false;
            }
            // P6: whoever was there and is not any more has a reason.
            assert!(
                *before == LegState::Absent
                    || *after != LegState::Absent
                    || engine
                        .reason(slot(leg))
                        .is_some_and(|reason| !reason.is_empty()),
                "leg {leg} went away without a reason"
            );
        }
        self.note_excuses();
        self.check_pace();
        self.states = states;
        self.check_in_sync_legs_are_equal();
        self.check_differences_are_marked();
        self.check_what_a_kernel_takes_for_clean();
        self.check_newest_legs_have_what_was_flushed();
        self.check_legs_that_are_copied_to_say_so();
        self.check_images_were_states_once();
    }

    /// A leg that has received part of what it missed is of no time at all, and must not be taken for consistent if
    /// the source dies now.
    fn check_legs_that_are_copied_to_say_so(&self) {
        let Some(source) = self
            .slots()
            .find(|leg| self.states[*leg] == LegState::InSync)
        else {
            return;
        };
        for leg in self.slots() {
            let (disk, source) = (&self.disks[leg], &self.disks[source]);
            let copied_to = matches!(self.states[leg], LegState::Attaching | LegState::Resync)
                && self.written_to[leg];
            if !copied_to || !disk.is_consistent() {
                continue;
            }
            for block in 0..self.blocks() {
                // One that was equal and waits to be marked got nothing since: it is of the time before.
                let parted = self.states[leg] == LegState::Attaching && self.parted[leg][block];
                assert!(
                    disk.cache[block] == source.cache[block]
                        || parted
                        || self.is_being_written(block),
                    "leg {leg} has received some of what it missed but not block {block}, and calls itself consistent"
                );
            }
        }
    }

    /// P3: legs in sync hold the same, except where a write is under way.
    fn check_in_sync_legs_are_equal(&self) {
        let mut in_sync = self
            .slots()
            .filter(|leg| self.states[*leg] == LegState::InSync);
        let Some(first) = in_sync.next() else {
            return;
        };
        for other in in_sync {
            let (one, two) = (&self.disks[first].cache, &self.disks[other].cache);
            for block in 0..self.blocks() {
                assert!(
                    one[block] == two[block]
                        || self.is_being_written(block)
                        || self.is_unknown(first, block)
                        || self.is_unknown(other, block)
                        || self.is_rotten(&[first, other], block),
                    "legs {first} and {other} are in sync, but block {block} holds {} and {}",
                    one[block],
                    two[block]
                );
            }
        }
    }

    /// The engine knows that it does not know what the leg has there: a write failed, and the application was told.
    fn is_unknown(&self, leg: usize, block: usize) -> bool {
        let engine = self.engine.as_ref();
        engine.is_some_and(|engine| engine.is_unknown(slot(leg), block as u64 * BLOCK, BLOCK))
    }

    /// What a failed write left is never read while another leg has what it should be.
    pub fn check_read(&self, leg: usize, command: &Command) {
        let (Command::Read { .. }, Some((offset, length))) = (command, command.range()) else {
            return;
        };
        let blocks = offset / BLOCK..(offset + length) / BLOCK;
        let unknown = |leg: usize| {
            blocks
                .clone()
                .any(|block| self.is_unknown(leg, block as usize))
        };
        assert!(
            !unknown(leg) || self.in_sync().into_iter().all(unknown),
            "leg {leg} is asked for {command:?} although a write failed there"
        );
    }

    /// Whether no leg has bytes that wait to be written to it again, nor will have by what has failed already.
    pub fn is_sound(&self) -> bool {
        let engine = self.engine.as_ref();
        let failed = |leg: usize| engine.map_or(0, |engine| engine.io_errors(slot(leg)).failed);
        let fails = |flight: &crate::flights::Flight| matches!(flight.outcome, Some(Err(_)));
        self.slots().all(|leg| failed(leg) == 0) && !self.flights.iter().any(fails)
    }

    fn is_being_written(&self, block: usize) -> bool {
        let at = block as u64 * BLOCK;
        self.flights.iter().any(|flight| match &flight.work {
            Work::Data(command) if command.changes_data() => command
                .range()
                .is_some_and(|(offset, length)| (offset..offset + length).contains(&at)),
            _ => false,
        })
    }

    /// P2: whatever may differ between two legs, now or after a power failure, is marked on one of them.
    fn check_differences_are_marked(&self) {
        for one in self.slots() {
            for two in one + 1..self.shape.slots {
                self.check_pair(one, two);
            }
        }
    }

    /// P1 and P4: a leg that its own metadata, and that of all others, allows to be started has on stable storage what was
    /// flushed. (Two that were written without each other are for the administrator to judge.)
    fn check_newest_legs_have_what_was_flushed(&self) {
        for leg in self.slots() {
            if self.excused[leg] || !self.disks[leg].is_consistent() || !self.is_newer_than_all(leg)
            {
                continue;
            }
            let what = format!("leg {leg}, which may be started,");
            for (block, value) in self.disks[leg].stable.iter().enumerate() {
                if self.is_rotten(&[leg], block) {
                    continue;
                }
                let floor = self.application.durable_floor(block);
                if !self.disks[leg].has(block) {
                    assert_eq!(floor, 0, "{what} ends before block {block}");
                    continue;
                }
                self.application
                    .expect_at_least(block, *value, floor, &what);
            }
        }
    }

    /// Whether every other leg that can be started is known to be no newer.
    fn is_newer_than_all(&self, leg: usize) -> bool {
        let record = |leg: usize| &self.disks[leg].record().generations;
        self.slots()
            .filter(|other| *other != leg && self.disks[*other].is_consistent())
            .all(|other| {
                let decision = decide(record(leg), leg, record(other), other);
                matches!(decision.verdict, Verdict::Same | Verdict::ToPeer(_))
            })
    }

    /// P2 as md sees it: assembled by a kernel, a complete array that says "clean" is taken as it is, whatever its bits
    /// say (linux/drivers/md/md-bitmap.c, `md_bitmap_load`). So its legs must hold the same, after a power failure too.
    fn check_what_a_kernel_takes_for_clean(&self) {
        let states: Option<Vec<&SuperState>> =
            self.disks.iter().map(|disk| disk.super_state()).collect();
        let Some(states) = states else { return };
        let newest = states.iter().max_by_key(|state| state.events);
        // The kernel goes by the newest superblock's size.
        let newest_disk = self
            .disks
            .iter()
            .max_by_key(|disk| disk.super_state().map(|state| state.events));
        let Some(newest) = newest.filter(|newest| newest.clean) else {
            return;
        };
        // One event less is as good (linux/drivers/md/md.c, `super_1_validate`).
        let taken = |state: &&SuperState| !state.recovering && state.events + 1 >= newest.events;
        if newest.active.count() < states.len() || !states.iter().all(taken) {
            return;
        }
        let first = &self.disks[0];
        for (leg, disk) in self.disks.iter().enumerate() {
            for block in
                (0..self.room()).filter(|block| newest_disk.is_some_and(|it| it.has(*block)))
            {
                let value = first.stable[block];
                assert!(
                    disk.cache[block] == value && disk.stable[block] == value
                        || self.is_rotten(&[0, leg], block),
                    "a kernel would take the array for clean, but block {block} may differ on leg {leg}"
                );
            }
        }
    }

    fn check_pair(&self, one: usize, two: usize) {
        let (a, b) = (&self.disks[one], &self.disks[two]);
        let decision = decide(&a.record().generations, one, &b.record().generations, two);
        let by_bits = matches!(
            decision.verdict,
            Verdict::Same | Verdict::ToPeer(Extent::Partial) | Verdict::FromPeer(Extent::Partial)
        );
        if !by_bits || a.record().generations.current == Generation::NONE {
            return;
        }
        // What only one of them has counts as different when they meet.
        let judged = |block: &usize| !self.is_rotten(&[one, two], *block);
        for block in (0..self.room())
            .filter(|block| a.has(*block) && b.has(*block))
            .filter(judged)
        {
            let equal = a.cache[block] == b.cache[block]
                && a.stable[block] == a.cache[block]
                && b.stable[block] == b.cache[block];
            let chunk = block as u64 * BLOCK / self.shape.chunk;
            assert!(
                equal || a.is_dirty(chunk) || b.is_dirty(chunk),
                "block {block} may differ between legs {one} and {two} ({decision:?}), but no bit says so: {}/{} {}/{}",
                a.cache[block],
                a.stable[block],
                b.cache[block],
                b.stable[block]
            );
        }
    }
}
