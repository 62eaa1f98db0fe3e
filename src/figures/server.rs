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
    /// Says that the log's reader takes nothing, and for how long it has not; `None` while it does.
    pub fn log_standstill(&self) -> Option<String> {
        let waiting = Duration::from_millis(self.log_waiting_ms.load(Ordering::Relaxed));
        let is_long = waiting >= LOG_WAITING_MAX;
        is_long.then(|| format!("the log's reader has taken nothing for {} s", waiting.as_secs()))
    }
}
