//! The budget of one stage of a turn, in work and in time.

use std::time::{Duration, Instant};

use crate::sys::clock::unix_ms;

/// Work after which the clock is looked at.
const LOOK_EVERY: usize = 32;

/// The time, on the wall clock and on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(in crate::hub) struct Now {
    /// Milliseconds since 1970, by a clock that may be set.
    pub(in crate::hub) unix_ms: u64,
    /// Milliseconds of a clock that only goes forwards, by which ages are counted.
    pub(in crate::hub) steady_ms: u64,
    /// The monotonic time, for durations.
    pub(in crate::hub) instant: Instant,
}

/// A clock: the host's, or a test's.
pub(super) type Clock = Box<dyn Fn() -> Now>;

/// The start of the hub's own clock. Entries of a log are older than the start of a hub that reads them, and their ages
/// are counted by that clock: 100 days, in milliseconds.
const STEADY_START_MS: u64 = 100 * 86_400_000;

/// The clock of the host.
pub(super) fn clock() -> Clock {
    let start = Instant::now();
    Box::new(move || {
        let instant = Instant::now();
        let steady_ms = instant.saturating_duration_since(start).as_millis() as u64 + STEADY_START_MS;
        Now { unix_ms: unix_ms(), steady_ms, instant }
    })
}

/// The rest of a stage's share of the turn.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    until: Instant,
    unlooked: usize,
}

impl Budget {
    /// A budget of so much work, and so much time from now on.
    pub(super) fn new(work: usize, now: Now, time: Duration) -> Budget {
        Budget { left: work, until: now.instant + time, unlooked: 0 }
    }

    /// Takes work off the budget. Every [`LOOK_EVERY`] units of work it looks at the clock and brings `now` up to date.
    pub(super) fn spend(&mut self, work: usize, clock: &Clock, now: &mut Now) {
        self.left = self.left.saturating_sub(work);
        self.unlooked += work;
        if self.unlooked >= LOOK_EVERY {
            self.unlooked = 0;
            *now = clock();
            if now.instant >= self.until {
                self.left = 0;
            }
        }
    }

    /// Whether the rest of the stage's work must wait for the next turn.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_time_end_a_budget_whichever_is_spent_first() {
        let start = Now { unix_ms: 0, steady_ms: 0, instant: Instant::now() };
        let at = |ms| -> Clock {
            Box::new(move || Now { unix_ms: ms, steady_ms: ms, instant: start.instant + Duration::from_millis(ms) })
        };
        let mut now = start;
        let mut budget = Budget::new(100, start, Duration::from_millis(5));
        budget.spend(99, &at(4), &mut now);
        assert_eq!((budget.is_spent(), now.unix_ms), (false, 4), "the clock was looked at");
        budget.spend(1, &at(4), &mut now);
        assert!(budget.is_spent());
        let mut budget = Budget::new(100, start, Duration::from_millis(5));
        budget.spend(LOOK_EVERY - 1, &at(5), &mut now);
        assert!(!budget.is_spent());
        budget.spend(1, &at(5), &mut now);
        assert!(budget.is_spent());
    }
}
