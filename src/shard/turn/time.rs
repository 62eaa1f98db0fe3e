//! The clock: deadlines, heartbeats, and freeing memory that was unused for a while.

use std::time::Duration;

use tracing::info;

use crate::link::HubMessage;
use crate::logic::reason::Reason;
use crate::logic::wheel::Tick;
use crate::sys::memory;

use super::super::connection::{Flags, State};
use super::super::context::{Budget, Ending};
use super::super::deadlines::{Due, beat, is_stalled};
use super::super::drain::{Cause, Drain, Step};
use super::super::polls;
use super::{Shard, carrier, ending, greeting, input, permission, requests};

/// The ticks after which unused memory is given back to the kernel.
const TIDY_EVERY: Tick = 10;
/// The most connections with a due deadline or heartbeat in one turn, and the time that they may take.
const LOOKS: (usize, Duration) = (16 * 1024, Duration::from_millis(4));
/// The most lanes and logs that are freed in one turn, and the time that they may take.
const LANES: (usize, Duration) = (16 * 1024, Duration::from_millis(2));
/// The most connections that are accepted from the queues of a shard which ends, and the time that they may take: more
/// than the queues of some listeners hold.
const LAST_ACCEPTS: (usize, Duration) = (64 * 1024, Duration::from_millis(15));

/// Works off the clock's ticks and the deadlines that have fired.
pub(super) fn pass(shard: &mut Shard) {
    let has_ticked = std::mem::take(&mut shard.has_ticked);
    if has_ticked {
        tick(shard);
    }
    if !has_ticked && !has_more(shard) {
        return;
    }
    let mut budget = Budget::new(LOOKS);
    while budget.take()
        && let Some(due) = shard.deadlines.next(&mut shard.slots, shard.cx.now)
    {
        budget.spend(cost(shard, due));
        look_at(shard, due.slot, due.is_deadline);
        shard.carry_out();
    }
    go_on_draining(shard, &mut budget);
    look_for_expired(shard, &mut budget);
    let mut budget = Budget::new(LANES);
    free_lanes(shard, &mut budget);
}

/// The pieces of the budget that a look at a connection costs beside the one of every look.
fn cost(shard: &Shard, due: Due) -> usize {
    let connection = &shard.slots[due.slot];
    match connection.state {
        // The poll is answered, or input is read for the last time.
        State::Poll => 16 + connection.subscriptions(),
        _ if due.is_deadline => 4 + connection.subscriptions(),
        _ => 0,
    }
}

/// Frees lanes and logs that no connection needs any more.
fn free_lanes(shard: &mut Shard, budget: &mut Budget) {
    let now = shard.cx.now;
    while budget.take()
        && let Some(freed) = shard.lanes.free_unused_lane(now)
    {
        if let Some(local) = freed {
            shard.cx.tell_hub(HubMessage::Unfollow { shard: shard.cx.index, local });
        }
    }
    while budget.take() && shard.lanes.empty_old_log(now) {}
}

/// Has connections looked at whose tokens may have expired while the shard stood still: their entries in the wheel were
/// made before.
fn look_for_expired(shard: &mut Shard, budget: &mut Budget) {
    while shard.expired_from < shard.slots.capacity() && budget.take() {
        let slot = shard.expired_from;
        shard.expired_from += 1;
        if shard.access.ends(slot).is_some() {
            shard.slots.reschedule(slot);
        }
    }
}

/// Whether the last tick has left something to be done.
pub(super) fn has_more(shard: &Shard) -> bool {
    shard.deadlines.has_fired()
        || shard.lanes.has_old(shard.cx.now)
        || shard.expired_from < shard.slots.capacity()
        || shard.drain.as_ref().is_some_and(|drain| drain.has_more(&shard.slots))
}

fn tick(shard: &mut Shard) {
    let now = shard.cx.now;
    #[cfg(debug_assertions)]
    crate::shard::faults::fail_if_asked(shard.cx.index);
    shard.deadlines.advance(now);
    shard.wire.feed_starved(&mut shard.slots);
    let left_out = shard.deadlines.lines.left_out(now);
    if left_out > 0 {
        info!(target: "ringcast::connection", shard = shard.cx.index, left_out, "log lines about connections were left out");
    }
    if let Some(drain) = &mut shard.drain {
        drain.on_tick(now);
    }
    if now.is_multiple_of(10 * TIDY_EVERY) {
        shard.give_back_slack();
    }
    if now.is_multiple_of(TIDY_EVERY) {
        memory::give_back();
    }
    if now.is_multiple_of(TIDY_EVERY) {
        shard.access.tidy();
    }
    shard.cx.measures.publish(&shard.figures.measures);
}

/// Looks at a connection whose entry in the wheel has fired.
fn look_at(shard: &mut Shard, slot: u32, is_deadline: bool) {
    if is_deadline {
        on_deadline(shard, slot);
    }
    if is_stalled(&shard.slots[slot], &shard.cx.settings, shard.cx.now) {
        return ending::drop_connection(shard, slot, Reason::Slow);
    }
    if greeting::is_record_late(shard, slot) {
        return ending::drop_connection(shard, slot, Reason::HandshakeTimeout);
    }
    if !end_expired(shard, slot) {
        beat(&mut shard.slots, &shard.cx, slot);
    }
}

fn on_deadline(shard: &mut Shard, slot: u32) {
    if permission::answer_by_default(shard, slot) {
        return;
    }
    match shard.slots[slot].state {
        State::Proxied => {
            input::read_before_deadline(shard, slot);
            if shard.slots[slot].state == State::Proxied {
                ending::drop_connection(shard, slot, Reason::HandshakeTimeout);
            }
        }
        State::Greeting => greeting::on_timeout(shard, slot),
        State::Carrying => carrier::on_deadline(shard, slot),
        State::Http => requests::on_timeout(shard, slot),
        State::Poll => polls::answer_empty(&mut shard.slots, &mut shard.lanes, &mut shard.cx, slot),
        State::WebSocket => on_websocket_deadline(shard, slot),
        State::Closing | State::Lingering => ending::drop_connection(shard, slot, Reason::Lingered),
        State::Stream => {
            if let Some(opening) = shard.slots[slot].resume_mut().and_then(|resume| resume.opening.as_mut()) {
                opening.release_head();
                shard.slots.queue(slot);
            }
        }
        State::Dead | State::Free => {}
    }
}

/// Ends a WebSocket that has not answered a ping, or sent no token, in time. Its bytes may have come in time and wait to be
/// read.
fn on_websocket_deadline(shard: &mut Shard, slot: u32) {
    let awaits_token = shard.slots[slot].awaits_token();
    input::read_before_deadline(shard, slot);
    let connection = &shard.slots[slot];
    if connection.state != State::WebSocket {
        return;
    }
    if awaits_token && connection.awaits_token() {
        ending::end(shard, slot, &Ending::new(Reason::Unauthorized));
    } else if !awaits_token && connection.flags.intersects(Flags::PINGED) {
        ending::drop_connection(shard, slot, Reason::Unresponsive);
    }
}

/// Ends a connection whose identity has expired; returns whether it has.
fn end_expired(shard: &mut Shard, slot: u32) -> bool {
    if shard.access.ends(slot).is_none_or(|end| end > shard.cx.now) {
        return false;
    }
    if shard.slots[slot].state == State::Http {
        // No session is open, and the next request brings its own token.
        shard.access.forget(&shard.cx, slot);
        return false;
    }
    ending::end(shard, slot, &Ending::new(Reason::Expired));
    true
}

/// Begins a drain, unless one with the same cause, or the final one, is under way.
pub(super) fn begin_drain(shard: &mut Shard, cause: Cause) {
    let before = shard.drain.as_ref().map(Drain::cause);
    if before == Some(Cause::End) || before == Some(cause) {
        return;
    }
    if cause == Cause::End {
        shard.acceptor.stop(&mut shard.slots, &mut shard.cx, Budget::new(LAST_ACCEPTS));
    }
    let drain = Drain::new(cause, &shard.slots, shard.cx.now, shard.cx.settings.drain);
    let ticks = drain.ticks_left(&shard.slots);
    // A server that ends waits for its last clients to close.
    let linger = if cause == Cause::End { shard.cx.settings.linger } else { 0 };
    shard.cx.drain_ends = Some(shard.cx.now.saturating_add(ticks).saturating_add(linger));
    shard.drain = Some(drain);
    go_on_draining(shard, &mut Budget::new(LOOKS));
}

/// Ends a pause: the shard takes clients again.
pub(super) fn end_pause(shard: &mut Shard) {
    if shard.drain.as_ref().is_some_and(|drain| drain.cause() == Cause::Pause) {
        shard.drain = None;
        shard.cx.drain_ends = None;
    }
}

/// Ends a tick's share of the connections, and tells the hub when none is left.
fn go_on_draining(shard: &mut Shard, budget: &mut Budget) {
    // The events that came before the drain are sent before the clients are told to go.
    if shard.drain.as_mut().is_some_and(|drain| drain.must_wait(!shard.walks.is_empty())) {
        return;
    }
    let Some(mut drain) = shard.drain.take() else { return };
    while budget.take()
        && let Some(step) = drain.next(&shard.slots)
    {
        match step {
            Step::End(slot) | Step::Cut(slot) => budget.spend(shard.slots[slot].subscriptions()),
            Step::Over(_) => {}
        }
        match step {
            Step::End(slot) => {
                ending::end(shard, slot, &Ending::new(Reason::Drained));
                shard.carry_out();
            }
            Step::Cut(slot) => ending::drop_connection(shard, slot, Reason::Drained),
            Step::Over(cut) => shard.cx.tell_hub(HubMessage::Drained { shard: shard.cx.index, cut }),
        }
    }
    shard.drain = Some(drain);
}
