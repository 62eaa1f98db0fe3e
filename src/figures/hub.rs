//! What the hub counts. The hub counts where other threads read: it is one thread, and counts far less often than shards.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::table;

table! {
    /// The hub's counters: totals since the start unless they say otherwise.
    pub struct HubTable;
    /// Events published.
    Total events_published,
    /// Feed lines that were refused.
    Total feed_errors,
    /// Feed connections now.
    Now publishers,
    /// Channels known now.
    Now channels,
    /// Events in histories now.
    Now history_events,
    /// Bytes in histories now.
    Now history_bytes,
    /// Bytes that wait in the queues to shards now.
    Now queued_bytes,
    /// Times a publisher had to wait because a shard's queue was full.
    Total congestions,
    /// Time that publishers had to wait because a shard's queue was full.
    Total congested_ms,
    /// The number of the shard whose full queue was waited for last.
    Now congested_shard,
    /// Messages of clients that no backend was listening to when they reached the hub.
    Total messages_unheard,
    /// Turns of the hub: they go up several times a second even if nothing happens.
    Total rounds,
    lists {}
}

/// The hub's counters, for the hub to count in and for other threads to read.
pub type HubFigures = HubTable<AtomicU64>;

impl HubFigures {
    /// Adds to a counter. Only the hub writes its counters, so a load and a store are enough.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Takes from a counter that is a state.
    pub fn subtract(counter: &AtomicU64, count: u64) {
        counter.store(counter.load(Ordering::Relaxed).saturating_sub(count), Ordering::Relaxed);
    }

    /// Sets a counter that is a state.
    pub fn set(counter: &AtomicU64, value: u64) {
        counter.store(value, Ordering::Relaxed);
    }
}
