//! A mirror's thread: it begins, hears, and begins anew when its files or disk could not be used, or when the configuration
//! has changed. What runs goes on meanwhile, as when the daemon is restarted.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::{Driver, Input, Parts};
use crate::api::document::{Answer, Outcome};

/// Why a driver hears no more.
pub(super) enum Ended {
    /// The daemon ends.
    Stopped,
    /// The configuration has changed; dropped when the mirror has begun with it.
    Changed(SyncSender<()>),
}

/// Runs a mirror until [`Input::End`]. `parts` makes what it is configured to be now.
pub fn run(parts: impl Fn() -> Parts, inputs: SyncSender<Input>, heard: &Receiver<Input>) {
    let mut changed = None;
    loop {
        let parts = parts();
        let (tag, shared) = (parts.names.tag.clone(), parts.shared.clone());
        let begun = Driver::begin(parts, inputs.clone());
        drop(changed.take());
        let why = match begun {
            Ok(mut driver) => match driver.listen(heard) {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Changed(done)) => {
                    changed = Some(done);
                    continue;
                }
                Err(broken) => {
                    driver.stop_listening();
                    broken.to_string()
                }
            },
            Err(broken) => broken.to_string(),
        };
        shared.broken(&tag, &why);
        if !wait_broken(&why, heard) {
            return;
        }
    }
}

/// Answers everybody that it can't be done now; false when the daemon ends.
fn wait_broken(why: &str, heard: &Receiver<Input>) -> bool {
    let until = Instant::now() + AGAIN;
    loop {
        match heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Input::End) | Err(RecvTimeoutError::Disconnected) => return false,
            Ok(Input::Order { answer, .. }) => {
                let _ = answer.send(Answer::not(Outcome::Failed, why, None));
            }
            // With another configuration it may work.
            Ok(Input::Anew(_)) => return true,
            // Who asks gets no answer: this node does not know how it is.
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return true,
        }
    }
}

/// Pause before a mirror whose files or disk could not be used is tried again.
const AGAIN: Duration = Duration::from_secs(5);
