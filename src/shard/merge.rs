//! Merging frames of several lanes in the order of their ids. A connection that lags gets this order too, so that its
//! client can resume after the last id without a loss. The same copying joins frames that lie in two chunks of one log.

use std::sync::Arc;

use crate::logic::cells::NONE;
use crate::logic::event::Event;
use crate::logic::id::Id;
use crate::logic::log::Position;
use crate::logic::session::LaneKey;

use super::batch::{Batch, Piece};
use super::lanes::Lanes;
use super::slots::Slots;

/// The most bytes that are copied for one send.
const MERGED_BYTES_MAX: usize = 128 * 1024;
/// The most framed bytes of a page of missed events, beside a single event that is larger. What is left of the hub's page
/// is asked for again, because some texts grow manifold when they are framed.
pub(super) const PAGE_FRAMED_MAX: usize = 128 * 1024;

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
        let end = log.frame_boundary(limit.min(stretch.end));
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

/// Appends the frames of a page's events that `is_wanted`, up to [`PAGE_FRAMED_MAX`]. Returns the number of frames, and
/// the id of the last event that the frames reach up to, if they do not reach to the end of the page.
pub(super) fn frame_page(
    key: LaneKey,
    events: &[Arc<Event>],
    is_wanted: impl Fn(&Event) -> bool,
    out: &mut Vec<u8>,
) -> (u64, Option<Id>) {
    let start = out.len();
    let (mut count, mut before) = (0, None);
    for event in events {
        if is_wanted(event) {
            let end = out.len();
            key.frame(event, out);
            if count > 0 && out.len() - start > PAGE_FRAMED_MAX {
                out.truncate(end);
                break;
            }
            count += 1;
        }
        before = Some(event.id);
    }
    (count, before.filter(|id| events.last().is_some_and(|last| last.id != *id)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::context::Budget;
    use super::super::tests::tables::{Tables, id};
    use super::*;
    use crate::config::SlowPolicy;
    use crate::logic::event::{Draft, Kind};

    /// A stream on three lanes whose events are interleaved: 1 5 6, 2 3, and 4, of ten bytes each.
    fn interleaved() -> (Tables, u32) {
        let mut tables = Tables::new();
        let lanes = [(); 3].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = tables.stream(&lanes);
        for (number, lane) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 0), (6, 0)] {
            tables.append(lanes[lane], number, 10);
        }
        (tables, slot)
    }

    fn taken(tables: &mut Tables, slot: u32, bytes_max: usize) -> (String, u64, Option<Id>) {
        let mut out = Vec::new();
        let (count, last) = take_pending(&mut tables.slots, &mut tables.lanes, slot, &mut out, bytes_max);
        (out.iter().step_by(10).map(|byte| char::from(*byte)).collect(), count, last)
    }

    #[test]
    fn frames_of_several_lanes_come_in_the_order_of_ids() {
        let (mut tables, slot) = interleaved();
        assert_eq!(taken(&mut tables, slot, 1000), ("123456".into(), 6, Some(id(6))));
        let cursors: Vec<Position> = tables.slots[slot].subscriptions_from(0).map(|s| s.cursor).collect();
        assert_eq!(cursors, [30, 20, 10]);
        assert!(tables.slots[slot].subscriptions_from(0).all(|s| tables.lanes.is_read(s.lane)));
        assert_eq!(taken(&mut tables, slot, 1000), (String::new(), 0, None));
    }

    #[test]
    fn as_many_whole_frames_are_taken_as_the_bound_reaches_into() {
        for (bytes_max, expected) in [(0, ""), (1, "1"), (10, "1"), (11, "12"), (30, "123"), (35, "1234")] {
            let (mut tables, slot) = interleaved();
            let last = expected.len().checked_sub(1).map(|_| id(expected.len() as u64));
            assert_eq!(
                taken(&mut tables, slot, bytes_max),
                (expected.into(), expected.len() as u64, last),
                "{bytes_max}"
            );
            // What is left comes next.
            let rest = &"123456"[expected.len()..];
            assert_eq!(taken(&mut tables, slot, 1000).0, rest);
        }
    }

    #[test]
    fn one_send_has_a_bounded_number_of_copied_bytes() {
        let mut tables = Tables::new();
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = tables.stream(&lanes);
        for number in 1..=4 {
            tables.append(lanes[number % 2], number as u64, 50_000);
        }
        let Tables { slots, lanes, batch, .. } = &mut tables;
        // The frames of other connections come before.
        batch.arena.resize(100_000, b'0');
        let piece = merge(slots, lanes, batch, slot);
        let Piece::Merged { start, end } = piece else { panic!("{piece:?}") };
        assert_eq!((start, end - start), (100_000, MERGED_BYTES_MAX));
        let bytes = &batch.arena[start..end];
        assert_eq!([bytes[0], bytes[50_000], bytes[100_000], bytes[MERGED_BYTES_MAX - 1]], *b"1233");
        assert!(is_short_enough(7, 7 + MERGED_BYTES_MAX as u64) && !is_short_enough(7, 8 + MERGED_BYTES_MAX as u64));
    }

    /// A stream on so many lanes, on each of which two events of one byte wait, and the lanes take turns.
    fn on_many(count: usize) -> (Tables, u32) {
        let mut tables = Tables::new();
        let lanes: Vec<u32> = (0..count).map(|_| tables.lane(SlowPolicy::Gap)).collect();
        let slot = tables.stream(&lanes);
        let numbers = 1..=2 * count as u64;
        numbers.zip(lanes.iter().cycle()).for_each(|(number, lane)| tables.append(*lane, number, 1));
        (tables, slot)
    }

    #[test]
    fn one_poll_is_answered_after_a_number_of_looks() {
        let (mut tables, slot) = on_many(256);
        let mut out = Vec::new();
        let mut take = || {
            let (count, last) = take_pending(&mut tables.slots, &mut tables.lanes, slot, &mut out, usize::MAX);
            (count, last.map(Id::ms))
        };
        assert_eq!([take(), take(), take()], [(256, Some(256)), (256, Some(512)), (0, None)]);
    }

    #[test]
    fn a_merge_costs_the_budget_a_piece_for_each_frame_and_one_for_32_looks() {
        let merged = |count: usize, pieces: usize| {
            let (mut tables, slot) = on_many(count);
            let Tables { slots, lanes, batch, .. } = &mut tables;
            batch.budget = Budget::new((pieces, Duration::from_secs(60)));
            let piece = merge(slots, lanes, batch, slot);
            let Piece::Merged { start: 0, end } = piece else { panic!("{piece:?}") };
            end
        };
        assert_eq!([(31, 5), (32, 6), (64, 6), (64, 7)].map(|(count, pieces)| merged(count, pieces)), [5, 3, 2, 3]);
    }

    fn event(number: u64, bytes: usize) -> Arc<Event> {
        let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; bytes].into() };
        Arc::new(Event { id: id(number), channel: "c".into(), draft })
    }

    fn page(events: &[Arc<Event>], wanted: impl Fn(u64) -> bool) -> (usize, u64, Option<Id>) {
        let mut out = b"before".to_vec();
        let (count, until) = frame_page(LaneKey::default(), events, |event| wanted(event.id.ms()), &mut out);
        assert_eq!(&out[..6], b"before");
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("data: ").count() as u64, count);
        (text.len() - 6, count, until)
    }

    #[test]
    fn a_page_ends_before_the_frame_that_is_too_much() {
        let events: Vec<_> = (1..=5).map(|number| event(number, 40_000)).collect();
        let (bytes, count, until) = page(&events, |_| true);
        assert_eq!((count, until), (3, Some(id(3))));
        assert!((120_000..PAGE_FRAMED_MAX).contains(&bytes));
        assert_eq!(page(&events[..3], |_| true), (bytes, 3, None));
        let large = [event(1, 200_000), event(2, 1)];
        let (bytes, count, until) = page(&large, |_| true);
        assert_eq!((bytes > 200_000, count, until), (true, 1, Some(id(1))), "a large event has a page of its own");
        assert_eq!(page(&[], |_| true), (0, 0, None));
        // Two frames of exactly as many bytes as a page may have, and of one more.
        let one = page(&[event(1, 1)], |_| true).0;
        let overhead = page(&[event(2, 100_000)], |_| true).0 - 100_000;
        for (more, count, until) in [(0, 2, None), (1, 1, Some(id(1)))] {
            let payload = PAGE_FRAMED_MAX - one - overhead + more;
            let (_, framed, reached) = page(&[event(1, 1), event(2, payload)], |_| true);
            assert_eq!((framed, reached), (count, until), "{more}");
        }
    }

    #[test]
    fn events_that_are_not_wanted_are_passed_over() {
        let events: Vec<_> = (1..=6).map(|number| event(number, 40_000)).collect();
        let (_, count, until) = page(&events, |number| number % 2 == 0);
        assert_eq!((count, until), (3, None));
        assert_eq!(page(&events, |_| false), (0, 0, None));
        let (_, count, until) = page(&events, |number| number != 4);
        assert_eq!((count, until), (3, Some(id(4))), "the page reaches up to the event before the next frame");
    }
}
