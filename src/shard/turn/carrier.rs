//! Connections that speak HTTP/2: the client's frames, and what they ask of the streams.
//!
//! A request becomes a stream, a slot of its own, and is carried out at once by the code that carries out requests of HTTP/1.1.

use std::num::NonZeroU32;

use tracing::debug;

use crate::logic::code::Code;
use crate::logic::h2::{ErrorCode, Event, PREFACE, UNIT_MAX, WINDOW, write_goaway, write_reset, write_update};
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::Carrier;

use super::super::closing::finish;
use super::super::connection::{Flags, State};
use super::super::context::Ending;
use super::super::waiting::{Hold, Waiting};
use super::ending::{self, drop_connection};
use super::input::{self, BYTES_PER_PIECE};
use super::{Shard, requests};

/// The most bytes that are held of a connection's input.
pub(super) const HELD_MAX: usize = UNIT_MAX + 4096;
/// The tokens that a reset before the response's head costs, beside the one of every reset.
const EARLY_RESET: u32 = 4;
/// The tokens that a stream costs for which there is no room.
const REFUSED_STREAM: u32 = 5;
/// The number of a GOAWAY that announces the end while streams may still be opened (RFC 9113 §6.8).
const LAST_OF_ALL: u32 = (1 << 31) - 1;
/// The most streams at a time that get a refusal because the server has no room.
const REFUSALS_MAX: usize = 64;

/// Whether the first bytes of a connection without TLS are those of HTTP/2, and may be.
pub(super) fn is_preface(shard: &Shard, slot: u32, bytes: &[u8]) -> bool {
    let is_first = !shard.slots[slot].flags.intersects(Flags::ASKED | Flags::SEALED | Flags::CARRIED | Flags::REFUSED);
    is_first && shard.cx.settings.config.http2.cleartext && bytes.len() >= 4 && PREFACE.starts_with(&bytes[..4])
}

/// Has a connection speak HTTP/2 from now on.
pub(super) fn begin(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    shard.slots.enter_state(slot, State::Carrying);
    read(shard, slot, bytes);
}

/// Reads a connection's frames, as long as answers find room.
pub(super) fn read(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    let mut held = std::mem::take(&mut shard.slots[slot].extra().input);
    let mut rest = bytes;
    if !held.is_empty() {
        held.extend_from_slice(bytes);
        rest = &held;
    }
    match read_preface(shard, slot, rest) {
        Ok(consumed) => rest = &rest[consumed..],
        Err(()) => return drop_connection(shard, slot, Reason::Http2),
    }
    let mut has_read = false;
    let mut is_partial = !shard.slots.h2.has_begun(slot);
    while !is_partial && !rest.is_empty() && shard.slots[slot].state == State::Carrying && may_go_on(shard, slot) {
        let mut out = Vec::new();
        let read = shard.slots.h2.read(slot, rest, &mut out, shard.cx.now);
        if !out.is_empty() {
            shard.slots[slot].out().extend_from_slice(&out);
        }
        let result = match read {
            Ok(Some((consumed, event))) => {
                has_read = true;
                rest = &rest[consumed..];
                shard.reading.spend(consumed / BYTES_PER_PIECE);
                carry_out(shard, slot, event)
            }
            Ok(None) => {
                is_partial = true;
                Ok(())
            }
            Err(code) => Err(code),
        };
        if let Err(code) = result {
            return fail(shard, slot, code);
        }
    }
    if shard.slots[slot].state != State::Carrying {
        return;
    }
    shard.slots[slot].extra().input = rest.to_vec();
    keep_time(shard, slot, is_partial && !rest.is_empty(), has_read);
    if shard.slots[slot].out_waiting() > 0 {
        shard.slots.queue(slot);
    }
    shard.slots.tidy(slot);
}

/// Reads the client's preface, if it has not come yet; returns the number of its bytes.
fn read_preface(shard: &mut Shard, slot: u32, bytes: &[u8]) -> Result<usize, ()> {
    if shard.slots.h2.has_begun(slot) {
        return Ok(0);
    }
    let length = bytes.len().min(PREFACE.len());
    if bytes[..length] != PREFACE[..length] {
        return Err(());
    }
    if length < PREFACE.len() {
        return Ok(0);
    }
    let streams = shard.cx.settings.config.http2.streams;
    let mut out = Vec::new();
    shard.slots.h2.begin(slot, streams, &mut out);
    shard.slots[slot].out().extend_from_slice(&out);
    Ok(length)
}

/// Whether the connection's next frame may be read now.
fn may_go_on(shard: &mut Shard, slot: u32) -> bool {
    if shard.slots[slot].out_waiting() > shard.cx.settings.config.limits.replies {
        shard.slots[slot].hold(Hold::REPLIES);
        return false;
    }
    let has_share = shard.reading.take();
    if !has_share {
        shard.slots.read_later(slot);
    }
    has_share
}

/// Sets the time in which the rest of a frame must come, or the next request on a connection without streams.
fn keep_time(shard: &mut Shard, slot: u32, is_partial: bool, has_read: bool) {
    let settings = &shard.cx.settings;
    let deadline = shard.slots[slot].deadline;
    if is_partial {
        let limit = shard.cx.now + settings.handshake;
        if has_read || deadline == 0 || deadline > limit {
            shard.slots.set_deadline(slot, limit);
        }
    } else if shard.slots.h2.count(slot) > 0 {
        shard.slots[slot].deadline = 0;
    } else if deadline == 0 {
        shard.slots.set_deadline(slot, shard.cx.now + settings.keep_alive);
    }
}

fn carry_out(shard: &mut Shard, carrier: u32, event: Event<'_>) -> Result<(), ErrorCode> {
    match event {
        Event::None => {}
        Event::Request { stream, ends } => open(shard, carrier, stream, ends)?,
        Event::Data { stream, bytes, cost, ends } => {
            if let Some(slot) = shard.slots.h2.find(carrier, stream) {
                take_data(shard, slot, bytes, cost, ends)?;
            }
        }
        Event::Reset { stream } => {
            if let Some(slot) = shard.slots.h2.find(carrier, stream) {
                on_reset(shard, carrier, slot)?;
            }
        }
        Event::Window { stream, more } => {
            if let Some(slot) = shard.slots.h2.find(carrier, stream) {
                widen(shard, slot, more)?;
                shard.slots.queue(carrier);
            }
        }
        Event::Room => shard.slots.queue(carrier),
        Event::Windows { change } => {
            let mut at = shard.slots.h2.first_in_turn(carrier);
            for _ in 0..shard.slots.h2.count(carrier) {
                let Some(slot) = at else { break };
                widen(shard, slot, change)?;
                at = shard.slots.h2.next_in_turn(slot);
            }
            shard.slots.queue(carrier);
        }
    }
    Ok(())
}

fn widen(shard: &mut Shard, slot: u32, more: i32) -> Result<(), ErrorCode> {
    let Some(stream) = shard.slots.h2.stream_mut(slot) else { return Ok(()) };
    stream.window = stream.window.checked_add(more).ok_or(ErrorCode::FlowControl)?;
    Ok(())
}

/// Opens a stream, and carries its request out.
fn open(shard: &mut Shard, carrier: u32, id: u32, ends: bool) -> Result<(), ErrorCode> {
    let Shard { slots, cx, .. } = &mut *shard;
    let has_room = slots.h2.count(carrier) < cx.settings.config.http2.streams as usize;
    let has_place = has_room && cx.admission.enter();
    let Some(id) = NonZeroU32::new(id) else { return Err(ErrorCode::Protocol) };
    if !has_room || !has_place && slots.refusals >= REFUSALS_MAX {
        if let Some(link) = slots.h2.link(carrier) {
            link.charge(REFUSED_STREAM, cx.now)?;
            link.note_cut(id.get());
        }
        cx.counters.refused += 1;
        write_reset(id.get(), ErrorCode::RefusedStream, slots[carrier].out());
        return Ok(());
    }
    cx.counters.h2_opened += 1;
    let slot = slots.occupy_stream(carrier, id, ends, cx.now);
    slots.set_deadline(slot, cx.now + cx.settings.handshake);
    if !has_place {
        cx.counters.refused += 1;
        slots.refusals += 1;
        slots[slot].flags.insert(Flags::REFUSED);
        let refusal = Refusal::fatal(Code::Full, "this server has no room for more connections");
        let refusal = refusal.retry_after(cx.retry_after_secs());
        slots[slot].extra().waiting = Waiting::Refused(Box::new(refusal));
    }
    let head = std::mem::take(&mut shard.slots.h2.head);
    requests::read(shard, slot, head.text());
    shard.slots.h2.head = head;
    Ok(())
}

/// Takes bytes of a request's body, which only a WebSocket has a use for.
fn take_data(shard: &mut Shard, slot: u32, bytes: &[u8], cost: u32, ends: bool) -> Result<(), ErrorCode> {
    let Some(stream) = shard.slots.h2.stream_mut(slot) else { return Ok(()) };
    stream.client_ended |= ends;
    stream.unread += cost;
    if stream.unread > WINDOW as u32 {
        return Err(ErrorCode::FlowControl);
    }
    let is_over = stream.client_ended && stream.has_ended;
    shard.slots[slot].received = shard.cx.now;
    if is_over {
        drop_connection(shard, slot, Reason::Lingered);
        return Ok(());
    }
    let key = shard.slots[slot].key;
    if key.protocol().carrier() != Carrier::WebSocket {
        return Ok(());
    }
    if !bytes.is_empty() {
        input::on_bytes(shard, slot, &mut bytes.to_vec());
        give_room(shard, slot);
    }
    if ends {
        on_websocket_end(shard, slot);
    }
    Ok(())
}

/// Ends a WebSocket whose client has ended its side of the stream, which stands for the end of TCP's (RFC 8441 §5).
fn on_websocket_end(shard: &mut Shard, slot: u32) {
    let connection = &mut shard.slots[slot];
    match connection.state {
        State::WebSocket => drop_connection(shard, slot, Reason::Client),
        // No close frame comes any more.
        State::Closing => connection.flags.insert(Flags::CLIENT_CLOSED),
        State::Lingering => {
            connection.flags.insert(Flags::CLIENT_CLOSED);
            let deadline = connection.deadline;
            shard.slots.linger(slot, deadline);
        }
        _ => {}
    }
}

/// Gives a WebSocket's client room again for what was read of its bytes.
pub(super) fn give_room(shard: &mut Shard, slot: u32) {
    let held = shard.slots[slot].extra.as_ref().map_or(0, |extra| extra.input.len());
    let Some(stream) = shard.slots.h2.stream_mut(slot) else { return };
    let read = stream.unread.saturating_sub(held as u32);
    if read < WINDOW as u32 / 2 || stream.client_ended {
        return;
    }
    stream.unread -= read;
    let (id, carrier) = (stream.id.get(), stream.carrier);
    write_update(id, read, shard.slots[carrier].out());
    shard.slots.weigh(carrier);
    shard.slots.queue(carrier);
}

/// Ends a stream that its client has reset.
fn on_reset(shard: &mut Shard, carrier: u32, slot: u32) -> Result<(), ErrorCode> {
    let now = shard.cx.now;
    let Some(stream) = shard.slots.h2.stream_mut(slot) else { return Ok(()) };
    let is_early = stream.owes_head;
    (stream.client_ended, stream.has_ended) = (true, true);
    drop_connection(shard, slot, Reason::Client);
    match shard.slots.h2.link(carrier) {
        Some(link) if is_early => link.charge(EARLY_RESET, now),
        _ => Ok(()),
    }
}

/// Ends a connection whose client has broken the protocol or makes too much work, and tells it why.
fn fail(shard: &mut Shard, slot: u32, code: ErrorCode) {
    debug!(target: "ringcast::http2", address = %shard.slots[slot].peer, ?code, "a connection of HTTP/2 has failed");
    shard.cx.counters.h2_errors += 1;
    drop_streams(shard, slot, Reason::Http2);
    let Shard { slots, cx, .. } = shard;
    let last = slots.h2.link(slot).map_or(0, |link| link.last());
    write_goaway(last, code, slots[slot].out());
    finish(slots, cx, slot, Reason::Http2);
}

/// Ends all streams of a connection that ends itself.
pub(super) fn drop_streams(shard: &mut Shard, carrier: u32, reason: Reason) {
    while let Some(slot) = shard.slots.h2.first_in_turn(carrier) {
        if let Some(stream) = shard.slots.h2.stream_mut(slot) {
            (stream.client_ended, stream.has_ended) = (true, true);
        }
        drop_connection(shard, slot, reason);
    }
}

/// Has a connection end in good order: no more streams are opened, and it ends with its last stream. A drain ends the streams at its
/// own pace; else they end now.
pub(super) fn end(shard: &mut Shard, carrier: u32, ending: &Ending) {
    if !shard.slots.h2.has_begun(carrier) {
        return finish(&mut shard.slots, &mut shard.cx, carrier, ending.reason);
    }
    if shard.slots.h2.leave(carrier) {
        write_goaway(LAST_OF_ALL, ErrorCode::No, shard.slots[carrier].out());
        shard.slots.weigh(carrier);
    }
    if !(ending.reason == Reason::Drained && shard.cx.is_draining()) {
        let slots: Vec<u32> = shard.slots.h2.slots_of(carrier).collect();
        slots.into_iter().for_each(|slot| ending::end(shard, slot, ending));
    }
    shard.slots.queue(carrier);
}

/// Ends a connection that has no streams, or whose client does not finish what it has begun to send.
pub(super) fn on_deadline(shard: &mut Shard, slot: u32) {
    let now = shard.cx.now;
    shard.slots[slot].deadline = now;
    input::read_before_deadline(shard, slot);
    let connection = &shard.slots[slot];
    if connection.state != State::Carrying || connection.deadline != now {
        return;
    }
    shard.slots[slot].deadline = 0;
    let connection = &shard.slots[slot];
    let has_begun = connection.extra.as_ref().is_some_and(|extra| !extra.input.is_empty());
    if has_begun && connection.holds().is_empty() || !shard.slots.h2.has_begun(slot) {
        drop_connection(shard, slot, Reason::HandshakeTimeout);
    } else if shard.slots.h2.count(slot) == 0 {
        end(shard, slot, &Ending::new(Reason::Idle));
    }
}
