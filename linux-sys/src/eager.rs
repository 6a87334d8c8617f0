//! Looking for input for a moment before going to sleep for it, where input has been prompt lately.
//!
//! Going to sleep and being woken costs tens of microseconds on virtual machines, more than a cached request takes. A
//! peer that sends its next request as soon as it has the last answer is met half-way by looking a few times more.
//! Every look lets other threads run first, so a machine with more to do than processors loses nothing.

use std::time::{Duration, Instant};

/// What one waiter has learned of how promptly its input comes.
#[derive(Debug, Default)]
pub struct Eager {
    /// So many waits in a row were short.
    prompt: u32,
    /// So many more waits are not measured.
    skip: u32,
}

impl Eager {
    /// Runs `look` until it gives something, for at most 50 microseconds and only if waits have been short lately.
    ///
    /// `None` says that it is time to [`Eager::sleep`].
    pub fn look<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.prompt < ENOUGH {
            return None;
        }
        let begun = Instant::now();
        loop {
            let found = look();
            if found.is_some() {
                return found;
            }
            if begun.elapsed() >= LIMIT {
                // Whoever comes late costs one moment of looking, not one at each request.
                self.prompt = 0;
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// Runs `sleep`, which waits for input, and learns from how long that took; not each time, because asking for the
    /// time is a system call on machines whose clock the kernel keeps to itself.
    pub fn sleep<T>(&mut self, sleep: impl FnOnce() -> T) -> T {
        if self.skip > 0 {
            self.skip -= 1;
            return sleep();
        }
        let begun = Instant::now();
        let slept = sleep();
        self.slept(begun.elapsed());
        slept
    }

    /// Notes how long the waiter slept until its input came.
    fn slept(&mut self, took: Duration) {
        if took <= PROMPT {
            self.prompt = (self.prompt + 1).min(ENOUGH);
        } else {
            self.prompt = 0;
            self.skip = SKIP;
        }
    }
}

/// How long to look: about what being woken costs.
const LIMIT: Duration = Duration::from_micros(50);
/// Input that came so soon, being woken included, would have been worth looking for.
const PROMPT: Duration = Duration::from_micros(100);
/// So many prompt waits in a row begin the looking.
const ENOUGH: u32 = 8;
/// After a wait that was not prompt so many are not measured.
const SKIP: u32 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(eager: &mut Eager) -> bool {
        eager.look(|| Some(())).is_some()
    }

    #[test]
    fn only_a_row_of_prompt_waits_begins_the_looking() {
        let mut eager = Eager::default();
        for _ in 0..ENOUGH {
            assert!(!looks(&mut eager));
            eager.slept(PROMPT);
        }
        assert!(looks(&mut eager));
        eager.slept(PROMPT + Duration::from_micros(1));
        assert!(!looks(&mut eager));
    }

    #[test]
    fn after_a_long_wait_the_clock_is_left_alone_for_some() {
        let mut eager = Eager::default();
        eager.slept(PROMPT * 2);
        for _ in 0..SKIP {
            eager.sleep(|| ());
            assert_eq!(eager.prompt, 0);
        }
        eager.sleep(|| ());
        assert_eq!(eager.prompt, 1, "this one was measured");
    }

    #[test]
    fn looking_ends_when_something_is_found_and_stops_after_it_was_in_vain() {
        let mut eager = Eager {
            prompt: ENOUGH,
            ..Eager::default()
        };
        let mut count = 0;
        let found = eager.look(|| {
            count += 1;
            (count == 3).then_some(count)
        });
        assert_eq!(found, Some(3));
        assert_eq!(eager.look(|| None::<()>), None);
        assert!(!looks(&mut eager), "once in vain is enough");
    }
}
