//! How a schedule ends: everything is mended and compared, or somebody starts the wrong leg.

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command};
use netraid::mirror::generation::{Generation, Verdict, decide};
use netraid::raid1::engine::{Effect, Engine, Event, IdSource, Settings, Terms};
use netraid::raid1::leg::{LegImage, LegState};

use crate::disk::{Disk, steps};
use crate::world::{World, slot};

impl World {
    /// Every fault is mended: the mirror must become whole, and all legs equal.
    pub fn heal_and_compare(&mut self) {
        self.note(|| "all faults are mended".into());
        self.errors = 0;
        self.feed(Event::PauseResync(false));
        self.let_go();
        let quiet = |world: &World| !world.application.is_waiting() && world.flights.is_empty();
        self.run_until(quiet, "answered");
        if self.is_halted() {
            self.crash_source();
        }
        self.wait_for_who_is_behind();
        for leg in self.slots() {
            self.attach(leg);
        }
        // A generation that was minted in the source's last moments may have reached one leg only: after several faults
        // at once such a leg is refused, which is safe, and must be rare. `main` sees to that.
        if self.connections.contains(&None) {
            self.tally.unresolved += 1;
            self.discard_refused_legs();
        }
        let whole = |world: &World| world.in_sync().len() == world.shape.slots && world.is_sound();
        self.run_until(whole, "whole again");
        self.feed(Event::Stop);
        self.run_until(|world| world.stopped, "stopped");
        for disk in &self.disks {
            assert_eq!(disk.shape(), self.shape, "all legs have one size");
            assert_eq!(
                disk.stable[..self.blocks()],
                self.disks[0].stable[..self.blocks()],
                "all legs are equal after a resync and a clean stop"
            );
            assert!(
                disk.dirty().is_empty(),
                "a clean stop of a whole mirror leaves no bit"
            );
            assert!(disk.image().unwrap().superblock.clean && disk.is_consistent());
        }
        for (block, value) in self.disks[0].stable[..self.blocks()].iter().enumerate() {
            let floor = self.application.floor(block);
            self.application
                .expect_at_least(block, *value, floor, "at the end");
        }
    }

    /// The administrator decides that the mirror goes on with what its source has.
    fn discard_refused_legs(&mut self) {
        let terms = Terms {
            full: self.random.chance(25),
            discard: true,
        };
        for leg in self.slots() {
            self.join(leg, terms);
            assert!(
                self.connections[leg].is_some() || self.is_over(),
                "leg {leg} is refused although its data may be discarded"
            );
        }
    }

    /// P3 and P4: a target is cut off and both sides are written. It is refused, until an order discards what it wrote;
    /// then nothing of that is left, even if the copying is interrupted.
    pub fn discard_one_side(&mut self) {
        self.errors = 0;
        self.become_whole();
        let source = self.source;
        let other = self.in_sync().into_iter().find(|leg| *leg != source);
        let Some(other) = other.filter(|_| self.state(source) == LegState::InSync) else {
            return;
        };
        self.lose(other, "cut");
        self.settle_flights_to(other);
        let Some(mut apart) = self.start_apart(other, false) else {
            return;
        };
        let before = self.application.acknowledged_writes;
        for _ in 0..100 {
            self.ask();
            let quiet = |world: &World| !world.application.is_waiting();
            self.let_go();
            self.run_until(quiet, "answered");
            if self.application.acknowledged_writes > before {
                break;
            }
        }
        if self.is_halted() || self.application.acknowledged_writes == before {
            return;
        }
        self.note(|| format!("leg {other} is started apart and written"));
        write_alone_on(&mut apart, Some(&mut self.disks[other]));
        self.attach(other);
        assert!(
            self.connections[other].is_none(),
            "a leg that was written apart is taken without an order"
        );
        self.discard_refused_legs();
        self.tally.discarded += 1;
        for _ in 0..self.random.below(6) {
            self.step();
        }
        self.heal_and_compare();
    }

    /// P4: somebody starts a leg that has been left behind. What was acknowledged without it must not be overwritten,
    /// nor merged, without anybody being asked.
    pub fn promote_a_stale_leg(&mut self) {
        if self.engine.is_none() {
            return;
        }
        let authority = self.newest();
        let behind = self.slots().find(|leg| {
            self.is_away(*leg)
                && self.generation(*leg) != Generation::NONE
                && *leg != authority
                && self.generation(*leg) != self.generation(authority)
        });
        let Some(stale) = behind else { return };
        self.note(|| format!("leg {stale} is started, although {authority} is newer"));
        let newer = self.disks[authority].image().unwrap();
        let Some(mut engine) = self.start_apart(stale, false) else {
            self.tally.refusals += 1;
            return;
        };
        if self.random.chance(50) {
            write_alone(&mut engine);
        }
        let verdict = engine.consider(slot(authority), &newer);
        assert!(
            verdict.is_err(),
            "a stale leg took the newer one as its target: {verdict:?}"
        );
        self.tally.refusals += 1;
    }

    /// P4: two legs that were in sync are both started, and both written. Neither may overwrite the other.
    pub fn write_on_both_sides(&mut self) {
        let in_sync = self.in_sync();
        let [one, two, ..] = in_sync.as_slice() else {
            return;
        };
        let (one, two) = (*one, *two);
        let (Some(mut first), Some(mut second)) =
            (self.start_apart(one, false), self.start_apart(two, false))
        else {
            return;
        };
        let images = [write_alone(&mut first), write_alone(&mut second)];
        for verdict in [
            first.consider(slot(two), &images[1]),
            second.consider(slot(one), &images[0]),
        ] {
            assert!(
                verdict.is_err(),
                "a leg that was written alone was taken as a target: {verdict:?}"
            );
        }
        self.tally.refusals += 2;
    }

    /// P4: an administrator forces a leg that was being resynced. Whoever has the good data must notice.
    pub fn force_a_leg(&mut self) {
        let Some(good) = self.slots().find(|leg| self.is_newest(*leg)) else {
            return;
        };
        let forced = self.slots().find(|leg| {
            // One whose superblock alone says so was just about to be in sync, and may have the newest data.
            let disk = &self.disks[*leg];
            disk.image().is_some() && !disk.record().consistent
        });
        let Some(forced) = forced else { return };
        assert!(
            self.start_apart(forced, false).is_none(),
            "a leg that is being resynced was started without force"
        );
        let mut engine = self.start_apart(forced, true).expect("started by force");
        let mut image = write_alone(&mut engine);
        if self.generation(forced) == self.generation(good) {
            return;
        }
        let theirs = self.disks[good].image().unwrap();
        let verdict = engine.consider(slot(good), &theirs);
        assert!(
            verdict.is_err(),
            "a forced leg took the good one as its target: {verdict:?}"
        );
        // Nor does the good one know it any more.
        image.record.generations.returned(forced);
        let decision = decide(
            &theirs.record.generations,
            good,
            &image.record.generations,
            forced,
        );
        assert!(
            matches!(decision.verdict, Verdict::SplitBrain | Verdict::Unrelated),
            "a forced leg was overwritten without a question: {decision:?}"
        );
        self.tally.refusals += 1;
    }

    fn generation(&self, leg: usize) -> Generation {
        self.disks[leg].record().generations.current
    }

    /// Runs the mirror from `leg` on a node that hears of nobody else.
    fn start_apart(&mut self, leg: usize, force: bool) -> Option<Engine> {
        let image = self.disks[leg].image()?;
        let ids = IdSource::new(self.random.next());
        let (local, shape) = (slot(leg), self.disks[leg].shape());
        let mut engine =
            Engine::assemble(shape, Settings::default(), local, image, ids, force).ok()?;
        perform_all(&mut engine, vec![Event::Tick], None);
        Some(engine)
    }
}

/// A write that is acknowledged by the local leg alone; returns what that leg's metadata then says.
fn write_alone(engine: &mut Engine) -> LegImage {
    write_alone_on(engine, None)
}

/// The same, and all of it is done to `disk`.
fn write_alone_on(engine: &mut Engine, disk: Option<&mut Disk>) -> LegImage {
    let data = Bytes::from_static(b"lost");
    let command = Command::Write {
        offset: 0,
        data,
        fua: false,
    };
    let answered = perform_all(
        engine,
        vec![Event::Submit {
            request: 1,
            command,
        }],
        disk,
    );
    assert!(answered, "a leg that was started takes writes");
    let mut generations = engine.generations().clone();
    generations.returned(engine.local().number());
    LegImage {
        superblock: netraid::raid1::leg::SuperState {
            events: engine.events(),
            clean: engine.is_clean(),
            active: [engine.local()].into_iter().collect(),
            recovering: false,
        },
        record: netraid::raid1::leg::LegRecord {
            generations,
            consistent: true,
        },
        dirty: engine.dirty().clone(),
    }
}

/// Everything that the engine asks for succeeds at once; says whether it answered something with success.
fn perform_all(engine: &mut Engine, events: Vec<Event>, mut disk: Option<&mut Disk>) -> bool {
    let mut effects = Vec::new();
    for event in events {
        engine.handle(event, 1, &mut effects);
    }
    let mut answered = false;
    while let Some(effect) = effects.pop() {
        if let Some(disk) = &mut disk {
            perform_on(disk, &effect);
        }
        match effect {
            Effect::Leg { operation, .. } | Effect::Metadata { operation, .. } => {
                let outcome = Ok(Answer::Done);
                engine.handle(Event::Done { operation, outcome }, 1, &mut effects);
            }
            Effect::Answer { outcome, .. } => answered |= outcome.is_ok(),
            Effect::Expel { .. } | Effect::Stopped => {}
        }
    }
    answered
}

/// What an effect changes on a disk.
fn perform_on(disk: &mut Disk, effect: &Effect) {
    match effect {
        Effect::Leg {
            command: Command::Write { offset, data, fua },
            ..
        } => disk.write(*offset, data, *fua),
        Effect::Leg {
            command: Command::Flush,
            ..
        } => disk.flush(),
        Effect::Metadata { update, .. } => {
            steps(update)
                .iter()
                .for_each(|step| disk.apply_metadata(step));
        }
        _ => {}
    }
}
