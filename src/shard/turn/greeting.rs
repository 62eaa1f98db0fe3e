//! TLS at the entrance: handshakes, and records in the place of bytes.
//!
//! A handshake costs some hundred microseconds, so the clients' bytes are only kept as they come, and handshakes are gone on
//! with after the turn's deliveries, one at least and some for half a millisecond. While a handshake is under way its
//! answers are plain bytes in the connection's `out`.

use std::os::fd::AsFd;
use std::sync::PoisonError;

use tracing::debug;

use crate::logic::code::Code;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::tls::{CertifiedClient, Fatal, Handshake, HandshakeError, Progress};
use crate::sys::socket;

use super::super::closing::{finish, refuse};
use super::super::connection::{Flags, State};
use super::super::context::Budget;
use super::ending::drop_connection;
use super::{GREET, Shard, input};

/// Keeps bytes of a client whose handshake is under way, and has the handshake gone on with.
pub(super) fn on_bytes(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if is_request(shard, slot, bytes) {
        let refusal = Refusal::fatal(Code::BadRequest, "this port speaks TLS: use https:// or wss://");
        shard.cx.counters.tls_errors += 1;
        return refuse(&mut shard.slots, &mut shard.cx, slot, &refusal, Reason::BadRequest);
    }
    if let Err(error) = keep(shard, slot, bytes) {
        return fail(shard, slot, &error);
    }
    shard.slots.tls.queue(slot);
    shard.slots.weigh_tls(slot);
}

/// Whether the first bytes are those of a request without TLS. Every record begins with a byte that is no letter.
fn is_request(shard: &mut Shard, slot: u32, bytes: &[u8]) -> bool {
    let is_first = shard.slots.tls.greeting(slot).is_some_and(|greeting| greeting.handshake.is_none());
    is_first && bytes[0].is_ascii_uppercase()
}

fn keep(shard: &mut Shard, slot: u32, bytes: &[u8]) -> Result<(), HandshakeError> {
    let Some(settings) = &shard.tls else { return Err(HandshakeError::Keys) };
    let Some(greeting) = shard.slots.tls.greeting(slot) else { return Err(HandshakeError::Keys) };
    let handshake = match &mut greeting.handshake {
        Some(handshake) => handshake,
        none => {
            let settings = settings.read().unwrap_or_else(PoisonError::into_inner).clone();
            none.insert(Box::new(Handshake::new(&settings)?))
        }
    };
    handshake.take(bytes)
}

/// Goes on with handshakes, as far as the budget reaches.
pub(super) fn go_on(shard: &mut Shard) {
    if !shard.slots.tls.has_queued() {
        return;
    }
    let mut budget = Budget::new(GREET);
    while !budget.is_spent()
        && let Some(slot) = shard.slots.tls.next()
    {
        step(shard, slot);
        shard.carry_out();
        budget.look();
    }
}

/// Goes on with a handshake as far as its client's bytes reach.
fn step(shard: &mut Shard, slot: u32) {
    if shard.slots[slot].state != State::Greeting {
        return;
    }
    let handshake = shard.slots.tls.greeting(slot).and_then(|greeting| greeting.handshake.as_mut());
    let Some(handshake) = handshake else { return };
    let mut out = Vec::new();
    let result = handshake.advance(&mut out);
    if !out.is_empty() {
        shard.slots[slot].out().extend_from_slice(&out);
        shard.slots.weigh(slot);
        shard.slots.queue(slot);
    }
    shard.slots.weigh_tls(slot);
    let result = match result {
        Ok(Progress::Waits) => return,
        Ok(Progress::Done) => complete(shard, slot),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        fail(shard, slot, &error);
    }
}

/// Ends a handshake that was successful: from now on the connection is one that waits for a request.
fn complete(shard: &mut Shard, slot: u32) -> Result<(), HandshakeError> {
    let Shard { slots, cx, access, .. } = shard;
    let greeting = slots.tls.take_greeting(slot, &mut slots.buffers);
    let handshake = greeting.and_then(|greeting| greeting.handshake).ok_or(HandshakeError::Keys)?;
    let greeted = handshake.finish()?;
    cx.counters.tls_handshakes += 1;
    if let Some(client) = greeted.certificate.as_deref().and_then(CertifiedClient::read) {
        access.certify(slot, client);
    }
    // Bytes of the handshake that are not sent yet come before the first record.
    let connection = &mut slots[slot];
    let rest = connection.out_bytes().to_vec();
    let extra = connection.extra();
    (extra.out, extra.out_sent) = (Vec::new(), 0);
    extra.input = greeted.plain;
    connection.flags.insert(Flags::SEALED);
    slots.tls.secure(slot, greeted.keys, rest, greeted.partial, cx.now);
    slots.enter_state(slot, if greeted.is_http_2 { State::Carrying } else { State::Http });
    slots.weigh(slot);
    slots.weigh_tls(slot);
    slots.queue(slot);
    // The first request may have come together with the end of the handshake.
    slots.read_later(slot);
    Ok(())
}

/// Ends a connection whose handshake has failed. The alert that tells the client so is in `out`.
fn fail(shard: &mut Shard, slot: u32, error: &HandshakeError) {
    debug!(target: "ringcast::tls", address = %shard.slots[slot].peer, %error, "a TLS handshake has failed");
    shard.cx.counters.tls_errors += 1;
    let Shard { slots, cx, .. } = shard;
    slots.tls.take_greeting(slot, &mut slots.buffers);
    finish(slots, cx, slot, Reason::Tls);
}

/// Ends a connection whose handshake takes too long, unless it is the shard that has not got round to it.
pub(super) fn on_timeout(shard: &mut Shard, slot: u32) {
    let was_queued = shard.slots.tls.is_queued(slot);
    input::read_before_deadline(shard, slot);
    if shard.slots[slot].state != State::Greeting {
        return;
    }
    if was_queued {
        let deadline = shard.cx.now + shard.cx.settings.handshake;
        return shard.slots.set_deadline(slot, deadline);
    }
    drop_connection(shard, slot, Reason::HandshakeTimeout);
}

/// Whether a client has begun a record and not finished it in time. The rest may have come in time and wait to be read.
pub(super) fn is_record_late(shard: &mut Shard, slot: u32) -> bool {
    let is_late = |shard: &Shard| {
        let since = shard.slots.tls.unfinished_since(slot);
        since.is_some_and(|since| since + shard.cx.settings.handshake <= shard.cx.now)
    };
    if !is_late(shard) {
        return false;
    }
    if !shard.slots[slot].may_be_read() {
        shard.slots.tls.wait_longer(slot, shard.cx.now);
        return false;
    }
    input::read_before_deadline(shard, slot);
    shard.slots[slot].state == State::Dead || is_late(shard)
}

/// Opens the records of a connection, of which the first `kept` bytes of `bytes` are left free for those that came earlier,
/// and hands their plaintext over.
pub(super) fn on_records(shard: &mut Shard, slot: u32, kept: usize, bytes: &mut [u8]) {
    bytes[..kept].copy_from_slice(shard.slots.tls.partial(slot));
    let now = shard.cx.now;
    let opened = match shard.slots.tls.open(slot, bytes, now) {
        Ok(opened) => opened,
        Err(fatal) => return on_fatal(shard, slot, fatal),
    };
    shard.slots.weigh_tls(slot);
    if shard.slots.tls.unfinished_since(slot).is_some() {
        shard.slots.look_by(slot, now + shard.cx.settings.handshake);
    }
    if opened.plain > 0 {
        input::on_bytes(shard, slot, &mut bytes[..opened.plain]);
    }
    if shard.slots[slot].state == State::Dead {
        return;
    }
    if shard.slots.tls.is_closed(slot) {
        input::on_end(shard, slot);
    } else if shard.slots.tls.has_rest(slot) {
        // The client has asked for new keys.
        shard.slots.queue(slot);
    }
}

/// Ends a connection whose client has broken the protocol, and tells the client why if that can be done at once.
fn on_fatal(shard: &mut Shard, slot: u32, fatal: Fatal) {
    debug!(target: "ringcast::tls", address = %shard.slots[slot].peer, ?fatal, "a TLS connection has failed");
    shard.cx.counters.tls_errors += 1;
    if let Fatal::Ours(alert) = fatal {
        let record = shard.slots.tls.last_alert(slot, alert);
        if let Some(fd) = shard.slots[slot].fd.as_ref().filter(|_| !record.is_empty()) {
            let _ = socket::send(fd.as_fd(), &record);
        }
    }
    drop_connection(shard, slot, Reason::Tls);
}
