//! Token buckets: a rate with a burst, kept as the time until which it is used up.

/// Takes `cost` off a bucket that is used up until the time `until`, at the time `now`. `burst` is how far ahead it may be used up.
/// All are times in one unit. Returns the time until which the bucket is used up afterwards.
///
/// # Errors
/// If the bucket has less: the time after which it has enough, and nothing is taken.
pub fn take(until: u64, now: u64, cost: u64, burst: u64) -> Result<u64, u64> {
    let until = until.max(now).saturating_add(cost);
    match until.saturating_sub(now.saturating_add(burst)) {
        0 => Ok(until),
        missing => Err(missing),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_comes_at_once_and_the_rest_at_the_rate() {
        let mut until = 0;
        let taken = |until: &mut u64, now| {
            let result = take(*until, now, 10, 30);
            *until = result.unwrap_or(*until);
            result
        };
        assert_eq!([(); 4].map(|()| taken(&mut until, 100)), [Ok(110), Ok(120), Ok(130), Err(10)]);
        assert_eq!([104, 109, 110, 110].map(|now| taken(&mut until, now)), [Err(6), Err(1), Ok(140), Err(10)]);
        assert_eq!(taken(&mut until, 1000), Ok(1010), "what was not used in time is gone");
        assert_eq!(take(0, 100, 31, 30), Err(1), "more than a burst never comes at once");
    }

    proptest! {
        #[test]
        fn what_is_missing_is_the_time_to_wait(until: u32, now: u32, cost: u32, burst: u32) {
            let [until, now, cost, burst] = [until, now, cost, burst].map(u64::from);
            match take(until, now, cost, burst) {
                Ok(after) => prop_assert!(after >= until.max(now) + cost && after <= now + burst),
                Err(missing) if cost <= burst => {
                    prop_assert!(take(until, now + missing, cost, burst).is_ok());
                    prop_assert!(take(until, now + missing - 1, cost, burst).is_err());
                }
                Err(_) => {}
            }
            prop_assert!(take(u64::MAX, now, cost, burst).is_err());
        }
    }
}
