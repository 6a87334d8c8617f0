//! How fast resyncs are: bounds and a controller that change at any time, resyncs that are held; and what holds of them
//! whatever they are.

use netraid::raid1::engine::{Control, Event};

use crate::world::World;

impl World {
    pub fn random_control(&mut self) -> Control {
        Control {
            plan_ahead: [0, 0, 100, 2000][self.random.below(4) as usize],
            fill_target: [0, 0, 1, 1024, 1 << 30][self.random.below(5) as usize],
            delay_target: [0, 1, 300, 100_000][self.random.below(4) as usize],
            start: [0, 1, 1 << 40][self.random.below(3) as usize],
        }
    }

    pub fn change_speed(&mut self) {
        let (most, least) = (self.random.below(3), self.random.below(3));
        let control = Some(self.random_control()).filter(|control| control.start != 1);
        self.note(|| format!("resyncs have other bounds: {most} {least} {control:?}"));
        self.feed(Event::Speed {
            most: [None, Some(0), Some(3000)][most as usize],
            least: [None, Some(0), Some(50)][least as usize],
            control,
        });
    }

    pub fn hold_resync(&mut self) {
        let paused = self.random.chance(50);
        self.note(|| format!("resync paused: {paused}"));
        self.feed(Event::PauseResync(paused));
    }

    /// What is on its way is within its bound and is counted once; nothing is begun while a resync is held.
    pub fn check_pace(&mut self) {
        let Some(engine) = &self.engine else {
            return;
        };
        let (pieces, bytes) = engine.resync_under_way();
        let (window, piece) = self.pieces;
        assert!(
            pieces <= window,
            "{pieces} pieces are under way of {window}"
        );
        assert!(
            bytes <= pieces as u64 * piece && (pieces == 0) == (bytes == 0),
            "{bytes} bytes are under way in {pieces} pieces of at most {piece}"
        );
        if let Some(before) = self.held {
            assert!(
                pieces <= before,
                "a piece was begun while the resync was held"
            );
            self.held = Some(pieces);
        }
    }
}
