//! Idempotency keys: a publish that is repeated within the window gets the ids of the first one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::logic::id::Id;
use crate::logic::idempotency::{Fingerprint, IdempotencyKeys};
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

    /// Checks that each key is used for the same channels as at first: a repeated publish is answered with the first one's
    /// ids, one per channel.
    ///
    /// # Errors
    /// If a key was used for other channels.
    pub(super) fn check(&mut self, items: &[Publish], now_ms: u64) -> Result<(), FeedError> {
        let mut seen: HashMap<&str, Fingerprint> = HashMap::new();
        for item in items {
            let Some(key) = item.key.as_deref() else { continue };
            let channels = fingerprint(item);
            let first = match self.known.get(key, now_ms) {
                Some((_, first)) => first,
                None => *seen.entry(key).or_insert(channels),
            };
            if first != channels {
                let message = format!("the field key: {key:?} was used before for a publish to other channels");
                return Err(FeedError::new("bad_field", message));
            }
        }
        Ok(())
    }

    /// The ids of the publish that `item` repeats, if it repeats one.
    pub(super) fn ids_of(&mut self, item: &Publish, now_ms: u64) -> Option<&[Id]> {
        self.known.get(item.key.as_deref()?, now_ms).map(|(ids, _)| ids)
    }

    /// Remembers the ids of a publish, if it has a key.
    pub(super) fn remember(&mut self, item: &Publish, ids: &[Id], now_ms: u64) {
        if let Some(key) = &item.key {
            self.known.insert(key, fingerprint(item), ids, now_ms);
        }
    }
}

/// A number that tells the channels of a publish, in their order, from other ones.
fn fingerprint(item: &Publish) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    item.channels.hash(&mut hasher);
    hasher.finish()
}
