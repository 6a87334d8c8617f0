//! Verifying a mirror at work: the order, and when the last one was.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Core, Mirror};
use crate::raid1::engine::{Event, VerifyOrder};

/// When the last verify began and ended, in milliseconds since 1970 by this node's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyTimes {
    /// When it began.
    pub began: u64,
    /// When it ended, once it did.
    pub ended: Option<u64>,
}

impl Mirror {
    /// Begins to compare legs.
    ///
    /// # Errors
    /// Why not: one is under way, nothing that was named is in sync, or the mirror is being stopped.
    pub fn verify(self: &Arc<Self>, order: VerifyOrder) -> Result<(), String> {
        let before = self.lock().verify_times;
        self.lock().verify_times = VerifyTimes {
            began: wall_clock(),
            ended: None,
        };
        self.drive([Event::Verify(order), Event::Tick]);
        let mut core = self.lock();
        let refused = core.engine.verify_refused().map(str::to_owned);
        match refused {
            Some(why) => {
                core.verify_times = before;
                Err(why)
            }
            None if core.stopped => {
                core.verify_times = before;
                Err("the mirror is stopped".into())
            }
            None => {
                core.verifies += 1;
                Ok(())
            }
        }
    }

    /// Ends the verify that is under way, if one is. What it has found stays found.
    pub fn stop_verify(self: &Arc<Self>, why: String) {
        self.drive([Event::StopVerify(why), Event::Tick]);
    }
}

impl Core {
    /// The engine knows no time of day.
    pub(super) fn notice_end_of_verify(&mut self) {
        let ended = self
            .engine
            .verify()
            .is_some_and(|verify| verify.ended.is_some());
        if ended && self.verify_times.ended.is_none() {
            self.verify_times.ended = Some(wall_clock());
        }
    }
}

fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
