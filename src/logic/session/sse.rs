//! Event streams (WHATWG HTML §9.2): `text/event-stream`, in one direction.

use crate::logic::event::{Draft, Event, Kind};
use crate::logic::id::{Id, write_decimal};
use crate::logic::json;

use super::coding::Coding;
use super::notice::{Farewell, Notice, ServerEvent, Welcome};
use super::protocol::{Carrier, Protocol};

/// The protocol of event streams.
pub(super) struct Sse {
    /// Whether an event's data is `{"channel","event"?,"data"}` and not the payload alone.
    envelope: bool,
    /// Whether an event's name is its field `event`, by which pages choose a listener.
    names: bool,
}

/// Streams of one channel.
pub(super) static PLAIN: Sse = Sse { envelope: false, names: true };
/// Streams of several channels.
pub(super) static ENVELOPE: Sse = Sse { envelope: true, names: true };
/// Streams of one channel without events' names.
pub(super) static PLAIN_UNNAMED: Sse = Sse { envelope: false, names: false };
/// Streams of several channels, with events' names in the envelope alone.
pub(super) static ENVELOPE_UNNAMED: Sse = Sse { envelope: true, names: false };

/// A comment, which browsers ignore and which keeps proxies from cutting the stream. No blank line follows: some client
/// libraries take a block without data for an empty message.
const HEARTBEAT: &[u8] = b":\n";
const HEARTBEAT_CHUNK: &[u8] = b"2\r\n:\n\r\n";

impl Protocol for Sse {
    fn name(&self) -> &'static str {
        match (self.envelope, self.names) {
            (false, true) => "sse",
            (true, true) => "sse_envelope",
            (false, false) => "sse_unnamed",
            (true, false) => "sse_envelope_unnamed",
        }
    }

    fn carrier(&self) -> Carrier {
        Carrier::Stream
    }

    fn shows_beats(&self) -> bool {
        true
    }

    fn frame(&self, event: &Event, out: &mut Vec<u8>) {
        write_id(event.id, out);
        if let Some(name) = event.draft.name.as_ref().filter(|_| self.names) {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(name.as_bytes());
            out.push(b'\n');
        }
        if self.envelope {
            out.extend_from_slice(b"data: {\"channel\":");
            json::write_string(&event.channel, out);
            if let Some(name) = &event.draft.name {
                out.extend_from_slice(b",\"event\":");
                json::write_string(name, out);
            }
            out.push(b',');
            event.draft.write_json_member(out);
            out.extend_from_slice(b"}\n");
        } else {
            write_data(&event.draft, out);
        }
        out.push(b'\n');
    }

    fn welcome(&self, welcome: &Welcome<'_>, out: &mut Vec<u8>) {
        if welcome.padding_bytes > 0 {
            out.push(b':');
            out.extend(std::iter::repeat_n(b' ', welcome.padding_bytes));
            out.push(b'\n');
        }
        // All of it is one event: some libraries take a block without data for an empty message, and browsers keep no id
        // from one.
        write_id(welcome.position, out);
        write_server_event(&ServerEvent::of_welcome(welcome), Some(welcome.retry_ms), out);
    }

    fn notify(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        if let Notice::Direct(draft) = notice {
            write_data(draft, out);
            out.push(b'\n');
        }
        if let Notice::Gap { position: Some(position), .. } = notice {
            write_id(*position, out);
        }
        if let Some(event) = ServerEvent::of_notice(notice) {
            write_server_event(&event, None, out);
        }
    }

    fn heartbeat(&self, coding: Coding) -> Option<&'static [u8]> {
        Some(match coding {
            Coding::Identity => HEARTBEAT,
            Coding::Chunked => HEARTBEAT_CHUNK,
        })
    }

    fn close(&self, farewell: &Farewell<'_>, out: &mut Vec<u8>) {
        if let Some(bye) = ServerEvent::of_farewell(farewell) {
            write_server_event(&bye, Some(farewell.retry_ms), out);
        }
    }
}

fn write_id(id: Id, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    id.write(out);
    out.push(b'\n');
}

/// One `data:` field per line of the payload: CRLF, LF and CR all end a line (WHATWG HTML §9.2.6).
fn write_data(draft: &Draft, out: &mut Vec<u8>) {
    let payload = &draft.payload[..];
    match draft.kind {
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

/// A notice as an event of the server's own name, with the time to come back after.
fn write_server_event(event: &ServerEvent<'_>, retry_ms: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ringcast.");
    out.extend_from_slice(event.name().as_bytes());
    if let Some(retry_ms) = retry_ms {
        out.extend_from_slice(b"\nretry: ");
        write_decimal(retry_ms, out);
    }
    out.extend_from_slice(b"\ndata: ");
    json::write(event, out);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::reason::Reason;

    fn event(kind: Kind, name: Option<&str>, payload: &[u8]) -> Event {
        let draft = Draft { name: name.map(Into::into), kind, payload: payload.to_vec().into() };
        Event { id: Id::new(5, 1), channel: "c\"".into(), draft }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before".to_vec();
        write(&mut out);
        String::from_utf8(out.split_off(6)).unwrap()
    }

    #[test]
    fn a_payload_has_a_data_field_per_line() {
        let framed = |event: &Event| text(|out| PLAIN.frame(event, out));
        let lines = event(Kind::Text, Some("n"), b"one\r\ntwo\nthree\rfour\n");
        let body = "id: 5-1\nevent: n\ndata: one\ndata: two\ndata: three\ndata: four\ndata: \n\n";
        assert_eq!(framed(&lines), body);
        assert_eq!(framed(&event(Kind::Text, None, b"")), "id: 5-1\ndata: \n\n");
        assert_eq!(framed(&event(Kind::Binary, None, b"\0\xff")), "id: 5-1\ndata: AP8=\n\n");
    }

    #[test]
    fn an_envelope_names_the_channel() {
        let framed = |sse: &Sse, kind, name, payload: &[u8]| text(|out| sse.frame(&event(kind, name, payload), out));
        let start = "data: {\"channel\":\"c\\\"\",";
        let enveloped = framed(&ENVELOPE, Kind::Json, None, b"{\"a\":1}");
        assert_eq!(enveloped, format!("id: 5-1\n{start}\"data\":{{\"a\":1}}}}\n\n"));
        let named = format!("{start}\"event\":\"n\",\"data_b64\":\"AP8=\"}}\n\n");
        assert_eq!(framed(&ENVELOPE, Kind::Binary, Some("n"), b"\0\xff"), format!("id: 5-1\nevent: n\n{named}"));
        assert_eq!(framed(&ENVELOPE_UNNAMED, Kind::Binary, Some("n"), b"\0\xff"), format!("id: 5-1\n{named}"));
        assert_eq!(framed(&PLAIN_UNNAMED, Kind::Text, Some("n"), b"x"), "id: 5-1\ndata: x\n\n");
    }

    #[test]
    fn notices_are_events_of_the_servers_own_names() {
        let told = |notice: Notice<'_>| text(|out| PLAIN.notify(&notice, out));
        let (after, resumed) = (Id::new(1, 0), Id::new(2, 0));
        let gap = "event: ringcast.gap\ndata: {\"after\":\"1-0\",\"resumed\":\"2-0\"}\n\n";
        assert_eq!(told(Notice::Gap { after, resumed, position: None }), gap);
        assert_eq!(told(Notice::Gap { after, resumed, position: Some(resumed) }), format!("id: 2-0\n{gap}"));
        let ended = "event: ringcast.end\ndata: {\"channel\":\"c\"}\n\n";
        assert_eq!(told(Notice::Ended { channel: "c" }), ended);
        assert_eq!(told(Notice::Beat), "event: ringcast.beat\ndata: {}\n\n");
        let direct = Draft { name: None, kind: Kind::Text, payload: b"a\nb".to_vec().into() };
        assert_eq!(told(Notice::Direct(&direct)), "data: a\ndata: b\n\n");
        let welcome = Welcome {
            position: Id::new(5, 1),
            connection: &"0.1.2",
            padding_bytes: 2,
            retry_ms: 3000,
            beat_ms: 25_000,
        };
        let hello = ":  \nid: 5-1\nevent: ringcast.hello\nretry: 3000\n\
            data: {\"id\":\"5-1\",\"conn\":\"0.1.2\",\"beat_ms\":25000}\n\n";
        assert_eq!(text(|out| PLAIN.welcome(&welcome, out)), hello);
        let bare = Welcome { padding_bytes: 0, ..welcome };
        assert_eq!(text(|out| PLAIN.welcome(&bare, out)), hello[4..]);
    }

    #[test]
    fn a_bye_says_when_to_come_back() {
        let closed = |farewell: Farewell<'_>| text(|out| PLAIN.close(&farewell, out));
        assert_eq!(
            closed(Farewell::new(Reason::Drained).in_words("drain").with_retry(1500)),
            "event: ringcast.bye\nretry: 1500\n\
             data: {\"code\":\"draining\",\"reason\":\"drain\",\"retry_ms\":1500}\n\n"
        );
        assert_eq!(closed(Farewell::new(Reason::Slow)), "");
    }
}
