//! Rates: how often connections, addresses and users may do something, and the messages of WebSocket clients.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::figures::Limit;
use crate::logic::rate;
use crate::logic::wheel::Tick;

use super::settings::TICK_MS;

/// The seconds' worth of a rate that may come at once.
const BURST_SECS: u32 = 10;
/// The longest time after which a subject is told to try again, in seconds.
const RETRY_SECS_MAX: u64 = 60;
/// The most subjects that pay for one thing: a connection, its address and its user.
const SUBJECTS_MAX: usize = 3;
/// The entries that one subject may stand in.
const WAYS: usize = 8;
/// The entries of the table: 1 MiB, of which the kernel gives a page when it is touched.
const ENTRIES: usize = 64 * 1024;

/// A limit per second after a burst, in nanoseconds of the subject's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    /// The time that one unit uses up; 0 for no limit.
    each: u64,
    /// The time that may be used up ahead.
    burst: u64,
}

impl Rate {
    /// So many units per second after a burst of ten seconds' worth, or of `burst_min` units if that is more; 0 for no
    /// limit.
    pub(super) fn per_second(units: u32, burst_min: usize) -> Rate {
        if units == 0 {
            return Rate::default();
        }
        let each = 1_000_000_000 / u64::from(units);
        let burst = u64::from(units).saturating_mul(BURST_SECS.into()).max(burst_min as u64);
        Rate { each, burst: each.saturating_mul(burst) }
    }
}

/// A connection, an address or a user whose rates are counted.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Subject<'a> {
    /// A connection by its slot and the slot's generation.
    Connection(u32, u32),
    /// An address as [`super::admission::group`] gives it.
    Address(IpAddr),
    /// A user's name.
    User(&'a str),
}

/// What every subject has used up of its rates. The table has a bounded size: when it is full, the subjects that have
/// used up least are forgotten, which does them no harm.
#[derive(Debug)]
pub(super) struct Rates {
    hasher: RandomState,
    /// The key of each entry's subject and limit; 0 in a free entry.
    keys: Vec<u64>,
    /// The time until which each entry's units are used up, in nanoseconds since the start.
    until: Vec<u64>,
}

/// The time of a tick in nanoseconds.
fn nanoseconds(now: Tick) -> u64 {
    u64::from(now) * TICK_MS * 1_000_000
}

/// The seconds after which a subject may try again that has used up `missing` nanoseconds too many.
fn retry_secs(missing: u64) -> u32 {
    missing.div_ceil(1_000_000_000).min(RETRY_SECS_MAX) as u32
}

impl Rates {
    /// A table in which no subject has used up any of its rates.
    pub(super) fn new() -> Rates {
        Rates { hasher: RandomState::new(), keys: vec![0; ENTRIES], until: vec![0; ENTRIES] }
    }

    fn key(&self, limit: Limit, subject: Subject<'_>) -> u64 {
        // No key is 0, which marks a free entry.
        self.hasher.hash_one((limit as u8, subject)).max(1)
    }

    /// The place of a key, or the place that it would take.
    fn place(&self, key: u64) -> usize {
        let first = key as usize % (ENTRIES / WAYS) * WAYS;
        let all = first..first + WAYS;
        let known = all.clone().find(|place| self.keys[*place] == key);
        known.unwrap_or_else(|| all.min_by_key(|place| self.until[*place]).unwrap_or(first))
    }

    /// The time until which a key's units are used up; 0 if that is not known.
    fn used_until(&self, key: u64) -> u64 {
        let place = self.place(key);
        if self.keys[place] == key { self.until[place] } else { 0 }
    }

    /// Takes `units` off what all of these subjects may have.
    ///
    /// # Errors
    /// If one of them may not have so many now, and nothing is taken: the seconds after which it may.
    pub(super) fn take(
        &mut self,
        limit: Limit,
        subjects: &[(Subject<'_>, Rate)],
        units: usize,
        now: Tick,
    ) -> Result<(), u32> {
        let now = nanoseconds(now);
        let mut missing = 0;
        let mut wanted = [(0, 0); SUBJECTS_MAX];
        debug_assert!(subjects.len() <= SUBJECTS_MAX, "a connection, its address and its user");
        let limited = subjects.iter().filter(|(_, rate)| rate.each > 0);
        for ((subject, rate), wanted) in limited.zip(&mut wanted) {
            let key = self.key(limit, *subject);
            match rate::take(self.used_until(key), now, rate.each * units as u64, rate.burst) {
                Ok(until) => *wanted = (key, until),
                Err(more) => missing = more.max(missing),
            }
        }
        if missing > 0 {
            return Err(retry_secs(missing));
        }
        for (key, until) in wanted.into_iter().filter(|(key, _)| *key != 0) {
            let place = self.place(key);
            (self.keys[place], self.until[place]) = (key, until);
        }
        Ok(())
    }

    /// Whether a subject may have a unit now, which is not taken.
    ///
    /// # Errors
    /// If it may not: the seconds after which it may.
    pub(super) fn check(&self, limit: Limit, subject: Subject<'_>, rate: Rate, now: Tick) -> Result<(), u32> {
        let now = nanoseconds(now);
        match rate::take(self.used_until(self.key(limit, subject)), now, rate.each, rate.burst) {
            Err(missing) if rate.each > 0 => Err(retry_secs(missing)),
            _ => Ok(()),
        }
    }
}

/// The messages that each WebSocket client may send in a second; 0 stands for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TalkLimits {
    /// The most messages.
    pub(super) messages_max: u32,
    /// The most bytes of messages.
    pub(super) bytes_max: u64,
}

/// The messages of each client in the present second. A silent client takes no memory here.
#[derive(Debug, Default)]
pub(super) struct Talk {
    second: u32,
    /// The numbers of messages and bytes, by the client's slot.
    said: HashMap<u32, (u32, u64)>,
}

impl Talk {
    /// Counts a message of the client in a slot, in the second since the start that is given; returns whether the client is
    /// still within its limits.
    pub(super) fn count(&mut self, slot: u32, bytes: usize, limits: &TalkLimits, second: u32) -> bool {
        if limits.messages_max == 0 && limits.bytes_max == 0 {
            return true;
        }
        if second != self.second {
            self.second = second;
            self.said.clear();
            self.said.shrink_to(1024);
        }
        let (messages, sum) = self.said.entry(slot).or_default();
        *messages += 1;
        *sum += bytes as u64;
        (limits.messages_max == 0 || *messages <= limits.messages_max)
            && (limits.bytes_max == 0 || *sum <= limits.bytes_max)
    }

    /// Forgets the messages of the client in a slot, because the slot may get another client.
    pub(super) fn forget(&mut self, slot: u32) {
        self.said.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Subject<'static> = Subject::Connection(1, 0);

    #[test]
    fn a_rate_has_a_burst_and_then_so_many_per_second() {
        let mut rates = Rates::new();
        let rate = Rate::per_second(10, 0);
        let mut taken = |now: Tick| {
            (0..1000).take_while(|_| rates.take(Limit::RequestRate, &[(ONE, rate)], 1, now).is_ok()).count()
        };
        assert_eq!(taken(100), 100);
        assert_eq!([taken(100), taken(101), taken(104), taken(114)], [0, 1, 3, 10]);
        assert_eq!(taken(10_000), 100);
    }

    #[test]
    fn several_units_are_taken_together_or_not_at_all() {
        let mut rates = Rates::new();
        let rate = Rate::per_second(10, 250);
        assert_eq!(rates.take(Limit::NewNames, &[(ONE, rate)], 200, 1), Ok(()));
        assert_eq!(rates.take(Limit::NewNames, &[(ONE, rate)], 100, 1), Err(5), "50 too many, 10 a second");
        assert_eq!(rates.take(Limit::NewNames, &[(ONE, rate)], 50, 1), Ok(()));
        assert_eq!(rates.take(Limit::NewNames, &[(ONE, rate)], 1_000_000, 1), Err(60));
    }

    #[test]
    fn the_strictest_subject_decides_and_no_other_pays() {
        let mut rates = Rates::new();
        let address = Subject::Address(IpAddr::from([192, 0, 2, 1]));
        let (wide, narrow) = (Rate::per_second(100, 0), Rate::per_second(1, 0));
        let mut both = || rates.take(Limit::RequestRate, &[(ONE, wide), (address, narrow)], 1, 5).is_ok();
        assert_eq!((0..100).filter(|_| both()).count(), 10);
        let left = (0..2000).take_while(|_| rates.take(Limit::RequestRate, &[(ONE, wide)], 1, 5).is_ok()).count();
        assert_eq!(left, 990);
        assert_eq!(rates.check(Limit::RequestRate, address, narrow, 5), Err(1));
        assert_eq!(rates.check(Limit::RequestRate, address, narrow, 15), Ok(()));
        assert_eq!(rates.check(Limit::NewNames, address, narrow, 5), Ok(()), "each limit counts alone");
        assert_eq!(rates.check(Limit::RequestRate, Subject::User("u"), narrow, 5), Ok(()));
    }

    #[test]
    fn no_limit_takes_nothing() {
        let mut rates = Rates::new();
        let rate = Rate::per_second(0, 100);
        assert!((0..10_000).all(|_| rates.take(Limit::RequestRate, &[(ONE, rate)], 1000, 1).is_ok()));
        assert_eq!(rates.check(Limit::RequestRate, ONE, rate, 1), Ok(()));
        assert!(rates.keys.iter().all(|key| *key == 0));
    }

    #[test]
    fn the_subjects_that_have_used_most_are_remembered_among_a_million() {
        let mut rates = Rates::new();
        let rate = Rate::per_second(10, 0);
        let heavy = Subject::User("heavy");
        assert_eq!(rates.take(Limit::RequestRate, &[(heavy, rate)], 100, 1), Ok(()));
        for slot in 0..1_000_000 {
            assert_eq!(rates.take(Limit::RequestRate, &[(Subject::Connection(slot, 0), rate)], 1, 1), Ok(()));
        }
        assert!(rates.take(Limit::RequestRate, &[(heavy, rate)], 1, 1).is_err());
        assert_eq!(rates.keys.len(), ENTRIES);
    }

    #[test]
    fn clients_may_say_so_much_in_a_second() {
        let mut talk = Talk::default();
        let limits = TalkLimits { messages_max: 2, bytes_max: 100 };
        assert!(talk.count(1, 10, &limits, 1) && talk.count(1, 10, &limits, 1));
        assert!(!talk.count(1, 10, &limits, 1));
        assert!(talk.count(2, 100, &limits, 1) && !talk.count(3, 101, &limits, 1));
        assert!(talk.count(1, 10, &limits, 2), "the next second");
        talk.forget(1);
        assert!(talk.count(1, 10, &limits, 2) && talk.count(1, 10, &limits, 2));
        assert!((0..100).all(|_| talk.count(9, 1000, &TalkLimits::default(), 2)));
    }
}
