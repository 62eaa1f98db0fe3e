//! Slow clients: the policy for a reader that has fallen further behind than its namespace allows.
//!
//! Such a reader costs its cursor and no more than one frame, whatever the policy and however often it applies.

use crate::config::SlowPolicy;
use crate::logic::log::Position;
use crate::logic::reason::Reason;

use super::connection::Gap;
use super::context::{Context, Effect, Ending};
use super::lanes::{Lanes, Reader};
use super::slots::Slots;
use super::subscriptions;

/// Applies the policy to a reader whose cursor stands before `floor`. Afterwards the log's frames before `floor` are not
/// needed for this reader.
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
    // At once, because the walk trims the log behind this reader; the rest of its end follows.
    subscriptions::unsubscribe_all(slots, lanes, cx, reader.slot);
    cx.effect(Effect::End { slot: reader.slot, ending: Ending::new(Reason::Slow) });
}

/// Moves a reader's cursor on to `target`; returns what it misses thereby, if that is any event. The positions of the gap
/// are `None` if the log does not know them.
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

/// Notes a gap, of which the client is told once it can take bytes again. Several gaps before that are one to the client,
/// also if they are of several channels.
fn note_gap(slots: &mut Slots, slot: u32, gap: Option<Gap>) {
    let Some(new) = gap else { return };
    let gap = &mut slots[slot].extra().gap;
    *gap = Some(match *gap {
        Some(old) => Gap { after: old.after.min(new.after), resumed: old.resumed.max(new.resumed) },
        None => new,
    });
}
