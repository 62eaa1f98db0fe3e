//! HTTP requests: what each is for, its answer, and opening streams, WebSockets and polls.

use std::time::Duration;

use tracing::info;

use crate::link::{FIGURES_CHANNEL, HubMessage};
use crate::logic::id::Id;
use crate::logic::protocol::dialect::Dialect;
use crate::logic::protocol::http::{
    Cors, Method, Parsed, Reject, Request, ResponseHeaders, decide_cors, origin_allowed, parse, write_error,
    write_html, write_json, write_preflight, write_sse_head, write_text, write_ws_head,
};
use crate::logic::protocol::query::{self, SubscribeQuery};
use crate::logic::protocol::ws;
use crate::logic::wheel::Tick;

use super::super::accept::learn_client;
use super::super::closing::{after_answer, finish, reject};
use super::super::connection::{Flags, State};
use super::super::counters::Reason;
use super::super::polls;
use super::super::settings::ticks;
use super::super::subscriptions::{can_resume_here, check_room_for_channels, start_after, start_from_now, subscribe};
use super::super::waiting::{Hold, Waiting, Wanted};
use super::{Shard, messages, permission};

/// How long the hub may take to answer about a poll; it takes milliseconds unless the whole host stands still.
const HUB_ANSWER_MAX: Duration = Duration::from_secs(10);

/// What a path and its headers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Stream,
    WebSocket,
    Poll,
    Echo,
    Live,
    Ready,
    Page,
    /// The server's own figures, for itself.
    Figures,
    /// The server as a whole: `OPTIONS *`.
    Any,
}

/// Reads requests, one after the other, until one is held, opens a stream, or is not all there.
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
        State::Http | State::Poll => shard.slots[slot].extra().input = rest.to_vec(),
        State::WebSocket if !rest.is_empty() => messages::read(shard, slot, &mut rest.to_vec()),
        _ => {}
    }
    shard.slots[slot].tidy();
}

/// Carries out the first request in `bytes`; returns how many bytes are done with, or `None` if the rest has to wait.
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
        // A client that has learnt of an event or an order must find the shard knowing of it too.
        Parsed::Complete { .. } if !shard.is_caught_up && shard.upstream.is_behind() => {
            shard.slots[slot].hold(Hold::INBOX);
            shard.parked.push(slot);
            None
        }
        Parsed::Complete { request, consumed } => {
            carry_out(shard, slot, &request);
            // A request that waits for the backend is looked at again once that has answered.
            (!shard.slots[slot].is_put_aside()).then_some(consumed)
        }
        Parsed::Rejected(rejected) => {
            shard.cx.counters.requests += 1;
            reject(&mut shard.slots, &mut shard.cx, slot, &rejected, Reason::BadRequest);
            Some(bytes.len())
        }
    }
}

/// Gives a head that has begun its time, counted from its first byte.
fn expect_rest_of_head(shard: &mut Shard, slot: u32) {
    let limit = shard.cx.now + shard.cx.settings.handshake;
    let deadline = shard.slots[slot].deadline;
    if deadline == 0 || deadline > limit {
        shard.slots.set_deadline(slot, limit);
    }
}

/// Answers one request, or opens what it asks for.
fn carry_out(shard: &mut Shard, slot: u32, request: &Request<'_>) {
    shard.cx.counters.requests += 1;
    let flags = &mut shard.slots[slot].flags;
    flags.set(Flags::HTTP_1_1, request.is_http_1_1);
    flags.set(Flags::KEEP_ALIVE, request.keep_alive && !shard.cx.is_draining);
    let result = learn_client(&mut shard.slots, &mut shard.cx, slot, request);
    if let Err(rejected) = result.and_then(|()| respond(shard, slot, request)) {
        // The backend's decision was about this request alone.
        shard.slots[slot].take_waiting();
        answer_error(shard, slot, &rejected, request);
    }
}

/// What every answer to this request says.
fn headers<'a>(shard: &Shard, slot: u32, request: &Request<'a>) -> ResponseHeaders<'a> {
    ResponseHeaders {
        keep_alive: shard.slots[slot].flags.intersects(Flags::KEEP_ALIVE),
        is_http_1_1: request.is_http_1_1,
        cors: decide_cors(&shard.cx.settings.config.http.cors_origins, request.origin),
        head_only: request.method == Method::Head,
    }
}

fn route(shard: &Shard, slot: u32, request: &Request<'_>) -> Result<Route, Reject> {
    Ok(match request.path {
        "/sse" => Route::Stream,
        "/ws" => Route::WebSocket,
        "/poll" => Route::Poll,
        "/events" if request.wants_websocket => Route::WebSocket,
        "/events" if request.accepts_event_stream => Route::Stream,
        "/events" => Route::Poll,
        "/healthz" => Route::Live,
        "/readyz" => Route::Ready,
        "/figures" if shard.slots[slot].is_own() => Route::Figures,
        "/" if shard.page.is_some() => Route::Page,
        "*" => Route::Any,
        path if !path.is_empty() && path == shard.cx.settings.config.diagnostics.echo_path => Route::Echo,
        _ => {
            let message = "there is nothing at this path; clients connect to /sse, /ws, /poll or /events";
            return Err(Reject::new(404, "not_found", message));
        }
    })
}

fn respond(shard: &mut Shard, slot: u32, request: &Request<'_>) -> Result<(), Reject> {
    let headers = headers(shard, slot, request);
    if request.method == Method::Options {
        write_preflight(shard.slots[slot].out(), request.request_headers, &headers);
        after_answer(&mut shard.slots, &mut shard.cx, slot);
        return Ok(());
    }
    let route = route(shard, slot, request)?;
    if request.method == Method::Other {
        return Err(Reject::new(405, "method", "this path knows GET, HEAD and OPTIONS only"));
    }
    let out = shard.slots[slot].out();
    match route {
        Route::Stream | Route::WebSocket | Route::Poll | Route::Echo => {
            return subscription(shard, slot, route, request);
        }
        Route::Figures => {
            let query = SubscribeQuery { channels: vec![FIGURES_CHANNEL.into()], ..SubscribeQuery::default() };
            open_stream(shard, slot, request, &query);
            return Ok(());
        }
        Route::Live => write_text(out, 200, b"ok\n", &headers),
        Route::Ready if shard.cx.room.is_ready() => write_text(out, 200, b"ready\n", &headers),
        Route::Ready => return Err(Reject::new(503, "not_ready", "this server is starting or going away")),
        Route::Page | Route::Any => write_html(out, shard.page.unwrap_or_default().as_bytes(), &headers),
    }
    after_answer(&mut shard.slots, &mut shard.cx, slot);
    Ok(())
}

/// Carries out a request for channels.
fn subscription(shard: &mut Shard, slot: u32, route: Route, request: &Request<'_>) -> Result<(), Reject> {
    if shard.cx.is_draining {
        let rejected = Reject::fatal(503, "draining", "this server is going away; connect again");
        return Err(rejected.retry_after(shard.cx.retry_after_secs()));
    }
    let mut query = query::parse(request.query, shard.cx.settings.config.limits.subscriptions)?;
    if route != Route::Echo {
        identify(shard, slot, request, &query)?;
    }
    if route == Route::WebSocket || route == Route::Echo {
        return open_websocket(shard, slot, route, request, &query);
    }
    if query.channels.is_empty() {
        return Err(Reject::new(400, "no_channel", "name at least one channel, as in ?channel=news"));
    }
    if permission::must_wait(shard, slot, &query.channels, Some(request))? {
        return Ok(());
    }
    shard.access.check_channels(&shard.cx, slot, &shard.slots[slot], &query.channels)?;
    if request.method == Method::Head {
        answer_head(shard, slot, route, request);
        return Ok(());
    }
    check_room_for_channels(&shard.lanes, &shard.cx, &query.channels)?;
    // A browser that reconnects by itself sends the header; its position is newer than the URL's.
    if let Some(id) = request.last_event_id {
        query.after = Some(
            id.parse()
                .map_err(|error| Reject::new(400, "bad_position", format!("Last-Event-ID is no position: {error}")))?,
        );
    }
    match route {
        Route::Poll => begin_poll(shard, slot, request, &query),
        _ => open_stream(shard, slot, request, &query),
    }
    Ok(())
}

/// Gives the connection the identity of the request's token, if the request carries one.
fn identify(shard: &mut Shard, slot: u32, request: &Request<'_>, query: &SubscribeQuery) -> Result<(), Reject> {
    if !shard.slots[slot].is_decided() {
        shard.access.forget(&shard.cx, slot);
    }
    match shard.access.identity_of(&mut shard.cx, request, query)? {
        Some(identity) => shard.access.remember(&mut shard.cx, slot, identity),
        None => Ok(()),
    }
}

fn answer_head(shard: &mut Shard, slot: u32, route: Route, request: &Request<'_>) {
    let headers = headers(shard, slot, request);
    let out = shard.slots[slot].out();
    match route {
        Route::Stream => write_sse_head(out, &headers),
        _ => write_json(out, b"", &headers),
    }
    after_answer(&mut shard.slots, &mut shard.cx, slot);
}

fn open_stream(shard: &mut Shard, slot: u32, request: &Request<'_>, query: &SubscribeQuery) {
    let headers = headers(shard, slot, request);
    let envelope = query.envelope.unwrap_or(query.channels.len() > 1);
    let dialect = Dialect::sse(request.is_http_1_1, envelope);
    let settings = &shard.cx.settings;
    let connection = &mut shard.slots[slot];
    connection.dialect = dialect;
    let out = connection.out();
    write_sse_head(out, &headers);
    dialect.write_sse_preamble(settings.config.http.sse_padding, settings.retry_ms, out);
    open(shard, slot, State::Stream, request, query);
}

fn open_websocket(
    shard: &mut Shard,
    slot: u32,
    route: Route,
    request: &Request<'_>,
    query: &SubscribeQuery,
) -> Result<(), Reject> {
    let upgrade = ws::check_upgrade(request)?;
    if !origin_allowed(&shard.cx.settings.config.websocket.origins, request.origin, request.host) {
        return Err(Reject::new(403, "origin", "pages of this origin may not connect; see [websocket] origins"));
    }
    check_room_for_channels(&shard.lanes, &shard.cx, &query.channels)?;
    if route == Route::WebSocket && permission::must_wait(shard, slot, &query.channels, Some(request))? {
        return Ok(());
    }
    if query.raw && route == Route::WebSocket {
        // The raw format has no place for refusals, nor for a token.
        shard.access.check_channels(&shard.cx, slot, &shard.slots[slot], &query.channels)?;
    }
    let connection = &mut shard.slots[slot];
    connection.dialect = if query.raw { Dialect::WsRaw } else { Dialect::WsJson };
    connection.flags.set(Flags::ECHO, route == Route::Echo);
    write_ws_head(connection.out(), &upgrade.accept, upgrade.protocol.filter(|_| !query.raw));
    open(shard, slot, State::WebSocket, request, query);
    Ok(())
}

/// The response's head is written: from here on the connection is a stream or a WebSocket.
fn open(shard: &mut Shard, slot: u32, state: State, request: &Request<'_>, query: &SubscribeQuery) {
    let counters = &mut shard.cx.counters;
    counters.handshakes += 1;
    match state {
        State::Stream => counters.opened_sse += 1,
        _ => counters.opened_websocket += 1,
    }
    shard.slots.enter_state(slot, state);
    shard.slots.set_deadline(slot, 0);
    if !shard.slots[slot].is_own() {
        log_connected(shard, slot, request, query);
    }
    if !shard.slots[slot].flags.intersects(Flags::ECHO) {
        tell_came(shard, slot);
        let connection = &shard.slots[slot];
        if state == State::WebSocket && shard.access.must_send_token(&shard.cx, slot, connection, &query.channels) {
            await_token(shard, slot, query);
        } else {
            begin_subscriptions(shard, slot, &query.channels, query.after);
        }
    }
    shard.slots.queue(slot);
}

/// Has a WebSocket wait for its token.
fn await_token(shard: &mut Shard, slot: u32, query: &SubscribeQuery) {
    let wanted = Wanted { channels: query.channels.clone(), after: query.after };
    shard.slots[slot].extra().waiting = Waiting::Token(Box::new(wanted));
    shard.slots.set_deadline(slot, shard.cx.now + shard.cx.settings.token_timeout);
}

/// The name of an open connection's transport in log lines and for the backend.
fn transport(state: State) -> &'static str {
    if state == State::Stream { "sse" } else { "ws" }
}

/// Tells listening backends that a client has come.
fn tell_came(shard: &mut Shard, slot: u32) {
    if !shard.upstream.listening.connections || shard.slots[slot].is_own() {
        return;
    }
    let who = messages::speaker(shard, slot);
    let connection = &shard.slots[slot];
    let (address, transport) = (connection.peer.to_string().into(), transport(connection.state));
    shard.cx.tell_hub(HubMessage::Came { who, address, transport });
}

/// Subscribes to the channels that a connection has named when it was opened. Those that it may not have are refused by
/// name.
pub(super) fn begin_subscriptions(shard: &mut Shard, slot: u32, channels: &[String], after: Option<Id>) {
    for name in channels {
        match shard.access.may_subscribe(&shard.cx, slot, &shard.slots[slot], name) {
            Ok(()) => subscribe(&mut shard.slots, &mut shard.lanes, &mut shard.cx, slot, name),
            Err(denied) => messages::refuse_channel(shard, slot, denied, name),
        }
    }
    start(shard, slot, 0, after, 0);
}

/// Starts the subscriptions from number `first` on: from now, or after a position. The shard's own logs serve that if they
/// reach back so far, else the hub is asked. `wait` is for polls.
pub(super) fn start(shard: &mut Shard, slot: u32, first: usize, after: Option<Id>, wait: Tick) {
    let Shard { slots, lanes, cx, resumes, .. } = shard;
    match after {
        None => start_from_now(slots, lanes, slot, first),
        Some(after) => {
            if !start_after(slots, lanes, cx, slot, first, after) {
                resumes.begin(slots, lanes, cx, (slot, first), Some(after), wait);
            }
        }
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
        transport = transport(connection.state),
        user = shard.access.user(slot).map(|user| user.as_str()),
        channels = query.channels.len(),
        channel = query.channels.first().map(String::as_str).unwrap_or_default(),
        user_agent = request.user_agent.unwrap_or_default(),
        last_event_id = query.after.map(tracing::field::display),
        "connected"
    );
}

/// Answers a poll at once if there is something after its position, else holds it.
fn begin_poll(shard: &mut Shard, slot: u32, request: &Request<'_>, query: &SubscribeQuery) {
    let Shard { slots, lanes, cx, .. } = shard;
    cx.counters.handshakes += 1;
    cx.counters.opened_poll += 1;
    let http = &cx.settings.config.http;
    let wait = query.wait_secs.map_or(http.poll_wait, Duration::from_secs).min(http.poll_wait_max);
    let wait: Tick = ticks(wait);
    let cors = decide_cors(&http.cors_origins, request.origin);
    slots[slot].dialect = Dialect::Poll;
    slots.enter_state(slot, State::Poll);
    if let Cors::Origin(origin) = cors {
        slots[slot].extra().origin = Some(origin.into());
    }
    for name in &query.channels {
        subscribe(slots, lanes, cx, slot, name);
    }
    // If messages wait in the queue from the hub, only the hub knows the present position.
    let is_current = !shard.upstream.is_behind();
    let follows_all = || polls::follows_all(slots, lanes, slot);
    let position = query.after.or_else(|| follows_all().then_some(lanes.seen)).filter(|_| is_current);
    match position {
        Some(position) if can_resume_here(slots, lanes, slot, 0, position) => {
            start_after(slots, lanes, cx, slot, 0, position);
            if wait == 0 || polls::has_news(slots, lanes, slot) {
                polls::answer_from(slots, lanes, cx, slot, position);
            } else {
                slots.set_deadline(slot, cx.now + wait);
            }
        }
        _ => {
            slots.set_deadline(slot, cx.now + ticks(HUB_ANSWER_MAX));
            shard.resumes.begin(slots, lanes, cx, (slot, 0), query.after, wait);
        }
    }
}

fn answer_error(shard: &mut Shard, slot: u32, rejected: &Reject, request: &Request<'_>) {
    shard.cx.counters.errors += 1;
    shard.cx.counters.count_rejection(rejected.status);
    if rejected.close {
        shard.slots[slot].flags.remove(Flags::KEEP_ALIVE);
    }
    let headers = headers(shard, slot, request);
    let Shard { slots, cx, .. } = shard;
    write_error(slots[slot].out(), rejected, &headers);
    if headers.keep_alive {
        after_answer(slots, cx, slot);
    } else {
        finish(slots, cx, slot, Reason::BadRequest);
    }
}

/// The time for a request is over.
pub(super) fn on_timeout(shard: &mut Shard, slot: u32) {
    let connection = &shard.slots[slot];
    let has_begun = connection.extra.as_ref().is_some_and(|extra| !extra.input.is_empty());
    let Shard { slots, cx, .. } = shard;
    if has_begun {
        let rejected = Reject::fatal(408, "timeout", "the request did not arrive in time");
        reject(slots, cx, slot, &rejected, Reason::HandshakeTimeout);
    } else if slots[slot].out_waiting() > 0 {
        super::ending::drop_connection(shard, slot, Reason::Slow);
    } else {
        let has_been_answered = slots[slot].sent != slots[slot].opened;
        let reason = if has_been_answered { Reason::Idle } else { Reason::HandshakeTimeout };
        finish(slots, cx, slot, reason);
    }
}
