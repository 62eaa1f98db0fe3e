//! The account of the memory that clients make a shard hold beyond what an idle connection costs: logs that are kept
//! because a connection is behind, and the buffers of output and input.
//!
//! Both tables keep running sums, so the account costs the same however many connections there are.

use crate::config::Config;
use crate::logic::cells::NONE;
use crate::logic::event::CHANNEL_NAME_BYTES_MAX;

use super::connection::{Connection, Extra, Flags, State, Subscription};
use super::context::Context;
use super::lanes::{Channel, Lane, Lanes, Reader};
use super::slots::Slots;

/// The most bytes that are still sent to a connection that is cut off for the memory that it takes: the rest of a frame
/// and what waits before the goodbye. A connection with more is closed at once, because no goodbye can follow within a
/// frame.
pub(super) const LAST_WORDS_MAX: usize = 4096;

/// The bytes that a mark, an allocation and the rounding of the allocator add to a backlog, however short it is.
const BACKLOG_OVERHEAD: u64 = 256;

/// The bytes of memory that buffers of connections hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Buffers {
    /// Answers, replies, notices, pages of missed events and rests of frames, which wait to be sent.
    pub(super) output: usize,
    /// Input that is not carried out yet: parts of requests and messages, and what waits for the backend.
    pub(super) input: usize,
}

impl Buffers {
    /// Output and input together.
    pub(super) fn total(self) -> u64 {
        self.output as u64 + self.input as u64
    }

    /// Replaces the part `old` of a sum by `new`.
    pub(super) fn replace(&mut self, old: Buffers, new: Buffers) {
        debug_assert!(self.output >= old.output && self.input >= old.input, "a part is no more than the sum");
        self.output = self.output - old.output + new.output;
        self.input = self.input - old.input + new.input;
    }
}

/// The bytes on the account.
pub(super) fn used(slots: &Slots, lanes: &Lanes) -> u64 {
    lanes.lagging_bytes + slots.buffers.total()
}

/// Whether the account with `more` bytes is beyond the shard's budget.
pub(super) fn is_over(slots: &Slots, lanes: &Lanes, cx: &Context, more: u64) -> bool {
    used(slots, lanes) + more > cx.settings.lag_memory
}

/// The backlog of a connection that takes no bytes: framed bytes between its cursors and the heads, with what keeping
/// them costs. The number of subscriptions that were looked at comes with it. A connection that the shard has only not
/// got round to has no backlog in this sense.
pub(super) fn backlog(connection: &Connection, lanes: &Lanes) -> (u64, usize) {
    if !connection.flags.intersects(Flags::BLOCKED | Flags::REPLAYING) {
        return (0, 0);
    }
    let mut bytes = 0;
    for subscription in connection.subscriptions_from(0).filter(|subscription| subscription.place != NONE) {
        let behind = lanes[subscription.lane].log.head() - subscription.cursor;
        bytes += if behind > 0 { behind + BACKLOG_OVERHEAD } else { 0 };
    }
    (bytes, connection.subscriptions())
}

/// Whether a connection is in a state in which it can be cut off.
pub(super) fn can_be_cut(connection: &Connection) -> bool {
    !matches!(connection.state, State::Free | State::Dead | State::Lingering)
}

/// The share of the memory that the process may use in what slow clients may make it hold, if the configuration does not
/// say how much that is.
const SHARE: u64 = 4;
/// The least memory for slow clients if the configuration does not say how much that is.
const LEAST: u64 = 64 << 20;

/// The bytes of memory that slow clients may make one of `shards` shards hold: its part of `[limits] lag_memory`.
/// `available` is what the process may use, if that is known.
pub fn lag_memory(config: &Config, available: Option<u64>, shards: usize) -> u64 {
    let total = match config.limits.lag_memory {
        0 => (available.unwrap_or_default() / SHARE).max(LEAST),
        bytes => bytes as u64,
    };
    total / shards.max(1) as u64
}

/// A term of the most memory that shards can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// What the memory is for.
    pub what: &'static str,
    /// The most bytes for it.
    pub bytes: u64,
}

/// The lanes that a channel has at most: protocols in codings, each with subscribers of its own.
const LANES_PER_CHANNEL: u64 = 5;
/// The bytes of a shard that depend on nothing: the buffer of reads, a batch of copied frames, the ring's queues, and
/// lists of a turn.
const FIXED: u64 = 16 << 20;
/// How many times the account's bytes the allocator may need while blocks of many sizes are freed and taken.
const ALLOCATOR: u64 = 3;
/// The bytes of a connection's identity: user, id of the token, channels. A backend that issues longer tokens makes
/// longer identities.
const IDENTITY: u64 = 512;

/// The most memory that `shards` shards can use for `connections` connections and `channels` channels over all of them,
/// whatever clients do; `lag_memory` is what one shard has for slow clients. The kernel's memory for sockets comes on
/// top.
pub fn memory_most(config: &Config, shards: usize, lag_memory: u64, connections: usize, channels: usize) -> Vec<Term> {
    let limits = &config.limits;
    let [shards, connections, channels] = [shards, connections, channels].map(|count| count as u64);
    let term = |what, bytes| Term { what, bytes };
    // Lists that grow by doubling may have twice the room that they need.
    let subscription = 2 * (size_of::<Subscription>() + size_of::<Reader>()) as u64;
    let slot = (size_of::<Connection>() + size_of::<Extra>()) as u64 + IDENTITY;
    let name = CHANNEL_NAME_BYTES_MAX as u64 + 16;
    let channel = size_of::<Channel>() as u64 + name + LANES_PER_CHANNEL * size_of::<Lane>() as u64;
    let event = config.feed.max_line as u64 * LANES_PER_CHANNEL;
    vec![
        term("connections", connections * slot),
        term("subscriptions", connections * limits.subscriptions as u64 * subscription),
        term("channels", shards * channels.min(limits.channels as u64) * channel),
        term("slow clients ([limits] lag_memory)", shards * ALLOCATOR * lag_memory),
        term("the event that is framed when the budget is used up", shards * 2 * event),
        // A trimmed log keeps a whole chunk beside what it needs, and a chunk may have twice the room.
        term("events for cheap resumes ([limits] retained)", shards * 4 * limits.retained as u64),
        term("the queue from the hub ([limits] queue)", shards * limits.queue as u64),
        term("messages to the hub ([limits] upstream)", shards * limits.upstream as u64),
        term("buffers of the shards", shards * FIXED),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_memory_has_a_term_for_each_thing_that_grows() {
        let config = Config::default();
        let most = |shards, lag, connections, channels| {
            memory_most(&config, shards, lag, connections, channels).iter().map(|term| term.bytes).sum::<u64>()
        };
        let none = most(1, 0, 0, 0);
        let fixed = 16 + 64 + 1 + 64 + 10;
        assert_eq!(none, fixed << 20, "retained fourfold, queue, upstream, buffers, an event in five lanes twice");
        assert_eq!(most(3, 0, 0, 0), 3 * none);
        assert_eq!(most(2, 1000, 0, 0) - most(2, 0, 0, 0), 6000);
        let connection = most(1, 0, 1, 0) - none;
        assert_eq!(connection, (80 + size_of::<Extra>() + 512 + 100 * 2 * (16 + 8)) as u64);
        assert_eq!(most(1, 0, 7, 0) - none, 7 * connection);
        assert_eq!(most(2, 0, 0, 3) - 2 * none, 2 * 3 * (16 + 216 + 5 * 56));
        assert_eq!(most(1, 0, 0, usize::MAX >> 1), most(1, 0, 0, 1_000_000), "there are no more channels");
    }

    #[test]
    fn slow_clients_get_what_is_configured_or_a_quarter() {
        let mut config = Config::default();
        assert_eq!(lag_memory(&config, Some(1 << 30), 2), 128 << 20);
        assert_eq!(lag_memory(&config, Some(1 << 20), 4), 16 << 20);
        assert_eq!(lag_memory(&config, None, 1), 64 << 20);
        config.limits.lag_memory = 3 << 20;
        assert_eq!(lag_memory(&config, Some(1 << 30), 3), 1 << 20);
    }

    #[test]
    fn a_sum_has_the_new_part_instead_of_the_old_one() {
        let mut sum = Buffers { output: 100, input: 50 };
        sum.replace(Buffers { output: 30, input: 50 }, Buffers { output: 7, input: 60 });
        assert_eq!(sum, Buffers { output: 77, input: 60 });
        assert_eq!(sum.total(), 137);
    }
}
