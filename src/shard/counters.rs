//! What a shard counts. It counts in plain numbers of its own and publishes them once per turn, so that
//! nobody who reads them slows it down.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::link::Kind;
use crate::logic::reason::Reason;

use super::measures::PublishedMeasures;

/// How many reasons there are.
const REASONS: usize = Reason::COUNT;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $kind:ident $name:ident,)*) => {
        /// A shard's figures: totals since the start unless they say otherwise.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Counters {
            $($(#[doc = $doc])* pub(super) $name: u64,)*
            /// Connections that ended, by reason.
            pub(super) closed: [u64; REASONS],
            /// Requests answered with an error, by status.
            pub(super) rejected: [u64; STATUSES.len()],
        }

        /// The same, for other threads to read. Padded, so that no two shards write to one cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Published {
            $($name: AtomicU64,)*
            closed: [AtomicU64; REASONS],
            rejected: [AtomicU64; STATUSES.len()],
            /// Published by the clock, not with each turn.
            pub measures: PublishedMeasures,
        }

        impl Counters {
            /// Makes the present figures readable for others.
            pub(super) fn publish(&self, to: &Published) {
                $(to.$name.store(self.$name, Ordering::Relaxed);)*
                let lists = to.closed.iter().zip(self.closed).chain(to.rejected.iter().zip(self.rejected));
                for (to, count) in lists {
                    to.store(count, Ordering::Relaxed);
                }
            }

            /// Counts an answer that is an error.
            pub(super) fn count_rejection(&mut self, status: u16) {
                if let Some(place) = STATUSES.iter().position(|known| *known == status) {
                    self.rejected[place] += 1;
                }
            }
        }

        impl Published {
            /// Rounds of the engine; the clock sees to some each second also when nothing happens.
            pub fn turns(&self) -> u64 {
                self.turns.load(Ordering::Relaxed)
            }

            /// Every figure: its name, what it is, whether it is a total or a present state, and its value.
            pub fn each(&self, mut see: impl FnMut(&'static str, &'static str, Kind, u64)) {
                $(see(stringify!($name), concat!($($doc),*), Kind::$kind, self.$name.load(Ordering::Relaxed));)*
            }

            /// Connections that ended, by reason.
            pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> {
                Reason::ALL.iter().zip(&self.closed).map(|(reason, count)| (reason.name(), count.load(Ordering::Relaxed)))
            }

            /// Requests answered with an error, by status.
            pub fn rejected(&self) -> impl Iterator<Item = (u16, u64)> {
                STATUSES.into_iter().zip(&self.rejected).map(|(status, count)| (status, count.load(Ordering::Relaxed)))
            }

            /// Appends the figures as a JSON object.
            pub fn write_json(&self, out: &mut Vec<u8>) {
                out.push(b'{');
                $(write_member(stringify!($name), &self.$name, out);)*
                out.extend_from_slice(b"\"closed\":{");
                for (reason, count) in Reason::ALL.iter().zip(&self.closed) {
                    write_member(reason.name(), count, out);
                }
                out.pop();
                out.extend_from_slice(b"},\"rejected\":{");
                for (status, count) in STATUSES.iter().zip(&self.rejected) {
                    write_member(&status.to_string(), count, out);
                }
                out.pop();
                out.extend_from_slice(b"},\"measures\":");
                self.measures.write_json(out);
                out.push(b'}');
            }
        }
    };
}

/// The statuses of answers that are errors.
const STATUSES: [u16; 12] = [400, 401, 403, 404, 405, 408, 413, 414, 426, 429, 431, 503];

fn write_member(name: &str, value: &AtomicU64, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    crate::logic::id::write_decimal(value.load(Ordering::Relaxed), out);
    out.push(b',');
}

counters! {
    /// Connections now, whatever they do.
    Now connections,
    /// Connections now that wait for a request or its rest.
    Now http,
    /// Event streams now.
    Now sse,
    /// WebSockets now.
    Now websocket,
    /// Held polls now.
    Now poll,
    /// Channels the shard follows now.
    Now channels,
    /// Framed bytes kept in channel logs now.
    Now log_bytes,
    /// Bytes that wait in the queue from the hub now.
    Now queued_bytes,
    /// Bytes by which the slowest client was behind when its channel was last walked.
    Now lag_bytes_max,
    /// Connections accepted.
    Total accepted,
    /// Connections refused for want of room or by an address's limit.
    Total refused,
    /// Requests read.
    Total requests,
    /// Streams and WebSockets opened and polls begun.
    Total handshakes,
    /// Of these, event streams.
    Total opened_sse,
    /// Of these, WebSockets.
    Total opened_websocket,
    /// Of these, polls.
    Total opened_poll,
    /// Requests answered with an error.
    Total errors,
    /// Tokens that did not verify, were over or revoked.
    Total tokens_refused,
    /// Questions to the backend about clients without a token.
    Total questions,
    /// Of these, questions that it did not answer in time.
    Total questions_unanswered,
    /// Connections now that came with a token.
    Now identified,
    /// Positions resumed from the shard's own logs.
    Total resumed_here,
    /// Positions resumed from the hub's history.
    Total resumed_hub,
    /// Notices of lost events.
    Total gaps,
    /// Events that came from the hub.
    Total events_in,
    /// Events delivered to clients.
    Total events_out,
    /// Sends the kernel took, whole or in part.
    Total sends,
    /// Sends the kernel took only in part or not at all, for want of room.
    Total sends_blocked,
    /// Of these, sends the kernel had no room for at all (EAGAIN).
    Total sends_refused,
    /// Bytes sent.
    Total bytes_out,
    /// Bytes received.
    Total bytes_in,
    /// Messages from WebSocket clients.
    Total messages_in,
    /// Times a message had to wait for the backend or the hub to take earlier ones.
    Total messages_held,
    /// Heartbeats sent.
    Total heartbeats,
    /// Slow clients that were disconnected.
    Total slow_disconnected,
    /// Times a slow client was moved on with a notice.
    Total slow_gaps,
    /// Times a slow client was moved on to the newest event.
    Total slow_skips,
    /// Events that slow clients were moved past.
    Total slow_events_dropped,
    /// Connections that the descriptor table has room for.
    Now descriptors_max,
    /// Microseconds in which the engine was at work.
    Total busy_us,
    /// Rounds of the engine.
    Total turns,
    /// Batches of sends.
    Total batches,
    /// Passes over the readers of a lane that have ended.
    Total walks,
    /// Calls of io_uring_enter by the engine's ring.
    Total ring_enters,
    /// Operations handed to the kernel in those.
    Total ring_submissions,
    /// Times the ring's completion queue had overflowed.
    Total ring_overflows,
    /// Connection lines left out of the log.
    Total lines_suppressed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_json() {
        let mut counters = Counters { sends: 7, ..Counters::default() };
        counters.closed[Reason::Slow as usize] = 3;
        let published = Published::default();
        counters.publish(&published);
        let mut out = Vec::new();
        published.write_json(&mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["sends"], 7);
        assert_eq!(value["closed"]["slow"], 3);
    }
}
