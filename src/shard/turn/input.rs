//! The clients' bytes: reading them, and handing them over by the connection's state.

use std::io;
use std::time::Duration;

use crate::logic::protocol::proxy::{self, ProxyHeader};
use crate::logic::reason::Reason;

use super::super::accept::count_address;
use super::super::closing::finish;
use super::super::connection::{Flags, Peer, State};
use super::super::context::Budget;
use super::super::waiting::{Hold, Waiting};
use super::super::wire::Received;
use super::ending::drop_connection;
use super::{INPUT, Shard, carrier, greeting, messages, requests};

/// The most reads of one connection in one turn.
const READS_MAX: usize = 4;
/// The bytes of input that cost a piece of the budget to take in.
pub(super) const BYTES_PER_PIECE: usize = 2048;
/// The budget for the look at a connection's input before its deadline ends it.
const LAST_LOOK: (usize, Duration) = (64, Duration::from_millis(1));

/// Reads the connections that have input, up to the turn's budget.
pub(super) fn read_all(shard: &mut Shard) -> io::Result<()> {
    for _ in 0..shard.slots.unread() {
        if shard.reading.is_spent() || shard.is_short_of_memory() {
            break;
        }
        let Some(slot) = shard.slots.next_unread() else { break };
        read(shard, slot)?;
        shard.slots.weigh(slot);
        shard.carry_out();
    }
    Ok(())
}

/// Goes on with the requests that have waited until the hub's messages were worked off.
pub(super) fn read_parked(shard: &mut Shard) -> io::Result<()> {
    if shard.parked.is_empty() {
        return Ok(());
    }
    shard.reading = Budget::new(INPUT);
    shard.is_caught_up = true;
    while !shard.reading.is_spent()
        && let Some(slot) = shard.parked.pop_front()
    {
        let connection = &mut shard.slots[slot];
        // The hub's messages may have ended the connection.
        if connection.holds().intersects(Hold::INBOX) {
            connection.release(Hold::INBOX);
            connection.flags.insert(Flags::TO_END);
            read(shard, slot)?;
            shard.slots.weigh(slot);
            shard.carry_out();
        }
    }
    shard.is_caught_up = false;
    Ok(())
}

/// Reads what a connection's client may have sent before its deadline, because the server may have been late,
/// and not the client. The turn's budget does not count here: the caller has one.
pub(super) fn read_before_deadline(shard: &mut Shard, slot: u32) {
    if let Some(carrier) = shard.slots.h2.carrier_of(slot) {
        read_before_deadline(shard, carrier);
    }
    let budget = std::mem::replace(&mut shard.reading, Budget::new(LAST_LOOK));
    if shard.slots[slot].may_be_read() {
        if shard.slots[slot].flags.intersects(Flags::TO_END) {
            go_on_with_kept_input(shard, slot);
        }
        read_socket(shard, slot, false);
    }
    shard.reading = budget;
}

/// Goes on with input that was kept, reads the bytes that have come since, and waits for more.
fn read(shard: &mut Shard, slot: u32) -> io::Result<()> {
    let connection = &mut shard.slots[slot];
    if connection.is_put_aside() || connection.state == State::Dead {
        return Ok(());
    }
    let to_end = connection.flags.intersects(Flags::TO_END);
    connection.flags.remove(Flags::TO_END);
    if to_end {
        go_on_with_kept_input(shard, slot);
    }
    let has_all = read_socket(shard, slot, to_end);
    if has_all { shard.wire.await_input(&mut shard.slots, slot) } else { Ok(()) }
}

/// Reads the socket's bytes; returns whether it has no more for now. `to_end`: reads on after a short read, because the
/// connection's end may follow it.
fn read_socket(shard: &mut Shard, slot: u32, to_end: bool) -> bool {
    for round in 0.. {
        let connection = &shard.slots[slot];
        if connection.state == State::Dead || !connection.may_be_read() {
            return false;
        }
        if round == READS_MAX || !shard.reading.take() {
            shard.slots.read_later(slot);
            return false;
        }
        let kept = shard.slots.tls.partial(slot).len();
        let bytes_max = room_for_input(shard, slot).min(shard.wire.scratch.len() - kept);
        match shard.wire.receive(&shard.slots, slot, kept, bytes_max) {
            Received::Nothing => return true,
            Received::End => {
                shard.reading.spend(shard.slots[slot].subscriptions());
                on_end(shard, slot);
                return false;
            }
            Received::Broken => {
                drop_connection(shard, slot, Reason::Broken);
                return false;
            }
            Received::Bytes(length) => {
                shard.cx.counters.received_bytes += length as u64;
                let mut scratch = std::mem::take(&mut shard.wire.scratch);
                let is_short = length < bytes_max;
                shard.reading.spend(length / BYTES_PER_PIECE);
                if shard.slots[slot].flags.intersects(Flags::SEALED) {
                    greeting::on_records(shard, slot, kept, &mut scratch[..kept + length]);
                } else {
                    on_bytes(shard, slot, &mut scratch[..length]);
                }
                shard.wire.scratch = scratch;
                if is_short && !to_end {
                    return true;
                }
            }
        }
    }
    false
}

/// The most bytes that may be read of a connection now, so that it holds no more than it may together with what is held of
/// it already.
fn room_for_input(shard: &Shard, slot: u32) -> usize {
    let (connection, settings) = (&shard.slots[slot], &shard.cx.settings);
    let bytes_max = match connection.state {
        State::WebSocket | State::Closing | State::Lingering => settings.held_message_max,
        State::Poll => settings.config.limits.inbound,
        State::Carrying => carrier::HELD_MAX,
        _ => settings.held_request_max,
    };
    let held = connection.extra.as_ref().map_or(0, |extra| extra.input.len() + extra.decoder.held());
    bytes_max.saturating_sub(held).max(1)
}

/// Ends a connection whose client has closed its sending side: no protocol has a use for a half-open connection.
pub(super) fn on_end(shard: &mut Shard, slot: u32) {
    match shard.slots[slot].state {
        // Waiting answers are still sent, because a client may close its side right after its request.
        State::Http if shard.slots[slot].out_waiting() > 0 => {
            finish(&mut shard.slots, &mut shard.cx, slot, Reason::Client);
        }
        State::Closing => {}
        _ => drop_connection(shard, slot, Reason::Client),
    }
}

pub(super) fn on_bytes(shard: &mut Shard, slot: u32, bytes: &mut [u8]) {
    let connection = &mut shard.slots[slot];
    connection.received = shard.cx.now;
    match connection.state {
        State::Proxied => read_proxy_header(shard, slot, bytes),
        State::Greeting => greeting::on_bytes(shard, slot, bytes),
        State::Carrying => carrier::read(shard, slot, bytes),
        State::Http => requests::read(shard, slot, bytes),
        State::Poll => keep(shard, slot, bytes),
        State::WebSocket => {
            if connection.flags.intersects(Flags::PINGED) {
                connection.flags.remove(Flags::PINGED);
                // The next ping is due before the deadline at which the wheel's entry stood.
                shard.slots.set_deadline(slot, 0);
            }
            messages::read(shard, slot, bytes);
        }
        State::Closing | State::Lingering => messages::read_to_close(shard, slot, bytes),
        // No input is expected in these states.
        State::Stream | State::Dead | State::Free => {}
    }
}

/// Keeps bytes that come while a poll is held. They are the next request, which is carried out after the poll's
/// answer.
pub(super) fn keep(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    let connection = &mut shard.slots[slot];
    let input = &mut connection.extra().input;
    input.reserve_exact(bytes.len());
    input.extend_from_slice(bytes);
    if input.len() >= shard.cx.settings.config.limits.inbound {
        connection.hold(Hold::AHEAD);
    }
}

/// Goes on with input that was kept, if the connection can go on with it now.
fn go_on_with_kept_input(shard: &mut Shard, slot: u32) {
    let connection = &mut shard.slots[slot];
    let Some(extra) = connection.extra.as_mut().filter(|extra| !extra.input.is_empty()) else { return };
    let mut input = std::mem::take(&mut extra.input);
    match connection.state {
        State::Http => requests::read(shard, slot, &input),
        State::Carrying => carrier::read(shard, slot, &input),
        State::WebSocket => {
            messages::read(shard, slot, &mut input);
            carrier::give_room(shard, slot);
        }
        // The kept input has begun with a poll, which is held now.
        State::Poll => keep(shard, slot, &input),
        State::Closing | State::Lingering => messages::read_to_close(shard, slot, &mut input),
        _ => {}
    }
}

/// Reads the PROXY protocol's header; the bytes after it are the client's request.
fn read_proxy_header(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    let mut input = std::mem::take(&mut shard.slots[slot].extra().input);
    input.extend_from_slice(bytes);
    let (client, consumed) = match proxy::parse(&input) {
        ProxyHeader::Partial => {
            shard.slots[slot].extra().input = input;
            return;
        }
        // A peer that does not speak the PROXY protocol is no client and would not understand an answer.
        ProxyHeader::Malformed => return drop_connection(shard, slot, Reason::BadRequest),
        ProxyHeader::Whole { client, consumed } => (client, consumed),
    };
    let Shard { slots, cx, .. } = shard;
    let speaks_tls = slots.tls.greeting(slot).is_some();
    slots.enter_state(slot, if speaks_tls { State::Greeting } else { State::Http });
    // A proxy that does not know its client sends the unspecified address.
    if let Some(client) = client.filter(|client| !client.ip().is_unspecified()) {
        // The header may name another trusted proxy; then each request names the client.
        let is_refused = slots[slot].flags.intersects(Flags::REFUSED);
        let is_counted = !is_refused && !cx.settings.trusts(client.ip());
        if is_counted && let Err(refused) = count_address(slots, cx, slot, client.ip(), true) {
            slots[slot].extra().waiting = Waiting::Refused(Box::new(refused));
        }
        slots[slot].peer = Peer::new(client);
    }
    match speaks_tls {
        true => greeting::on_bytes(shard, slot, &input[consumed..]),
        false => requests::read(shard, slot, &input[consumed..]),
    }
}
