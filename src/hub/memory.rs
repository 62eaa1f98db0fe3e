//! The hub's budget of memory, and the most that the hub can use.

use crate::config::{Config, Limits};
use crate::sys::memory;

use super::answers::ANSWERS_BYTES_MAX;

/// The least budget where the configuration leaves it to the host's memory.
const BUDGET_MIN: u64 = 256 << 20;
/// The bytes of one remembered idempotency key: its text, its places, and its ids.
const KEY_BYTES: u64 = 512;

/// The bytes that names, histories, answers to publishers and lines for listeners may take together.
pub fn memory_max(limits: &Limits) -> u64 {
    match limits.hub_memory as u64 {
        0 => memory::available().map_or(BUDGET_MIN, |bytes| (bytes / 4).max(BUDGET_MIN)),
        bytes => bytes,
    }
}

/// The most bytes that the hub can use, whatever clients do: the budget, and what is bounded apart from it.
///
/// The queues to `shards` shards are counted here. Revoked tokens are not counted: publishers alone add to them.
pub fn most_bytes(config: &Config, shards: u64) -> u64 {
    let feed = &config.feed;
    // A line in the making, with the room that a growing buffer has too much, and answers up to the bound and beyond it by
    // one.
    let publisher = 2 * feed.max_line as u64 + 2 * ANSWERS_BYTES_MAX as u64;
    let keys = (feed.idempotency_keys as u64).saturating_mul(KEY_BYTES);
    let publishers = (feed.max_connections as u64).saturating_mul(publisher);
    let queues = shards.saturating_mul(config.limits.queue as u64);
    [publishers, keys, queues].into_iter().fold(memory_max(&config.limits), u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_the_budget_and_what_publishers_and_queues_take() {
        let mut config = Config::default();
        config.limits.hub_memory = 1000;
        config.limits.queue = 100;
        config.feed.max_connections = 2;
        config.feed.max_line = 10;
        config.feed.idempotency_keys = 1;
        let publisher = 20 + 2 * ANSWERS_BYTES_MAX as u64;
        assert_eq!(most_bytes(&config, 3), 1000 + 300 + 2 * publisher + KEY_BYTES);
        config.feed.max_line = usize::MAX / 4;
        config.feed.max_connections = usize::MAX;
        assert_eq!(most_bytes(&config, 3), u64::MAX);
    }

    #[test]
    fn without_a_value_the_budget_is_a_quarter_of_the_memory_there_is() {
        let budget = memory_max(&Limits::default());
        assert_eq!(budget, (memory::available().unwrap() / 4).max(BUDGET_MIN));
    }
}
