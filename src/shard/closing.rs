//! The steps of a connection's end that concern its slot alone.
//!
//! An end in good order goes through `Closing` (waiting bytes are sent), `Lingering` (the client reads them and
//! closes) and
//! `Dead` (the ring's polls report for the last time) to free. A broken connection goes straight to `Dead`.

use tracing::info;

use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::wheel::Tick;

use super::connection::{Flags, State};
use super::context::{Context, Effect};
use super::refusals;
use super::settings::TICK_MS;
use super::slots::Slots;

/// Counts and logs the end of a connection, and has listening backends told of it.
pub(super) fn record_end(slots: &Slots, cx: &mut Context, slot: u32, reason: Reason) {
    let connection = &slots[slot];
    let is_open = matches!(connection.state, State::Stream | State::WebSocket);
    if is_open && connection.key.protocol().has_channels() {
        cx.effect(Effect::Gone { slot, reason });
    }
    cx.counters.closed[reason as usize] += 1;
    if connection.flags.intersects(Flags::LOGGED) {
        info!(
            target: "ringcast::connection",
            conn = %slots.name(cx.index, slot),
            address = %connection.peer,
            reason = reason.name(),
            seconds = Tick::saturating_sub(cx.now, connection.opened) as u64 * TICK_MS / 1000,
            events = connection.events,
            "disconnected"
        );
    }
}

/// Has the bytes in `out` sent and then the connection closed.
pub(super) fn finish(slots: &mut Slots, cx: &mut Context, slot: u32, reason: Reason) {
    record_end(slots, cx, slot, reason);
    slots.enter_state(slot, State::Closing);
    // A stream's client may take its time, as long as it takes something.
    let is_carried = slots[slot].flags.intersects(Flags::CARRIED);
    slots.set_deadline(slot, if is_carried { 0 } else { cx.now + cx.settings.linger });
    slots.weigh(slot);
    slots.queue(slot);
}

/// Goes on after a request's answer is written: the connection waits for the next request, or closes.
pub(super) fn after_answer(slots: &mut Slots, cx: &mut Context, slot: u32) {
    if slots[slot].flags.intersects(Flags::KEEP_ALIVE) {
        slots.set_deadline(slot, cx.now + cx.settings.keep_alive);
        slots.weigh(slot);
        slots.queue(slot);
    } else {
        finish(slots, cx, slot, Reason::Answered);
    }
}

/// Answers bytes that are no acceptable request, and closes the connection.
pub(super) fn refuse(slots: &mut Slots, cx: &mut Context, slot: u32, refusal: &Refusal, reason: Reason) {
    cx.counters.errors += 1;
    cx.counters.count_rejection(refusal.code.status());
    let is_http_2 = slots[slot].flags.intersects(Flags::CARRIED);
    refusals::write_unread(cx, refusal, is_http_2, slots[slot].out());
    finish(slots, cx, slot, reason);
}
