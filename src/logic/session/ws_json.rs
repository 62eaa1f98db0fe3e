//! `format=json`: JSON in WebSocket messages. The client asks for things in the session, one request per message.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::logic::code::Code;
use crate::logic::event::Event;
use crate::logic::id::Id;
use crate::logic::json;
use crate::logic::protocol::feed::draft_of;
use crate::logic::protocol::ws::{self, Opcode, PING_FRAME, SUBPROTOCOL};
use crate::logic::refusal::Refusal;

use super::coding::Coding;
use super::intent::{ChannelArg, Intent};
use super::notice::{Farewell, Notice, Outcome, Payload, ServerEvent, Welcome};
use super::protocol::{Carrier, Protocol};
use super::websocket;

/// The protocol of the JSON format.
pub(super) struct WsJson;

/// Text that is borrowed from the message unless it holds an escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of a message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    #[serde(borrow, default)]
    subscribe: Option<Wanted<'a>>,
    #[serde(borrow, default)]
    unsubscribe: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    after: Option<Text<'a>>,
    #[serde(borrow, rename = "ref", default)]
    reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ping: Option<&'a RawValue>,
    #[serde(borrow, default)]
    send: Option<&'a RawValue>,
    #[serde(borrow, default)]
    publish: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refresh: Option<Text<'a>>,
    #[serde(borrow, default)]
    token: Option<Text<'a>>,
}

/// The reference of a message that cannot be read as a whole.
#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow, rename = "ref", default)]
    reference: Option<&'a RawValue>,
}

/// What `{"subscribe":…}` holds: a list of names, or an object with a position, or `null`, for each name.
struct Wanted<'a> {
    channels: Vec<(Text<'a>, Option<Text<'a>>)>,
    has_positions: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Wanted<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wanted<'a>, D::Error> {
        deserializer.deserialize_any(WantedVisitor)
    }
}

struct WantedVisitor;

impl<'de> Visitor<'de> for WantedVisitor {
    type Value = Wanted<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of channels, or an object with a position for each channel")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Wanted<'de>, A::Error> {
        let mut channels = Vec::new();
        while let Some(name) = names.next_element()? {
            channels.push((name, None));
        }
        Ok(Wanted { channels, has_positions: false })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Wanted<'de>, A::Error> {
        let mut channels = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            channels.push(entry);
        }
        Ok(Wanted { channels, has_positions: true })
    }
}

/// What `{"publish":…}` holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow, default)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Protocol for WsJson {
    fn name(&self) -> &'static str {
        "ws_json"
    }

    fn carrier(&self) -> Carrier {
        Carrier::WebSocket
    }

    fn subprotocol(&self) -> Option<&'static str> {
        Some(SUBPROTOCOL)
    }

    fn takes_requests(&self) -> bool {
        true
    }

    fn token_first(&self) -> &'static str {
        "the first message must be {\"token\":\"…\"}"
    }

    fn shows_beats(&self) -> bool {
        true
    }

    fn frame(&self, event: &Event, out: &mut Vec<u8>) {
        ws::write_frame_with(out, Opcode::Text, |out| event.write_json(out));
    }

    fn interpret<'a>(&self, message: Payload<'a>) -> Intent<'a> {
        let Payload::Text(text) = message else {
            return unreadable("messages in the JSON format are text");
        };
        match serde_json::from_str::<Message<'a>>(text) {
            Ok(message) => message.intent(),
            Err(error) => {
                let reference = serde_json::from_str::<Reference<'a>>(text).ok().and_then(|message| message.reference);
                let refusal = Refusal::new(Code::BadMessage, error.to_string());
                Intent::Refuse { refusal, reference: reference.map(RawValue::get), is_read: false }
            }
        }
    }

    fn welcome(&self, welcome: &Welcome<'_>, out: &mut Vec<u8>) {
        write_server_event(&ServerEvent::of_welcome(welcome), out);
    }

    fn notify(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        match notice {
            Notice::Reply { reference, outcome } => write_reply(*reference, outcome, out),
            Notice::Direct(draft) => ws::write_frame_with(out, Opcode::Text, |out| {
                out.push(b'{');
                draft.write_json_member(out);
                out.push(b'}');
            }),
            Notice::Pong(payload) => websocket::write_pong(payload, out),
            notice => {
                if let Some(event) = ServerEvent::of_notice(notice) {
                    write_server_event(&event, out);
                }
            }
        }
    }

    fn heartbeat(&self, _coding: Coding) -> Option<&'static [u8]> {
        Some(PING_FRAME)
    }

    fn close(&self, farewell: &Farewell<'_>, out: &mut Vec<u8>) {
        if let Some(bye) = ServerEvent::of_farewell(farewell) {
            write_server_event(&bye, out);
        }
        websocket::write_close(farewell, out);
    }
}

fn unreadable<'a>(why: impl Into<Cow<'static, str>>) -> Intent<'a> {
    Intent::Refuse { refusal: Refusal::new(Code::BadMessage, why), reference: None, is_read: false }
}

impl<'a> Message<'a> {
    /// The number of things that the message asks for.
    fn commands(&self) -> usize {
        let Message { subscribe, unsubscribe, ping, send, publish, refresh, token, after: _, reference: _ } = self;
        let asked = [
            subscribe.is_some(),
            unsubscribe.is_some(),
            ping.is_some(),
            send.is_some(),
            publish.is_some(),
            refresh.is_some(),
            token.is_some(),
        ];
        asked.into_iter().filter(|is_asked| *is_asked).count()
    }

    fn intent(self) -> Intent<'a> {
        let reference = self.reference.map(RawValue::get);
        if self.commands() > 1 {
            let refusal = Refusal::new(Code::BadMessage, "a message asks for one thing; send one message for each");
            return Intent::Refuse { refusal, reference, is_read: true };
        }
        if let Some(payload) = self.ping {
            return Intent::Reply(Notice::Reply { reference, outcome: Outcome::Pong(payload.get()) });
        }
        let intent = match self {
            Message { refresh: Some(token), .. } | Message { token: Some(token), .. } => {
                Ok(Intent::Token { token: token.0, reference })
            }
            Message { subscribe: Some(wanted), after, .. } => subscribe(wanted, after, reference),
            Message { after: Some(_), .. } => {
                Err(Refusal::new(Code::BadMessage, "\"after\" goes with \"subscribe\" alone"))
            }
            Message { unsubscribe: Some(names), .. } => {
                let channels = names.into_iter().map(|name| name.0).collect();
                Ok(Intent::Unsubscribe { channels, reference })
            }
            Message { send: Some(data), .. } => Ok(Intent::Send { data: data.get(), reference }),
            Message { publish: Some(publish), .. } => read_publish(publish, reference),
            _ => Err(Refusal::new(
                Code::BadMessage,
                "the message asks for nothing; there are subscribe, unsubscribe, send, publish, refresh and ping",
            )),
        };
        intent.unwrap_or_else(|refusal| Intent::Refuse { refusal, reference, is_read: true })
    }
}

fn subscribe<'a>(
    wanted: Wanted<'a>,
    after: Option<Text<'a>>,
    reference: Option<&'a str>,
) -> Result<Intent<'a>, Refusal> {
    if wanted.has_positions && after.is_some() {
        return Err(Refusal::new(Code::BadMessage, "\"after\" does not go with a position for each channel"));
    }
    let after = after.map(|text| Id::of_client(&text.0));
    let channels = wanted.channels.into_iter().map(|(name, own)| {
        let own = own.map(|text| Id::of_client(&text.0));
        Ok((ChannelArg::new(name.0)?, own.or(after)))
    });
    Ok(Intent::Subscribe { channels: channels.collect::<Result<_, Refusal>>()?, reference })
}

fn read_publish<'a>(publish: &'a RawValue, reference: Option<&'a str>) -> Result<Intent<'a>, Refusal> {
    let publish: Publish<'a> =
        serde_json::from_str(publish.get()).map_err(|error| Refusal::new(Code::BadMessage, error.to_string()))?;
    let channel = ChannelArg::new(publish.channel.0)?;
    let draft = draft_of(publish.data, publish.event.as_ref().map(|name| &*name.0))?;
    Ok(Intent::Publish { channel, draft, reference })
}

fn write_server_event(event: &ServerEvent<'_>, out: &mut Vec<u8>) {
    ws::write_frame_with(out, Opcode::Text, |out| {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(event.name().as_bytes());
        out.extend_from_slice(b"\":");
        json::write(event, out);
        out.push(b'}');
    });
}

/// A request that was carried out is answered only if it has a reference; a refused one always is.
fn write_reply(reference: Option<&str>, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    if reference.is_none() && !matches!(outcome, Outcome::Pong(_) | Outcome::Refused(_)) {
        return;
    }
    ws::write_frame_with(out, Opcode::Text, |out| {
        out.push(b'{');
        if let Some(reference) = reference {
            out.extend_from_slice(b"\"ref\":");
            out.extend_from_slice(reference.as_bytes());
            out.push(b',');
        }
        match outcome {
            Outcome::Done => out.extend_from_slice(b"\"ok\":true"),
            Outcome::Subscribed(id) | Outcome::Published(id) => {
                out.extend_from_slice(b"\"ok\":true,\"id\":\"");
                id.write(out);
                out.push(b'"');
            }
            Outcome::Pong(value) => {
                out.extend_from_slice(b"\"pong\":");
                out.extend_from_slice(value.as_bytes());
            }
            Outcome::Refused(refusal) => refusal.write_member(out),
        }
        out.push(b'}');
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::event::{Draft, Kind};
    use crate::logic::protocol::ws::parse_server_frame;
    use crate::logic::reason::Reason;

    fn asked(text: &str) -> Intent<'_> {
        WsJson.interpret(Payload::Text(text))
    }

    fn refused(text: &str) -> (Code, String, Option<String>, bool) {
        match asked(text) {
            Intent::Refuse { refusal, reference, is_read } => {
                (refusal.code, refusal.message.into_owned(), reference.map(Into::into), is_read)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    fn channel(name: &str) -> ChannelArg<'_> {
        ChannelArg::new(name.into()).unwrap()
    }

    /// The text of the message that is appended, or nothing.
    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        let Some(frame) = parse_server_frame(&out).unwrap() else { return String::new() };
        assert_eq!((frame.opcode, frame.consumed), (Opcode::Text, out.len()));
        String::from_utf8(frame.payload.to_vec()).unwrap()
    }

    #[test]
    fn requests() {
        let reference = Some("[1, 2]");
        assert_eq!(
            asked(r#"{"subscribe":["a","b\u003a1"],"after":"5-1","ref":[1, 2]}"#),
            Intent::Subscribe {
                channels: vec![(channel("a"), Some(Id::new(5, 1))), (channel("b:1"), Some(Id::new(5, 1)))],
                reference
            }
        );
        assert_eq!(
            asked(r#"{"subscribe":{"b":"5-1","a":null,"c":"null"}}"#),
            Intent::Subscribe {
                channels: vec![
                    (channel("b"), Some(Id::new(5, 1))),
                    (channel("a"), None),
                    (channel("c"), Some(Id::MAX))
                ],
                reference: None
            }
        );
        assert_eq!(
            asked(r#"{"unsubscribe":["a",""]}"#),
            Intent::Unsubscribe { channels: vec!["a".into(), "".into()], reference: None }
        );
        assert_eq!(asked(r#"{"send": {"a" : 1},"ref":[1, 2]}"#), Intent::Send { data: r#"{"a" : 1}"#, reference });
        for token in [r#"{"token":"t"}"#, r#"{"refresh":"t"}"#] {
            assert_eq!(asked(token), Intent::Token { token: "t".into(), reference: None });
        }
        let draft = Draft { name: Some("e".into()), kind: Kind::Json, payload: b"[1]".to_vec().into() };
        assert_eq!(
            asked(r#"{"publish":{"channel":"c","data":[ 1 ],"event":"e"},"ref":"x"}"#),
            Intent::Publish { channel: channel("c"), draft, reference: Some("\"x\"") }
        );
        let pong = Notice::Reply { reference: Some("1"), outcome: Outcome::Pong("[ 7 ]") };
        assert_eq!(asked(r#"{"ping":[ 7 ],"ref":1}"#), Intent::Reply(pong));
    }

    #[test]
    fn names_are_borrowed_from_the_message() {
        let text = String::from(r#"{"subscribe":["plain"]}"#);
        let Intent::Subscribe { channels, .. } = asked(&text) else { panic!() };
        assert!(text.as_bytes().as_ptr_range().contains(&channels[0].0.as_str().as_ptr()));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        let (code, message, _, is_read) = refused("{");
        assert_eq!((code, is_read), (Code::BadMessage, false));
        assert!(message.contains("EOF"), "{message}");
        let (_, message, reference, _) = refused(r#"{"subscripe":["a"],"ref":[7]}"#);
        assert_eq!(reference.as_deref(), Some("[7]"), "an error carries the reference of its message");
        assert_eq!(
            message,
            "unknown field `subscripe`, expected one of `subscribe`, `unsubscribe`, `after`, `ref`, `ping`, `send`, \
             `publish`, `refresh`, `token` at line 1 column 12"
        );
        let (_, message, _, _) = refused(r#"{"subscribe":[1]}"#);
        assert_eq!(message, "invalid type: integer `1`, expected a string at line 1 column 15");
        let nothing = "the message asks for nothing; there are subscribe, unsubscribe, send, publish, refresh and ping";
        let (_, message, _, _) = refused(r#"{"subscribe":1}"#);
        assert!(message.contains("a list of channels, or an object with a position for each channel"), "{message}");
        assert_eq!(refused(r#"{"ref":1}"#), (Code::BadMessage, nothing.into(), Some("1".into()), true));
        assert_eq!(refused(r#"{"subscribe":["$figures"],"ref":1}"#).0, Code::BadChannel);
        let one = "a message asks for one thing; send one message for each";
        for two in [
            r#"{"subscribe":["a"],"unsubscribe":["b"],"ref":1}"#,
            r#"{"subscribe":["a"],"ping":null,"token":"t","ref":1}"#,
            r#"{"send":1,"publish":{"channel":"c","data":1},"ref":1}"#,
        ] {
            assert_eq!(refused(two), (Code::BadMessage, one.into(), Some("1".into()), true), "{two}");
        }
        let after = "\"after\" goes with \"subscribe\" alone";
        assert_eq!(refused(r#"{"unsubscribe":["a"],"after":"5-1"}"#).1, after);
        let after = "\"after\" does not go with a position for each channel";
        assert_eq!(refused(r#"{"subscribe":{"a":"5-1"},"after":"5-1"}"#).1, after);
        assert_eq!(refused(r#"{"publish":{"channel":"c"}}"#).0, Code::BadMessage);
        assert_eq!(refused(r#"{"publish":{"channel":"$c","data":1}}"#).0, Code::BadChannel);
        assert_eq!(refused(r#"{"publish":{"channel":"c","data":1,"event":"ringcast.x"}}"#).0, Code::BadField);
        let Intent::Refuse { refusal, is_read: false, .. } = WsJson.interpret(Payload::Binary(b"{}")) else { panic!() };
        assert_eq!(refusal, Refusal::new(Code::BadMessage, "messages in the JSON format are text"));
    }

    #[test]
    fn before_the_token_nothing_else_is_taken() {
        let words = WsJson.token_first();
        for text in [
            r#"{"subscribe":["a"],"ref":1}"#,
            r#"{"subscribe":["$a"],"ref":1}"#,
            r#"{"unsubscribe":["a"],"ref":1}"#,
            r#"{"send":1,"ref":1}"#,
            r#"{"publish":{"channel":"c","data":1},"ref":1}"#,
            r#"{"ref":1}"#,
        ] {
            let refusal = Refusal::new(Code::Unauthorized, "the first message must be {\"token\":\"…\"}");
            let expected = Intent::Refuse { refusal, reference: Some("1"), is_read: true };
            assert_eq!(asked(text).before_token(words), expected, "{text}");
        }
        for text in [r#"{"token":"t"}"#, r#"{"refresh":"t"}"#, r#"{"ping":1}"#, "{"] {
            assert_eq!(asked(text).before_token(words), asked(text), "{text}");
        }
    }

    #[test]
    fn the_first_words_name_the_position() {
        let welcome =
            Welcome { position: Id::new(5, 1), connection: &"0.1.2", padding_bytes: 9, retry_ms: 3, beat_ms: 30_000 };
        let hello = r#"{"hello":{"id":"5-1","conn":"0.1.2","beat_ms":30000}}"#;
        assert_eq!(text(|out| WsJson.welcome(&welcome, out)), hello);
    }

    #[test]
    fn replies() {
        let told = |reference: Option<&str>, outcome: Outcome<'_>| {
            text(|out| WsJson.notify(&Notice::Reply { reference, outcome }, out))
        };
        assert_eq!(told(Some("[1, 2]"), Outcome::Done), r#"{"ref":[1, 2],"ok":true}"#);
        assert_eq!(told(Some("1"), Outcome::Published(Id::new(5, 0))), r#"{"ref":1,"ok":true,"id":"5-0"}"#);
        assert_eq!(told(None, Outcome::Done), "");
        assert_eq!(told(None, Outcome::Published(Id::new(5, 0))), "");
        assert_eq!(told(None, Outcome::Pong("[ 7 ]")), r#"{"pong":[ 7 ]}"#);
        let refusal = Refusal::new(Code::Forbidden, "no");
        assert_eq!(told(None, Outcome::Refused(&refusal)), r#"{"error":{"code":"forbidden","message":"no"}}"#);
        let refusal = refusal.of_channels(vec!["a".into()]);
        assert_eq!(
            told(Some("1"), Outcome::Refused(&refusal)),
            r#"{"ref":1,"error":{"code":"forbidden","message":"no","channels":["a"]}}"#
        );
    }

    #[test]
    fn notices() {
        let told = |notice: Notice<'_>| text(|out| WsJson.notify(&notice, out));
        let (after, resumed) = (Id::new(1, 0), Id::new(2, 0));
        let gap = Notice::Gap { after, resumed, position: Some(resumed) };
        assert_eq!(told(gap), r#"{"gap":{"after":"1-0","resumed":"2-0"}}"#);
        assert_eq!(told(Notice::Ended { channel: "c\"" }), r#"{"end":{"channel":"c\""}}"#);
        assert_eq!(
            told(Notice::Unsubscribed { channel: "c", reason: "no" }),
            r#"{"unsubscribed":{"channel":"c","reason":"no"}}"#
        );
        assert_eq!(told(Notice::Beat), r#"{"beat":{}}"#);
        let draft = Draft { name: None, kind: Kind::Binary, payload: b"\0\xff".to_vec().into() };
        assert_eq!(told(Notice::Direct(&draft)), r#"{"data_b64":"AP8="}"#);
    }

    #[test]
    fn a_bye_comes_before_the_close_frame() {
        let mut out = Vec::new();
        WsJson.close(&Farewell::new(Reason::Kicked).in_words("signed out").with_retry(3000), &mut out);
        let bye = parse_server_frame(&out).unwrap().unwrap();
        assert_eq!(bye.payload, br#"{"bye":{"code":"kicked","reason":"signed out","retry_ms":3000}}"#);
        assert_eq!(out[bye.consumed..], *b"\x88\x14\x0f\xa3kicked: signed out");
        out.clear();
        WsJson.close(&Farewell::to_leaver(4321), &mut out);
        assert_eq!(out, b"\x88\x02\x10\xe1");
    }
}
