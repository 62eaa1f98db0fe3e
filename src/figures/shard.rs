//! What a shard counts. A shard counts in plain numbers of its own and copies them once per turn to where other threads
//! read them, so reading costs it nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::logic::reason::Reason;

use super::measures::SharedMeasures;
use super::table::{Family, table};

macro_rules! statuses {
    ($($status:literal)+) => {
        /// The statuses of answers that are errors.
        const STATUSES: &[u16] = &[$($status),+];
        /// The same as labels, and one for any other status.
        const STATUS_LABELS: &[&str] = &[$(stringify!($status),)+ "other"];
    };
}

statuses! { 400 401 403 404 405 408 413 414 426 429 431 503 505 }

/// A limit on a rate, beyond which a client is refused for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// The limit on requests.
    RequestRate,
    /// The limit on tokens that do not verify.
    FailedTokens,
    /// The limit on names of channels that are new to a shard.
    NewNames,
    /// The limit on joining channels with presence.
    Joins,
}

impl Limit {
    /// The name of every limit, each at the place that it has as a number: its code and its key in the configuration.
    pub const NAMES: &[&str] = &["request_rate", "failed_tokens", "new_names", "joins"];
}

const CONNECTIONS: Family = Family {
    name: "connections",
    label: "transport",
    about: "Connections now, by transport; `http` are those that wait for a request or its rest.",
};

const OPENED: Family =
    Family { name: "opened", label: "transport", about: "Event streams and WebSockets opened, and polls begun." };

table! {
    /// A shard's counters: totals since the start unless they say otherwise.
    pub struct ShardTable;
    /// Places of the shard's connection table that are taken now, also by connections that are closing.
    Now slots,
    /// Connections now that wait for a request or its rest.
    Now connections_http in CONNECTIONS,
    /// Event streams now.
    Now connections_sse in CONNECTIONS,
    /// WebSockets now.
    Now connections_ws in CONNECTIONS,
    /// Held polls now.
    Now connections_poll in CONNECTIONS,
    /// Connections now that speak TLS and have shaken hands.
    Now tls_connections,
    /// TLS handshakes that are under way now.
    Now tls_handshakes_open,
    /// Connections now that speak HTTP/2.
    Now h2_connections,
    /// Streams of HTTP/2 that are open now. Each of them is also one of the connections by transport.
    Now h2_streams,
    /// Channels that the shard follows now.
    Now channels,
    /// Framed bytes kept in channel logs now.
    Now log_bytes,
    /// Memory of the channel logs that are kept now because a client does not have everything.
    Now lagging_bytes,
    /// Memory of answers, replies and pages of missed events that wait to be sent now.
    Now output_bytes,
    /// Memory of clients' requests and messages that are not whole or not carried out yet.
    Now input_bytes,
    /// Memory that slow clients may make the shard hold: the most of lagging logs, output and input together.
    Now lag_memory_bytes,
    /// Bytes that wait in the queue from the hub now.
    Now queued_bytes,
    /// Bytes by which the slowest client was behind when its channel was last walked.
    Now lag_max_bytes,
    /// Connections accepted.
    Total accepted,
    /// Connections refused by a limit or for want of descriptors.
    Total refused,
    /// Requests of pages whose origin is not allowed: WebSockets that were refused, and answers that the page cannot read.
    Total origins_refused,
    /// Requests read.
    Total requests,
    /// Event streams and WebSockets opened and polls begun, all together.
    Total handshakes,
    /// Event streams opened.
    Total opened_sse in OPENED,
    /// WebSockets opened.
    Total opened_ws in OPENED,
    /// Polls begun.
    Total opened_poll in OPENED,
    /// TLS handshakes completed.
    Total tls_handshakes,
    /// TLS handshakes that failed, and connections ended because a client broke the TLS protocol.
    Total tls_errors,
    /// Streams of HTTP/2 opened.
    Total h2_opened,
    /// Connections ended because a client broke HTTP/2, or made more work than it may.
    Total h2_errors,
    /// Requests and WebSocket messages answered with an error.
    Total errors,
    /// Tokens refused because they did not verify, had expired or were revoked.
    Total tokens_refused,
    /// Questions to the backend about clients without a token.
    Total questions,
    /// Questions to the backend that it did not answer in time.
    Total questions_unanswered,
    /// Connections now whose client presented a token.
    Now identified,
    /// Positions resumed from the shard's own logs.
    Total resumed_here,
    /// Positions resumed from the hub's history.
    Total resumed_hub,
    /// Notices of lost events sent to clients.
    Total gaps,
    /// Events that came from the hub.
    Total events_received,
    /// Events delivered to clients.
    Total deliveries,
    /// Sends that the kernel took whole or in part.
    Total sends,
    /// Sends that the kernel took in part or not at all, for want of room.
    Total sends_blocked,
    /// Sends that the kernel had no room for at all (EAGAIN).
    Total sends_refused,
    /// Bytes sent to clients.
    Total sent_bytes,
    /// Bytes received from clients.
    Total received_bytes,
    /// Messages from WebSocket clients.
    Total messages_in,
    /// Messages from WebSocket clients that had to wait for the backend or the hub to take earlier ones.
    Total messages_held,
    /// Heartbeats sent.
    Total heartbeats,
    /// Slow clients that were disconnected.
    Total slow_disconnected,
    /// Connections cut off because slow clients had used up the shard's memory for them, those furthest behind first.
    Total memory_disconnected,
    /// Times a slow client went on from history in place.
    Total slow_caught_up,
    /// Times a slow client was moved on with a notice of the gap.
    Total slow_gaps,
    /// Times a slow client was moved on to the newest event.
    Total slow_skips,
    /// Events that slow clients were moved past.
    Total slow_events_dropped,
    /// Connections that the shard's descriptor table has room for.
    Now descriptors_max,
    /// Time in which the shard was working and not waiting.
    Total busy_us,
    /// Turns of the shard: they go up each second even if nothing happens.
    Total turns,
    /// Time of the shard's longest turn in the last one to two minutes.
    Now turn_longest_us,
    /// Batches of sends.
    Total batches,
    /// Passes over a channel's readers that have ended.
    Total walks,
    /// Calls of io_uring_enter for the shard's ring.
    Total ring_enters,
    /// Operations handed to the kernel by calls of io_uring_enter.
    Total ring_submissions,
    /// Times the ring's completion queue had overflowed.
    Total ring_overflows,
    /// Times the kernel had no memory for the ring's operations.
    Total ring_hungry,
    /// Lines about connections that were left out of the log.
    Total lines_suppressed,
    /// Times the shard stood still for a second or more, because the process or the host was stopped.
    Total pauses,
    lists {
        /// Connections that ended, by reason.
        Total closed by "reason" of Reason::NAMES,
        /// Requests answered with an error, by status.
        Total rejected by "status" of STATUS_LABELS,
        /// Requests, tokens and channels refused because they came faster than a limit allows, by limit.
        Total limited by "limit" of Limit::NAMES,
    }
}

/// A shard's counters, as the shard itself counts.
pub type Counters = ShardTable<u64>;

impl Counters {
    /// Copies the present values to where other threads read them.
    pub fn publish(&self, to: &ShardFigures) {
        self.zip(&to.counters, |own, shared| shared.store(*own, Ordering::Relaxed));
    }

    /// Counts an answer that is an error.
    pub fn count_rejection(&mut self, status: u16) {
        let place = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len());
        self.rejected[place] += 1;
    }
}

/// A shard's figures for other threads to read. Aligned, so that no two shards write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardFigures {
    /// The counters, published with each turn.
    pub counters: ShardTable<AtomicU64>,
    /// The distributions, published by the clock.
    pub measures: SharedMeasures,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_are_those_counted() {
        let mut counters = Counters { sends: 7, ..Counters::default() };
        counters.closed[Reason::Slow as usize] = 3;
        let figures = ShardFigures::default();
        counters.publish(&figures);
        assert_eq!(figures.counters.sends.load(Ordering::Relaxed), 7);
        assert_eq!(figures.counters.closed[Reason::Slow as usize].load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_status_that_no_label_names_is_counted_as_other() {
        let mut counters = Counters::default();
        [404, 505, 418].into_iter().for_each(|status| counters.count_rejection(status));
        let counted: Vec<&str> = STATUS_LABELS
            .iter()
            .zip(counters.rejected)
            .filter(|(_, count)| *count == 1)
            .map(|(label, _)| *label)
            .collect();
        assert_eq!(counted, ["404", "505", "other"]);
    }
}
