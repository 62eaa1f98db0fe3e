//! One connection by each transport, from its request to its end.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::logic::protocol::http::ResponseHead;
use crate::logic::protocol::ws::{Opcode, accept_key, parse_server_frame, write_client_frame};

use super::chunked::Body;
use super::connection::{Connection, Url};
use super::sse::{Event, Parser};
use super::{Data, Ended, Subscriber};

/// The longest time that the server is asked to hold a poll, in seconds.
const WAIT_MAX: u64 = 25;

/// A connection that broke: another try may work.
fn again(error: io::Error) -> Ended {
    senseless(error.to_string())
}

/// An end after which another try may work: the server's words make no sense, or none came.
fn senseless(why: impl Into<String>) -> Ended {
    Ended::Again { why: why.into(), after: None }
}

fn connect(url: &Url, subscriber: &Subscriber<'_>) -> Result<Connection, Ended> {
    let until = subscriber.until(subscriber.patience.answer);
    Connection::open(url, subscriber.args.token.as_deref(), subscriber.trust.as_ref(), until).map_err(again)
}

/// The next bytes of an open connection. The subscriber's own end is checked before each read, because on a busy channel
/// no single read lasts long enough to reach it.
fn read(connection: &mut Connection, subscriber: &Subscriber<'_>) -> Result<Vec<u8>, Ended> {
    if subscriber.is_over() {
        return Err(Ended::Done);
    }
    connection.read(subscriber.until(subscriber.patience.silence)).map_err(again)
}

/// Checks an answer's status, and turns another one into the end that it means.
fn expect(head: &ResponseHead, status: u16, connection: &mut Connection, until: Instant) -> Result<(), Ended> {
    if head.status == status {
        return Ok(());
    }
    let body = connection.body(head.content_length.unwrap_or_default(), until).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = format!("{} {}", head.status, body["error"]["message"].as_str().unwrap_or("without a reason"));
    match head.status {
        // All channels have ended, and nothing of them is missed.
        204 => Err(Ended::Done),
        408 | 429 | 500.. => Err(Ended::Again { why, after: head.retry_after }),
        _ => Err(Ended::Refused(why)),
    }
}

/// Reads one event stream to its end.
pub(super) fn stream(url: &Url, subscriber: &mut Subscriber<'_>) -> Ended {
    let Err(ended) = try_stream(url, subscriber);
    ended
}

fn try_stream(url: &Url, subscriber: &mut Subscriber<'_>) -> Result<Infallible, Ended> {
    let mut connection = connect(url, subscriber)?;
    let target = format!("{}{}&envelope=1", url.path("/sse"), subscriber.query("last_event_id"));
    let until = subscriber.until(subscriber.patience.answer);
    let head = connection.get(url, &target, "Accept: text/event-stream\r\n", until).map_err(again)?;
    expect(&head, 200, &mut connection, until)?;
    subscriber.opened();
    let mut body = Body::new(head.is_chunked);
    let mut parser = Parser::default();
    loop {
        let bytes = read(&mut connection, subscriber)?;
        let mut text = Vec::new();
        body.push(&bytes, &mut text).map_err(senseless)?;
        let events = parser.push(&text);
        subscriber.retry = parser.retry;
        for event in events {
            take_stream_event(subscriber, event)?;
        }
        if body.is_over() {
            return Err(senseless("the server ended the stream"));
        }
    }
}

/// Takes an event of a stream: a notice of the server's, an event of a channel, or data for this connection alone.
pub(super) fn take_stream_event(subscriber: &mut Subscriber<'_>, event: Event) -> Result<(), Ended> {
    let details = || serde_json::from_str::<Value>(&event.data).unwrap_or_default();
    match event.name.as_deref() {
        // A stream that is cut before its first event is resumed from here.
        Some("ringcast.hello") => subscriber.last_id = event.id,
        Some("ringcast.gap") => {
            subscriber.notice("some events are lost", &event.data);
            if event.has_own_id {
                // A stream that is cut right after this notice is resumed after the gap.
                subscriber.last_id = event.id;
            }
        }
        Some("ringcast.bye") => subscriber.notice("the server says goodbye", &event.data),
        Some("ringcast.end") => return channel_ended(subscriber, &details()),
        Some("ringcast.unsubscribed") => return unsubscribed(subscriber, &details()),
        None if !event.has_own_id => {
            let data = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
            return subscriber.direct(("data", data));
        }
        name => {
            let mut envelope = details();
            // An event without an envelope is its data.
            let data = take_data(&mut envelope).unwrap_or_else(|| ("data", Value::from(event.data.as_str())));
            let name = name.or(envelope["event"].as_str());
            return subscriber.event(event.id.as_deref(), envelope["channel"].as_str(), name, data);
        }
    }
    Ok(())
}

fn channel_ended(subscriber: &mut Subscriber<'_>, details: &Value) -> Result<(), Ended> {
    subscriber.channel_ended(details["channel"].as_str().unwrap_or_default())
}

fn unsubscribed(subscriber: &mut Subscriber<'_>, details: &Value) -> Result<(), Ended> {
    let channel = details["channel"].as_str().unwrap_or_default();
    let reason = details["reason"].as_str().unwrap_or("without a reason");
    subscriber.channel_refused(channel, &format!("the server has taken this client off {channel:?}: {reason}"))
}

/// Reads one WebSocket to its end.
pub(super) fn websocket(url: &Url, subscriber: &mut Subscriber<'_>) -> Ended {
    let Err(ended) = try_websocket(url, subscriber);
    ended
}

fn open_websocket(url: &Url, subscriber: &mut Subscriber<'_>) -> Result<Connection, Ended> {
    let mut connection = connect(url, subscriber)?;
    let mut nonce = [0; 16];
    fastrand::fill(&mut nonce);
    let key = STANDARD.encode(nonce);
    let fields = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: ringcast.v1\r\n"
    );
    let target = format!("{}{}", url.path("/ws"), subscriber.query("last_event_id"));
    let until = subscriber.until(subscriber.patience.answer);
    let head = connection.get(url, &target, &fields, until).map_err(again)?;
    expect(&head, 101, &mut connection, until)?;
    if head.websocket_accept != Some(accept_key(&key)) {
        return Err(Ended::Refused("the server did not understand the WebSocket handshake".into()));
    }
    subscriber.opened();
    Ok(connection)
}

fn try_websocket(url: &Url, subscriber: &mut Subscriber<'_>) -> Result<Infallible, Ended> {
    let mut connection = open_websocket(url, subscriber)?;
    let mut bytes = Vec::new();
    loop {
        bytes.extend(read(&mut connection, subscriber)?);
        let mut used = 0;
        while let Some(frame) = parse_server_frame(&bytes[used..]).map_err(senseless)? {
            used += frame.consumed;
            let mut mask = [0; 4];
            fastrand::fill(&mut mask);
            let mut answer = Vec::new();
            match frame.opcode {
                Opcode::Ping => write_client_frame(&mut answer, Opcode::Pong, frame.payload, mask),
                Opcode::Close => {
                    write_client_frame(&mut answer, Opcode::Close, frame.payload, mask);
                    let _ = connection.write(&answer);
                    return Err(closed(frame.payload));
                }
                Opcode::Text => take_message(subscriber, frame.payload)?,
                _ => {}
            }
            connection.write(&answer).map_err(again)?;
        }
        bytes.drain(..used);
    }
}

/// What a close frame means (RFC 6455 §7.4.1); codes from 4000 are the server's own, and mean that it would refuse again.
fn closed(payload: &[u8]) -> Ended {
    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
    let why = format!("the server closed the WebSocket: {code} {reason}");
    match code {
        1000 => Ended::Done,
        1002 | 1003 | 1007 | 1008 | 1009 | 4000.. => Ended::Refused(why),
        _ => Ended::Again { why, after: None },
    }
}

/// Takes a message of a WebSocket: an event of a channel, a notice of the server's, or data for this connection alone.
pub(super) fn take_message(subscriber: &mut Subscriber<'_>, payload: &[u8]) -> Result<(), Ended> {
    let mut message: Value = serde_json::from_slice(payload).unwrap_or_default();
    if message["channel"].is_string() {
        let data = take_data(&mut message).unwrap_or(("data", Value::Null));
        let text = |name: &str| message[name].as_str();
        return subscriber.event(text("id"), text("channel"), text("event"), data);
    }
    if let Some(details) = message.get("hello") {
        // A WebSocket that is cut before its first event is resumed from here.
        subscriber.last_id = details["id"].as_str().map(String::from);
    } else if let Some(details) = message.get("gap") {
        subscriber.notice("some events are lost", &details.to_string());
    } else if let Some(details) = message.get("bye") {
        subscriber.notice("the server says goodbye", &details.to_string());
        subscriber.retry = details["retry_ms"].as_u64().map(Duration::from_millis);
    } else if let Some(details) = message.get("end") {
        channel_ended(subscriber, details)?;
    } else if let Some(details) = message.get("unsubscribed") {
        unsubscribed(subscriber, details)?;
    } else if let Some(error) = message.get("error") {
        refused(subscriber, error)?;
    } else if let Some(data) = take_data(&mut message) {
        subscriber.direct(data)?;
    }
    Ok(())
}

/// Takes an event's data out of a message, with the name of the member that it stands in.
fn take_data(message: &mut Value) -> Option<Data> {
    let mut take = |member| Some((member, message.get_mut(member)?.take()));
    take("data").or_else(|| take("data_b64"))
}

/// Takes a refusal. The server refuses channels in messages, because a WebSocket is open before its channels are checked.
fn refused(subscriber: &mut Subscriber<'_>, error: &Value) -> Result<(), Ended> {
    let why = error["message"].as_str().unwrap_or("the server refuses, without a reason");
    let Some(channels) = error["channels"].as_array() else {
        subscriber.notice("the server refuses a request", why);
        return Ok(());
    };
    channels.iter().filter_map(Value::as_str).try_for_each(|channel| subscriber.channel_refused(channel, why))
}

/// Polls over one connection, to its end.
pub(super) fn poll(url: &Url, subscriber: &mut Subscriber<'_>) -> Ended {
    let Err(ended) = try_poll(url, subscriber);
    ended
}

fn try_poll(url: &Url, subscriber: &mut Subscriber<'_>) -> Result<Infallible, Ended> {
    let mut connection = connect(url, subscriber)?;
    while !subscriber.is_over() {
        let wait = subscriber.time_left().map_or(WAIT_MAX, whole_seconds).min(WAIT_MAX);
        let target = format!("{}{}&wait={wait}", url.path("/poll"), subscriber.query("after"));
        let until = subscriber.until(Duration::from_secs(wait) + subscriber.patience.answer);
        let head = connection.get(url, &target, "", until).map_err(again)?;
        expect(&head, 200, &mut connection, until)?;
        let body = connection.body(head.content_length.unwrap_or_default(), until).map_err(again)?;
        subscriber.opened();
        take_answer(subscriber, serde_json::from_slice(&body).map_err(|error| senseless(error.to_string()))?)?;
    }
    Err(Ended::Done)
}

/// A time in whole seconds, rounded up: in the last part of a second one poll is held instead of many being sent.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Takes a member out, null if there is none. (`value[name].take()` would panic where `value` is no object.)
fn member(value: &mut Value, name: &str) -> Value {
    value.get_mut(name).map(Value::take).unwrap_or_default()
}

/// Takes the answer to a poll: its events, the position to go on from, and the channels that have ended.
pub(super) fn take_answer(subscriber: &mut Subscriber<'_>, mut answer: Value) -> Result<(), Ended> {
    if !answer.is_object() {
        return Err(senseless("the server's answer to a poll is no object"));
    }
    if answer["gap"] == true {
        subscriber.notice("some events are lost", &format!("before {}", answer["next"]));
    }
    let mut events = member(&mut answer, "events");
    let events = events.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    for event in &mut *events {
        let data = take_data(event).unwrap_or(("data", Value::Null));
        let text = |name: &str| event[name].as_str();
        subscriber.event(text("id"), text("channel"), text("event"), data)?;
    }
    subscriber.last_id = answer["next"].as_str().map(String::from).or(subscriber.last_id.take());
    // An answer with events may be full, and a channel that has ended may have more of them.
    let ended = answer["ended"].as_array().filter(|_| events.is_empty());
    let names = ended.into_iter().flatten().filter_map(Value::as_str);
    names.into_iter().try_for_each(|channel| subscriber.channel_ended(channel))
}
