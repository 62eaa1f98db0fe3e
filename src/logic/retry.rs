//! When a client that was refused or sent away may come back: spread, so that not all of them come in one instant.

use super::reason::Reason;

/// The longest time after which a refused client is told to try again, in seconds.
const REFUSED_SECS_MAX: u64 = 5;
/// The shortest time for a client that is sent away, in milliseconds.
const BASE_MS_MIN: u64 = 100;

/// A number from `from` to `to`, both included, chosen by a random number.
fn spread(random: u64, from: u64, to: u64) -> u64 {
    from + random % (to - from + 1)
}

/// The seconds after which a refused client may try again (`Retry-After`): 1 to 5, chosen by a random number.
pub fn after_refusal_secs(random: u64) -> u32 {
    spread(random, 1, REFUSED_SECS_MAX) as u32
}

/// The milliseconds after which a client comes back whose connection ends for `reason`. A single client waits `base_ms`.
/// All clients of a server that goes away come back: they are spread by a random number over six times `base_ms`. None comes before
/// half of `base_ms`, or before the end of the drain, which is `left_ms` ahead.
pub fn after_end_ms(reason: Reason, base_ms: u64, left_ms: u64, random: u64) -> u64 {
    let base_ms = base_ms.max(BASE_MS_MIN);
    let first = left_ms.max(base_ms / 2);
    match reason {
        // With the three seconds that are configured at first, each second then has an eighteenth of them, and none a tenth.
        Reason::Drained => spread(random, first, first.saturating_add(base_ms.saturating_mul(6))),
        _ => base_ms,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_second_is_chosen_as_often() {
        let mut counts = [0; 6];
        (0..1000).for_each(|random| counts[after_refusal_secs(random) as usize] += 1);
        assert_eq!(counts, [0, 200, 200, 200, 200, 200]);
    }

    #[test]
    fn one_client_waits_what_is_configured() {
        assert_eq!(after_end_ms(Reason::Kicked, 3000, 9000, 77), 3000);
        assert_eq!(after_end_ms(Reason::Expired, 0, 9000, 77), 100);
    }

    proptest! {
        #[test]
        fn a_drained_client_comes_back_after_the_drain(base_ms in 0u64..1 << 40, random: u64) {
            let base = base_ms.max(100);
            let wait = |left_ms, random| after_end_ms(Reason::Drained, base_ms, left_ms, random);
            prop_assert!((base / 2..=base / 2 + base * 6).contains(&wait(0, random)));
            prop_assert_eq!(wait(0, 0), base / 2);
            prop_assert_eq!(wait(0, base * 6), base / 2 + base * 6);
            let left = base * 7;
            prop_assert!((left..=left + base * 6).contains(&wait(left, random)));
        }
    }
}
