//! Opening sessions: streams, WebSockets and polls, and the first channels that they subscribe to.

use std::time::Duration;

use tracing::info;

use crate::link::HubMessage;
use crate::logic::code::Code;
use crate::logic::id::Id;
use crate::logic::protocol::http::{Cors, Method, Request, Response, decide_cors, encode, origin_allowed};
use crate::logic::protocol::query::SubscribeQuery;
use crate::logic::protocol::ws;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Beat, Carrier, LaneKey, Outcome, Protocol, Spoken};
use crate::logic::wheel::Tick;

use super::super::connection::{Flags, State};
use super::super::limits::admit_request_of;
use super::super::opening::{Nothing, Opening};
use super::super::polls;
use super::super::refusals::{agreed_subprotocol, cors};
use super::super::settings::{TICKS_PER_SECOND, ticks};
use super::super::subscriptions::{
    can_resume_here, check_room_for_channels, follows_all, note_coming, start_after, start_from_now, subscribe,
};
use super::super::waiting::{Waiting, Wanted};
use super::permission::{self, Permission};
use super::requests::{answer, exchange};
use super::{Shard, messages};

/// The time that the hub may take to answer a poll's question. It takes milliseconds unless the host stands still.
const HUB_ANSWER_MAX: Duration = Duration::from_secs(10);
/// The longest time for which a stream's head waits for the position.
const HEAD_HELD_MAX: Tick = TICKS_PER_SECOND;

/// Carries out a request for a session in a protocol.
pub(super) fn session(
    shard: &mut Shard,
    slot: u32,
    spoken: Spoken,
    request: &Request<'_>,
    mut query: SubscribeQuery,
) -> Result<(), Refusal> {
    if shard.cx.is_draining() {
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
    let origins = &shard.cx.settings.config.http.cors_origins;
    if !origin_allowed(origins, request.origin, request.host) {
        // The browser keeps the answer from the page. Other clients may send the field too, and are served.
        note_refused_origin(shard, slot, request);
    }
    if query.channels.is_empty() {
        return Err(no_channel());
    }
    if permission::obtain(shard, slot, &query.channels, Some(request))? == Permission::Pending {
        return Ok(());
    }
    shard.access.check_channels(&shard.cx, slot, &query.channels)?;
    check_room_for_channels(&shard.lanes, &shard.cx, &query.channels)?;
    if request.method == Method::Head {
        let is_stream = protocol.carrier() == Carrier::Stream;
        let response = if is_stream { Response::events() } else { Response::json_head() };
        answer(shard, slot, request, response);
        return Ok(());
    }
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
    match access.token_of(cx, request, query) {
        Some(token) => {
            reading.spend(messages::TOKEN_PIECES);
            let identity = access.verify_of(cx, &slots[slot], token)?;
            access.remember(cx, slot, identity)?;
        }
        None => access.identify_by_certificate(cx, slot, slots.h2.carrier_of(slot).unwrap_or(slot))?,
    }
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
    let origins = &shard.cx.settings.config.websocket.origins;
    if !origin_allowed(origins, request.origin, request.host) {
        note_refused_origin(shard, slot, request);
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
            shard.access.check_channels(&shard.cx, slot, &query.channels)?;
        }
    }
    if !must_send_token(shard, slot, protocol, query) {
        messages::admit_channels(shard, slot, &query.channels)?;
    }
    let subprotocol = agreed_subprotocol(protocol, request);
    open(shard, slot, spoken, request, query, Response::websocket(&upgrade.accept, subprotocol));
    Ok(())
}

/// Takes one of the log lines about connections that may be written in a second; returns whether one was left.
fn may_log(shard: &mut Shard) -> bool {
    let is_left = shard.deadlines.lines.take(shard.cx.now);
    shard.cx.counters.lines_suppressed += u64::from(!is_left);
    is_left
}

/// Counts and logs a request of a page whose origin is not allowed.
fn note_refused_origin(shard: &mut Shard, slot: u32, request: &Request<'_>) {
    shard.cx.counters.origins_refused += 1;
    if !may_log(shard) {
        return;
    }
    info!(
        target: "ringcast::connection",
        address = %shard.slots[slot].peer,
        origin = request.origin.unwrap_or_default(),
        host = request.host.unwrap_or_default(),
        path = request.path,
        "a page's origin is not allowed"
    );
}

/// Whether a connection must send a token before its subscriptions begin.
fn must_send_token(shard: &Shard, slot: u32, protocol: &dyn Protocol, query: &SubscribeQuery) -> bool {
    let may_send_token = protocol.carrier() == Carrier::WebSocket;
    may_send_token && shard.access.must_send_token(&shard.cx, slot, &query.channels)
}

/// Answers a request with a stream or a WebSocket, and begins the session on it.
pub(super) fn open(
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
    let exchange = exchange(shard, slot, request);
    let mut opening = Opening::welcome();
    let out = shard.slots[slot].out();
    match protocol.carrier() {
        // CORS does not apply to WebSockets.
        Carrier::WebSocket => encode(&response, &exchange, out),
        _ => {
            let before = out.len();
            encode(&response.with_cors(cors(&shard.cx, request.origin)), &exchange, out);
            let origin = request.origin.map(Into::into);
            opening = opening.or_nothing(Nothing { origin, head: before..out.len() });
        }
    }
    let connection = &mut shard.slots[slot];
    connection.key = LaneKey::of(spoken, request.is_http_1_1);
    if let Some(secs) = query.beat_secs.filter(|_| protocol.shows_beats()) {
        connection.set_beat(Beat::within(secs));
    }
    shard.slots.enter_state(slot, State::of(protocol.carrier()));
    shard.slots.set_deadline(slot, 0);
    log_connected(shard, slot, request, query);
    if protocol.has_channels() {
        tell_came(shard, slot);
        if must_send_token(shard, slot, protocol, query) {
            await_token(shard, slot, query);
        } else {
            begin_subscriptions(shard, slot, &query.channels, query.after, opening);
            if shard.slots[slot].holds_head() {
                shard.slots.set_deadline(slot, shard.cx.now + HEAD_HELD_MAX);
            }
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
    if !shard.upstream.listening.connections {
        return;
    }
    let who = messages::speaker(shard, slot);
    let connection = &shard.slots[slot];
    let (address, transport) = (connection.peer.to_string().into(), connection.key.protocol().carrier().name());
    shard.cx.tell_hub(HubMessage::Came { who, address, transport });
}

/// Subscribes to the channels that a connection has named when it was opened, and welcomes it. Channels that it may not
/// have are refused one by one, after the words of `opening`.
pub(super) fn begin_subscriptions(
    shard: &mut Shard,
    slot: u32,
    channels: &[String],
    after: Option<Id>,
    mut opening: Opening,
) {
    for name in channels {
        match shard.access.may_subscribe(&shard.cx, slot, name) {
            Ok(()) => subscribe(&mut shard.slots, &mut shard.lanes, &mut shard.cx, slot, name),
            Err(denied) => {
                let refusal = denied.refusal(name).of_channels(vec![name.to_owned()]);
                messages::write_reply(shard, slot, None, Outcome::Refused(&refusal), opening.then());
            }
        }
    }
    start(shard, slot, 0, after, Some(opening));
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
        let is_all = !polls::has_unread(slots, lanes, slot);
        opening.write(slots, lanes, cx, slot, (position, is_all));
    }
}

fn log_connected(shard: &mut Shard, slot: u32, request: &Request<'_>, query: &SubscribeQuery) {
    if !may_log(shard) {
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
        slots[slot].extra().poll.get_or_insert_default().origin = Some(origin.into());
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
            polls::settle(slots, lanes, cx, slot, (query.after, position), wait);
            if slots[slot].state != State::Poll {
                shard.reading.look();
            }
        }
        _ => {
            slots.set_deadline(slot, cx.now + ticks(HUB_ANSWER_MAX));
            shard.resumes.begin(slots, lanes, cx, (slot, 0), query.after, (wait, None));
        }
    }
}
