//! The clock on the wall, which may be set.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 before that.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_later_than_this_was_written() {
        assert!(super::unix_ms() > 1_790_000_000_000);
    }
}
