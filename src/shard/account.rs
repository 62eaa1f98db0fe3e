//! The account of the memory that clients make a shard hold beyond what an idle connection costs: logs that are kept
//! because a connection is behind, and the buffers of output and input.
//!
//! Both tables keep running sums, so the account costs the same however many connections there are.

use crate::config::{Config, memory_budget};
use crate::logic::cells::NONE;

use super::connection::{Connection, Flags, State};
use super::context::Context;
use super::lanes::Lanes;
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
    lanes.lagging_bytes + slots.buffers.total() + slots.h2.memory_bytes() as u64
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

/// The least memory for slow clients if the configuration does not say how much that is.
const LEAST: u64 = 64 << 20;

/// The bytes of memory that slow clients may make one of `shards` shards hold: its part of `[limits] lag_memory`.
/// `available` is what the process may use, if that is known.
pub fn lag_memory(config: &Config, available: Option<u64>, shards: usize) -> u64 {
    memory_budget(config.limits.lag_memory, available, LEAST) / shards.max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

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
