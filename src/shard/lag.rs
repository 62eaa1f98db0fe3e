//! Slow clients: the policy for a reader whose backlog is larger than its namespace allows.
//!
//! Under each policy a slow reader costs its cursor and at most one copied frame, however often the policy applies. Copied
//! frames are on the shard's account; a reader that is cut off leaves none.

use crate::config::SlowPolicy;
use crate::logic::cells::NONE;
use crate::logic::log::Position;
use crate::logic::reason::Reason;

use super::account::LAST_WORDS_MAX;
use super::connection::{Gap, Resume, State};
use super::context::{Context, Effect, Ending};
use super::lanes::{Lanes, Reader};
use super::slots::Slots;
use super::subscriptions;

/// Applies the policy to a reader whose cursor stands before `floor`. Afterwards the reader does not need the log's
/// frames before `floor`.
pub(super) fn overrun(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    reader: Reader,
    lane: u32,
    floor: Position,
) {
    match lanes.policy_of(lane).slow {
        SlowPolicy::CatchUp => catch_up(slots, lanes, cx, reader.slot),
        SlowPolicy::Disconnect => {
            cx.counters.slow_disconnected += 1;
            cut(slots, lanes, cx, reader.slot);
        }
        SlowPolicy::Latest => {
            let target = lanes[lane].log.newest_start();
            if skip(slots, lanes, cx, reader, lane, target).is_some() {
                cx.counters.slow_skips += 1;
            }
        }
        SlowPolicy::Gap => {
            if let Some(gap) = skip(slots, lanes, cx, reader, lane, floor) {
                cx.counters.slow_gaps += 1;
                note_gap(slots, reader.slot, gap);
            }
        }
    }
}

/// Has a connection go on from the hub's history, from the first event that it was not sent. All of its channels do, so
/// that their events stay in order. The first page is asked for when the client takes bytes again: until then the connection
/// costs a position.
fn catch_up(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    let mut sent = subscriptions::stop_reading(slots, lanes, cx, slot);
    sent.sort_unstable();
    let Some(after) = sent.iter().map(|(_, id)| *id).min() else { return };
    cx.counters.slow_caught_up += 1;
    let channels = sent.iter().map(|(channel, _)| *channel).collect();
    let resume = Resume { channels, sent, after: Some(after), page_due: true, ..Resume::default() };
    subscriptions::add_resume(slots, cx, slot, resume);
    slots.queue(slot);
}

/// Cuts a connection off because it is too far behind or holds too much. Where little is left of a frame that is sent in
/// part, the client is told the reason after that. Else the connection is closed at once: the rest of a large frame is
/// not kept for a client that is given up.
pub(super) fn cut(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    let connection = &slots[slot];
    let missed = connection.subscriptions_from(0).filter(|subscription| subscription.place != NONE);
    let missed: usize = missed.map(|s| lanes[s.lane].log.events_between(s.cursor, lanes[s.lane].log.head())).sum();
    cx.counters.slow_events_dropped += missed as u64;
    let is_session = matches!(connection.state, State::Stream | State::WebSocket);
    let left = subscriptions::rest_of_frame(slots, lanes, slot) + connection.out_waiting();
    // The subscriptions end now, because the caller trims the logs that the connection stands in. The effect ends the
    // rest.
    if is_session && left <= LAST_WORDS_MAX {
        subscriptions::unsubscribe_all(slots, lanes, cx, slot);
        cx.effect(Effect::End { slot, ending: Ending::new(Reason::Slow) });
    } else {
        subscriptions::give_up(slots, cx, slot);
        subscriptions::unsubscribe_all(slots, lanes, cx, slot);
    }
}

/// Moves a reader's cursor on to `target`. Returns `None` if the reader misses no event by that, else the gap, which
/// is
/// `None` if the log does not know its positions.
fn skip(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    reader: Reader,
    lane: u32,
    target: Position,
) -> Option<Option<Gap>> {
    let index = reader.subscription as usize;
    subscriptions::finish_frame(slots, lanes, cx, reader.slot, index);
    let log = &lanes[lane].log;
    let subscription = slots[reader.slot].subscription_mut(index)?;
    let cursor = subscription.cursor;
    let skipped = log.events_between(cursor, target) as u64;
    let gap = log.id_until(cursor).zip(log.id_until(target)).map(|(after, resumed)| Gap { after, resumed });
    subscription.cursor = target.max(cursor);
    cx.counters.slow_events_dropped += skipped;
    (skipped > 0).then_some(gap)
}

/// Notes a gap, of which the client is told when it can take bytes again. Several gaps before that are told as one,
/// even if they are on several channels.
pub(super) fn note_gap(slots: &mut Slots, slot: u32, gap: Option<Gap>) {
    let Some(new) = gap else { return };
    let gap = &mut slots[slot].extra().gap;
    *gap = Some(Box::new(match gap {
        Some(old) => Gap { after: old.after.min(new.after), resumed: old.resumed.max(new.resumed) },
        None => new,
    }));
}

#[cfg(test)]
mod tests {
    use super::super::connection::Flags;
    use super::super::tests::tables::{Tables, id};
    use super::*;
    use crate::logic::id::Id;

    /// A stream on a lane with four events of ten bytes.
    fn with_four(slow: SlowPolicy) -> (Tables, u32, u32) {
        let mut tables = Tables::new();
        let lane = tables.lane(slow);
        let slot = tables.stream(&[lane]);
        (1..=4).for_each(|number| tables.append(lane, number, 10));
        (tables, lane, slot)
    }

    fn overrun_at(tables: &mut Tables, slot: u32, lane: u32, floor: Position) {
        let Tables { slots, lanes, cx, .. } = tables;
        overrun(slots, lanes, cx, Tables::reader(slot), lane, floor);
    }

    #[test]
    fn a_gap_is_from_the_last_whole_event_to_the_first_one_that_is_kept() {
        let (mut tables, lane, slot) = with_four(SlowPolicy::Gap);
        tables.set_cursor(slot, 0, 13, true);
        overrun_at(&mut tables, slot, lane, 30);
        assert_eq!((tables.out(slot), tables.cursor(slot, 0)), ("2222222", 30));
        assert_eq!(tables.slots[slot].mid_frame(), None);
        let gap = tables.slots[slot].extra().gap.as_deref().copied().unwrap();
        assert_eq!((gap.after, gap.resumed), (id(2), id(3)));
        let counters = &tables.cx.counters;
        let counted = (counters.slow_gaps, counters.slow_skips, counters.slow_events_dropped, counters.deliveries);
        assert_eq!(counted, (1, 0, 1, 1));
        assert_eq!(tables.slots[slot].events, 1);
        tables.slots.check_invariants();
    }

    #[test]
    fn a_reader_that_catches_up_goes_on_where_it_was_on_every_channel() {
        let (mut tables, lane, _) = with_four(SlowPolicy::CatchUp);
        let other = tables.lane(SlowPolicy::Gap);
        let slot = tables.stream(&[lane, other]);
        (5..=7).for_each(|number| tables.append(lane, number, 10));
        tables.lanes.see(id(9));
        tables.set_cursor(slot, 0, 53, true);
        overrun_at(&mut tables, slot, lane, 60);
        assert_eq!(tables.out(slot), "6666666", "the rest of the frame");
        let resume = tables.slots[slot].resume().unwrap();
        let channels = [lane, other].map(|lane| tables.lanes[lane].channel);
        assert_eq!(resume.sent, [(channels[0], id(7).before()), (channels[1], id(9))]);
        assert_eq!((&*resume.channels, resume.after), (&channels[..], Some(id(7).before())));
        assert!(resume.page_due && tables.slots[slot].flags.intersects(Flags::REPLAYING));
        assert!(tables.slots[slot].subscriptions_from(0).all(|subscription| subscription.place == NONE));
        let counters = &tables.cx.counters;
        assert_eq!((counters.slow_caught_up, counters.slow_events_dropped, counters.deliveries), (1, 0, 1));
        tables.lanes.check_invariants();
        tables.slots.check_invariants();
    }

    #[test]
    fn several_gaps_are_told_as_one() {
        let (mut tables, lane, slot) = with_four(SlowPolicy::Gap);
        overrun_at(&mut tables, slot, lane, 10);
        overrun_at(&mut tables, slot, lane, 30);
        let gap = tables.slots[slot].extra().gap.as_deref().copied().unwrap();
        assert_eq!((gap.after, gap.resumed), (Id::ZERO, id(3)));
        note_gap(&mut tables.slots, slot, Some(Gap { after: id(1), resumed: id(2) }));
        let gap = tables.slots[slot].extra().gap.as_deref().copied().unwrap();
        assert_eq!((gap.after, gap.resumed), (Id::ZERO, id(3)), "a gap within the gap changes nothing");
        assert_eq!((tables.cx.counters.slow_gaps, tables.cx.counters.slow_events_dropped), (2, 3));
    }

    #[test]
    fn the_latest_event_is_all_that_is_left() {
        let (mut tables, lane, slot) = with_four(SlowPolicy::Latest);
        overrun_at(&mut tables, slot, lane, 20);
        assert_eq!((tables.out(slot), tables.cursor(slot, 0)), ("", 30));
        assert!(tables.slots[slot].extra.as_ref().is_none_or(|extra| extra.gap.is_none()));
        let counters = &tables.cx.counters;
        assert_eq!((counters.slow_skips, counters.slow_gaps, counters.slow_events_dropped), (1, 0, 3));
    }

    #[test]
    fn a_reader_that_misses_nothing_is_not_counted() {
        for slow in [SlowPolicy::Latest, SlowPolicy::Gap] {
            let (mut tables, lane, slot) = with_four(slow);
            // The rest of the frame reaches up to the floor.
            tables.set_cursor(slot, 0, 25, true);
            overrun_at(&mut tables, slot, lane, 30);
            assert_eq!((tables.out(slot), tables.cursor(slot, 0)), ("33333", 30));
            let counters = &tables.cx.counters;
            assert_eq!((counters.slow_skips, counters.slow_gaps, counters.slow_events_dropped), (0, 0, 0));
            assert!(tables.slots[slot].extra().gap.is_none());
        }
    }

    #[test]
    fn a_reader_in_the_newest_frame_has_everything_after_it() {
        let (mut tables, lane, slot) = with_four(SlowPolicy::Latest);
        tables.set_cursor(slot, 0, 34, true);
        overrun_at(&mut tables, slot, lane, 40);
        assert_eq!((tables.out(slot), tables.cursor(slot, 0)), ("444444", 40));
        assert!(tables.lanes.is_read(lane));
        tables.lanes.check_invariants();
    }

    #[test]
    fn a_slow_reader_leaves_all_its_channels_and_is_told_why() {
        let (mut tables, lane, _) = with_four(SlowPolicy::Disconnect);
        let other = tables.lane(SlowPolicy::Gap);
        let slot = tables.stream(&[lane, other]);
        (5..=7).for_each(|number| tables.append(other, number, 10));
        tables.append(lane, 8, 10);
        overrun_at(&mut tables, slot, lane, 45);
        assert_eq!(tables.slots[slot].subscriptions(), 0);
        assert_eq!((tables.cx.counters.slow_disconnected, tables.cx.counters.slow_events_dropped), (1, 4));
        let ends = |effect: &Effect| matches!(effect, Effect::End { slot: ended, ending } if *ended == slot && ending.reason == Reason::Slow);
        assert!(matches!(&tables.cx.effects[..], [effect] if ends(effect)), "{:?}", tables.cx.effects);
        tables.lanes.check_invariants();
    }

    #[test]
    fn only_a_short_rest_of_a_frame_is_kept_for_a_connection_that_is_cut_off() {
        for (state, waiting, rest, is_told) in [
            (State::Stream, 0, LAST_WORDS_MAX, true),
            (State::WebSocket, 0, LAST_WORDS_MAX + 1, false),
            (State::Stream, 1, LAST_WORDS_MAX, false),
            (State::WebSocket, LAST_WORDS_MAX, 0, true),
            (State::Poll, 0, 0, false),
        ] {
            let mut tables = Tables::new();
            let lane = tables.lane(SlowPolicy::Disconnect);
            let slot = tables.stream(&[lane]);
            tables.slots.enter_state(slot, state);
            tables.append(lane, 1, LAST_WORDS_MAX + 10);
            if rest > 0 {
                tables.set_cursor(slot, 0, (LAST_WORDS_MAX + 10 - rest) as u64, true);
            }
            tables.slots[slot].out().extend(vec![b'r'; waiting]);
            let Tables { slots, lanes, cx, .. } = &mut tables;
            cut(slots, lanes, cx, slot);
            let is_end = matches!(cx.effects[..], [Effect::End { .. }]);
            let is_drop = matches!(cx.effects[..], [Effect::Drop { reason: Reason::Slow, .. }]);
            assert_eq!((is_end, is_drop), (is_told, !is_told), "{state:?} {waiting} {rest}");
            assert_eq!(slots[slot].out_waiting(), if is_told { waiting + rest } else { waiting });
            assert_eq!(slots[slot].flags.intersects(Flags::BLOCKED), !is_told, "nothing more is sent");
            assert_eq!((slots[slot].mid_frame(), slots[slot].subscriptions()), (None, 0));
        }
    }
}
