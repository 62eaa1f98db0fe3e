//! The host's real-time clock, which may be set while the program runs.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 (UTC); 0 if the clock is set to an earlier time.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Whether a service keeps the clock right (adjtimex(2)).
pub fn is_synchronized() -> bool {
    // SAFETY: `timex` is plain numbers, for which all zero is a value. With zero `modes` the call changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to this stack frame.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    state >= 0 && state != libc::TIME_ERROR
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_says_whether_the_clock_is_kept_right() {
        // Either is right; what is being tested is that asking does no harm.
        assert_eq!(super::is_synchronized(), super::is_synchronized());
    }

    #[test]
    fn it_is_later_than_this_was_written() {
        assert!(super::unix_ms() > 1_790_000_000_000);
    }
}
