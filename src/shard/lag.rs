//! Slow clients: the policy for a reader whose backlog is larger than its namespace allows.
//!
//! Under each policy a slow reader costs its cursor and at most one copied frame, however often the policy applies.

use crate::config::SlowPolicy;
use crate::logic::log::Position;
use crate::logic::reason::Reason;

use super::connection::Gap;
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
        SlowPolicy::Disconnect => disconnect(slots, lanes, cx, reader, lane),
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

fn disconnect(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, reader: Reader, lane: u32) {
    let log = &lanes[lane].log;
    let cursor = slots[reader.slot].subscription(reader.subscription as usize).map_or(log.head(), |s| s.cursor);
    cx.counters.slow_events_dropped += log.events_between(cursor, log.head()) as u64;
    cx.counters.slow_disconnected += 1;
    // The subscriptions end now, because the walk trims the log that the reader stands in. The effect ends the rest.
    subscriptions::unsubscribe_all(slots, lanes, cx, reader.slot);
    cx.effect(Effect::End { slot: reader.slot, ending: Ending::new(Reason::Slow) });
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
fn note_gap(slots: &mut Slots, slot: u32, gap: Option<Gap>) {
    let Some(new) = gap else { return };
    let gap = &mut slots[slot].extra().gap;
    *gap = Some(match *gap {
        Some(old) => Gap { after: old.after.min(new.after), resumed: old.resumed.max(new.resumed) },
        None => new,
    });
}
