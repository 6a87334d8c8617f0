//! Nodes, disks and links around the engine: what it asks for is performed here, some day and perhaps in part.

use std::collections::HashSet;

use nbd_protocol::command::Outcome;
use netraid::raid1::engine::{
    Effect, Engine, Event, Hold, IdSource, OnCongestion, RequestId, Settings, Shape,
};
use netraid::raid1::leg::{LegState, Slot, SlotSet};

use crate::application::Application;
use crate::disk::{BLOCK, Disk, brief, steps};
use crate::flights::{Flight, Work};
use crate::random::Random;
use crate::tally::Tally;

/// Everything that there is.
pub struct World {
    pub random: Random,
    trace: bool,
    pub shape: Shape,
    pub disks: Vec<Disk>,
    /// The connection of each leg to the engine that runs now.
    pub connections: Vec<Option<u64>>,
    next_connection: u64,
    pub flights: Vec<Flight>,
    pub engine: Option<Engine>,
    pub source: usize,
    pub application: Application,
    pub now: u64,
    pub tally: Tally,
    pub states: Vec<LegState>,
    pub stopped: bool,
    /// The mirror was told to stop: no new request may succeed.
    pub stopping: bool,
    /// Zero: nothing fails or hangs by itself.
    pub errors: u64,
    /// Legs that lost what was not flushed, since they were in sync last.
    pub forgetful: Vec<bool>,
    /// Legs that have received data over the connection that they have now.
    pub written_to: Vec<bool>,
    /// For each leg that was equal to the only one in sync and is to be copied to again, the blocks in which it may differ
    /// although it got nothing since: that one failed to write them or lost them, or they were written there meanwhile.
    pub parted: Vec<Vec<bool>>,
    /// Legs written asynchronously, when they are not the source's own.
    pub asynchronous: SlotSet,
    /// Legs that may lack what was answered and flushed last, as protocol A allows, although nobody wrote that down.
    pub excused: Vec<bool>,
    /// Most pieces of a resync that may be under way, and most bytes of one.
    pub pieces: (usize, u64),
    /// While a resync is held: the pieces that were under way when it was looked at last.
    pub held: Option<usize>,
    /// Legs that the engine that runs now has cut off while they were in sync.
    pub cut_off: Vec<bool>,
    /// Ordered connections that have failed something: nothing more is performed.
    pub broken: HashSet<u64>,
    /// The leg and the block that rots at this moment.
    pub rotten: Option<(usize, usize)>,
    /// Legs that have to have what is answered.
    pub guard: SlotSet,
    /// What was ordered of requests.
    pub hold: Hold,
    /// Before and after the event that is being handled nothing may be answered with success.
    pub silent: bool,
    /// Events and operations so far: the moments at which the source can die.
    pub moments: u64,
    /// The moment at which everything stops, for the source to die.
    pub last_moment: Option<u64>,
}

pub fn slot(number: usize) -> Slot {
    Slot::new(number).unwrap()
}

impl World {
    pub fn new(seed: u64, trace: bool, last_moment: Option<u64>) -> World {
        let mut random = Random::new(seed);
        let slots = [2, 2, 2, 3, 3, 4][random.below(6) as usize];
        let chunk_blocks = [1, 2, 4, 8][random.below(4) as usize];
        let blocks = 8 + random.below(40);
        // The disks have room for a mirror that grows.
        let room = blocks + [0, 1, 7, 30][seed as usize / 4 % 4];
        let shape = Shape {
            size: blocks * BLOCK,
            chunk: chunk_blocks * BLOCK,
            slots,
        };
        let mut disks: Vec<Disk> = (0..slots)
            .map(|slot| Disk::blank(room, shape, junk(slot)))
            .collect();
        // The first disk begins as zeroes: the application knows what it holds.
        disks[0] = Disk::blank(room, shape, 0);
        disks[0].format(Engine::create(shape, slot(0), &mut IdSource::new(seed)));
        // Of three schedules one has legs that are written asynchronously, perhaps all.
        let asynchronous = match seed % 3 {
            0 => (0..slots).filter(|_| random.chance(60)).map(slot).collect(),
            _ => SlotSet::EMPTY,
        };
        let mut world = World {
            asynchronous,
            excused: vec![false; slots],
            pieces: (0, 0),
            held: None,
            cut_off: vec![false; slots],
            broken: HashSet::new(),
            random,
            trace,
            shape,
            disks,
            connections: vec![None; slots],
            next_connection: 1,
            flights: Vec::new(),
            engine: None,
            source: 0,
            application: Application::new(room as usize),
            now: 0,
            tally: Tally::default(),
            states: vec![LegState::Absent; slots],
            stopped: false,
            stopping: false,
            errors: seed % 4,
            forgetful: vec![false; slots],
            written_to: vec![false; slots],
            parted: vec![vec![false; room as usize]; slots],
            rotten: None,
            guard: SlotSet::EMPTY,
            hold: Hold::No,
            silent: false,
            moments: 0,
            last_moment,
        };
        world.start_source(0);
        world
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:4} {:6} {}", self.tally.steps, self.now, text());
        }
    }

    pub fn tally(&self) -> Tally {
        Tally {
            acknowledged: self.application.acknowledged_writes,
            ..self.tally
        }
    }

    pub fn slots(&self) -> std::ops::Range<usize> {
        0..self.shape.slots
    }

    /// Blocks of the disks, of which the mirror may have fewer.
    pub fn room(&self) -> usize {
        self.disks[0].cache.len()
    }

    /// Blocks of the mirror.
    pub fn blocks(&self) -> usize {
        (self.shape.size / BLOCK) as usize
    }

    /// How the leg takes part now; absent if nobody runs the mirror.
    pub fn state(&self, leg: usize) -> LegState {
        self.engine
            .as_ref()
            .map_or(LegState::Absent, |engine| engine.state(slot(leg)))
    }

    /// Away, and nothing is on its way to it any more that the engine waits for.
    pub fn is_away(&self, leg: usize) -> bool {
        self.state(leg) == LegState::Absent && !self.is_behind(leg)
    }

    pub fn is_behind(&self, leg: usize) -> bool {
        let engine = self.engine.as_ref();
        engine.is_some_and(|engine| engine.is_behind(slot(leg)))
    }

    pub fn in_sync(&self) -> Vec<usize> {
        self.slots()
            .filter(|leg| self.state(*leg) == LegState::InSync)
            .collect()
    }

    pub fn is_halted(&self) -> bool {
        self.engine
            .as_ref()
            .is_some_and(|engine| engine.halted().is_some())
    }

    /// One more event or operation; false when the source's last moment has come.
    pub fn is_alive(&mut self) -> bool {
        if self.last_moment == Some(self.moments) {
            return false;
        }
        self.moments += 1;
        true
    }

    pub fn is_over(&self) -> bool {
        self.last_moment == Some(self.moments)
    }

    // --- the engine ---------------------------------------------------------------------------------------------

    /// A node opens its own disk and runs the mirror from it.
    pub fn start_source(&mut self, leg: usize) {
        let image = self.disks[leg].image().expect("a source was formatted");
        self.shape = self.disks[leg].shape();
        self.note(|| format!("leg {leg} becomes source: {}", brief(Some(&image))));
        let piece = self.shape.chunk * [1, 2, 3][self.random.below(3) as usize]
            / [1, 2][self.random.below(2) as usize];
        let settings = Settings {
            resync_piece: piece.next_multiple_of(BLOCK),
            resync_window: 1 + self.random.below(4) as usize,
            resync_rate: [0, 0, 100][self.random.below(3) as usize],
            resync_least: [0, 0, 0, 50, 5000][self.random.below(5) as usize],
            control: self.random_control(),
            compare: self.random.chance(25),
            asynchronous: self.asynchronous,
            on_congestion: [
                OnCongestion::Block,
                OnCongestion::Disconnect(1200),
                OnCongestion::Disconnect(3000),
                OnCongestion::PullAhead(600),
                OnCongestion::PullAhead(1200),
                OnCongestion::PullAhead(3000),
            ][self.random.below(6) as usize],
            send_buffer: [0, 600, 1500, 6000, 1 << 20][self.random.below(5) as usize],
            pass_through: self.random.chance(40),
            io_error_limit: [0, 1, 3, 16][self.random.below(4) as usize],
            ..Settings::default()
        };
        self.pieces = (settings.resync_window, settings.resync_piece);
        self.held = None;
        let ids = IdSource::new(self.random.next());
        if std::mem::take(&mut self.excused[leg]) {
            // What was answered last may never have come here.
            let disk = &self.disks[leg];
            if self.application.adopt(&disk.cache, &disk.stable) {
                self.tally.fallen_back += 1;
                self.application.something_was_lost();
            }
        }
        self.cut_off.fill(false);
        let engine = Engine::assemble(self.shape, settings, slot(leg), image, ids, false)
            .expect("a leg that was in sync can be started");
        if self.disks[leg].lost.contains(&true) || self.forgetful[leg] {
            self.application.something_was_lost();
        }
        if std::mem::take(&mut self.forgetful[leg]) {
            self.application.forget_volatile();
        }
        for block in 0..self.room() {
            if std::mem::take(&mut self.disks[leg].lost[block]) {
                self.application.forget_volatile_block(block);
            }
            if block >= self.blocks() {
                let floor = self.application.floor(block);
                assert_eq!(
                    floor, 0,
                    "block {block} was promised, and leg {leg} ends before it"
                );
                continue;
            }
            let (value, floor) = (self.disks[leg].cache[block], self.application.floor(block));
            self.application
                .expect_at_least(block, value, floor, "after a start");
        }
        self.application.told_of_loss();
        (self.guard, self.hold) = (SlotSet::EMPTY, Hold::No);
        self.engine = Some(engine);
        self.source = leg;
        self.stopped = false;
        self.stopping = false;
        self.connections.fill(None);
        self.connect(leg);
        self.states.fill(LegState::Absent);
        self.feed(Event::Tick);
    }

    pub fn connect(&mut self, leg: usize) {
        self.connections[leg] = Some(self.next_connection);
        self.next_connection += 1;
    }

    pub fn feed(&mut self, event: Event) {
        if self.engine.is_none() || !self.is_alive() {
            return;
        }
        let held = self.is_held();
        let Some(mut engine) = self.engine.take() else {
            return;
        };
        if let Event::PauseResync(paused) = event {
            let (pieces, _) = engine.resync_under_way();
            self.held = paused.then_some(pieces);
        }
        let mut effects = Vec::new();
        let before = engine.io_errors(slot(self.source));
        engine.handle(event, self.now, &mut effects);
        let after = engine.io_errors(slot(self.source));
        self.tally.repaired += u64::from(after.repaired > before.repaired);
        self.tally.passed_through += u64::from(after.passed > before.passed);
        if engine.shape() != self.shape {
            self.shape = engine.shape();
            self.tally.growths += 1;
        }
        self.engine = Some(engine);
        self.silent = held && self.is_held();
        self.tally.held += u64::from(self.silent);
        for effect in effects {
            self.take_up(effect);
        }
        self.silent = false;
    }

    fn take_up(&mut self, effect: Effect) {
        match effect {
            Effect::Leg {
                operation,
                slot,
                command,
                order,
            } => self.launch(operation, slot, order, Work::Data(command)),
            Effect::Metadata {
                operation,
                slot,
                update,
                order,
            } => self.launch(operation, slot, order, Work::Metadata(steps(&update))),
            Effect::Answer { request, outcome } => self.answer(request, &outcome),
            Effect::Expel { slot, reason } => {
                self.note(|| format!("{slot:?} is expelled: {reason}"));
                assert!(!reason.is_empty(), "an expulsion has a reason");
                self.tally.behind += u64::from(reason.starts_with("was behind"));
                self.disconnect(slot.number());
            }
            Effect::Stopped => {
                self.note(|| "stopped".into());
                self.stopped = true;
            }
        }
    }

    fn answer(&mut self, request: RequestId, outcome: &Outcome) {
        self.note(|| format!("  answer to {request}: {outcome:?}"));
        let learned = self.application.answered(request, outcome);
        self.check_held(&learned);
        self.check_promise(&learned);
    }

    /// The application asks for something.
    pub fn ask(&mut self) {
        if self.engine.is_none() || self.is_over() {
            return;
        }
        let (request, command) = self
            .application
            .ask(&mut self.random, self.shape.size / BLOCK);
        self.note(|| format!("request {request}: {command:?}"));
        let before = self.application.acknowledged_writes;
        self.feed(Event::Submit { request, command });
        if self.stopping {
            assert!(
                !self.application.is_waiting_for(request)
                    && self.application.acknowledged_writes == before,
                "a request to a mirror that is being stopped is refused at once"
            );
        }
    }
}

/// What a disk holds that was never part of the mirror.
pub fn junk(leg: usize) -> u32 {
    0xdead_0000 + leg as u32
}
