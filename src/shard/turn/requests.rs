//! HTTP requests: their answers, and opening streams, WebSockets and polls.

use std::time::Duration;

use tracing::info;

use crate::link::{FIGURES_CHANNEL, HubMessage};
use crate::logic::code::Code;
use crate::logic::id::Id;
use crate::logic::protocol::http::{
    Cors, Exchange, Method, Parsed, Request, Response, decide_cors, encode, origin_allowed, parse,
};
use crate::logic::protocol::query::{self, SubscribeQuery};
use crate::logic::protocol::ws;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Carrier, LaneKey, Outcome, Protocol, Route, Site, Spoken, route};
use crate::logic::wheel::Tick;

use super::super::accept::learn_client;
use super::super::closing::{after_answer, finish, refuse};
use super::super::connection::{Flags, State};
use super::super::limits::{admit_request, admit_request_of};
use super::super::opening::Opening;
use super::super::polls;
use super::super::settings::ticks;
use super::super::subscriptions::{
    can_resume_here, check_room_for_channels, follows_all, note_coming, start_after, start_from_now, subscribe,
};
use super::super::waiting::{Hold, Waiting, Wanted};
use super::input::{keep, read_before_deadline};
use super::permission::{self, Permission};
use super::{Shard, messages};

/// The time that the hub may take to answer a poll's question. It takes milliseconds unless the host stands still.
const HUB_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Reads requests, one after the other, until one is held, opens a session, or is incomplete.
pub(super) fn read(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    let mut held = std::mem::take(&mut shard.slots[slot].extra().input);
    let mut rest = bytes;
    if !held.is_empty() {
        held.extend_from_slice(bytes);
        rest = &held;
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
    let flags = &mut shard.slots[slot].flags;
    flags.set(Flags::HTTP_1_1, request.is_http_1_1);
    flags.set(Flags::KEEP_ALIVE, request.keep_alive && !shard.cx.is_draining);
    let Shard { slots, cx, .. } = &mut *shard;
    let learnt = learn_client(slots, cx, slot, request);
    // A request that has waited for the backend was counted before.
    let is_first = !slots[slot].is_decided();
    let result = learnt.and_then(|()| if is_first { admit_request(cx, slot, &slots[slot]) } else { Ok(()) });
    slots[slot].flags.insert(Flags::ASKED);
    if let Err(refusal) = result.and_then(|()| respond(shard, slot, request)) {
        // The backend's decision was about this request alone.
        shard.slots[slot].take_waiting();
        answer_refusal(shard, slot, &refusal, request);
    }
}

/// The facts about the request and the connection that a response's bytes depend on.
fn exchange(shard: &Shard, slot: u32, request: &Request<'_>) -> Exchange {
    Exchange {
        keep_alive: shard.slots[slot].flags.intersects(Flags::KEEP_ALIVE),
        is_http_1_1: request.is_http_1_1,
        head_only: request.method == Method::Head,
    }
}

/// The CORS decision: the pages that may read the answer to a request.
fn cors<'a>(shard: &Shard, request: &Request<'a>) -> Cors<'a> {
    decide_cors(&shard.cx.settings.config.http.cors_origins, request.origin)
}

/// Writes an answer, after which the connection waits for the next request or closes.
fn answer(shard: &mut Shard, slot: u32, request: &Request<'_>, response: Response<'_>) {
    write_head(shard, slot, request, response);
    after_answer(&mut shard.slots, &mut shard.cx, slot);
}

/// Writes a response into `out`.
fn write_head(shard: &mut Shard, slot: u32, request: &Request<'_>, response: Response<'_>) {
    let exchange = exchange(shard, slot, request);
    encode(&response.with_cors(cors(shard, request)), &exchange, shard.slots[slot].out());
}

fn respond(shard: &mut Shard, slot: u32, request: &Request<'_>) -> Result<(), Refusal> {
    if request.method == Method::Options {
        let response = Response::preflight(request.request_headers, cors(shard, request));
        answer(shard, slot, request, response);
        return Ok(());
    }
    let site = Site {
        echo_path: &shard.cx.settings.config.diagnostics.echo_path,
        has_page: shard.page.is_some(),
        is_own: shard.slots[slot].is_own(),
    };
    let response = match route(request, &site)? {
        Route::Session(choice) => {
            let query = query::parse(request.query, shard.cx.settings.config.limits.subscriptions)?;
            // Each channel is looked up, entered and, by a poll, left.
            shard.reading.spend(2 * query.channels.len());
            return session(shard, slot, choice(&query), request, query);
        }
        Route::Figures => {
            let query = SubscribeQuery { channels: vec![FIGURES_CHANNEL.into()], ..SubscribeQuery::default() };
            open(shard, slot, Spoken::SSE, request, &query, Response::events());
            return Ok(());
        }
        Route::Live => Response::text(&b"ok\n"[..]),
        Route::Ready if shard.cx.admission.is_ready() => Response::text(&b"ready\n"[..]),
        Route::Ready => return Err(Refusal::new(Code::NotReady, "this server is starting or going away")),
        Route::Page => Response::html(shard.page.unwrap_or_default().as_bytes()),
    };
    answer(shard, slot, request, response);
    Ok(())
}

/// Carries out a request for a session in a protocol.
fn session(
    shard: &mut Shard,
    slot: u32,
    spoken: Spoken,
    request: &Request<'_>,
    mut query: SubscribeQuery,
) -> Result<(), Refusal> {
    if shard.cx.is_draining {
        let refusal = Refusal::fatal(Code::Draining, "this server is going away; connect again");
        return Err(refusal.retry_after(shard.cx.retry_after_secs()));
    }
    query.after = query.position(request);
    let protocol = spoken.protocol();
    if protocol.has_channels() {
        identify(shard, slot, request, &query)?;
    }
    if protocol.carrier() == Carrier::WebSocket {
        return open_websocket(shard, slot, spoken, request, &query);
    }
    if query.channels.is_empty() {
        return Err(no_channel());
    }
    if permission::obtain(shard, slot, &query.channels, Some(request))? == Permission::Pending {
        return Ok(());
    }
    shard.access.check_channels(&shard.cx, slot, &shard.slots[slot], &query.channels)?;
    if request.method == Method::Head {
        let is_stream = protocol.carrier() == Carrier::Stream;
        let response = if is_stream { Response::events() } else { Response::json(&b""[..]) };
        answer(shard, slot, request, response);
        return Ok(());
    }
    check_room_for_channels(&shard.lanes, &shard.cx, &query.channels)?;
    match protocol.carrier() {
        // Polls join no channel, because they begin and end with each request.
        Carrier::Poll => messages::admit_names(shard, slot, &query.channels)?,
        _ => messages::admit_channels(shard, slot, &query.channels)?,
    }
    match protocol.carrier() {
        Carrier::Poll => begin_poll(shard, slot, spoken, request, &query),
        _ => open(shard, slot, spoken, request, &query, Response::events()),
    }
    Ok(())
}

fn no_channel() -> Refusal {
    Refusal::new(Code::NoChannel, "name at least one channel, as in ?channel=news")
}

/// Gives the connection the identity of the request's token, if the request carries one.
fn identify(shard: &mut Shard, slot: u32, request: &Request<'_>, query: &SubscribeQuery) -> Result<(), Refusal> {
    if !shard.slots[slot].is_decided() {
        shard.access.forget(&shard.cx, slot);
    }
    let Shard { slots, cx, access, reading, .. } = shard;
    let Some(token) = access.token_of(cx, request, query) else { return Ok(()) };
    reading.spend(messages::TOKEN_PIECES);
    let identity = access.verify_of(cx, &slots[slot], token)?;
    access.remember(cx, slot, identity)?;
    match access.user(slot) {
        Some(user) => admit_request_of(cx, user),
        None => Ok(()),
    }
}

fn open_websocket(
    shard: &mut Shard,
    slot: u32,
    spoken: Spoken,
    request: &Request<'_>,
    query: &SubscribeQuery,
) -> Result<(), Refusal> {
    let upgrade = ws::check_upgrade(request)?;
    if !origin_allowed(&shard.cx.settings.config.websocket.origins, request.origin, request.host) {
        let message = "pages of this origin may not connect; see [websocket] origins";
        return Err(Refusal::new(Code::Origin, message));
    }
    check_room_for_channels(&shard.lanes, &shard.cx, &query.channels)?;
    let protocol = spoken.protocol();
    if protocol.has_channels() {
        if permission::obtain(shard, slot, &query.channels, Some(request))? == Permission::Pending {
            return Ok(());
        }
        if !protocol.takes_requests() {
            // The protocol can carry neither a request for channels nor a refusal nor a token, so the request itself is refused.
            if query.channels.is_empty() {
                return Err(no_channel());
            }
            shard.access.check_channels(&shard.cx, slot, &shard.slots[slot], &query.channels)?;
        }
    }
    if !must_send_token(shard, slot, protocol, query) {
        messages::admit_channels(shard, slot, &query.channels)?;
    }
    let subprotocol = protocol.subprotocol().filter(|name| ws::offers(request, name));
    open(shard, slot, spoken, request, query, Response::websocket(&upgrade.accept, subprotocol));
    Ok(())
}

/// Whether a connection must send a token before its subscriptions begin.
fn must_send_token(shard: &Shard, slot: u32, protocol: &dyn Protocol, query: &SubscribeQuery) -> bool {
    let may_send_token = protocol.carrier() == Carrier::WebSocket;
    may_send_token && shard.access.must_send_token(&shard.cx, slot, &shard.slots[slot], &query.channels)
}

/// Answers a request with a stream or a WebSocket, and begins the session on it.
fn open(
    shard: &mut Shard,
    slot: u32,
    spoken: Spoken,
    request: &Request<'_>,
    query: &SubscribeQuery,
    response: Response<'_>,
) {
    let protocol = spoken.protocol();
    let counters = &mut shard.cx.counters;
    counters.handshakes += 1;
    match protocol.carrier() {
        Carrier::WebSocket => counters.opened_ws += 1,
        _ => counters.opened_sse += 1,
    }
    match protocol.carrier() {
        // CORS does not apply to WebSockets.
        Carrier::WebSocket => encode(&response, &exchange(shard, slot, request), shard.slots[slot].out()),
        _ => write_head(shard, slot, request, response),
    }
    shard.slots[slot].key = LaneKey::of(spoken, request.is_http_1_1);
    shard.slots.enter_state(slot, State::of(protocol.carrier()));
    shard.slots.set_deadline(slot, 0);
    if !shard.slots[slot].is_own() {
        log_connected(shard, slot, request, query);
    }
    if protocol.has_channels() {
        tell_came(shard, slot);
        if must_send_token(shard, slot, protocol, query) {
            await_token(shard, slot, query);
        } else {
            begin_subscriptions(shard, slot, &query.channels, query.after, Vec::new());
        }
    }
    shard.slots.queue(slot);
}

/// Has a WebSocket wait for its first token.
fn await_token(shard: &mut Shard, slot: u32, query: &SubscribeQuery) {
    let wanted = Wanted { channels: query.channels.clone(), after: query.after };
    shard.slots[slot].extra().waiting = Waiting::Token(Box::new(wanted));
    shard.slots.set_deadline(slot, shard.cx.now + shard.cx.settings.token_timeout);
}

/// Tells listening backends that a client has come.
fn tell_came(shard: &mut Shard, slot: u32) {
    if !shard.upstream.listening.connections || shard.slots[slot].is_own() {
        return;
    }
    let who = messages::speaker(shard, slot);
    let connection = &shard.slots[slot];
    let (address, transport) = (connection.peer.to_string().into(), connection.key.protocol().carrier().name());
    shard.cx.tell_hub(HubMessage::Came { who, address, transport });
}

/// Subscribes to the channels that a connection has named when it was opened, and welcomes it. Channels that it may not
/// have are refused one by one. `then` has replies that follow the welcome.
pub(super) fn begin_subscriptions(
    shard: &mut Shard,
    slot: u32,
    channels: &[String],
    after: Option<Id>,
    mut then: Vec<u8>,
) {
    for name in channels {
        match shard.access.may_subscribe(&shard.cx, slot, &shard.slots[slot], name) {
            Ok(()) => subscribe(&mut shard.slots, &mut shard.lanes, &mut shard.cx, slot, name),
            Err(denied) => {
                let refusal = denied.refusal(name).of_channels(vec![name.to_owned()]);
                messages::write_reply(shard, slot, None, Outcome::Refused(&refusal), &mut then);
            }
        }
    }
    start(shard, slot, 0, after, Some(Opening::welcome(then)));
    note_coming(&shard.slots, &shard.lanes, &mut shard.cx, slot, 0);
}

/// Starts the subscriptions from number `first` on: from now, or after a position. Missed events come from the shard's
/// logs if these reach back so far, else from the hub. `opening` is written once the position is known.
pub(super) fn start(shard: &mut Shard, slot: u32, first: usize, after: Option<Id>, opening: Option<Opening>) {
    let Shard { slots, lanes, cx, resumes, .. } = shard;
    let position = match after {
        None if opening.is_none() || follows_all(slots, lanes, slot, first) => {
            start_from_now(slots, lanes, slot, first);
            lanes.seen
        }
        Some(after) if start_after(slots, lanes, cx, slot, first, after) => after,
        _ => return resumes.begin(slots, lanes, cx, (slot, first), after, (0, opening)),
    };
    if let Some(opening) = opening {
        opening.write(slots, cx, slot, position);
    }
}

fn log_connected(shard: &mut Shard, slot: u32, request: &Request<'_>, query: &SubscribeQuery) {
    if !shard.deadlines.lines.take(shard.cx.now) {
        shard.cx.counters.lines_suppressed += 1;
        return;
    }
    shard.slots[slot].flags.insert(Flags::LOGGED);
    let connection = &shard.slots[slot];
    info!(
        target: "ringcast::connection",
        conn = %shard.slots.name(shard.cx.index, slot),
        address = %connection.peer,
        transport = connection.key.protocol().carrier().name(),
        user = shard.access.user(slot).map(|user| user.as_str()),
        channels = query.channels.len(),
        channel = query.channels.first().map(String::as_str).unwrap_or_default(),
        user_agent = request.user_agent.unwrap_or_default(),
        last_event_id = query.after.map(tracing::field::display),
        "connected"
    );
}

/// Answers a poll at once if there are events after its position, else holds it.
fn begin_poll(shard: &mut Shard, slot: u32, spoken: Spoken, request: &Request<'_>, query: &SubscribeQuery) {
    let Shard { slots, lanes, cx, .. } = shard;
    cx.counters.handshakes += 1;
    cx.counters.opened_poll += 1;
    let http = &cx.settings.config.http;
    let wait = query.wait_secs.map_or(http.poll_wait, Duration::from_secs).min(http.poll_wait_max);
    let wait: Tick = ticks(wait);
    let cors = decide_cors(&http.cors_origins, request.origin);
    slots[slot].key = LaneKey::of(spoken, request.is_http_1_1);
    slots.enter_state(slot, State::Poll);
    if let Cors::Origin(origin) = cors {
        slots[slot].extra().origin = Some(origin.into());
    }
    for name in &query.channels {
        subscribe(slots, lanes, cx, slot, name);
    }
    // While messages of the hub wait in the queue, only the hub knows the present position.
    let is_current = !shard.upstream.is_behind();
    let is_following = || follows_all(slots, lanes, slot, 0);
    let position = query.after.or_else(|| is_following().then_some(lanes.seen)).filter(|_| is_current);
    match position {
        Some(position) if can_resume_here(slots, lanes, slot, 0, position) => {
            start_after(slots, lanes, cx, slot, 0, position);
            if wait == 0 || polls::has_news(slots, lanes, slot) {
                polls::answer_from(slots, lanes, cx, slot, position);
                shard.reading.look();
            } else {
                slots.set_deadline(slot, cx.now + wait);
            }
        }
        _ => {
            slots.set_deadline(slot, cx.now + ticks(HUB_ANSWER_MAX));
            shard.resumes.begin(slots, lanes, cx, (slot, 0), query.after, (wait, None));
        }
    }
}

fn answer_refusal(shard: &mut Shard, slot: u32, refusal: &Refusal, request: &Request<'_>) {
    shard.cx.counters.errors += 1;
    shard.cx.counters.count_rejection(refusal.code.status());
    if refusal.close {
        shard.slots[slot].flags.remove(Flags::KEEP_ALIVE);
    }
    write_head(shard, slot, request, Response::refusal(refusal));
    let Shard { slots, cx, .. } = shard;
    if slots[slot].flags.intersects(Flags::KEEP_ALIVE) {
        after_answer(slots, cx, slot);
    } else {
        finish(slots, cx, slot, Reason::BadRequest);
    }
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
    let Shard { slots, cx, .. } = shard;
    if has_begun {
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
