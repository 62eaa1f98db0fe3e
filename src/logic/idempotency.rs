//! Idempotency keys: a publish that is repeated within the window gets the ids of the first one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::id::Id;

/// The remembered keys, bounded in time and number.
#[derive(Debug)]
pub struct IdempotencyKeys {
    ids: HashMap<Arc<str>, Box<[Id]>>,
    order: VecDeque<(u64, Arc<str>)>,
    window_ms: u64,
    keys_max: usize,
}

impl IdempotencyKeys {
    /// A table that keeps keys for `window_ms`, and at most `keys_max` of them: beyond that the oldest are forgotten
    /// early.
    pub fn new(window_ms: u64, keys_max: usize) -> IdempotencyKeys {
        IdempotencyKeys { ids: HashMap::new(), order: VecDeque::new(), window_ms, keys_max }
    }

    /// The ids that the key's first publish was answered with, if it came within the window.
    pub fn get(&mut self, key: &str, now_ms: u64) -> Option<&[Id]> {
        self.expire(now_ms);
        self.ids.get(key).map(|ids| &ids[..])
    }

    /// Remembers the ids that the publish with `key` was answered with.
    pub fn insert(&mut self, key: &str, ids: &[Id], now_ms: u64) {
        if self.keys_max == 0 {
            return;
        }
        let key: Arc<str> = key.into();
        self.order.push_back((now_ms, key.clone()));
        self.ids.insert(key, ids.into());
        self.expire(now_ms);
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some((at, key)) = self.order.front() {
            if self.order.len() <= self.keys_max && now_ms.saturating_sub(*at) < self.window_ms {
                break;
            }
            self.ids.remove(key);
            self.order.pop_front();
        }
    }

    /// The number of remembered keys.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_answers_its_first_ids_within_the_window() {
        let mut keys = IdempotencyKeys::new(100, 10);
        keys.insert("a", &[Id::new(1, 0)], 0);
        assert_eq!(keys.get("a", 99), Some(&[Id::new(1, 0)][..]));
        assert_eq!(keys.get("b", 99), None);
        assert_eq!(keys.get("a", 100), None);
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let mut keys = IdempotencyKeys::new(1000, 2);
        for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
            keys.insert(key, &[Id::new(i as u64, 0)], 0);
        }
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.get("a", 1), None);
        assert!(keys.get("c", 1).is_some());
    }

    #[test]
    fn no_key_is_remembered_where_none_may_be() {
        let mut keys = IdempotencyKeys::new(1000, 0);
        keys.insert("a", &[Id::ZERO], 0);
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
                keys.insert(&key, &ids, now);
                inserted.push((now, key, ids));
                let first = inserted.len().saturating_sub(keys_max);
                let remembered = |place: usize, at: u64| place >= first && now - at < window_ms;
                let count = inserted.iter().enumerate().filter(|(place, (at, ..))| remembered(*place, *at)).count();
                prop_assert_eq!((keys.len(), keys.is_empty()), (count, false));
                for (place, (at, key, ids)) in inserted.iter().enumerate() {
                    prop_assert_eq!(keys.get(key, now), Some(&ids[..]).filter(|_| remembered(place, *at)));
                }
            }
        }
    }
}
