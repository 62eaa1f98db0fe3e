//! What the server as a whole counts, beside its shards and its hub: the log and the threads that stood still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    /// Whether the node reads from the backplane's broker now: 1 or 0. A node with a local order has 0.
    Now backplane_up,
    /// Time since the last entry of the backplane's log was read. The nodes write at least one each five seconds.
    Now backplane_last_entry_age_ms,
    /// Time in the log from the entry that is applied next to the newest that was read now; 0 if none waits.
    Now backplane_lag_ms,
    /// Difference between this host's clock and the broker's, as the last connection has shown.
    Now backplane_clock_skew_ms,
    /// Entries that this node has read at its start before it took clients.
    Now backplane_catchup_entries,
    /// Entries of the log that were read and wait to be applied now.
    Now backplane_lag_entries,
    /// Bytes of this node's entries now that were not read back yet.
    Now backplane_pending_bytes,
    /// Nodes that are alive now, this one among them, as the log tells.
    Now backplane_nodes,
    /// Entries read from the log.
    Total backplane_entries,
    /// Time from the broker's taking of these entries to their reading, by the clocks of both, in sum.
    Total backplane_transit_ms,
    /// Entries of this node that were read back.
    Total backplane_acks,
    /// Time from the hub's handing over of these entries to their reading, in sum.
    Total backplane_ack_us,
    /// Gaps because the log was trimmed beyond this node's position.
    Total backplane_gaps_trimmed,
    /// Gaps because the log was emptied, or is another one than before.
    Total backplane_gaps_emptied,
    /// Entries of this node that were appended to the log.
    Total backplane_appends,
    /// Batches in which these entries were appended.
    Total backplane_batches,
    /// Entries of this node that the broker refused, or that waited for too long: surely not published.
    Total backplane_refused,
    /// Entries of this node whose outcome stayed unknown: their publishers were told so.
    Total backplane_unsure,
    /// Connections to the broker that have broken.
    Total backplane_reconnects,
    /// Fences that this node wrote because the broker had lost entries.
    Total backplane_fences,
    /// Times a successor came and could not take over, so that this server went on.
    Total handover_failures,
    /// Connections of clients that were taken over from the predecessor.
    Now handover_connections,
    /// Connections of clients that the predecessor had and that could not be taken over.
    Now handover_let_go,
    /// Time for which clients waited while they were taken over.
    Now handover_pause_ms,
    /// Time at which everything was taken over, in seconds since 1970; 0 if the server has started by itself.
    Now handover_at_seconds,
    /// Time at which the first of the TLS certificates expires, in seconds since 1970; 0 without certificates.
    Now tls_certificate_expiry_seconds,
    /// Times changed TLS certificates could not be used, and the previous ones stayed.
    Total tls_reloads_failed,
    lists {}
}

/// The counters of the server as a whole, which any thread may count in.
pub type ServerFigures = ServerTable<AtomicU64>;

/// The time for which the log's reader may take nothing before the server tells of it.
const LOG_WAITING_MAX: Duration = Duration::from_secs(1);

impl ServerFigures {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets a counter that is a state.
    pub fn set(counter: &AtomicU64, value: u64) {
        counter.store(value, Ordering::Relaxed);
    }

    /// Says that the log's reader takes nothing, and for how long it has not; `None` while it does.
    pub fn log_standstill(&self) -> Option<String> {
        let waiting = Duration::from_millis(self.log_waiting_ms.load(Ordering::Relaxed));
        let is_long = waiting >= LOG_WAITING_MAX;
        is_long.then(|| format!("the log's reader has taken nothing for {} s", waiting.as_secs()))
    }
}
