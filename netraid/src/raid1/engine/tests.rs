//! What the simulation is too blunt for: orders, choices and words. Whatever a test does not perform itself succeeds.

mod ahead;
mod flushes;
mod io_errors;
mod lacks;
mod legs;
mod metadata;
mod orders;
mod parting;
mod requests;

use super::*;

use crate::raid1::chunks::ChunkSet;

const CHUNK: u64 = 4096;
const CHUNKS: u64 = 16;
const SHAPE: Shape = Shape {
    size: CHUNKS * CHUNK,
    chunk: CHUNK,
    slots: 2,
};
const LOCAL: usize = 0;
const REMOTE: usize = 1;

/// An engine and what it asked for that is not done yet.
struct Bench {
    engine: Engine,
    pending: VecDeque<Effect>,
    /// Everything that was sent to legs, in order.
    sent: Vec<(usize, Command)>,
    /// What the metadata of each leg says, if a superblock was written.
    metadata: Vec<Option<Update>>,
    answers: HashMap<RequestId, Outcome>,
    expelled: Vec<(usize, String)>,
    stopped: bool,
    now: u64,
}

fn slot(number: usize) -> Slot {
    Slot::new(number).unwrap()
}

fn eio(why: &'static str) -> Outcome {
    Err(Failure::new(Errno::EIO, why))
}

impl Bench {
    /// A new mirror with nothing but its local leg.
    fn degraded(shape: Shape, settings: Settings) -> Bench {
        let image = Engine::create(shape, slot(LOCAL), &mut IdSource::new(1));
        Bench::start(shape, settings, image, false)
    }

    fn start(shape: Shape, settings: Settings, image: LegImage, force: bool) -> Bench {
        // As random as the system's randomness would be: no two runs draw the same ids.
        let ids = IdSource::new(image.superblock.events + 2);
        let engine =
            Engine::assemble(shape, settings, slot(LOCAL), image, ids, force).expect("started");
        let mut bench = Bench {
            engine,
            pending: VecDeque::new(),
            sent: Vec::new(),
            metadata: vec![None; shape.slots],
            answers: HashMap::new(),
            expelled: Vec::new(),
            stopped: false,
            now: 0,
        };
        bench.feed(Event::Tick);
        bench.finish();
        bench
    }

    /// A mirror whose legs are all in sync and clean.
    fn whole_with(shape: Shape, settings: Settings) -> Bench {
        let mut bench = Bench::degraded(shape, settings);
        for leg in 1..shape.slots {
            bench.attach_blank(leg);
        }
        bench.finish();
        bench.pass(20_000);
        assert_eq!(bench.engine.in_sync().count(), shape.slots);
        assert!(bench.engine.dirty().is_empty() && bench.engine.is_clean());
        bench.sent.clear();
        bench
    }

    fn whole() -> Bench {
        Bench::whole_with(SHAPE, Settings::default())
    }

    fn feed(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.engine.handle(event, self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Answer { request, outcome } => {
                    assert!(
                        self.answers.insert(request, outcome).is_none(),
                        "answered twice"
                    );
                }
                Effect::Expel { slot, reason } => {
                    self.expelled.push((slot.number(), reason));
                    self.pending.retain(|pending| match pending {
                        Effect::Leg { slot: of, .. } | Effect::Metadata { slot: of, .. } => {
                            *of != slot
                        }
                        _ => true,
                    });
                }
                Effect::Stopped => self.stopped = true,
                Effect::Leg {
                    slot, ref command, ..
                } => {
                    self.sent.push((slot.number(), command.clone()));
                    self.pending.push_back(effect);
                }
                Effect::Metadata { .. } => self.pending.push_back(effect),
            }
        }
    }

    fn attach_blank(&mut self, leg: usize) {
        self.feed(Event::Attach {
            slot: slot(leg),
            image: None,
        });
    }

    /// Connects a leg again whose metadata is what was written to it last.
    fn attach_again(&mut self, leg: usize) {
        let image = self.image(leg);
        self.feed(Event::Attach {
            slot: slot(leg),
            image: Some(image),
        });
    }

    fn image(&self, leg: usize) -> LegImage {
        let update = self.metadata[leg].clone().expect("written before");
        let (record, superblock) = update.superblock.expect("kept");
        LegImage {
            superblock,
            record,
            dirty: ChunkSet::from_bytes(CHUNKS, &update.pages[0].1),
        }
    }

    fn lose(&mut self, leg: usize) {
        self.feed(Event::Lost {
            slot: slot(leg),
            reason: "cut".into(),
        });
    }

    fn write(&mut self, request: RequestId, chunk: u64) {
        let data = Bytes::from(vec![1; CHUNK as usize]);
        self.ask(
            request,
            Command::Write {
                offset: chunk * CHUNK,
                data,
                fua: false,
            },
        );
    }

    fn ask(&mut self, request: RequestId, command: Command) {
        self.feed(Event::Submit { request, command });
    }

    fn read(&mut self, request: RequestId) {
        self.ask(
            request,
            Command::Read {
                offset: 0,
                length: CHUNK as u32,
            },
        );
    }

    /// What waits to be done, as `data 0`, `flush 1` or `metadata 1`, in order.
    fn pending(&self) -> Vec<String> {
        let name = |effect: &Effect| match effect {
            Effect::Metadata { slot, .. } => format!("metadata {slot}"),
            Effect::Leg { slot, command, .. } => match command {
                Command::Flush => format!("flush {slot}"),
                Command::Read { .. } => format!("read {slot}"),
                _ => format!("data {slot}"),
            },
            _ => unreachable!("only operations are kept"),
        };
        self.pending.iter().map(name).collect()
    }

    /// Ends the first operation called `name` with `outcome`; it must be there.
    fn end(&mut self, name: &str, outcome: Outcome) {
        let names = self.pending();
        let index = names
            .iter()
            .position(|other| other == name)
            .unwrap_or_else(|| panic!("{name} is not among {names:?}"));
        match self.pending.remove(index).unwrap() {
            Effect::Leg { operation, .. } => self.feed(Event::Done { operation, outcome }),
            Effect::Metadata {
                operation,
                slot,
                update,
                ..
            } => {
                if outcome.is_ok() {
                    self.keep(slot.number(), update);
                }
                self.feed(Event::Done { operation, outcome });
            }
            _ => unreachable!("only operations are kept"),
        }
    }

    fn keep(&mut self, leg: usize, update: Update) {
        let kept = &mut self.metadata[leg];
        let (superblock, pages) = match kept.take() {
            None => (None, Vec::new()),
            Some(before) => (before.superblock, before.pages),
        };
        *kept = Some(Update {
            superblock: update.superblock.or(superblock),
            pages: if update.pages.is_empty() {
                pages
            } else {
                update.pages
            },
            ..update
        });
    }

    /// Lets the first operation called `name` succeed.
    fn succeed(&mut self, name: &str) {
        let length = self.pending.iter().find_map(|effect| match effect {
            Effect::Leg {
                command: Command::Read { length, .. },
                ..
            } => Some(*length),
            _ => None,
        });
        let answer = match length {
            Some(length) if name.starts_with("read") => {
                Answer::Data(Bytes::from(vec![1; length as usize]))
            }
            _ => Answer::Done,
        };
        self.end(name, Ok(answer));
    }

    /// Lets everything succeed until nothing is left to do.
    fn finish(&mut self) {
        while let Some(name) = self.pending().first().cloned() {
            self.succeed(&name);
        }
    }

    /// Time passes, in steps as a shell makes them, and everything succeeds.
    fn pass(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 500 {
            self.now += 500;
            self.feed(Event::Tick);
            self.finish();
        }
    }

    /// The same, but nothing ends.
    fn hang(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 500 {
            self.now += 500;
            self.feed(Event::Tick);
        }
    }

    fn state(&self, leg: usize) -> LegState {
        self.engine.state(slot(leg))
    }

    fn reason(&self, leg: usize) -> &str {
        self.engine.reason(slot(leg)).unwrap_or("")
    }

    fn succeeded(&self, request: RequestId) -> bool {
        matches!(self.answers.get(&request), Some(Ok(_)))
    }

    fn failed(&self, request: RequestId) -> bool {
        matches!(self.answers.get(&request), Some(Err(_)))
    }
}
