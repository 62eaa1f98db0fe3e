//! Merging frames of several lanes in the order of their ids. A connection that lags gets this order too, so that its
//! client can resume after the last id without a loss. The same copying joins frames that lie in two chunks of one log.

use crate::logic::cells::NONE;
use crate::logic::id::Id;
use crate::logic::log::Position;

use super::batch::{Batch, Piece};
use super::lanes::Lanes;
use super::slots::Slots;

/// The most bytes that are copied for one send.
const MERGED_BYTES_MAX: usize = 128 * 1024;

/// The most cursors that are looked at for one poll's answer: about two milliseconds.
const LOOKS_MAX: usize = 64 * 1024;
/// The cursors that are looked at in about a microsecond.
const LOOKS_PER_PIECE: usize = 32;

/// A run of frames of one subscription, before the next frame of another one in the order of ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// The subscription's number.
    pub(super) index: usize,
    pub(super) lane: u32,
    pub(super) start: Position,
    pub(super) end: Position,
}

/// A walk over a connection's pending frames in the order of their ids, from its cursors to the heads.
pub(super) struct Merge<'a> {
    slots: &'a Slots,
    slot: u32,
    cursors: &'a mut Vec<Position>,
}

impl<'a> Merge<'a> {
    /// Begins at the connection's cursors. `cursors` is memory to work in.
    pub(super) fn new(slots: &'a Slots, slot: u32, cursors: &'a mut Vec<Position>) -> Merge<'a> {
        cursors.clear();
        cursors.extend(slots[slot].subscriptions_from(0).map(|subscription| subscription.cursor));
        Merge { slots, slot, cursors }
    }

    /// The next stretch: frames of the subscription with the smallest next id, up to the next id of another one.
    pub(super) fn next(&self, lanes: &Lanes) -> Option<Stretch> {
        let connection = &self.slots[self.slot];
        let mut first: Option<(Id, usize)> = None;
        let mut second: Option<Id> = None;
        for (index, cursor) in self.cursors.iter().enumerate() {
            let Some(subscription) = connection.subscription(index).filter(|s| s.place != NONE) else { continue };
            let Some(id) = lanes[subscription.lane].log.id_at(*cursor) else { continue };
            match first {
                Some((smallest, _)) if smallest <= id => second = Some(second.map_or(id, |other| other.min(id))),
                _ => {
                    second = first.map(|(id, _)| second.map_or(id, |other| other.min(id))).or(second);
                    first = Some((id, index));
                }
            }
        }
        let (_, index) = first?;
        let (lane, start) = (connection.subscription(index)?.lane, self.cursors[index]);
        let log = &lanes[lane].log;
        let end = second.map_or(log.head(), |limit| log.end_before(start, limit));
        debug_assert!(end > start, "the frame of the smallest id is in its stretch");
        Some(Stretch { index, lane, start, end })
    }

    /// The number of cursors that each stretch is chosen from.
    fn looks(&self) -> usize {
        self.cursors.len()
    }

    /// Moves the merge on to `to`, which lies in the stretch.
    pub(super) fn advance(&mut self, stretch: &Stretch, to: Position) {
        debug_assert!(stretch.start < to && to <= stretch.end, "a merge goes forward within its stretch");
        self.cursors[stretch.index] = to;
    }
}

/// Appends the bytes between two positions of a lane's log.
fn copy(lanes: &Lanes, lane: u32, mut from: Position, to: Position, out: &mut Vec<u8>) {
    while from < to {
        let bytes = lanes[lane].log.bytes(from, to);
        out.extend_from_slice(bytes);
        from += bytes.len() as u64;
    }
}

/// Copies a connection's pending frames into one piece of the arena, up to a bound that may fall within a frame or that
/// the batch's budget sets.
pub(super) fn merge(slots: &Slots, lanes: &Lanes, batch: &mut Batch, slot: u32) -> Piece {
    let Batch { arena, cursors, budget, .. } = batch;
    let start = arena.len();
    let mut merge = Merge::new(slots, slot, cursors);
    while arena.len() - start < MERGED_BYTES_MAX
        && let Some(stretch) = merge.next(lanes)
    {
        let room = (MERGED_BYTES_MAX - (arena.len() - start)) as u64;
        let end = stretch.end.min(stretch.start + room);
        copy(lanes, stretch.lane, stretch.start, end, arena);
        merge.advance(&stretch, end);
        budget.spend(1 + merge.looks() / LOOKS_PER_PIECE);
        if budget.is_spent() {
            break;
        }
    }
    Piece::Merged { start, end: arena.len() }
}

/// Whether the bytes between two positions are few enough to be copied. Without the copy every reader would need two
/// sends at a chunk's end.
pub(super) fn is_short_enough(start: Position, head: Position) -> bool {
    head - start <= MERGED_BYTES_MAX as u64
}

/// Appends the frames between a connection's cursors and the heads, in the order of ids and up to about `bytes_max` or
/// a number of looks at cursors, and moves the cursors. Returns the number of events and the id of the last one.
pub(super) fn take_pending(
    slots: &mut Slots,
    lanes: &mut Lanes,
    slot: u32,
    out: &mut Vec<u8>,
    bytes_max: usize,
) -> (u64, Option<Id>) {
    let mut cursors = Vec::new();
    let (mut count, mut last) = (0, None);
    let mut merge = Merge::new(slots, slot, &mut cursors);
    let mut stretches_left = (LOOKS_MAX / merge.looks().max(1)).max(1);
    while out.len() < bytes_max
        && stretches_left > 0
        && let Some(stretch) = merge.next(lanes)
    {
        let log = &lanes[stretch.lane].log;
        let limit = stretch.start + (bytes_max - out.len()) as u64;
        let end = if stretch.end > limit { log.frame_boundary(limit).min(stretch.end) } else { stretch.end };
        copy(lanes, stretch.lane, stretch.start, end, out);
        count += log.events_between(stretch.start, end) as u64;
        last = log.id_before(end);
        merge.advance(&stretch, end);
        stretches_left -= 1;
    }
    for (index, cursor) in cursors.into_iter().enumerate() {
        let Some(subscription) = slots[slot].subscription_mut(index) else { continue };
        let cell = &mut lanes[subscription.lane];
        let has_moved = subscription.place != NONE && subscription.cursor != cursor;
        subscription.cursor = cursor;
        cell.at_head += u32::from(has_moved && cursor == cell.log.head());
    }
    (count, last)
}
