//! Waiting for a condition, with a deadline, in place of sleeping and hoping.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// The shortest time between two looks at a condition. Short beside everything that tests wait for.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);

/// How long to pause after a look that took so long.
///
/// Most looks start programs in a node, which keeps a processor busy for a tenth of a second: without pauses of about
/// that length, waiting is the most expensive thing that labs do, and takes from what is waited for.
fn pause_after(look: Duration) -> Duration {
    look.saturating_mul(2).clamp(PAUSE, LONGEST_PAUSE)
}

/// Asks until there is an answer and returns it; fails after `deadline` with `what` was waited for.
///
/// # Errors
/// The deadline passed, or asking failed (which ends the wait at once).
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let look = Instant::now();
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() >= deadline {
            bail!("not within {deadline:?}: {what}");
        }
        std::thread::sleep(pause_after(look.elapsed()));
    }
}
