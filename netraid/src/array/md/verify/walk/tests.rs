//! Two legs and an application in memory: what a walk looks at, holds, and tells.

use super::*;

/// Two legs of bytes, and an application that writes between the looks.
#[derive(Default)]
struct Legs {
    ours: Vec<u8>,
    theirs: Vec<u8>,
    /// Writes that are on one leg and not yet on the other: they land when the range is held.
    under_way: Vec<(usize, u8)>,
    /// So many looks at digests see the application in the middle of a write there.
    busy: Option<(usize, u32)>,
    /// The target is behind for so many holds.
    behind: u32,
    held: Option<Range<u64>>,
    holds: Vec<Range<u64>>,
    looks: u32,
    fails: Option<&'static str>,
    gone: bool,
    lets_go: bool,
    waited: Duration,
    ending: Option<Duration>,
}

impl Legs {
    fn new(size: usize) -> Legs {
        Legs {
            ours: vec![7; size],
            theirs: vec![7; size],
            ..Legs::default()
        }
    }

    fn unequal(&self, range: &Range<u64>, unit: u64) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let next = (at + unit).min(range.end);
            let bytes = at as usize..next as usize;
            if self.ours[bytes.clone()] != self.theirs[bytes] {
                runs.push(at..next);
            }
            at = next;
        }
        runs
    }
}

impl Sight for Legs {
    fn suspects(&mut self, _: usize, range: &Range<u64>) -> Result<Vec<Range<u64>>, String> {
        assert!(
            self.held.is_none(),
            "digests are asked for while nothing is held"
        );
        self.looks += 1;
        let mut runs = self.unequal(range, 16);
        if let Some((at, left)) = &mut self.busy
            && *left > 0
            && range.contains(&(*at as u64))
        {
            *left -= 1;
            let start = range.start + (*at as u64 - range.start) / 16 * 16;
            runs.push(start..(start + 16).min(range.end));
        }
        Ok(runs)
    }

    fn hold(&mut self, range: &Range<u64>) -> Result<(), String> {
        assert!(self.held.is_none());
        self.held = Some(range.clone());
        self.holds.push(range.clone());
        if self.behind == 0 {
            for (at, byte) in std::mem::take(&mut self.under_way) {
                self.theirs[at] = byte;
            }
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), String> {
        self.held = None;
        Ok(())
    }

    fn is_settled(&mut self, range: &Range<u64>) -> Result<bool, String> {
        assert_eq!(self.held.as_ref(), Some(range));
        let settled = self.behind == 0;
        self.behind = self.behind.saturating_sub(1);
        Ok(settled)
    }

    fn differences(&mut self, _: usize, range: &Range<u64>) -> Result<Vec<Range<u64>>, String> {
        assert_eq!(self.held.as_ref(), Some(range), "read while writes go on");
        match self.fails {
            Some(why) => Err(why.into()),
            None => Ok(self.unequal(range, 4)),
        }
    }

    fn counts(&mut self, _: usize, held: Option<&Range<u64>>) -> Result<(), String> {
        match (self.gone, self.lets_go && held.is_some()) {
            (true, _) => Err("the target is not in sync any more".into()),
            (_, true) => Err("somebody let go of it".into()),
            _ => Ok(()),
        }
    }

    fn elapsed(&self) -> Duration {
        self.waited
    }

    fn pause(&mut self, time: Duration) -> Result<(), String> {
        assert!(self.held.is_none(), "nobody waits while something is held");
        self.waited += time;
        match self.ending.is_some_and(|end| self.waited >= end) {
            true => Err("somebody stopped it".into()),
            false => Ok(()),
        }
    }
}

fn vec_of(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

fn run(legs: &mut Legs, rate: u64) -> (Result<(), String>, Vec<Range<u64>>, u64) {
    let (mut found, mut position) = (Vec::new(), 0);
    let size = legs.ours.len() as u64;
    let result = walk(legs, 0..size, 1, rate, &mut |news| match news {
        News::Looked { position: at, .. } => position = at,
        News::Differs { range, .. } => found.push(range),
    });
    assert!(legs.held.is_none(), "something stays held");
    (result, found, position)
}

#[test]
fn equal_legs_are_compared_by_digests_alone_and_nothing_is_held() {
    let mut legs = Legs::new(3 * PIECE as usize + 5);
    let (result, found, position) = run(&mut legs, 0);
    assert_eq!((result, found, position), (Ok(()), vec![], 3 * PIECE + 5));
    assert_eq!((legs.looks, legs.holds.len()), (4, 0));
}

#[test]
fn a_byte_that_differs_is_told_after_it_was_read_while_writes_were_kept_out() {
    let mut legs = Legs::new(2 * PIECE as usize);
    let at = PIECE as usize + 37;
    legs.theirs[at] = 8;
    let (result, found, _) = run(&mut legs, 0);
    assert_eq!(result, Ok(()));
    assert_eq!(found, vec_of(PIECE + 36..PIECE + 40));
    assert_eq!(
        legs.holds,
        vec_of(PIECE + 32..PIECE + 48),
        "no more than that is held"
    );
}

#[test]
fn what_is_being_written_is_no_difference_and_mostly_not_even_held() {
    let mut legs = Legs::new(1000);
    legs.busy = Some((100, LOOKS as u32));
    assert_eq!(run(&mut legs, 0), (Ok(()), vec![], 1000));
    assert!(legs.holds.is_empty());
    // One that is under way all the time lands while it is held.
    legs.under_way = vec![(100, 9)];
    legs.ours[100] = 9;
    assert_eq!(run(&mut legs, 0), (Ok(()), vec![], 1000));
    assert_eq!(legs.holds, vec_of(96..112));
}

#[test]
fn a_target_that_is_behind_is_looked_at_again_and_not_accused() {
    let mut legs = Legs::new(1000);
    legs.ours[100] = 9;
    legs.under_way = vec![(100, 9)];
    legs.behind = 5;
    assert_eq!(run(&mut legs, 0), (Ok(()), vec![], 1000));
    assert_eq!(legs.holds.len(), 6);
    // One that never is level is not called equal either.
    legs.ours[500] = 9;
    legs.behind = u32::MAX;
    let (result, found, position) = run(&mut legs, 0);
    assert!(result.unwrap_err().contains("16 bytes were being written"));
    assert!(found.is_empty() && position == 496, "{found:?} {position}");
}

#[test]
fn a_leg_that_has_left_or_a_hold_that_somebody_undid_accuses_nobody() {
    for (gone, lets_go, fails) in [
        (true, false, None),
        (false, true, None),
        (false, false, Some("a disk error")),
    ] {
        let mut legs = Legs::new(1000);
        legs.theirs[3] = 8;
        (legs.gone, legs.lets_go, legs.fails) = (gone, lets_go, fails);
        let (result, found, position) = run(&mut legs, 0);
        assert!(result.is_err() && found.is_empty() && position == 0);
    }
}

#[test]
fn it_is_no_faster_than_it_may_and_ends_when_it_is_told_to() {
    let mut legs = Legs::new(4 * PIECE as usize);
    assert_eq!(run(&mut legs, PIECE / 2).0, Ok(()));
    assert_eq!(legs.waited, Duration::from_secs(8));
    let mut legs = Legs::new(4 * PIECE as usize);
    legs.ending = Some(Duration::from_secs(3));
    let (result, _, position) = run(&mut legs, PIECE / 2);
    assert_eq!(
        (result, position),
        (Err("somebody stopped it".into()), 2 * PIECE)
    );
}
