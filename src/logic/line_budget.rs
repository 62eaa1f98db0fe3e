//! A budget of log lines per second, so that peers that connect and disconnect in great numbers do not fill the log.

use super::wheel::Tick;

/// The number of log lines that are left in this second.
#[derive(Debug)]
pub struct LineBudget {
    per_second: u32,
    ticks_per_second: Tick,
    second: Tick,
    used: u32,
    /// The lines left out in earlier seconds that are not reported yet.
    left_out: u32,
}

impl LineBudget {
    /// A budget of `per_second` lines, by a clock of `ticks_per_second` ticks.
    pub fn new(per_second: u32, ticks_per_second: Tick) -> LineBudget {
        LineBudget { per_second, ticks_per_second, second: 0, used: 0, left_out: 0 }
    }

    /// Takes one line off the budget; returns whether one was left.
    pub fn take(&mut self, now: Tick) -> bool {
        self.pass_time(now);
        self.used = self.used.saturating_add(1);
        self.used <= self.per_second
    }

    fn pass_time(&mut self, now: Tick) {
        let second = now / self.ticks_per_second.max(1);
        if second != self.second {
            self.second = second;
            self.left_out = self.left_out.saturating_add(self.used.saturating_sub(self.per_second));
            self.used = 0;
        }
    }

    /// The number of lines left out in the seconds that are over. Each line is reported once.
    pub fn left_out(&mut self, now: Tick) -> u32 {
        self.pass_time(now);
        let left_out = std::mem::take(&mut self.left_out);
        if self.per_second > 0 { left_out } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_per_second() {
        let mut lines = LineBudget::new(2, 10);
        assert!(lines.take(10) && lines.take(11));
        assert!(!lines.take(12));
        assert_eq!(lines.left_out(12), 0, "the second is not over");
        assert!(lines.take(20));
        assert_eq!((lines.left_out(20), lines.left_out(21)), (1, 0));
        let mut none = LineBudget::new(0, 10);
        assert!(!none.take(5));
        assert_eq!(none.left_out(20), 0, "without a budget no line is missing");
    }
}
