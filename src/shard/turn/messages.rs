//! WebSocket clients' messages, and the replies to them.

use arcstr::ArcStr;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::link::{HubMessage, Speaker};
use crate::logic::event::check_channel_name;
use crate::logic::id::Id;
use crate::logic::json;
use crate::logic::protocol::dialect::{Dialect, write_ws};
use crate::logic::protocol::feed::draft_of;
use crate::logic::protocol::ws::{self, Message, Opcode};

use super::super::access::Denied;
use super::super::connection::{Flags, State};
use super::super::context::Ending;
use super::super::counters::Reason;
use super::super::subscriptions::{check_room_for_channels, subscribe, unsubscribe_from};
use super::super::waiting::{Hold, Waiting};
use super::{Shard, ending, permission, requests};

/// A message in the JSON format. One message may hold one request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said<'a> {
    #[serde(default)]
    subscribe: Option<Vec<String>>,
    #[serde(default)]
    unsubscribe: Option<Vec<String>>,
    #[serde(default)]
    after: Option<String>,
    #[serde(borrow, rename = "ref", default)]
    reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ping: Option<&'a RawValue>,
    #[serde(borrow, default)]
    send: Option<&'a RawValue>,
    #[serde(borrow, default)]
    publish: Option<&'a RawValue>,
    #[serde(default)]
    refresh: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

/// `{"publish":{…}}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published<'a> {
    channel: String,
    #[serde(default)]
    event: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Why a request in a message is not carried out.
pub(super) struct Refusal {
    code: &'static str,
    message: String,
    /// The channels that the refusal is about.
    channels: Vec<String>,
}

/// A refusal that is about no channel.
pub(super) fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into(), channels: Vec::new() }
}

/// Reads frames, as long as replies find room.
pub(super) fn read(shard: &mut Shard, slot: u32, bytes: &mut [u8]) {
    let extra = shard.slots[slot].extra();
    let mut held = std::mem::take(&mut extra.input);
    let mut decoder = std::mem::take(&mut extra.decoder);
    let mut rest = bytes;
    if !held.is_empty() {
        held.extend_from_slice(rest);
        rest = &mut held;
    }
    let max_message = shard.cx.settings.config.websocket.max_message;
    while may_hear(shard, slot) {
        let consumed = match decoder.read(rest, max_message) {
            Ok(read) => {
                if let Some(message) = read.message {
                    hear(shard, slot, message);
                }
                read.consumed
            }
            Err(violation) => {
                let ending = Ending::new(Reason::Violation, violation.close_code, violation.reason);
                ending::end(shard, slot, &ending);
                break;
            }
        };
        if consumed == 0 {
            break;
        }
        rest = &mut rest[consumed..];
    }
    let connection = &mut shard.slots[slot];
    if connection.state == State::WebSocket {
        let extra = connection.extra();
        extra.input = rest.to_vec();
        extra.decoder = decoder;
        connection.tidy();
        if connection.out_waiting() > 0 {
            shard.slots.queue(slot);
        }
    }
}

/// Takes a message's share of the turn's budget, if the client may say something now.
fn may_hear(shard: &mut Shard, slot: u32) -> bool {
    let connection = &mut shard.slots[slot];
    if connection.state != State::WebSocket || !connection.holds().is_empty() {
        return false;
    }
    if connection.out_waiting() > shard.cx.settings.config.limits.replies {
        connection.hold(Hold::REPLIES);
        return false;
    }
    let may_hear = shard.reading.take();
    if !may_hear {
        shard.slots.read_later(slot);
    }
    may_hear
}

fn hear(shard: &mut Shard, slot: u32, message: Message<'_>) {
    let bytes = match &message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) | Message::Ping(bytes) => bytes.len(),
        Message::Pong | Message::Close(_) => 0,
    };
    if !shard.access.talk.allows(slot, bytes, &shard.cx.settings.talk, shard.cx.now) {
        let ending = Ending::new(Reason::Flooding, ws::CLOSE_POLICY, "too many messages in a second");
        return ending::end(shard, slot, &ending);
    }
    let connection = &mut shard.slots[slot];
    let is_echo = connection.flags.intersects(Flags::ECHO);
    // In the raw format there is no frame to reply in, and nothing that could be asked for.
    let is_json = connection.dialect == Dialect::WsJson;
    match message {
        Message::Pong => {}
        Message::Ping(payload) => ws::write_frame(connection.out(), Opcode::Pong, payload),
        Message::Close(code) => {
            // The answer carries the client's own code (RFC 6455 §5.5.1).
            let ending = Ending::new(Reason::Client, code.unwrap_or(ws::CLOSE_NORMAL), "");
            ending::end(shard, slot, &ending);
        }
        Message::Text(text) if is_echo => ws::write_frame(connection.out(), Opcode::Text, text.as_bytes()),
        Message::Binary(bytes) if is_echo => ws::write_frame(connection.out(), Opcode::Binary, bytes),
        Message::Text(text) => {
            shard.cx.counters.messages_in += 1;
            if is_json {
                hear_json(shard, slot, text);
                shard.carry_out();
            }
        }
        Message::Binary(_) => {
            shard.cx.counters.messages_in += 1;
            if is_json {
                reply(shard, slot, None, Err(refusal("bad_message", "messages in the JSON format are text")));
            }
        }
    }
}

/// Carries out what a message in the JSON format asks for.
fn hear_json(shard: &mut Shard, slot: u32, text: &str) {
    let said: Said<'_> = match serde_json::from_str(text) {
        Ok(said) => said,
        Err(error) => return reply(shard, slot, None, Err(refusal("bad_message", error.to_string()))),
    };
    let reference = said.reference.map(RawValue::get);
    if let Some(payload) = said.ping {
        write_ws(Opcode::Text, shard.slots[slot].out(), |out| {
            out.extend_from_slice(b"{\"pong\":");
            out.extend_from_slice(payload.get().as_bytes());
            out.push(b'}');
        });
        return;
    }
    if let Err(refused) = carry_out(shard, slot, &said, reference, text) {
        reply(shard, slot, reference, Err(refused));
    }
}

fn carry_out(
    shard: &mut Shard,
    slot: u32,
    said: &Said<'_>,
    reference: Option<&str>,
    text: &str,
) -> Result<(), Refusal> {
    let token = said.refresh.as_ref().or(said.token.as_ref());
    if shard.slots[slot].awaits_token() && token.is_none() {
        return Err(refusal("unauthorized", "the first message must be {\"token\":\"…\"}"));
    }
    if (said.send.is_some() || said.publish.is_some()) && !shard.upstream.has_room(&shard.cx) {
        shard.upstream.put_aside(&mut shard.slots, &mut shard.cx, slot, text);
        return Ok(());
    }
    if let Some(names) = &said.subscribe {
        // The backend is asked about nothing that would be refused anyway.
        check_wanted(shard, slot, names)?;
        let must_wait = permission::must_wait(shard, slot, names, None);
        if must_wait.map_err(|rejected| refusal(rejected.code, rejected.message))? {
            if let Some(Waiting::Backend(asking)) = shard.slots[slot].waiting_mut() {
                asking.message = Some(text.into());
            }
            return Ok(());
        }
    }
    if let Some(token) = token {
        return take_token(shard, slot, token, reference);
    }
    match said {
        Said { subscribe: Some(names), after, .. } => subscribe_more(shard, slot, names, after.as_deref(), reference),
        Said { unsubscribe: Some(names), .. } => {
            unsubscribe_some(shard, slot, names).map(|()| reply(shard, slot, reference, Ok(())))
        }
        Said { send: Some(data), .. } => send(shard, slot, data).map(|()| reply(shard, slot, reference, Ok(()))),
        Said { publish: Some(published), .. } => publish(shard, slot, published, reference),
        _ => Err(refusal(
            "bad_message",
            "the message asks for nothing; there are subscribe, unsubscribe, send, publish, refresh and ping",
        )),
    }
}

/// Carries out the message that a client has waited with, and reads on.
pub(super) fn hear_again(shard: &mut Shard, slot: u32) {
    let connection = &mut shard.slots[slot];
    let message = match connection.waiting_mut() {
        Some(Waiting::Decided(decided)) => decided.message.take(),
        Some(waiting @ Waiting::Upstream(_)) => match std::mem::take(waiting) {
            Waiting::Upstream(message) => Some(message),
            _ => None,
        },
        _ => None,
    };
    connection.release(Hold::UPSTREAM);
    let Some(message) = message else { return };
    hear_json(shard, slot, &message);
    shard.carry_out();
    let connection = &mut shard.slots[slot];
    if connection.is_decided() {
        // The decision was about this message alone.
        connection.take_waiting();
    }
    if connection.state == State::WebSocket && connection.holds().is_empty() {
        shard.slots.read_later(slot);
    }
    shard.slots.queue(slot);
}

/// Whether channels could be subscribed to by their names and their number.
fn check_wanted(shard: &Shard, slot: u32, names: &[String]) -> Result<(), Refusal> {
    for name in names {
        check_channel_name(name).map_err(|error| refusal("bad_channel", error.to_string()))?;
    }
    let subscriptions_max = shard.cx.settings.config.limits.subscriptions;
    if shard.slots[slot].subscriptions() + names.len() > subscriptions_max {
        let message = format!("a connection may have at most {subscriptions_max} channels");
        return Err(refusal("too_many", message));
    }
    Ok(())
}

/// Subscribes an open connection to more channels. The reply comes before the first event of these channels.
fn subscribe_more(
    shard: &mut Shard,
    slot: u32,
    names: &[String],
    after: Option<&str>,
    reference: Option<&str>,
) -> Result<(), Refusal> {
    let after: Option<Id> = match after {
        Some(text) => Some(text.parse().map_err(|error| refusal("bad_position", format!("after: {error}")))?),
        None => None,
    };
    let first = shard.slots[slot].subscriptions();
    check_room_for_channels(&shard.lanes, &shard.cx, names)
        .map_err(|rejected| refusal("channels", rejected.message))?;
    let mut refused = None;
    for name in names {
        match shard.access.may_subscribe(&shard.cx, slot, &shard.slots[slot], name) {
            Ok(()) => subscribe(&mut shard.slots, &mut shard.lanes, &mut shard.cx, slot, name),
            Err(denied) => {
                let refusal = refused.get_or_insert_with(|| refusal(denied.code(), denied.message(name)));
                refusal.channels.push(name.clone());
            }
        }
    }
    // The channels that are allowed stay subscribed.
    reply(shard, slot, reference, refused.map_or(Ok(()), Err));
    requests::start(shard, slot, first, after, 0);
    Ok(())
}

/// Takes a token within the connection: the one that it waits for, or the successor of the present one.
fn take_token(shard: &mut Shard, slot: u32, token: &str, reference: Option<&str>) -> Result<(), Refusal> {
    let wanted = permission::take_token(shard, slot, token).map_err(|(code, message)| refusal(code, message))?;
    reply(shard, slot, reference, Ok(()));
    if let Some(wanted) = wanted {
        // There was room for the channels when the connection came; other connections may have taken it since.
        match check_room_for_channels(&shard.lanes, &shard.cx, &wanted.channels) {
            Ok(()) => requests::begin_subscriptions(shard, slot, &wanted.channels, wanted.after),
            Err(rejected) => {
                let refused = Refusal { channels: wanted.channels, ..refusal(rejected.code, rejected.message) };
                reply(shard, slot, None, Err(refused));
            }
        }
    }
    for name in shard.access.no_longer_granted(&shard.cx, &shard.slots, &shard.lanes, slot) {
        let _ = unsubscribe_some(shard, slot, &[name.to_string()]);
        let connection = &mut shard.slots[slot];
        connection.dialect.write_unsubscribed(&name, "the new token does not allow it", connection.out());
    }
    Ok(())
}

/// Says that a channel which was named when the connection was opened is refused.
pub(super) fn refuse_channel(shard: &mut Shard, slot: u32, denied: Denied, channel: &str) {
    let refused = Refusal { channels: vec![channel.to_owned()], ..refusal(denied.code(), denied.message(channel)) };
    reply(shard, slot, None, Err(refused));
}

fn unsubscribe_some(shard: &mut Shard, slot: u32, names: &[String]) -> Result<(), Refusal> {
    let Shard { slots, lanes, cx, .. } = shard;
    for name in names {
        let channel = lanes.find(name);
        if !channel.is_some_and(|channel| unsubscribe_from(slots, lanes, cx, slot, channel)) {
            return Err(refusal("not_subscribed", format!("there is no subscription to {name:?}")));
        }
    }
    Ok(())
}

/// The client of a connection, as the backend knows it.
pub(super) fn speaker(shard: &Shard, slot: u32) -> Speaker {
    Speaker { connection: shard.slots.name(shard.cx.index, slot), user: shard.access.user(slot).cloned() }
}

/// Passes a client's message to the backend.
fn send(shard: &mut Shard, slot: u32, data: &RawValue) -> Result<(), Refusal> {
    if !shard.upstream.listening.messages {
        return Err(refusal("no_backend", "no backend listens to messages at the moment"));
    }
    let data = String::from_utf8(json::compact(data.get())).unwrap_or_default().into_boxed_str();
    let from = speaker(shard, slot);
    shard.cx.tell_hub(HubMessage::Said { from, data });
    Ok(())
}

/// Publishes for a client whose token allows it; the answer comes from the hub.
fn publish(shard: &mut Shard, slot: u32, said: &RawValue, reference: Option<&str>) -> Result<(), Refusal> {
    let wanted: Published<'_> =
        serde_json::from_str(said.get()).map_err(|error| refusal("bad_message", error.to_string()))?;
    check_channel_name(&wanted.channel).map_err(|error| refusal("bad_channel", error.to_string()))?;
    if !shard.access.may_publish(&shard.cx, slot, &wanted.channel) {
        let message = format!("this connection may not publish to {:?}", wanted.channel);
        return Err(Refusal { channels: vec![wanted.channel], ..refusal("forbidden", message) });
    }
    let draft = draft_of(wanted.data, wanted.event.as_deref()).map_err(|error| refusal(error.code, error.message))?;
    let from = speaker(shard, slot);
    let channel = ArcStr::from(wanted.channel);
    shard.cx.tell_hub(HubMessage::Publish { from, channel, draft, reference: reference.map(Into::into) });
    Ok(())
}

/// Replies with what became of a request, if the client wants to know or the request was refused.
pub(super) fn reply(shard: &mut Shard, slot: u32, reference: Option<&str>, result: Result<(), Refusal>) {
    if reference.is_none() && result.is_ok() {
        return;
    }
    shard.cx.counters.errors += u64::from(result.is_err());
    write_reply(shard, slot, reference, |out| match result {
        Ok(()) => out.extend_from_slice(b"\"ok\":true"),
        Err(Refusal { code, message, channels }) => {
            out.extend_from_slice(b"\"error\":{\"code\":");
            json::write_string(code, out);
            out.extend_from_slice(b",\"message\":");
            json::write_string(&message, out);
            if !channels.is_empty() {
                out.extend_from_slice(b",\"channels\":");
                json::write_strings(channels.iter().map(String::as_str), out);
            }
            out.push(b'}');
        }
    });
}

/// Replies to a client's publish with the event's id, if the client wants to know.
pub(super) fn reply_with_id(shard: &mut Shard, slot: u32, reference: Option<&str>, id: Id) {
    if reference.is_some() {
        write_reply(shard, slot, reference, |out| {
            out.extend_from_slice(b"\"ok\":true,\"id\":\"");
            id.write(out);
            out.push(b'"');
        });
    }
}

fn write_reply(shard: &mut Shard, slot: u32, reference: Option<&str>, members: impl FnOnce(&mut Vec<u8>)) {
    write_ws(Opcode::Text, shard.slots[slot].out(), |out| {
        out.push(b'{');
        if let Some(reference) = reference {
            out.extend_from_slice(b"\"ref\":");
            out.extend_from_slice(reference.as_bytes());
            out.push(b',');
        }
        members(out);
        out.push(b'}');
    });
}
