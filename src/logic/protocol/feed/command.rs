//! The commands of publishers and backends.

use std::collections::HashSet;

use arcstr::ArcStr;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::logic::event::{ChannelName, Draft, Kind, check_channel_name};
use crate::logic::id::Id;
use crate::logic::json;

use super::listen::{Answer, Listening};
use super::look::{ChannelFilter, ConnectionFilter, LOOK_LIMIT, LOOK_LIMIT_MAX};
use super::raw::{RawItem, RawLine};

/// The names of all commands, for the error about a name that is none.
const OPS: &str = "publish, batch, end, kick, unsubscribe, send, listen, authorized, presence, stats, history, channels, \
                   connections, connection, trace, untrace";

/// The command of one line, with its reference.
#[derive(Clone, Debug)]
pub struct Request {
    /// The line's `ref` as it was written, which the answer repeats. Without a `ref` only errors are answered.
    pub reference: Option<Box<RawValue>>,
    /// The command to carry out.
    pub command: Command,
}

/// A command of the feed, by its `op`.
#[derive(Clone, Debug)]
pub enum Command {
    /// Publishes one event to one or several channels.
    Publish(Publish),
    /// Publishes several events, all or none of them.
    Batch(Vec<Publish>),
    /// Ends a channel.
    End(ChannelName),
    /// Ends connections or subscriptions.
    Kick {
        /// The connections or subscriptions to end.
        target: KickTarget,
        /// The reason that the clients are told.
        reason: Box<str>,
    },
    /// Sends a message to one connection, or to all connections of a user.
    Send {
        /// The message's receiver.
        target: SendTarget,
        /// The message. Its name is not used.
        draft: Draft,
    },
    /// Has this connection listen to clients' messages, connects and disconnects, or to questions about clients.
    Listen(Listening),
    /// Answers a question about a client without a token.
    Authorized {
        /// The name of the client's connection.
        connection: Box<str>,
        /// The question's number.
        number: u32,
        /// The backend's decision.
        answer: Answer,
    },
    /// Asks for the users on a channel.
    Presence(ChannelName),
    /// Asks for the server's figures.
    Stats,
    /// Has this connection get a copy of every event of a channel.
    Trace(ChannelName),
    /// Ends a trace of this connection.
    Untrace(ChannelName),
    /// Asks for a list of channels.
    Channels(ChannelFilter),
    /// Asks for a list of connections.
    Connections(ConnectionFilter),
    /// Asks for all details of one connection, by its name.
    Connection(Box<str>),
    /// Asks for a channel's history.
    History {
        /// The channel whose history is shown.
        channel: ChannelName,
        /// The id after which events are shown; `None` for all events.
        after: Option<Id>,
        /// The most events to show.
        limit: usize,
    },
}

/// An event to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The channels to publish to.
    pub channels: Vec<ChannelName>,
    /// Whether the line has `channels` instead of `channel`, so that the answer is a list of ids.
    pub is_list: bool,
    /// The event's content.
    pub draft: Draft,
    /// The idempotency key: a publish with the same key within the window is answered with the first one's ids.
    pub key: Option<Box<str>>,
}

impl Command {
    /// Whether the command only looks: it changes nothing, and no client notices it.
    pub fn is_read_only(&self) -> bool {
        match self {
            Command::Stats | Command::History { .. } | Command::Presence(_) => true,
            Command::Channels(_) | Command::Connections(_) | Command::Connection(_) => true,
            Command::Trace(_) | Command::Untrace(_) => true,
            Command::Listen(what) => !what.messages && !what.authorize,
            _ => false,
        }
    }
}

/// The receiver of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendTarget {
    /// One connection, by its name.
    Connection(Box<str>),
    /// All connections of a user.
    User(ArcStr),
}

/// The connections or subscriptions that a kick ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KickTarget {
    /// One connection, by its name.
    Connection(Box<str>),
    /// All connections that are subscribed to a channel.
    Channel(ChannelName),
    /// All connections of a user.
    User(ArcStr),
    /// All connections that came with a token. The token is refused from now on.
    Token {
        /// The token's id (`jti`).
        id: ArcStr,
        /// The time at which the token expires, in seconds since 1970, if the line names it.
        until_s: Option<u64>,
    },
    /// A user's subscriptions to a channel. The user's connections stay open.
    Subscription {
        /// The user whose subscriptions end.
        user: ArcStr,
        /// The channel that the user is taken off.
        channel: ChannelName,
    },
}

/// The error with which a line is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedError {
    /// The code for programs.
    pub code: &'static str,
    /// A sentence for people, which names the place of the fault.
    pub message: String,
}

impl FeedError {
    /// An error of that code and message.
    pub fn new(code: &'static str, message: impl Into<String>) -> FeedError {
        FeedError { code, message: message.into() }
    }
}

/// A refused line, with its `ref` if that could be read.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The line's `ref` as it was written, if it could be read.
    pub reference: Option<Box<RawValue>>,
    /// The error to answer with.
    pub error: FeedError,
}

/// The most events of a `history` answer if the line names no limit.
const HISTORY_LIMIT: usize = 100;
const HISTORY_LIMIT_MAX: usize = 1000;
const EVENT_NAME_BYTES_MAX: usize = 200;
const KEY_BYTES_MAX: usize = 200;
const CHANNELS_PER_PUBLISH_MAX: usize = 10_000;
const REASON_BYTES_MAX: usize = 200;
const TOKEN_ID_BYTES_MAX: usize = 1024;

/// Parses one line as a command.
pub fn parse(line: &[u8]) -> Result<Request, Refused> {
    let raw: RawLine<'_> = match std::str::from_utf8(line).map(serde_json::from_str) {
        Ok(Ok(raw)) => raw,
        Ok(Err(error)) => return Err(Refused { reference: reference_of(line), error: explain(&error) }),
        Err(error) => {
            let message = format!("the line is no UTF-8 from byte {} on", error.valid_up_to() + 1);
            return Err(Refused { reference: None, error: FeedError::new("bad_json", message) });
        }
    };
    let reference = raw.reference.map(RawValue::to_owned);
    match command(raw) {
        Ok(command) => Ok(Request { reference, command }),
        Err(error) => Err(Refused { reference, error }),
    }
}

/// The `ref` of a line that could not be parsed otherwise.
fn reference_of(line: &[u8]) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct OnlyReference<'a> {
        #[serde(borrow, rename = "ref")]
        reference: Option<&'a RawValue>,
    }
    let only: OnlyReference<'_> = serde_json::from_slice(line).ok()?;
    only.reference.map(RawValue::to_owned)
}

fn explain(error: &serde_json::Error) -> FeedError {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or_default();
    let code = if error.is_data() { "bad_field" } else { "bad_json" };
    FeedError::new(code, format!("{message}, at byte {}", error.column()))
}

fn command(raw: RawLine<'_>) -> Result<Command, FeedError> {
    let Some(op) = &raw.op else {
        return Err(FeedError::new(
            "bad_field",
            "the field op is missing: it says what to do, as in \"op\":\"publish\"",
        ));
    };
    match &**op {
        "publish" => {
            let RawLine { channel, channels, data, data_b64, event, key, .. } = raw;
            publish(RawItem { channel, channels, data, data_b64, event, key }).map(Command::Publish)
        }
        "batch" => {
            let items =
                raw.items.ok_or_else(|| FeedError::new("bad_field", "a batch needs the field items, a list"))?;
            let read = |(index, item)| {
                publish(item)
                    .map_err(|error| FeedError { message: format!("items[{index}]: {}", error.message), ..error })
            };
            items.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Command::Batch)
        }
        "end" => channel(raw.channel.as_deref()).map(Command::End),
        "kick" => kick(&raw),
        "unsubscribe" => unsubscribe(&raw),
        "send" => {
            let target = match (raw.conn.as_deref(), raw.user.as_deref()) {
                (Some(name), None) => SendTarget::Connection(name.into()),
                (None, Some(user)) => SendTarget::User(user.into()),
                _ => return Err(FeedError::new("bad_field", "a send needs either conn, a connection's name, or user")),
            };
            Ok(Command::Send { target, draft: draft(raw.data, raw.data_b64.as_deref(), None)? })
        }
        "listen" => listen(&raw),
        "authorized" => authorized(&raw),
        "presence" => channel(raw.channel.as_deref()).map(Command::Presence),
        "stats" => Ok(Command::Stats),
        "trace" => channel(raw.channel.as_deref()).map(Command::Trace),
        "untrace" => channel(raw.channel.as_deref()).map(Command::Untrace),
        "channels" => channels(&raw).map(Command::Channels),
        "connections" => connections(&raw).map(Command::Connections),
        "connection" => match raw.conn.as_deref() {
            Some(name) => Ok(Command::Connection(name.into())),
            None => Err(FeedError::new("bad_field", "the field conn is missing")),
        },
        "history" => Ok(Command::History {
            channel: channel(raw.channel.as_deref())?,
            after: raw
                .after
                .as_deref()
                .map(str::parse)
                .transpose()
                .map_err(|error| FeedError::new("bad_field", format!("the field after: {error}")))?,
            limit: raw.limit.unwrap_or(HISTORY_LIMIT).min(HISTORY_LIMIT_MAX),
        }),
        _ => Err(FeedError::new("unknown_op", format!("there is no op {:?}; there are {OPS}", short(op)))),
    }
}

/// The beginning of a name, short enough for an error message.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(60)]
}

fn kick(raw: &RawLine<'_>) -> Result<Command, FeedError> {
    let target = match (&raw.conn, &raw.channel, &raw.user, &raw.jti) {
        (Some(name), None, None, None) => KickTarget::Connection((**name).into()),
        (None, Some(name), None, None) => KickTarget::Channel(channel(Some(name))?),
        (None, None, Some(user), None) => KickTarget::User((**user).into()),
        (None, None, None, Some(id)) => KickTarget::Token { id: (**id).into(), until_s: raw.expires },
        _ => return Err(FeedError::new("bad_field", "a kick needs one of conn, channel, user and jti")),
    };
    if raw.expires.is_some() && raw.jti.is_none() {
        return Err(FeedError::new("bad_field", "the field expires goes with jti"));
    }
    if raw.jti.as_ref().is_some_and(|id| id.len() > TOKEN_ID_BYTES_MAX) {
        return Err(FeedError::new("bad_field", format!("the field jti is longer than {TOKEN_ID_BYTES_MAX} bytes")));
    }
    Ok(Command::Kick { target, reason: reason(raw, "kicked")? })
}

/// The reason that clients are told; each connection that ends gets a copy, so it is short.
fn reason(raw: &RawLine<'_>, default: &str) -> Result<Box<str>, FeedError> {
    let reason = raw.reason.as_deref().unwrap_or(default);
    if reason.len() > REASON_BYTES_MAX {
        return Err(FeedError::new("bad_field", format!("the field reason is longer than {REASON_BYTES_MAX} bytes")));
    }
    Ok(reason.into())
}

fn channels(raw: &RawLine<'_>) -> Result<ChannelFilter, FeedError> {
    let limit = raw.limit.unwrap_or(LOOK_LIMIT).min(LOOK_LIMIT_MAX);
    match (raw.order.as_deref(), &raw.prefix, raw.cursor) {
        (None, None, None) | (Some("busiest"), None, None) => Ok(ChannelFilter::Busiest { limit }),
        (None | Some("none"), prefix, cursor) => {
            let prefix = prefix.as_deref().unwrap_or_default().into();
            Ok(ChannelFilter::Named { prefix, cursor: cursor.unwrap_or(0), limit })
        }
        _ => Err(FeedError::new("bad_field", "the field order is busiest, without prefix and cursor, or none")),
    }
}

fn connections(raw: &RawLine<'_>) -> Result<ConnectionFilter, FeedError> {
    let address = raw.address.as_deref().map(str::parse).transpose();
    Ok(ConnectionFilter {
        channel: raw.channel.as_deref().map(|name| channel(Some(name))).transpose()?,
        user: raw.user.as_deref().map(Into::into),
        address: address.map_err(|_| FeedError::new("bad_field", "the field address is no IP address"))?,
        slowest_first: match raw.order.as_deref() {
            None | Some("none") => false,
            Some("slowest") => true,
            Some(_) => return Err(FeedError::new("bad_field", "the field order is slowest or none")),
        },
        limit: raw.limit.unwrap_or(LOOK_LIMIT).min(LOOK_LIMIT_MAX),
    })
}

fn listen(raw: &RawLine<'_>) -> Result<Command, FeedError> {
    let what = raw.what.as_deref().unwrap_or_default();
    if let Some(other) = what.iter().find(|word| !matches!(&***word, "messages" | "connections" | "authorize")) {
        let message = format!("the field what knows messages, connections and authorize, not {:?}", short(other));
        return Err(FeedError::new("bad_field", message));
    }
    let has = |word: &str| what.iter().any(|other| other == word);
    Ok(Command::Listen(Listening {
        messages: has("messages"),
        connections: has("connections"),
        authorize: has("authorize"),
    }))
}

/// A backend's decision about a client: all channels that it asked for, none, or some of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Allow {
    All(bool),
    Some(Vec<String>),
}

fn authorized(raw: &RawLine<'_>) -> Result<Command, FeedError> {
    let (Some(connection), Some(number)) = (raw.conn.as_deref(), raw.ask) else {
        return Err(FeedError::new("bad_field", "an answer needs the fields conn and ask of its question"));
    };
    let allow = raw.allow.map(|allow| serde_json::from_str(allow.get()));
    let Some(Ok(allow)) = allow else {
        return Err(FeedError::new("bad_field", "the field allow must be true, false or a list of channels"));
    };
    let allowed = match allow {
        Allow::All(true) => None,
        Allow::All(false) => Some(Vec::new()),
        Allow::Some(channels) => Some(channels),
    };
    let user = raw.user.as_deref().filter(|user| !user.is_empty()).map(Into::into);
    Ok(Command::Authorized { connection: connection.into(), number, answer: Answer { allowed, user } })
}

fn unsubscribe(raw: &RawLine<'_>) -> Result<Command, FeedError> {
    let user = raw.user.as_deref().ok_or_else(|| FeedError::new("bad_field", "the field user is missing"))?;
    let target = KickTarget::Subscription { user: user.into(), channel: channel(raw.channel.as_deref())? };
    Ok(Command::Kick { target, reason: reason(raw, "unsubscribed")? })
}

fn channel(name: Option<&str>) -> Result<ChannelName, FeedError> {
    let name = name.ok_or_else(|| FeedError::new("bad_field", "the field channel is missing"))?;
    match check_channel_name(name) {
        Ok(()) => Ok(name.into()),
        Err(error) => Err(FeedError::new("bad_channel", format!("{error}: {:?}", short(name)))),
    }
}

/// The first channel that stands in a list for the second time.
fn first_twice(channels: &[ChannelName]) -> Option<&ChannelName> {
    // Most publishes are to one channel.
    if channels.len() < 2 {
        return None;
    }
    let mut seen = HashSet::with_capacity(channels.len());
    channels.iter().find(|name| !seen.insert(name.as_str()))
}

fn publish(item: RawItem<'_>) -> Result<Publish, FeedError> {
    let is_list = item.channels.is_some();
    let channels = match (item.channel, item.channels) {
        (Some(name), None) => vec![channel(Some(&name))?],
        (None, Some(names)) if names.is_empty() || names.len() > CHANNELS_PER_PUBLISH_MAX => {
            let message = format!("the field channels must hold 1 to {CHANNELS_PER_PUBLISH_MAX} names");
            return Err(FeedError::new("bad_field", message));
        }
        (None, Some(names)) => names.iter().map(|name| channel(Some(name))).collect::<Result<_, _>>()?,
        _ => return Err(FeedError::new("bad_field", "a publish needs either channel or channels")),
    };
    if let Some(twice) = first_twice(&channels) {
        return Err(FeedError::new("bad_field", format!("the field channels names {twice:?} twice")));
    }
    if item.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
        return Err(FeedError::new("bad_field", format!("the field key must have 1 to {KEY_BYTES_MAX} bytes")));
    }
    let draft = draft(item.data, item.data_b64.as_deref(), item.event.as_deref())?;
    Ok(Publish { channels, is_list, draft, key: item.key.as_deref().map(Into::into) })
}

/// The content of an event that a client publishes: JSON, and a name if the client gives one.
///
/// # Errors
/// If the name is no event name.
pub fn draft_of(data: &RawValue, name: Option<&str>) -> Result<Draft, FeedError> {
    draft(Some(data), None, name)
}

/// Checks that an event may have this name.
///
/// # Errors
/// The sentence that says why it may not.
pub fn check_event_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > EVENT_NAME_BYTES_MAX || name.contains(['\n', '\r', '\0']) {
        return Err(format!("the field event must be one line of 1 to {EVENT_NAME_BYTES_MAX} bytes"));
    }
    if name.starts_with("ringcast.") {
        return Err("event names that start with ringcast. are the server's own".into());
    }
    Ok(())
}

/// The kind and the payload of an event whose data is this JSON text. There is no payload if the text itself serves,
/// because it is compact.
///
/// # Errors
/// The sentence that says why the text is no data.
pub fn draft_of_json(data: &[u8]) -> Result<(Kind, Option<Vec<u8>>), String> {
    let value: &RawValue = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    let text = value.get();
    if text.starts_with('"') {
        let text: String = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return Ok((Kind::Text, Some(text.into_bytes())));
    }
    if json::has_lone_surrogate(text) {
        return Err("half of a surrogate pair stands alone".into());
    }
    let has_white_space = text.len() != data.len() || text.bytes().any(|byte| byte.is_ascii_whitespace());
    Ok((Kind::Json, has_white_space.then(|| json::compact(text))))
}

fn draft(data: Option<&RawValue>, base64: Option<&str>, name: Option<&str>) -> Result<Draft, FeedError> {
    if let Some(name) = name {
        check_event_name(name).map_err(|why| FeedError::new("bad_field", why))?;
    }
    let name = name.map(Into::into);
    let (kind, payload) = match (data.map(RawValue::get), base64) {
        (Some(text), None) if text.starts_with('"') => {
            let text: String = serde_json::from_str(text)
                .map_err(|error| FeedError::new("bad_field", format!("the field data: {error}")))?;
            (Kind::Text, text.into_bytes())
        }
        (Some(json), None) if json::has_lone_surrogate(json) => {
            return Err(FeedError::new("bad_field", "the field data: half of a surrogate pair stands alone"));
        }
        (Some(json), None) => (Kind::Json, json::compact(json)),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|error| FeedError::new("bad_field", format!("the field data_b64: {error}")))?;
            (Kind::Binary, bytes)
        }
        _ => return Err(FeedError::new("bad_field", "an event needs either data or data_b64")),
    };
    Ok(Draft { name, kind, payload: payload.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ok(line: &str) -> Request {
        parse(line.as_bytes()).unwrap()
    }

    fn error(line: &str) -> FeedError {
        parse(line.as_bytes()).unwrap_err().error
    }

    #[test]
    fn publishes() {
        let request = ok(r#"{"op":"publish","channel":"a","data":"x\ny","event":"e","ref":[1],"key":"k"}"#);
        assert_eq!(request.reference.as_deref().map(RawValue::get), Some("[1]"));
        let Command::Publish(publish) = request.command else { panic!() };
        assert_eq!((&*publish.channels[0], publish.key.as_deref()), ("a", Some("k")));
        assert_eq!((publish.draft.kind, &publish.draft.payload[..]), (Kind::Text, &b"x\ny"[..]));
        let payload = |line: &str| match ok(line).command {
            Command::Publish(publish) => (publish.draft.kind, publish.draft.payload.to_vec()),
            other => panic!("{other:?}"),
        };
        let json = payload(r#"{"op":"publish","channel":"a","data":{ "a b" : [1, "\" x"] } }"#);
        assert_eq!(json, (Kind::Json, br#"{"a b":[1,"\" x"]}"#.to_vec()));
        assert_eq!(payload(r#"{"op":"publish","channel":"a","data":null}"#), (Kind::Json, b"null".to_vec()));
        assert_eq!(payload(r#"{"op":"publish","channel":"a","data_b64":"AP8="}"#), (Kind::Binary, vec![0, 255]));
    }

    #[test]
    fn errors_say_where() {
        assert_eq!(error("{").code, "bad_json");
        assert!(error(r#"{"op":"publish",}"#).message.ends_with("at byte 17"));
        assert!(error(r#"{"op":"publish","chanel":"a"}"#).message.contains("chanel"));
        assert_eq!(error(r#"{"op":"fly"}"#).code, "unknown_op");
        assert!(error(r#"{"channel":"a"}"#).message.contains("op"));
        assert_eq!(error(r#"{"op":"publish","channel":"a b","data":1}"#).code, "bad_channel");
        assert!(error(r#"{"op":"publish","channel":"a"}"#).message.contains("data"));
        assert!(error(r#"{"op":"publish","channel":"a","data":1,"data_b64":"AA=="}"#).message.contains("either"));
        assert!(error(r#"{"op":"publish","channel":"a","data_b64":"!"}"#).message.contains("data_b64"));
        assert!(error(r#"{"op":"publish","channel":"a","data":1,"event":"a\nb"}"#).message.contains("one line"));
        let batch = error(r#"{"op":"batch","items":[{"channel":"a","data":1},{"channel":"$a","data":1}]}"#);
        assert!(batch.message.starts_with("items[1]: "), "{}", batch.message);
        assert_eq!(error(r#"{"op":"presence"}"#).code, "bad_field");
        assert!(error(r#"{"op":"listen","what":["all"]}"#).message.contains("all"));
        assert_eq!(error(r#"{"op":"send","data":1}"#).code, "bad_field");
        assert_eq!(error(r#"{"op":"send","conn":"0.0.1","user":"u","data":1}"#).code, "bad_field");
        assert_eq!(parse(b"\"\xff").unwrap_err().error.code, "bad_json");
        assert_eq!(parse(br#"{"ref":7,"op":"x"}"#).unwrap_err().reference.unwrap().get(), "7");
        assert_eq!(parse(br#"{"ref":7,"op":5}"#).unwrap_err().reference.unwrap().get(), "7");
    }

    /// Checks that a field may have `max` characters and no more.
    fn at_most(max: usize, line: impl Fn(&str) -> String) {
        let refusal =
            |size: usize| parse(line(&"x".repeat(size)).as_bytes()).map_err(|refused| refused.error.code).err();
        assert_eq!((refusal(1), refusal(max), refusal(max + 1)), (None, None, Some("bad_field")), "{}", line("…"));
    }

    #[test]
    fn fields_have_bounds() {
        at_most(200, |key| format!(r#"{{"op":"publish","channel":"a","data":1,"key":"{key}"}}"#));
        at_most(200, |name| format!(r#"{{"op":"publish","channel":"a","data":1,"event":"{name}"}}"#));
        at_most(10_000, |names| {
            let names: Vec<_> = names.char_indices().map(|(number, name)| format!("\"{name}{number}\"")).collect();
            format!(r#"{{"op":"publish","channels":[{}],"data":1}}"#, names.join(","))
        });
        at_most(200, |reason| format!(r#"{{"op":"kick","user":"u","reason":"{reason}"}}"#));
        at_most(200, |reason| format!(r#"{{"op":"unsubscribe","user":"u","channel":"c","reason":"{reason}"}}"#));
        at_most(1024, |id| format!(r#"{{"op":"kick","jti":"{id}"}}"#));
        for line in [
            r#"{"op":"publish","channel":"a","data":1,"key":""}"#,
            r#"{"op":"publish","channel":"a","data":1,"event":""}"#,
            r#"{"op":"publish","channel":"a","data":1,"event":"a\rb"}"#,
            r#"{"op":"publish","channel":"a","data":1,"event":"a\u0000"}"#,
            r#"{"op":"publish","channel":"a","data":1,"event":"ringcast.x"}"#,
            r#"{"op":"publish","channels":[],"data":1}"#,
            r#"{"op":"publish","channels":["a","b","a"],"data":1}"#,
            r#"{"op":"publish","channels":["a","a"],"data":1}"#,
            r#"{"op":"publish","channel":"a","data":["\ud800"]}"#,
            r#"{"op":"publish","channel":"a","channels":["b"],"data":1}"#,
            r#"{"op":"publish","data":1}"#,
        ] {
            assert_eq!(error(line).code, "bad_field", "{line}");
        }
        assert_eq!(error(r#"{"op":"publish","channels":["a","$b"],"data":1}"#).code, "bad_channel");
    }

    #[test]
    fn a_list_of_channels_is_answered_with_a_list() {
        let Command::Publish(one) = ok(r#"{"op":"publish","channel":"a","data":1}"#).command else { panic!() };
        assert!(!one.is_list && one.key.is_none() && one.draft.name.is_none());
        let Command::Publish(list) = ok(r#"{"op":"publish","channels":["a","b"],"data":1}"#).command else { panic!() };
        assert_eq!((list.is_list, list.channels), (true, vec!["a".into(), "b".into()]));
    }

    #[test]
    fn a_batch_is_a_list_of_publishes() {
        let line = r#"{"op":"batch","items":[{"channel":"a","data":1,"key":"k"},{"channels":["b"],"data_b64":"AA==","event":"e"}]}"#;
        let Command::Batch(items) = ok(line).command else { panic!() };
        let [first, second] = &items[..] else { panic!("{items:?}") };
        assert_eq!((&first.channels[..], first.key.as_deref(), first.is_list), (&["a".into()][..], Some("k"), false));
        assert_eq!((&second.channels[..], second.draft.name.as_deref()), (&["b".into()][..], Some("e")));
        assert!(error(r#"{"op":"batch"}"#).message.contains("items"));
    }

    #[test]
    fn commands_about_a_channel_name_it() {
        let channel = |line: &str| match ok(line).command {
            Command::End(channel) | Command::Presence(channel) => channel,
            Command::Trace(channel) | Command::Untrace(channel) => channel,
            other => panic!("{other:?}"),
        };
        for op in ["end", "presence", "trace", "untrace"] {
            assert_eq!(channel(&format!(r#"{{"op":"{op}","channel":"c"}}"#)), "c");
            assert!(error(&format!(r#"{{"op":"{op}"}}"#)).message.contains("channel"));
        }
        assert!(matches!(ok(r#"{"op":"end","channel":"c"}"#).command, Command::End(_)));
        assert!(matches!(ok(r#"{"op":"presence","channel":"c"}"#).command, Command::Presence(_)));
        assert!(matches!(ok(r#"{"op":"trace","channel":"c"}"#).command, Command::Trace(_)));
        assert!(matches!(ok(r#"{"op":"untrace","channel":"c"}"#).command, Command::Untrace(_)));
        assert!(matches!(ok(r#"{"op":"stats"}"#).command, Command::Stats));
    }

    #[test]
    fn sends_have_one_target() {
        let send = |line: &str| match ok(line).command {
            Command::Send { target, draft } => (target, draft.payload.to_vec()),
            other => panic!("{other:?}"),
        };
        let connection = SendTarget::Connection("0.0.1".into());
        assert_eq!(send(r#"{"op":"send","conn":"0.0.1","data":1}"#), (connection, b"1".to_vec()));
        assert_eq!(send(r#"{"op":"send","user":"u","data":"x"}"#), (SendTarget::User("u".into()), b"x".to_vec()));
        assert_eq!(error(r#"{"op":"send","user":"u"}"#).code, "bad_field");
    }

    #[test]
    fn history_is_asked_for_after_an_id_and_up_to_a_limit() {
        let history = |rest: &str| match ok(&format!(r#"{{"op":"history","channel":"c"{rest}}}"#)).command {
            Command::History { channel, after, limit } => (channel.to_string(), after, limit),
            other => panic!("{other:?}"),
        };
        assert_eq!(history(""), ("c".into(), None, 100));
        assert_eq!(history(r#","after":"5-1","limit":7"#), ("c".into(), Some(Id::new(5, 1)), 7));
        assert_eq!(history(r#","limit":1001"#).2, 1000);
        assert!(error(r#"{"op":"history","channel":"c","after":"x"}"#).message.contains("after"));
    }

    #[test]
    fn channels_are_shown_busiest_first_or_by_name() {
        let channels = |rest: &str| match ok(&format!(r#"{{"op":"channels"{rest}}}"#)).command {
            Command::Channels(filter) => filter,
            other => panic!("{other:?}"),
        };
        let named = |prefix: &str, cursor, limit| ChannelFilter::Named { prefix: prefix.into(), cursor, limit };
        assert_eq!(channels(""), ChannelFilter::Busiest { limit: 50 });
        assert_eq!(channels(r#","order":"busiest","limit":7"#), ChannelFilter::Busiest { limit: 7 });
        assert_eq!(channels(r#","limit":1001"#), ChannelFilter::Busiest { limit: 1000 });
        assert_eq!(channels(r#","order":"none""#), named("", 0, 50));
        assert_eq!(channels(r#","prefix":"a:""#), named("a:", 0, 50));
        assert_eq!(channels(r#","cursor":3,"limit":7"#), named("", 3, 7));
        assert_eq!(channels(r#","order":"none","prefix":"a:","cursor":3,"limit":1001"#), named("a:", 3, 1000));
        for rest in [r#""order":"busiest","prefix":"a""#, r#""order":"busiest","cursor":0"#, r#""order":"x""#] {
            assert_eq!(error(&format!(r#"{{"op":"channels",{rest}}}"#)).code, "bad_field", "{rest}");
        }
    }

    #[test]
    fn connections_are_shown_by_what_they_have_in_common() {
        let connections = |rest: &str| match ok(&format!(r#"{{"op":"connections"{rest}}}"#)).command {
            Command::Connections(filter) => filter,
            other => panic!("{other:?}"),
        };
        assert_eq!(connections(""), ConnectionFilter { limit: 50, ..ConnectionFilter::default() });
        assert_eq!(connections(r#","order":"none","limit":1001"#).limit, 1000);
        let all = ConnectionFilter {
            channel: Some("c".into()),
            user: Some("u".into()),
            address: Some("::1".parse().unwrap()),
            slowest_first: true,
            limit: 7,
        };
        let line = r#","channel":"c","user":"u","address":"::1","order":"slowest","limit":7"#;
        assert_eq!(connections(line), all);
        for rest in [r#""address":"x""#, r#""order":"busiest""#] {
            assert_eq!(error(&format!(r#"{{"op":"connections",{rest}}}"#)).code, "bad_field", "{rest}");
        }
        assert_eq!(error(r#"{"op":"connections","channel":"a b"}"#).code, "bad_channel");
        let one = ok(r#"{"op":"connection","conn":"0.1.2"}"#).command;
        assert!(matches!(one, Command::Connection(name) if &*name == "0.1.2"));
        assert!(error(r#"{"op":"connection"}"#).message.contains("conn"));
    }

    #[test]
    fn the_kinds_of_lines_to_listen_to_are_named_word_by_word() {
        let listen = |words: &str| match ok(&format!(r#"{{"op":"listen","what":[{words}]}}"#)).command {
            Command::Listen(what) => (what.messages, what.connections, what.authorize),
            other => panic!("{other:?}"),
        };
        assert_eq!(listen(""), (false, false, false));
        assert_eq!(listen(r#""messages""#), (true, false, false));
        assert_eq!(listen(r#""connections""#), (false, true, false));
        assert_eq!(listen(r#""authorize""#), (false, false, true));
        assert_eq!(listen(r#""authorize","messages","connections""#), (true, true, true));
        assert!(matches!(ok(r#"{"op":"listen"}"#).command, Command::Listen(what) if what == Listening::default()));
    }

    #[test]
    fn a_backend_allows_all_nothing_or_some_of_it() {
        let authorized =
            |rest: &str| match ok(&format!(r#"{{"op":"authorized","conn":"0.1.2","ask":7{rest}}}"#)).command {
                Command::Authorized { connection, number, answer } => {
                    assert_eq!((&*connection, number), ("0.1.2", 7));
                    answer
                }
                other => panic!("{other:?}"),
            };
        assert_eq!(authorized(r#","allow":true"#), Answer { allowed: None, user: None });
        assert_eq!(authorized(r#","allow":false"#).allowed, Some(vec![]));
        assert_eq!(authorized(r#","allow":["a"]"#).allowed, Some(vec!["a".into()]));
        assert_eq!(authorized(r#","allow":true,"user":"u""#).user.as_deref(), Some("u"));
        assert_eq!(authorized(r#","allow":true,"user":"""#).user, None);
        for rest in [
            r#""conn":"0.1.2","ask":7"#,
            r#""conn":"0.1.2","ask":7,"allow":5"#,
            r#""conn":"0.1.2","allow":true"#,
            r#""ask":7,"allow":true"#,
        ] {
            assert_eq!(error(&format!(r#"{{"op":"authorized",{rest}}}"#)).code, "bad_field", "{rest}");
        }
    }

    #[test]
    fn errors_show_a_short_part_of_long_names() {
        let message = error(&format!(r#"{{"op":"{}ü{}"}}"#, "x".repeat(59), "y".repeat(50))).message;
        assert!(message.contains(&format!("\"{}\"", "x".repeat(59))), "{message}");
        let message = error(&format!(r#"{{"op":"{}"}}"#, "x".repeat(61))).message;
        assert!(message.contains(&format!("\"{}\"", "x".repeat(60))), "{message}");
    }

    #[test]
    fn errors_name_the_byte() {
        assert!(parse(b"\"ab\xff").unwrap_err().error.message.ends_with("from byte 4 on"));
        assert!(error(r#"{"op":5}"#).message.ends_with(", at byte 7"), "{}", error(r#"{"op":5}"#).message);
    }

    #[test]
    fn a_client_publishes_json_with_or_without_a_name() {
        let data: &RawValue = serde_json::from_str("[1, 2]").unwrap();
        let draft = draft_of(data, Some("e")).unwrap();
        assert_eq!((draft.name.as_deref(), draft.kind, &draft.payload[..]), (Some("e"), Kind::Json, &b"[1,2]"[..]));
        assert!(draft_of(data, None).unwrap().name.is_none());
        assert_eq!(draft_of(data, Some("")).unwrap_err().code, "bad_field");
    }

    #[test]
    fn readers_change_nothing() {
        for line in [
            r#"{"op":"stats"}"#,
            r#"{"op":"presence","channel":"c"}"#,
            r#"{"op":"history","channel":"c"}"#,
            r#"{"op":"listen","what":["connections"]}"#,
            r#"{"op":"channels"}"#,
            r#"{"op":"connections"}"#,
            r#"{"op":"connection","conn":"0.1.2"}"#,
            r#"{"op":"trace","channel":"c"}"#,
            r#"{"op":"untrace","channel":"c"}"#,
        ] {
            assert!(ok(line).command.is_read_only(), "{line}");
        }
        for line in [
            r#"{"op":"publish","channel":"c","data":1}"#,
            r#"{"op":"kick","user":"u"}"#,
            r#"{"op":"send","user":"u","data":1}"#,
            r#"{"op":"end","channel":"c"}"#,
            r#"{"op":"listen","what":["connections","messages"]}"#,
            r#"{"op":"listen","what":["connections","authorize"]}"#,
            r#"{"op":"batch","items":[]}"#,
            r#"{"op":"unsubscribe","user":"u","channel":"c"}"#,
            r#"{"op":"authorized","conn":"0.1.2","ask":7,"allow":true}"#,
        ] {
            assert!(!ok(line).command.is_read_only(), "{line}");
        }
    }

    #[test]
    fn kicks_need_one_target() {
        let kick = |line: &str| match ok(line).command {
            Command::Kick { target, .. } => target,
            other => panic!("{other:?}"),
        };
        assert_eq!(kick(r#"{"op":"kick","conn":"0.1.2"}"#), KickTarget::Connection("0.1.2".into()));
        assert_eq!(kick(r#"{"op":"kick","channel":"c"}"#), KickTarget::Channel("c".into()));
        assert_eq!(error(r#"{"op":"kick"}"#).code, "bad_field");
        assert_eq!(error(r#"{"op":"kick","channel":"a b"}"#).code, "bad_channel");
        let reason = |line: &str| match ok(line).command {
            Command::Kick { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(&*reason(r#"{"op":"kick","user":"u"}"#), "kicked");
        assert_eq!(&*reason(r#"{"op":"kick","user":"u","reason":"x"}"#), "x");
        assert_eq!(&*reason(r#"{"op":"unsubscribe","user":"u","channel":"c"}"#), "unsubscribed");
        assert_eq!(kick(r#"{"op":"kick","user":"u"}"#), KickTarget::User("u".into()));
        assert_eq!(
            kick(r#"{"op":"kick","jti":"t","expires":7}"#),
            KickTarget::Token { id: "t".into(), until_s: Some(7) }
        );
        assert_eq!(
            kick(r#"{"op":"unsubscribe","user":"u","channel":"c"}"#),
            KickTarget::Subscription { user: "u".into(), channel: "c".into() }
        );
        assert_eq!(error(r#"{"op":"kick","user":"u","channel":"c"}"#).code, "bad_field");
        assert_eq!(error(r#"{"op":"kick","user":"u","expires":7}"#).code, "bad_field");
        assert_eq!(error(r#"{"op":"unsubscribe","channel":"c"}"#).code, "bad_field");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "[{}\":,a-z0-9\\[\\]]{0,60}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
        }
    }
}
