//! Refusals of requests, in the form that the request's client understands.
//!
//! A browser's `EventSource` gives up for good at any status but 200 (WHATWG HTML §9.2.3), and a page learns nothing of a
//! status that refuses a WebSocket. So a refusal that passes is told to an event stream in its own words, and a refusal of
//! a page's WebSocket in a close frame. All other clients read the status.

use crate::logic::protocol::http::{Cors, Exchange, Method, Request, Response, decide_cors, encode};
use crate::logic::protocol::query;
use crate::logic::protocol::ws;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Carrier, Farewell, LaneKey, Protocol, Route, Site, Spoken, route};

use super::context::Context;

/// The CORS decision: the pages that may read the answer to a request.
pub(super) fn cors<'a>(cx: &Context, origin: Option<&'a str>) -> Cors<'a> {
    decide_cors(&cx.settings.config.http.cors_origins, origin)
}

/// The subprotocol of a protocol, if the request offers it.
pub(super) fn agreed_subprotocol(protocol: &dyn Protocol, request: &Request<'_>) -> Option<&'static str> {
    protocol.subprotocol().filter(|name| ws::offers(request, name))
}

/// The protocol that a request asks for, if it leads to a session.
fn asked_for(cx: &Context, request: &Request<'_>) -> Option<Spoken> {
    let site = Site { echo_path: &cx.settings.config.diagnostics.echo_path, ..Site::default() };
    let Ok(Route::Session(choice)) = route(request, &site) else { return None };
    let query = query::parse(request.query, cx.settings.config.limits.subscriptions).unwrap_or_default();
    Some(choice(&query))
}

/// Appends the answer that refuses a request. Returns the key of the session that the answer has opened and ended, if the
/// refusal is told in one: the connection ends after it.
pub(super) fn write(
    cx: &mut Context,
    request: &Request<'_>,
    refusal: &Refusal,
    exchange: Exchange,
    out: &mut Vec<u8>,
) -> Option<LaneKey> {
    let in_stream = request.accepts_event_stream && refusal.passes() && request.method != Method::Options;
    let in_frame = request.wants_websocket && request.origin.is_some() && refusal.close_code().is_some();
    if (in_stream || in_frame)
        && let Some(spoken) = asked_for(cx, request)
    {
        let key = LaneKey::of(spoken, request.is_http_1_1);
        let is_told = match spoken.protocol().carrier() {
            Carrier::Stream => in_stream,
            Carrier::WebSocket => in_frame,
            Carrier::Poll => false,
        };
        if is_told && write_in_session(cx, request, refusal, exchange, key, out) {
            return Some(key);
        }
    }
    let cors = cors(cx, request.origin);
    encode(&Response::refusal(refusal).with_cors(cors), &exchange, out);
    None
}

/// Appends an answer that opens a session and ends it with the refusal; returns whether the request allows that.
fn write_in_session(
    cx: &mut Context,
    request: &Request<'_>,
    refusal: &Refusal,
    exchange: Exchange,
    key: LaneKey,
    out: &mut Vec<u8>,
) -> bool {
    let exchange = Exchange { keep_alive: false, ..exchange };
    match key.protocol().carrier() {
        Carrier::WebSocket => {
            let Ok(upgrade) = ws::check_upgrade(request) else { return false };
            let subprotocol = agreed_subprotocol(key.protocol(), request);
            encode(&Response::websocket(&upgrade.accept, subprotocol), &exchange, out);
        }
        _ => encode(&Response::events().with_cors(cors(cx, request.origin)), &exchange, out),
    }
    if !exchange.head_only {
        let base_ms = cx.settings.retry_ms;
        let retry_ms = refusal.retry_after_secs.map_or(base_ms, |secs| u64::from(secs) * 1000 + cx.rng.u64(..1000));
        key.close(&Farewell::of_refusal(refusal, retry_ms), out);
    }
    true
}

/// The CORS decision for an answer to a page whose origin is not known. Allowing any origin does no harm without a page.
pub(super) fn cors_of_unknown(cx: &Context) -> Cors<'static> {
    let allows_any = cx.settings.config.http.cors_origins.iter().any(|origin| origin == "*");
    if allows_any { Cors::Any } else { cors(cx, None) }
}

/// Appends the answer to bytes that are no acceptable request.
pub(super) fn write_unread(cx: &mut Context, refusal: &Refusal, is_http_2: bool, out: &mut Vec<u8>) {
    let cors = cors_of_unknown(cx);
    let exchange = Exchange { date: Some(cx.date()), is_http_2, ..Exchange::default() };
    encode(&Response::refusal(refusal).with_cors(cors), &exchange, out);
}
