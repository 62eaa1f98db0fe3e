//! What the server as a whole counts, beside its shards and its hub: the log and the threads that stood still.

use std::sync::atomic::AtomicU64;

use super::table::table;

table! {
    /// The counters of the server as a whole: totals since the start unless they say otherwise.
    pub struct ServerTable;
    /// Log lines that were dropped because the log's reader did not take them in time.
    Total log_lines_dropped,
    /// Time for which the log's reader has taken nothing while lines wait; 0 if no line waits.
    Now log_waiting_ms,
    /// Times a shard or the hub stood still for a second.
    Total standstills,
    /// Times the whole process stood still for a second or more: stopped, frozen with its host, or without processor time.
    Total freezes,
    lists {}
}

/// The counters of the server as a whole, which any thread may count in.
pub type ServerFigures = ServerTable<AtomicU64>;
