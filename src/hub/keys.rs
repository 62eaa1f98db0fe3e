//! Idempotency keys: a publish that is repeated within the window gets the ids of the first one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::logic::event::ChannelName;
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

    /// The remembered keys from the oldest on, each with its channels, its ids and its time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Fingerprint, &[Id], u64)> {
        self.known.iter()
    }

    /// Remembers a key of a predecessor. The oldest comes first.
    pub(super) fn restore(&mut self, key: &str, channels: Fingerprint, ids: &[Id], at_ms: u64) {
        self.known.insert(key, channels, ids, at_ms);
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
            let channels = fingerprint(&item.channels);
            let first = match self.known.get(key, now_ms) {
                Some((_, first)) => first,
                None => *seen.entry(key).or_insert(channels),
            };
            if first != channels {
                return Err(other_channels(key));
            }
        }
        Ok(())
    }

    /// The ids of the publish that `item` repeats, if it repeats one.
    pub(super) fn ids_of(&mut self, item: &Publish, now_ms: u64) -> Option<&[Id]> {
        self.known.get(item.key.as_deref()?, now_ms).map(|(ids, _)| ids)
    }

    /// The ids and the channels' fingerprint of the publish with that key, if there was one within the window.
    pub(super) fn known(&mut self, key: &str, now_ms: u64) -> Option<(Vec<Id>, Fingerprint)> {
        self.known.get(key, now_ms).map(|(ids, channels)| (ids.to_vec(), channels))
    }

    /// Remembers the ids of a publish to these channels.
    pub(super) fn remember_channels(&mut self, key: &str, channels: &[ChannelName], ids: &[Id], now_ms: u64) {
        self.known.insert(key, fingerprint(channels), ids, now_ms);
    }

    /// Remembers the ids of a publish, if it has a key.
    pub(super) fn remember(&mut self, item: &Publish, ids: &[Id], now_ms: u64) {
        if let Some(key) = &item.key {
            self.known.insert(key, fingerprint(&item.channels), ids, now_ms);
        }
    }
}

/// The error of a key that was used before for other channels.
pub(super) fn other_channels(key: &str) -> FeedError {
    FeedError::new("bad_field", format!("the field key: {key:?} was used before for a publish to other channels"))
}

/// A number that tells the channels of a publish, in their order, from other ones.
pub(super) fn fingerprint(channels: &[ChannelName]) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    channels.hash(&mut hasher);
    hasher.finish()
}
