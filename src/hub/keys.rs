//! Idempotency keys: a publish that is repeated within the window gets the ids of the first one.

use std::collections::HashMap;
use std::time::Duration;

use crate::logic::id::Id;
use crate::logic::idempotency::IdempotencyKeys;
use crate::logic::protocol::feed::{FeedError, Publish};

/// The keys of publishes within the window.
#[derive(Debug)]
pub(super) struct Keys {
    known: IdempotencyKeys,
}

impl Keys {
    /// Remembers keys for `window`, and at most `keys_max` of them.
    pub(super) fn new(window: Duration, keys_max: usize) -> Keys {
        Keys { known: IdempotencyKeys::new(window.as_millis() as u64, keys_max) }
    }

    /// Checks that each key names as many channels as when it was first used: a repeated publish is answered with the first
    /// one's ids, one per channel.
    ///
    /// # Errors
    /// If a key names another number of channels.
    pub(super) fn check(&mut self, items: &[Publish], now_ms: u64) -> Result<(), FeedError> {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for item in items {
            let Some(key) = item.key.as_deref() else { continue };
            let channels = item.channels.len();
            let first = self.known.get(key, now_ms).map_or_else(|| *seen.entry(key).or_insert(channels), <[Id]>::len);
            if first != channels {
                let message = format!(
                    "the field key: {key:?} was used before for a publish to {first} channels, and this one is to {channels}"
                );
                return Err(FeedError::new("bad_field", message));
            }
        }
        Ok(())
    }

    /// The ids of the publish that `item` repeats, if it repeats one.
    pub(super) fn ids_of(&mut self, item: &Publish, now_ms: u64) -> Option<&[Id]> {
        self.known.get(item.key.as_deref()?, now_ms)
    }

    /// Remembers the ids of a publish, if it has a key.
    pub(super) fn remember(&mut self, item: &Publish, ids: &[Id], now_ms: u64) {
        if let Some(key) = &item.key {
            self.known.insert(key, ids, now_ms);
        }
    }
}
