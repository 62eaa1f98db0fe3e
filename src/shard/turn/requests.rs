//! HTTP requests and their answers.

use crate::logic::code::Code;
use crate::logic::protocol::http::{Exchange, Method, Parsed, Request, Response, encode, parse};
use crate::logic::protocol::query;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Route, Site, route};

use super::super::accept::learn_client;
use super::super::closing::{after_answer, finish, refuse};
use super::super::connection::{Flags, State};
use super::super::limits::admit_request;
use super::super::refusals::{self, cors};
use super::super::waiting::{Hold, Waiting};
use super::input::{keep, read_before_deadline};
use super::{Shard, carrier, messages, sessions};

/// Reads requests, one after the other, until one is held, opens a session, or is incomplete.
pub(super) fn read(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    let mut held = std::mem::take(&mut shard.slots[slot].extra().input);
    let mut rest = bytes;
    if !held.is_empty() {
        held.extend_from_slice(bytes);
        rest = &held;
    }
    if carrier::is_preface(shard, slot, rest) {
        return carrier::begin(shard, slot, rest);
    }
    while !rest.is_empty() && shard.slots[slot].state == State::Http {
        match read_one(shard, slot, rest) {
            Some(consumed) => rest = &rest[consumed..],
            None => break,
        }
    }
    match shard.slots[slot].state {
        State::Http => shard.slots[slot].extra().input = rest.to_vec(),
        State::Poll => keep(shard, slot, rest),
        State::WebSocket if !rest.is_empty() => messages::read(shard, slot, &mut rest.to_vec()),
        _ => {}
    }
    shard.slots.tidy(slot);
}

/// Carries out the first request in `bytes`; returns the number of its bytes, or `None` if the input has to wait.
fn read_one(shard: &mut Shard, slot: u32, bytes: &[u8]) -> Option<usize> {
    if shard.slots[slot].out_waiting() > shard.cx.settings.config.limits.replies {
        shard.slots[slot].hold(Hold::REPLIES);
        return None;
    }
    if !shard.reading.take() {
        shard.slots.read_later(slot);
        return None;
    }
    match parse(bytes, &shard.cx.settings.head) {
        Parsed::Partial => {
            expect_rest_of_head(shard, slot);
            None
        }
        // The request waits until the queued messages of the hub are worked off: its client may have learnt of them
        // elsewhere.
        Parsed::Complete { .. } if !shard.is_caught_up && shard.upstream.is_behind() => {
            shard.slots[slot].hold(Hold::INBOX);
            shard.parked.push_back(slot);
            shard.upstream.note_messages();
            None
        }
        Parsed::Complete { request, consumed } => {
            let is_carried = shard.slots[slot].flags.intersects(Flags::CARRIED);
            let request = if is_carried { request.on_stream() } else { request };
            carry_out(shard, slot, &request);
            // A request that waits for the backend stays in the input and is read again after the answer.
            (!shard.slots[slot].is_put_aside()).then_some(consumed)
        }
        Parsed::Rejected(rejected) => {
            shard.cx.counters.requests += 1;
            refuse(&mut shard.slots, &mut shard.cx, slot, &rejected, Reason::BadRequest);
            Some(bytes.len())
        }
    }
}

/// Sets the deadline for the rest of a request's head, counted from its first byte.
fn expect_rest_of_head(shard: &mut Shard, slot: u32) {
    let limit = shard.cx.now + shard.cx.settings.handshake;
    let deadline = shard.slots[slot].deadline;
    if deadline == 0 || deadline > limit {
        shard.slots.set_deadline(slot, limit);
    }
}

/// Answers one request, or opens the session that it asks for.
fn carry_out(shard: &mut Shard, slot: u32, request: &Request<'_>) {
    shard.cx.counters.requests += 1;
    if let Some(refusal) = take_refusal(shard, slot) {
        return answer_refusal(shard, slot, &refusal, request);
    }
    let flags = &mut shard.slots[slot].flags;
    flags.set(Flags::HTTP_1_1, request.is_http_1_1);
    flags.set(Flags::KEEP_ALIVE, request.keep_alive && !shard.cx.is_draining());
    let Shard { slots, cx, .. } = &mut *shard;
    let learnt = learn_client(slots, cx, slot, request);
    // A request that has waited for the backend was counted before.
    let is_first = !slots[slot].is_decided();
    // A stream's request is one of its connection.
    let asker = slots.h2.carrier_of(slot).unwrap_or(slot);
    let result = learnt.and_then(|()| if is_first { admit_request(cx, asker, &slots[asker]) } else { Ok(()) });
    slots[asker].flags.insert(Flags::ASKED);
    if let Err(refusal) = result.and_then(|()| respond(shard, slot, request)) {
        // The backend's decision was about this request alone.
        shard.slots[slot].take_waiting();
        answer_refusal(shard, slot, &refusal, request);
    }
}

/// The refusal that a connection without a place is to be answered with.
fn take_refusal(shard: &mut Shard, slot: u32) -> Option<Box<Refusal>> {
    match shard.slots[slot].waiting_mut() {
        Some(waiting @ Waiting::Refused(_)) => match std::mem::take(waiting) {
            Waiting::Refused(refusal) => Some(refusal),
            _ => None,
        },
        _ => None,
    }
}

/// The facts about the request and the connection that a response's bytes depend on.
pub(super) fn exchange(shard: &mut Shard, slot: u32, request: &Request<'_>) -> Exchange {
    let keep_alive = shard.slots[slot].flags.intersects(Flags::KEEP_ALIVE);
    Exchange { keep_alive, ..Exchange::of(request, shard.cx.date()) }
}

/// Writes an answer, after which the connection waits for the next request or closes.
pub(super) fn answer(shard: &mut Shard, slot: u32, request: &Request<'_>, response: Response<'_>) {
    write_head(shard, slot, request, response);
    after_answer(&mut shard.slots, &mut shard.cx, slot);
}

/// Writes a response into `out`.
fn write_head(shard: &mut Shard, slot: u32, request: &Request<'_>, response: Response<'_>) {
    let exchange = exchange(shard, slot, request);
    encode(&response.with_cors(cors(&shard.cx, request.origin)), &exchange, shard.slots[slot].out());
}

fn respond(shard: &mut Shard, slot: u32, request: &Request<'_>) -> Result<(), Refusal> {
    if request.method == Method::Options {
        let response = Response::preflight(request.request_headers, cors(&shard.cx, request.origin));
        answer(shard, slot, request, response);
        return Ok(());
    }
    let site = Site { echo_path: &shard.cx.settings.config.diagnostics.echo_path, has_page: shard.pages.is_some() };
    let response = match route(request, &site)? {
        Route::Session(choice) => {
            let query = query::parse(request.query, shard.cx.settings.config.limits.subscriptions)?;
            // Each channel is looked up, entered and, by a poll, left.
            shard.reading.spend(2 * query.channels.len());
            return sessions::session(shard, slot, choice(&query), request, query);
        }
        Route::Live => Response::text(&b"ok\n"[..]),
        Route::Ready if shard.cx.admission.is_ready() => Response::text(&b"ready\n"[..]),
        Route::Ready => return Err(Refusal::new(Code::NotReady, "this server is starting or going away")),
        Route::Page => Response::html(shard.pages.map_or("", |pages| pages.page).as_bytes()),
        Route::Library => Response::script(shard.pages.map_or("", |pages| pages.library).as_bytes()),
    };
    answer(shard, slot, request, response);
    Ok(())
}

fn answer_refusal(shard: &mut Shard, slot: u32, refusal: &Refusal, request: &Request<'_>) {
    shard.cx.counters.errors += 1;
    shard.cx.counters.count_rejection(refusal.code.status());
    if refusal.close {
        shard.slots[slot].flags.remove(Flags::KEEP_ALIVE);
    }
    let exchange = exchange(shard, slot, request);
    let Shard { slots, cx, .. } = shard;
    let session = refusals::write(cx, request, refusal, exchange, slots[slot].out());
    let is_kept = slots[slot].flags.intersects(Flags::KEEP_ALIVE);
    match session {
        None if is_kept => return after_answer(slots, cx, slot),
        None => {}
        // A WebSocket waits for the client's close frame after this.
        Some(key) => slots[slot].key = key,
    }
    let is_refused = slots[slot].flags.intersects(Flags::REFUSED);
    finish(slots, cx, slot, if is_refused { Reason::Refused } else { Reason::BadRequest });
}

/// Ends a connection whose time for a request is over, unless a whole request has come by now.
pub(super) fn on_timeout(shard: &mut Shard, slot: u32) {
    let before = shard.cx.counters.requests;
    read_before_deadline(shard, slot);
    let connection = &shard.slots[slot];
    if connection.state != State::Http || shard.cx.counters.requests != before {
        return;
    }
    let has_begun = connection.extra.as_ref().is_some_and(|extra| !extra.input.is_empty());
    let refused = take_refusal(shard, slot);
    let Shard { slots, cx, .. } = shard;
    if let Some(refusal) = refused {
        refuse(slots, cx, slot, &refusal, Reason::Refused);
    } else if has_begun {
        let refusal = Refusal::fatal(Code::Timeout, Reason::HandshakeTimeout.words());
        refuse(slots, cx, slot, &refusal, Reason::HandshakeTimeout);
    } else if slots[slot].out_waiting() > 0 {
        super::ending::drop_connection(shard, slot, Reason::Slow);
    } else {
        let has_been_answered = slots[slot].sent != slots[slot].opened;
        let reason = if has_been_answered { Reason::Idle } else { Reason::HandshakeTimeout };
        finish(slots, cx, slot, reason);
    }
}
