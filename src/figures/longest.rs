//! The longest of many times, as a gauge that a scrape or an alert rule cannot miss.

use std::time::Duration;

/// The time after which a maximum begins anew.
const WINDOW: Duration = Duration::from_secs(60);

/// The longest time of the last one to two minutes, in microseconds. A time that was noted is shown for a minute at least,
/// so a reader that comes once a minute sees each maximum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Longest {
    /// The number of the present window since the start.
    window: u64,
    /// The longest time of the present window, in microseconds.
    present_us: u64,
    /// The longest time of the window before, in microseconds.
    before_us: u64,
}

impl Longest {
    /// Notes a time that ended at `at` after the start.
    pub fn note(&mut self, time: Duration, at: Duration) {
        self.pass_to(at);
        self.present_us = self.present_us.max(time.as_micros() as u64);
    }

    /// The longest time of the last one to two minutes before `at`, in microseconds; 0 if none was noted.
    pub fn us(&mut self, at: Duration) -> u64 {
        self.pass_to(at);
        self.present_us.max(self.before_us)
    }

    fn pass_to(&mut self, at: Duration) {
        let window = at.as_secs() / WINDOW.as_secs();
        if window != self.window {
            self.before_us = if window == self.window + 1 { self.present_us } else { 0 };
            (self.window, self.present_us) = (window, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maximum_is_shown_for_one_to_two_minutes() {
        let secs = Duration::from_secs;
        let mut longest = Longest::default();
        assert_eq!(longest.us(secs(0)), 0);
        longest.note(Duration::from_micros(700), secs(59));
        longest.note(Duration::from_micros(300), secs(59));
        assert_eq!(longest.us(secs(59)), 700);
        longest.note(Duration::from_micros(500), secs(61));
        assert_eq!((longest.us(secs(61)), longest.us(secs(119))), (700, 700));
        assert_eq!((longest.us(secs(120)), longest.us(secs(180))), (500, 0));
        longest.note(Duration::from_micros(9), secs(185));
        assert_eq!((longest.us(secs(185)), longest.us(secs(600))), (9, 0));
    }
}
