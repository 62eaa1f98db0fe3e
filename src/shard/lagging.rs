//! Slow clients: what happens to one that has fallen further behind than its namespace allows.
//!
//! It costs its cursor and no more than one frame, whatever the policy and however often it applies.

use crate::config::SlowPolicy;
use crate::logic::log::Position;
use crate::logic::protocol::ws;
use crate::logic::reason::Reason;

use super::Shard;
use super::channels::Reader;
use super::connection::{Connection, Gap};

impl Shard {
    /// Applies the policy to a reader whose cursor stands before `floor`.
    pub(super) fn overrun(&mut self, reader: Reader, lane: u32, floor: Position) {
        let slot = reader.slot;
        let index = reader.subscription as usize;
        let channel = self.channels.lanes[lane].channel;
        let slow = self.policies.get(self.channels.channels[channel].policy).slow;
        if slow == SlowPolicy::Disconnect {
            let cursor = self.connections[slot].subscription(index).map_or(floor, |s| s.cursor);
            let head = self.channels.lanes[lane].log.head();
            let dropped = self.channels.lanes[lane].log.events_between(cursor, head) as u64;
            self.counters.slow_events_dropped += dropped;
            self.counters.slow_disconnected += 1;
            self.close(slot, Reason::Slow, ws::CLOSE_TOO_SLOW, "too slow: reconnect and resume");
            return;
        }
        self.finish_frame(slot, index);
        let log = &self.channels.lanes[lane].log;
        let cursor = self.connections[slot].subscription(index).map_or(floor, |s| s.cursor);
        let target = if slow == SlowPolicy::Latest { log.newest_start() } else { floor };
        let skipped = log.events_between(cursor, target) as u64;
        let after = log.id_until(cursor);
        let resumed = log.id_until(target);
        if let Some(subscription) = self.connections[slot].subscription_mut(index) {
            subscription.cursor = target.max(cursor);
        }
        if skipped == 0 {
            return;
        }
        self.counters.slow_events_dropped += skipped;
        if slow == SlowPolicy::Latest {
            self.counters.slow_skips += 1;
            return;
        }
        self.counters.slow_gaps += 1;
        if let (Some(after), Some(resumed)) = (after, resumed) {
            let gap = &mut self.connections[slot].extra().gap;
            // Several gaps before the client reads anything are one to it, also if they are of several channels.
            *gap = Some(match *gap {
                Some(gap) => Gap { after: gap.after.min(after), resumed: gap.resumed.max(resumed) },
                None => Gap { after, resumed },
            });
        }
    }

    /// If the subscription's frame is sent in part, puts its rest before everything else that waits, so that
    /// the cursor stands between frames and can be moved.
    pub(super) fn finish_frame(&mut self, slot: u32, index: usize) {
        let connection = &mut self.connections[slot];
        if connection.mid_frame() != Some(index) {
            return;
        }
        connection.set_mid_frame(None);
        let Some(subscription) = connection.subscription(index) else { return };
        let (lane, cursor) = (subscription.lane, subscription.cursor);
        let log = &self.channels.lanes[lane].log;
        let boundary = log.frame_boundary(cursor);
        connection.put_first(log.bytes(cursor, boundary));
        let is_head = boundary == log.head();
        if let Some(subscription) = connection.subscription_mut(index) {
            subscription.cursor = boundary;
        }
        let events = log.events_between(cursor, boundary) as u32;
        connection.events = connection.events.saturating_add(events);
        self.counters.deliveries += u64::from(events);
        self.channels.lanes[lane].at_head += u32::from(is_head);
    }

    /// Writes the notice of lost events that is due, now that the client can take it.
    pub(super) fn write_gap_notice(&mut self, slot: u32) {
        let Some(gap) = self.connections[slot].extra.as_mut().and_then(|extra| extra.gap.take()) else { return };
        self.counters.gaps += 1;
        let connection = &mut self.connections[slot];
        let position = connection.gap_position(&gap);
        let dialect = connection.dialect;
        dialect.write_gap(gap.after, gap.resumed, position, connection.out());
    }
}

impl Connection {
    /// Puts `bytes` before everything else that waits. Nothing of that may be sent in part.
    pub(super) fn put_first(&mut self, bytes: &[u8]) {
        let extra = self.extra();
        debug_assert_eq!(extra.out_sent, 0, "a frame and an answer are never both sent in part");
        extra.out.splice(extra.out_sent..extra.out_sent, bytes.iter().copied());
    }

    /// The position that a gap notice may carry: with several channels there may be events of the others
    /// before the gap's end that are still to come.
    pub(super) fn gap_position(&self, gap: &Gap) -> Option<crate::logic::id::Id> {
        (self.subscriptions() <= 1).then_some(gap.resumed)
    }
}
