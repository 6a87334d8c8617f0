//! How long requests may wait for a server, over several reconnections. Pure.
//!
//! The kernel starts its dead-connection timeout anew with every link that dies. A server whose disk hangs can be
//! reached all the time, so its links would die and be replaced for ever, and the application would wait for ever. So
//! what is left of the time is counted here, and the kernel is told with each new link. Only a link that has lasted
//! longer than any request can stay without an answer ends the trouble and gives all of the time again.

use std::time::{Duration, Instant};

/// The time that is left.
#[derive(Debug)]
pub(super) struct Patience {
    /// All of it.
    whole: Duration,
    /// A link that lasts this long is a good one.
    good_after: Duration,
    /// When the first link died of those that have died one after the other.
    trouble: Option<Instant>,
    /// When the kernel lets requests fail, while there is no link.
    end: Option<Instant>,
    /// When the present link was put in place, if it has yet to prove good.
    proving_since: Option<Instant>,
    /// What the kernel was told last, in seconds.
    told: u64,
}

impl Patience {
    pub(super) fn new(timeout: Duration, dead_timeout: Duration) -> Patience {
        Patience {
            whole: dead_timeout,
            // A timer of the kernel's may be late by as much again.
            good_after: timeout * 2 + Duration::from_secs(2),
            trouble: None,
            end: None,
            proving_since: None,
            told: dead_timeout.as_secs(),
        }
    }

    /// The last link has died.
    pub(super) fn lost(&mut self, now: Instant) {
        self.trouble.get_or_insert(now);
        self.proving_since = None;
        self.end = Some(now + Duration::from_secs(self.told));
    }

    /// Since when there is trouble, if the kernel has stopped waiting and lets requests fail.
    pub(super) fn over(&self, now: Instant) -> Option<Instant> {
        self.trouble
            .filter(|_| self.end.is_some_and(|end| end <= now))
    }

    /// The kernel lets every request fail as soon as a link dies; a new link too soon would spare them.
    pub(super) fn fails_at_once(&self) -> bool {
        self.told == 0
    }

    /// When [`Patience::over`] or [`Patience::proved`] will have news.
    pub(super) fn next(&self) -> Option<Instant> {
        let proved = self.proving_since.map(|since| since + self.good_after);
        proved.or(self.end)
    }

    /// New links are about to be put in place; the number of seconds is what the kernel has to be told with them.
    pub(super) fn regained(&mut self, now: Instant) -> Option<u64> {
        if self.over(now).is_some() {
            // Whoever waited has been told; who comes now has waited for nothing yet.
            self.trouble = None;
        }
        self.end = None;
        self.proving_since = Some(now);
        let gone = self
            .trouble
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.tell(self.whole.saturating_sub(gone))
    }

    /// Whether the present link has just proved good; the number of seconds is what the kernel has to be told.
    pub(super) fn proved(&mut self, now: Instant) -> Option<u64> {
        let since = self
            .proving_since
            .filter(|since| now >= *since + self.good_after)?;
        tracing::debug!(lasted = ?now.saturating_duration_since(since), "the link is good");
        self.proving_since = None;
        self.trouble = None;
        self.tell(self.whole)
    }

    fn tell(&mut self, left: Duration) -> Option<u64> {
        let seconds = left.as_secs();
        let news = seconds != self.told;
        self.told = seconds;
        news.then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_that_hangs_again_and_again_uses_up_the_time() {
        let start = Instant::now();
        let mut patience = Patience::new(SECOND * 2, SECOND * 10);
        let mut now = start;
        let mut told = Vec::new();
        while !patience.fails_at_once() {
            patience.lost(now);
            assert_eq!(patience.over(now), None);
            // Each new link lasts as long as a request may stay without an answer.
            told.extend(patience.regained(now + SECOND / 10));
            now += SECOND * 3;
            assert_eq!(patience.proved(now), None);
        }
        assert_eq!(told, [9, 6, 3, 0]);
        patience.lost(now);
        assert_eq!(patience.over(now), Some(start));
        // Those who waited have been told, and the next ones have all of the time.
        assert_eq!(patience.regained(now + SECOND), Some(10));
    }

    #[test]
    fn a_link_that_lasts_ends_the_trouble() {
        let start = Instant::now();
        let mut patience = Patience::new(SECOND * 2, SECOND * 10);
        patience.lost(start);
        assert_eq!(patience.next(), Some(start + SECOND * 10));
        let back = start + SECOND * 4;
        assert_eq!(patience.regained(back), Some(6));
        assert_eq!(patience.next(), Some(back + SECOND * 6));
        assert_eq!(patience.proved(back + SECOND * 5), None);
        assert_eq!(patience.proved(back + SECOND * 6), Some(10));
        assert_eq!(
            (patience.next(), patience.proved(back + SECOND * 9)),
            (None, None)
        );
        patience.lost(back + SECOND * 20);
        assert_eq!(patience.over(back + SECOND * 29), None);
        assert_eq!(patience.over(back + SECOND * 30), Some(back + SECOND * 20));
    }

    #[test]
    fn without_time_nobody_waits() {
        let start = Instant::now();
        let mut patience = Patience::new(SECOND, Duration::ZERO);
        assert!(patience.fails_at_once());
        patience.lost(start);
        assert_eq!(patience.over(start), Some(start));
        assert_eq!(patience.regained(start + SECOND), None);
    }
}
