//! Ending connections, in all parts that hold something of them.

use crate::logic::protocol::ws::Decoder;
use crate::logic::reason::Reason;
use crate::logic::retry;

use super::super::accept::give_back_address;
use super::super::closing::{finish, record_end};
use super::super::connection::{Flags, State};
use super::super::context::Ending;
use super::super::frames;
use super::super::polls;
use super::super::subscriptions::unsubscribe_all;
use super::{Shard, carrier};

/// The most bytes of a WebSocket's unfinished input that are kept when the server ends it, so that the client's close frame
/// is found behind them. With more, the end does not wait for that frame.
const KEPT_INPUT_MAX: usize = 4096;

/// Ends a connection in good order: writes the last notices for the client, then has the connection closed.
pub(super) fn end(shard: &mut Shard, slot: u32, ending: &Ending) {
    let Shard { slots, lanes, cx, .. } = shard;
    let state = slots[slot].state;
    if state == State::Carrying {
        return carrier::end(shard, slot, ending);
    }
    if !matches!(state, State::Proxied | State::Greeting | State::Http | State::Stream | State::WebSocket | State::Poll)
    {
        return;
    }
    if state == State::Poll {
        // The answer tells the client that the connection closes after it.
        slots[slot].flags.remove(Flags::KEEP_ALIVE);
        polls::write_rest(slots, lanes, cx, slot);
    }
    unsubscribe_all(slots, lanes, cx, slot);
    let retry_ms = retry::after_end_ms(ending.reason, cx.settings.retry_ms, cx.drain_left_ms(), cx.rng.u64(..));
    let mut keeps_input = true;
    let connection = &mut slots[slot];
    connection.flags.remove(Flags::HEARTBEAT | Flags::REPLAYING | Flags::KEEP_ALIVE | Flags::PINGED);
    connection.take_waiting();
    if let Some(extra) = &mut connection.extra {
        extra.resumes.clear();
        extra.gap = None;
        keeps_input = state == State::WebSocket && extra.buffers().input <= KEPT_INPUT_MAX;
        if !keeps_input {
            extra.input = Vec::new();
            extra.decoder = Decoder::default();
        }
    }
    // The answer to a client's close frame is the last frame of both sides. A client that breaks the protocol may never send
    // one (RFC 6455 §7.1.7).
    let breaks_protocol = matches!(ending.reason, Reason::Violation | Reason::InvalidData);
    let awaits_frame = ending.echoed.is_none() && keeps_input && !breaks_protocol;
    connection.flags.set(Flags::CLIENT_CLOSED, !awaits_frame);
    if matches!(state, State::Stream | State::WebSocket) {
        connection.key.close(&ending.farewell(retry_ms), connection.out());
    }
    finish(slots, cx, slot, ending.reason);
}

/// Ends a connection at once. Bytes that wait to be sent are lost.
pub(super) fn drop_connection(shard: &mut Shard, slot: u32, reason: Reason) {
    if !shard.slots[slot].flags.intersects(Flags::CARRIED) {
        carrier::drop_streams(shard, slot, reason);
    }
    let Shard { slots, lanes, cx, resumes, .. } = shard;
    match slots[slot].state {
        State::Free | State::Dead => return,
        State::Closing | State::Lingering => {}
        _ => record_end(slots, cx, slot, reason),
    }
    slots[slot].set_mid_frame(None);
    unsubscribe_all(slots, lanes, cx, slot);
    if slots[slot].flags.intersects(Flags::PAGE) {
        slots[slot].flags.remove(Flags::PAGE);
        resumes.on_page_sent(slots, cx);
    }
    if !slots[slot].flags.intersects(Flags::REFUSED) {
        cx.admission.leave();
    }
    give_back_address(slots, cx, slot);
    frames::reset(slots, slot);
    // The notices to backends need the identity, which is forgotten next.
    shard.carry_out();
    shard.access.forget_connection(&shard.cx, slot);
    let idle = shard.slots.kill(slot);
    if let Some(carrier) = idle.filter(|carrier| shard.slots[*carrier].state == State::Carrying) {
        // The connection waits for its next request, or ends.
        shard.slots.set_deadline(carrier, shard.cx.now + shard.cx.settings.keep_alive);
        shard.slots.queue(carrier);
    }
}
