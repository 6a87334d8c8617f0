//! Operations between the engine and the disks: in which order they land, fail, tear or hang.

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Errno, Failure, Outcome};
use netraid::raid1::engine::{DIGESTS, Event, OperationId, Order};
use netraid::raid1::leg::{LegState, Slot};

use crate::checks::tells_digests;
use crate::disk::{BLOCK, MetadataStep};
use crate::world::World;

/// What one operation does to a disk.
#[derive(Clone, Debug)]
pub enum Work {
    Data(Command),
    Metadata(Vec<MetadataStep>),
}

/// An operation that a leg has received, or will.
#[derive(Debug)]
pub struct Flight {
    pub operation: OperationId,
    pub slot: usize,
    /// The connection that it came over; when that is gone, nobody hears of it any more.
    pub connection: u64,
    pub work: Work,
    /// Its place, if the leg does what it gets in order.
    pub order: Option<Order>,
    /// What it answers, once it was performed.
    pub outcome: Option<Outcome>,
    /// It never comes to an end by itself.
    pub hangs: bool,
}

/// A leg that was equal to the last one in sync until that one failed something: about to be marked, or to be told to.
const BEFORE_MARKING: [LegState; 2] = [LegState::Finishing, LegState::Attaching];

impl World {
    pub fn launch(&mut self, operation: OperationId, slot: Slot, order: Option<Order>, work: Work) {
        let slot = slot.number();
        assert!(
            !self.stopped,
            "nothing is sent to a leg once the mirror is stopped"
        );
        let connection = self.connections[slot].expect("effects go to connected legs only");
        self.note(|| format!("  {operation:?} to leg {slot}: {work:?}"));
        if let Work::Data(command) = &work {
            if order.is_none() {
                self.check_order(slot, connection, command);
                self.check_bits(slot, command);
            }
            self.check_mark(slot, command);
            self.check_read(slot, command);
        }
        let hangs = self.errors > 0 && self.random.chance(1);
        self.flights.push(Flight {
            operation,
            slot,
            connection,
            work,
            order,
            outcome: None,
            hangs,
        });
    }

    /// Lets one operation go on: it is performed, or its answer arrives.
    pub fn progress_one(&mut self) {
        if self.flights.is_empty() || !self.is_alive() {
            return;
        }
        let index = self.random.below(self.flights.len() as u64) as usize;
        let index = self.first_in_order(index);
        if self.flights[index].hangs {
            return;
        }
        let mut flight = self.flights.swap_remove(index);
        let current = self.connections[flight.slot] == Some(flight.connection);
        if flight.outcome.is_none() && self.broken.contains(&flight.connection) {
            flight.outcome = Some(Err(simulated()));
        }
        if flight.outcome.is_none() {
            let chance = self.chance_of_failure(&flight);
            let fails = self.errors > 0 && current && self.random.chance(chance);
            let reads = matches!(flight.work, Work::Data(Command::Read { .. }));
            if fails && flight.order.is_some() && !reads {
                self.broken.insert(flight.connection);
            }
            if fails && matches!(flight.work, Work::Data(Command::Flush)) {
                self.fail_flush(flight);
                return;
            }
            if fails {
                self.tear(&flight);
                self.note_refused_write(&flight);
                flight.outcome = Some(Err(simulated()));
            } else {
                self.perform(&mut flight);
            }
            if current && self.random.chance(50) {
                self.flights.push(flight);
                return;
            }
        }
        if current {
            self.deliver(flight);
        }
    }

    /// What goes before the flight at `index` on its connection, if that is kept in order.
    fn first_in_order(&self, index: usize) -> usize {
        let flight = &self.flights[index];
        if flight.order.is_none() || flight.outcome.is_some() {
            return index;
        }
        let earlier = |other: &usize| {
            let other = &self.flights[*other];
            (other.slot, other.connection) == (flight.slot, flight.connection)
                && other.order.is_some()
                && other.outcome.is_none()
        };
        (0..self.flights.len())
            .filter(earlier)
            .min_by_key(|other| self.flights[*other].order)
            .unwrap_or(index)
    }

    /// In percent. The only leg in sync fails more often while another is in its last flush and calls itself consistent: a
    /// short moment that is hardly ever hit otherwise.
    fn chance_of_failure(&self, flight: &Flight) -> u64 {
        let delicate = self
            .slots()
            .any(|leg| self.state(leg) == LegState::Finishing && self.disks[leg].is_consistent())
            && self.state(flight.slot) == LegState::InSync
            && matches!(&flight.work, Work::Data(command) if command.changes_data() || *command == Command::Flush);
        // What the source's own disk fails of data is worse than elsewhere: it may be kept all the same.
        let data = matches!(&flight.work, Work::Data(command) if *command != Command::Flush);
        match (delicate, flight.slot == self.source && data) {
            (true, _) => 20,
            (false, true) => 3,
            (false, false) => 1,
        }
    }

    fn fail_flush(&mut self, mut flight: Flight) {
        let leg = flight.slot;
        flight.outcome = Some(Err(simulated()));
        let before = self.disks[leg].lost.clone();
        self.disks[leg].fail_flush(&mut self.random);
        self.application.something_was_lost();
        // The last leg in sync is kept all the same. What it lost has to come to the application's ears.
        if self.in_sync() == [leg] {
            for (block, before) in before.into_iter().enumerate() {
                if self.disks[leg].lost[block] && !before {
                    self.application.doubt(block);
                    self.note_parted(block, &BEFORE_MARKING);
                }
            }
        }
        self.deliver(flight);
    }

    /// The last leg in sync is kept although it failed a write.
    fn note_refused_write(&mut self, flight: &Flight) {
        if let Work::Data(command) = &flight.work
            && command.changes_data()
            && self.in_sync() == [flight.slot]
            && let Some((offset, length)) = command.range()
        {
            for block in offset / BLOCK..(offset + length) / BLOCK {
                self.note_parted(block as usize, &BEFORE_MARKING);
            }
        }
    }

    /// A leg in one of these states that was equal to the last one in sync may have something else in this block now.
    fn note_parted(&mut self, block: usize, states: &[LegState]) {
        for leg in self.slots() {
            if states.contains(&self.state(leg)) {
                self.parted[leg][block] = true;
            }
        }
    }

    fn deliver(&mut self, flight: Flight) {
        let outcome = flight.outcome.expect("performed");
        self.note(|| {
            format!(
                "{:?} on leg {} ends: {outcome:?}",
                flight.operation, flight.slot
            )
        });
        self.feed(Event::Done {
            operation: flight.operation,
            outcome,
        });
        // A server that keeps order ends the connection on which it failed.
        let leg = flight.slot;
        if self.broken.contains(&flight.connection)
            && self.connections[leg] == Some(flight.connection)
            && !self.is_over()
        {
            self.lose(leg, "the stream has ended");
        }
    }

    /// Does the work on the disk. An operation of an older connection that overlaps goes first: the server keeps
    /// overlapping ones in order of arrival over all connections, and digests behind writes.
    pub fn perform(&mut self, flight: &mut Flight) {
        while let Some(index) = self.flights.iter().position(|other| {
            other.slot == flight.slot
                && other.connection < flight.connection
                && other.outcome.is_none()
                && (other.order.is_some() || overlaps(&other.work, &flight.work))
        }) {
            let index = self.first_in_order(index);
            let mut other = self.flights.swap_remove(index);
            self.perform(&mut other);
        }
        let changes = matches!(&flight.work, Work::Data(command) if command.changes_data());
        if changes && self.connections[flight.slot] == Some(flight.connection) {
            self.written_to[flight.slot] = true;
        }
        if let Work::Data(command) = &flight.work
            && changes
            && self.state(flight.slot) == LegState::InSync
            && let Some((offset, length)) = command.range()
        {
            for block in offset / BLOCK..(offset + length) / BLOCK {
                self.note_parted(block as usize, &[LegState::Attaching]);
            }
        }
        if let (Some(_), Work::Data(command)) = (flight.order, &flight.work) {
            self.check_bits(flight.slot, command);
        }
        let disk = &mut self.disks[flight.slot];
        let answer = match &flight.work {
            Work::Metadata(steps) => {
                steps.iter().for_each(|step| disk.apply_metadata(step));
                Answer::Done
            }
            Work::Data(Command::Write { offset, data, fua }) => {
                disk.write(*offset, data, *fua);
                Answer::Done
            }
            Work::Data(Command::WriteZeroes {
                offset,
                length,
                fua,
                ..
            }) => {
                disk.write(*offset, &vec![0; *length as usize], *fua);
                Answer::Done
            }
            Work::Data(Command::Read { offset, length }) => {
                Answer::Data(Bytes::from(disk.read(*offset, u64::from(*length))))
            }
            Work::Data(Command::Flush) => {
                disk.flush();
                Answer::Done
            }
            Work::Data(Command::BlockStatus {
                offset,
                length,
                context: DIGESTS,
                ..
            }) => {
                self.tally.digests += 1;
                // Some answers end early; some servers have none.
                if self.random.chance(3) {
                    flight.outcome = Some(Err(Failure::new(Errno::ENOTSUP, "no digests here")));
                    return;
                }
                let length = match self.random.chance(10) {
                    true => (length / 2 / BLOCK).max(1) * BLOCK,
                    false => *length,
                };
                Answer::Extents(disk.digests(*offset, length))
            }
            Work::Data(other) => panic!("the engine sent {other:?} to a leg"),
        };
        flight.outcome = Some(Ok(answer));
    }

    /// Performs only a part of an operation.
    pub fn tear(&mut self, flight: &Flight) {
        let disk = &mut self.disks[flight.slot];
        match &flight.work {
            Work::Data(Command::Write { offset, data, .. }) => {
                let blocks = self.random.below(data.len() as u64 / BLOCK + 1) * BLOCK;
                disk.write(*offset, &data[..blocks as usize], false);
            }
            Work::Data(Command::WriteZeroes { offset, length, .. }) => {
                let blocks = self.random.below(length / BLOCK + 1) * BLOCK;
                disk.write(*offset, &vec![0; blocks as usize], false);
            }
            Work::Data(_) => {}
            Work::Metadata(steps) => {
                let whole = self.random.below(steps.len() as u64 + 1) as usize;
                for step in &steps[..whole] {
                    disk.apply_metadata(step);
                }
                if let Some(step) = steps.get(whole) {
                    disk.tear_metadata(step, &mut self.random);
                }
            }
        }
    }

    /// A connection is gone. What the leg has received over it may still be done; of metadata, which is sent step by
    /// step, that is only a part.
    pub fn disconnect(&mut self, leg: usize) {
        if self.connections[leg].take().is_none() {
            return;
        }
        self.cut_streams_to(leg);
        for flight in &mut self.flights {
            if let Work::Metadata(steps) = &mut flight.work
                && flight.slot == leg
                && flight.order.is_none()
                && flight.outcome.is_none()
            {
                steps.truncate(self.random.below(steps.len() as u64 + 1) as usize);
            }
        }
    }

    /// Of what was sent in order only a beginning has been received; metadata is sent step by step.
    fn cut_streams_to(&mut self, leg: usize) {
        let (mut streamed, rest): (Vec<Flight>, Vec<Flight>) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|it| it.slot == leg && it.order.is_some() && it.outcome.is_none());
        self.flights = rest;
        streamed.sort_by_key(|flight| flight.order);
        streamed.truncate(self.random.below(streamed.len() as u64 + 1) as usize);
        if let Some(Work::Metadata(steps)) = streamed.last_mut().map(|last| &mut last.work) {
            steps.truncate(self.random.below(steps.len() as u64 + 1) as usize);
        }
        self.flights.append(&mut streamed);
    }

    /// What was on its way to the disk may be torn; what was in its cache may be lost.
    pub fn lose_power(&mut self, leg: usize) {
        let mut ended = false;
        for flight in self.take_flights_to(leg) {
            if flight.outcome.is_some() || ended {
                continue;
            }
            ended = flight.order.is_some();
            if self.random.chance(50) && !self.broken.contains(&flight.connection) {
                self.tear(&flight);
            }
        }
        self.disks[leg].lose_power(&mut self.random);
        self.forgetful[leg] = true;
        self.application.something_was_lost();
    }

    /// What was sent to a leg ends before anything else happens to it: done, done in part, or never.
    pub fn settle_flights_to(&mut self, leg: usize) {
        let mut ended = false;
        for mut flight in self.take_flights_to(leg) {
            if flight.outcome.is_some() || ended || self.broken.contains(&flight.connection) {
                continue;
            }
            let choice = self.random.below(3);
            // What came behind something that was not done, or not wholly, was not done either.
            ended = flight.order.is_some() && choice > 0;
            match choice {
                0 => self.perform(&mut flight),
                1 => self.tear(&flight),
                _ => {}
            }
        }
    }

    /// Those that are kept in order come in their order, the others before them.
    pub fn take_flights_to(&mut self, leg: usize) -> Vec<Flight> {
        let (mut taken, kept): (Vec<Flight>, Vec<Flight>) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|flight| flight.slot == leg);
        self.flights = kept;
        taken.sort_by_key(|flight| flight.order);
        taken
    }

    /// Without further faults, goes on until `reached`.
    pub fn run_until(&mut self, reached: impl Fn(&World) -> bool, what: &str) {
        let errors = std::mem::take(&mut self.errors);
        for _ in 0..20_000 {
            if reached(self) || self.is_over() {
                self.errors = errors;
                return;
            }
            self.flights
                .iter_mut()
                .for_each(|flight| flight.hangs = false);
            if self.flights.is_empty() {
                self.now += 300;
                self.feed(Event::Tick);
            }
            self.progress_one();
            self.check();
        }
        panic!("never {what}");
    }
}

fn simulated() -> Failure {
    Failure::new(Errno::EIO, "simulated")
}

fn overlaps(one: &Work, two: &Work) -> bool {
    match (one, two) {
        (Work::Metadata(_), Work::Metadata(_)) => true,
        // Digests wait for older writes like a write does: what lands behind them would make them a lie.
        (Work::Data(one), Work::Data(two))
            if one.changes_data() && (two.changes_data() || tells_digests(two)) =>
        {
            match (one.range(), two.range()) {
                (Some((a, m)), Some((b, n))) => a < b + n && b < a + m,
                _ => false,
            }
        }
        _ => false,
    }
}
