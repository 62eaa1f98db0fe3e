//! Connections on several channels: what comes next is the event with the smallest id over all of them, also
//! when the connection lags, so that resuming after the last id it saw loses nothing. The same copying joins
//! what lies in two chunks of one log.

use crate::logic::cells::NONE;
use crate::logic::id::Id;
use crate::logic::log::Position;

use super::Shard;
use super::deliver::What;

/// Bytes of several channels that are merged into one send, at most.
const MERGED_BYTES_MAX: usize = 128 * 1024;
/// Bytes that are copied for one batch, at most.
const ARENA_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Shard {
    /// For a connection on several channels: in the order of ids across them.
    pub(super) fn plan_several(&mut self, slot: u32) -> Option<What> {
        let connection = &self.connections[slot];
        let behind = |index: &usize| {
            connection
                .subscription(*index)
                .is_some_and(|s| s.place != NONE && s.cursor < self.channels.lanes[s.lane].log.head())
        };
        let mut all_behind = (0..connection.subscriptions()).filter(behind);
        let only = all_behind.next()?;
        if all_behind.next().is_none() {
            return self.run_to_head(slot, only);
        }
        drop(all_behind);
        Some(self.merge(slot))
    }

    /// Copies what is pending into one piece, up to a bound, which may fall within a frame.
    pub(super) fn merge(&mut self, slot: u32) -> What {
        let mut cursors = std::mem::take(&mut self.batch.cursors);
        let mut arena = std::mem::take(&mut self.batch.arena);
        self.copy_cursors(slot, &mut cursors);
        let start = arena.len();
        while arena.len() - start < MERGED_BYTES_MAX
            && let Some((index, run_end)) = self.next_run(slot, &cursors)
        {
            let Some(lane) = self.connections[slot].subscription(index).map(|s| s.lane) else { break };
            let room = (MERGED_BYTES_MAX - (arena.len() - start)) as u64;
            let end = run_end.min(cursors[index] + room);
            while cursors[index] < end {
                let bytes = self.channels.lanes[lane].log.bytes(cursors[index], end);
                arena.extend_from_slice(bytes);
                cursors[index] += bytes.len() as u64;
            }
        }
        let end = arena.len();
        self.batch.cursors = cursors;
        self.batch.arena = arena;
        What::Merged { start, end }
    }

    /// Whether what lies between two positions in two pieces is little enough to be copied into one: at a
    /// chunk's end every reader would need two sends otherwise.
    pub(super) fn is_worth_merging(&self, start: Position, head: Position) -> bool {
        head - start <= MERGED_BYTES_MAX as u64 && self.batch.arena.len() < ARENA_BYTES_MAX
    }

    /// Appends the frames between a connection's cursors and the heads, in the order of ids, up to about
    /// `bytes_max`, and moves the cursors. Returns how many events that were and the last one's id.
    pub(super) fn merge_pending(&mut self, slot: u32, out: &mut Vec<u8>, bytes_max: usize) -> (u64, Option<Id>) {
        let mut cursors = std::mem::take(&mut self.batch.cursors);
        self.copy_cursors(slot, &mut cursors);
        let (mut count, mut last) = (0, None);
        while out.len() < bytes_max
            && let Some((index, run_end)) = self.next_run(slot, &cursors)
        {
            let Some(lane) = self.connections[slot].subscription(index).map(|s| s.lane) else { break };
            let cell = &mut self.channels.lanes[lane];
            let from = cursors[index];
            let limit = from + (bytes_max - out.len()) as u64;
            let end = if run_end > limit { cell.log.frame_boundary(limit).min(run_end) } else { run_end };
            while cursors[index] < end {
                let bytes = cell.log.bytes(cursors[index], end);
                out.extend_from_slice(bytes);
                cursors[index] += bytes.len() as u64;
            }
            count += cell.log.events_between(from, end) as u64;
            last = cell.log.id_before(end);
            cell.at_head += u32::from(end == cell.log.head());
            if let Some(subscription) = self.connections[slot].subscription_mut(index) {
                subscription.cursor = end;
            }
        }
        self.batch.cursors = cursors;
        (count, last)
    }

    fn copy_cursors(&self, slot: u32, cursors: &mut Vec<Position>) {
        let connection = &self.connections[slot];
        cursors.clear();
        cursors.extend(connection.subscriptions_from(0).map(|s| s.cursor));
    }

    /// Which subscription has the smallest next id, and up to where it may go before another one's turn comes.
    fn next_run(&self, slot: u32, cursors: &[Position]) -> Option<(usize, Position)> {
        let connection = &self.connections[slot];
        let mut first: Option<(Id, usize)> = None;
        let mut second: Option<Id> = None;
        for (index, cursor) in cursors.iter().enumerate() {
            let Some(subscription) = connection.subscription(index).filter(|s| s.place != NONE) else { continue };
            let Some(id) = self.channels.lanes[subscription.lane].log.id_at(*cursor) else { continue };
            match first {
                Some((smallest, _)) if smallest <= id => second = Some(second.map_or(id, |other| other.min(id))),
                _ => {
                    second = first.map(|(id, _)| second.map_or(id, |other| other.min(id))).or(second);
                    first = Some((id, index));
                }
            }
        }
        let (_, index) = first?;
        let log = &self.channels.lanes[connection.subscription(index)?.lane].log;
        let end = second.map_or(log.head(), |limit| log.end_before(cursors[index], limit));
        debug_assert!(end > cursors[index], "the smallest id's own frame is in its run");
        Some((index, end))
    }

    /// Merges once more, for as far as the kernel took: nothing has changed since, so it comes out the same.
    pub(super) fn account_merged(&mut self, slot: u32, taken: usize) {
        let mut cursors = std::mem::take(&mut self.batch.cursors);
        self.copy_cursors(slot, &mut cursors);
        let mut left = taken as u64;
        while left > 0
            && let Some((index, end)) = self.next_run(slot, &cursors)
        {
            let Some(lane) = self.connections[slot].subscription(index).map(|s| s.lane) else { break };
            let from = cursors[index];
            let to = end.min(from + left);
            if left == taken as u64 {
                self.measure_delivery(lane, from);
            }
            left -= to - from;
            cursors[index] = to;
            self.move_cursor(slot, index, lane, from, to);
            let is_mid = self.channels.lanes[lane].log.frame_boundary(to) != to;
            self.connections[slot].set_mid_frame(is_mid.then_some(index));
            self.settle(lane);
        }
        self.batch.cursors = cursors;
    }
}
