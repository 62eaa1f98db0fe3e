//! Ending connections, over all parts that hold something of them.

use crate::logic::protocol::dialect;
use crate::logic::protocol::ws;

use super::super::accept::give_back_address;
use super::super::closing::{finish, record_end};
use super::super::connection::{Flags, State};
use super::super::context::Ending;
use super::super::counters::Reason;
use super::super::polls;
use super::super::subscriptions::unsubscribe_all;
use super::Shard;

/// Ends a connection in good order: writes what its client must still be told, then has it closed.
pub(super) fn end(shard: &mut Shard, slot: u32, ending: &Ending) {
    let Shard { slots, lanes, cx, .. } = shard;
    let state = slots[slot].state;
    if !matches!(state, State::Proxied | State::Http | State::Stream | State::WebSocket | State::Poll) {
        return;
    }
    if state == State::Poll {
        // The answer says that it is the connection's last.
        slots[slot].flags.remove(Flags::KEEP_ALIVE);
        polls::write_rest(slots, lanes, cx, slot);
    }
    unsubscribe_all(slots, lanes, cx, slot);
    let retry_ms = spread_retry(shard, ending.reason);
    let Shard { slots, cx, .. } = shard;
    let connection = &mut slots[slot];
    connection.flags.remove(Flags::HEARTBEAT | Flags::REPLAYING | Flags::KEEP_ALIVE | Flags::PINGED);
    connection.take_waiting();
    if let Some(extra) = &mut connection.extra {
        extra.resumes.clear();
        extra.gap = None;
        extra.input = Vec::new();
    }
    let dialect = connection.dialect;
    let says_bye = matches!(ending.reason, Reason::Drained | Reason::Kicked | Reason::Expired);
    if says_bye && matches!(state, State::Stream | State::WebSocket) {
        dialect.write_bye(&ending.words, retry_ms, connection.out());
    }
    match state {
        State::Stream if dialect.is_chunked() => connection.out().extend_from_slice(dialect::LAST_CHUNK),
        State::WebSocket => ws::write_close(connection.out(), ending.code, &ending.words),
        _ => {}
    }
    finish(slots, cx, slot, ending.reason);
}

/// How long a client that is sent away is told to wait: random when all are sent away, so that not all come back at once.
fn spread_retry(shard: &mut Shard, reason: Reason) -> u64 {
    let base = shard.cx.settings.retry_ms.max(100);
    if reason == Reason::Drained { shard.cx.rng.u64(base / 2..=base * 3) } else { base }
}

/// Ends a connection at once; what waits to be sent is lost.
pub(super) fn drop_connection(shard: &mut Shard, slot: u32, reason: Reason) {
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
        cx.room.leave();
    }
    give_back_address(slots, cx, slot);
    // Backends are told of the user's going while the identity is known.
    shard.carry_out();
    shard.access.forget(&shard.cx, slot);
    shard.slots.kill(slot);
}
