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
    /// Feed connections refused because the user may not connect, because there are too many, or for want of descriptors.
    Total publishers_refused,
    /// Lines about feed connections that were left out of the log.
    Total lines_suppressed,
    /// Channels known now.
    Now channels,
    /// Channels now that no publisher has published to.
    Now channels_followed,
    /// Times a shard was refused a channel because clients had brought too many into being.
    Total follows_refused,
    /// Bytes now of names, histories, answers and lines for listeners, which have a budget.
    Now memory_bytes,
    /// Events that left histories early because the budget of memory was used up.
    Total history_dropped,
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
    /// Times a listener was passed over because it had not answered three questions in a row.
    Total authorizers_passed_over,
    /// Resumes that came with a position ahead of this node, and waited for it.
    Total resumes_held,
    /// Resumes that have waited in vain for this node to come to their position, and were told of a gap.
    Total resumes_expired,
    /// Entries of the log that nodes have written and this node has applied.
    Total entries_read,
    /// Entries of the log that could not be read and were skipped.
    Total entries_bad,
    /// Events of the log that were left out because there are too many channels.
    Total entries_left_out,
    /// Publishes that repeated an earlier one with the same key, as the log told.
    Total publishes_suppressed,
    /// Times that events were missing from the log, and clients were told of a gap.
    Total log_gaps,
    /// Time by which ids run ahead of the clock now.
    Now ids_ahead_ms,
    /// Time of the hub's longest turn in the last one to two minutes.
    Now turn_longest_us,
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
