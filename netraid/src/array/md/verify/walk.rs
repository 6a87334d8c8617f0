//! The order in which a verify of the kernel's mirror looks at things, without knowing how: piece by piece, digests first,
//! and nothing is called different that was not read while no write was under way to it.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// What a walk does to the legs. Offsets are bytes of the mirror; a target is known by its place among those compared. An
/// error ends the walk, and says why.
pub(super) trait Sight {
    /// What of `range` a target may have differently, by digests, while the application writes: runs in order.
    fn suspects(&mut self, target: usize, range: &Range<u64>) -> Result<Vec<Range<u64>>, String>;

    /// Keeps writes out of `range`; returns when those that had begun are done.
    fn hold(&mut self, range: &Range<u64>) -> Result<(), String>;

    /// Lets them in again.
    fn release(&mut self) -> Result<(), String>;

    /// Whether no leg is behind in `range`, which is held: one that is written asynchronously may be.
    fn is_settled(&mut self, range: &Range<u64>) -> Result<bool, String>;

    /// What of `range` a target has differently, byte by byte.
    fn differences(&mut self, target: usize, range: &Range<u64>)
    -> Result<Vec<Range<u64>>, String>;

    /// Ends the walk if what was read of a target counts for nothing: it is not in sync any more, or something that was to
    /// be held is not.
    fn counts(&mut self, target: usize, held: Option<&Range<u64>>) -> Result<(), String>;

    /// Time since the walk began.
    fn elapsed(&self) -> Duration;

    /// Waits; an error if the walk is to end.
    fn pause(&mut self, time: Duration) -> Result<(), String>;
}

/// What a walk has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// So many bytes more were looked at; everything before `position` is compared.
    Looked {
        /// Where it is.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// A target has a range differently.
    Differs {
        /// Which.
        target: usize,
        /// Where.
        range: Range<u64>,
    },
}

/// Walks over `range`, with at most `rate` bytes a second (0: no bound).
///
/// # Errors
/// Why it did not get to its end.
pub(super) fn walk(
    sight: &mut dyn Sight,
    range: Range<u64>,
    targets: usize,
    rate: u64,
    tell: &mut dyn FnMut(News),
) -> Result<(), String> {
    let mut later: VecDeque<(usize, Range<u64>)> = VecDeque::new();
    let (mut position, mut looked) = (range.start, 0_u64);
    while position < range.end {
        let piece = position..range.end.min(position.saturating_add(PIECE));
        for target in 0..targets {
            let unsettled = examine(sight, target, &piece, tell)?;
            later.extend(unsettled.into_iter().map(|run| (target, run)));
        }
        if later.len() > MOST_LATER {
            retry(sight, &mut later, tell)?;
        }
        position = piece.end;
        let bytes = piece.end - piece.start;
        looked = looked.saturating_add(bytes);
        let first = later.iter().map(|(_, run)| run.start).min();
        tell(News::Looked {
            position: first.unwrap_or(position).min(position),
            bytes,
        });
        sight.pause(ahead(looked, rate, sight.elapsed()))?;
    }
    retry(sight, &mut later, tell)?;
    tell(News::Looked { position, bytes: 0 });
    Ok(())
}

/// How long to wait after `looked` bytes in `elapsed`.
fn ahead(looked: u64, rate: u64, elapsed: Duration) -> Duration {
    let nanos = u128::from(looked) * 1_000_000_000;
    let due = nanos.checked_div(u128::from(rate)).unwrap_or(0);
    Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX)).saturating_sub(elapsed)
}

/// Looks again at what was not settled, until it is.
fn retry(
    sight: &mut dyn Sight,
    later: &mut VecDeque<(usize, Range<u64>)>,
    tell: &mut dyn FnMut(News),
) -> Result<(), String> {
    for _ in 0..ROUNDS {
        if later.is_empty() {
            return Ok(());
        }
        sight.pause(ROUND)?;
        for _ in 0..later.len() {
            let Some((target, run)) = later.pop_front() else {
                break;
            };
            let unsettled = examine(sight, target, &run, tell)?;
            later.extend(unsettled.into_iter().map(|run| (target, run)));
        }
    }
    let bytes: u64 = later.iter().map(|(_, run)| run.end - run.start).sum();
    match bytes {
        0 => Ok(()),
        _ => Err(format!(
            "{bytes} bytes were being written all the time, asynchronously, and could not be compared"
        )),
    }
}

/// Compares a piece of one target; what could not be because the target is behind there.
///
/// # Errors
/// Why the walk ends. Nothing is held any more then.
pub(super) fn examine(
    sight: &mut dyn Sight,
    target: usize,
    piece: &Range<u64>,
    tell: &mut dyn FnMut(News),
) -> Result<Vec<Range<u64>>, String> {
    let mut suspects = sight.suspects(target, piece)?;
    // Most of what differs was being written. Holding stops the whole mirror for a moment, so it is looked at again first.
    for _ in 0..LOOKS {
        if suspects.is_empty() {
            break;
        }
        sight.pause(LOOK)?;
        let mut still = Vec::new();
        for run in &suspects {
            still.extend(sight.suspects(target, run)?);
        }
        suspects = still;
    }
    sight.counts(target, None)?;
    let mut unsettled = Vec::new();
    for run in suspects {
        sight.hold(&run)?;
        let seen = read_held(sight, target, &run);
        // Whatever became of it.
        sight.release()?;
        match seen? {
            None => unsettled.push(run),
            Some(found) => {
                for range in found {
                    tell(News::Differs { target, range });
                }
            }
        }
    }
    Ok(unsettled)
}

/// What differs in a range that is held; `None` if the target is behind there.
fn read_held(
    sight: &mut dyn Sight,
    target: usize,
    run: &Range<u64>,
) -> Result<Option<Vec<Range<u64>>>, String> {
    if !sight.is_settled(run)? {
        return Ok(None);
    }
    let found = sight.differences(target, run)?;
    sight.counts(target, Some(run))?;
    Ok(Some(found))
}

/// Bytes that are compared at once: so much is held at most.
pub(super) const PIECE: u64 = 1 << 20;
/// How often what differs is looked at again before it is held.
const LOOKS: usize = 3;
/// Pause before that.
const LOOK: Duration = Duration::from_millis(20);
/// Ranges that are put off; with more, the walk waits for them.
const MOST_LATER: usize = 256;
/// How often they are tried again: md drops a bit some ten seconds after the last write.
const ROUNDS: usize = 60;
/// Pause before each time.
const ROUND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
