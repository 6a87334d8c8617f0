//! Waiting for a condition, with a deadline, in place of sleeping and hoping.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Between two looks at a condition. Short beside everything that tests wait for.
const PAUSE: Duration = Duration::from_millis(20);

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
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() >= deadline {
            bail!("not within {deadline:?}: {what}");
        }
        std::thread::sleep(PAUSE);
    }
}
