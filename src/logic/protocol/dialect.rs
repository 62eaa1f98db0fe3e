//! Dialects: how each protocol writes an event as bytes.
//!
//! This is all that differs between the protocols once a connection is open. A frame holds nothing of any
//! one connection, so it is written once per event and dialect and sent to every subscriber as it is.

use crate::logic::event::{Draft, Event, Kind};
use crate::logic::id::Id;
use crate::logic::json;

use super::ws;

/// One way of writing events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// `text/event-stream` with the payload as data, in HTTP/1.1 chunks.
    Sse,
    /// The same with `{"channel","data"}` as data, for streams of several channels.
    SseEnvelope,
    /// `text/event-stream` without chunks, ended by the end of the connection: HTTP/1.0.
    SsePlain,
    /// Both of the above.
    SsePlainEnvelope,
    /// A WebSocket text message `{"id","channel","event"?,"data"}`.
    WsJson,
    /// The payload alone in one WebSocket message.
    WsRaw,
    /// One element of a poll answer's `events`, followed by a comma.
    Poll,
}

/// An event stream's heartbeat: a comment, which browsers ignore and which keeps proxies from cutting the stream.
pub const SSE_HEARTBEAT: &[u8] = b":\n\n";
/// The same as a chunk.
pub const SSE_HEARTBEAT_CHUNK: &[u8] = b"3\r\n:\n\n\r\n";
/// The end of a chunked body (RFC 9112 §7.1).
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Dialect {
    /// Whether this is a form of `text/event-stream`.
    pub fn is_sse(self) -> bool {
        matches!(self, Dialect::Sse | Dialect::SseEnvelope | Dialect::SsePlain | Dialect::SsePlainEnvelope)
    }

    /// Whether frames are HTTP/1.1 chunks.
    pub fn is_chunked(self) -> bool {
        matches!(self, Dialect::Sse | Dialect::SseEnvelope)
    }

    /// The event-stream dialect for a response that is or isn't chunked, with or without the envelope.
    pub fn sse(chunked: bool, envelope: bool) -> Dialect {
        match (chunked, envelope) {
            (true, false) => Dialect::Sse,
            (true, true) => Dialect::SseEnvelope,
            (false, false) => Dialect::SsePlain,
            (false, true) => Dialect::SsePlainEnvelope,
        }
    }

    /// Appends `event` to `out`.
    pub fn write_event(self, event: &Event, out: &mut Vec<u8>) {
        match self {
            Dialect::Sse | Dialect::SsePlain => self.write_sse(out, |out| {
                write_sse_fields(event, out);
                write_sse_payload(event, out);
            }),
            Dialect::SseEnvelope | Dialect::SsePlainEnvelope => self.write_sse(out, |out| {
                write_sse_fields(event, out);
                out.extend_from_slice(b"data: {\"channel\":");
                json::write_string(&event.channel, out);
                out.extend_from_slice(b",\"data\":");
                write_data(event, out);
                out.extend_from_slice(b"}\n");
            }),
            Dialect::WsJson => write_ws(ws::Opcode::Text, out, |out| write_event_json(event, out)),
            Dialect::WsRaw => {
                let opcode = if event.draft.kind == Kind::Binary { ws::Opcode::Binary } else { ws::Opcode::Text };
                ws::write_frame(out, opcode, &event.draft.payload);
            }
            Dialect::Poll => {
                write_event_json(event, out);
                out.push(b',');
            }
        }
    }

    /// Appends something that is for one client alone and has no place in any channel: no id, no channel.
    pub fn write_direct(self, draft: &Draft, out: &mut Vec<u8>) {
        let event = Event { id: Id::ZERO, channel: "".into(), draft: draft.clone() };
        match self {
            Dialect::WsRaw => self.write_event(&event, out),
            Dialect::WsJson => write_ws(ws::Opcode::Text, out, |out| {
                out.extend_from_slice(b"{\"data\":");
                write_data(&event, out);
                out.push(b'}');
            }),
            Dialect::Poll => {}
            _ => self.write_sse(out, |out| write_sse_payload(&event, out)),
        }
    }

    /// Appends the notice that events between the ids `after` and `resumed` are lost. Says nothing in the
    /// dialects that have no place for it (raw messages; a poll answer has its own field). With `position`, an
    /// event stream that is cut right after the notice resumes from there.
    pub fn write_gap(self, after: Id, resumed: Id, position: Option<Id>, out: &mut Vec<u8>) {
        let body = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"{\"after\":\"");
            after.write(out);
            out.extend_from_slice(b"\",\"resumed\":\"");
            resumed.write(out);
            out.extend_from_slice(b"\"}");
        };
        self.write_notice("gap", position, None, out, body);
    }

    /// Appends the notice that `channel` has ended.
    pub fn write_end(self, channel: &str, out: &mut Vec<u8>) {
        let body = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"{\"channel\":");
            json::write_string(channel, out);
            out.push(b'}');
        };
        self.write_notice("end", None, None, out, body);
    }

    /// Appends the notice that the backend has taken the connection off `channel`, and why.
    pub fn write_unsubscribed(self, channel: &str, reason: &str, out: &mut Vec<u8>) {
        let body = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"{\"channel\":");
            json::write_string(channel, out);
            out.extend_from_slice(b",\"reason\":");
            json::write_string(reason, out);
            out.push(b'}');
        };
        self.write_notice("unsubscribed", None, None, out, body);
    }

    /// Appends the last words to a client that should come back after `retry_ms`, and why.
    pub fn write_bye(self, reason: &str, retry_ms: u64, out: &mut Vec<u8>) {
        let body = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"{\"reason\":");
            json::write_string(reason, out);
            out.extend_from_slice(b",\"retry_ms\":");
            crate::logic::id::write_decimal(retry_ms, out);
            out.push(b'}');
        };
        self.write_notice("bye", None, Some(retry_ms), out, body);
    }

    /// Appends a notice of the server's own: `{"NAME":body}`, or the event `ringcast.NAME` with `body` as its data. Says
    /// nothing in the dialects that have no place for it.
    fn write_notice(
        self,
        name: &str,
        position: Option<Id>,
        retry_ms: Option<u64>,
        out: &mut Vec<u8>,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        match self {
            Dialect::WsRaw | Dialect::Poll => {}
            Dialect::WsJson => write_ws(ws::Opcode::Text, out, |out| {
                out.extend_from_slice(b"{\"");
                out.extend_from_slice(name.as_bytes());
                wrap(b"\":", b"}", out, body);
            }),
            _ => self.write_sse(out, |out| {
                if let Some(position) = position {
                    out.extend_from_slice(b"id: ");
                    position.write(out);
                    out.push(b'\n');
                }
                out.extend_from_slice(b"event: ringcast.");
                out.extend_from_slice(name.as_bytes());
                if let Some(retry_ms) = retry_ms {
                    out.extend_from_slice(b"\nretry: ");
                    crate::logic::id::write_decimal(retry_ms, out);
                }
                wrap(b"\ndata: ", b"\n", out, body);
            }),
        }
    }

    /// Appends what opens an event stream: the padding some proxies want to see and the reconnection time.
    pub fn write_sse_preamble(self, padding_bytes: usize, retry_ms: u64, out: &mut Vec<u8>) {
        self.write_sse(out, |out| {
            if padding_bytes > 0 {
                out.push(b':');
                out.extend(std::iter::repeat_n(b' ', padding_bytes));
                out.push(b'\n');
            }
            out.extend_from_slice(b"retry: ");
            crate::logic::id::write_decimal(retry_ms, out);
            out.push(b'\n');
        });
    }

    /// Appends the fields that `fields` writes as one event, with its blank line, as a chunk if need be.
    fn write_sse(self, out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        fields(out);
        out.push(b'\n');
        if self.is_chunked() {
            let size = format!("{:x}\r\n", out.len() - start);
            out.extend_from_slice(b"\r\n");
            prepend(out, start, size.as_bytes());
        }
    }
}

fn write_sse_fields(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    event.id.write(out);
    out.push(b'\n');
    if let Some(name) = &event.draft.name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
}

/// One `data:` field per line of the payload: CRLF, LF and CR all end a line (WHATWG HTML §9.2.6).
fn write_sse_payload(event: &Event, out: &mut Vec<u8>) {
    let payload = &event.draft.payload[..];
    match event.draft.kind {
        Kind::Binary => {
            out.extend_from_slice(b"data: ");
            json::write_base64(payload, out);
            out.push(b'\n');
        }
        Kind::Json => {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(payload);
            out.push(b'\n');
        }
        Kind::Text => {
            let mut rest = payload;
            loop {
                let end = memchr::memchr2(b'\n', b'\r', rest);
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
                out.push(b'\n');
                let Some(end) = end else { break };
                let skip = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
                rest = &rest[end + skip..];
            }
        }
    }
}

/// Appends `{"id","channel","event"?,"data"}`.
pub fn write_event_json(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"");
    event.id.write(out);
    out.extend_from_slice(b"\",\"channel\":");
    json::write_string(&event.channel, out);
    if let Some(name) = &event.draft.name {
        out.extend_from_slice(b",\"event\":");
        json::write_string(name, out);
    }
    out.extend_from_slice(b",\"data\":");
    write_data(event, out);
    out.push(b'}');
}

/// Appends the payload as a JSON value: text and binary (as base64) as a string.
fn write_data(event: &Event, out: &mut Vec<u8>) {
    match event.draft.kind {
        Kind::Text => json::write_string(event.text(), out),
        Kind::Json => out.extend_from_slice(&event.draft.payload),
        Kind::Binary => json::write_base64_string(&event.draft.payload, out),
    }
}

fn wrap(before: &[u8], after: &[u8], out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(before);
    body(out);
    out.extend_from_slice(after);
}

/// Appends what `payload` writes as one WebSocket message.
pub fn write_ws(opcode: ws::Opcode, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    payload(out);
    let mut header = Vec::with_capacity(10);
    ws::write_frame_header(&mut header, opcode, out.len() - start);
    prepend(out, start, &header);
}

/// Puts `prefix` before what stands in `out` from `start` on. Headers hold the length of what follows, so the
/// body is written first; moving it by some bytes is cheaper than writing it twice.
fn prepend(out: &mut Vec<u8>, start: usize, prefix: &[u8]) {
    out.extend_from_slice(prefix);
    out[start..].rotate_right(prefix.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, name: Option<&str>, payload: &[u8]) -> Event {
        let draft = Draft { name: name.map(Into::into), kind, payload: payload.to_vec().into() };
        Event { id: Id::new(5, 1), channel: "c\"".into(), draft }
    }

    fn written(dialect: Dialect, event: &Event) -> String {
        let mut out = b"before".to_vec();
        dialect.write_event(event, &mut out);
        String::from_utf8(out.split_off(6)).unwrap()
    }

    #[test]
    fn sse_writes_a_data_field_per_line() {
        let text = event(Kind::Text, Some("n"), b"one\r\ntwo\nthree\rfour\n");
        let body = "id: 5-1\nevent: n\ndata: one\ndata: two\ndata: three\ndata: four\ndata: \n\n";
        assert_eq!(written(Dialect::SsePlain, &text), body);
        assert_eq!(written(Dialect::Sse, &text), format!("{:x}\r\n{body}\r\n", body.len()));
        assert_eq!(written(Dialect::SsePlain, &event(Kind::Text, None, b"")), "id: 5-1\ndata: \n\n");
        assert_eq!(written(Dialect::SsePlain, &event(Kind::Binary, None, b"\0\xff")), "id: 5-1\ndata: AP8=\n\n");
    }

    #[test]
    fn an_envelope_names_the_channel() {
        let json = event(Kind::Json, None, b"{\"a\":1}");
        assert_eq!(
            written(Dialect::SsePlainEnvelope, &json),
            "id: 5-1\ndata: {\"channel\":\"c\\\"\",\"data\":{\"a\":1}}\n\n"
        );
        assert_eq!(
            written(Dialect::Poll, &event(Kind::Text, Some("e"), b"x\ny")),
            "{\"id\":\"5-1\",\"channel\":\"c\\\"\",\"event\":\"e\",\"data\":\"x\\ny\"},"
        );
    }

    #[test]
    fn websocket_frames_carry_their_length() {
        let mut out = Vec::new();
        Dialect::WsRaw.write_event(&event(Kind::Text, None, b"hello"), &mut out);
        assert_eq!(out, b"\x81\x05hello");
        out.clear();
        Dialect::WsJson.write_event(&event(Kind::Text, None, &[b'x'; 200]), &mut out);
        assert_eq!(&out[..2], &[0x81, 126]);
        assert_eq!(u16::from_be_bytes([out[2], out[3]]) as usize, out.len() - 4);
    }

    #[test]
    fn notices() {
        let mut out = Vec::new();
        Dialect::SsePlain.write_gap(Id::new(1, 0), Id::new(2, 0), Some(Id::new(2, 0)), &mut out);
        Dialect::SsePlain.write_end("c", &mut out);
        Dialect::SsePlain.write_bye("drain", 1500, &mut out);
        Dialect::SsePlain.write_sse_preamble(2, 3000, &mut out);
        let expected = "id: 2-0\nevent: ringcast.gap\ndata: {\"after\":\"1-0\",\"resumed\":\"2-0\"}\n\n\
            event: ringcast.end\ndata: {\"channel\":\"c\"}\n\n\
            event: ringcast.bye\nretry: 1500\ndata: {\"reason\":\"drain\",\"retry_ms\":1500}\n\n\
            :  \nretry: 3000\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
