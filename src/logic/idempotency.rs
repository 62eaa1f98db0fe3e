//! Idempotency keys: a publish that is repeated within the window gets the ids of the first one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::id::Id;

/// Keys that one call forgets beside the one that it adds, so that no call takes long.
const FORGOTTEN_MAX: usize = 4;

/// The ids that all keys may have together, on average per key: a key of a publish to many channels counts for several.
const IDS_PER_KEY: usize = 16;

/// The ids of one publish, with its channels and its time.
#[derive(Debug)]
struct Answered {
    ids: Box<[Id]>,
    channels: Fingerprint,
    at_ms: u64,
}

/// A number that tells lists of channels apart.
pub type Fingerprint = u64;

/// The remembered keys, bounded in time and number.
///
/// Times are milliseconds of any clock that only goes forwards.
#[derive(Debug)]
pub struct IdempotencyKeys {
    known: HashMap<Arc<str>, Answered>,
    order: VecDeque<(u64, Arc<str>)>,
    /// The ids of all keys.
    ids: usize,
    window_ms: u64,
    keys_max: usize,
}

impl IdempotencyKeys {
    /// A table that keeps keys for `window_ms`, and at most `keys_max` of them: beyond that the oldest are forgotten
    /// early.
    pub fn new(window_ms: u64, keys_max: usize) -> IdempotencyKeys {
        IdempotencyKeys { known: HashMap::new(), order: VecDeque::new(), ids: 0, window_ms, keys_max }
    }

    /// The ids that the key's first publish was answered with, and its channels, if it came within the window.
    pub fn get(&mut self, key: &str, now_ms: u64) -> Option<(&[Id], Fingerprint)> {
        self.forget(now_ms);
        let window_ms = self.window_ms;
        let answered = self.known.get(key).filter(|answered| now_ms.saturating_sub(answered.at_ms) < window_ms)?;
        Some((&answered.ids, answered.channels))
    }

    /// Remembers the ids that the publish with `key` to these channels was answered with.
    pub fn insert(&mut self, key: &str, channels: Fingerprint, ids: &[Id], now_ms: u64) {
        if self.keys_max == 0 {
            return;
        }
        let key: Arc<str> = key.into();
        self.order.push_back((now_ms, key.clone()));
        self.ids += ids.len();
        let before = self.known.insert(key, Answered { ids: ids.into(), channels, at_ms: now_ms });
        self.ids -= before.map_or(0, |answered| answered.ids.len());
        while self.order.len() > self.keys_max || self.order.len() > 1 && self.ids / IDS_PER_KEY > self.keys_max {
            self.forget_oldest();
        }
        self.forget(now_ms);
    }

    /// Forgets some of the keys that are too old.
    fn forget(&mut self, now_ms: u64) {
        for _ in 0..FORGOTTEN_MAX {
            if self.order.front().is_none_or(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < self.window_ms) {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((at_ms, key)) = self.order.pop_front() else { return };
        // A key that was used again after its window has a later entry of its own.
        if self.known.get(&key).is_some_and(|answered| answered.at_ms == at_ms)
            && let Some(answered) = self.known.remove(&key)
        {
            self.ids -= answered.ids.len();
        }
    }

    /// The remembered keys from the oldest on, each with its channels, its ids and its time.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Fingerprint, &[Id], u64)> {
        self.order.iter().filter_map(|(at_ms, key)| {
            let answered = self.known.get(key).filter(|answered| answered.at_ms == *at_ms)?;
            Some((&**key, answered.channels, &*answered.ids, *at_ms))
        })
    }

    /// The number of remembered keys.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_answers_its_first_ids_within_the_window() {
        let mut keys = IdempotencyKeys::new(100, 10);
        keys.insert("a", 7, &[Id::new(1, 0)], 0);
        assert_eq!(keys.get("a", 99), Some((&[Id::new(1, 0)][..], 7)));
        assert_eq!(keys.get("b", 99), None);
        assert_eq!(keys.get("a", 100), None);
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let mut keys = IdempotencyKeys::new(1000, 2);
        for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
            keys.insert(key, 7, &[Id::new(i as u64, 0)], 0);
        }
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.get("a", 1), None);
        assert!(keys.get("c", 1).is_some());
    }

    #[test]
    fn a_key_is_as_good_as_forgotten_after_its_window_and_all_are_forgotten_bit_by_bit() {
        let mut keys = IdempotencyKeys::new(100, 1000);
        for n in 0..500 {
            keys.insert(&n.to_string(), 7, &[Id::new(n, 0)], 0);
        }
        assert_eq!(keys.get("499", 100), None);
        assert_eq!(keys.len(), 500 - FORGOTTEN_MAX);
        keys.insert("499", 7, &[Id::new(7, 0)], 150);
        for _ in 0..200 {
            assert_eq!(keys.get("499", 150), Some((&[Id::new(7, 0)][..], 7)), "the later use has its own window");
        }
        assert_eq!((keys.len(), keys.ids), (1, 1));
    }

    #[test]
    fn a_key_with_many_ids_counts_for_several() {
        let mut keys = IdempotencyKeys::new(1000, 4);
        let many = [Id::ZERO; 4 * IDS_PER_KEY];
        keys.insert("many", 7, &many, 0);
        keys.insert("few", 7, &many[..IDS_PER_KEY - 1], 0);
        assert_eq!(keys.len(), 2, "the ids are on average those of the most keys");
        keys.insert("last", 7, &many[..1], 0);
        assert_eq!(keys.get("many", 0), None, "the oldest went");
        assert_eq!(keys.len(), 2);
        keys.insert("more", 7, &[Id::ZERO; 100 * IDS_PER_KEY], 0);
        assert_eq!(keys.get("few", 0), None);
        assert_eq!((keys.len(), keys.ids), (1, 100 * IDS_PER_KEY), "the newest stays");
        keys.insert("one", 7, &[Id::ZERO], 0);
        assert_eq!((keys.len(), keys.ids), (1, 1));
    }

    #[test]
    fn no_key_is_remembered_where_none_may_be() {
        let mut keys = IdempotencyKeys::new(1000, 0);
        keys.insert("a", 7, &[Id::ZERO], 0);
        assert!(keys.get("a", 0).is_none() && keys.is_empty());
    }

    proptest! {
        #[test]
        fn the_newest_keys_of_the_window_are_remembered(
            pauses in prop::collection::vec(0u64..40, 1..60), window_ms in 1u64..200, keys_max in 1usize..12,
        ) {
            let mut keys = IdempotencyKeys::new(window_ms, keys_max);
            let mut inserted = Vec::new();
            let mut now = 0;
            for (number, pause) in pauses.into_iter().enumerate() {
                now += pause;
                let (key, ids) = (number.to_string(), [Id::new(now, 0), Id::new(now, number as u64)]);
                prop_assert_eq!(keys.get(&key, now), None);
                keys.insert(&key, 7, &ids, now);
                inserted.push((now, key, ids));
                let first = inserted.len().saturating_sub(keys_max);
                let remembered = |place: usize, at: u64| place >= first && now - at < window_ms;
                let count = inserted.iter().enumerate().filter(|(place, (at, ..))| remembered(*place, *at)).count();
                prop_assert!(keys.len() >= count && keys.len() <= keys_max && !keys.is_empty());
                for (place, (at, key, ids)) in inserted.iter().enumerate() {
                    prop_assert_eq!(keys.get(key, now), Some((&ids[..], 7)).filter(|_| remembered(place, *at)));
                }
            }
        }
    }
}
