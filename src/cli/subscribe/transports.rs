//! One connection by each transport, until it ends.

use std::io;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::logic::protocol::ws::{Opcode, accept_key, parse_server_frame, write_client_frame};

use super::chunked::Body;
use super::connection::{Connection, Head, Url};
use super::sse::{Event, Parser};
use super::{Ended, Subscriber};

/// How often a reader that has a deadline looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(200);

fn again(error: io::Error) -> Ended {
    Ended::Again { why: error.to_string(), after: None }
}

fn connect(url: &Url, subscriber: &Subscriber<'_>) -> Result<Connection, Ended> {
    let connection = Connection::open(url, subscriber.args.token.as_deref()).map_err(again)?;
    connection.set_timeout(subscriber.deadline.map(|_| LOOK_EVERY)).map_err(again)?;
    Ok(connection)
}

/// The next bytes; an empty `Vec` if none came within the time.
fn read(connection: &mut Connection, subscriber: &Subscriber<'_>) -> Result<Vec<u8>, Ended> {
    match connection.read() {
        Ok(bytes) => Ok(bytes),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            if subscriber.is_over() { Err(Ended::Done) } else { Ok(Vec::new()) }
        }
        Err(error) => Err(again(error)),
    }
}

/// Turns an answer that is an error into the end it means.
fn expect(head: &Head, status: u16, connection: &mut Connection) -> Result<(), Ended> {
    if head.status == status {
        return Ok(());
    }
    let body = connection.body(head.content_length.unwrap_or_default()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = format!("{} {}", head.status, body["error"]["message"].as_str().unwrap_or("without a reason"));
    match head.status {
        408 | 429 | 500.. => Err(Ended::Again { why, after: head.retry_after }),
        _ => Err(Ended::Refused(why)),
    }
}

fn unwrap(result: Result<Ended, Ended>) -> Ended {
    result.unwrap_or_else(|ended| ended)
}

pub(super) fn stream(url: &Url, subscriber: &mut Subscriber<'_>) -> Ended {
    unwrap(try_stream(url, subscriber))
}

fn try_stream(url: &Url, subscriber: &mut Subscriber<'_>) -> Result<Ended, Ended> {
    let mut connection = connect(url, subscriber)?;
    let target = format!("{}{}&envelope=1", url.path("/sse"), subscriber.query("last_event_id"));
    let head = connection.get(url, &target, "Accept: text/event-stream\r\n").map_err(again)?;
    expect(&head, 200, &mut connection)?;
    let mut body = Body::new(head.is_chunked);
    let mut parser = Parser::default();
    loop {
        let bytes = read(&mut connection, subscriber)?;
        let mut text = Vec::new();
        body.push(&bytes, &mut text).map_err(|why| Ended::Again { why: why.into(), after: None })?;
        for event in parser.push(&text) {
            subscriber.retry = parser.retry;
            if take_stream_event(subscriber, event)? {
                return Ok(Ended::Done);
            }
        }
        subscriber.retry = parser.retry;
        if body.is_over() {
            return Ok(Ended::Again { why: "the server ended the stream".into(), after: None });
        }
    }
}

fn take_stream_event(subscriber: &mut Subscriber<'_>, event: Event) -> Result<bool, Ended> {
    match event.name.as_deref() {
        Some("ringcast.gap") => subscriber.notice("some events are lost", &event.data),
        Some("ringcast.bye") => subscriber.notice("the server says goodbye", &event.data),
        Some("ringcast.end") => {
            subscriber.notice("the channel has ended", &event.data);
            return Ok(subscriber.args.channel.len() == 1);
        }
        name => {
            let envelope: Value = serde_json::from_str(&event.data).unwrap_or_default();
            let channel = envelope["channel"].as_str();
            let data = envelope.get("data").cloned().unwrap_or_default();
            return subscriber.event(event.id.as_deref(), channel, name, data).map_err(Ended::Output);
        }
    }
    Ok(false)
}

pub(super) fn websocket(url: &Url, subscriber: &mut Subscriber<'_>) -> Ended {
    unwrap(try_websocket(url, subscriber))
}

fn try_websocket(url: &Url, subscriber: &mut Subscriber<'_>) -> Result<Ended, Ended> {
    let mut connection = connect(url, subscriber)?;
    let mut nonce = [0; 16];
    fastrand::fill(&mut nonce);
    let key = STANDARD.encode(nonce);
    let fields = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: ringcast.v1\r\n"
    );
    let target = format!("{}{}", url.path("/ws"), subscriber.query("last_event_id"));
    let head = connection.get(url, &target, &fields).map_err(again)?;
    expect(&head, 101, &mut connection)?;
    if head.accept_key != Some(accept_key(&key)) {
        return Err(Ended::Refused("the server did not understand the WebSocket handshake".into()));
    }
    let mut bytes = Vec::new();
    loop {
        bytes.extend(read(&mut connection, subscriber)?);
        let mut used = 0;
        while let Some(frame) =
            parse_server_frame(&bytes[used..]).map_err(|why| Ended::Again { why: why.into(), after: None })?
        {
            used += frame.consumed;
            let mut mask = [0; 4];
            fastrand::fill(&mut mask);
            let mut answer = Vec::new();
            match frame.opcode {
                Opcode::Ping => write_client_frame(&mut answer, Opcode::Pong, frame.payload, mask),
                Opcode::Close => {
                    write_client_frame(&mut answer, Opcode::Close, frame.payload, mask);
                    let _ = connection.write(&answer);
                    return Ok(closed(frame.payload));
                }
                Opcode::Text if take_message(subscriber, frame.payload)? => return Ok(Ended::Done),
                _ => {}
            }
            connection.write(&answer).map_err(again)?;
        }
        bytes.drain(..used);
    }
}

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

fn take_message(subscriber: &mut Subscriber<'_>, payload: &[u8]) -> Result<bool, Ended> {
    let mut message: Value = serde_json::from_slice(payload).unwrap_or_default();
    if message["id"].is_null() {
        for (name, what) in
            [("gap", "some events are lost"), ("bye", "the server says goodbye"), ("end", "a channel has ended")]
        {
            if let Some(details) = message.get(name) {
                subscriber.notice(what, &details.to_string());
            }
        }
        return Ok(false);
    }
    let data = message["data"].take();
    let text = |name: &str| message[name].as_str();
    subscriber.event(text("id"), text("channel"), text("event"), data).map_err(Ended::Output)
}

pub(super) fn poll(url: &Url, subscriber: &mut Subscriber<'_>) -> Ended {
    unwrap(try_poll(url, subscriber))
}

fn try_poll(url: &Url, subscriber: &mut Subscriber<'_>) -> Result<Ended, Ended> {
    let mut connection = connect(url, subscriber)?;
    connection.set_timeout(None).map_err(again)?;
    loop {
        let left = subscriber.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs());
        let wait = left.unwrap_or(25).min(25);
        let target = format!("{}{}&wait={wait}", url.path("/poll"), subscriber.query("after"));
        let head = connection.get(url, &target, "").map_err(again)?;
        expect(&head, 200, &mut connection)?;
        let body = connection.body(head.content_length.unwrap_or_default()).map_err(again)?;
        let mut answer: Value =
            serde_json::from_slice(&body).map_err(|error| Ended::Again { why: error.to_string(), after: None })?;
        if answer["gap"] == true {
            subscriber.notice("some events are lost", &format!("before {}", answer["next"]));
        }
        for event in answer["events"].as_array_mut().into_iter().flatten() {
            let data = event["data"].take();
            let text = |name: &str| event[name].as_str();
            if subscriber.event(text("id"), text("channel"), text("event"), data).map_err(Ended::Output)? {
                return Ok(Ended::Done);
            }
        }
        subscriber.is_fresh = true;
        subscriber.last_id = answer["next"].as_str().map(String::from).or(subscriber.last_id.take());
        if let Some(ended) = answer.get("ended") {
            subscriber.notice("these channels have ended", &ended.to_string());
            if ended.as_array().is_some_and(|ended| ended.len() == subscriber.args.channel.len()) {
                return Ok(Ended::Done);
            }
        }
        if subscriber.is_over() {
            return Ok(Ended::Done);
        }
    }
}
