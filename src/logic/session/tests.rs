//! What holds for every protocol of the table, and the routes that lead to them.

use proptest::prelude::*;

use super::*;
use crate::logic::code::Code;
use crate::logic::event::{Draft, Event, Kind};
use crate::logic::id::Id;
use crate::logic::protocol::http::{HeadLimits, Parsed as Head, parse};
use crate::logic::protocol::query::SubscribeQuery;
use crate::logic::protocol::ws::{Decoder, Opcode, parse_server_frame, write_client_frame, write_frame};
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;

fn all() -> impl Iterator<Item = Spoken> {
    (0..TABLE.len() as u8).map(Spoken::from_number)
}

fn keys() -> impl Iterator<Item = LaneKey> {
    all().flat_map(|spoken| [Coding::Identity, Coding::Chunked].map(|coding| LaneKey::new(spoken, coding)))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&mut out);
    assert_eq!(out[..6], *b"before");
    out.split_off(6)
}

/// Whether `bytes` are whole frames of a server's.
fn are_frames(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(Some(frame)) = parse_server_frame(bytes) else { return false };
        bytes = &bytes[frame.consumed..];
    }
    true
}

/// The body that a client reads from chunks, and whether the last one has come.
fn from_chunks(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while !bytes.is_empty() {
        let end = memchr::memmem::find(bytes, b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let chunk = &bytes[end + 2..end + 2 + length];
        assert_eq!(bytes[end + 2 + length..][..2], *b"\r\n");
        bytes = &bytes[end + 4 + length..];
        if length == 0 {
            assert!(bytes.is_empty(), "nothing follows the last chunk");
            return (body, true);
        }
        body.extend_from_slice(chunk);
    }
    (body, false)
}

fn events() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![Just(Kind::Text), Just(Kind::Json), Just(Kind::Binary)];
    let name = proptest::option::of("[a-zé.]{1,8}");
    (kind, name, any::<String>(), proptest::collection::vec(any::<u8>(), 0..300), any::<u64>(), "[!-~&&[^,]]{1,12}")
        .prop_map(|(kind, name, text, bytes, id, channel)| {
            let payload = match kind {
                Kind::Text => text.into_bytes(),
                Kind::Json => serde_json::to_vec(&[text]).unwrap(),
                Kind::Binary => bytes,
            };
            let draft = Draft { name: name.map(Into::into), kind, payload: payload.into() };
            Event { id: Id::new(id >> 24, id & 0xffff), channel: channel.into(), draft }
        })
}

/// One of each notice.
fn notices<'a>(draft: &'a Draft, refusal: &'a Refusal) -> Vec<Notice<'a>> {
    let (after, resumed) = (Id::new(1, 0), Id::new(2, 0));
    let reply = |outcome| Notice::Reply { reference: Some("1"), outcome };
    vec![
        reply(Outcome::Done),
        reply(Outcome::Published(resumed)),
        reply(Outcome::Pong("7")),
        reply(Outcome::Refused(refusal)),
        Notice::Gap { after, resumed, position: Some(resumed) },
        Notice::Ended { channel: "c" },
        Notice::Unsubscribed { channel: "c", reason: "no" },
        Notice::Direct(draft),
        Notice::Pong(b"x"),
        Notice::Same(Payload::Text("x")),
        Notice::PollAnswer { events: b"", next: resumed, gap: None, ended: &[] },
    ]
}

#[test]
fn keys_hold_a_protocol_and_a_coding() {
    for spoken in all() {
        for coding in [Coding::Identity, Coding::Chunked] {
            let key = LaneKey::new(spoken, coding);
            assert_eq!((key.spoken(), key.coding()), (spoken, coding));
        }
    }
    assert_eq!(keys().collect::<std::collections::HashSet<_>>().len(), TABLE.len() * 2);
    let names: std::collections::HashSet<_> = TABLE.iter().map(|protocol| protocol.name()).collect();
    assert_eq!(names.len(), TABLE.len());
    assert_eq!(LaneKey::default(), LaneKey::of(Spoken::SSE, true));
}

#[test]
fn protocols_differ_in_what_a_client_may_do() {
    let of = |spoken: Spoken| {
        let protocol = spoken.protocol();
        let (subprotocol, takes_requests) = (protocol.subprotocol(), protocol.takes_requests());
        let names = format!("{:?} by {}", LaneKey::of(spoken, true), protocol.carrier().name());
        assert_eq!(format!("{spoken:?}"), protocol.name());
        (names, subprotocol, takes_requests, protocol.has_channels())
    };
    let v1 = Some("ringcast.v1");
    for (spoken, name, subprotocol, takes_requests, has_channels) in [
        (Spoken::SSE, "sse Chunked by sse", None, false, true),
        (Spoken::SSE_ENVELOPE, "sse_envelope Chunked by sse", None, false, true),
        (Spoken::WS_JSON, "ws_json Identity by ws", v1, true, true),
        (Spoken::WS_RAW, "ws_raw Identity by ws", None, false, true),
        (Spoken::POLL, "poll Identity by poll", None, false, true),
        (Spoken::ECHO, "echo Identity by ws", v1, false, false),
    ] {
        assert_eq!(of(spoken), (name.to_owned(), subprotocol, takes_requests, has_channels));
        let asks_for_token =
            if takes_requests { "the first message must be {\"token\":\"…\"}" } else { "a token must come first" };
        assert_eq!(spoken.protocol().token_first(), asks_for_token);
    }
}

#[test]
fn a_channel_from_a_client_is_a_channel_name() {
    let channel = ChannelArg::new("orders:1".into()).unwrap();
    assert_eq!((channel.as_str(), channel.as_ref()), ("orders:1", "orders:1"));
    assert_eq!(ChannelArg::new("$sys".into()).unwrap_err().code, Code::BadChannel);
}

#[test]
fn a_message_is_as_long_as_its_bytes() {
    let all = [Payload::Text(""), Payload::Text("ü"), Payload::Binary(b""), Payload::Binary(b"abc")];
    let lengths = all.map(|payload| (payload.len(), payload.is_empty()));
    assert_eq!(lengths, [(0, true), (2, false), (0, true), (3, false)]);
}

#[test]
fn only_streams_of_http_1_1_are_chunked() {
    for spoken in all() {
        let is_stream = spoken.protocol().carrier() == Carrier::Stream;
        let expected = if is_stream { Coding::Chunked } else { Coding::Identity };
        assert_eq!(LaneKey::of(spoken, true).coding(), expected, "{spoken:?}");
        assert_eq!(LaneKey::of(spoken, false).coding(), Coding::Identity, "{spoken:?}");
    }
}

/// What a coding does to a protocol's bytes can be undone, and an end can be told from a cut.
#[test]
fn coded_bytes_are_the_protocols_own() {
    let draft = Draft { name: None, kind: Kind::Text, payload: b"x".to_vec().into() };
    let refusal = Refusal::new(Code::Forbidden, "no");
    let welcome = Welcome { position: Id::new(5, 1), connection: &"0.1.2", padding_bytes: 3, retry_ms: 5, beat_ms: 7 };
    for spoken in all() {
        let [plain, chunked] = [Coding::Identity, Coding::Chunked].map(|coding| LaneKey::new(spoken, coding));
        let own = written(|out| spoken.protocol().welcome(&welcome, out));
        assert_eq!(written(|out| plain.welcome(&welcome, out)), own, "{spoken:?}");
        assert_eq!(from_chunks(&written(|out| chunked.welcome(&welcome, out))), (own, false), "{spoken:?}");
        for notice in notices(&draft, &refusal) {
            let own = written(|out| spoken.protocol().notify(&notice, out));
            assert_eq!(written(|out| plain.notify(&notice, out)), own, "{notice:?}");
            assert_eq!(from_chunks(&written(|out| chunked.notify(&notice, out))), (own, false), "{notice:?}");
        }
        let heartbeat = plain.heartbeat().unwrap_or_default();
        if spoken.protocol().carrier() == Carrier::Stream {
            assert_eq!(from_chunks(chunked.heartbeat().unwrap()), (heartbeat.to_vec(), false), "{spoken:?}");
        }
        for reason in Reason::ALL {
            let farewell = Farewell::new(*reason).with_retry(5);
            let own = written(|out| plain.close(&farewell, out));
            assert_eq!(from_chunks(&written(|out| chunked.close(&farewell, out))), (own, true), "{reason:?}");
        }
    }
}

#[test]
fn a_websocket_gets_whole_frames_and_its_heartbeat_is_answered() {
    let draft = Draft { name: None, kind: Kind::Binary, payload: b"\xff".to_vec().into() };
    let refusal = Refusal::new(Code::Forbidden, "no");
    for spoken in all() {
        let (protocol, key) = (spoken.protocol(), LaneKey::of(spoken, true));
        if protocol.carrier() != Carrier::WebSocket {
            assert!(!protocol.takes_requests() && protocol.subprotocol().is_none(), "{spoken:?} is silent");
            continue;
        }
        let mut bytes = key.heartbeat().expect("without one a broken connection would stay").to_vec();
        let welcome =
            Welcome { position: Id::new(5, 1), connection: &"0.1.2", padding_bytes: 3, retry_ms: 5, beat_ms: 7 };
        key.welcome(&welcome, &mut bytes);
        notices(&draft, &refusal).iter().for_each(|notice| key.notify(notice, &mut bytes));
        for reason in Reason::ALL.iter().filter(|reason| reason.close_code().is_some()) {
            let words = written(|out| key.close(&Farewell::new(*reason), out));
            assert!(are_frames(&words), "{spoken:?}");
            let is_close =
                |bytes: &[u8]| parse_server_frame(bytes).is_ok_and(|f| f.is_some_and(|f| f.opcode == Opcode::Close));
            assert!((0..words.len()).any(|at| is_close(&words[at..])), "{spoken:?} closes for {reason:?}");
            bytes.extend(words);
        }
        assert!(are_frames(&bytes), "{spoken:?}");
    }
}

#[test]
fn messages_become_intents() {
    for spoken in all().filter(|spoken| spoken.protocol().carrier() == Carrier::WebSocket) {
        let protocol = spoken.protocol();
        let mut decoder = Decoder::default();
        let mut input = Vec::new();
        write_client_frame(&mut input, Opcode::Ping, b"abc", [1, 2, 3, 4]);
        let length = input.len();
        let said = Said { weight: 3, payload: None, intent: Intent::Reply(Notice::Pong(b"abc")) };
        assert_eq!(protocol.parse(&mut input, &mut decoder, 100), Ok(Parsed { consumed: length, said: Some(said) }));
        for (payload, code) in [(&b"\x10\xe1"[..], 4321), (b"", 1000)] {
            input.clear();
            write_client_frame(&mut input, Opcode::Close, payload, [1, 2, 3, 4]);
            let parsed = protocol.parse(&mut input, &mut decoder, 100).unwrap();
            assert_eq!(parsed.said.map(|said| said.intent), Some(Intent::Leave(code)), "{spoken:?}");
        }
        input.clear();
        write_client_frame(&mut input, Opcode::Text, &[b'x'; 101], [1, 2, 3, 4]);
        let violation = protocol.parse(&mut input, &mut decoder, 100).unwrap_err();
        assert_eq!(Farewell::from(violation).close_code(), Some(1009));
        assert_eq!(violation.reason, Reason::TooBig);
        let violation = protocol.parse(&mut [0x81, 1, b'x'], &mut decoder, 100).unwrap_err();
        assert_eq!(violation.reason, Reason::Violation);
        input.clear();
        write_client_frame(&mut input, Opcode::Text, b"\xff", [1, 2, 3, 4]);
        assert_eq!(protocol.parse(&mut input, &mut decoder, 100).unwrap_err().reason, Reason::InvalidData);
        input.clear();
        write_client_frame(&mut input, Opcode::Text, b"x y", [1, 2, 3, 4]);
        let mut decoder = Decoder::default();
        let parsed = protocol.parse(&mut input, &mut decoder, 100).unwrap();
        let said = parsed.said.unwrap();
        assert_eq!((said.weight, said.payload), (3, Some(Payload::Text("x y"))));
        assert_eq!(said.intent, protocol.interpret(Payload::Text("x y")), "as when it is interpreted again");
    }
    let mut input = *b"GET / HTTP/1.1";
    let mut decoder = Decoder::default();
    let silent = Spoken::SSE.protocol().parse(&mut input, &mut decoder, 100);
    assert_eq!(silent, Ok(Parsed { consumed: 14, said: None }));
}

#[test]
fn heartbeats_are_as_short_as_can_be() {
    let heartbeat = |spoken, coding| LaneKey::new(spoken, coding).heartbeat();
    for spoken in [Spoken::SSE, Spoken::SSE_ENVELOPE] {
        assert_eq!(heartbeat(spoken, Coding::Identity), Some(&b":\n"[..]));
        assert_eq!(heartbeat(spoken, Coding::Chunked), Some(&b"2\r\n:\n\r\n"[..]));
    }
    for spoken in [Spoken::WS_JSON, Spoken::WS_RAW, Spoken::ECHO] {
        assert_eq!(heartbeat(spoken, Coding::Identity), Some(&b"\x89\x00"[..]));
    }
    assert_eq!(heartbeat(Spoken::POLL, Coding::Identity), None);
}

#[test]
fn a_raw_socket_gets_payloads_alone() {
    let key = LaneKey::of(Spoken::WS_RAW, true);
    let refusal = Refusal::new(Code::Forbidden, "no");
    for (kind, payload, framed) in [
        (Kind::Text, &b"hello"[..], &b"\x81\x05hello"[..]),
        (Kind::Json, b"[1]", b"\x81\x03[1]"),
        (Kind::Binary, b"\xff", b"\x82\x01\xff"),
    ] {
        let draft = Draft { name: Some("n".into()), kind, payload: payload.to_vec().into() };
        assert_eq!(written(|out| key.notify(&Notice::Direct(&draft), out)), framed);
        let others = notices(&draft, &refusal).into_iter();
        let others = others.filter(|notice| !matches!(notice, Notice::Direct(_) | Notice::Pong(_)));
        others.for_each(|notice| assert_eq!(written(|out| key.notify(&notice, out)), b"", "{notice:?}"));
        let event = Event { id: Id::new(5, 1), channel: "c".into(), draft };
        assert_eq!(written(|out| key.frame(&event, out)), framed);
    }
    assert_eq!(written(|out| key.notify(&Notice::Pong(b"x"), out)), b"\x8a\x01x");
    let farewell = Farewell::new(Reason::Drained).with_retry(5);
    assert_eq!(written(|out| key.close(&farewell, out)), b"\x88\x24\x03\xe9draining: the server is going away");
}

#[test]
fn an_event_in_json_carries_its_frames_length() {
    for (length, header) in [(60, 2), (200, 4), (70_000, 10)] {
        let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; length].into() };
        let event = Event { id: Id::new(5, 1), channel: "c".into(), draft };
        let bytes = written(|out| LaneKey::of(Spoken::WS_JSON, true).frame(&event, out));
        let frame = parse_server_frame(&bytes).unwrap().unwrap();
        let expected = format!(r#"{{"id":"5-1","channel":"c","data":"{}"}}"#, "x".repeat(length));
        assert_eq!(frame.payload, expected.as_bytes());
        assert_eq!((frame.opcode, frame.consumed), (Opcode::Text, header + expected.len()));
    }
}

#[test]
fn an_echo_sends_messages_back_and_a_raw_socket_ignores_them() {
    let text = Payload::Text("hello");
    let Intent::Reply(notice) = Spoken::ECHO.protocol().interpret(text) else { panic!() };
    assert_eq!(written(|out| LaneKey::of(Spoken::ECHO, true).notify(&notice, out)), b"\x81\x05hello");
    let Intent::Reply(notice) = Spoken::ECHO.protocol().interpret(Payload::Binary(b"\xff")) else { panic!() };
    assert_eq!(written(|out| LaneKey::of(Spoken::ECHO, true).notify(&notice, out)), b"\x82\x01\xff");
    assert_eq!(written(|out| LaneKey::of(Spoken::ECHO, true).notify(&Notice::Pong(b"x"), out)), b"\x8a\x01x");
    assert_eq!(Spoken::WS_RAW.protocol().interpret(Payload::Text(r#"{"subscribe":["a"]}"#)), Intent::Alive);
}

#[test]
fn a_polls_answer_is_one_object() {
    let key = LaneKey::of(Spoken::POLL, true);
    let answer = |events: &[u8], gap, ended: &[&str]| {
        let notice = Notice::PollAnswer { events, next: Id::new(7, 1), gap, ended };
        String::from_utf8(written(|out| key.notify(&notice, out))).unwrap()
    };
    assert_eq!(answer(b"", None, &[]), "{\"events\":[],\"next\":\"7-1\",\"gap\":false}\n");
    let draft = Draft { name: None, kind: Kind::Json, payload: b"1".to_vec().into() };
    let mut events = Vec::new();
    for n in 0..2 {
        key.frame(&Event { id: Id::new(5, n), channel: "c".into(), draft: draft.clone() }, &mut events);
    }
    assert_eq!(
        answer(&events, Some(Id::new(6, 0)), &["a", "b\""]),
        "{\"events\":[{\"id\":\"5-0\",\"channel\":\"c\",\"data\":1},{\"id\":\"5-1\",\"channel\":\"c\",\"data\":1}],\
         \"next\":\"7-1\",\"gap\":true,\"resumed\":\"6-0\",\"ended\":[\"a\",\"b\\\"\"]}\n"
    );
}

/// Where a request leads: the protocol's name, the answer's, or the refusal's code.
fn leads(head: &str, fields: &str, query: &SubscribeQuery, site: &Site<'_>) -> &'static str {
    let text = format!("{head} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let Head::Complete { request, .. } = parse(text.as_bytes(), &HeadLimits { head_bytes_max: 8192, fields_max: 64 })
    else {
        panic!()
    };
    match route(&request, site) {
        Ok(Route::Session(choice)) => choice(query).protocol().name(),
        Ok(Route::Live) => "live",
        Ok(Route::Ready) => "ready",
        Ok(Route::Page) => "page",
        Ok(Route::Library) => "library",
        Err(refusal) => refusal.code.name(),
    }
}

#[test]
fn paths_lead_to_protocols() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let stream = "Accept: text/event-stream\r\n";
    let one = SubscribeQuery { channels: vec!["a".into()], ..SubscribeQuery::default() };
    let two = SubscribeQuery { channels: vec!["a".into(), "b".into()], ..SubscribeQuery::default() };
    let raw = SubscribeQuery { raw: true, ..one.clone() };
    let enveloped = SubscribeQuery { envelope: Some(true), ..one.clone() };
    let plain = SubscribeQuery { envelope: Some(false), ..two.clone() };
    let none = Site::default();
    let all = Site { echo_path: "/echo", has_page: true };
    for (path, fields, query, site, expected) in [
        ("/sse", "", &one, none, "sse"),
        ("/sse", "", &two, none, "sse_envelope"),
        ("/sse", "", &enveloped, none, "sse_envelope"),
        ("/sse", upgrade, &plain, none, "sse"),
        ("/ws", "", &one, none, "ws_json"),
        ("/ws", "", &raw, none, "ws_raw"),
        ("/poll", stream, &two, none, "poll"),
        ("/events", "", &one, none, "poll"),
        ("/events", stream, &one, none, "sse"),
        ("/events", upgrade, &raw, none, "ws_raw"),
        ("/healthz", "", &one, none, "live"),
        ("/readyz", "", &one, none, "ready"),
        ("/", "", &one, none, "not_found"),
        ("/", "", &one, all, "page"),
        ("/ringcast.js", "", &one, none, "not_found"),
        ("/ringcast.js", "", &one, all, "library"),
        ("/echo", "", &one, none, "not_found"),
        ("/echo", "", &raw, all, "echo"),
        ("/parrot/any", "", &raw, none, "parrot"),
        ("/parrot", "", &raw, none, "not_found"),
        ("/sse/", "", &one, none, "not_found"),
    ] {
        assert_eq!(leads(&format!("GET {path}"), fields, query, &site), expected, "{path} {fields}");
    }
    assert_eq!(leads("POST /sse", "", &one, &none), "method");
    assert_eq!(leads("POST /other", "", &one, &none), "not_found");
    assert_eq!(leads("HEAD /sse", "", &one, &none), "sse");
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "[{}\":,a-z0-9\\[\\] ]{0,60}") {
        for spoken in all() {
            let protocol = spoken.protocol();
            let _ = protocol.parse(&mut bytes.clone(), &mut Decoder::default(), 64);
            for intent in [protocol.interpret(Payload::Text(&text)), protocol.interpret(Payload::Binary(&bytes))] {
                if let Intent::Reply(notice) = &intent {
                    protocol.notify(notice, &mut Vec::new());
                }
                intent.before_token(protocol.token_first());
            }
        }
    }

    /// A protocol's frames for a WebSocket are frames, whatever the event holds.
    #[test]
    fn events_become_frames(event in events()) {
        for spoken in all() {
            let bytes = written(|out| LaneKey::of(spoken, true).frame(&event, out));
            match spoken.protocol().carrier() {
                Carrier::WebSocket => prop_assert!(are_frames(&bytes), "{spoken:?}"),
                Carrier::Stream => prop_assert!(!from_chunks(&bytes).1, "{spoken:?}"),
                Carrier::Poll => prop_assert!(serde_json::from_slice::<serde_json::Value>(&bytes[..bytes.len() - 1]).is_ok()),
            }
        }
    }
}

#[test]
fn a_session_may_be_opened_only_to_say_a_refusal() {
    for (code, close) in
        [(Code::InvalidToken, 4001u16), (Code::Forbidden, 4003), (Code::TooMany, 1013), (Code::Full, 1013)]
    {
        let refusal = Refusal::new(code, "no");
        let farewell = Farewell::of_refusal(&refusal, 5);
        let bye = format!("{{\"code\":\"{code}\",\"reason\":\"no\",\"retry_ms\":5}}");
        let text = format!("event: ringcast.bye\nretry: 5\ndata: {bye}\n\n");
        let sse = written(|out| LaneKey::of(Spoken::SSE, false).close(&farewell, out));
        assert_eq!(String::from_utf8(sse).unwrap(), text);
        let mut last = close.to_be_bytes().to_vec();
        last.extend_from_slice(format!("{code}: no").as_bytes());
        let mut raw = Vec::new();
        write_frame(&mut raw, Opcode::Close, &last);
        assert_eq!(written(|out| LaneKey::of(Spoken::WS_RAW, true).close(&farewell, out)), raw);
        let mut json = Vec::new();
        write_frame(&mut json, Opcode::Text, format!("{{\"bye\":{bye}}}").as_bytes());
        json.extend_from_slice(&raw);
        assert_eq!(written(|out| LaneKey::of(Spoken::WS_JSON, true).close(&farewell, out)), json);
    }
    let mistake = Refusal::new(Code::BadQuery, "no");
    assert_eq!((mistake.close_code(), mistake.passes()), (None, false));
    assert!(mistake.retry_after(1).passes());
}

#[test]
fn beats_are_shown_where_there_is_a_form_for_them() {
    let shows = |spoken: Spoken| spoken.protocol().shows_beats();
    assert!(
        [Spoken::SSE, Spoken::SSE_ENVELOPE, Spoken::SSE_UNNAMED, Spoken::SSE_ENVELOPE_UNNAMED, Spoken::WS_JSON]
            .into_iter()
            .all(shows)
    );
    assert!(![Spoken::WS_RAW, Spoken::POLL, Spoken::ECHO].into_iter().any(shows));
}
